"""Studies of quick cells: packed, in folders where they take long or fail, resumed, killed, spoiled."""

import math
import os
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import al_ray.runtime.tasks
import al_ray.study.cell
import al_ray.study.run
from al_ray.errors import ModelError, StorageError
from al_ray.records.cell import CellStore
from al_ray.records.packed import FilesOfCell, write_part
from al_ray.records.study import StudyStore, open_study
from al_ray.report.analysis import analyse
from al_ray.report.read import read_study
from al_ray.runtime.tasks import CellTask, ReportRound, RoundEnded
from al_ray.storage.folder import Folder
from tests.cli.conftest import Outcome, computed
from tests.processes import ray_processes
from tests.waiting import wait_until

FROZEN = {"frozen_layers": "all"}
GRID: dict[str, Any] = {"strategy": ["random", "margin"], "seed": [1, 2, 3]}


def folders(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if "--" in path.name)


def parts(root: Path) -> list[Path]:
    return sorted((root / "packed").glob("*.parquet"))


@pytest.fixture
def run(study, al_ray, tmp_path: Path):
    """Return a function that runs a study of six quick cells here, and its path."""
    path = study(GRID, finetune=FROZEN)

    def run_study(storage: str = "out", *options: object) -> Outcome:
        return al_ray("run", path, "--local", "--set", "tracking=off", "--storage", tmp_path / storage, *options)

    return run_study


@pytest.fixture(autouse=True)
def no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no cell get a folder, and no part be written, because this machine is slow."""
    for module in (al_ray.study.cell, al_ray.runtime.tasks):
        monkeypatch.setattr(module, "HOLD_S", math.inf)


def in_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every cell take longer than a quick one may."""
    monkeypatch.setattr(al_ray.study.cell, "HOLD_S", 0.0)


def test_quick_cells_leave_one_file_and_a_study_that_is_done(run, al_ray, tmp_path: Path) -> None:
    assert run().code == 0
    root = tmp_path / "out" / "tiny"
    assert folders(root) == []
    assert len(parts(root)) == 1
    assert len(computed(tmp_path / "out")) == 6 * 7
    assert "nothing to do" in run().text or "0 of 6 cells to run" in run().text
    assert "6 cells, 6 done" in al_ray("watch", "--once", root).text
    assert al_ray("report", root, "--tracking", "off").code == 0


def test_cells_that_take_long_get_a_folder_with_the_same_records(run, tmp_path: Path, monkeypatch) -> None:
    assert run("packed").code == 0
    in_folders(monkeypatch)
    assert run("folders").code == 0
    assert len(folders(tmp_path / "folders" / "tiny")) == 6
    assert parts(tmp_path / "folders" / "tiny") == []
    assert computed(tmp_path / "folders") == computed(tmp_path / "packed")


def test_a_cell_that_is_killed_in_its_folder_goes_on_there_and_tells_no_round_twice(
    run, tmp_path: Path, monkeypatch
) -> None:
    from al_ray.model.frozen import FrozenClassifier

    usual, run_cell, fits, told = FrozenClassifier.finetune, al_ray.study.cell.run_cell, list[int](), list[int]()

    def count(self: FrozenClassifier, *args: Any, **options: Any) -> Any:
        fits.append(1)
        return usual(self, *args, **options)

    def run_twice(task: CellTask, pool: Any, worker: Any, report: ReportRound) -> Any:
        def die_at_round_one(event: RoundEnded) -> None:
            told.append(event.round_index)
            if event.round_index == 1:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_cell(task, pool, worker, die_at_round_one)
        return run_cell(replace(task, attempt=2), pool, worker, lambda event: told.append(event.round_index))

    with monkeypatch.context() as patch:
        in_folders(patch)
        patch.setattr(FrozenClassifier, "finetune", count)
        patch.setattr(al_ray.study.run, "run_cell", run_twice)
        assert run("out", "--cell", "tickets-bert-softmax-margin-s2").code == 0
    assert told == [0, 1, 2, 3]
    assert len(fits) == 3
    assert run("out").code == run("undisturbed").code == 0
    assert computed(tmp_path / "out") == computed(tmp_path / "undisturbed")


def test_a_second_attempt_at_a_cell_without_a_folder_is_packed_like_a_first(run, tmp_path: Path, monkeypatch) -> None:
    run_cell = al_ray.study.cell.run_cell
    monkeypatch.setattr(al_ray.study.run, "run_cell", lambda task, *rest: run_cell(replace(task, attempt=2), *rest))
    assert run().code == 0
    assert folders(tmp_path / "out" / "tiny") == []


