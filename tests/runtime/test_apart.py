"""A driver process: its messages, its ends, and that nothing stays of it; no Ray is started here."""

import functools
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from al_ray.errors import DataError
from al_ray.runtime.cluster import apart
from al_ray.runtime.cluster.apart import DriverProcess, Ended, ParentLine
from tests.processes import is_alive
from tests.runtime import apart_fakes as fakes
from tests.waiting import PATIENCE_S, wait_until


def run(what: Callable[[ParentLine], object], folder: Path) -> tuple[list[Any], DriverProcess]:
    with DriverProcess(what, folder) as process:
        return list(process.messages()), process


def test_messages_arrive_in_order_and_the_last_words_come_last(tmp_path: Path) -> None:
    messages, _ = run(functools.partial(fakes.count, n=1000), tmp_path)
    assert messages == [*range(1000), Ended("counted")]


def test_an_error_arrives_as_it_is_with_the_place_where_it_was_raised(tmp_path: Path) -> None:
    [ended], _ = run(fakes.refuse, tmp_path)
    error = ended.outcome
    assert isinstance(error, DataError)
    assert str(error) == "row 7 has no label"
    assert "in refuse" in error.__notes__[0]


@pytest.mark.parametrize("kind", ["made from two words", "of a local class", "of a task of Ray"])
def test_an_error_that_cannot_travel_arrives_in_words(tmp_path: Path, kind: str) -> None:
    [ended], _ = run(functools.partial(fakes.fail_in_a_way_that_cannot_travel, kind), tmp_path)
    error = ended.outcome
    assert isinstance(error, RuntimeError)
    assert "HomeMadeError: ab" in str(error)


@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING])
def test_what_is_logged_there_is_logged_here_under_its_own_name_and_level(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, level: int
) -> None:
    with caplog.at_level(level, logger="al_ray"):
        messages, _ = run(fakes.log, tmp_path)
    assert messages == [Ended(None)]
    told = [("al_ray.runtime.grid", logging.INFO, "lanes: 2"), ("al_ray.runtime.grid", logging.WARNING, "lost: ab")]
    found = [(name, of, text.partition(chr(10))[0]) for name, of, text in caplog.record_tuples]
    assert found == [each for each in told if each[1] >= level]


def test_a_process_that_is_killed_has_no_last_words_and_its_output_is_kept(tmp_path: Path) -> None:
    messages, process = run(fakes.die, tmp_path)
    assert not messages
    assert process.how_it_ended() == "the process that drives it was killed by signal 9"
    assert (tmp_path / apart.LOG_NAME).read_text() == "a last word on the output\n"


def test_a_process_that_is_told_to_leave_does_so_in_order(tmp_path: Path) -> None:
    with DriverProcess(fakes.wait_for_the_end, tmp_path) as process:
        messages = process.messages()
        assert next(messages) == "ready"
        process.leave()
        assert list(messages) == [Ended("left in order")]


def test_a_process_whose_messages_are_half_read_leaves_in_order_as_well(tmp_path: Path) -> None:
    with DriverProcess(fakes.wait_for_the_end, tmp_path) as process:
        assert next(process.messages()) == "ready"
        process.leave_unheard()
    assert (tmp_path / apart.LOG_NAME).read_text() == "left in order\n"


def test_a_process_that_does_not_leave_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "LEAVING_TIMEOUT_S", 0.1)
    with DriverProcess(fakes.do_not_listen, tmp_path) as process:
        messages = process.messages()
        assert next(messages) == "ready"
        living = psutil.Process(process._process.pid)
        process.leave()
        assert not list(messages)
    assert not is_alive(living)
    assert process.how_it_ended() == "the process that drives it did not answer"


def test_all_that_a_process_started_ends_with_it(tmp_path: Path) -> None:
    with DriverProcess(fakes.start_a_family, tmp_path) as process:
        family: Any = next(process.messages())
        living = [psutil.Process(pid) for pid in (process._process.pid, *family)]
        assert all(map(is_alive, living))
    wait_until(lambda: not any(map(is_alive, living)), "the whole family is gone")


def test_all_of_it_ends_where_the_one_that_started_it_is_killed(tmp_path: Path) -> None:
    code = "import sys; from tests.runtime.apart_fakes import found_a_family; found_a_family(sys.argv[1])"
    program = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    words = program.communicate(timeout=PATIENCE_S)[0].split()
    assert len(words) == 4
    wait_until(lambda: not any(is_there(int(pid)) for pid in words), "the whole family is gone")


def is_there(pid: int) -> bool:
    return psutil.pid_exists(pid) and is_alive(psutil.Process(pid))
