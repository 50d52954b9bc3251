"""Folders of a run on its machine: who may delete them, and when."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from al_ray.process import life_of, start_of_this
from al_ray.runtime.cluster import scratch
from al_ray.runtime.cluster.scratch import scratch_folder


@pytest.fixture(autouse=True)
def above(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="s", dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        monkeypatch.setattr(scratch, "_LONGEST", 200)
        yield Path(folder)


def leave_behind(above: Path, pid: int, start: int, host: str | None = None) -> Path:
    folder = above / f"al_ray_{host or scratch._host()}_{pid}_{start}_0"
    folder.mkdir()
    (folder / "raylet.out").touch()
    return folder


@pytest.fixture
def dead() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_folder_is_there_for_the_run_and_gone_afterwards() -> None:
    with scratch_folder() as one, scratch_folder() as other:
        assert one.is_dir()
        assert one != other
        (one / "session").mkdir()
    assert not one.exists()
    assert not other.exists()


def test_what_a_killed_run_left_is_cleared_by_the_next(above: Path, dead: int) -> None:
    left = leave_behind(above, dead, 7)
    with scratch_folder():
        assert not left.exists()


def test_folders_of_the_living_and_of_other_machines_stay(above: Path, dead: int) -> None:
    living = leave_behind(above, os.getpid(), start_of_this())
    elsewhere = leave_behind(above, dead, 7, host="0" * 6)
    with scratch_folder():
        pass
    assert living.exists()
    assert elsewhere.exists()


def test_nothing_is_deleted_where_folders_are_to_be_kept(
    above: Path, dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = leave_behind(above, dead, 7)
    monkeypatch.setenv(scratch.KEEP, "1")
    with scratch_folder() as kept:
        pass
    assert kept.exists()
    assert left.exists()


def test_a_long_temporary_folder_is_passed_over_for_the_sake_of_sockets(
    above: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(tempfile, "tempdir", str(above / ("x" * 40)))
    with scratch_folder() as folder:
        assert len(f"{folder}/session_2026-11-21_10-56-48_480415_{2**22}/sockets/plasma_store") <= 107


def test_a_process_is_known_by_its_number_and_its_start(dead: int) -> None:
    assert life_of(os.getpid(), start_of_this()) == "alive"
    assert life_of(os.getpid(), start_of_this() - 1) == "dead"
    assert life_of(os.getpid(), 0) == "unknown"
    assert life_of(dead, 7) == "dead"
    assert life_of(2**80, 7) == "dead"
