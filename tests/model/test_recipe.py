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
