"""The one small actor of a grid: the channels of all its lanes and the pools that are ready.

One process for all lanes, on the driver's node. Where it dies and the driver lives, the grid is started again.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from al_ray.runtime.lane.channel import Channel
from al_ray.runtime.tasks import ExchangeLostError, brief

CALLS_AT_ONCE = 10_000


class ExchangeState:
    """What the exchange actor holds; plain asyncio."""

    def __init__(self) -> None:
        self._channels: dict[str, Channel] = {}
        self._pools: dict[str, Any] = {}
        self._pool_came = asyncio.Condition()

    async def ping(self) -> None:
        """Answer, as long as this actor lives."""

    async def open_channel(self, lane: str, attempts_allowed: int) -> None:
        """Open the channel of a new lane."""
        assert lane not in self._channels, f"lane {lane} opened twice"
        self._channels[lane] = Channel(attempts_allowed)

    async def channel(self, lane: str, method: str, *args: Any) -> Any:
        """Call a method of a lane's channel."""
        return await getattr(self._channels[lane], method)(*args)

    async def put_pool(self, key: str, refs: Any) -> None:
        """Make a prepared pool available."""
        async with self._pool_came:
            self._pools[key] = refs
            self._pool_came.notify_all()

    async def take_pool(self, key: str) -> Any:
        """Wait until a pool is prepared and return its references."""
        async with self._pool_came:
            await self._pool_came.wait_for(lambda: key in self._pools)
            return self._pools[key]


@dataclass(frozen=True)
class Exchange:
    """The exchange seen from another process; every call waits for its answer."""

    actor: Any

    @classmethod
    def open(cls) -> "Exchange":
        """Start the actor on this process's node; it holds no CPU."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = {"num_cpus": 0, "max_concurrency": CALLS_AT_ONCE, "scheduling_strategy": here}
        return cls(ray.remote(ExchangeState).options(**options).remote())

    def ask(self, method: str, *args: Any) -> Any:
        """Call a method of the actor.

        Raises:
            ExchangeLostError: it is dead.
        """
        import ray
        from ray.exceptions import RayActorError

        try:
            return ray.get(getattr(self.actor, method).remote(*args))
        except RayActorError as error:
            raise ExchangeLostError(
                f"the process between the driver and its lanes died: {brief(error)} Every recorded round is kept; "
                "the same command goes on from there."
            ) from error

    def close(self) -> None:
        """End the actor."""
        import ray

        ray.kill(self.actor)


@dataclass(frozen=True)
class ChannelLine:
    """The line of one lane to its channel, for its trial and its workers."""

    exchange: Exchange
    lane: str

    def ask(self, method: str, *args: Any) -> Any:
        """Call a method of :class:`~al_ray.runtime.lane.channel.Channel`."""
        return self.exchange.ask("channel", self.lane, method, *args)
