"""The recipe refuses what cannot be run."""

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from al_ray.errors import ConfigError
from al_ray.model.recipe import FinetuneRecipe


def test_the_defaults_are_the_protocol_of_the_paper() -> None:
    recipe = FinetuneRecipe()
    assert (recipe.learning_rate, recipe.epochs, recipe.batch_size) == (2e-5, 10, 32)
    assert (recipe.schedule, recipe.gradient_clip) == ("constant", 1.0)
    assert (recipe.validation_fraction, recipe.patience) == (0.1, 5)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", 1.0),
        ("learning_rate", float("nan")),
        ("epochs", 0),
        ("batch_size", 0),
        ("weight_decay", -0.1),
        ("schedule", "cosine"),
        ("warmup_fraction", 1.5),
        ("gradient_clip", -1.0),
        ("gradient_clip", float("inf")),
        ("validation_fraction", 0.6),
        ("patience", -1),
        ("class_weights", "sqrt"),
        ("frozen_layers", -1),
    ],
)
def test_a_value_out_of_range_is_refused_with_field_value_and_range(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"option '{field}' of the fine-tuning recipe is .* It must be "):
        FinetuneRecipe(**{field: value})


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        FinetuneRecipe().epochs = 3  # type: ignore[misc]


def test_recipe_and_source_do_not_import_torch() -> None:
    code = (
        "import sys, al_ray.model.recipe, al_ray.model.source, al_ray.model.tokens, al_ray.model.worker;"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_frozen_learner_has_defaults_of_its_own_and_what_is_said_beside_them_counts() -> None:
    recipe = FinetuneRecipe.of({"frozen_layers": "all", "epochs": 7})
    assert recipe.is_frozen
    assert (recipe.epochs, recipe.learning_rate, recipe.validation_fraction) == (7, 0.05, 0.0)
    assert FinetuneRecipe.of({}) == FinetuneRecipe()
    assert FinetuneRecipe.of({"frozen_layers": 2}).learning_rate == FinetuneRecipe().learning_rate


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"learning_rate": 1e-4, "epochs": 3},
        {"frozen_layers": 4},
        {"frozen_layers": "all"},
        {"frozen_layers": "all", "features": "first_token", "epochs": 9},
        {"frozen_layers": "all", "solver": "lbfgs", "l2": 2.0, "class_weights": "balanced"},
        {"frozen_layers": "all", "n_components": 32},
        {"frozen_layers": "all", "solver": "lbfgs", "n_components": 2},
    ],
    ids=str,
)
def test_a_recipe_comes_back_from_its_json_form(options: dict[str, Any]) -> None:
    recipe = FinetuneRecipe.of(options)
    stored = recipe.to_json()
    assert FinetuneRecipe.of(stored) == recipe
    assert FinetuneRecipe.of(stored).to_json() == stored
    assert stored.items() >= options.items()


def test_the_json_form_of_full_fine_tuning_is_that_of_the_first_edition() -> None:
    assert set(FinetuneRecipe().to_json()) == {
        "learning_rate", "epochs", "batch_size", "weight_decay", "schedule", "warmup_fraction", "gradient_clip",
        "validation_fraction", "patience", "class_weights", "frozen_layers",
    }  # fmt: skip
    assert FinetuneRecipe(frozen_layers=2).to_json()["frozen_dropout"] is False  # there it was another computation


@pytest.mark.parametrize("solver", ["adamw", "lbfgs"])
def test_a_recipe_of_all_features_is_stored_as_before_there_was_a_choice(solver: str) -> None:
    plain = FinetuneRecipe.of({"frozen_layers": "all", "solver": solver})
    assert "n_components" not in plain.to_json()
    assert FinetuneRecipe.of({"frozen_layers": "all", "solver": solver, "n_components": None}) == plain
    assert FinetuneRecipe.of({"frozen_layers": 2, "n_components": None}) == FinetuneRecipe.of({"frozen_layers": 2})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"solver": "lbfgs"},
            r"option 'solver' is 'lbfgs', which only the frozen learner has.*add 'frozen_layers: all'",
        ),
        ({"frozen_layers": 3, "features": "mean"}, r"option 'features' is 'mean', which only the frozen learner has"),
        (
            {"frozen_layers": "all", "l2": 1.0},
            r"option 'l2' is 1.0, which has no meaning with 'solver: adamw'.*use 'sol",
        ),
        (
            {"frozen_layers": "all", "solver": "lbfgs", "epochs": 3},
            r"option 'epochs' is 3, which has no meaning with 'solver: lbfgs'. Drop it, from 'defaults' too, or use 's",
        ),
        ({"n_components": 32}, r"option 'n_components' is 32, which only the frozen learner has"),
        ({"lora": {}, "n_components": 32}, r"option 'n_components' is 32, which only the frozen learner has"),
        ({"frozen_layers": "all", "n_components": 0}, r"option 'n_components' of .*0"),
        ({"frozen_layers": "most"}, r"option 'frozen_layers' of finetune is 'most'.*int \| 'all'"),
        (
            {"frozen_layers": "all", "features": "max"},
            r"option 'features' of finetune is 'max'. It must be 'mean' or 'f",
        ),
    ],
    ids=str,
)
def test_an_option_without_a_meaning_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FinetuneRecipe.of(options)
