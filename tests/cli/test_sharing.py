"""Scorings shared with processes beside a lane, on a real local Ray: the same records as alone, whoever computes."""

import logging
import re
from pathlib import Path
from typing import Any

import pytest

from al_ray.study import run as study_module
from tests.cli import saboteur
from tests.cli.conftest import computed
from tests.processes import ray_processes
from tests.waiting import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("private_ray")]

METHODS: list[dict[str, Any]] = [
    {"strategy": "margin"},
    {"precision": "bf16", "strategy": "badge", "finetune": {"epochs": 1, "frozen_layers": 2}},
    {"confidence": {"name": "ensemble", "n_members": 2}, "strategy": "bald"},
    {"confidence": {"name": "mc_dropout", "n_passes": 3}, "strategy": "stochastic_power"},
    {"confidence": {"name": "mc_dropout", "where": "head"}, "strategy": "batch_bald"},
    {"confidence": {"name": "adaptive_temperature", "where": "both"}, "strategy": "margin"},
]
SHARED = re.compile(r"([\d,]+) of ([\d,]+) batches were scored beside its lane, on (\d+) nodes")


def run_shared(path: Path, storage: Path, run_cell: Any, monkeypatch: pytest.MonkeyPatch, *options: str) -> list[str]:
    """Run a study of such cells and return what was logged."""
    monkeypatch.setattr(study_module, "run_cell", run_cell)
    return saboteur.run_with(path, storage, lambda event: None, *options, level=logging.INFO)


def test_shared_scorings_give_the_records_of_one_process_for_every_way_of_predicting(
    study: Any, al_ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = study(*METHODS, scoring_batch_size=8)
    assert al_ray("run", path, "--local", "--set", "tracking=off", "--storage", tmp_path / "alone").code == 0
    said = run_shared(path, tmp_path / "shared", saboteur.score_with_help, monkeypatch, "lanes=2", "scoring=cluster")
    assert computed(tmp_path / "shared") == computed(tmp_path / "alone")
    shared = [found for words in said if (found := SHARED.search(words))]
    # Two scorings of the test split and of the pool in each of two rounds at least, of each cell.
    assert len(shared) >= 4 * len(METHODS)
    assert all(int(found[1]) > 0 for found in shared)
    wait_until(lambda: not ray_processes("ray::MapWorker(MapBatches(ScoringActor))"), "the processes beside are gone")


def test_auto_measures_first_and_shares_what_is_long(
    study: Any, al_ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = study({"strategy": "margin"}, scoring_batch_size=8)  # batches: 8 of the test split, 18 of the pool at first
    assert al_ray("run", path, "--local", "--set", "tracking=off", "--storage", tmp_path / "alone").code == 0
    options = ("lanes=1", "scoring=auto")
    said = run_shared(path, tmp_path / "shared", saboteur.score_with_help_that_pays, monkeypatch, *options)
    assert computed(tmp_path / "shared") == computed(tmp_path / "alone")
    [began] = [
        words for words in said if "its pool is scored with 3 processes beside its lane (scoring: auto)" in words
    ]
    numbers = r"4 workers fit on the nodes, and lanes have 1 of them; the lane alone would take \d+ s more"
    assert re.search(numbers, began), began
    assert any((found := SHARED.search(words)) and int(found[1]) > 0 for words in said)


def test_two_workers_share_with_others_what_one_computes_alone(
    study: Any, al_ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = {"epochs": 1, "learning_rate": 1e-30, "validation_fraction": 0.0}  # so that both have the same weights
    path = study({"workers": [1, 2]}, finetune=stuck, scoring_batch_size=8)
    said = run_shared(path, tmp_path, saboteur.score_with_help, monkeypatch, "lanes=1", "scoring=cluster")
    records = computed(tmp_path)
    one, two = ({name.split("/")[1]: records[name] for name in records if f"workers={n}" in name} for n in (1, 2))
    assert len(one) == 7
    assert one == two
    assert sum(bool(SHARED.search(words)) for words in said) >= 8


def test_a_process_that_dies_with_a_share_costs_that_share_and_no_more(
    study: Any, al_ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = study({"strategy": "margin"}, scoring_batch_size=8)
    assert al_ray("run", path, "--local", "--set", "tracking=off", "--storage", tmp_path / "alone").code == 0
    said = run_shared(
        path, tmp_path / "shared", saboteur.lose_a_scoring_process, monkeypatch, "lanes=1", "scoring=cluster"
    )
    assert (tmp_path / "died").exists()
    assert computed(tmp_path / "shared") == computed(tmp_path / "alone")
    assert not any("tried again" in words for words in said)


def test_a_lane_goes_on_alone_where_the_processes_beside_it_cannot_compute(
    study: Any, al_ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = study({"strategy": "margin"}, scoring_batch_size=8)
    assert al_ray("run", path, "--local", "--set", "tracking=off", "--storage", tmp_path / "alone").code == 0
    options = ("lanes=1", "scoring=cluster")
    said = run_shared(path, tmp_path / "shared", saboteur.score_without_the_model, monkeypatch, *options)
    assert computed(tmp_path / "shared") == computed(tmp_path / "alone")
    [why] = [words for words in said if "the processes beside its lane failed, which goes on alone" in words]
    assert "model 'x' is not on this machine" in why


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            ("lanes=1", "cpus_per_worker=4", "scoring=cluster"),
            "its pool is scored by its lane alone: nothing is free beside the lanes",
        ),
        (("lanes=1", "scoring=auto"), "beside it are started where more than 15 s are left (scoring: auto)"),
    ],
)
def test_a_lane_that_scores_alone_says_why_once(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], reason: str
) -> None:
    path = study({"strategy": "margin"}, scoring_batch_size=8)
    said = run_shared(path, tmp_path, study_module.run_cell, monkeypatch, *options)
    assert sum(reason in words for words in said) == 1
    assert not any(SHARED.search(words) for words in said)
