import asyncio
import errno
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from al_ray.errors import RoundError, StorageError
from al_ray.model.worker import SingleProcess, Worker
from al_ray.runtime.cluster.resources import LaneResources
from al_ray.runtime.driver import run_local
from al_ray.runtime.failures import ExchangeLostError, Failed, Failure, RetryPolicy, lane_survives
from al_ray.runtime.lane import worker as lane_worker
from al_ray.runtime.lane.channel import Assignment, Channel, RecordHeld
from al_ray.runtime.lane.sharing import SharingPlan
from al_ray.runtime.monitor import GridMonitor
from al_ray.runtime.pool import CellPool, PoolSource
from al_ray.runtime.tasks import (
    MAX_HELD_BYTES,
    CellEvent,
    CellFailed,
    CellFinished,
    CellStarted,
    CellTask,
    HeldCells,
    ReportRound,
    RoundEnded,
    by_workers,
)
from tests.runtime import lane_fakes as fakes
from tests.runtime.made import kind_of_event, made_cell

DIED = Failure("WorkersDied", "gone", kind="lost")
ROUND, FINISHED = RoundEnded("a", 0, 20, {"accuracy": 0.5}), CellFinished("a")


class OutOfMemoryError(RuntimeError):
    """Named as torch names it."""


def task(key: str = "a", pool_key: str = "p", workers: int = 1, *, is_quick: bool = False) -> CellTask:
    return replace(made_cell(key, pool_key, workers), is_quick=is_quick)


def kinds(events: Iterable[CellEvent]) -> list[str]:
    return [kind_of_event(event) for event in events]


def play(script: Callable[[Channel], Awaitable[Any]], retries: int = 1) -> Any:
    async def run() -> Any:
        async with asyncio.timeout(60):
            return await script(Channel(RetryPolicy(retries)))

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("error", "world", "survives"),
    [
        (ZeroDivisionError("x"), 1, True),
        (ZeroDivisionError("x"), 2, False),
        (RoundError("x"), 2, True),
        (OutOfMemoryError("x"), 1, False),
        (MemoryError(), 1, False),
        (RuntimeError("CUDA error: device-side assert triggered"), 1, False),
        (ExchangeLostError("it died"), 1, False),
    ],
)
def test_a_group_goes_on_only_after_errors_that_leave_it_whole(error: Exception, world: int, survives: bool) -> None:
    assert lane_survives(error, world) is survives


@pytest.mark.parametrize(
    ("what", "n_tries"),
    [("workers", 3), ("lane", 3), ("exchange", 3), ("Ray", 3), ("lane start", 1), ("Ray start", 2)],
)
def test_one_policy_says_how_often_anything_is_tried_without_a_round_between(what: Failed, n_tries: int) -> None:
    policy = RetryPolicy(retries=2)
    assert [policy.tries_again(what, n) for n in range(1, 5)] == [n < n_tries for n in range(1, 5)]
    assert policy.restarts(what) == n_tries - 1


def test_small_groups_come_first_and_order_is_kept_within_a_class() -> None:
    classes = by_workers([task("a", workers=2), task("b"), task("c", workers=2), task("d")])
    assert [(workers, [cell.key for cell in cells]) for workers, cells in classes.items()] == [
        (1, ["b", "d"]),
        (2, ["a", "c"]),
    ]


async def run_next(channel: Channel, generation: int, *events: CellEvent) -> Assignment | None:
    assignment = await channel.take(generation, {})
    await channel.push(generation, events)
    return assignment


def test_a_lane_goes_through_its_cells_without_its_trial() -> None:
    async def script(channel: Channel) -> Any:
        await channel.assign([task("a"), task("b"), task("c")])
        generation = await channel.enter()
        await run_next(channel, generation, RoundEnded("a", 0, 0, {}), CellFinished("a"))
        await run_next(channel, generation, CellFailed("b", DIED, attempts=1))
        under_way = await channel.wait_for_update(1)
        await run_next(channel, generation, CellFinished("c"))
        return under_way, await channel.wait_for_update(1)

    under_way, last = play(script)
    assert [(kind_of_event(event), event.key) for event in under_way.events] == [
        ("started", "a"), ("round", "a"), ("finished", "a"), ("started", "b"), ("failed", "b"),
    ]  # fmt: skip
    assert not under_way.is_idle
    assert [(kind_of_event(event), event.key) for event in last.events] == [("started", "c"), ("finished", "c")]
    assert last.is_idle


