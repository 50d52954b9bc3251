"""Scorings shared with processes beside a lane, on a real local Ray: the same records as alone, whoever computes."""

import logging
import re
from pathlib import Path
from typing import Any

import pytest

from al_ray.study import run as study_module
from tests.cli import saboteur
from tests.cli.conftest import computed

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
    """Run a study whose lanes share every scoring and return what was logged."""
    monkeypatch.setattr(study_module, "run_cell", run_cell)
    shared = ("scoring=cluster", *options)
    return saboteur.run_with(path, storage, lambda event: None, *shared, level=logging.INFO)


def test_shared_scorings_give_the_records_of_one_process_for_every_way_of_predicting(
    study: Any, al_ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = study(*METHODS, scoring_batch_size=8)
    assert al_ray("run", path, "--local", "--set", "tracking=off", "--storage", tmp_path / "alone").code == 0
    said = run_shared(path, tmp_path / "shared", saboteur.score_with_help, monkeypatch, "lanes=2")
    assert computed(tmp_path / "shared") == computed(tmp_path / "alone")
    shared = [found for words in said if (found := SHARED.search(words))]
    # Two scorings of the test split and of the pool in each of two rounds at least, of each cell.
    assert len(shared) >= 4 * len(METHODS)
    assert all(int(found[1]) > 0 for found in shared)


def test_two_workers_share_with_others_what_one_computes_alone(
    study: Any, al_ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = {"epochs": 1, "learning_rate": 1e-30, "validation_fraction": 0.0}  # so that both have the same weights
    path = study({"workers": [1, 2]}, finetune=stuck, scoring_batch_size=8)
    said = run_shared(path, tmp_path, saboteur.score_with_help, monkeypatch, "lanes=1")
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
    said = run_shared(path, tmp_path / "shared", saboteur.lose_a_scoring_process, monkeypatch, "lanes=1")
    assert (tmp_path / "died").exists()
    assert computed(tmp_path / "shared") == computed(tmp_path / "alone")
    assert not any("tried again" in words for words in said)


def test_a_lane_with_nothing_free_beside_it_scores_alone_and_says_so(
    study: Any, al_ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = study({"seed": [1, 2]}, scoring_batch_size=8)
    assert al_ray("run", path, "--local", "--set", "tracking=off", "--storage", tmp_path / "alone").code == 0
    said = run_shared(path, tmp_path / "full", study_module.run_cell, monkeypatch, "lanes=2", "cpus_per_worker=2")
    assert "nothing is free beside the lanes" in "\n".join(said)
