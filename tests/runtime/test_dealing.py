"""Who is given which cells, on machines of any speed: simulated, so that no clock decides."""

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from al_ray.runtime.failures import Failure, RetryPolicy
from al_ray.runtime.grid import TuneHooks
from al_ray.runtime.lane.channel import Assignment, Channel
from al_ray.runtime.lane.dealing import LOT_S, TOO_LATE, Card, Dealer
from al_ray.runtime.lane.exchange import ExchangeState, Lot
from al_ray.runtime.monitor import GridMonitor
from al_ray.runtime.tasks import CellEvent, CellFailed, CellFinished, CellStarted, CellTask
from tests.runtime.made import kind_of_event, made_cell


@dataclass
class Simulation:
    """Lanes that do so much cost a second, from when they come on.

    Attributes:
        ends: when each lane had ended its last cell.
        lots: the costs of what each lane was dealt, in order.
    """

    speeds: Mapping[int, float]
    come_at: Mapping[int, float] = field(default_factory=dict)
    ends: dict[int, float] = field(default_factory=dict)
    lots: dict[int, list[list[float]]] = field(default_factory=dict)

    def run(self, cards: Sequence[Card]) -> "Simulation":
        dealer, costs, order = Dealer(cards, len(self.speeds)), {card.key: card.cost for card in cards}, count()
        asking = [(self.come_at.get(lane, 0.0), next(order), lane) for lane in self.speeds]
        heapq.heapify(asking)
        dealt: list[str] = []
        while asking:
            now, _, lane = heapq.heappop(asking)
            keys = dealer.deal(lane, now)
            if keys is None:  # it asks again when another lane has asked
                heapq.heappush(asking, (asking[0][0], next(order), lane))
            elif keys:
                dealt += keys
                self.lots.setdefault(lane, []).append([costs[key] for key in keys])
                self.ends[lane] = now + sum(costs[key] for key in keys) / self.speeds[lane]
                heapq.heappush(asking, (self.ends[lane], next(order), lane))
        assert sorted(dealt) == sorted(costs), "a cell was lost or dealt twice"
        return self

    @property
    def end(self) -> float:
        return max(self.ends.values())

    def cost_of(self, lane: int) -> float:
        return sum(map(sum, self.lots.get(lane, [])))


def cards(*costs: float, is_quick: bool = False) -> list[Card]:
    return [Card(f"c{number}", cost, is_quick) for number, cost in enumerate(costs)]


def test_of_cells_that_take_their_time_the_longest_come_first_one_by_one() -> None:
    done = Simulation({0: 1.0, 1: 1.0}).run(cards(9, 5, 4, 3, 3))
    assert done.lots == {0: [[9], [3]], 1: [[5], [4], [3]]}
    assert done.end == 12


def test_lanes_of_unequal_machines_share_the_cells_by_their_speed() -> None:
    done = Simulation({0: 5.0, 1: 1.0}).run(cards(*[1.0] * 600))
    assert done.cost_of(0) == pytest.approx(500, abs=5)
    assert max(done.ends.values()) - min(done.ends.values()) <= 1.0


def test_a_slow_lane_lets_a_long_cell_be_that_the_others_would_have_done_before_it() -> None:
    """Cells of 60 s on the fast lane, 300 s on the slow one, which ends its first one when 60 s of work are left."""
    done = Simulation({0: 1.0, 1: 0.2}).run(cards(*[60.0] * 7))
    assert done.lots[1] == [[60.0]]
    assert done.end == 360


def test_a_slow_lane_takes_a_short_cell_in_place_of_a_long_one() -> None:
    done = Simulation({0: 1.0, 1: 0.2}).run(cards(10, 10, 10, 10, 10, 10, 10, 10, 10, 2))
    assert done.lots[1] == [[10.0], [2.0]]
    assert done.end <= 80


def test_a_lane_that_is_only_a_little_slower_is_never_left_without_cells() -> None:
    done = Simulation({0: 1.0, 1: 1.0 / TOO_LATE + 0.01}).run(cards(*[10.0] * 21))
    assert done.cost_of(1) >= 80
    assert max(done.ends.values()) - min(done.ends.values()) <= 10 * TOO_LATE