def test_a_lost_group_costs_the_cell_in_hand_an_attempt_and_the_next_ones_none() -> None:
    async def script(channel: Channel) -> Any:
        await channel.assign([task("a"), task("b")])
        await channel.take(await channel.enter(), {})
        await channel.group_ended(DIED)
        await channel.take(await channel.enter(), {})
        await channel.group_ended(DIED)
        after = await channel.take(await channel.enter(), {})
        return after, await channel.wait_for_update(1)

    after, update = play(script)
    assert [(kind_of_event(event), event.key) for event in update.events] == [
        ("started", "a"), ("started", "a"), ("failed", "a"), ("started", "b"),
    ]  # fmt: skip
    assert update.events[2].attempts == 2
    assert after == Assignment(task("b"), 1)
    assert update.events[3] == CellStarted("b", 1)


def test_a_lane_that_cannot_start_fails_one_cell_and_gives_the_others_back() -> None:
    async def script(channel: Channel, end: Callable[[Channel], Awaitable[None]]) -> Any:
        await channel.assign([task("a"), task("b")])
        await end(channel)
        return await channel.wait_for_update(1)

    for end in (lambda channel: channel.group_ended(DIED), lambda channel: channel.refuse(DIED)):
        update = play(lambda channel, end=end: script(channel, end), retries=8)  # type: ignore[misc]
        assert [(kind_of_event(event), event.key) for event in update.events] == [("failed", "a")]
        assert update.is_idle


def ends(*keys: str) -> list[CellEvent]:
    """What is told of held cells once they are recorded."""
    return [event for key in keys for event in (RoundEnded(key, 0, 0, {}), CellFinished(key))]


def test_a_held_cell_frees_the_lane_and_its_end_is_told_later() -> None:
    async def script(channel: Channel) -> Any:
        await channel.assign([task("a"), task("b")])
        generation = await channel.enter()
        taken = [await channel.take(generation, {}), await channel.take(generation, {}, is_computed=True)]
        taken.append(await channel.take(generation, {}, is_computed=True))
        before = await channel.wait_for_update(1)
        assert await channel.push(generation, ends("a", "b"))
        return taken, before, await channel.wait_for_update(1)

    taken, before, after = play(script)
    assert taken == [Assignment(task("a"), 1), Assignment(task("b"), 1), RecordHeld()]
    assert kinds(before.events) == ["started", "started"]
    assert not before.is_idle
    assert kinds(after.events) == ["round", "finished"] * 2
    assert after.is_idle


def test_cells_that_a_lost_group_held_are_run_again_first_and_without_blame() -> None:
    async def script(channel: Channel) -> Any:
        await channel.assign([task(key) for key in "abcd"])
        generation = await channel.enter()
        await channel.take(generation, {})
        await channel.take(generation, {}, is_computed=True)
        await channel.take(generation, {}, is_computed=True)  # a and b are held, c is in hand
        generation = await channel.enter()
        taken = [await channel.take(generation, {})]
        taken += [await channel.take(generation, {}, is_computed=True) for _ in range(2)]
        await channel.push(generation, ends("a", "b"))
        taken.append(await channel.take(generation, {}))
        return taken, await channel.wait_for_update(1)

    taken, update = play(script, retries=1)
    # What killed the group may be c: what is held is recorded before it is tried again.
    assert taken == [Assignment(task("a"), 2), Assignment(task("b"), 2), RecordHeld(), Assignment(task("c"), 2)]
    blamed = [event.failures_since_progress for event in update.events if isinstance(event, CellStarted)]
    assert blamed == [0, 0, 0, 0, 0, 1]


