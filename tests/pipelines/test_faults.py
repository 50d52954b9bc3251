"""A study whose processes are killed while it runs ends with the very records of one that nobody disturbed."""

import functools
from pathlib import Path
from typing import Any

import pytest

from al_ray.experiment import study as study_module
from tests.pipelines import saboteur
from tests.pipelines.conftest import computed
from tests.pipelines.saboteur import Saboteur, ray_processes, run_with, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600), pytest.mark.usefixtures("private_ray")]

OURS = ("ray::LaneTrial", "ray::RayTrainWorker", "ray::TrainController", "ray::ExchangeState", "ray::DatasetManager")


@pytest.fixture
def cells(study: Any) -> Path:
    path: Path = study({"seed": [1, 2, 3, 4]}, rounds=4)
    return path


@pytest.fixture
def undisturbed(cells: Path, al_ray: Any, tmp_path: Path) -> dict[str, Any]:
    assert al_ray("run", cells, "--local", "--storage", tmp_path / "calm", "--set", "tracking=off").code == 0
    return computed(tmp_path / "calm")


def test_killed_workers_trials_controllers_and_data_tasks_cost_no_round(
    cells: Path, undisturbed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fragile = functools.partial(saboteur.dies_once, been_here=tmp_path / "tokenised")
    tokenize = study_module.tokenize_table
    monkeypatch.setattr(
        study_module,
        "tokenize_table",
        lambda table, **options: fragile(table, functools.partial(tokenize, **options)),
    )
    listener = Saboteur([])
    # A controller that dies leaves what its workers held: twice is more than this Ray of 4 CPUs could lose.
    listener.strikes = [listener.worker_of, saboteur.a_trial, saboteur.a_controller, saboteur.a_controller]
    run_with(cells, tmp_path / "stormy", listener, "lanes=3")
    assert (tmp_path / "tokenised").exists()
    assert len(listener.killed) == 4
    assert len(listener.of("started")) > 4
    assert not listener.of("failed")
    assert computed(tmp_path / "stormy") == undisturbed
    wait_until(lambda: not any(map(ray_processes, OURS)), "all actors are gone")


def test_a_grid_that_lost_its_exchange_starts_again_by_itself(
    cells: Path, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    listener = Saboteur([saboteur.the_exchange], seed=1)
    run_with(cells, tmp_path / "out", listener, "lanes=2")
    assert len(listener.killed) == 1
    assert not listener.of("failed")
    assert computed(tmp_path / "out") == undisturbed
