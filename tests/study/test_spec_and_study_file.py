"""Study files: what is laid out, what is identity, and what bad ones are told."""

import dataclasses
import json
import math
import typing
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from al_ray.confidence import confidences
from al_ray.data import datasets
from al_ray.errors import ConfigError
from al_ray.filtering import filters
from al_ray.initial import initial_queries
from al_ray.model.recipe import FinetuneRecipe
from al_ray.records.cell import cell_key
from al_ray.records.json import canonical_json, cell_fingerprint, flatten
from al_ray.records.study import StudyStore
from al_ray.registry import Registry
from al_ray.report.read import _read_spec
from al_ray.stopping import stopping_rules
from al_ray.strategy import strategies
from al_ray.study.file import Execution, Study, load_study, set_options
from al_ray.study.spec import CellSpec, fingerprints, make_spec, once_a_kind, read_spec
from tests.study.study_texts import study_of, write

STUDIES = sorted(Path("pipelines/studies").glob("*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_that_comes_along_is_valid(path: Path) -> None:
    study = load_study(path)
    assert study.cells
    assert study.description


def test_a_block_is_a_product_and_blocks_are_concatenated() -> None:
    study = load_study(
        study_of(
            {"strategy": ["random", "margin"], "filters": [[], ["uncertainty_clipping"]], "seed": {"range": [5, 8]}},
            {"strategy": "entropy", "seed": [1, 2]},
        )
    )
    assert len(study.cells) == 2 * 2 * 3 + 2
    assert next(iter(study.cells)) == "tickets-minilm-softmax-random-s5"
    assert "tickets-minilm-softmax-margin-uncertainty_clipping-s7" in study.cells


def test_a_slug_names_whatever_else_tells_cells_apart() -> None:
    study = load_study(study_of({"finetune": [{"learning_rate": 2e-5}, {"learning_rate": 5e-5}], "rounds": [3, 4]}))
    assert "tickets-minilm-softmax-margin-learning_rate=5e_05-rounds=4-s1" in study.cells


def test_finetune_options_are_merged_over_their_defaults() -> None:
    values = study_of({"finetune": {"epochs": 3}})
    values["defaults"]["finetune"] = {"learning_rate": 1e-4, "epochs": 8}
    (spec,) = load_study(values).cells.values()
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
    prints = {make_spec(study_of()["defaults"] | {k: v}, "here").fingerprint() for k, v in changes.items()}
    assert len(prints | {spec.fingerprint()}) == len(changes) + 1


def test_once_the_content_is_known_neither_name_nor_path_is_identity() -> None:
    def known(dataset: Any, model: str, rows: str = "1", weights: str = "2", settings: str = "3", **more: Any) -> str:
        content = {"sha256": weights * 64, "settings_sha256": settings * 64}
        values = {"dataset": dataset, "dataset_sha256": rows * 64, "model": {"name": model, **content, **more}}
        return make_spec(study_of()["defaults"] | values, "here").fingerprint()

    one = known("a/data.csv", "models/bert")
    assert known({"path": "/b/data.csv", "text": "body", "name": "mine"}, "/elsewhere/bert") == one
    assert known("tickets", "minilm", revision="4" * 40) == one
    others = [known("a/data.csv", "models/bert", **{part: "9"}) for part in ("rows", "weights", "settings")]
    assert len({one, *others, known("a/data.csv", "models/bert", init="random")}) == 5


NUMBERS = (-(2**63), -1, 0, 1, 2, 7, 2**31, 2**63 - 1, 2**63, 2**80, -0.0, 1e-300, 0.5, 1.0, 1e308, math.inf, math.nan)
FAMILIES: dict[str, Any] = {
    "confidence": confidences, "strategy": strategies, "filters": filters, "stopping": stopping_rules,
    "initial": initial_queries, "dataset": datasets,
}  # fmt: skip


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """Return values of an option by its type, with numbers that no record holds among them."""
    if typing.get_origin(hint) is typing.Literal:
        return st.sampled_from(typing.get_args(hint))
    numbers = st.sampled_from(NUMBERS)
    if typing.get_origin(hint) is tuple:
        return st.lists(numbers, max_size=3)
    return st.none() | st.just("bald") if hint is str else numbers


@st.composite
def options(draw: st.DrawFn, family: Registry[Any]) -> dict[str, Any]:
    name = draw(st.sampled_from(family.names()))
    hints = typing.get_type_hints(family.get(name))
    fields = [field.name for field in dataclasses.fields(family.get(name))]
    chosen = draw(st.lists(st.sampled_from(fields), unique=True, max_size=2)) if fields else []
    return {"name": name, **{field: draw(values_of(hints[field])) for field in chosen}}


@st.composite
def cells(draw: st.DrawFn) -> dict[str, Any]:
    cell: dict[str, Any] = {"dataset": "tickets", "strategy": "margin", "seed": 1}
    for key in draw(st.lists(st.sampled_from(sorted(FAMILIES)), unique=True, max_size=2)):
        option = draw(options(FAMILIES[key]))
        cell[key] = [option] if key in ("filters", "stopping") else option
    whole = st.sampled_from([key for key, field in CellSpec.model_fields.items() if field.annotation is int])
    cell |= {key: draw(st.sampled_from(NUMBERS)) for key in draw(st.lists(whole, unique=True, max_size=2))}
    hints = typing.get_type_hints(FinetuneRecipe)
    chosen = draw(st.lists(st.sampled_from(sorted(hints)), unique=True, max_size=2))
    return {**cell, "finetune": {key: draw(values_of(hints[key])) for key in chosen}}


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cell=cells())
def test_whatever_a_plan_takes_is_read_again_from_records_and_by_reports(cell: dict[str, Any], tmp_path: Path) -> None:
    try:
        spec = make_spec(cell, "here")
    except ConfigError:
        return
    store = StudyStore.open(str(tmp_path), "s")
    store.claim()
    store.cell("cell", spec.fingerprint()).begin(spec.to_json(), {})
    found = store.find(cell_key("cell", spec.fingerprint()))
    assert found is not None
    stored = found.spec()
    assert read_spec(stored) == _read_spec("here", stored) == spec
    assert read_spec(stored).fingerprint() == cell_fingerprint(stored) == found.fingerprint
    assert "-0.0" not in canonical_json(stored)
    assert all(abs(leaf) < 2**63 for _, leaf in flatten(stored) if type(leaf) is int)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ({"seed": 2**63}, "seed is 9223372036854775808: input should be less than or equal to 9223372036854775807"),
        ({"rounds": 16**5000}, "rounds is a number of thousands of digits: input should be less than or equal to"),
        ({"finetune": {"epochs": 2**63}}, "is 9223372036854775808, and records hold whole numbers up to 92"),
        ({"filters": [{"name": "unsure_subsample", "full_rounds": [1, 2**64]}]}, "'full_rounds' of filter 'unsure_sub"),
        ({"stopping": [{"name": "overall_uncertainty", "threshold": math.inf}]}, "is inf, which no record can hold"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
)  # fmt: skip
def test_numbers_that_no_record_holds_are_refused_where_they_are_read(cell: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_study(study_of(cell))


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
    ({"evaluation": "gonsior2022"}, r"unknown evaluation 'gonsior2022'. Did you mean 'gonsior2022/plain'\?"),
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
        load_study(study_of(cell))


def test_all_problems_of_a_grid_are_said_at_once() -> None:
    with pytest.raises(
        ConfigError, match=r"(?s)block 1: unknown query strategy 'a'.*block 2: unknown query strategy 'b'"
    ):
        load_study(study_of({"strategy": "a"}, {"strategy": "b"}))


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"the key 'seed' is missing. Name it in the block or in 'defaults'"):
        load_study({"study": "s", "grid": [{"dataset": "tickets", "strategy": "margin"}]})


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


FROZEN = {"frozen_layers": "all"}
LBFGS = {**FROZEN, "solver": "lbfgs"}
WITHOUT_MEANING: list[tuple[dict[str, Any], str]] = [
    ({"finetune": FROZEN, "confidence": "mc_dropout"}, "no network to drop from. Use 'where: head'."),
    ({"finetune": FROZEN, "confidence": {"name": "adaptive_temperature", "where": "both"}}, "Use 'where: logits'."),
    ({"finetune": {"frozen_layers": 2}, "confidence": {"name": "adaptive_temperature", "where": "attention"}},
     "Use 'where: logits'."),
    ({"finetune": {"frozen_layers": 2}, "model": {"name": "minilm", "init": "random"}}, "Use 'init: pretrained'"),
    ({"finetune": FROZEN, "workers": 2}, "Use 'workers: 1' and more lanes."),
    ({"finetune": LBFGS, "confidence": "evidential"}, "has a loss of its own. Use 'solver: adamw'."),
    ({"finetune": LBFGS, "evaluation": "gonsior2022/plain"}, "has a loss of its own. Use 'solver: adamw'."),
    ({"finetune": LBFGS, "confidence": "ensemble"}, "would all be one model. Use 'solver: adamw'."),
    ({"finetune": LBFGS, "strategy": "label_dispersion"}, "to watch. Use 'solver: adamw'."),
    ({"finetune": LBFGS, "strategy": "tidal"}, "without epochs for strategy 'tidal' to watch. Use 'solver: adamw'."),
]  # fmt: skip


@pytest.mark.parametrize(("values", "advice"), WITHOUT_MEANING, ids=str)
def test_what_has_no_meaning_on_frozen_layers_is_refused_with_the_reason(values: dict[str, Any], advice: str) -> None:
    usual = {"dataset": "tickets", "strategy": "margin", "seed": 1}
    [problem] = make_spec({**usual, **values}, "here").conflicts()
    assert advice in problem


class TestAPrecisionForEachDevice:
    """``precision: {cpu: float32, cuda: bf16}`` in a study file."""

    BOTH: ClassVar[dict[str, Any]] = {"precision": {"cpu": "float32", "cuda": "bf16"}}

    def test_cells_without_a_gpu_are_those_of_a_study_that_says_float32(self) -> None:
        assert load_study(study_of(self.BOTH)).cells == load_study(study_of({"precision": "float32"})).cells

    @pytest.mark.parametrize("gpus", [1.0, 0.25])
    def test_cells_on_a_gpu_are_those_of_a_study_that_says_bf16(self, gpus: float) -> None:
        on_gpu = load_study(study_of(self.BOTH, execution={"gpus_per_worker": gpus}))
        assert on_gpu.cells == load_study(study_of({"precision": "bf16"})).cells

    def test_the_command_line_decides_where_the_file_says_otherwise(self) -> None:
        study = load_study(study_of(self.BOTH))
        on_gpu = study.laid_out_for(set_options(study.execution, ["gpus_per_worker=1"]))
        assert {spec.precision for spec in on_gpu.cells.values()} == {"bf16"}
        back = on_gpu.laid_out_for(set_options(on_gpu.execution, ["gpus_per_worker=0"]))
        assert back.cells == study.cells

    def test_a_study_with_one_precision_is_the_same_on_every_device(self) -> None:
        study = load_study(study_of({"precision": "bf16"}))
        assert study.laid_out_for(Execution(gpus_per_worker=1)) is study

    def test_it_may_stand_in_the_defaults_and_a_block_may_replace_it(self) -> None:
        defaults = {"dataset": "tickets", "seed": 1, "strategy": "margin", **self.BOTH}
        study = load_study(study_of({}, {"seed": 2, "precision": "float32"}, defaults=defaults))
        on_gpu = study.laid_out_for(Execution(gpus_per_worker=1))
        assert [spec.precision for spec in on_gpu.cells.values()] == ["bf16", "float32"]

    def test_one_for_the_device_that_is_used_is_enough(self) -> None:
        study = load_study(study_of({"precision": {"cuda": "bf16"}}))
        (spec,) = study.laid_out_for(Execution(gpus_per_worker=1)).cells.values()
        assert spec.precision == "bf16"

    @pytest.mark.parametrize(
        ("given", "gpus", "message"),
        [
            ("cuda", 0.0, r"^grid block 1: precision is \{'cuda': 'bf16'\} and says nothing of cpu, .*"
             r"gpus_per_worker is 0\. .* \{cpu: float32, cuda: bf16\}\. .* on a GPU: --set gpus_per_worker=1\.$"),
            ("cpu", 0.5, r"says nothing of cuda, .*gpus_per_worker is 0\.5\. .*processor: --set gpus_per_worker=0\.$"),
        ],
    )  # fmt: skip
    def test_none_for_the_device_that_is_used_is_an_error(self, given: str, gpus: float, message: str) -> None:
        study = load_study(study_of({"precision": {given: "bf16"}}))
        with pytest.raises(ConfigError, match=message):
            study.laid_out_for(Execution(gpus_per_worker=gpus))

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"gpu": "bf16"}, r"unknown device 'gpu'\. .*Known: cpu, cuda\. Write one for each: \{cpu: float32"),
            ({"cpu": "float32", "cuda": "fp16"}, r"unknown precision 'fp16'\. .*Known: bf16, float32\."),
            ({"cpu": None, "cuda": "bf16"}, r"unknown precision 'None'\."),
            ({}, r"grid block 1: precision is \{\}\. Write one for each"),
        ],
    )
    def test_what_it_cannot_say_is_an_error_on_every_device(self, given: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            load_study(study_of({"precision": given}))

    def test_two_cells_that_become_one_are_refused(self) -> None:
        study = load_study(study_of({"precision": [self.BOTH["precision"], "bf16"]}))
        with pytest.raises(ConfigError, match="is in the grid already"):
            study.laid_out_for(Execution(gpus_per_worker=1))


# ------------------------------------------------------------------------------------------------------- large grids

MANY = {
    "seed": {"range": [0, 200]},
    "strategy": ["margin", {"name": "label_dispersion", "n_watched": 40}],
    "finetune": [{"epochs": 3}, {"epochs": 4}],
}


def test_cells_that_differ_in_the_seed_are_checked_once_and_are_what_each_would_be_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import al_ray.study.file

    checked: list[Any] = []
    usual = al_ray.study.file.make_spec
    monkeypatch.setattr(al_ray.study.file, "make_spec", lambda *args: (checked.append(args), usual(*args))[1])
    study = Study(**study_of(MANY))
    assert (len(study.cells), len(checked)) == (800, 4)
    for spec in study.cells.values():
        alone = read_spec(spec.to_json())
        assert spec == alone
        assert fingerprints(alone)(spec.seed) == spec.fingerprint() == alone.fingerprint()
    assert len({spec.fingerprint() for spec in study.cells.values()}) == 800


def test_fingerprints_of_other_seeds_need_no_more_than_the_seed() -> None:
    spec = next(iter(Study(**study_of({"seed": 7, "dataset": {"name": "tickets", "seed": 3}})).cells.values()))
    of = fingerprints(spec)
    for seed in (0, 7, 41, 2**31):
        assert of(seed) == spec.model_copy(update={"seed": seed}).fingerprint()


def test_a_seed_that_cannot_be_is_refused_among_many_that_can() -> None:
    with pytest.raises(ConfigError, match=r"grid block 1: seed .*-1"):
        Study(**study_of({"seed": [1, 2, -1]}))
    with pytest.raises(ConfigError, match="seed"):
        Study(**study_of({"seed": [1, True]}))


def test_what_is_worked_out_once_a_kind_is_not_mixed_up() -> None:
    study, calls = Study(**study_of(MANY)), list[str]()
    name = once_a_kind(lambda spec: (calls.append("x"), f"{spec.strategy.name} {spec.finetune.epochs}")[1])
    assert {(name(spec), spec.strategy.name, spec.finetune.epochs) for spec in study.cells.values()} == {
        (f"{strategy} {epochs}", strategy, epochs) for strategy in ("margin", "label_dispersion") for epochs in (3, 4)
    }
    assert len(calls) == 4