async def serve_until_death(channel: Channel) -> None:
    """Do what a worker does that holds every cell, and dies of one that is called deadly."""
    generation, held, is_computed = await channel.enter(), list[str](), False
    while (found := await channel.take(generation, {}, is_computed=is_computed)) is not None:
        is_computed = False
        if isinstance(found, RecordHeld):
            await channel.push(generation, ends(*held))
            held = []
        elif found.task.key == "deadly":
            return
        else:
            held.append(found.task.key)
            is_computed = True


@pytest.mark.parametrize("retries", [0, 1, 3])
@pytest.mark.parametrize("keys", [("a", "b", "deadly"), ("a", "deadly", "b"), ("deadly", "a")])
def test_a_deadly_cell_among_held_ones_fails_alone(keys: tuple[str, ...], retries: int) -> None:
    async def script(channel: Channel) -> Any:
        await channel.assign([task(key) for key in keys])
        news = asyncio.create_task(channel.wait_for_update(60, gather_s=60))
        while not news.done():
            worker = asyncio.create_task(serve_until_death(channel))
            await asyncio.wait({worker, news}, return_when=asyncio.FIRST_COMPLETED)
            worker.cancel()
        return await news

    update = play(script, retries=retries)
    ended = [(kind_of_event(event), event.key) for event in update.events if kind_of_event(event) != "started"]
    innocent = [key for key in keys if key != "deadly"]
    assert sorted(ended) == sorted(
        [("failed", "deadly"), *((what, k) for k in innocent for what in ("round", "finished"))]
    )
    assert update.is_idle


def test_a_cell_that_is_lost_again_and_again_before_it_is_recorded_fails() -> None:
    async def script(channel: Channel) -> Any:
        await channel.assign([task()])
        for _ in range(3):
            generation = await channel.enter()
            await channel.take(generation, {})
            await channel.take(generation, {}, is_computed=True)
        waiting = asyncio.create_task(channel.take(await channel.enter(), {}))
        update = await channel.wait_for_update(1)
        waiting.cancel()
        return update, await channel.wait_for_update(0.01)

    first, rest = play(script, retries=1)
    assert "failed" in kinds([*first.events, *rest.events])


def test_an_orphan_tells_no_end_of_cells_that_are_run_again() -> None:
    async def script(channel: Channel) -> Any:
        await channel.assign([task("a"), task("b")])
        orphan = await channel.enter()
        await channel.take(orphan, {})
        await channel.take(orphan, {}, is_computed=True)
        again = await channel.take(await channel.enter(), {})
        return again, await channel.push(orphan, ends("a")), await channel.take(orphan, {}, is_computed=True)

    assert play(script) == (Assignment(task("a"), 2), False, None)


def test_a_closed_lane_begins_none_of_its_other_cells() -> None:
    async def script(channel: Channel) -> Any:
        await channel.assign([task("a"), task("b")])
        generation = await channel.enter()
        await channel.take(generation, {})
        await channel.close()
        return await channel.push(generation, [FINISHED]), await channel.take(generation, {})

    assert play(script) == (False, None)


def test_news_are_gathered_but_not_beyond_the_end_of_the_last_cell() -> None:
    async def script(channel: Channel) -> Any:
        await channel.assign([task()])
        generation = await channel.enter()
        await channel.take(generation, {})
        news = asyncio.create_task(channel.wait_for_update(3600, gather_s=3600))
        for index in range(3):
            await asyncio.sleep(0)
            assert not news.done()
            await channel.push(generation, [RoundEnded("a", index, 0, {})])
        await channel.push(generation, [FINISHED])
        return await news

    assert kinds(play(script).events) == ["started", "round", "round", "round", "finished"]


def test_a_cell_goes_through_the_channel_and_its_events_come_back_in_order() -> None:
    async def script(channel: Channel) -> list[CellEvent]:
        generation = await channel.enter()
        waiting = asyncio.create_task(channel.take(generation, {"pid": 7}))
        await channel.assign([task()])
        assert await waiting == Assignment(task(), 1)
        assert await channel.push(generation, [ROUND])
        assert await channel.push(generation, [FINISHED])
        return list((await channel.wait_for_update(1)).events)

    assert play(script) == [CellStarted("a", 1, {"pid": 7}), ROUND, FINISHED]


