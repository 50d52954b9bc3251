"""A round whose answers are missing: kept before anyone is asked, recorded once, and checked when it is read."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from al_ray.core.types import Annotation, EvaluationQuery, LabeledSet, RoundRecord
from al_ray.errors import StorageError
from al_ray.records.round import check_rounds
from tests.records.record_samples import make_record, open_cell

TABLES = {"stop_set": {"id": np.arange(4), "predicted": np.array([0, 1, 1, 0])}}


def unanswered(record: RoundRecord) -> RoundRecord:
    ids = record.query.ids
    nothing = Annotation(ids=ids, labels=np.full(len(ids), -1), abstained=np.ones(len(ids), dtype=np.bool_))
    return replace(record, annotation=nothing)


def test_a_query_reads_back_with_its_arrays_until_it_is_recorded(tmp_path: Path) -> None:
    cell = open_cell(tmp_path)
    assert cell.pending() is None
    cell.ask(unanswered(make_record(0)), TABLES)
    found = cell.pending()
    assert found is not None
    assert found[0].to_json() == unanswered(make_record(0)).to_json()
    np.testing.assert_array_equal(found[1]["stop_set"]["predicted"], TABLES["stop_set"]["predicted"])
    assert cell.rounds() == []
    cell.append(make_record(0), found[1])
    assert cell.pending() is None
    np.testing.assert_array_equal(cell.arrays(0)["stop_set"]["id"], np.arange(4))


def test_a_kill_between_the_record_and_the_next_query_leaves_nothing_pending(tmp_path: Path) -> None:
    cell = open_cell(tmp_path)
    cell.ask(unanswered(make_record(0)), {})
    cell.append(make_record(0))
    assert (tmp_path / "softmax" / cell.key / "pending-000.json").exists()
    assert cell.pending() is None
    cell.ask(unanswered(make_record(1)), {})
    assert not (tmp_path / "softmax" / cell.key / "pending-000.json").exists()


def test_a_query_that_was_edited_is_refused(tmp_path: Path) -> None:
    cell = open_cell(tmp_path)
    cell.ask(unanswered(make_record(0)), {})
    file = tmp_path / "softmax" / cell.key / "pending-000.json"
    file.write_text(file.read_text().replace('"ids":[0,1,2]', '"ids":[0,1,9]'))
    with pytest.raises(StorageError, match=r"pending-000.json was changed after it was recorded"):
        cell.pending()


def test_revised_labels_and_evaluation_texts_read_back_exactly() -> None:
    record = replace(
        make_record(1),
        revised=LabeledSet(ids=np.array([0, 2]), labels=np.array([1, -1])),
        evaluation=EvaluationQuery(ids=np.array([90, 80]), proposals=np.array([0.25, 1 / 3]), labels=np.array([1, -1])),
    )
    assert RoundRecord.from_json(record.to_json()).to_json() == record.to_json()
    plain = make_record(1).to_json()
    assert "revised" not in plain
    assert "evaluation" not in plain


def where(index: int) -> str:
    return f"round {index}"


def drawn(*ids: int) -> EvaluationQuery:
    n = len(ids)
    return EvaluationQuery(ids=np.array(ids), proposals=np.full(n, 0.5), labels=np.zeros(n, dtype=np.int64))


def test_a_revised_label_counts_for_what_later_rounds_are_fitted_on() -> None:
    gone = LabeledSet(ids=np.array([0]), labels=np.array([-1]))
    rounds = [make_record(0), replace(make_record(1), revised=gone), make_record(2)]
    with pytest.raises(StorageError, match="was fine-tuned on 6 labels, but 5 were answered"):
        check_rounds(rounds, where)
    check_rounds([*rounds[:2], replace(make_record(2), n_labeled=5)], where)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"revised": LabeledSet(ids=np.array([77]), labels=np.array([1]))}, "revises the label of example 77"),
        ({"evaluation": drawn(3)}, "measures the model by one that it is fitted on"),
        ({"evaluation": drawn(0)}, "measures the model by one that it is fitted on"),
    ],
)
def test_what_cannot_have_been_asked_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(StorageError, match=message):
        check_rounds([make_record(0), replace(make_record(1), **changes)], where)


def test_an_evaluation_text_is_not_drawn_twice_nor_queried_later() -> None:
    first = replace(make_record(0), evaluation=drawn(50, 4))
    with pytest.raises(StorageError, match="asks again for an example"):
        check_rounds([first, replace(make_record(1), evaluation=drawn(50))], where)
    with pytest.raises(StorageError, match="asks again for an example"):
        check_rounds([first, make_record(1)], where)
