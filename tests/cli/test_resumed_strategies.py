"""Strategies and filters that read earlier rounds or a model of their own: a killed cell asks what it would have."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from al_ray.model.classifier import RoundClassifier
from al_ray.runtime.tasks import CellTask
from al_ray.study import cell, run
from tests.cli.conftest import computed

TUNED = {"epochs": 1, "learning_rate": 1e-3}
LBFGS = {"frozen_layers": "all", "solver": "lbfgs"}
OPEN_SET = {"name": "tickets", "n_train": 160, "n_test": 60, "no_class_fraction": 0.3}
ARMS = ["margin", "badge", "random"]


@pytest.mark.parametrize(
    "changes",
    [
        {"strategy": {"name": "tailor", "arms": ARMS}, "dataset": OPEN_SET},
        {"strategy": {"name": "ucb", "arms": ARMS}},
        {"strategy": {"name": "epsilon_greedy", "arms": ARMS}},
        {"strategy": {"name": "switch", "after": 35}},
        {"strategy": {"name": "optimal", "n_annealed": 30, "n_greedy": 5}, "finetune": LBFGS},
        {"filters": ["exclude_hardest"], "dataset": OPEN_SET},
        {"filters": ["exclude_hardest"], "finetune": LBFGS},
        {"filters": ["exclude_hardest"], "finetune": TUNED, "evaluation": "plain", "confidence": "label_smoothing"},
        {"strategy": "tidal"},
        {"strategy": "tidal", "finetune": TUNED},
        {"strategy": "open_set_margin", "dataset": OPEN_SET, "initial": "dual_diversity"},
    ],
)
@pytest.mark.parametrize("dies_in", [2, 3])
def test_a_cell_that_is_killed_between_rounds_asks_for_what_it_would_have(
    changes: dict[str, Any], dies_in: int, study, al_ray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_cell, finetune, fitted = cell.run_cell, RoundClassifier.finetune, list[int]()
    path = study(**{"finetune": {"frozen_layers": "all"}, **changes})
    arguments = ("run", path, "--local", "--set", "tracking=off", "--storage")
    assert al_ray(*arguments, tmp_path / "undisturbed").code == 0

    def die(self: RoundClassifier, *args: Any, round_index: int, **options: Any) -> Any:
        fitted.append(round_index)
        if fitted.count(dies_in) == 1 and round_index == dies_in:
            raise KeyboardInterrupt
        return finetune(self, *args, round_index=round_index, **options)

    def run_twice(task: CellTask, *rest: Any) -> Any:
        with pytest.raises(KeyboardInterrupt):
            run_cell(task, *rest)
        return run_cell(replace(task, attempt=2), *rest)

    monkeypatch.setattr(RoundClassifier, "finetune", die)
    monkeypatch.setattr(cell, "HOLD_S", 0.0)  # a folder for every cell
    monkeypatch.setattr(run, "run_cell", run_twice)
    assert al_ray(*arguments, tmp_path / "killed").code == 0
    of_killed = fitted[fitted.index(dies_in) + 1 :]
    assert 1 not in of_killed, "earlier rounds were read, not fitted again"
    assert computed(tmp_path / "killed") == computed(tmp_path / "undisturbed")
