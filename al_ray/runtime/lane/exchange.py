"""Exchange: the one small actor of a grid, with the channels and dispensers of its lanes and the pools that are ready.

One process for all lanes, on the driver's node. Where it dies and the driver lives, the grid is started again.
"""

import asyncio
import functools
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

from al_ray.errors import one_line
from al_ray.runtime.failures import ExchangeLostError, RetryPolicy
from al_ray.runtime.lane.channel import Channel
from al_ray.runtime.lane.dispenser import Dispenser
from al_ray.runtime.pool import Arrays, CellPool, EncodedRefs, PoolRefs

CALLS_AT_ONCE = 10_000
P = ParamSpec("P")
T = TypeVar("T")


class ExchangeState:
    """What the exchange actor holds; plain asyncio."""

    def __init__(self) -> None:
        self._channels: dict[str, Channel] = {}
        self._dispensers: dict[str, Dispenser] = {}
        self._n_workers = 0
        self._pools: dict[str, Any] = {}
        self._ended: set[str] = set()
        self._pool_came = asyncio.Condition()

    async def open_channel(self, lane: str, policy: RetryPolicy) -> None:
        """Open the channel of a new lane."""
        assert lane not in self._channels, f"lane {lane} opened twice"
        self._channels[lane] = Channel(policy)

    async def on_channel(
        self,
        lane: str,
        method: Callable[Concatenate[Channel, P], Coroutine[Any, Any, T]],
        /,
        *args: P.args,
        **options: P.kwargs,
    ) -> T:
        """Call a method of a lane's channel."""
        return await method(self._channels[lane], *args, **options)

    async def open_dispenser(self, name: str) -> None:
        """Open the dispenser of a lane's worker group, whose processes may ask for it before the group does."""
        self._dispensers.setdefault(name, Dispenser())

    async def on_dispenser(
        self,
        name: str,
        method: Callable[Concatenate[Dispenser, P], Coroutine[Any, Any, T]],
        /,
        *args: P.args,
        **options: P.kwargs,
    ) -> T:
        """Call a method of a dispenser."""
        return await method(self._dispensers[name], *args, **options)

    async def reserve(self, n_workers: int) -> None:
        """Note how many workers the lanes of the grid have or will need from now on (driver)."""
        self._n_workers = n_workers

    async def reserved(self) -> int:
        """Return how many workers the lanes of the grid have or will need."""
        return self._n_workers

    async def tell_ended(self, keys: Sequence[str]) -> None:
        """Note that cells have ended, as the driver knows: what a dead lane was told may not have come there."""
        self._ended.update(keys)

    async def left_of(self, keys: Sequence[str]) -> list[str]:
        """Return the cells of which it was not told that they have ended."""
        return [key for key in keys if key not in self._ended]

    async def put_pool(self, key: str, refs: PoolRefs | EncodedRefs) -> None:
        """Make a prepared pool available, or an encoding of one (``pool key/encoding key``)."""
        async with self._pool_came:
            self._pools[key] = refs
            self._pool_came.notify_all()

    async def take_pool(self, key: str) -> Any:
        """Wait until a pool or an encoding is prepared, and return its references."""
        async with self._pool_came:
            await self._pool_came.wait_for(lambda: key in self._pools)
            return self._pools[key]


@dataclass(frozen=True)
class Exchange:
    """The exchange seen from another process; every call waits for its answer.

    Raises:
        ExchangeLostError: at any call: the actor is dead.
    """

    actor: Any

    @classmethod
    def open(cls) -> "Exchange":
        """Start the actor on this process's node; it holds no CPU."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = {"num_cpus": 0, "max_concurrency": CALLS_AT_ONCE, "scheduling_strategy": here}
        return cls(ray.remote(ExchangeState).options(**options).remote())

    def close(self) -> None:
        """End the actor."""
        import ray

        ray.kill(self.actor)

    def open_channel(self, lane: str, policy: RetryPolicy) -> "ChannelClient":
        """Open the channel of a new lane."""
        self.call(ExchangeState.open_channel, lane, policy)
        return ChannelClient(self, lane)

    def fetch_pool(self, key: str) -> CellPool:
        """Wait for the tokens of a pool, and for its encodings when they are asked for."""

        @functools.cache
        def encoded(encoding: str) -> Arrays:
            arrays: Arrays = self.call(ExchangeState.take_pool, f"{key}/{encoding}").load()
            return arrays

        return CellPool(tables=self.call(ExchangeState.take_pool, key).tables(), encoded=encoded)

    def call(
        self,
        method: Callable[Concatenate[ExchangeState, P], Coroutine[Any, Any, T]],
        *args: P.args,
        **options: P.kwargs,
    ) -> T:
        """Call a method of the actor, such as ``call(ExchangeState.left_of, keys)``."""
        import ray
        from ray.exceptions import RayActorError

        try:
            answer: T = ray.get(getattr(self.actor, method.__name__).remote(*args, **options))
            return answer
        except RayActorError as error:
            raise ExchangeLostError(
                f"the process between the driver and its lanes died: {one_line(error)} Every recorded round is kept; "
                "the same command goes on from there."
            ) from error


@dataclass(frozen=True)
class ChannelClient:
    """The channel of one lane, as its trial and its workers reach it."""

    exchange: Exchange
    lane: str

    def call(
        self, method: Callable[Concatenate[Channel, P], Coroutine[Any, Any, T]], *args: P.args, **options: P.kwargs
    ) -> T:
        """Call a method of :class:`~al_ray.runtime.lane.channel.Channel`, such as ``call(Channel.assign, tasks)``."""
        return self.exchange.call(ExchangeState.on_channel, self.lane, method, *args, **options)
