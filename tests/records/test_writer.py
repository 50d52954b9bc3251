"""Rounds that are recorded while the next ones are computed."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from al_ray.core.types import RoundRecord
from al_ray.errors import StorageError
from al_ray.records import writer as writer_module
from al_ray.records.arrays import Tables
from al_ray.records.cell import CellStore
from al_ray.records.writer import N_AHEAD, RoundWriter
from tests.records.record_samples import make_record, make_story, open_cell
from tests.waiting import PATIENCE_S, wait_until

ARRAYS = {"test": {"id": np.arange(4), "log_probs": np.zeros((4, 2), np.float32)}}


@dataclass
class GatedStore:
    """A cell's records that stand still before they write, until the gate opens; or fail."""

    cell: CellStore
    gate: threading.Event = field(default_factory=threading.Event)
    batches: list[list[int]] = field(default_factory=list)
    error: Exception | None = None

    def append_all(self, rounds: Sequence[tuple[RoundRecord, Tables]]) -> None:
        assert self.gate.wait(PATIENCE_S)
        if self.error is not None:
            raise self.error
        self.batches.append([record.round_index for record, _ in rounds])
        self.cell.append_all(rounds)


@pytest.fixture
def store(tmp_path: Path) -> GatedStore:
    return GatedStore(open_cell(tmp_path))


@pytest.fixture
def quick(store: GatedStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[RoundWriter]:
    """A writer to which every round is a quick one."""
    monkeypatch.setattr(writer_module, "QUICK_ROUND_S", float("inf"))
    writer = RoundWriter(store)  # type: ignore[arg-type]
    yield writer
    store.gate.set()
    writer.close()


def indices(records: Sequence[RoundRecord]) -> list[int]:
    return [record.round_index for record in records]


def said(records: Sequence[RoundRecord]) -> list[dict[str, Any]]:
    return [record.to_json() for record in records]


def test_quick_rounds_do_not_wait_and_are_told_once_they_are_recorded(quick: RoundWriter, store: GatedStore) -> None:
    told = [quick.append(make_record(index), ARRAYS) for index in range(4)]
    assert told == [[]] * 4
    assert store.cell.n_rounds() == 0
    store.gate.set()
    assert indices(quick.flush()) == [0, 1, 2, 3]
    assert indices(store.cell.rounds()) == [0, 1, 2, 3]
    assert quick.flush() == []


def test_rounds_that_come_while_one_is_written_are_written_together(quick: RoundWriter, store: GatedStore) -> None:
    store.gate.set()
    quick.append(make_record(0), {})
    quick.flush()
    store.gate.clear()
    for index in range(1, 6):
        quick.append(make_record(index), ARRAYS)
    store.gate.set()
    quick.flush()
    assert [index for batch in store.batches for index in batch] == [0, 1, 2, 3, 4, 5]
    assert len(store.batches) <= 3  # the first; what was there when the gate was reached; all others


def test_no_more_than_a_few_rounds_are_under_way(quick: RoundWriter, store: GatedStore) -> None:
    done = threading.Event()

    def compute() -> None:
        for record in make_story(N_AHEAD + 1):
            quick.append(record, {})
        done.set()

    thread = threading.Thread(target=compute)
    thread.start()
    wait_until(lambda: len(quick._waiting) == N_AHEAD, "as many rounds wait as may")
    assert not done.is_set()
    store.gate.set()
    thread.join(PATIENCE_S)
    assert done.is_set()


def test_a_slow_round_is_recorded_when_the_next_one_begins(store: GatedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "QUICK_ROUND_S", 0.0)
    store.gate.set()
    writer = RoundWriter(store)  # type: ignore[arg-type]
    for index in range(3):
        assert indices(writer.append(make_record(index), ARRAYS)) == [index]
        assert store.cell.n_rounds() == index + 1
    writer.close()


def test_a_round_that_cannot_be_recorded_stops_the_cell_at_its_next_one(quick: RoundWriter, store: GatedStore) -> None:
    store.error = StorageError("round 0 was not recorded: no space left")
    quick.append(make_record(0), {})
    store.gate.set()
    with pytest.raises(StorageError, match="no space left"):
        quick.flush()
    with pytest.raises(StorageError, match="no space left"):
        quick.append(make_record(1), {})
    quick.close()
    assert store.cell.n_rounds() == 0


def test_rounds_written_together_are_those_written_one_by_one(tmp_path: Path) -> None:
    together, alone = (open_cell(tmp_path / name) for name in ("together", "alone"))
    story = make_story(5)
    together.append_all([(record, ARRAYS if record.round_index else {}) for record in story])
    for record in story:
        alone.append(record, ARRAYS if record.round_index else None)
    assert said(together.rounds()) == said(alone.rounds()) == said(story)
    for name in alone.folder.names()[0]:
        if name.endswith(".parquet"):
            assert together.folder.read(name) == alone.folder.read(name)
    assert together.folder.names() == alone.folder.names()
    assert all(np.array_equal(together.arrays(3)["test"][name], ARRAYS["test"][name]) for name in ARRAYS["test"])


def test_rounds_that_are_recorded_already_stay_and_others_in_their_place_are_refused(tmp_path: Path) -> None:
    cell = open_cell(tmp_path)
    story = make_story(3)
    cell.append_all([(record, {}) for record in story[:2]])
    before = cell.folder.read("round-001.json")
    cell.append_all([(record, {}) for record in story[1:]])
    assert cell.folder.read("round-001.json") == before
    assert said(cell.rounds()) == said(story)
    with pytest.raises(StorageError, match="already recorded with other content"):
        cell.append_all([(make_record(1, abstain=True), {})])
    with pytest.raises(StorageError, match=r"round 5 is not\. Record the rounds in order"):
        cell.append_all([(make_record(6), {})])
