"""Draft a project file for a pool that was looked at, with the comments that say why."""

import json
import shlex
import textwrap
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from al_ray.data.splits import yaml_text
from al_ray.model.recipe import FinetuneRecipe
from al_ray.project.file import DEFAULTS
from al_ray.study.spec import CellSpec

_MOST_FOR_TYPICLUST = 2_000  # texts that are read within seconds; nobody waits for the first query of more
_FEWEST_TO_MEASURE, _MOST_TO_MEASURE = 20, 200

# What a project is to do, in the words of its file: key -> (value, comment), in this order.
Settings = Mapping[str, tuple[str, str]]


def usual_settings(n_pool: int, n_classes: int, max_tokens: int) -> Settings:
    """Choose what fits a pool of so many texts."""
    size = max(2, min(20, n_pool // 20))
    first = max(size, min(2 * n_classes, n_pool // 4))
    n_measure = max(1, min(_MOST_TO_MEASURE, max(_FEWEST_TO_MEASURE, n_pool // 10), n_pool // 4))
    start = "typiclust" if n_pool <= _MOST_FOR_TYPICLUST else "random"
    why = "typical texts of every kind" if start == "typiclust" else "drawn at random"
    return {
        "model": ("minilm", "small and English; any encoder of the Hub, or a folder, can stand here"),
        "max_tokens": (str(max_tokens), "texts are cut to so many"),
        "finetune": ("{frozen_layers: all}", "a head on the encoder as it is: the next texts come at once"),
        "strategy": (str(DEFAULTS["strategy"]), "where the model wavers between two classes; see 'al-ray list'"),
        "filters": ("[near_duplicates]", "nobody is asked twice for nearly the same text"),
        "initial": (start, f"the first texts: {why}"),
        "initial_size": (str(first), ""),
        "query_size": (str(size), "texts of each later query"),
        "evaluation": (
            f"{{name: random_sample, n: {n_measure}}}",
            "labelled beside, to measure the model; it never learns from them",
        ),
    }


def draft_project(
    name: str, data: Mapping[str, str | None], classes: tuple[str, ...], settings: Settings, file: str, about: str
) -> str:
    """Write the project file.

    Args:
        name: of the project.
        data: path, and the columns that hold text, label and id; None where there is none.
        classes: names of all classes.
        settings: of the loop.
        file: where it will stand, for the commands in it.
        about: a comment about the data or the method.

    Returns:
        YAML that :func:`al_ray.project.file.load_project` takes as it is.
    """
    where = shlex.quote(file)
    option = ", ".join(f"{key}: {yaml_text(value)}" for key, value in data.items() if value is not None)
    lines = [
        "# Written by al-ray; yours to change. docs/label_your_pool.md says what every key means.",
        f"#   al-ray label {where}                 label in the browser",
        f"#   al-ray ask {where} --to query.csv    or in a spreadsheet, and back: al-ray tell {where} query.csv",
        f"#   al-ray status {where}                how far it is, how good the model is, when to stop",
        f"#   al-ray export {where} --to model     the model, its card, and all labels",
        f"project: {yaml_text(name)}",
        *textwrap.wrap(about, 116, initial_indent="# ", subsequent_indent="# "),
        f"data: {{{option}}}",
        f"classes: [{', '.join(map(yaml_text, classes))}]",
        *(f"{key}: {value}{f' # {comment}' if comment else ''}" for key, (value, comment) in settings.items()),
        "answers: people",
    ]
    return "\n".join(lines) + "\n"


def settings_of_cell(spec: CellSpec) -> Settings:
    """Return the settings by which a project works as a cell of a study does: its method, its learner, its sizes.

    A start that looks at labels is replaced: nobody has them before they are asked for.
    """
    values: dict[str, Any] = {
        "model": spec.model.name
        if spec.model.revision is None
        else {"name": spec.model.name, "revision": spec.model.revision},
        "max_tokens": spec.max_tokens,
        "finetune": _recipe_option(spec.finetune),
        "precision": spec.precision,
        "confidence": _option(spec.confidence),
        "strategy": _option(spec.strategy),
        "filters": [_option(each) for each in spec.filters],
        "initial": "random" if spec.initial.needs_truth else _option(spec.initial),
        "initial_size": spec.initial_size,
        "query_size": spec.query_size,
    }
    comments = {"evaluation": "labelled beside, to measure the model; it never learns from them"}
    if spec.initial.needs_truth:
        comments["initial"] = f"{spec.initial.name!r} of the study looks at labels, which nobody has here yet"
    values["evaluation"] = "random_sample" if spec.estimation is None else _option(spec.estimation)
    return {key: (_flow(value), comments.get(key, "")) for key, value in values.items()}


def _option(plugin: Any) -> Any:
    """Return the shortest option that builds a plug-in."""
    changed = {
        each.name: getattr(plugin, each.name) for each in fields(plugin) if getattr(plugin, each.name) != each.default
    }
    return {"name": plugin.name, **changed} if changed else plugin.name


def _recipe_option(recipe: FinetuneRecipe) -> dict[str, Any]:
    """Return the shortest option that builds a recipe."""
    stored = recipe.to_json()
    usual_kind = FinetuneRecipe.of({"frozen_layers": "all"}).to_json() | {"frozen_layers": 0, "lora": None}
    kinds = ("frozen_layers", "solver", "lora")
    kept = {key: stored[key] for key in kinds if key in stored and stored[key] != usual_kind[key]}
    usual = FinetuneRecipe.of(kept).to_json()
    return {**kept, **{key: value for key, value in stored.items() if key not in kept and usual.get(key) != value}}


def _flow(value: Any) -> str:
    """Write a value as YAML has it within a line."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_flow(inner)}' for key, inner in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_flow, value))}]"
    return yaml_text(value) if isinstance(value, str) else json.dumps(value)
