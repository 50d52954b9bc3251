import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from al_ray.data import normalise_option, resolve_dataset
from al_ray.data.files import PathSource
from al_ray.errors import ConfigError, DataError

Write = Callable[..., Path]
TRAIN = {"text": ["late parcel", "wrong sum", "no parcel", "paid twice"], "label": ["post", "money", "post", "money"]}
TEST = {"text": ["lost box", "refund"], "label": ["post", "money"]}


@pytest.mark.parametrize("train", ["train.parquet", "train.csv", "train.jsonl"])
@pytest.mark.parametrize("test", ["test.parquet", "test.csv", "test.jsonl"])
def test_a_folder_of_any_formats_is_the_same_data_set(write: Write, tmp_path: Path, train: str, test: str) -> None:
    write(train, TRAIN)
    write(test, TEST)
    dataset = resolve_dataset({"path": str(tmp_path), "name": "mine"})
    assert (dataset.name, dataset.class_names, dataset.n_classes) == ("mine", ("money", "post"), 2)
    assert (dataset.train.labels.tolist(), dataset.test.labels.tolist()) == ([1, 0, 1, 0], [1, 0])
    assert list(dataset.train.texts) == TRAIN["text"]
    write("elsewhere/train.csv", TRAIN)
    write("elsewhere/test.csv", TEST)
    assert dataset.content_sha256 == resolve_dataset(f"{tmp_path}/elsewhere").content_sha256
    assert train in dataset.source
    assert test in dataset.source


def test_a_bare_string_with_an_ending_is_a_path(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("rows.csv", TRAIN)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"rows\.csv has no test split.*test: FILE\}.*test_fraction: 0\.2\}"):
        resolve_dataset("rows.csv")


def test_a_single_file_with_a_test_file(write: Write) -> None:
    option = {"path": str(write("a.csv", TRAIN)), "test": str(write("b.jsonl", TEST))}
    dataset = resolve_dataset(option)
    assert (dataset.name, len(dataset.train), len(dataset.test)) == ("a", 4, 2)


