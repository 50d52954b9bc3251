"""The JSON schema of study files, as an editor uses it: what it completes, what it accepts, what it marks."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from al_ray.confidence import confidences
from al_ray.data import datasets
from al_ray.data.files import PathSource
from al_ray.filtering import filters
from al_ray.initial import initial_queries
from al_ray.model.recipe import FinetuneRecipe
from al_ray.oracle import oracles
from al_ray.registry import option_of
from al_ray.stopping import stopping_rules
from al_ray.strategy import strategies
from al_ray.study.file import Execution, Study, load_study, read_yaml, study_schema
from al_ray.study.spec import CellSpec, ModelSpec
from tests.study.study_texts import study_of

SCHEMA = study_schema()
STUDIES = sorted(Path("pipelines/studies").glob("*.yaml"))
FAMILIES = {
    "confidence": confidences, "strategy": strategies, "filters": filters, "stopping": stopping_rules,
    "initial": initial_queries, "dataset": datasets, "oracle": oracles,
}  # fmt: skip
PLUGINS = [(key, name) for key, family in FAMILIES.items() for name in family.names()]


def schemas_within(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield all schemas that a value under a schema may match, references resolved."""
    while "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    yield schema
    for part in [*schema.get("anyOf", ()), *schema.get("oneOf", ()), *([schema["items"]] if "items" in schema else ())]:
        yield from schemas_within(part)


def completed(key: str, name: str) -> dict[str, Any]:
    """Return what an editor completes in ``key: {name: NAME, ...}`` of a grid block: option -> schema."""
    block = SCHEMA["properties"]["grid"]["items"]["properties"]
    found = [s for s in schemas_within(block[key]) if s.get("properties", {}).get("name", {}).get("const") == name]
    assert found
    assert found[0]["additionalProperties"] is False
    return {option: schema for option, schema in found[0]["properties"].items() if option != "name"}


def is_valid(values: Any) -> bool:
    return Draft202012Validator(SCHEMA).is_valid(values)


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(json.loads(json.dumps(SCHEMA, allow_nan=False)))


def test_an_editor_completes_the_options_of_lora() -> None:
    finetune = SCHEMA["properties"]["defaults"]["properties"]["finetune"]
    option = next(schema["properties"]["lora"] for schema in schemas_within(finetune) if "properties" in schema)
    lora = next(schema for schema in schemas_within(option) if "properties" in schema)
    assert lora["properties"].keys() == {"rank", "alpha", "dropout", "targets"}
    assert lora["additionalProperties"] is False
    assert "low-rank" in option["description"]


def test_an_editor_completes_fraction_under_uncertainty_clipping() -> None:
    assert completed("filters", "uncertainty_clipping") == {
        "fraction": {
            "title": "Fraction",
            "type": "number",
            "minimum": 0,
            "exclusiveMaximum": 1,
            "default": 0.05,
            "description": "share of the candidates to leave out, in [0, 1); 0 is the identity.",
        }
    }


def test_choices_are_enumerated() -> None:
    assert completed("confidence", "mc_dropout")["where"]["enum"] == ["network", "head"]
    over = completed("strategy", "stochastic_power")["over"]["enum"]
    assert {"bald", "entropy", "margin"} < set(over) < set(strategies.names())
    assert not {"badge", "passive", "stochastic_power"} & set(over)


@pytest.mark.parametrize(("key", "name"), PLUGINS)
def test_every_option_of_every_plugin_has_a_type_a_default_and_a_description(key: str, name: str) -> None:
    options, cls = completed(key, name), FAMILIES[key].get(name)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    assert set(options) == set(fields)
    for option, schema in options.items():
        assert schema["description"]
        assert {"type", "enum", "anyOf"} & set(schema)
        default = json_form(fields[option].default)
        assert schema.get("default", dataclasses.MISSING) == default


def json_form(default: Any) -> Any:
    if type(default) is tuple:
        return [json_form(each) for each in default]
    return option_of(default) if hasattr(default, "name") else default


def test_strategies_within_strategies_are_completed_and_go_no_deeper() -> None:
    within = next(iter(schemas_within(completed("strategy", "tailor")["arms"]["items"])))
    names = {option["const"] for option in within["anyOf"] if "const" in option}
    assert {"margin", "badge", "typiclust"} < names < set(strategies.names())
    assert not {"tailor", "mixture", "switch", "passive", "optimal"} & names