def test_a_round_that_is_told_again_is_no_progress() -> None:
    async def script(channel: Channel) -> list[CellEvent]:
        await channel.assign([task()])
        for rounds in ([0, 1], [0, 1], [0, 1, 2], [0, 1]):
            generation = await channel.enter()
            await channel.take(generation, {})
            await channel.push(generation, [RoundEnded("a", index, 0, {}) for index in rounds])
        waiting = asyncio.create_task(channel.take(await channel.enter(), {}))
        events = list((await channel.wait_for_update(1)).events)
        waiting.cancel()
        return events

    started = [event for event in play(script) if isinstance(event, CellStarted)]
    assert [event.failures_since_progress for event in started] == [0, 0, 1, 0, 1]


def test_the_last_attempt_fails_the_cell_with_what_the_worker_said() -> None:
    async def script(channel: Channel) -> list[CellEvent]:
        await channel.assign([task()])
        await channel.take(await channel.enter(), {})
        await channel.note(Failure("RuntimeError", "CUDA error", "trace"))
        await channel.take(await channel.enter(), {})
        third = asyncio.create_task(channel.take(await channel.enter(), {}))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not third.done()
        third.cancel()
        return list((await channel.wait_for_update(1)).events)

    events = play(script)
    trouble = Failure("RuntimeError", "CUDA error", "trace")
    assert events == [
        CellStarted("a", 1),
        CellStarted("a", 2, failures_since_progress=1, lost=trouble),
        CellFailed("a", trouble, attempts=2),
    ]


def test_a_recorded_round_starts_the_count_of_attempts_anew() -> None:
    async def script(channel: Channel) -> list[CellEvent]:
        await channel.assign([task()])
        for round_index in range(3):
            await channel.take(await channel.enter(), {})
            generation = await channel.enter()
            await channel.take(generation, {})
            await channel.push(generation, [RoundEnded("a", round_index, 0, {})])
        return list((await channel.wait_for_update(1)).events)

    events = play(script, retries=1)
    assert kinds(events) == ["started", "started", "round"] * 3
    assert events[-2].attempt == 6
    assert [event.failures_since_progress for event in events if isinstance(event, CellStarted)] == [0, 1] * 3


def test_what_ray_says_of_a_loss_is_told_unless_the_worker_gave_a_reason_itself() -> None:
    async def script(channel: Channel, said: Failure | None) -> CellEvent:
        await channel.assign([task()])
        await channel.take(await channel.enter(), {})
        if said is not None:
            await channel.note(said)
        await channel.note_loss(Failure("WorkersDied", "rank 0: killed by signal 9", kind="lost"))
        last = asyncio.create_task(channel.take(await channel.enter(), {}))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        last.cancel()
        return list((await channel.wait_for_update(1)).events)[-1]

    lost = play(lambda channel: script(channel, None), retries=0).failure
    assert (lost.kind, lost.message) == ("lost", "rank 0: killed by signal 9")
    full = Failure.of(MemoryError("no room"))
    assert play(lambda channel: script(channel, full), retries=0).failure.message == "no room"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), "memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), "memory"),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "memory"),
        (RuntimeError("CUDA error: device-side assert triggered"), "device"),
        (StorageError("no space left"), "storage"),
        (RoundError("pool exhausted"), "input"),
        (ZeroDivisionError(), "error"),
        (ExchangeLostError("it died"), "lost"),
    ],
)
def test_a_failure_knows_its_kind(error: Exception, kind: str) -> None:
    assert Failure.of(error).kind == kind


def test_a_failure_tells_no_secrets() -> None:
    try:
        raise OSError("cannot reach s3://AKIA:hush@bucket/x?secret_key=hush2")
    except OSError as error:
        failure = Failure.of(error, log="login at http://me:hush3@host/")
    assert "hush" not in str(failure)
    assert "s3://bucket/x" in failure.message


