"""A private Ray that dies in mid-study, or does not start, is started again by the same command."""

import re
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from al_ray.errors import ExecutionError
from al_ray.runtime import driver as driver_module
from al_ray.runtime.tasks import CellEvent, CellStarted, RoundEnded
from al_ray.study import run as study_module
from tests.cli import saboteur
from tests.cli.conftest import computed
from tests.cli.saboteur import run_with
from tests.processes import is_alive, title
from tests.runtime import apart_fakes as fakes
from tests.waiting import wait_until

pytestmark = pytest.mark.ray

Victims = Callable[[psutil.Process], list[psutil.Process]]


@pytest.fixture(autouse=True)
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start a private Ray as on a laptop, whatever Ray other tests of this process use."""
    monkeypatch.setattr(driver_module, "is_here", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def kept_logs() -> Iterator[Callable[[str], list[Path]]]:
    """Return a function that finds the folders of logs that a text names; they are deleted at last."""
    found: list[Path] = []

    def find(text: str) -> list[Path]:
        found.extend(map(Path, re.findall(r"logs are kept in (\S+?)\.(?:\s|$)", text)))
        return found

    yield find
    for folder in found:
        assert folder.name.startswith("al_ray_logs_")
        shutil.rmtree(folder)


def drivers_of_ray() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "al_ray.runtime.cluster.apart" in title(child)]


def daemon(name: str) -> Victims:
    return lambda driver: [child for child in driver.children() if child.name() == name]


def everything(driver: psutil.Process) -> list[psutil.Process]:
    """What Ray itself started."""
    return driver.children()


def itself(driver: psutil.Process) -> list[psutil.Process]:
    """The process that drives Ray: its C++ part may end it."""
    return [driver]


@dataclass
class Striker:
    """Kills after chosen rounds of the first cell, which stands still until another Ray has started.

    Attributes:
        strikes: index of the round -> what to kill.
        gates: folder of the files that let a cell go on.
        seen: all processes that were there.
    """

    strikes: dict[int, Victims]
    gates: Path
    seen: list[psutil.Process] = field(default_factory=list)
    struck: list[int] = field(default_factory=list)

    def __call__(self, event: CellEvent) -> None:
        if isinstance(event, CellStarted):  # by a new Ray, if there was a blow
            for index in self.struck:
                (self.gates / str(index)).touch()
        if not isinstance(event, RoundEnded):
            return
        index = event.round_index
        if index in self.strikes and index not in self.struck:
            self.struck.append(index)
            [driver] = drivers_of_ray()
            self.seen += [driver, *driver.children(recursive=True)]
            victims = self.strikes[index](driver)
            assert victims
            for victim in victims:
                victim.send_signal(signal.SIGKILL)
        else:
            (self.gates / str(index)).touch()


def test_a_study_whose_private_ray_does_not_start_and_dies_in_every_way_ends_by_itself_with_the_same_records(
    study: Any, al_ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept_logs: Any
) -> None:
    cells = study({"seed": [1, 2]}, rounds=6)
    assert al_ray("run", cells, "--local", "--storage", tmp_path / "calm", "--set", "tracking=off").code == 0
    monkeypatch.setattr(study_module, "run_cell", saboteur.stop_at_gates)
    monkeypatch.setattr(driver_module, "drive", fakes.dying_raylets(1, tmp_path / "deaths"))
    (tmp_path / "gates").mkdir()
    ways: dict[int, Victims] = {1: daemon("gcs_server"), 2: daemon("raylet"), 3: everything, 4: itself}
    striker = Striker(ways, tmp_path / "gates")
    first, *said = run_with(cells, tmp_path / "stormy", striker, "lanes=1", "retries=1")
    assert first == "a private Ray did not start: its raylet ended with code -9. It is tried once more."
    assert striker.struck == list(ways)
    assert computed(tmp_path / "stormy") == computed(tmp_path / "calm")
    assert not list((tmp_path / "stormy").rglob("failed.json"))
    wait_until(lambda: not any(map(is_alive, striker.seen)), "no process is left")
    logs = kept_logs(" ".join(said))
    assert [len(logs), all((folder / "gcs_server.out").exists() for folder in logs)] == [len(ways), True]
    for sentence, cause in zip(
        said, ("its gcs_server ended", "its raylet ended", "its ", "killed by signal 9"), strict=True
    ):
        assert sentence.startswith("the private Ray died: ")
        assert cause in sentence
        assert sentence.endswith("Another one is started now, for 2 cells.")


def test_a_private_ray_that_dies_again_and_again_without_a_round_is_given_up(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept_logs: Any
) -> None:
    monkeypatch.setattr(study_module, "run_cell", saboteur.kill_the_raylet)
    with pytest.raises(
        ExecutionError, match=r"the private Ray died.*given up: retries is 0. The same command"
    ) as error:
        run_with(study(), tmp_path / "out", lambda event: None, "lanes=1", "retries=0")
    assert kept_logs(str(error.value))
    assert not drivers_of_ray()


def test_a_private_ray_that_does_not_start_twice_is_told_with_the_place_of_its_logs(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept_logs: Any
) -> None:
    monkeypatch.setattr(driver_module, "drive", fakes.dying_raylets(2, tmp_path / "deaths"))
    with pytest.raises(ExecutionError, match="a private Ray cannot start, and was tried twice: its raylet") as error:
        run_with(study(), tmp_path / "out", lambda event: None, "lanes=1")
    [logs] = kept_logs(str(error.value))
    assert (logs / "gcs_server.out").exists()
    assert not drivers_of_ray()