def test_a_lane_that_comes_late_takes_its_part_of_what_is_left() -> None:
    done = Simulation({0: 1.0, 1: 1.0}, come_at={1: 50.0}).run(cards(*[1.0] * 100))
    assert done.cost_of(1) == pytest.approx(25, abs=1)
    assert done.end == pytest.approx(75, abs=1)


def test_a_lane_that_never_comes_holds_nothing() -> None:
    dealer = Dealer(cards(1, 1, 1), n_lanes=8)
    assert [dealer.deal(0, now) for now in (0.0, 1.0, 2.0, 3.0)] == [["c0"], ["c1"], ["c2"], []]


@pytest.mark.parametrize("speeds", [{0: 1.0, 1: 1.0}, {0: 1.0, 1: 0.2}, {0: 4.0, 1: 2.0, 2: 1.0, 3: 0.5}])
def test_quick_cells_come_in_lots_of_a_few_seconds_that_shrink_and_lanes_end_together(speeds: dict[int, float]) -> None:
    done = Simulation(speeds).run(cards(*[1.0] * 1000, is_quick=True))
    for lane, lots in done.lots.items():
        assert len(lots[0]) == 1  # its speed is not known yet
        assert max(map(sum, lots)) <= max(LOT_S * speeds[lane], 1.0)
        assert len(lots[-1]) == 1
    slowest = 1 / min(speeds.values())
    assert max(done.ends.values()) - min(done.ends.values()) <= TOO_LATE * slowest
    assert done.end <= 1000 / sum(speeds.values()) + slowest


def test_a_lot_ends_before_a_cell_that_takes_its_time() -> None:
    dealer = Dealer([*cards(*[0.1] * 5, is_quick=True), Card("long", 50.0, is_quick=False)], n_lanes=1)
    assert dealer.deal(0, 0.0) == ["c0"]
    assert dealer.deal(0, 0.1) == ["c1", "c2", "c3", "c4"]
    assert dealer.deal(0, 0.5) == ["long"]


def test_a_lane_that_waits_for_a_faster_one_takes_the_cell_when_that_is_late() -> None:
    dealer = Dealer(cards(*[10.0] * 11), n_lanes=2)
    assert (dealer.deal(0, 0.0), dealer.deal(1, 0.0)) == (["c0"], ["c1"])
    assert [dealer.deal(0, float(now)) for now in range(1, 9)] == [[f"c{number}"] for number in range(2, 10)]
    assert dealer.deal(1, 8.5) is None  # the other one ends c9 in half a second, and would end c10 a second later
    assert dealer.deal(1, 20.0) == ["c10"]  # it did not
    assert dealer.deal(0, 21.0) == []


def test_cells_that_a_lane_gives_back_are_the_next() -> None:
    dealer = Dealer(cards(1, 1, 1), n_lanes=2)
    assert dealer.deal(0, 0.0) == ["c0"]
    dealer.put_back(0, cards(1)[:1])
    assert [dealer.deal(1, now) for now in (1.0, 2.0, 3.0)] == [["c0"], ["c1"], ["c2"]]


# ---- the exchange: when a lane is handed what it is dealt -----------------------------------------------------------


def play(script: Callable[[ExchangeState], Awaitable[Any]], n_cells: int, n_lanes: int) -> Any:
    tasks = [replace(made_cell(f"c{number}"), is_quick=True) for number in range(n_cells)]

    async def run() -> Any:
        exchange = ExchangeState()
        await exchange.lay_out(list(map(Card.of, tasks)), list(map(CellTask.to_json, tasks)), n_lanes)
        async with asyncio.timeout(60):
            return await script(exchange)

    return asyncio.run(run())


async def end_cells(exchange: ExchangeState, name: str, *keys: str) -> None:
    generation = await exchange.on_channel(name, Channel.enter)
    for key in keys:
        assignment = await exchange.on_channel(name, Channel.take, generation, {})
        assert assignment.task.key == key
        await exchange.on_channel(name, Channel.push, generation, [CellFinished(key)])


POLICY = RetryPolicy(0)


