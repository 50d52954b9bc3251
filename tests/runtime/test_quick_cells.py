"""Lanes that are given many quick cells at a time, on a real Ray: what fails is one cell's matter, as ever."""

import os
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from al_ray.runtime.cluster.resources import LaneResources
from al_ray.runtime.driver import run_grid
from al_ray.runtime.pool import PoolSource
from al_ray.runtime.tasks import CellEvent, CellFinished, CellStarted, CellTask
from tests.processes import LANE_TITLES, ray_processes
from tests.runtime import lane_fakes as fakes
from tests.runtime.made import kind_of_event, made_cell
from tests.waiting import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("private_ray")]


@dataclass
class Watch:
    """Hears the events of a grid.

    Attributes:
        n_before: ends of cells before something is done.
        deed: what.
    """

    n_before: int = 0
    deed: Callable[[], None] = lambda: None
    events: list[CellEvent] = field(default_factory=list)

    def __call__(self, event: CellEvent) -> None:
        self.events.append(event)
        if isinstance(event, CellFinished) and len(self.of("finished")) == self.n_before:
            self.deed()

    def of(self, kind: str) -> list[CellEvent]:
        return [event for event in self.events if kind_of_event(event) == kind]

    def kinds(self, key: str) -> list[str]:
        return [kind_of_event(event) for event in self.events if event.key == key]


def quick(key: str, act: str = "look", **spec: object) -> CellTask:
    return replace(made_cell(key, "letters", act=act, **spec), is_quick=True)


def run(cells: list[CellTask], watch: Watch, lanes: int) -> None:
    tables = {"pool": fakes.texts(100), "test": fakes.texts(10)}
    run_grid(
        cells=cells,
        pools={"letters": PoolSource(tables=tables, tokenize=fakes.tokenize)},
        run_cell=fakes.act,
        resources=LaneResources(lanes=lanes, retries=1),
        on_event=watch,
    )


@pytest.fixture(scope="module")
def stormy(private_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Watch:
    """One lane, whose first trial has 30 of 60 cells: one kills its worker once, one always, one raises."""
    been_here = str(tmp_path_factory.mktemp("been_here") / "once")
    cells = [quick(f"calm-{n}", rounds=3) for n in range(57)]
    cells[3:3] = [quick("dies-once", "die_once", been_here=been_here)]
    cells[9:9] = [quick("complains", "complain")]
    cells[15:15] = [quick("deadly", "die")]
    watch = Watch()
    run(cells, watch, lanes=1)
    return watch


def test_every_other_cell_of_a_chunk_runs_once_and_to_its_end(stormy: Watch) -> None:
    for n in range(57):
        assert stormy.kinds(f"calm-{n}") == ["started", "round", "round", "round", "finished"]


def test_a_cell_that_lost_its_worker_is_tried_again_before_those_behind_it(stormy: Watch) -> None:
    assert stormy.kinds("dies-once") == ["started", "started", "round", "finished"]
    order = [event.key for event in stormy.of("started")]
    assert order[2:6] == ["calm-2", "dies-once", "dies-once", "calm-3"]


def test_a_cell_that_raises_and_one_that_kills_its_workers_fail_alone(stormy: Watch) -> None:
    assert {event.key for event in stormy.of("failed")} == {"complains", "deadly"}
    assert stormy.kinds("complains") == ["started", "failed"]
    assert stormy.kinds("deadly") == ["started", "started", "failed"]


def test_a_lane_that_is_killed_among_its_cells_goes_on_with_those_that_have_not_ended(tmp_path: Path) -> None:
    def kill_the_trial() -> None:
        os.kill(ray_processes("ray::LaneTrial", "ray::ResourceTrainable")[0], signal.SIGKILL)
        (tmp_path / "killed").touch()

    watch = Watch(7, kill_the_trial)
    cells = [quick(f"c{n}") for n in range(40)]
    cells[10] = quick("c10", "sign_in", folder=str(tmp_path), n_files=2)  # of the 20 of the first trial
    run(cells, watch, lanes=1)
    assert not watch.of("failed")
    ended = Counter(event.key for event in watch.of("finished"))
    assert set(ended) == {f"c{n}" for n in range(40)}
    assert set(ended.values()) == {1}
    told_twice = {key for key, n in Counter(event.key for event in watch.of("started")).items() if n > 1}
    assert not told_twice & {f"c{n}" for n in range(7)}  # the driver knew that they had ended


def test_two_lanes_share_quick_cells(tmp_path: Path) -> None:
    watch = Watch()
    run([quick(f"c{n}", "sign_in", folder=str(tmp_path), n_files=2) for n in range(40)], watch, lanes=2)
    assert len(watch.of("finished")) == 40
    assert len({event.where["pid"] for event in watch.of("started") if isinstance(event, CellStarted)}) == 2


def test_a_grid_that_is_left_begins_none_of_the_cells_that_wait_in_a_lane(tmp_path: Path) -> None:
    def fail() -> None:
        raise OSError("disk full")

    watch = Watch(3, fail)
    cells = [quick(f"c{n}") for n in range(40)]
    cells[3] = quick("c3", "sign_in", folder=str(tmp_path), n_files=2)  # never: it stands still until it is killed
    with pytest.raises(OSError, match="disk full"):
        run(cells, watch, lanes=1)
    wait_until(lambda: not ray_processes(*LANE_TITLES), "all actors are gone")
    assert {event.key for event in watch.of("started")} <= {"c0", "c1", "c2", "c3"}
    assert [event.key for event in watch.of("finished")] == ["c0", "c1", "c2"]
