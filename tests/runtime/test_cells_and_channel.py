import asyncio
import errno
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from al_ray.errors import ConfigError, RoundError, StorageError
from al_ray.runtime.grid import GridWatch
from al_ray.runtime.lane.channel import Assignment, Channel
from al_ray.runtime.tasks import (
    CellEvent,
    CellTask,
    ExchangeLostError,
    Failure,
    by_workers,
    check_cells,
    lane_survives,
)

DIED = Failure("WorkersDied", "gone", kind="lost")


class OutOfMemoryError(RuntimeError):
    """Named as torch names it."""


def task(key: str = "a", pool_key: str = "p", workers: int = 1) -> CellTask:
    return CellTask(key=key, payload={}, pool_key=pool_key, workers=workers)


def play(script: Callable[[Channel], Awaitable[Any]], attempts_allowed: int = 2) -> Any:
    async def run() -> Any:
        async with asyncio.timeout(60):
            return await script(Channel(attempts_allowed))

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


def test_a_key_used_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="cell 'a' is in the grid twice"):
        check_cells([task(), task()], {"p": None})


def test_an_unknown_pool_is_named_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"cell 'a' needs the pool 'x'\. Pools given: p, q"):
        check_cells([task(pool_key="x")], {"q": None, "p": None})


def test_a_group_of_no_workers_is_refused() -> None:
    with pytest.raises(ConfigError, match="cell 'a' asks for 0 workers"):
        check_cells([task(workers=0)], {"p": None})


def test_small_groups_come_first_and_order_is_kept_within_a_class() -> None:
    classes = by_workers([task("a", workers=2), task("b"), task("c", workers=2), task("d")])
    assert [(workers, [cell.key for cell in cells]) for workers, cells in classes.items()] == [
        (1, ["b", "d"]),
        (2, ["a", "c"]),
    ]


def test_a_cell_goes_through_the_channel_and_its_events_come_back_in_order() -> None:
    async def script(channel: Channel) -> list[CellEvent]:
        seat = await channel.enter()
        waiting = asyncio.create_task(channel.take(seat, {"pid": 7}))
        await channel.assign(task())
        assert await waiting == Assignment(task(), 1)
        assert await channel.push(seat, "round", {"n": 0})
        assert await channel.push(seat, "finished", {})
        return list((await channel.news(1)).events)

    events = play(script)
    assert [(event.kind, event.data) for event in events] == [
        ("started", {"attempt": 1, "pid": 7}),
        ("round", {"n": 0}),
        ("finished", {}),
    ]


def test_the_last_attempt_fails_the_cell_with_what_the_worker_said() -> None:
    async def script(channel: Channel) -> list[CellEvent]:
        await channel.assign(task())
        await channel.take(await channel.enter(), {})
        await channel.note(Failure("RuntimeError", "CUDA error", "trace"))
        await channel.take(await channel.enter(), {})
        third = asyncio.create_task(channel.take(await channel.enter(), {}))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not third.done()
        third.cancel()
        return list((await channel.news(1)).events)

    events = play(script)
    assert [event.kind for event in events] == ["started", "started", "failed"]
    assert events[-1].data["message"] == "CUDA error"
    assert events[-1].data["attempts"] == 2


def test_a_recorded_round_starts_the_count_of_attempts_anew() -> None:
    async def script(channel: Channel) -> list[CellEvent]:
        await channel.assign(task())
        for round_index in range(3):
            await channel.take(await channel.enter(), {})
            seat = await channel.enter()
            await channel.take(seat, {})
            await channel.push(seat, "round", {"n": round_index})
        return list((await channel.news(1)).events)

    events = play(script, attempts_allowed=2)
    assert [event.kind for event in events] == ["started", "started", "round"] * 3
    assert events[-2].data["attempt"] == 6


def test_what_ray_says_of_a_loss_is_told_unless_the_worker_gave_a_reason_itself() -> None:
    async def script(channel: Channel, said: Failure | None) -> CellEvent:
        await channel.assign(task())
        await channel.take(await channel.enter(), {})
        if said is not None:
            await channel.note(said)
        await channel.note_loss(Failure("WorkersDied", "rank 0: killed by signal 9", kind="lost"))
        last = asyncio.create_task(channel.take(await channel.enter(), {}))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        last.cancel()
        return list((await channel.news(1)).events)[-1]

    lost = play(lambda channel: script(channel, None), attempts_allowed=1)
    assert (lost.data["kind"], lost.data["message"]) == ("lost", "rank 0: killed by signal 9")
    full = Failure.of(MemoryError("no room"))
    assert play(lambda channel: script(channel, full), attempts_allowed=1).data["message"] == "no room"


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


