"""Study files: what is laid out, what is identity, and what bad ones are told."""

import json
from pathlib import Path
from typing import Any

import pytest

from al_ray.errors import ConfigError
from al_ray.experiment.canonical import fingerprint
from al_ray.experiment.spec import CellSpec, make_spec, read_spec
from al_ray.experiment.study_file import Execution, load_study, parse_study, set_options
from pipelines.cli import study_schema

STUDIES = sorted(Path("pipelines/studies").glob("*.yaml"))


def study_of(*blocks: dict[str, Any], **top: Any) -> dict[str, Any]:
    defaults = {"dataset": "tickets", "seed": 1, "strategy": "margin"}
    return {"study": "s", "defaults": defaults, "grid": list(blocks) or [{}]} | top


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_that_comes_along_is_valid(path: Path) -> None:
    study = load_study(path)
    assert study.cells
    assert study.description


def test_a_block_is_a_product_and_blocks_are_concatenated() -> None:
    study = parse_study(
        study_of(
            {"strategy": ["random", "margin"], "filters": [[], ["uncertainty_clipping"]], "seed": {"range": [5, 8]}},
            {"strategy": "entropy", "seed": [1, 2]},
        )
    )
    assert len(study.cells) == 2 * 2 * 3 + 2
    assert next(iter(study.cells)) == "tickets-minilm-softmax-random-s5"
    assert "tickets-minilm-softmax-margin-uncertainty_clipping-s7" in study.cells


def test_a_slug_names_whatever_else_tells_cells_apart() -> None:
    study = parse_study(study_of({"finetune": [{"learning_rate": 2e-5}, {"learning_rate": 5e-5}], "rounds": [3, 4]}))
    assert "tickets-minilm-softmax-margin-learning_rate=5e_05-rounds=4-s1" in study.cells


def test_finetune_options_are_merged_over_their_defaults() -> None:
    values = study_of({"finetune": {"epochs": 3}})
    values["defaults"]["finetune"] = {"learning_rate": 1e-4, "epochs": 8}
    (spec,) = parse_study(values).cells.values()
    assert (spec.finetune.learning_rate, spec.finetune.epochs) == (1e-4, 3)


def test_numbers_like_2e_5_are_numbers(tmp_path: Path) -> None:
    text = "study: s\ngrid:\n  - {dataset: tickets, strategy: margin, seed: 1, finetune: {learning_rate: 2e-5}}\n"
    (spec,) = load_study(write(tmp_path, text)).cells.values()
    assert spec.finetune.learning_rate == 2e-5


def test_a_spec_reads_back_equal_and_its_fingerprint_hangs_on_every_field() -> None:
    spec = make_spec(study_of()["defaults"], "here")
    assert read_spec(json.loads(json.dumps(spec.to_json()))) == spec
    changes: dict[str, Any] = {
        "dataset": "trec6", "dataset_sha256": "x", "model": "bert-base-uncased", "max_tokens": 61, "precision": "bf16",
        "finetune": {"epochs": 9}, "scoring_batch_size": 65, "strategy": "entropy", "filters": ["uncertainty_clipping"],
        "stopping": ["pool_exhausted"], "initial": "random", "initial_size": 26, "query_size": 26, "rounds": 21,
        "seed": 2, "workers": 2, "confidence": "mc_dropout", "evaluation": "plain",
    }  # fmt: skip
    only_choice = {"oracle"}
    assert set(changes) | only_choice == set(CellSpec.model_fields)
    prints = {fingerprint(make_spec(study_of()["defaults"] | {k: v}, "here").to_json()) for k, v in changes.items()}
    assert len(prints | {fingerprint(spec.to_json())}) == len(changes) + 1


def test_a_stored_spec_of_another_version_is_refused() -> None:
    with pytest.raises(ConfigError, match="has version 99, this al_ray reads version 3"):
        read_spec({"spec_version": 99})


