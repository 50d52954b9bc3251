"""A study whose processes are killed while it runs ends with the very records of one that nobody disturbed."""

import functools
from pathlib import Path
from typing import Any

import pytest

from al_ray.study import run as study_module
from tests.cli import saboteur
from tests.cli.conftest import computed
from tests.cli.saboteur import Saboteur, run_with
from tests.processes import LANE_TITLES, ray_processes
from tests.waiting import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("private_ray")]


@pytest.fixture
def cells(study: Any) -> Path:
    path: Path = study({"seed": [1, 2, 3, 4]}, rounds=4)
    return path


def test_killed_workers_trials_controllers_exchanges_and_data_tasks_cost_no_round(
    cells: Path, al_ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert al_ray("run", cells, "--local", "--storage", tmp_path / "calm", "--set", "tracking=off").code == 0
    fragile = functools.partial(saboteur.dies_once, been_here=tmp_path / "tokenised")
    tokenize = study_module.tokenize_table
    monkeypatch.setattr(
        study_module,
        "tokenize_table",
        lambda table, **options: fragile(table, functools.partial(tokenize, **options)),
    )
    listener = Saboteur([])
    # Where the exchange dies, the driver starts the whole grid again.
    listener.strikes = [listener.worker_of, saboteur.trials, saboteur.controllers, saboteur.exchanges]
    run_with(cells, tmp_path / "stormy", listener, "lanes=1")
    assert (tmp_path / "tokenised").exists()
    assert len(listener.killed) == 4
    assert len(listener.of("started")) > 4
    assert not listener.of("failed")
    assert computed(tmp_path / "stormy") == computed(tmp_path / "calm")
    wait_until(lambda: not ray_processes(*LANE_TITLES), "all actors are gone")
