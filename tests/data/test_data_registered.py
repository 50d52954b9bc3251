"""The contract of every registered data set, and where its rows come from."""

import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from al_ray.data import (
    datasets,
    near_equal_notes,
    normalise_option,
    resolve_dataset,
)
from al_ray.data.files import named_folders
from al_ray.data.paper import PinnedDataset
from al_ray.errors import ConfigError, DataError
from al_ray.registry import fields_of, summary
from tests.needs import lacks

Write = Callable[..., Path]
PINNED = [name for name in datasets.names() if issubclass(datasets.get(name), PinnedDataset)]


def test_the_seven_data_sets_of_the_paper_and_the_embedded_one_are_registered() -> None:
    paper = {"trec6", "ag_news", "subj", "rotten_tomatoes", "imdb", "cola", "sst2"}
    assert paper == set(PINNED)
    assert {*paper, "tickets"} == set(datasets.names())


@pytest.mark.parametrize("name", PINNED)
def test_a_pinned_data_set_declares_itself(name: str) -> None:
    declared = pinned(name)
    assert len(declared.class_names) >= 2
    assert len(set(declared.class_names)) == len(declared.class_names)
    assert declared.n_train > 0
    assert declared.n_test > 0
    assert re.fullmatch(r"[a-z0-9_-]{1,40}", name)
    assert re.fullmatch(r"[\w-]+/[\w-]+", declared.hub_id)
    assert re.fullmatch(r"[0-9a-f]{40}", declared.revision), "a full commit"


def pinned(name: str) -> type[PinnedDataset]:
    found = datasets.get(name)
    assert issubclass(found, PinnedDataset)
    return found


