"""Dealing of a scoring's batches, without a cluster."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_ray.runtime.lane.dispenser import Dispenser, Share
from al_ray.runtime.lane.sharing import Room, pays


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
        shares = []
        for ticket, taker in enumerate(itertools.cycle(takers)):
            if sum(share.end - share.first for share in shares) == len(costs):
                break
            share = await (dispenser.take_beside(ticket, str(taker)) if taker else dispenser.take(1, "rank 0"))
            assert share is not None
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
        share = await dispenser.take_beside(7, "a")
        assert await dispenser.take_beside(7, "b") == share
        assert await dispenser.take_beside(8, "b") != share
        assert [given.first for given in await dispenser.given_beside(1)] == [0, share.end]

    play(script)


def test_others_wait_until_a_scoring_is_opened_for_them_and_again_until_the_next_one() -> None:
    async def script(dispenser: Dispenser) -> None:
        await dispenser.begin(1, [1.0] * 8, 1)
        waiting = asyncio.create_task(dispenser.take_beside(0, "a"))
        assert await dispenser.take(1, "rank 0") == Share(1, 0, 1)
        assert not waiting.done()
        await dispenser.open(1, "job", 1)
        assert await waiting == Share(1, 1, 2, "job")
        await dispenser.end(1)
        assert await dispenser.take(1, "rank 0") is None
        waiting = asyncio.create_task(dispenser.take_beside(1, "a"))
        await dispenser.begin(2, [1.0], 1)
        await dispenser.open(2, "next", 1)
        assert await waiting == Share(2, 0, 1, "next")

    play(script)


def test_a_ticket_of_a_pipeline_that_is_gone_takes_nothing() -> None:
    async def script(dispenser: Dispenser) -> None:
        waiting = asyncio.create_task(dispenser.take_beside(3, "dead"))
        await asyncio.sleep(0)
        await dispenser.dismiss(4)
        await begun(dispenser, [1.0])
        assert await waiting is None
        assert await dispenser.take_beside(4, "alive") == Share(1, 0, 1, "job")

    play(script)


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


@pytest.mark.parametrize(("n_slots", "n_reserved", "n_lanes", "n_actors"), [
    (2, 1, 1, 1),
    (2, 2, 2, 0),
    (1, 2, 1, 0),  # a node is gone
    (9, 2, 2, 3),
    (4, 3, 3, 1),
])  # fmt: skip
def test_what_is_free_beside_the_lanes_is_divided_among_them(
    n_slots: int, n_reserved: int, n_lanes: int, n_actors: int
) -> None:
    assert Room(n_slots, n_reserved, n_lanes).n_actors == n_actors
