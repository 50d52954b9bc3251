"""The driver itself is killed, or there are two of them."""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.pipelines.conftest import computed
from tests.processes import is_alive, title, wait_until

pytestmark = pytest.mark.timeout(600)

ROUNDS = 10


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
    """Return a function that starts a driver in a process of its own."""

    def start(*options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "pipelines.run_study", str(cells), "--storage", str(tmp_path / "out")]
        environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        return subprocess.Popen(
            [*command, "--set", "tracking=off", *options],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment | {"COLUMNS": "300"},
        )  # fmt: skip

    return start


def records(folder: Path) -> list[Path]:
    return sorted((folder / "out").rglob("round-*.json"))


def said(driver: subprocess.Popen[str]) -> str:
    return " ".join(driver.communicate(timeout=300)[0].split())


@pytest.mark.ray
def test_a_killed_driver_takes_its_ray_with_it_and_the_same_command_goes_on(
    drive: Any, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    moments = random.Random(5)
    driver = drive("--set", "lanes=1")
    n_wanted = moments.randint(2, 6)
    wait_until(lambda: len(records(tmp_path)) >= n_wanted, "some rounds are recorded", 120)
    time.sleep(moments.uniform(0, 0.5))
    # Two agents of Ray itself look for a minute before they end; they hold nothing.
    started = [child for child in psutil.Process(driver.pid).children(recursive=True) if "Agent" not in title(child)]
    scratch = list(Path(tempfile.gettempdir()).glob(f"al_ray_*_{driver.pid}_*"))
    assert started
    assert scratch
    driver.kill()
    driver.communicate()
    wait_until(lambda: not any(map(is_alive, started)), "the processes of the killed driver are gone")
    before = {path: path.read_bytes() for path in records(tmp_path)}
    assert 2 <= len(before) < 3 * (ROUNDS + 2)  # the initial query and the initial model are rounds too
    assert not list((tmp_path / "out").rglob("failed.json"))
    again = drive("--set", "lanes=1")
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
    pair = [drive("--local"), drive("--local")]
    texts = [said(driver) for driver in pair]
    codes = [driver.returncode for driver in pair]
    if codes == [0, 0]:  # one had finished before the other looked
        assert any("nothing to do" in text for text in texts), texts
    else:
        assert sorted(codes) == [0, 1], texts
        loser = codes.index(1)
        assert f"is being run by process {pair[1 - loser].pid} on" in texts[loser]
        assert f"Watch it (al-ray watch {tmp_path / 'out' / 'tiny'}), or stop it and run again." in texts[loser]
    assert computed(tmp_path / "out") == undisturbed
    runs = [json.loads(path.read_text()) for path in (tmp_path / "out").rglob("provenance.json")]
    assert all(len(entries) == 1 for entries in runs)


def test_a_driver_killed_between_the_arrays_and_the_record_of_a_round_has_not_done_the_round(
    drive: Any, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    driver = drive("--local")
    torn = _kill_inside_a_round(driver, tmp_path / "out")
    driver.communicate()
    assert torn.exists()
    assert not torn.with_suffix(".json").exists()
    again = drive("--local")
    text = said(again)
    assert again.returncode == 0, text
    assert computed(tmp_path / "out") == undisturbed
    assert not list((tmp_path / "out").rglob("*.tmp"))


def _kill_inside_a_round(driver: subprocess.Popen[str], out: Path) -> Path:
    """Stop the driver again and again until it stands between two files of a round, and kill it there."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and driver.poll() is None:
        os.kill(driver.pid, signal.SIGSTOP)
        for arrays in out.rglob("round-*.parquet"):
            if not arrays.with_suffix(".json").exists():
                driver.kill()
                return arrays
        os.kill(driver.pid, signal.SIGCONT)
        time.sleep(0.0003)
    raise AssertionError("the driver was never seen between the two files of a round")