BAD_CELLS = [
    ({"strategy": "margn"}, r"grid block 1: unknown query strategy 'margn'. Did you mean 'margin'\? Known: .*entropy"),
    ({"confidence": "softmx"}, r"unknown confidence 'softmx'. Did you mean 'softmax'\?"),
    ({"filters": ["uncertainty_cliping"]}, r"unknown filter 'uncertainty_cliping'. Did you mean 'uncertainty_clip"),
    ({"stratgy": "margin"}, r"grid block 1: unknown key 'stratgy'. Did you mean 'strategy'\?"),
    ({"finetune": {"learning_rat": 1e-5}}, r"unknown option of finetune: 'learning_rat'. Did you mean 'learning_rate'"),
    ({"finetune": {"learning_rate": "fast"}}, r"option 'learning_rate' of finetune is 'fast'"),
    ({"finetune": 3}, r"finetune is 3, it must be a mapping of options"),
    ({"seed": "one"}, r"seed is 'one': input should be a valid integer"),
    ({"rounds": 2.5}, r"rounds is 2.5: input should be a valid integer"),
    ({"query_size": 0}, r"query_size is 0: input should be greater than or equal to 1"),
    ({"precision": "fp8"}, r"precision is 'fp8': input should be 'float32' or 'bf16'"),
    ({"model": {"name": "minilm", "initt": "random"}}, r"unknown key 'initt'. Did you mean 'init'\?"),
    ({"dataset": 3}, r"a data set is a name or a mapping with a 'name', found 3"),
    ({"seed": {"range": [5, 5]}}, r"seed is \{range: \[5, 5\]\}. A range has two whole numbers"),
    ({"strategy": []}, r"strategy is an empty list, so the block has no cells"),
    ({"strategy": "passive", "filters": ["uncertainty_clipping"]}, r"strategy 'passive' labels everything, so the"),
    ({"filters": ["uncertainty_clipping", "uncertainty_clipping"]}, r"filters names 'uncertainty_clipping' twice"),
    ({"strategy": "bald"}, r"strategy 'bald' needs at least 2 draws per example, but confidence 'softmax' gives 1"),
    ({"strategy": "batch_bald", "confidence": "mc_dropout"}, r"'batch_bald' needs draws that are one model"),
    ({"strategy": "stochastic_power"}, r"strategy 'stochastic_power' needs at least 2 draws"),
    ({"strategy": "own_uncertainty"}, r"own uncertainty, which 'softmax' does not have. .*evidential"),
    ({"strategy": {"name": "label_dispersion", "n_watched": 9}}, r"watches 9 examples, fewer than query_size \(25\)"),
    ({"strategy": "typiclust", "filters": ["first_peak"]}, r"'first_peak' removes the top of the ranking, but"),
    ({"strategy": "random", "filters": ["unsure_subsample"]}, r"'random' does not score the pool. Use 'random_sub"),
    ({"seed": [1, 1]}, r"the cell tickets-minilm-softmax-margin-s1 is in the grid already"),
]  # fmt: skip


@pytest.mark.parametrize(("cell", "message"), BAD_CELLS, ids=lambda value: str(value)[:40])
def test_a_bad_cell_is_told_what_would_be_right(cell: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_study(study_of(cell))


def test_all_problems_of_a_grid_are_said_at_once() -> None:
    with pytest.raises(
        ConfigError, match=r"(?s)block 1: unknown query strategy 'a'.*block 2: unknown query strategy 'b'"
    ):
        parse_study(study_of({"strategy": "a"}, {"strategy": "b"}))


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"the key 'seed' is missing. Name it in the block or in 'defaults'"):
        parse_study({"study": "s", "grid": [{"dataset": "tickets", "strategy": "margin"}]})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("study: a\nstudy: b\ngrid: [{}]", "the key 'study' stands twice"),
        ("study: [", "is not YAML"),
        ("- a", "holds a list, a study is a mapping"),
        ("study: a/b\ngrid: [{dataset: tickets}]", "it names a folder, so use letters"),
        ("study: a\ngird: [{}]", r"unknown key 'gird'. Did you mean 'grid'\?"),
        ("study: a\ngrid: []", "grid is"),
        ("study: !!python/object/apply:os.system ['true']\ngrid: [{}]", "is not YAML"),
    ],
)
def test_a_bad_study_file_gets_a_sentence(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_study(write(tmp_path, text))


def test_a_study_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no study file"):
        load_study(tmp_path / "nothing.yaml")


def test_set_changes_execution_only() -> None:
    execution = set_options(Execution(), ["lanes=3", "gpus_per_worker=1", "storage=s3://bucket/x"])
    assert (execution.lanes, execution.gpus_per_worker, execution.storage) == (3, 1.0, "s3://bucket/x")
    with pytest.raises(ConfigError, match="--set 'seed=3' would change what is computed"):
        set_options(Execution(), ["seed=3"])
    with pytest.raises(ConfigError, match=r"unknown key 'lnes'. Did you mean 'lanes'\?"):
        set_options(Execution(), ["lnes=3"])
    with pytest.raises(ConfigError, match="lanes is 'many'"):
        set_options(Execution(), ["lanes=many"])
    with pytest.raises(ConfigError, match="has no '='"):
        set_options(Execution(), ["lanes"])


def test_the_json_schema_for_editors_knows_every_key() -> None:
    schema = study_schema()
    assert set(schema["properties"]["grid"]["items"]["properties"]) == set(CellSpec.model_fields)
    json.dumps(schema)
