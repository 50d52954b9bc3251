"""Exchange: the one small actor of a grid: cells to deal, channels and dispensers of its lanes, pools that are ready.

One process for all lanes, on the driver's node. Where it dies and the driver lives, the grid is started again.
"""

import asyncio
import contextlib
import functools
import time
import uuid
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

from al_ray.errors import one_line
from al_ray.runtime.failures import ExchangeLostError, Failure, RetryPolicy
from al_ray.runtime.lane.channel import Channel
from al_ray.runtime.lane.dealing import Card, Dealer
from al_ray.runtime.lane.dispenser import Dispenser
from al_ray.runtime.pool import Arrays, CellPool, EncodedRefs, PoolRefs
from al_ray.runtime.tasks import CellTask

CALLS_AT_ONCE = 10_000
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Lot:
    """What a lane was handed: how many cells, and whether all are quick."""

    n_cells: int
    are_quick: bool


@dataclass
class _Lane:
    """One lane.

    Attributes:
        channel: its name.
        held: keys of the cells that it has, in their order.
        suspect: key of the cell that the lane whose place it took had in hand when it died; empty where there is none.
        is_ready: whether its workers came.
        is_handed: whether the cells are in its channel; before that they are what it takes over of a dead lane.
        is_told: whether its trial knows.
    """

    channel: str
    held: list[str]
    suspect: str = ""
    is_ready: bool = False
    is_handed: bool = False
    is_told: bool = False