def test_a_lane_has_no_cell_before_its_workers_are_there_and_then_has_one_at_once() -> None:
    async def script(exchange: ExchangeState) -> Any:
        await exchange.open_lane(0, "zero", POLICY)
        before = await exchange.deal("zero", 0.0)
        await exchange.tell_ready("zero")
        held = await exchange.held(0)
        return before, held, await exchange.deal("zero", 0.0)

    assert play(script, 3, 2) == (None, ["c0"], Lot(1, are_quick=True))


def test_a_lane_whose_workers_never_come_is_let_go_when_nothing_is_left() -> None:
    async def script(exchange: ExchangeState) -> Any:
        for number, name in enumerate(("zero", "one")):
            await exchange.open_lane(number, name, POLICY)
        waiting = asyncio.create_task(exchange.deal("one", 50.0))
        await exchange.tell_ready("zero")
        return await waiting

    assert play(script, 1, 2) == Lot(0, are_quick=True)


def test_workers_that_never_come_fail_one_cell_and_the_others_are_given_back() -> None:
    async def script(exchange: ExchangeState) -> Any:
        await exchange.open_lane(0, "zero", POLICY)
        await exchange.end_group("zero", Failure("ImportError", "no module named 'x'", kind="lost"))
        lot = await exchange.deal("zero", 0.0)
        update = await exchange.on_channel("zero", Channel.wait_for_update, 1.0)
        await exchange.open_lane(1, "one", POLICY)
        await exchange.tell_ready("one")
        return lot, [(kind_of_event(event), event.key) for event in update.events], await exchange.held(1)

    assert play(script, 3, 2) == (Lot(1, are_quick=True), [("failed", "c0")], ["c1"])


def test_cells_that_a_lane_gives_back_go_to_another_one_but_for_those_that_have_ended() -> None:
    async def script(exchange: ExchangeState) -> Any:
        await exchange.open_lane(0, "zero", POLICY)
        await exchange.tell_ready("zero")
        await exchange.deal("zero", 0.0)
        await end_cells(exchange, "zero", "c0")
        await exchange.deal("zero", 0.0)
        held = await exchange.held(0)
        await exchange.give_back("zero", held[:1])
        await exchange.open_lane(1, "one", POLICY)
        await exchange.tell_ready("one")
        return held, await exchange.held(0), await exchange.held(1)

    held, kept, taken = play(script, 9, 2)
    assert held == [f"c{number}" for number in range(1, 1 + len(held))]
    assert (kept, taken) == ([], ["c2"])


def test_a_lane_that_takes_a_dead_ones_place_has_its_cells_but_for_those_that_ended() -> None:
    async def script(exchange: ExchangeState) -> Any:
        await exchange.open_lane(0, "zero", POLICY)
        await exchange.tell_ready("zero")
        await exchange.deal("zero", 0.0)
        await end_cells(exchange, "zero", "c0")
        assert (await exchange.deal("zero", 0.0)) == Lot(1, are_quick=True)
        orphan = await exchange.on_channel("zero", Channel.enter)
        await exchange.tell_ended(["c0"])
        await exchange.open_lane(0, "zero again", POLICY)
        told = await exchange.on_channel("zero", Channel.push, orphan, [CellFinished("c1")])
        held = await exchange.held(0)
        await exchange.tell_ready("zero again")
        await end_cells(exchange, "zero again", "c1")
        return told, held, await exchange.deal("zero again", 0.0)

    told, held, lot = play(script, 2, 1)
    assert not told, "what is left of the dead lane's workers is not heard any more"
    assert held == ["c1"]
    assert lot == Lot(1, are_quick=True)


