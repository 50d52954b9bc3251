"""What a person gets for input that cannot run: a sentence, exit code 1, and a storage folder that was not touched."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from al_ray.errors import ConfigError
from al_ray.storage.folder import Folder
from al_ray.study.file import load_study
from al_ray.study.plan import plan_study
from tests.model import tiny

POOL_EXHAUSTED = "'stopping: [pool_exhausted]'"


@pytest.fixture
def refused(study, al_ray, tmp_path: Path) -> Callable[..., str]:
    """Return a function that runs a study which must be refused, and gives what was printed."""

    def run(**defaults: Any) -> str:
        storage = tmp_path / "never"
        outcome = al_ray("run", study(**defaults), "--local", "--storage", storage, "--set", "tracking=off")
        assert outcome.code == 1, outcome.text
        assert outcome.text.startswith("error: ")
        assert "Traceback" not in outcome.text
        assert not storage.exists()
        return outcome.text

    return run


def table(n: int = 60, **columns: Any) -> pa.Table:
    base = {"text": [f"text number {i}" for i in range(n)], "label": [i % 2 for i in range(n)]}
    return pa.table(base | columns)


def folder(tmp_path: Path, train: pa.Table, test: pa.Table | None = None) -> str:
    where = tmp_path / "data"
    where.mkdir(exist_ok=True)
    pq.write_table(train, where / "train.parquet")
    pq.write_table(table(20) if test is None else test, where / "test.parquet")
    return str(where)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strategy": "margn"}, "unknown query strategy 'margn'. Did you mean 'margin'?"),
        ({"dataset": "trek6"}, "unknown data set 'trek6'. Did you mean 'trec6'?"),
        ({"dataset": {"name": "tickets", "n_trai": 5}}, "Did you mean 'n_train'?"),
        ({"initial_size": 3}, "initial_size is 3, but a stratified initial query takes at least one example of each"),
        ({"initial_size": 161}, "initial_size is 161, but 'tickets' has 160 training examples"),
        ({"query_size": 150}, "query_size is 150, but the pool of 'tickets' has 140 examples after the initial query"),
        ({"rounds": 15}, "15 rounds of 10 ask for more than 'tickets' has"),
        ({"max_tokens": 5000}, "max_tokens is 5000, but"),
        ({"finetune": {"frozen_layers": 99}}, "frozen_layers is 99, but"),
        (
            {"finetune": {"frozen_layers": "all", "n_components": 161}},
            "n_components is 161, but 'tickets' has 160",
        ),
        (
            {
                "dataset": {"name": "tickets", "n_train": 999},
                "finetune": {"frozen_layers": "all", "n_components": 800},
            },
            "n_components is 800, but the embeddings of",
        ),
        ({"model": "./no/such/folder"}, "no/such/folder"),
        ({"dataset": {"path": "./no/such/data"}}, "no/such/data"),
        ({"dataset_sha256": "0" * 64}, "dataset_sha256 is 000000000000..., but the rows found"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_cell_that_cannot_run_is_refused_before_anything_starts(
    refused, change: dict[str, Any], message: str
) -> None:
    assert message in refused(**change)


@pytest.mark.parametrize(
    ("sizes", "ways"),
    [
        ({"initial_size": 161}, ["initial_size to 140"]),
        ({"initial_size": 160, "query_size": 1}, ["initial_size to 158"]),
        ({"initial_size": 159, "query_size": 1}, ["initial_size to 158", "rounds to 1", POOL_EXHAUSTED]),
        ({"query_size": 150}, ["query_size to 70"]),
        ({"rounds": 15}, ["initial_size to 10", "query_size to 9", "rounds to 14", POOL_EXHAUSTED]),
        ({"filters": [{"name": "random_subsample", "size": 5}]}, ["query_size to 5", POOL_EXHAUSTED]),
        ({"filters": [{"name": "uncertainty_clipping", "fraction": 0.95}]}, ["query_size to 7", POOL_EXHAUSTED]),
        (
            {"stopping": [{"name": "target_accuracy", "target": 0.9, "n_examples": 90}], "initial_size": 69},
            ["initial_size to 60", "query_size to 1"],
        ),
    ],
    ids=str,
)
def test_each_way_out_of_too_few_examples_is_one(study, tmp_path: Path, sizes: dict[str, Any], ways: list[str]) -> None:
    def plan(**changes: Any) -> None:
        plan_study(load_study(study(**(sizes | changes))), str(tmp_path / "never"))

    with pytest.raises(ConfigError) as refused:
        plan()
    advice = str(refused.value).rsplit(". ", 1)[-1]
    assert re.findall(r"(?:lower|Lower|add) (.*?)(?: at most)?(?:, or |\.$)", advice) == ways
    for way in ways:
        key, value = re.split(": | to ", way.strip("'"))
        plan(**{key: yaml.safe_load(value)})
        if value.isdigit():
            with pytest.raises(ConfigError):
                plan(**{key: int(value) + 1})


MISFITS: dict[str, tuple[str, dict[str, Any], str, dict[str, Any] | None]] = {
    "a decoder": ("gpt2", {}, "gpt2 is a decoder", None),
    "an encoder-decoder": ("bart", {}, "bart is an encoder-decoder", None),
    "texts longer than BERT's places": ("bert", {"max_tokens": 43}, "reads 42 tokens at most", {"max_tokens": 42}),
    "places behind the padding": ("mpnet", {"max_tokens": 41}, "reads 40 tokens at most", {"max_tokens": 40}),
    "more layers frozen than there are": (
        "distilbert",
        {"finetune": {"frozen_layers": 3, "epochs": 1}},
        "has 2 layers that can be frozen one by one. Use at most 2.",
        {"finetune": {"frozen_layers": 2, "epochs": 1}},
    ),
    "layers that share their weights": (
        "albert",
        {"finetune": {"frozen_layers": 1, "epochs": 1}},
        "has 0 layers that can be frozen one by one. Use at most 0.",
        {"finetune": {"frozen_layers": 0, "epochs": 1}},
    ),
    "passes that would all be equal": (
        "modernbert",
        {"confidence": {"name": "mc_dropout", "where": "network"}},
        "was trained without dropout there, so all passes would be equal. Give a 'rate', such as 0.1.",
        {"confidence": {"name": "mc_dropout", "where": "network", "rate": 0.1}},
    ),
    "a head that drops nothing": (
        "eurobert",
        {"confidence": {"name": "mc_dropout", "where": "head", "rate": 0.1}},
        "has no dropout there. Use 'where: network' with a 'rate'.",
        {"confidence": {"name": "mc_dropout", "where": "network", "rate": 0.1}},
    ),
    "an attention that cannot be changed": (
        "mpnet",
        {"confidence": {"name": "adaptive_temperature", "where": "both"}},
        "confidence 'adaptive_temperature' changes the attention, which is written for encoders built like BERT",
        {"confidence": {"name": "adaptive_temperature", "where": "logits"}},
    ),
    "a number that bf16 does not have": (
        "deberta",
        {"precision": "bf16"},
        "precision is bf16, in which transformers cannot compute",
        {"precision": "float32"},
    ),
    "adapters beside layers that are not there": (
        "distilbert",
        {"finetune": {"lora": {"targets": ["query"]}}},
        "has the target 'query', and no linear layer ends so. The linear layers of this encoder are: k_lin",
        {"finetune": {"lora": {"targets": ["q_lin"]}, "epochs": 1}},
    ),
    "adapters where every layer is frozen": (
        "distilbert",
        {"finetune": {"lora": {}, "frozen_layers": 2}},
        "finetune.lora finds no layer to adapt above 'frozen_layers: 2'. Freeze fewer layers",
        {"finetune": {"lora": {}, "frozen_layers": 1, "epochs": 1}},
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_a_model_that_does_not_fit_is_refused_in_the_plan_and_the_advice_runs(
    refused, study, al_ray, tmp_path: Path, name: str
) -> None:
    family, change, message, advised = MISFITS[name]
    model = str(tiny.save_family(tmp_path / "model", family))
    assert message in refused(model=model, **change)
    if advised is not None:
        path = study(model=model, **{"finetune": {"epochs": 1}, "rounds": 1, **advised})
        outcome = al_ray("run", path, "--local", "--storage", tmp_path / "out", "--set", "tracking=off")
        assert outcome.code == 0, outcome.text


def test_weights_of_another_configuration_are_refused_in_the_plan_where_they_are_read(
    refused, study, al_ray, tmp_path: Path
) -> None:
    folder = tiny.save_family(tmp_path / "model", "distilbert")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "n_layers": 3}), encoding="utf-8")
    text = refused(model=str(folder))
    assert "lack transformer.layer.2." in text
    assert "or use 'init: random', which reads no weights" in text
    model = {"name": str(folder), "init": "random"}
    outcome = al_ray("run", study(model=model), "--plan", "--storage", tmp_path / "out")
    assert outcome.code == 0, outcome.text


def test_a_model_is_said_to_be_no_encoder_once_and_not_for_every_cell(refused, tmp_path: Path) -> None:
    text = refused(model=str(tiny.save_family(tmp_path / "model", "gpt2")), seed=[1, 2, 3])
    assert text.count("error:") == 1


def test_advice_of_the_plan_can_be_followed(study, al_ray, tmp_path: Path) -> None:
    plan = ("--plan", "--storage", tmp_path / "out", "--set", "tracking=off")
    outcome = al_ray("run", study(dataset_sha256="0" * 64), *plan)
    assert outcome.code == 1
    assert "or drop the key." in outcome.text
    assert al_ray("run", study(), *plan).code == 0


def with_column(name: str, values: list[Any], n: int = 60) -> pa.Table:
    return table(n, **{name: values})


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (with_column("text", ["", *["fine"] * 59]), "empty"),
        (with_column("text", [None, *["fine"] * 59]), "text"),
        (with_column("text", list(range(60))), "text"),
        (with_column("label", [None, *[0, 1] * 29, 0]), "label"),
        (with_column("label", [0] * 60), "class"),
        (table().drop_columns(["label"]), "label"),
        (table(0), "has no rows. A split needs at least one example"),
    ],
    ids=["empty text", "missing text", "numbers as text", "missing label", "one class", "no label column", "no rows"],
)
def test_bad_rows_are_refused_by_name(refused, tmp_path: Path, train: pa.Table, message: str) -> None:
    assert message in refused(dataset={"path": folder(tmp_path, train)})


def test_labels_outside_the_named_classes_are_refused(refused, tmp_path: Path) -> None:
    path = folder(tmp_path, with_column("label", [7, *[0, 1] * 29, 0]))
    assert "7" in refused(dataset={"path": path, "classes": ["no", "yes"]})


def test_duplicate_ids_are_refused(refused, tmp_path: Path) -> None:
    path = folder(tmp_path, table(60, key=[*range(59), 3]), table(20, key=range(20)))
    assert "3" in refused(dataset={"path": path, "id": "key"})


def test_a_half_written_parquet_file_is_refused(refused, tmp_path: Path) -> None:
    path = Path(folder(tmp_path, table()))
    whole = (path / "train.parquet").read_bytes()
    (path / "train.parquet").write_bytes(whole[: len(whole) // 2])
    assert "train.parquet" in refused(dataset={"path": str(path)})


def test_a_hub_that_cannot_be_reached_is_said_in_seconds(refused, monkeypatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("AL_RAY_DATA", raising=False)
    text = refused(dataset="trec6")
    assert "Hub" in text
    assert "AL_RAY_DATA" in text


def test_a_folder_of_another_study_is_refused(study, al_ray, tmp_path: Path) -> None:
    claimed = tmp_path / "out" / "tiny"
    claimed.mkdir(parents=True)
    (claimed / "thesis.tex").write_text("my only copy", encoding="utf-8")
    for way in ("--local", "--plan"):
        outcome = al_ray("run", study(), way, "--storage", tmp_path / "out", "--set", "tracking=off")
        assert outcome.code == 1
        assert "is not empty and no study of al_ray" in outcome.text
    assert sorted(path.name for path in claimed.iterdir()) == ["thesis.tex"]


def test_a_disk_without_room_is_refused_before_anything_starts(study, al_ray, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Folder, "free_bytes", lambda folder: 1000)
    outcome = al_ray("run", study(), "--local", "--storage", tmp_path / "out", "--set", "tracking=off")
    assert outcome.code == 1
    assert "the records of this study take about" in outcome.text
    assert not (tmp_path / "out").exists()


def test_a_plan_says_what_is_missing_here_still_plans_and_leaves_with_1(study, al_ray, tmp_path: Path) -> None:
    outcome = al_ray("run", study({"model": ["./no/model", "minilm"]}), "--plan", "--storage", tmp_path / "out")
    assert outcome.code == 1
    assert "cannot be used here:" in outcome.text
    assert "how long it takes cannot be measured here" in outcome.text


@pytest.mark.parametrize("names", [("runs #1", "runs #2"), ("2024", "2026-11-29"), ("null", "a: b")])
def test_records_go_where_the_storage_was_typed(study, al_ray, tmp_path: Path, monkeypatch, names) -> None:
    monkeypatch.chdir(tmp_path)
    path = study(rounds=0)
    for name in names:
        outcome = al_ray("run", path, "--local", "--storage", name, "--set", "tracking=off")
        assert outcome.code == 0, outcome.text
        assert "nothing to do" not in outcome.text
        assert (tmp_path / name / "tiny" / "study.json").is_file()


def test_an_empty_storage_is_refused_and_nothing_is_written(study, al_ray, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = al_ray("run", path := study(), "--local", "--storage", "")
    assert outcome.code == 1
    assert "storage is ''. Name a folder" in outcome.text
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("how", ["MLFLOW_TRACKING_URI", "--set tracking=", "the study file"])
def test_an_mlflow_address_that_cannot_work_is_refused_before_anything_starts(
    study, al_ray, tmp_path: Path, monkeypatch, how: str
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    bad, path = f"file://{tmp_path}/runs", study(rounds=0)

    def run(address: str, *options: str) -> Any:
        if how == "MLFLOW_TRACKING_URI":
            monkeypatch.setenv(how, address)
        elif how == "--set tracking=":
            options = (*options, "--set", f"tracking={address}")
        else:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            path.write_text(yaml.safe_dump(content | {"execution": {"tracking": address}}), encoding="utf-8")
        return al_ray("run", path, "--local", "--storage", tmp_path / "out", *options)

    for options in ((), ("--plan",)):
        outcome = run(bad, *options)
        assert outcome.code == 1
        source = how if how == "MLFLOW_TRACKING_URI" else "tracking"
        assert outcome.text.startswith(f"error: {source} is '{bad}': MLflow keeps no runs")
    assert not (tmp_path / "out").exists()
    advice = re.search(r"Write (sqlite:\S+) for a file there", outcome.text)
    assert advice is not None
    finished = run(advice[1])
    assert finished.code == 0
    assert f"MLflow UI: {Path(sys.executable).parent}/mlflow ui --backend-store-uri {advice[1]}" in finished.text
    assert (tmp_path / "runs" / "mlflow.db").is_file()


@pytest.mark.parametrize("command", ["report", "sync"])
def test_a_report_and_a_sync_refuse_such_an_address_before_they_read(al_ray, command: str) -> None:
    outcome = al_ray(command, "no/study/there", "--tracking", "http:/host")
    assert outcome.code == 1
    assert outcome.text.startswith("error: tracking is 'http:/host': that is no server's address. Write http://HOST")


@pytest.mark.parametrize(
    "arguments",
    [
        ("run",),
        ("run", "--no"),
        ("nope",),
        ("watch", "x", "--every", "0"),
        ("report",),
        ("list", "--x"),
        ("schema", "x"),
    ],
    ids=" ".join,
)
def test_a_command_that_is_typed_wrong_leaves_with_1_as_other_input_that_cannot_run(al_ray, arguments) -> None:
    assert al_ray(*arguments).code == 1


def test_a_misspelt_cell_is_told_the_right_one(study, al_ray, tmp_path: Path) -> None:
    plan = ("run", study(), "--plan", "--storage", tmp_path / "out", "--cell")
    outcome = al_ray(*plan, "tickets-bert-softmax-margn-s1")
    assert outcome.code == 1
    advice = re.search(r"Did you mean '(\S+)'\?", outcome.text)
    assert advice is not None
    assert al_ray(*plan, advice[1]).code == 0


def test_a_report_for_no_folder_is_refused_before_anything_is_read(al_ray) -> None:
    for out, said in (("", "--out is ''. Name a folder"), ("s3:/bucket/x", "Write s3://bucket/x.")):
        outcome = al_ray("report", "no/study/there", "--tracking", "off", "--out", out)
        assert outcome.code == 1
        assert said in outcome.text


def test_identity_cannot_be_set_from_the_command_line(study, al_ray, tmp_path: Path) -> None:
    outcome = al_ray("run", study(), "--storage", tmp_path / "out", "--set", "seed=3")
    assert outcome.code == 1
    assert "--set changes execution only" in outcome.text


def test_a_damaged_record_is_named_and_nothing_is_overwritten(study, al_ray, tmp_path: Path) -> None:
    run = ("run", study(), "--local", "--storage", tmp_path / "out", "--set", "tracking=off")
    al_ray(*run)
    (cell,) = (path.parent for path in tmp_path.rglob("done.json"))
    (cell / "done.json").unlink()
    (cell / "round-001.json").write_text(json.dumps({"format": 1})[:7], encoding="utf-8")
    outcome = al_ray(*run)
    assert outcome.code in (1, 2)
    assert "round-001.json" in outcome.text
    assert (cell / "round-001.json").read_text(encoding="utf-8") == json.dumps({"format": 1})[:7]


def test_a_relative_folder_on_a_joined_cluster_is_refused(study, al_ray, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = al_ray("run", study(), "--storage", "out", "--set", "address=127.0.0.1:6379", "--set", "tracking=off")
    assert outcome.code == 1
    assert "storage is 'out', a relative folder, and the study joins Ray at '127.0.0.1:6379'" in outcome.text
    assert not (tmp_path / "out").exists()


def test_hidden_states_that_do_not_fit_are_refused_with_their_size_and_a_row_a_text_fits(
    study, al_ray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import al_ray.study.encodings as module
    from al_ray.study.cell import encodings_of

    path = study({"seed": 1}, finetune={"frozen_layers": 1, "epochs": 1})
    plan = plan_study(load_study(path), str(tmp_path / "out"))
    [dataset], [cell] = plan.datasets.values(), plan.cells
    model = plan.models[cell.spec.model.name, cell.spec.model.revision]
    hidden = encodings_of(cell.spec)["hidden"]
    needed = module.encoding_bytes(hidden, dataset, model, cell.spec.max_tokens, plan.facts[model].n_features)
    monkeypatch.setattr(module.psutil, "virtual_memory", lambda: SimpleNamespace(available=needed - 1))
    options = ("--local", "--storage", tmp_path / "out", "--set", "tracking=off")
    outcome = al_ray("run", path, *options, "--set", "cache=false")
    assert outcome.code == 1
    assert re.search(r"the output of layer 1 of model .* takes .*iB .* and the memory of this machine", outcome.text)
    advice = "Use 'cache: true', which reads them from disk, precision bf16, which halves it, fewer max_tokens"
    assert f"{advice}, 'frozen_layers: all'" in outcome.text
    assert not (tmp_path / "out").exists()
    fitting = study({"seed": 1}, finetune={"frozen_layers": "all"}, name="fits")
    assert al_ray("run", fitting, *options, "--set", "cache=false").code == 0
    assert al_ray("run", path, *options).code == 0