def test_a_seat_of_a_dead_group_takes_no_cell_from_the_new_one() -> None:
    async def script(channel: Channel) -> tuple[Any, Any]:
        old = asyncio.create_task(channel.take(await channel.enter(), {}))
        await asyncio.sleep(0)
        new = asyncio.create_task(channel.take(await channel.enter(), {}))
        await channel.assign(task())
        return await old, await new

    old, new = play(script)
    assert old is None
    assert new == Assignment(task(), 1)


def test_a_group_lost_within_the_retries_keeps_the_cell_in_hand() -> None:
    async def script(channel: Channel) -> tuple[Any, Any]:
        await channel.assign(task())
        await channel.take(await channel.enter(), {})
        await channel.group_ended(DIED)
        return await channel.news(1), await channel.take(await channel.enter(), {})

    news, again = play(script)
    assert news.group_lost
    assert [event.kind for event in news.events] == ["started"]
    assert again == Assignment(task(), 2)


def test_a_lane_whose_first_group_ends_before_it_takes_a_cell_cannot_start() -> None:
    async def script(channel: Channel) -> Any:
        await channel.assign(task())
        await channel.group_ended(DIED)
        return await channel.news(1)

    assert [event.kind for event in play(script, attempts_allowed=9).events] == ["failed"]


def test_a_later_group_that_ends_before_it_takes_the_cell_has_lost_an_attempt() -> None:
    async def script(channel: Channel) -> Any:
        await channel.assign(task())
        await channel.take(await channel.enter(), {})
        await channel.group_ended(DIED)
        await channel.group_ended(DIED)
        first = await channel.news(1)
        await channel.group_ended(DIED)
        return first, await channel.news(1)

    first, second = play(script, attempts_allowed=3)
    assert [event.kind for event in first.events] == ["started"]
    assert [event.kind for event in second.events] == ["failed"]


def test_an_orphan_ends_no_cell_of_the_group_that_took_its_place() -> None:
    async def script(channel: Channel) -> Any:
        await channel.assign(task())
        orphan = await channel.enter()
        await channel.take(orphan, {})
        await channel.take(await channel.enter(), {})
        return await channel.push(orphan, "finished", {}), await channel.news(1)

    heard, news = play(script)
    assert not heard
    assert [event.kind for event in news.events] == ["started", "started"]


def test_a_closed_channel_sends_workers_away_and_takes_no_reports() -> None:
    async def script(channel: Channel) -> tuple[Any, Any]:
        await channel.assign(task())
        seat = await channel.enter()
        await channel.take(seat, {})
        await channel.close()
        return await channel.push(seat, "round", {}), await channel.take(await channel.enter(), {})

    assert play(script) == (False, None)


def test_no_news_comes_back_empty_after_the_timeout() -> None:
    assert play(lambda channel: channel.news(0.01)).events == ()


def test_the_first_exception_of_the_listener_stops_the_grid() -> None:
    def full(event: CellEvent) -> None:
        raise OSError("disk full")

    watch = GridWatch(full)
    watch.tell(CellEvent("started", "a", {}))
    with pytest.raises(OSError, match="disk full"):
        watch.check()


def test_a_failure_before_any_cell_started_means_that_no_lane_can_start() -> None:
    heard: list[CellEvent] = []
    watch = GridWatch(heard.append)
    watch.tell(CellEvent("failed", "a", DIED.data(0)))
    with pytest.raises(ValueError, match="no lane could start: WorkersDied: gone"):
        watch.check()
    assert heard == []


def test_a_failure_after_a_start_is_only_one_cell() -> None:
    heard: list[CellEvent] = []
    watch = GridWatch(heard.append)
    watch.tell(CellEvent("started", "a", {}))
    watch.tell(CellEvent("failed", "a", DIED.data(1)))
    watch.check()
    assert watch.missing([task("a"), task("b")]) == ["b"]
    assert [event.kind for event in heard] == ["started", "failed"]