def test_what_comes_late_of_a_former_lane_does_not_concern_the_one_with_its_number() -> None:
    async def script(exchange: ExchangeState) -> Any:
        await exchange.open_lane(0, "former", POLICY)
        late = asyncio.create_task(exchange.deal("former", 50.0))
        await asyncio.sleep(0)
        tasks = [made_cell("next class"), made_cell("another")]
        await exchange.lay_out(list(map(Card.of, tasks)), list(map(CellTask.to_json, tasks)), 1)
        await exchange.open_lane(0, "zero", POLICY)
        await exchange.end_group("former", Failure("WorkersDied", "the worker group ended", kind="lost"))
        await exchange.tell_ready("former")
        before = await exchange.held(0)
        await exchange.tell_ready("zero")
        await exchange.give_back("former", [])
        update = await exchange.on_channel("zero", Channel.wait_for_update, 0.0)
        return before, await exchange.held(0), update.events, await exchange.deal("former", 0.0), await late

    nothing = Lot(0, are_quick=True)
    assert play(script, 1, 1) == ([], ["next class"], (), nothing, nothing)


async def run_until_c3(exchange: ExchangeState, name: str) -> list[str]:
    """Run cells of a lane, all of which its worker holds, until it has c3 in hand; return what it was told to do."""
    generation, told, held = await exchange.on_channel(name, Channel.enter), list[str](), list[str]()
    is_computed = False
    while "c3" not in told:
        given = await exchange.on_channel(name, Channel.take, generation, {}, is_computed=is_computed)
        if is_computed := isinstance(given, Assignment):
            held.append(given.task.key)
            told.append(given.task.key)
        else:
            await exchange.on_channel(name, Channel.push, generation, list(map(CellFinished, held)))
            told.append("record")
    return told


def test_a_dead_lane_tells_the_cell_it_had_in_hand_and_the_next_one_records_what_is_held_before_it() -> None:
    async def script(exchange: ExchangeState) -> Any:
        await exchange.open_lane(0, "dies", POLICY)
        await exchange.tell_ready("dies")
        await exchange.deal("dies", 0.0)
        await end_cells(exchange, "dies", "c0")
        await exchange.deal("dies", 0.0)
        told, held = await run_until_c3(exchange, "dies"), await exchange.held(0)
        suspects = [await exchange.in_hand(0)]
        await exchange.open_lane(0, "dies before it has them", POLICY)
        suspects.append(await exchange.in_hand(0))
        await exchange.open_lane(0, "goes on", POLICY)
        await exchange.tell_ready("goes on")
        return held, told, suspects, await run_until_c3(exchange, "goes on")

    held, told, suspects, told_again = play(script, 9, 1)
    assert held == ["c1", "c2", "c3", "c4"]
    assert told == ["c1", "c2", "c3"]
    assert suspects == ["c3", "c3"]
    assert told_again == ["c1", "c2", "record", "c3"]


def test_of_a_lane_that_dies_too_often_the_cell_in_hand_is_given_up_and_not_one_that_it_held() -> None:
    events: list[CellEvent] = []
    monitor = GridMonitor(events.append)
    monitor.tell(CellStarted("c1"))

    async def script(exchange: ExchangeState) -> list[str]:
        class Answers:
            def call(self, method: Any, argument: Any) -> Any:
                try:
                    method(exchange, argument).send(None)
                except StopIteration as answer:  # none of these calls waits
                    return answer.value
                raise AssertionError(f"{method} waits")

        cells = [made_cell(f"c{number}") for number in range(9)]
        plan: Any = SimpleNamespace(policy=RetryPolicy(1), exchange=Answers(), workers=1)
        hooks, lane = TuneHooks(plan, cells, 1, monitor), SimpleNamespace(config={"lane": 0}, get_error=lambda: "gone")
        await exchange.open_lane(0, "dies", POLICY)
        await exchange.tell_ready("dies")
        await exchange.deal("dies", 0.0)
        await end_cells(exchange, "dies", "c0")
        await exchange.deal("dies", 0.0)
        monitor.tell(CellFinished("c0"))
        await run_until_c3(exchange, "dies")
        hooks.on_trial_recover(0, [], lane)
        assert not any(isinstance(event, CellFailed) for event in events)
        await exchange.open_lane(0, "dies again", POLICY)
        await exchange.tell_ready("dies again")
        await run_until_c3(exchange, "dies again")
        hooks.on_trial_recover(0, [], lane)
        return await exchange.held(0)

    assert play(script, 9, 1) == ["c1", "c2", "c4"]
    assert [event.key for event in events if isinstance(event, CellFailed)] == ["c3"]
