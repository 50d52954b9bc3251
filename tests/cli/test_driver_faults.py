"""The driver itself is killed, told to leave, or there are two of them."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cli.conftest import computed
from tests.cli.gated_driver import TORN
from tests.processes import is_alive
from tests.waiting import PATIENCE_S, wait_until

ROUNDS = 4


@pytest.fixture
def cells(study: Any) -> Path:
    path: Path = study({"seed": [1, 2, 3]}, rounds=ROUNDS)
    return path


@pytest.fixture
def undisturbed(cells: Path, al_ray: Any, tmp_path: Path) -> dict[str, Any]:
    assert al_ray("run", cells, "--local", "--storage", tmp_path / "calm", "--set", "tracking=off").code == 0
    return computed(tmp_path / "calm")


@pytest.fixture
def drive(cells: Path, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Return a function that starts a driver in a process of its own, whose cells may stand at gates."""
    (tmp_path / "gates").mkdir()

    def start(*options: str, gated: bool = False) -> subprocess.Popen[str]:
        program = "tests.cli.gated_driver" if gated else "pipelines.run_study"
        command = [sys.executable, "-m", program, str(cells), "--storage", str(tmp_path / "out")]
        environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        return subprocess.Popen(
            [*command, "--set", "tracking=off", *options],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment | {"COLUMNS": "300"},
        )  # fmt: skip

    return start


def open_gates(folder: Path, *indices: int) -> None:
    for index in indices:
        (folder / "gates" / str(index)).touch()


def records(folder: Path) -> list[Path]:
    return sorted((folder / "out").rglob("round-*.json"))


def said(driver: subprocess.Popen[str]) -> str:
    return " ".join(driver.communicate(timeout=PATIENCE_S)[0].split())


def wait_for_round(folder: Path, index: int, driver: subprocess.Popen[str]) -> None:
    """Wait until the first cell stands at a gate."""

    def stands() -> bool:
        assert driver.poll() is None, said(driver)
        return bool(list((folder / "out").rglob(f"round-{index:03d}.json")))

    wait_until(stands, "the cell stands at its gate")


@pytest.mark.ray
@pytest.mark.parametrize("fatal", [signal.SIGKILL, signal.SIGTERM], ids=str)
def test_a_driver_that_is_ended_takes_its_ray_with_it_and_the_same_command_goes_on(
    drive: Any, undisturbed: dict[str, Any], tmp_path: Path, fatal: signal.Signals
) -> None:
    driver = drive("--set", "lanes=1", gated=True)
    open_gates(tmp_path, 0)
    wait_for_round(tmp_path, 1, driver)
    started = psutil.Process(driver.pid).children(recursive=True)
    scratch = list(Path(tempfile.gettempdir()).glob(f"al_ray_*_{driver.pid}_*"))
    assert started
    assert scratch
    open_gates(tmp_path, 1)  # it may be anywhere in the next round, and cannot get beyond
    driver.send_signal(fatal)
    text = said(driver)
    wait_until(lambda: not any(map(is_alive, started)), "the processes of the driver are gone")
    if fatal == signal.SIGKILL:
        assert driver.returncode == -fatal
    else:
        assert driver.returncode == 128 + fatal, text
        assert "interrupted. Every recorded round is kept; the same command goes on from there." in text
        assert not any(folder.exists() for folder in scratch)
    before = {path: path.read_bytes() for path in records(tmp_path)}
    assert before
    assert not list((tmp_path / "out").rglob("failed.json"))
    again = drive("--set", "lanes=1") if fatal == signal.SIGKILL else drive("--local")
    text = said(again)
    assert again.returncode == 0, text
    assert {path: path.read_bytes() for path in before} == before
    assert computed(tmp_path / "out") == undisturbed
    assert not any(folder.exists() for folder in scratch)
    assert not list(Path(tempfile.gettempdir()).glob(f"al_ray_*_{again.pid}_*"))
    assert not list((tmp_path / "out").rglob("driver*.json"))
    assert not list((tmp_path / "out").rglob("*.tmp"))


def test_of_two_drivers_that_start_at_once_one_runs_and_the_other_says_who_does(
    drive: Any, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    pair = [drive("--local", gated=True), drive("--local", gated=True)]
    wait_until(lambda: any(driver.poll() is not None for driver in pair), "one driver gives way")
    [loser] = [driver for driver in pair if driver.poll() is not None]
    [winner] = [driver for driver in pair if driver is not loser]
    text = said(loser)
    assert loser.returncode == 1, text
    assert f"is being run by process {winner.pid} on" in text
    assert f"Watch it (al-ray watch {tmp_path / 'out' / 'tiny'}), or stop it and run again." in text
    open_gates(tmp_path, *range(ROUNDS + 2))
    text = said(winner)
    assert winner.returncode == 0, text
    assert computed(tmp_path / "out") == undisturbed
    runs = [json.loads(path.read_text()) for path in (tmp_path / "out").rglob("provenance.json")]
    assert all(len(entries) == 1 for entries in runs)


def test_a_driver_killed_between_the_arrays_and_the_record_of_a_round_has_not_done_the_round(
    drive: Any, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    driver = drive("--local", TORN, gated=True)

    def torn() -> list[Path]:
        assert driver.poll() is None, said(driver)
        return list((tmp_path / "out").rglob("round-002.parquet"))

    wait_until(lambda: bool(torn()), "the driver stands between the files")
    [arrays] = torn()
    driver.kill()
    driver.communicate()
    assert arrays.exists()
    assert not arrays.with_suffix(".json").exists()
    again = drive("--local")
    text = said(again)
    assert again.returncode == 0, text
    assert computed(tmp_path / "out") == undisturbed
    assert not list((tmp_path / "out").rglob("*.tmp"))
