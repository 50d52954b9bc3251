"""Lanes on a real local Ray: the same records as without it, whoever computes them."""

import json
from pathlib import Path

import pytest

from tests.pipelines.conftest import computed

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900), pytest.mark.usefixtures("private_ray")]


def test_a_one_worker_lane_and_local_give_the_same_records(study, al_ray, tmp_path: Path) -> None:
    path = study({"strategy": ["random", "margin"], "filters": [[], ["uncertainty_clipping"]]}, {"strategy": "passive"})
    run = ("run", path, "--set", "tracking=off", "--storage")
    assert al_ray(*run, tmp_path / "here", "--local").code == 0
    outcome = al_ray(*run, tmp_path / "lanes", "--set", "lanes=2")
    assert outcome.code == 0, outcome.text
    assert "5 of 5 cells to run; 2 at a time" in outcome.text
    assert computed(tmp_path / "lanes") == computed(tmp_path / "here")


METHODS = [
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
]


def test_every_way_of_predicting_gives_the_same_records_in_a_lane(study, al_ray, tmp_path: Path) -> None:
    path = study(*METHODS)
    run = ("run", path, "--set", "tracking=off", "--storage")
    assert al_ray(*run, tmp_path / "here", "--local").code == 0
    outcome = al_ray(*run, tmp_path / "lanes", "--set", "lanes=2")
    assert outcome.code == 0, outcome.text
    here, lanes = (computed(tmp_path / place) for place in ("here", "lanes"))
    assert len(here) >= len(METHODS) * 7
    assert lanes == here


def test_the_members_of_an_ensemble_are_the_same_on_one_worker_and_on_two(study, al_ray, tmp_path: Path) -> None:
    path = study({"workers": [1, 2]}, confidence={"name": "ensemble", "n_members": 3}, strategy="consensus_kl")
    outcome = al_ray("run", path, "--set", "tracking=off", "--storage", tmp_path)
    assert outcome.code == 0, outcome.text
    records = computed(tmp_path)
    one, two = (
        {name.split("/")[1]: value for name, value in records.items() if f"workers={n}" in name} for n in (1, 2)
    )
    assert len(one) == 7
    assert one == two


def test_two_workers_give_bit_equal_scores_and_learn(study, al_ray, tmp_path: Path) -> None:
    # A step of 1e-30 leaves every float32 weight as it is, so both cells score with the same weights.
    frozen = {"epochs": 1, "learning_rate": 1e-30, "validation_fraction": 0.0}
    blocks = [
        {"workers": [1, 2], "finetune": frozen},
        {"workers": 2, "finetune": {"epochs": 20, "learning_rate": 3e-3}},
    ]
    outcome = al_ray("run", study(*blocks), "--set", "tracking=off", "--storage", tmp_path)
    assert outcome.code == 0, outcome.text
    records = computed(tmp_path)
    ones = {name.split("/")[1]: value for name, value in records.items() if "workers=1" in name}
    twos = {
        name.split("/")[1]: value
        for name, value in records.items()
        if "learning_rate=1e_30" in name and "workers=2" in name
    }
    assert ones == twos
    assert len(ones) == 7  # four rounds, three of them with arrays
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
