"""Data sets whose pool holds texts of no class: generated ones, and files that name them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from al_ray.core.types import LabeledSet
from al_ray.data import near_equal_notes, normalise_option, resolve_dataset
from al_ray.data.files import PathSource
from al_ray.errors import ConfigError, DataError
from al_ray.study.plan import _dataset_note, _misfits_of_open_set
from al_ray.study.spec import make_spec
from al_ray.terminal import dataset_lines
from tests.data.conftest import Write

OPEN_TICKETS = {"name": "tickets", "n_train": 200, "n_test": 60, "no_class_fraction": 0.3}
LABELS = ["b", "other", "a", "b", "spam", "a", "other", "b", "a", "b"]


def rows(labels: list[Any]) -> dict[str, list[Any]]:
    return {"text": [f"text {i}" for i in range(len(labels))], "label": labels}


def test_tickets_of_no_class_are_a_slice_of_the_pool_and_in_no_test_split() -> None:
    dataset = resolve_dataset(OPEN_TICKETS)
    assert dataset.train.groups is not None
    of_no_class = np.array([kind == "no_class" for kind in dataset.train.groups])
    assert of_no_class.sum() == dataset.n_no_class == 60
    np.testing.assert_array_equal(dataset.train.labels == -1, of_no_class)
    assert dataset.test.groups is not None
    assert "no_class" not in dataset.test.groups
    assert dataset.test.labels.min() == 0
    assert len({*dataset.train.texts, *dataset.test.texts}) == 260


def test_an_option_that_came_later_is_in_no_stored_option_at_its_default() -> None:
    """Specs of old records hold every option that there was, and are compared with those made now."""
    assert normalise_option("tickets") == {
        "name": "tickets",
        "n_train": 1200,
        "n_test": 500,
        "seed": 0,
        "ambiguous_fraction": 0.1,
        "rare_fraction": 0.08,
        "mislabeled_fraction": 0.04,
        "junk_fraction": 0.04,
        "imbalance": 0.3,
    }
    assert "none_of_these" not in normalise_option("data/mine")
    spec = make_spec({"dataset": "tickets", "strategy": "margin", "seed": 1}, "cell")
    explicit = spec.changed(dataset=normalise_option({"name": "tickets", "no_class_fraction": 0.0}))
    assert spec.fingerprint() == explicit.fingerprint()
    assert normalise_option(OPEN_TICKETS)["no_class_fraction"] == 0.3
    assert normalise_option(normalise_option(OPEN_TICKETS)) == normalise_option(OPEN_TICKETS)


def test_all_fractions_count_together() -> None:
    option = {"name": "tickets", "junk_fraction": 0.5, "no_class_fraction": 0.4}
    with pytest.raises(ConfigError, match=r"the four fractions sum to 0\.72, and no_class_fraction is 0\.4; together"):
        resolve_dataset(option)


@pytest.mark.parametrize("classes", [None, ["b", "a"]], ids=str)
def test_labels_that_stand_for_no_class_are_taken_out_of_the_classes(
    write: Write, tmp_path: Path, classes: list[str] | None
) -> None:
    write("train.csv", rows(LABELS))
    write("test.csv", rows(["a", "spam", "b"]))
    option: dict[str, Any] = {"path": str(tmp_path), "none_of_these": ["other", "spam"]}
    dataset = resolve_dataset(option | ({"classes": classes} if classes else {}))
    assert dataset.class_names == (tuple(classes) if classes else ("a", "b"))
    named = [None if c < 0 else dataset.class_names[c] for c in dataset.train.labels.tolist()]
    assert named == [None if name in ("other", "spam") else name for name in LABELS]
    assert dataset.test.texts == ["text 0", "text 2"]
    assert dataset.test.ids.tolist() == [0, 2]


def test_integers_may_stand_for_no_class(write: Write) -> None:
    path = write("d.csv", rows([0, 1, -1, 1, 0, -1, 0, 1]))
    dataset = resolve_dataset({"path": str(path), "test_fraction": 0.3, "none_of_these": [-1]})
    assert dataset.class_names == ("0", "1")
    assert dataset.n_no_class == 2
    assert len(dataset.train) + len(dataset.test) == 8
    assert set(dataset.test.labels.tolist()) == {0, 1}


def test_a_test_split_is_drawn_as_if_there_were_no_texts_of_no_class(write: Write) -> None:
    path = write("d.csv", rows(LABELS))
    known = write("known.csv", {key: [v for v, name in zip(values, LABELS, strict=True) if name in "ab"]
                                for key, values in rows(LABELS).items()})  # fmt: skip
    whole = resolve_dataset({"path": str(path), "test_fraction": 0.4, "none_of_these": ["other", "spam"]})
    alone = resolve_dataset({"path": str(known), "test_fraction": 0.4})
    assert whole.test.texts == alone.test.texts


@pytest.mark.parametrize(
    ("option", "error", "message"),
    [
        (
            {"none_of_these": ["othr"]},
            DataError,
            r"none_of_these names an unknown class 'othr'. Did you mean 'other'\?",
        ),
        ({"none_of_these": ["a"], "classes": ["a", "b"]}, ConfigError, "both name 'a'"),
        ({"none_of_these": ["a", "other", "spam"]}, DataError, "holds one class only, 'b'"),
        ({"none_of_these": [1, "a"]}, ConfigError, r"none_of_these is \[1, 'a'\], which mixes numbers and names"),
        ({"none_of_these": "other"}, ConfigError, "option 'none_of_these'"),
    ],
)
def test_wrong_names_of_no_class_are_refused(write: Write, option: Any, error: type[Exception], message: str) -> None:
    path = write("d.csv", rows(LABELS))
    with pytest.raises(error, match=message):
        resolve_dataset({"path": str(path), "test_fraction": 0.4, **option})


def test_a_pool_to_label_takes_no_such_names(write: Write) -> None:
    path = write("d.csv", rows(LABELS))
    source = PathSource.from_option({"path": str(path), "classes": ["a", "b"], "none_of_these": ["other"]})
    with pytest.raises(ConfigError, match="in a project people say that a text is none of the classes"):
        source.load_pool()


def test_what_is_said_of_an_open_set_counts_texts_of_no_class_apart() -> None:
    dataset = resolve_dataset(OPEN_TICKETS)
    note = _dataset_note(dataset)
    assert note["n_no_class"] == 60
    assert note["class_counts"] == [int((dataset.train.labels == c).sum()) for c in range(6)]
    assert sum(note["class_counts"]) == 140
    assert "6 classes and 60 training examples of none" in dataset_lines("tickets", dataset)[0]
    assert "n_no_class" not in _dataset_note(resolve_dataset("tickets"))
    assert near_equal_notes(dataset) == []


def misfits(**changes: Any) -> list[str]:
    values = {"dataset": OPEN_TICKETS, "strategy": "margin", "seed": 1, **changes}
    return _misfits_of_open_set(make_spec(values, "cell"), resolve_dataset(OPEN_TICKETS))


def test_a_study_of_an_open_set_needs_an_oracle_that_may_abstain_and_labels_for_what_reads_them() -> None:
    assert misfits() == []
    assert misfits(initial="random", initial_size=200) == []
    (start,) = misfits(initial_size=141)
    assert "initial 'stratified' takes none of these: initial_size is 141, and 140 can be taken for certain" in start
    stopping = [{"name": "target_accuracy", "target": 0.9, "n_examples": 150}]
    (held_out,) = misfits(stopping=stopping)
    assert "hold 150 out that have one; 140 do" in held_out


def test_an_oracle_that_answers_everything_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from al_ray.oracle.ground_truth import GroundTruth

    monkeypatch.setattr(GroundTruth, "may_abstain", False)
    (found,) = misfits()
    assert found.startswith("60 of the 200 training examples of 'tickets' are of no class, but oracle 'ground_truth'")


def test_those_of_a_class_keep_their_order() -> None:
    truth = LabeledSet(ids=np.array([5, 3, 9, 1]), labels=np.array([1, -1, 0, -1]))
    assert truth.of_a_class().ids.tolist() == [5, 9]
    assert truth.of_a_class().labels.tolist() == [1, 0]