def test_a_pinned_data_set_can_be_cut_and_is_then_other_data(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = [i % 2 for i in range(60)]
    for split, n in (("train", 60), ("test", 20)):
        rows = {"text": [f"{split} {i}" for i in range(n)], "label": labels[:n]}
        write(f"subj/{split}.parquet", rows)
    monkeypatch.setenv("AL_RAY_DATA", str(tmp_path))
    whole, cut, larger = (
        resolve_dataset({"name": "subj", **size})
        for size in ({}, {"keep_train": 10, "keep_test": 5}, {"keep_train": 11})
    )
    assert (len(whole.train), len(cut.train), len(cut.test)) == (60, 10, 5)
    assert set(cut.train.ids.tolist()) < set(larger.train.ids.tolist()) < set(whole.train.ids.tolist())
    at = cut.train.ids.tolist()
    assert list(cut.train.texts) == [f"train {i}" for i in at]
    assert cut.train.labels.tolist() == [labels[i] for i in at]
    assert cut.content_sha256 != whole.content_sha256
    assert "of these 10 training and 5 test rows are used" in cut.source
    with pytest.raises(ConfigError, match=r"keep_train is 1, it must be at least the number of classes, 2"):
        resolve_dataset({"name": "subj", "keep_train": 1})


@pytest.fixture
def available(name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a data set whose rows are here; a pinned one needs a folder of real rows."""
    if name in PINNED:
        real_data: Path = request.getfixturevalue("real_data")
        monkeypatch.setenv("AL_RAY_DATA", str(real_data))
        if not (real_data / name).is_dir():
            lacks("data", f"{name} is not among the real rows of this machine")
    return name


@pytest.mark.parametrize("name", datasets.names())
def test_a_data_set_whose_rows_are_here_satisfies_the_contract(name: str, available: str) -> None:
    dataset = resolve_dataset(available)
    assert dataset.name == name
    for split in (dataset.train, dataset.test):
        assert len(np.unique(split.ids)) == len(split.ids) == len(split.texts) == len(split.labels)
        assert all(isinstance(text, str) and text.strip() for text in split.texts)
        assert set(np.unique(split.labels)) == set(range(dataset.n_classes))
    if name in PINNED:
        assert dataset.class_names == pinned(name).class_names
        note = pinned(name).size_note(len(dataset.train), len(dataset.test))
        assert ("declared" in dataset.source) is (note is not None)
        assert note is None or dataset.source.endswith(f"({note})")
    assert re.fullmatch(r"[0-9a-f]{64}", dataset.content_sha256)


def test_the_options_of_data_sets_are_their_fields() -> None:
    assert fields_of(datasets.get("tickets"))["seed"] == ("int", 0)
    assert set(fields_of(datasets.get("subj"))) == {"keep_train", "keep_test"}
    assert all(summary(datasets.get(name)).endswith(".") for name in datasets.names())


def rows(n: int, n_classes: int = 2) -> dict[str, list[object]]:
    return {"text": [f"text {i}" for i in range(n)], "label": [i % n_classes for i in range(n)]}


@pytest.fixture
def folder(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder named by AL_RAY_DATA that holds a tiny ``subj``."""
    write("subj/train.parquet", rows(6))
    write("subj/test.parquet", rows(4))
    monkeypatch.setenv("AL_RAY_DATA", str(tmp_path))
    return tmp_path


def test_the_folder_comes_before_the_hub_and_a_subset_is_said_aloud(folder: Path) -> None:
    dataset = resolve_dataset("subj")
    note = "6 of the declared 8,000 training rows and 4 of the declared 2,000 test rows"
    assert dataset.source == f"{folder / 'subj'} ({note})"
    assert dataset.class_names == ("objective", "subjective")


def test_more_rows_than_declared_are_said_aloud_too() -> None:
    assert pinned("subj").size_note(8001, 2000) == "8,001 instead of the declared 8,000 training rows"
    assert pinned("subj").size_note(8000, 2000) is None


def test_a_folder_that_orders_the_classes_otherwise_is_refused(folder: Path, write: Write) -> None:
    write("subj/train.parquet", rows(6), {"class_names": '["subjective", "objective"]'})
    with pytest.raises(DataError, match=r"\[subjective, objective\], but \[objective, subjective\] was expected"):
        resolve_dataset("subj")


def test_a_folder_with_a_label_outside_the_declared_classes_is_refused(folder: Path, write: Write) -> None:
    write("subj/test.parquet", rows(4, n_classes=3))
    with pytest.raises(DataError, match=r"test\.parquet: column 'label' has an unknown class '2'"):
        resolve_dataset("subj")


def test_a_folder_without_a_test_split_is_refused_and_the_hub_is_not_asked(folder: Path) -> None:
    (folder / "subj" / "test.parquet").unlink()
    with pytest.raises(DataError, match=r"subj has no test split\. Copy test\.parquet there"):
        resolve_dataset("subj")


def test_a_variable_that_names_no_folder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AL_RAY_DATA", str(tmp_path / "gone"))
    with pytest.raises(DataError, match=r"AL_RAY_DATA is '.*gone', which is not a folder"):
        resolve_dataset("trec6")


def test_any_folder_there_is_a_data_set_by_its_name(folder: Path, write: Write) -> None:
    for split in ("train", "test"):
        write(f"mine/{split}.csv", rows(8))
        write(f"other/{split}.jsonl", {"body": ["a", "b"], "team": ["x", "y"]})
    (folder / "notes").mkdir()
    assert named_folders() == ["mine", "other", "subj"]
    dataset = resolve_dataset("mine")
    assert (dataset.name, dataset.class_names, len(dataset.train)) == ("mine", ("0", "1"), 8)
    assert dataset.content_sha256 == resolve_dataset({"path": str(folder / "mine")}).content_sha256
    named = {"name": "other", "text": "body", "label": "team"}
    assert resolve_dataset(named).class_names == ("x", "y")
    assert resolve_dataset(normalise_option(named)).content_sha256 == resolve_dataset(named).content_sha256


def test_a_registered_name_comes_before_a_folder_of_that_name(folder: Path) -> None:
    assert resolve_dataset("subj").class_names == ("objective", "subjective")
    with pytest.raises(ConfigError, match="unknown option of data set 'subj': 'text'"):
        resolve_dataset({"name": "subj", "text": "body"})


def test_a_folder_that_holds_no_rows_says_what_is_there(folder: Path) -> None:
    (folder / "mine").mkdir()
    (folder / "mine" / "rows.csv").write_text("text,label\n")
    with pytest.raises(DataError, match=r"mine has no training split: expected train\.parquet, .*, found rows\.csv"):
        resolve_dataset("mine")


@pytest.mark.parametrize("name", ["", ".", "..", "gone", "x" * 300, "subj/"])
def test_a_name_that_is_no_folder_there_is_unknown(folder: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="unknown data set"):
        resolve_dataset({"name": name})


def test_a_misspelt_folder_is_suggested(folder: Path, write: Write) -> None:
    write("twenty_newsgroups/train.csv", rows(4))
    with pytest.raises(ConfigError, match=r"unknown data set '20_newsgroups'\. Did you mean 'twenty_newsgroups'"):
        resolve_dataset("20_newsgroups")


def test_classes_and_groups_that_look_alike_are_told_with_their_counts(write: Write) -> None:
    labels = ["billing", "billing ", "cafe\u0301", "café"] * 3
    columns = {"text": [f"t{i}" for i in range(12)], "label": labels, "kind": ["New", "new", "old"] * 4}
    option = {"path": str(write("d.csv", columns)), "test_fraction": 0.4, "group": "kind"}
    notes = near_equal_notes(resolve_dataset(option))
    assert len(notes) == 3
    assert "the classes 'billing' (2 training, 1 test) and 'billing ' (2 training, 1 test) have names that" in notes[0]
    assert r"the classes 'cafe\u0301' (2 training, 1 test) and 'caf\xe9' (2 training, 1 test)" in notes[1]
    assert "the groups 'New'" in notes[2]
    assert near_equal_notes(resolve_dataset("tickets")) == []
    mended = columns | {"label": [unicodedata.normalize("NFC", x.strip()) for x in labels], "kind": ["new", "old"] * 6}
    write("d.csv", mended)
    assert near_equal_notes(resolve_dataset(option)) == []


def test_an_unknown_name_suggests_the_nearest_and_the_way_to_own_files() -> None:
    with pytest.raises(ConfigError, match=r"unknown data set 'trec'\. Did you mean 'trec6'\?.*\{path: \.\.\., text: "):
        resolve_dataset("trec")


def test_an_option_without_name_and_path_is_refused() -> None:
    with pytest.raises(ConfigError, match="a data set is a name or a mapping with a 'name'"):
        resolve_dataset({"seed": 3})


def test_a_bare_name_means_all_defaults() -> None:
    assert normalise_option("trec6") == {"name": "trec6", "keep_train": None, "keep_test": None}
    assert normalise_option("tickets") == normalise_option({"name": "tickets", "seed": 0, "n_test": 500})
    assert normalise_option({"name": "tickets", "seed": 7})["seed"] == 7


def test_importing_the_family_loads_nothing_heavy() -> None:
    heavy = ["datasets", "huggingface_hub", "torch", "transformers", "ray", "pandas"]
    script = (
        "import sys, time, numpy, pyarrow.parquet, pydantic; start = time.process_time()\n"
        "import al_ray.data as data; [data.datasets.build(name) for name in data.datasets.names()]\n"
        f"print(time.process_time() - start, *[name for name in {heavy} if name in sys.modules])"
    )
    path = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env={"PYTHONPATH": path}
    )
    seconds, *loaded = done.stdout.split()
    assert loaded == []
    assert float(seconds) < 0.5