def test_an_older_generation_of_workers_takes_no_cell_from_the_new_one() -> None:
    async def script(channel: Channel) -> tuple[Any, Any]:
        old = asyncio.create_task(channel.take(await channel.enter(), {}))
        await asyncio.sleep(0)
        new = asyncio.create_task(channel.take(await channel.enter(), {}))
        await channel.assign([task()])
        return await old, await new

    old, new = play(script)
    assert old is None
    assert new == Assignment(task(), 1)


def test_a_group_lost_within_the_retries_keeps_the_cell_in_hand() -> None:
    async def script(channel: Channel) -> tuple[Any, Any]:
        await channel.assign([task()])
        await channel.take(await channel.enter(), {})
        await channel.group_ended(DIED)
        return await channel.wait_for_update(1), await channel.take(await channel.enter(), {})

    news, again = play(script)
    assert news.group_lost
    assert kinds(news.events) == ["started"]
    assert again == Assignment(task(), 2)


def test_a_lane_whose_first_group_ends_before_it_takes_a_cell_cannot_start() -> None:
    async def script(channel: Channel) -> Any:
        await channel.assign([task()])
        await channel.group_ended(DIED)
        return await channel.wait_for_update(1)

    assert kinds(play(script, retries=8).events) == ["failed"]


def test_a_later_group_that_ends_before_it_takes_the_cell_has_lost_an_attempt() -> None:
    async def script(channel: Channel) -> Any:
        await channel.assign([task()])
        await channel.take(await channel.enter(), {})
        await channel.group_ended(DIED)
        await channel.group_ended(DIED)
        first = await channel.wait_for_update(1)
        await channel.group_ended(DIED)
        return first, await channel.wait_for_update(1)

    first, second = play(script, retries=2)
    assert kinds(first.events) == ["started"]
    assert kinds(second.events) == ["failed"]


def test_an_orphan_ends_no_cell_of_the_group_that_took_its_place() -> None:
    async def script(channel: Channel) -> Any:
        await channel.assign([task()])
        orphan = await channel.enter()
        await channel.take(orphan, {})
        await channel.take(await channel.enter(), {})
        return await channel.push(orphan, [FINISHED]), await channel.wait_for_update(1)

    heard, news = play(script)
    assert not heard
    assert kinds(news.events) == ["started", "started"]


def test_a_closed_channel_sends_workers_away_and_takes_no_reports() -> None:
    async def script(channel: Channel) -> tuple[Any, Any]:
        await channel.assign([task()])
        generation = await channel.enter()
        await channel.take(generation, {})
        await channel.close()
        return await channel.push(generation, [ROUND]), await channel.take(await channel.enter(), {})

    assert play(script) == (False, None)


def test_a_task_shows_no_address_of_its_storage() -> None:
    assert "nowhere" not in repr(task())


def test_a_failed_cell_tells_what_its_record_says() -> None:
    assert CellFailed("a", DIED, attempts=2).reason() == {
        "error": "WorkersDied", "message": "gone", "traceback": "", "kind": "lost", "log": "", "attempts": 2,
    }  # fmt: skip


def test_no_news_comes_back_empty_after_the_timeout() -> None:
    assert play(lambda channel: channel.wait_for_update(0.01)).events == ()


def test_the_first_exception_of_the_listener_stops_the_grid() -> None:
    def full(event: CellEvent) -> None:
        raise OSError("disk full")

    monitor = GridMonitor(full)
    monitor.tell(CellStarted("a"))
    with pytest.raises(OSError, match="disk full"):
        monitor.check()


def test_a_failure_before_any_cell_started_means_that_no_lane_can_start() -> None:
    heard: list[CellEvent] = []
    monitor = GridMonitor(heard.append)
    monitor.tell(CellFailed("a", DIED, attempts=0))
    with pytest.raises(ValueError, match="no lane could start: WorkersDied: gone"):
        monitor.check()
    assert heard == []


def test_a_failure_after_a_start_is_only_one_cell() -> None:
    heard: list[CellEvent] = []
    monitor = GridMonitor(heard.append)
    monitor.tell(CellStarted("a"))
    monitor.tell(CellFailed("a", DIED, attempts=1))
    monitor.check()
    assert monitor.left_of([task("a"), task("b")]) == [task("b")]
    assert kinds(heard) == ["started", "failed"]