def test_a_single_file_with_a_drawn_test_split_keeps_its_row_numbers_as_ids(write: Write) -> None:
    file = write("all.jsonl", {"text": [f"text {i}" for i in range(40)], "label": [i % 4 // 3 for i in range(40)]})
    option = {"path": str(file), "test_fraction": 0.3}
    dataset = resolve_dataset(option)
    assert np.bincount(dataset.test.labels).tolist() == [9, 3]
    for split in (dataset.train, dataset.test):
        assert list(split.texts) == [f"text {i}" for i in split.ids]
    assert dataset.content_sha256 == resolve_dataset(option).content_sha256
    assert dataset.content_sha256 != resolve_dataset(option | {"test_fraction": 0.2}).content_sha256


def test_columns_of_any_name_are_read(write: Write, tmp_path: Path) -> None:
    for name in ("train.parquet", "test.parquet"):
        write(name, {"body": ["a", "b"], "team": [0, 1], "key": [11, 12], "slice": ["s", "t"]})
    option = {
        "path": str(tmp_path),
        "text": "body",
        "label": "team",
        "id": "key",
        "group": "slice",
        "classes": ["x", "y"],
    }
    dataset = resolve_dataset(option)
    assert (dataset.class_names, dataset.train.ids.tolist()) == (("x", "y"), [11, 12])
    assert dataset.train.groups == ["s", "t"]


def test_parts_are_read_in_order_and_all_of_them(write: Write, tmp_path: Path) -> None:
    write("test.csv", TEST)
    for part in (1, 0):
        rows = {column: values[2 * part : 2 * part + 2] for column, values in TRAIN.items()}
        write(f"train-0000{part}-of-00002.csv", rows)
    assert list(resolve_dataset(str(tmp_path)).train.texts) == TRAIN["text"]
    (tmp_path / "train-00000-of-00002.csv").unlink()
    with pytest.raises(DataError, match=r"has 1 of the 2 parts of its train split .*Copy the missing parts"):
        resolve_dataset(str(tmp_path))


@pytest.mark.parametrize("second", ["train.jsonl", "train-00000-of-00001.csv"])
def test_a_split_in_two_versions_is_refused(write: Write, tmp_path: Path, second: str) -> None:
    write("train.csv", TRAIN)
    write(second, TRAIN)
    write("test.csv", TEST)
    with pytest.raises(DataError, match=r"holds one split more than once: .*Keep one of them"):
        resolve_dataset(str(tmp_path))


def test_a_folder_without_a_training_split_lists_what_is_there(write: Write, tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("text\tlabel\n")
    with pytest.raises(DataError, match=r"expected train\.parquet, train\.csv or train\.jsonl, found train\.tsv"):
        resolve_dataset(f"{tmp_path}/")


@pytest.mark.parametrize("option", [{"path": "ticket.csv"}, {"path": "tickets.csv", "test": "ticket.csv"}], ids=str)
def test_a_relative_path_that_is_not_there_is_said_with_its_folder_and_what_is_near(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: dict[str, Any]
) -> None:
    write("tickets.csv", TRAIN)
    monkeypatch.chdir(tmp_path)
    message = rf"^ticket\.csv is not there in {re.escape(str(tmp_path))}\. Did you mean 'tickets\.csv'\? "
    with pytest.raises(DataError, match=message):
        resolve_dataset(option)


def test_a_data_folder_that_is_not_there_is_said_with_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AL_RAY_DATA", "gone")
    with pytest.raises(DataError, match=rf"AL_RAY_DATA is 'gone', which is not a folder in {re.escape(str(tmp_path))}"):
        resolve_dataset("trec6")


@pytest.mark.parametrize("classes", [[1, 2, 3], ["1", "2", "3"]], ids=str)
@pytest.mark.parametrize("name", ["d.csv", "d.jsonl", "d.parquet"])
def test_classes_may_be_named_by_the_integers_that_label_them(write: Write, name: str, classes: list[Any]) -> None:
    path = write(name, {"text": [f"t{i}" for i in range(9)], "label": [1, 2, 3] * 3})
    option = {"path": str(path), "test_fraction": 0.3, "classes": classes}
    dataset = resolve_dataset(option)
    assert (dataset.class_names, set(dataset.train.labels.tolist())) == (("1", "2", "3"), {0, 1, 2})
    assert normalise_option(option)["classes"] == ["1", "2", "3"]


@pytest.mark.parametrize("name", ["gone", "long" * 80, "long" * 80 + ".csv"])
def test_a_path_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"{name} is not there"):
        resolve_dataset(f"{tmp_path}/{name}")


def test_a_folder_with_a_test_split_takes_no_other(write: Write, tmp_path: Path) -> None:
    write("train.csv", TRAIN)
    write("test.csv", TEST)
    with pytest.raises(ConfigError, match="has a test split of its own"):
        resolve_dataset({"path": str(tmp_path), "test_fraction": 0.5})


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"path": "a/b", "txt": "body"}, r"unknown option of data set by path: 'txt'\. Did you mean 'text'"),
        ({"path": "  "}, "path is empty"),
        ({"path": 3}, "option 'path' of data set by path is 3"),
        ({"path": "a/b", "name": "My Data"}, r"name is 'My Data'.*Write for example 'my_data'"),
        ({"path": "a/b", "test": "t.csv", "test_fraction": 0.1}, "both test and test_fraction are given"),
        ({"path": "a.csv", "test": "a.csv"}, "the training file itself"),
        ({"path": "a/b", "test_fraction": 1.0}, r"test_fraction is 1\.0, it must lie in \(0, 1\)"),
        ({"path": "a/b", "classes": ["x", "x"]}, "must name at least two classes, each once"),
        ({"path": "a/b", "classes": ["x"]}, "must name at least two classes"),
        ({"path": "a/b", "classes": [1, "two"]}, r"mixes numbers and names.* in quotes: \['1', 'two'\]"),
        ({"path": "a/b", "classes": [True, False]}, "option 'classes' of data set by path is"),
        ({"path": "a/b", "classes": "x, y"}, "option 'classes' of data set by path is 'x, y'"),
        ({"path": "a/b", "id": "text"}, "each needs a column of its own"),
    ],
)
def test_a_wrong_option_is_refused(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_dataset(option)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("data/My Tickets (2024).csv", "my_tickets_2024"),
        ("data/mine/", "mine"),
        ("data/v1.5", "v1_5"),
        ("data/mine/train.parquet", "mine"),
        ("./Ärger.jsonl", "rger"),
        (f"x/{'long' * 30}", "long" * 10),
        ("/", "data"),
    ],
)
def test_the_name_of_a_path_is_fit_for_a_file_name(path: str, name: str) -> None:
    assert normalise_option(path)["name"] == name


def test_a_normal_option_builds_itself_again() -> None:
    normal = normalise_option({"path": "data/mine", "classes": ["b", "a"], "test_fraction": 0.25})
    assert normal["classes"] == ["b", "a"]
    assert normalise_option(normal) == normal
    assert normalise_option("data/mine") == normalise_option({"path": "data/mine"})


def test_a_source_built_by_hand_is_named_by_its_path(write: Write, tmp_path: Path) -> None:
    write("mine/train.csv", TRAIN)
    write("mine/test.csv", TEST)
    assert PathSource(path=str(tmp_path / "mine")).load().name == "mine"
