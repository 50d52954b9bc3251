"""Lanes on a real local Ray: the same records as without it, whoever computes them."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import computed

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("private_ray")]


METHODS = [
    {"strategy": ["random", "margin"], "filters": [[], ["uncertainty_clipping"]]},
    {"strategy": "passive"},
    {"confidence": {"name": "ensemble", "n_members": 2}, "strategy": "bald"},
    {"confidence": "temperature_scaling", "strategy": "entropy"},
    {"confidence": {"name": "mc_dropout", "n_passes": 3}, "strategy": "stochastic_power"},
    {"confidence": {"name": "mc_dropout", "where": "head"}, "strategy": "batch_bald"},
    {"confidence": {"name": "adaptive_temperature", "where": "both"}, "strategy": "margin"},
    {"confidence": "evidential", "strategy": "own_uncertainty"},
    {"confidence": "gonsior2022/trust_score", "strategy": "gonsior2022/trust_score", "evaluation": "plain"},
    {"strategy": {"name": "label_dispersion", "n_watched": 40}},
    {"strategy": "typiclust", "initial": "kmeans", "filters": ["near_duplicates"]},
    {"strategy": "least_confidence", "filters": ["unsure_subsample"], "stopping": ["kappa_agreement"]},
    {"strategy": "badge", "filters": [{"name": "anchor_subpool", "size": 60}]},
    {"strategy": "open_set_margin", "initial": "dual_diversity"},
    {"strategy": "tailor"},
    {"strategy": "tidal", "filters": ["exclude_hardest"]},
    {"strategy": ["isal", "ev_gp", "eada", "ldm_s", "imital", "vessal"]},
    {
        "strategy": {"name": "optimal", "n_annealed": 30, "n_greedy": 5},
        "finetune": {"frozen_layers": "all", "n_components": 4},
    },
]


def test_a_one_worker_lane_and_local_give_the_same_records_for_every_way_of_predicting(
    study, al_ray, tmp_path: Path
) -> None:
    path = study(*METHODS)
    run = ("run", path, "--set", "tracking=off", "--storage")
    assert al_ray(*run, tmp_path / "here", "--local").code == 0
    outcome = al_ray(*run, tmp_path / "lanes", "--set", "lanes=2")
    assert outcome.code == 0, outcome.text
    assert "26 of 26 cells to run; 2 at a time" in outcome.text
    here, lanes = (computed(tmp_path / place) for place in ("here", "lanes"))
    assert len(here) == 25 * 7 + 3  # four rounds, three of them with arrays; the passive cell has two, one with arrays
    assert lanes == here


# A step of 1e-30 leaves every float32 weight as it is, so both cells score with the same weights.
FROZEN = {"epochs": 1, "learning_rate": 1e-30, "validation_fraction": 0.0}


def test_two_workers_give_bit_equal_scores_the_same_members_and_learn(study, al_ray, tmp_path: Path) -> None:
    path = study(
        {"workers": [1, 2], "finetune": FROZEN},
        {"workers": [1, 2], "confidence": {"name": "ensemble", "n_members": 3}, "strategy": "consensus_kl"},
        {"workers": 2, "finetune": {"epochs": 20, "learning_rate": 3e-3}},
    )
    outcome = al_ray("run", path, "--set", "tracking=off", "--storage", tmp_path)
    assert outcome.code == 0, outcome.text
    records = computed(tmp_path)

    def of(part: str, workers: int) -> dict[str, object]:
        chosen = {name for name in records if part in name and f"workers={workers}" in name}
        return {name.split("/")[1]: records[name] for name in chosen}

    for part in ("learning_rate=1e_30", "ensemble"):
        assert len(of(part, 1)) == 7  # four rounds, three of them with arrays
        assert of(part, 1) == of(part, 2)
    (learned,) = (json.loads(path.read_text()) for path in tmp_path.rglob("done.json") if "0.003" in str(path))
    (stuck, _) = (json.loads(path.read_text()) for path in tmp_path.rglob("done.json") if "1e_30" in str(path))
    assert learned["summary"]["final"]["loss"] < stuck["summary"]["final"]["loss"]


def test_mlflow_holds_what_the_records_hold_and_sync_adds_nothing(study, al_ray, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    path = study({"seed": [1, 2]})
    assert al_ray("run", path, "--local", "--storage", tmp_path).code == 0
    address = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(address)
    experiment = client.get_experiment_by_name("tiny")

    def points() -> dict[str, list[tuple[int, float]]]:
        runs = client.search_runs([experiment.experiment_id], "tags.`al_ray.cell` != ''")
        return {
            run.data.tags["al_ray.cell"]: [
                (m.step, m.value) for m in client.get_metric_history(run.info.run_id, "accuracy")
            ]
            for run in runs
        }

    before = points()
    assert len(before) == 2
    for cell, curve in before.items():
        rounds = [json.loads(p.read_text())["record"] for p in sorted((tmp_path / "tiny" / cell).glob("round-*.json"))]
        assert curve == [(r["n_labeled"], r["metrics"]["accuracy"]) for r in rounds if r["metrics"]]
    assert al_ray("sync", path, "--storage", tmp_path).code == 0
    assert points() == before
