"""Dealing of a scoring's batches, without a cluster."""

import asyncio
import itertools
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_ray.runtime.cluster.resources import LaneResources
from al_ray.runtime.lane import trial
from al_ray.runtime.lane.dispenser import Dismissed, Dispenser, Share
from al_ray.runtime.lane.exchange import ExchangeState
from al_ray.runtime.lane.sharing import CLOSING_TIMEOUT_S, Pipeline, Room, pays

LONG_S = 50.0


def play(script: Callable[[Dispenser], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with asyncio.timeout(60):
            return await script(Dispenser())

    return asyncio.run(run())


async def begun(dispenser: Dispenser, costs: list[float], n_processes: int = 1) -> None:
    await dispenser.begin(1, costs, 1)
    await dispenser.open(1, "job", n_processes)


@given(
    costs=st.lists(st.floats(0.01, 100), min_size=1, max_size=300).map(lambda costs: sorted(costs, reverse=True)),
    takers=st.lists(st.integers(0, 4), min_size=1, max_size=50),
)
def test_every_batch_is_given_once_in_order_whoever_asks(costs: list[float], takers: list[int]) -> None:
    async def script(dispenser: Dispenser) -> list[Share]:
        await begun(dispenser, costs)
        shares: list[Share] = []
        for ticket, taker in enumerate(itertools.cycle(takers)):
            if sum(share.end - share.first for share in shares) == len(costs):
                break
            share = await (dispenser.take_beside(ticket, str(taker), LONG_S) if taker else dispenser.take(1, "rank 0"))
            assert isinstance(share, Share)
            shares.append(share)
        assert await dispenser.take(1, "rank 0") is None
        return shares

    shares = play(script)
    assert [share.first for share in shares] == [0, *(share.end for share in shares[:-1])]
    assert shares[-1].end == len(costs)


def test_shares_get_smaller_but_not_tiny_and_the_first_is_a_quarter_of_an_even_one() -> None:
    async def script(dispenser: Dispenser) -> list[Share]:
        await begun(dispenser, [1.0] * 6400, n_processes=9)
        return [share async for share in _all(dispenser)]

    sizes = [share.end - share.first for share in play(script)]
    assert sizes[0] == 6400 / 10 / 4
    assert sizes[:-1] == sorted(sizes[:-1], reverse=True)
    assert min(sizes[:-1]) == 6400 / 10 / 32


async def _all(dispenser: Dispenser) -> Any:
    while (share := await dispenser.take(1, "rank 0")) is not None:
        yield share


def test_a_ticket_asked_for_again_gets_its_old_share() -> None:
    async def script(dispenser: Dispenser) -> None:
        await begun(dispenser, [1.0] * 40)
        share = await dispenser.take_beside(7, "a", LONG_S)
        assert isinstance(share, Share)
        assert await dispenser.take_beside(7, "b", LONG_S) == share
        assert await dispenser.take_beside(8, "b", LONG_S) != share
        assert [given.first for given in await dispenser.given_beside(1)] == [0, share.end]

    play(script)


def test_others_wait_until_a_scoring_is_opened_for_them_and_again_until_the_next_one() -> None:
    async def script(dispenser: Dispenser) -> None:
        await dispenser.begin(1, [1.0] * 8, 1)
        waiting = asyncio.create_task(dispenser.take_beside(0, "a", LONG_S))
        assert await dispenser.take(1, "rank 0") == Share(1, 0, 1)
        assert not waiting.done()
        await dispenser.open(1, "job", 1)
        assert await waiting == Share(1, 1, 2, "job")
        await dispenser.end(1)
        assert await dispenser.take(1, "rank 0") is None
        waiting = asyncio.create_task(dispenser.take_beside(1, "a", LONG_S))
        await dispenser.begin(2, [1.0], 1)
        await dispenser.open(2, "next", 1)
        assert await waiting == Share(2, 0, 1, "next")

    play(script)


def test_a_ticket_of_a_pipeline_that_is_gone_takes_nothing() -> None:
    async def script(dispenser: Dispenser) -> None:
        waiting = asyncio.create_task(dispenser.take_beside(3, "dead", LONG_S))
        await asyncio.sleep(0)
        await dispenser.dismiss(4)
        await begun(dispenser, [1.0])
        assert await waiting == Dismissed()
        assert await dispenser.take_beside(4, "alive", LONG_S) == Share(1, 0, 1, "job")

    play(script)


def test_who_waits_too_long_takes_nothing_and_has_to_ask_again() -> None:
    async def script(dispenser: Dispenser) -> None:
        assert await dispenser.take_beside(0, "dead", 0.0) is None
        await begun(dispenser, [1.0])
        assert await dispenser.take_beside(0, "alive", LONG_S) == Share(1, 0, 1, "job")

    play(script)


class SlowToBegin:
    """An execution that, like one of Ray Data, cannot be ended before its first result; and the exchange it asks."""

    def __init__(self) -> None:
        self._current_executor: SlowToBegin | None = None
        self.began, self.is_dismissed, self.has_ended = threading.Event(), threading.Event(), threading.Event()

    def iter_batches(self, **options: object) -> Iterator[pa.Table]:
        self.began.set()
        assert self.is_dismissed.wait(LONG_S)  # as actors do that wait for a share
        self._current_executor = self
        assert self.has_ended.wait(LONG_S)
        yield from ()

    def shutdown(self, force: bool) -> None:
        self.has_ended.set()

    def call(self, method: object, name: str, of_dispenser: object, first_ticket: int) -> None:
        assert (method, of_dispenser, first_ticket) == (ExchangeState.on_dispenser, Dispenser.dismiss, 8)
        self.is_dismissed.set()


def test_a_pipeline_is_closed_also_before_its_first_result(monkeypatch: pytest.MonkeyPatch) -> None:
    slow: Any = SlowToBegin()
    monkeypatch.setattr(Pipeline, "_computed", lambda self: slow)
    pipeline = Pipeline(LaneResources(), Room(2, 1, 1, 0), slow, "dispenser", range(4, 8))
    assert slow.began.wait(LONG_S)
    pipeline.close()
    assert slow.has_ended.is_set()
    assert not pipeline._thread.is_alive()
    assert pipeline.failure is None


def test_closing_leaves_a_trial_time_to_wait_for_the_end_of_its_workers() -> None:
    assert CLOSING_TIMEOUT_S < trial.CLOSING_TIMEOUT_S


@pytest.mark.parametrize(
    ("mode", "alone_s", "is_open", "pays_off"),
    [
        ("lane", 1000.0, True, False),
        ("cluster", None, False, True),
        ("auto", None, False, False),
        ("auto", 14.0, False, False),
        ("auto", 16.0, False, True),
        ("auto", 0.5, True, False),
        ("auto", 2.0, True, True),
    ],
)
def test_sharing_pays_where_the_lane_alone_would_be_longer_than_what_it_costs(
    mode: Any, alone_s: float | None, is_open: bool, pays_off: bool
) -> None:
    assert pays(mode, alone_s, is_open=is_open) == pays_off


@pytest.mark.parametrize(("n_slots", "n_reserved", "n_actors"), [
    (2, 1, [1]),
    (2, 2, [0, 0]),
    (1, 2, [0, 0]),  # a node is gone
    (9, 2, [4, 3]),
    (4, 3, [1, 0, 0]),
    (16, 6, [4, 3, 3]),  # of two workers each
])  # fmt: skip
def test_what_is_free_beside_the_lanes_is_divided_among_them_and_never_more(
    n_slots: int, n_reserved: int, n_actors: list[int]
) -> None:
    n_lanes = len(n_actors)
    assert [Room(n_slots, n_reserved, n_lanes, lane).n_actors for lane in range(n_lanes)] == n_actors
    assert sum(n_actors) == max(n_slots - n_reserved, 0)


def test_nothing_is_free_beside_the_lanes_as_long_as_pools_are_prepared() -> None:
    async def script(exchange: ExchangeState) -> list[tuple[int, bool]]:
        await exchange.reserve(1)
        before = await exchange.reserved()
        await exchange.end_preparing()
        return [before, await exchange.reserved()]

    said = asyncio.run(script(ExchangeState()))
    assert said == [(1, True), (1, False)]
    assert [Room(4, n_reserved, 1, 0, is_preparing).n_actors for n_reserved, is_preparing in said] == [0, 3]
