"""Content is identity and paths are provenance; names of any text and length stay apart wherever they become keys."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from al_ray.data import resolve_dataset
from al_ray.errors import ModelError
from al_ray.model.source import pinned_model
from al_ray.records.study import StudyStore
from al_ray.study.file import load_study

LOCAL = ("--local", "--set", "tracking=off")
SLICES = ("<30", ">30", "C", "c", "C++", "C#", "技术", "账单")
SHORT = {"rounds": 1, "initial_size": 10, "query_size": 5, "finetune": {"epochs": 1}}


def write_rows(file: Path, first: int = 0, **columns: Any) -> Path:
    """Write 80 examples of two classes; other rows for another ``first``."""
    numbers = np.arange(first, first + 80)
    frame = pd.DataFrame({"text": [f"ticket {n} of the {'day' if n % 2 else 'night'}" for n in numbers]})
    frame["label"] = np.where(numbers % 2, "day", "night")
    file.parent.mkdir(parents=True, exist_ok=True)
    frame.assign(**columns).to_csv(file, index=False)
    return file


def by_path(path: Path | str, **options: Any) -> dict[str, Any]:
    return {"path": str(path), "test_fraction": 0.25, **options}


def test_the_same_rows_and_the_same_model_are_the_same_cell_wherever_they_lie(
    study, al_ray, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = Path(shutil.copytree(bert, tmp_path / "models" / "bert"))
    data, storage = write_rows(tmp_path / "data.csv"), tmp_path / "out"
    first = study(dataset=by_path("data.csv"), model="models/bert", **SHORT)
    assert al_ray("run", first, "--storage", storage, *LOCAL).code == 0
    moved, renamed = tmp_path / "elsewhere" / "bert", tmp_path / "elsewhere" / "Messages.csv"
    shutil.copytree(model, moved)
    shutil.copy(data, renamed)
    model.joinpath("config.json").unlink()
    places = [
        by_path("./data.csv"), by_path(data), by_path("elsewhere/../data.csv"), by_path(renamed),
        by_path(renamed, name="mails", text="text"),
    ]  # fmt: skip
    for place in places:
        again = study(dataset=place, model=str(moved), **SHORT)
        assert "all 1 cells are finished" in al_ray("run", again, "--storage", storage, *LOCAL).text
    (cell,) = StudyStore.open(str(storage), "tiny").cells()
    assert cell.provenance()[-1]["data"].endswith("data.csv")
    assert cell.provenance()[-1]["model"] == str(model)


@pytest.mark.parametrize("changed", ["rows", "slices", "tokenizer", "configuration", "weights"])
def test_other_content_at_the_same_path_is_another_cell(
    study, al_ray, bert: Path, tmp_path: Path, changed: str
) -> None:
    model = Path(shutil.copytree(bert, tmp_path / "bert"))
    data, storage = write_rows(tmp_path / "data.csv", kind="a"), tmp_path / "out"
    path = study(dataset=by_path(data, group="kind"), model=str(model), **SHORT)
    before = planned_key(al_ray("run", path, "--storage", storage, "--plan").text)
    if changed == "rows":
        write_rows(data, 1, kind="a")
    elif changed == "slices":
        write_rows(data, kind=["b", *["a"] * 79])
    elif changed == "weights":
        shutil.copy(bert / "model.safetensors", model)
        flipped = bytearray((model / "model.safetensors").read_bytes())
        flipped[-1] ^= 1
        (model / "model.safetensors").write_bytes(flipped)
    else:
        name, old, new = {
            "tokenizer": ("tokenizer.json", '"lowercase": true', '"lowercase": false'),
            "configuration": ("config.json", '"layer_norm_eps": 1e-12', '"layer_norm_eps": 1e-06'),
        }[changed]
        text = (model / name).read_text(encoding="utf-8")
        assert old in text
        (model / name).write_text(text.replace(old, new), encoding="utf-8")
    assert planned_key(al_ray("run", path, "--storage", storage, "--plan").text) != before


def planned_key(text: str) -> str:
    return re.search(r"tickets?\S*--[0-9a-f]{8}|data\S*--[0-9a-f]{8}", text)[0]  # type: ignore[index]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("./data.csv", "the cell data-bert-softmax-margin-s1 is in the grid already"),
        ("copy/data.csv", r"cells data_\S+-s1 and data_copy_?-\S+-s1 are the same: .* the same content. Drop one"),
    ],
)
def test_the_same_rows_twice_in_a_grid_are_refused(study, al_ray, tmp_path: Path, other: str, message: str) -> None:
    data = write_rows(tmp_path / "data.csv")
    write_rows(tmp_path / "copy" / "data.csv")
    path = study(dataset=[by_path(data), by_path(f"{tmp_path}/{other}")], **SHORT)
    said = al_ray("run", path, "--storage", tmp_path / "out", "--plan")
    assert said.code == 1
    assert re.search(message, said.text), said.text


def test_two_files_of_one_name_are_told_apart_by_their_folders_everywhere(study, al_ray, tmp_path: Path) -> None:
    places = [write_rows(tmp_path / folder / "data.csv", at) for at, folder in enumerate(("a", "b"))]
    path, storage = study(dataset=[by_path(place) for place in places], **SHORT), tmp_path / "out"
    done = al_ray("run", path, "--storage", storage, *LOCAL)
    assert done.code == 0
    assert "data (a), bert: test accuracy" in done.text
    assert "data (b), bert: test accuracy" in done.text
    shown = done.text[done.text.index("data (a), bert") : done.text.index("records:")]
    assert str(tmp_path) not in shown
    assert not re.search(r"[0-9a-f]{12}", shown)
    assert sorted(p.name.split("--")[0] for p in (storage / "tiny").glob("data*")) == [
        "data_a-bert-softmax-margin-s1", "data_b-bert-softmax-margin-s1"
    ]  # fmt: skip
    assert al_ray("report", path, "--storage", storage, "--tracking", "off").code == 0
    cells = pd.read_csv(storage / "tiny" / "report" / "cells.csv")
    assert set(cells["setting"]) == {"data (a) · bert", "data (b) · bert"}
    assert set(cells["method"]) == {"softmax + margin"}
    assert set(pd.read_csv(storage / "tiny" / "report" / "classes.csv")["class_name"]) == {"day", "night"}


def test_paths_of_any_length_are_shortened_for_folders(study, al_ray, bert: Path, tmp_path: Path) -> None:
    models = [Path(shutil.copytree(bert, tmp_path / f"{'m' * 246}{end}")) for end in "ab"]
    config = (models[1] / "config.json").read_text(encoding="utf-8")
    (models[1] / "config.json").write_text(config.replace("1e-12", "1e-06"), encoding="utf-8")
    snapshots = tmp_path / "datasets--org--name" / "snapshots"
    places = [write_rows(snapshots / (digit * 40) / "data" / "train.csv", int(digit)).parent for digit in "12"]
    for place in places:
        write_rows(place / "test.csv", 100)
    path = study(dataset=[{"path": str(place)} for place in places], model=[str(model) for model in models], **SHORT)
    storage = tmp_path / "out"
    done = al_ray("run", path, "--storage", storage, *LOCAL)
    assert done.code == 0, done.text
    folders = [p.name for p in (storage / "tiny").glob("data*")]
    assert len(folders) == 4
    assert max(map(len, folders)) <= 160
    assert all(name.split("--")[0].endswith("-s1") for name in folders)


def test_names_that_differ_in_signs_alone_stay_apart_from_the_rows_to_mlflow_and_the_report(
    study, al_ray, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    groups = [SLICES[at % len(SLICES)] for at in range(80)]
    data, storage = write_rows(tmp_path / "data.csv", kind=groups), tmp_path / "out"
    path = study(dataset=by_path(data, group="kind"), **SHORT)
    done = al_ray("run", path, "--storage", storage, "--local")
    assert done.code == 0, done.text
    assert all(f" {name} " in done.text for name in SLICES)
    (cell,) = StudyStore.open(str(storage), "tiny").cells()
    metrics = [record.metrics for record in cell.rounds() if record.metrics]
    known = sorted(set(SLICES))
    assert [name.removeprefix("acquired.") for name in metrics[0] if name.startswith("acquired.")] == known
    test = resolve_dataset(by_path(data, group="kind")).test
    right = cell.arrays(1)["test"]["log_probs"].argmax(axis=1) == test.labels[np.argsort(test.ids)]
    in_order = np.asarray(test.groups)[np.argsort(test.ids)]
    accuracy = {name: right[in_order == name].mean() for name in set(test.groups or ())}
    assert {name: metrics[0][f"accuracy.{name}"] for name in accuracy} == accuracy
    assert metrics[0]["worst_group_accuracy"] == min(accuracy.values())
    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    run = client.search_runs([client.get_experiment_by_name("tiny").experiment_id], "tags.`al_ray.kind` = 'cell'")[0]
    shown = [name for name in run.data.metrics if name.startswith("acquired.")]
    assert len(shown) == len(SLICES)
    assert {"acquired.C", "acquired.c"} <= {*shown}
    assert al_ray("report", path, "--storage", storage, "--tracking", "off").code == 0
    acquired = pd.read_csv(storage / "tiny" / "report" / "acquired.csv", keep_default_na=False)
    assert set(acquired.loc[acquired["what"] == "kind", "kind"]) == set(SLICES)
    assert set(SLICES) <= {name.removeprefix("acquired.") for name in pd.read_parquet(
        storage / "tiny" / "report" / "cells.parquet")}  # fmt: skip


def test_the_largest_numbers_that_a_plan_takes_are_recorded_and_reported(study, al_ray, tmp_path: Path) -> None:
    largest = 2**63 - 1
    data = write_rows(tmp_path / "data.csv", number=np.arange(80) + largest - 79)
    recipe = {"epochs": 1, "batch_size": largest, "patience": largest}
    values: dict[str, Any] = {**SHORT, "seed": largest, "scoring_batch_size": largest, "finetune": recipe}
    values |= {"rounds": largest, "stopping": ["pool_exhausted", {"name": "label_budget", "n_labels": 15}]}
    path, storage = study(dataset=by_path(data, id="number"), **values), tmp_path / "out"
    done = al_ray("run", path, "--storage", storage, *LOCAL)
    assert done.code == 0, done.text
    assert al_ray("report", path, "--storage", storage, "--tracking", "off").code == 0
    assert "all 1 cells are finished" in al_ray("run", path, "--storage", storage, *LOCAL).text
    assert pd.read_csv(storage / "tiny" / "report" / "cells.csv")["seed"].tolist() == [largest]


def test_the_arrays_of_every_round_open_in_pandas(study, al_ray, tmp_path: Path) -> None:
    rules = [
        {"name": "overall_uncertainty", "threshold": 1e-9},
        {"name": "target_accuracy", "target": 1.0, "n_examples": 5},
    ]
    path, storage = study(filters=["unsure_subsample"], stopping=rules, evaluation="plain", **SHORT), tmp_path / "out"
    assert al_ray("run", path, "--storage", storage, *LOCAL).code == 0
    (cell,) = StudyStore.open(str(storage), "tiny").cells()
    tables = cell.arrays(1)
    assert tables.keys() == {"pool", "stop_set", "test"}
    whole = pd.read_parquet(Path(cell.folder.address) / "round-001.parquet")
    for name, columns in tables.items():
        rows = whole[whole["table"] == name]
        for column, values in columns.items():
            np.testing.assert_array_equal(np.stack(rows[f"{name}.{column}"].tolist()), values)
        others = [column for column in whole if not column.startswith((f"{name}.", "table"))]
        assert rows[others].isna().all(axis=None)


def test_a_model_whose_settings_are_not_those_of_the_study_is_refused_in_the_plan_and_on_every_worker(
    study, al_ray, bert: Path, tmp_path: Path
) -> None:
    path = study(model={"name": str(bert), "settings_sha256": "0" * 64}, **SHORT)
    said = al_ray("run", path, "--storage", tmp_path / "out", "--plan")
    assert said.code == 1
    assert "model.settings_sha256 is 000000000000..., but configuration and tokenizer of" in said.text
    (spec,) = load_study(path).cells.values()
    with pytest.raises(ModelError, match="another configuration or tokenizer on this machine than where the study was"):
        pinned_model(spec.model.name, spec.model.revision, spec.model.sha256, spec.model.settings_sha256)