def test_what_a_pool_takes_before_the_first_round_makes_no_cell_a_long_one(run, tmp_path: Path, monkeypatch) -> None:
    usual, clock = al_ray.study.cell.make_classifier, [0.0]

    def slowly(*args: Any) -> Any:
        clock[0] += 100
        return usual(*args)

    monkeypatch.setattr(al_ray.study.cell, "HOLD_S", 10.0)
    monkeypatch.setattr(al_ray.study.cell, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(al_ray.study.cell, "make_classifier", slowly)
    assert run().code == 0
    assert folders(tmp_path / "out" / "tiny") == []


def test_a_study_may_hold_both_kinds(run, al_ray, tmp_path: Path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        in_folders(patch)
        assert run("out", "--cell", "tickets-bert-softmax-margin-s2").code == 0
    assert run().code == 0
    root = tmp_path / "out" / "tiny"
    assert len(folders(root)) == 1
    assert len(open_study(str(root)).cells()) == 6
    assert "6 cells, 6 done" in al_ray("watch", "--once", root).text
    assert al_ray("report", root, "--tracking", "off").code == 0
    assert run("alone").code == 0
    assert computed(tmp_path / "out") == computed(tmp_path / "alone")


def test_what_was_not_recorded_is_computed_again_and_is_the_same(run, tmp_path: Path, monkeypatch) -> None:
    """As after a kill: the cells are computed, and the part that would hold them is never written."""

    def die(study: Folder, cells: list[FilesOfCell]) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(al_ray.study.cell, "write_part", die)
        assert run().code == 130
    root = tmp_path / "out" / "tiny"
    assert parts(root) == []
    assert folders(root) == []
    assert "6 of 6 cells to run" in run().text
    assert run("undisturbed").code == 0
    assert computed(tmp_path / "out") == computed(tmp_path / "undisturbed")


def test_a_cell_that_fails_keeps_its_rounds_in_a_folder_and_goes_on_there(run, tmp_path: Path, monkeypatch) -> None:
    from al_ray.model.frozen import FrozenClassifier

    usual, fits = FrozenClassifier.finetune, []

    def fail_once(self: FrozenClassifier, *args: Any, **options: Any) -> Any:
        fits.append(1)
        if len(fits) == 2:
            raise ModelError("the loss is nan")
        return usual(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(FrozenClassifier, "finetune", fail_once)
        assert run().code == 2
    root = tmp_path / "out" / "tiny"
    (failed,) = folders(root)
    assert {"failed.json", "round-000.json", "round-001.json"} <= set(os.listdir(root / failed))
    assert "1 of 6 cells to run" in run().text
    assert len(folders(root)) == 1
    assert run("undisturbed").code == 0
    assert computed(tmp_path / "out") == computed(tmp_path / "undisturbed")


def test_a_part_that_is_damaged_stops_a_run_a_watch_and_a_report_with_its_name(run, al_ray, tmp_path: Path) -> None:
    assert run("out", "--cell", "tickets-bert-softmax-margin-s2").code == 0
    assert run().code == 0
    root = tmp_path / "out" / "tiny"
    first, _ = parts(root)
    whole = first.read_bytes()
    first.write_bytes(whole[:-50])
    for command in (lambda: al_ray("watch", "--once", root), lambda: al_ray("report", root), run):
        outcome = command()
        assert outcome.code == 1
        assert f"{first} is damaged" in outcome.text
    refused = al_ray("report", root).text
    assert f"1 part of packed cells in {root} cannot be read:" in refused
    assert f"or move {first} away, or leave them out with --skip-damaged." in refused
    left = al_ray("report", root, "--skip-damaged", "--tracking", "off")
    assert left.code == 0, left.text
    assert f"{first.name} was left out" in left.text
    cells = read_study(str(root), skip_damaged=True).cells.set_index("status")
    assert cells.loc["done", "n_rounds"].tolist() == [4] * 5
    assert f"lies in what cannot be read: {first} is damaged" in cells.at["failed", "reason"]
    first.unlink()
    assert "1 of 6 cells to run" in run().text
    assert run("undisturbed").code == 0
    assert computed(tmp_path / "out") == computed(tmp_path / "undisturbed")


def test_a_study_that_cannot_be_written_fails_the_cells_that_were_held(
    run, al_ray, tmp_path: Path, monkeypatch
) -> None:
    usual, tries = write_part, []

    def full_once(study: Folder, cells: list[FilesOfCell]) -> str:
        tries.append(len(cells))
        if len(tries) == 1:
            raise StorageError("6 cells were not recorded: no space left")
        return usual(study, cells)

    monkeypatch.setattr("al_ray.study.cell.write_part", full_once)
    outcome = run()
    assert outcome.code == 2
    assert "6 x storage" in outcome.text
    root = tmp_path / "out" / "tiny"
    assert "6 cells, 0 done, 0 running, 6 failed" in al_ray("watch", "--once", root).text
    assert set(read_study(str(root)).cells["status"]) == {"failed"}
    assert "6 of 6 cells to run" in run().text
    assert len(folders(root)) == 6
    assert list(root.rglob("failed.json")) == []
    assert "6 cells, 6 done" in al_ray("watch", "--once", root).text
    assert set(read_study(str(root)).cells["status"]) == {"done"}
    (first, *_) = open_study(str(root)).cells()
    assert first.provenance()[1]["after_failure"]["reason"]["kind"] == "storage"
    assert run("undisturbed").code == 0
    assert computed(tmp_path / "out") == computed(tmp_path / "undisturbed")


def test_a_cell_that_cannot_move_into_its_folder_has_failed_there(run, al_ray, tmp_path: Path, monkeypatch) -> None:
    usual, begun = CellStore.begin, list[str]()

    def full_once(self: CellStore, *args: Any) -> None:
        if isinstance(self.folder, Folder):
            begun.append(self.key)
            if len(begun) == 1:
                raise StorageError("the spec was not recorded: no space left")
        usual(self, *args)

    with monkeypatch.context() as patch:
        in_folders(patch)
        patch.setattr(CellStore, "begin", full_once)
        assert run("out", "--cell", "tickets-bert-softmax-margin-s2").code == 2
    root = tmp_path / "out" / "tiny"
    (cell,) = open_study(str(root)).cells()
    assert cell.progress() == ("failed", 0)
    assert run().code == 0
    assert folders(root) == [cell.key]
    assert list(root.rglob("failed.json")) == []
    assert run("undisturbed").code == 0
    assert computed(tmp_path / "out") == computed(tmp_path / "undisturbed")


@pytest.mark.ray
@pytest.mark.usefixtures("private_ray")
def test_two_lanes_pack_the_same_records_as_one_process_though_a_worker_is_killed(
    study, run, al_ray, tmp_path: Path
) -> None:
    assert run("here").code == 0
    killed: list[int] = []

    from al_ray.runtime.tasks import CellStarted
    from al_ray.study.file import load_study, set_options
    from al_ray.study.run import prepare

    def kill_at_the_second_cell(event: object) -> None:
        if isinstance(event, CellStarted) and not killed and len(ray_processes("ray::RayTrainWorker")) > 0:
            killed.append(event.where["pid"])
            os.kill(killed[0], signal.SIGKILL)

    loaded = load_study(tmp_path / "tiny.yaml")
    options = [f"storage={tmp_path / 'lanes'}", "lanes=2", "tracking=off"]
    prepare(loaded, set_options(loaded.execution, options)).run(kill_at_the_second_cell)
    wait_until(lambda: bool(killed), "a worker was killed")
    assert computed(tmp_path / "lanes") == computed(tmp_path / "here")
    assert folders(tmp_path / "lanes" / "tiny") == []
    store = StudyStore.open(str(tmp_path / "lanes"), "tiny")
    assert len(store.cells()) == 6


@pytest.mark.parametrize("solver", ["adamw", "lbfgs"])
def test_a_report_of_packed_cells_says_what_share_of_hard_texts_was_asked_for(
    solver: str, study, al_ray, tmp_path: Path
) -> None:
    grid = {"strategy": ["random", "margin", "passive"], "seed": [1]}
    path = study(grid, finetune={**FROZEN, "solver": solver})
    assert al_ray("run", path, "--local", "--set", "tracking=off", "--storage", tmp_path / "out").code == 0
    assert len(parts(tmp_path / "out" / "tiny")) == 1
    acquired = analyse(read_study(str(tmp_path / "out" / "tiny"))).acquired
    regions = acquired[acquired["what"] == "region"]
    mapped = ["hard to learn", *(["ambiguous"] if solver == "adamw" else []), "easy to learn"]
    assert regions["kind"].unique().tolist() == mapped
    assert regions.groupby("method")["share"].count().to_dict() == dict.fromkeys(
        ("pool", "softmax + margin", "softmax + random"), len(mapped)
    )
    assert regions.loc[regions["method"] == "pool", "share"].between(0.32, 1 / 3).all()
