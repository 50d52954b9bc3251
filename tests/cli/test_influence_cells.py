"""Cells of EADA, influence selection, EV-GP and TiDAL: fine-tuned and frozen, in lanes as without Ray."""

from pathlib import Path

import pytest

from tests.cli.conftest import computed

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("private_ray")]

STRATEGIES = ["eada", "isal", "ev_gp", "tidal", {"name": "tidal", "by": "margin"}]
TUNED = {"epochs": 2, "learning_rate": 1e-3}
CELLS = [
    {"strategy": STRATEGIES, "finetune": TUNED},
    {"strategy": STRATEGIES, "finetune": {"frozen_layers": "all", "epochs": 5}},
    {"strategy": STRATEGIES[:3], "finetune": {"frozen_layers": "all", "solver": "lbfgs"}},
    {"strategy": "tidal", "confidence": {"name": "ensemble", "n_members": 2}, "finetune": TUNED},
    {"strategy": "eada", "confidence": {"name": "mc_dropout", "where": "head", "n_passes": 3}, "finetune": TUNED},
]


def test_fine_tuned_and_frozen_cells_give_the_same_records_in_a_lane_and_locally(study, al_ray, tmp_path: Path) -> None:
    run = ("run", study(*CELLS, finetune={}), "--set", "tracking=off", "--storage")
    outcome = al_ray(*run, tmp_path / "here", "--local")
    assert outcome.code == 0, outcome.text
    assert "15 of 15 cells to run" in outcome.text
    outcome = al_ray(*run, tmp_path / "lanes", "--set", "lanes=1")
    assert outcome.code == 0, outcome.text
    here, lanes = (computed(tmp_path / place) for place in ("here", "lanes"))
    assert len(here) >= 15 * 4
    assert lanes == here
    queries = {name: tuple(record["query"]["ids"]) for name, record in here.items() if name.endswith("-001.json")}
    assert len(set(queries.values())) > 8


def test_tidal_without_epochs_is_refused_before_anything_starts(study, al_ray, tmp_path: Path) -> None:
    path = study({"strategy": "tidal", "finetune": {"frozen_layers": "all", "solver": "lbfgs"}}, finetune={})
    outcome = al_ray("run", path, "--set", "tracking=off", "--storage", tmp_path, "--local")
    assert outcome.code != 0
    assert "without epochs for strategy 'tidal' to watch. Use 'solver: adamw'." in outcome.text
