"""Stored answers: what is confirmed stays, also where a disk fills between two files, and what comes again is known."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from al_ray.core.answers import Answer, aggregate
from al_ray.errors import StorageError
from al_ray.project import answers
from al_ray.project.answers import AnswerStore
from al_ray.storage.folder import Folder


def opened(folder: Path) -> AnswerStore:
    return AnswerStore(Folder.open(str(folder)), ["a", "b"], lambda id_: f"text {id_}")


def said(ids: range, label: int = 0, **more: Any) -> list[Answer]:
    return [Answer(id=id_, label=label, annotator="ada", source="file", **more) for id_ in ids]


@pytest.mark.parametrize("n_later", [1, 5])
def test_what_a_full_disk_cut_short_counts_as_far_as_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_later: int
) -> None:
    monkeypatch.setattr(answers, "ROWS_OF_A_FILE", 4)
    store, write = opened(tmp_path), Folder.write
    store.add(said(range(2)))
    with monkeypatch.context() as patch:

        def fill_up(folder: Folder, name: str, data: bytes, what: str) -> None:
            if name == "answers-00002.json":
                raise StorageError("the disk is full")
            write(folder, name, data, what)

        patch.setattr(Folder, "write", fill_up)
        with pytest.raises(StorageError, match="the disk is full"):
            store.add(said(range(2, 12)))
    assert [each.id for each in store.all()] == [*range(8)]
    store.add(said(range(20, 20 + n_later)))
    assert [each.id for each in store.all()] == [*range(8), *range(20, 20 + n_later)]
    assert [each.id for each in opened(tmp_path).all()] == [each.id for each in store.all()]


def test_an_answer_that_a_server_gives_again_does_not_undo_a_later_one(tmp_path: Path) -> None:
    store, at = opened(tmp_path), datetime(2026, 1, 1, tzinfo=UTC)
    fetched = said(range(1), 0, at=at)
    store.add(fetched)
    store.add(said(range(1), 1, at=at + timedelta(hours=1)))
    assert store.add(fetched) == ([], fetched)
    assert opened(tmp_path).add(fetched) == ([], fetched)
    again = said(range(1), 0, at=at + timedelta(hours=2))
    assert store.add(again) == (again, [])


def test_a_label_of_the_data_counts_until_somebody_names_a_class() -> None:
    given = Answer(id=1, label=0, source="given")
    assert aggregate([given]) == {1: 0}
    assert aggregate([given, Answer(id=1, label=None, annotator="ada", source="page")]) == {1: 0}
    assert aggregate([given, Answer(id=1, label=2, annotator="ada", source="page")]) == {1: 2}
    two = [Answer(id=1, label=label, annotator=name, source="page") for name, label in (("ada", 2), ("bob", 0))]
    assert aggregate([given, *two]) == {1: 0}
    assert aggregate(two) == {1: 2}