# ---- cells that are held --------------------------------------------------------------------------------------------


@dataclass
class Held:
    """A computed cell that tells what is done with it."""

    key: str
    seen: list[str]
    size: int = 1

    @property
    def n_bytes(self) -> int:
        self.seen.append(f"sized {self.key}")
        return self.size

    @property
    def rounds(self) -> list[RoundEnded]:
        return [RoundEnded(self.key, 0, 20, {})]

    def record_with(self, others: Sequence["Held"]) -> None:
        self.seen.append("recorded " + " ".join(cell.key for cell in [self, *others]))


def test_held_cells_are_due_when_they_take_too_much_memory_and_each_is_sized_once() -> None:
    seen: list[str] = []
    held = HeldCells()
    for _ in range(2):
        held.add("a", Held("a", seen, MAX_HELD_BYTES - 1))
        assert not held.is_due
        held.add("b", Held("b", seen, 1))
        assert held.is_due
        assert kinds(held.record()) == ["round", "finished", "round", "finished"]
        assert not held.is_due
    assert seen == ["sized a", "sized b", "recorded a b"] * 2


def test_held_cells_do_not_wait_for_a_long_one_without_ray() -> None:
    seen: list[str] = []

    def run_cell(task: CellTask, pool: CellPool, worker: Worker, report: ReportRound) -> Any:
        if task.is_quick:
            return Held(task.key, seen)
        seen.append("long")
        return None

    tables = {"pool": fakes.texts(3), "test": fakes.texts(1)}
    run_local(
        cells=[task("a", is_quick=True), task("b", is_quick=True), task("long"), task("c", is_quick=True)],
        pools={"p": PoolSource(tables=tables, tokenize=fakes.tokenize)},
        run_cell=run_cell,
        threads=torch.get_num_threads(),
        use_gpu=False,
        on_event=lambda event: seen.append(f"{kind_of_event(event)} {event.key}"),
    )
    seen = [words for words in seen if words.startswith(("recorded", "finished", "long"))]
    assert seen == [
        *("recorded a b", "finished a", "finished b", "long", "finished long"),
        *("recorded c", "finished c"),
    ]


def test_quick_cells_know_no_helpers_and_what_is_held_is_recorded_before_those_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A lane whose first cell takes its time and whose second one is quick and held when the lane is closed."""
    seen: list[str] = []

    class Shared:
        def __init__(self, *args: object) -> None:
            pass

        def begin_cell(self, *args: object) -> None:
            pass

        def close(self) -> None:
            seen.append("helpers end")

    class Channels:
        """Of an exchange, and the channel of the lane."""

        exchange: Any
        lane = "lane"
        tasks = (task("slow"), task("quick", is_quick=True))

        def __init__(self) -> None:
            self.exchange, self._given = self, iter([*(Assignment(each, 1) for each in self.tasks), None])

        def fetch_pool(self, key: str) -> Any:
            return None

        def call(self, method: Any, *args: Any, **options: Any) -> Any:
            return next(self._given) if method is Channel.take else True

    def run_cell(task: CellTask, pool: CellPool, worker: Worker, report: ReportRound) -> Any:
        seen.append(f"{task.key} {'helped' if worker.helpers is not None else 'alone'}")
        return Held(task.key, seen) if task.is_quick else None

    class OnlyWorker(SingleProcess):
        def broadcast(self, value: Any, *, between_cells: bool = False) -> Any:
            return value

        def all_agree(self, statement: bool) -> bool:
            return True

    monkeypatch.setattr(lane_worker, "SharedScoring", Shared)
    monkeypatch.setattr(lane_worker.TrainWorker, "join", lambda threads, gpus: OnlyWorker())
    monkeypatch.setattr(lane_worker, "_open_functions", lambda functions: run_cell)
    monkeypatch.setattr(OnlyWorker, "place", {})
    channel: Any = Channels()
    lane_worker.serve(channel, 0, b"", SharingPlan(resources=LaneResources(scoring="auto"), kept_cpus=0))
    assert seen == ["slow helped", "quick alone", "sized quick", "recorded quick", "helpers end"]