def test_every_key_outside_plugins_has_a_description() -> None:
    blocks = SCHEMA["properties"]["grid"]["items"]["properties"], SCHEMA["properties"]["defaults"]["properties"]
    by_path = next(s for s in schemas_within(blocks[0]["dataset"]) if "path" in s.get("properties", {}))
    recipe = next(s for s in schemas_within(blocks[0]["finetune"]) if "epochs" in s.get("properties", {}))
    model = next(s for s in schemas_within(blocks[0]["model"]) if "revision" in s.get("properties", {}))
    for keys, cls in (
        *((block, CellSpec) for block in blocks),
        (SCHEMA["properties"], Study),
        (SCHEMA["$defs"]["Execution"]["properties"], Execution),
        (model["properties"], ModelSpec),
        (recipe["properties"], FinetuneRecipe),
        (by_path["properties"], PathSource),
    ):
        expected = getattr(cls, "model_fields", None) or [field.name for field in dataclasses.fields(cls)]
        assert list(keys) == list(expected)
        assert all(schema["description"] for schema in keys.values())


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_that_comes_along_matches_the_schema(path: Path) -> None:
    assert is_valid(read_yaml(path.name, path.read_text()))


RIGHT: list[dict[str, Any]] = [
    {"filters": [{"name": "uncertainty_clipping", "fraction": 0.1}]},
    {"filters": [[], ["near_duplicates", {"name": "first_peak", "cap": 0.1}]]},
    {"strategy": ["margin", {"name": "cal", "n_neighbors": 5}], "seed": {"range": [0, 5]}},
    {"seed": [1, 2], "rounds": [3, 4], "model": ["minilm", {"name": "minilm", "init": "random"}]},
    {"stopping": [{"name": "label_budget", "n_labels": 100}]},
    {"finetune": [{"epochs": 3}, {"epochs": 5, "schedule": "linear"}]},
    {"dataset": ["tickets", {"name": "tickets", "seed": 7}, "a/data.csv", {"path": "a/data", "text": "body"}]},
    {"confidence": {"name": "mc_dropout", "rate": None}},
    {"precision": {"cpu": "float32", "cuda": "bf16"}},
    {"precision": ["float32", {"cpu": "bf16"}]},
]


@pytest.mark.parametrize("block", RIGHT, ids=str)
def test_what_a_study_may_say_matches_the_schema(block: dict[str, Any]) -> None:
    assert is_valid(study_of(block))
    if "strategy" not in block:  # a strategy may ask for features that the other axes do not have
        load_study(study_of(block))


WRONG: list[dict[str, Any]] = [
    {"filters": [{"name": "uncertainty_clipping", "fracton": 0.1}]},
    {"filters": [{"name": "uncertainty_clipping", "fraction": 1.0}]},
    {"filters": [{"name": "uncertainty_clipping", "fraction": "0.1"}]},
    {"filters": ["uncertainty_cliping"]},
    {"filters": "uncertainty_clipping"},
    {"strategy": [{"name": "uncertainty_clipping"}]},
    {"strategy": {"name": "stochastic_power", "over": "badge"}},
    {"stopping": ["label_budget"]},
    {"finetune": {"epochs": 0}},
    {"finetune": {"epoch": 3}},
    {"confidence": {"name": "mc_dropout", "where": "logits"}},
    {"dataset": {"name": "tickets", "sed": 7}},
    {"dataset": {"path": "a", "txt": "body"}},
    {"model": {"name": "minilm", "initt": "random"}},
    {"query_size": 0},
    {"precision": "fp16"},
    {"precision": {"gpu": "bf16"}},
    {"precision": {"cpu": "fp16"}},
    {"precision": {}},
    {"seed": {"range": [1]}},
    {"seed": []},
    {"sed": 1},
]


@pytest.mark.parametrize("block", WRONG, ids=str)
def test_what_a_study_may_not_say_is_marked(block: dict[str, Any]) -> None:
    assert not is_valid(study_of(block))


def test_a_wrong_name_of_a_study_is_marked() -> None:
    assert is_valid(study_of(study="my-study_1.0"))
    assert not is_valid(study_of(study="-my study"))


def test_wrong_execution_is_marked() -> None:
    assert is_valid(study_of(execution={"lanes": 2}))
    assert not is_valid(study_of(execution={"lnes": 2}))
    assert not is_valid(study_of(execution={"lanes": 0}))