class ExchangeState:
    """What the exchange actor holds; plain asyncio."""

    def __init__(self) -> None:
        self._lanes: dict[int, _Lane] = {}
        self._channels: dict[str, Channel] = {}
        self._dispensers: dict[str, Dispenser] = {}
        self._n_workers, self._is_preparing = 0, True
        self._tasks: dict[str, bytes] = {}
        self._cards: dict[str, Card] = {}
        self._dealer = Dealer((), 0)
        self._dealt = asyncio.Condition()
        self._pools: dict[str, Any] = {}
        self._pool_came = asyncio.Condition()

    async def lay_out(self, cards: Sequence[Card], tasks: Sequence[bytes], n_lanes: int) -> None:
        """Take the cells of a resource class, in the order in which they are to run (driver).

        Args:
            cards: of the cells.
            tasks: the cells as JSON, one by one: opened they would take several times the memory.
            n_lanes: how many lanes may come.
        """
        self._lanes, self._dispensers, self._dealer = {}, {}, Dealer(cards, n_lanes)
        self._cards = {card.key: card for card in cards}
        self._tasks = {card.key: task for card, task in zip(cards, tasks, strict=True)}

    async def open_lane(self, number: int, name: str, policy: RetryPolicy) -> None:
        """Open the channel of a lane, or that of one that takes the place of a dead one and of what it had (trial)."""
        assert name not in self._channels, f"channel {name} opened twice"
        held: list[str] = []
        suspect = await self.in_hand(number)
        if (former := self._lanes.get(number)) is not None:
            # What is left of the dead one's workers may still compute, but tells nothing any more.
            await self._channels[former.channel].close()
            held = former.held
        self._channels[name] = Channel(policy)
        self._lanes[number] = _Lane(name, held, suspect)
        self._dealer.hold(number, [self._cards[key] for key in held], time.monotonic())

    async def tell_ready(self, name: str) -> None:
        """Hand a lane its first cells: its workers are there (worker)."""
        if (number := self._number_of(name)) is not None:
            lane = self._lanes[number]
            lane.is_ready = True
            if not lane.is_handed:
                await self._hand(number)
        await self._wake_waiting()

    async def deal(self, name: str, timeout_s: float) -> Lot | None:
        """Tell a lane what it was handed, or hand it its next cells; those before have ended (trial).

        Args:
            name: of its channel.
            timeout_s: how long is waited for its workers, and for a cell that it would end in time.

        Returns:
            what it has now, nothing where no cell is left, or for a lane whose place another has taken; None where it
            has to ask again.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            if (number := self._number_of(name)) is None:
                return Lot(0, are_quick=True)
            lane = self._lanes[number]
            if not self._waits(lane):
                if not lane.is_handed or lane.is_told:
                    await self._hand(number)
                    await self._wake_waiting()
                if lane.is_handed:
                    lane.is_told = True
                    return Lot(len(lane.held), all(self._cards[key].is_quick for key in lane.held))
            if (left_s := deadline - time.monotonic()) <= 0:
                return None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s), self._dealt:
                    await self._dealt.wait()

    async def end_group(self, name: str, failure: Failure) -> None:
        """Note that the workers of a lane are gone for good, unless another has taken its place (trial).

        Where they never came, a cell is the witness: its failure tells the driver why.
        """
        if (number := self._number_of(name)) is None:
            return
        lane = self._lanes[number]
        if not lane.is_handed:
            await self._hand(number)
            await self._wake_waiting()
        await self._channels[name].group_ended(failure)

    async def give_back(self, name: str, ended: Collection[str]) -> None:
        """Take back the cells of a lane whose workers cannot start, but for those that have ended (trial).

        Those of a lane whose place another has taken are that one's.
        """
        if (number := self._number_of(name)) is None:
            return
        lane = self._lanes[number]
        left, lane.held = [self._cards[key] for key in lane.held if key not in ended], []
        self._dealer.put_back(number, left)

    async def held(self, number: int) -> list[str]:
        """Return the keys of the cells that a lane was handed last, in their order (driver)."""
        return list(self._lanes[number].held) if number in self._lanes else []

    async def in_hand(self, number: int) -> str:
        """Return the key of the cell that a lane has in hand, or had when it died; empty where there is none (driver).

        Of a lane that died before it had what it took over it is that of the one before.
        """
        if number not in self._lanes:
            return ""
        lane = self._lanes[number]
        return await self._channels[lane.channel].in_hand() or lane.suspect

    async def tell_ended(self, keys: Collection[str]) -> None:
        """Note that cells have ended, as the driver knows: what a dead lane was told may not have come there."""
        for lane in self._lanes.values():
            lane.held = [key for key in lane.held if key not in keys]

    async def on_channel(
        self,
        name: str,
        method: Callable[Concatenate[Channel, P], Coroutine[Any, Any, T]],
        /,
        *args: P.args,
        **options: P.kwargs,
    ) -> T:
        """Call a method of a lane's channel."""
        return await method(self._channels[name], *args, **options)

    async def open_dispenser(self, name: str) -> None:
        """Open the dispenser of a lane's worker group, whose processes may ask for it before the group does."""
        self._dispensers.setdefault(name, Dispenser())

    async def close_dispenser(self, name: str) -> None:
        """Let go the dispenser of a worker group that has ended."""
        self._dispensers.pop(name, None)

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

    async def reserved(self) -> tuple[int, bool]:
        """Return how many workers the lanes of the grid have or will need, and whether pools are still prepared."""
        return self._n_workers, self._is_preparing

    def _number_of(self, name: str) -> int | None:
        """Return the number of the lane that has a channel; None where another one has its place by now."""
        return next((number for number, lane in self._lanes.items() if lane.channel == name), None)

    def _waits(self, lane: _Lane) -> bool:
        """Tell whether a lane has cells to wait for its workers with."""
        has_some = bool(self._dealer) or bool(lane.held)
        return has_some and not lane.is_ready and not lane.is_handed

    async def _hand(self, number: int) -> None:
        """Hand a lane what it has taken over of a dead one, else what it is dealt, if anything."""
        lane = self._lanes[number]
        if lane.is_handed or not lane.held:
            lane.is_handed, dealt = False, self._dealer.deal(number, time.monotonic())
            lane.held = dealt or []
            if dealt is None:
                return
        lane.is_handed, lane.is_told = True, False
        if lane.held:
            tasks = [CellTask.from_json(self._tasks[key]) for key in lane.held]
            await self._channels[lane.channel].assign(tasks, lane.suspect)

    async def _wake_waiting(self) -> None:
        async with self._dealt:
            self._dealt.notify_all()

    async def put_pool(self, key: str, refs: PoolRefs | EncodedRefs) -> None:
        """Make a prepared pool available, or an encoding of one (``pool key/encoding key``)."""
        async with self._pool_came:
            self._pools[key] = refs
            self._pool_came.notify_all()

    async def end_preparing(self) -> None:
        """Note that all pools of the grid are there: what prepared them is free (driver)."""
        self._is_preparing = False

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

    def lay_out(self, cells: Sequence[CellTask], n_lanes: int) -> None:
        """Lay out the cells of a resource class, in the order in which they are to run."""
        self.call(ExchangeState.lay_out, list(map(Card.of, cells)), list(map(CellTask.to_json, cells)), n_lanes)

    def open_lane(self, number: int, policy: RetryPolicy) -> "ChannelClient":
        """Open the channel of a lane."""
        name = uuid.uuid4().hex
        self.call(ExchangeState.open_lane, number, name, policy)
        return ChannelClient(self, name)

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
        """Call a method of the actor, such as ``call(ExchangeState.held, number)``."""
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
