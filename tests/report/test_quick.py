"""The quick reader of packed cells gives what the usual one gives, to the bit, and leaves the rest to that one."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import al_ray.report.read
from al_ray.core.types import EvaluationQuery, LabeledSet
from al_ray.errors import StorageError
from al_ray.records.json import canonical_json, fingerprint
from al_ray.records.packed import FilesOfCell, write_part
from al_ray.report.analysis import analyse
from al_ray.report.queried import QueriedCell, QueriedExamples
from al_ray.report.quick import read_rounds
from al_ray.report.read import StudyRecords, read_study
from al_ray.storage.folder import Folder
from al_ray.storage.memory import MemoryFolder
from tests.report.study_samples import TEST, SampleStudy

Files = dict[str, bytes]


def test_a_report_reads_every_part_three_times_however_its_cells_lie_among_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for what it holds, once for heads and rounds, once for the last arrays: also where 16 threads read."""
    study = SampleStudy(tmp_path)
    for seed in range(100):
        study.plan(seed=seed)
        cell = study.cell((0.5, 0.6), seed=seed, test=TEST)
        study.planned[-1] |= {"slug": cell.slug, "fingerprint": cell.fingerprint}
    study.write_plan()
    keys = list(files_of(study))
    for first in range(50):  # neighbours lie in different parts
        pack(study, keys=keys[first::50])
    opened: Counter[str] = Counter()
    usual = Folder.read_with

    def count(self: Folder, name: str, look: Callable[[Any], Any]) -> Any:
        opened[name] += 1
        return usual(self, name, look)

    monkeypatch.setattr(Folder, "read_with", count)
    monkeypatch.setattr(Folder, "is_local", False)  # so that parts are read side by side
    assert len(analyse(read_study(study.path)).cells) == 100
    assert set(opened.values()) == {3}
    assert len(opened) == 50


def files_of(study: SampleStudy) -> dict[str, Files]:
    """Return the files of every cell."""
    return {
        cell.key: {name: cell.folder.read(name) or b"" for name in cell.folder.names()[0]}
        for cell in study.store.cells()
    }


def pack(
    study: SampleStudy, change: Callable[[Files], None] = lambda files: None, keys: Sequence[str] | None = None
) -> Path:
    """Move all cells, or those of these keys, into one part, the first of them changed, and return the part."""
    found = {key: files for key, files in files_of(study).items() if keys is None or key in keys}
    change(next(iter(found.values())))
    held = []
    for key, files in found.items():
        held.append(FilesOfCell(key, json.loads(files["spec.json"])["fingerprint"], MemoryFolder(key, files)))
        shutil.rmtree(Path(study.path, key))
    return Path(study.path, "packed", write_part(study.store.folder, held))


@pytest.fixture
def study(tmp_path: Path) -> SampleStudy:
    study = SampleStudy(tmp_path)
    study.cell((0.5, 0.6, 0.7), ids=[7, 5, 3, 1, 2, 4], labels=[0, 1, 0, 1, -1, 1], test=TEST)
    study.cell((0.4, 0.6), seed=43, metrics={"own.ece": 0.3})
    study.cell((0.55, 0.65, 0.7), strategy="random", probs=(0.3, 0.3, 0.4), variant="three", test=TEST)
    study.passive(0.9, wrong=[3, 31])
    return study


def assert_equal(one: StudyRecords, other: StudyRecords) -> None:
    order = {key: at for at, key in enumerate(other.cells["key"])}
    assert set(one.cells["key"]) == set(order)
    pd.testing.assert_frame_equal(one.cells, other.cells)
    pd.testing.assert_frame_equal(one.rounds, other.rounds, check_like=True)
    for name in ("ids", "labels", "starts", "sums", "brier"):
        mine, others = getattr(one.queried, name), getattr(other.queried, name)
        assert mine.dtype == others.dtype
        np.testing.assert_array_equal(mine, others)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the cells that the quick reader proves, at each call."""
    counts: list[int] = []

    def counting(cells: Any) -> Any:
        found = read_rounds(cells)
        counts.append(len(found))
        return found

    monkeypatch.setattr(al_ray.report.read, "read_rounds", counting)
    return counts


def test_a_part_reads_as_its_cells_did_before_they_were_packed(
    study: SampleStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_folders, counts = read_study(study.path), counted(monkeypatch)
    before = analyse(in_folders)
    pack(study)
    packed = read_study(study.path)
    assert counts == [4]
    assert_equal(packed, in_folders)
    assert repr(analyse(packed)) == repr(before)


def rewritten(files: Files, index: int, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a record and give it the checksum that it then has."""
    name = f"round-{index:03d}.json"
    content = json.loads(files[name])
    change(content["record"])
    content["sha256"] = fingerprint(content["record"])
    files[name] = canonical_json(content).encode()


SPOILED: dict[str, Callable[[Files], None]] = {
    "changed after it was recorded": lambda files: files.update(
        {"round-001.json": files["round-001.json"].replace(b'"accuracy":0.5', b'"accuracy":0.9')}
    ),
    "asks again for example 7": lambda files: rewritten(
        files, 2, lambda record: record["query"].update(ids=[7, record["query"]["ids"][1]])
    ),
    "was fine-tuned on 3 labels, but 2 were": lambda files: rewritten(
        files, 1, lambda record: record.update(n_labeled=3)
    ),
    "has a label where the oracle abstained": lambda files: rewritten(
        files, 1, lambda record: record["annotation"].update(abstained=[True, False])
    ),
    "was answered with class 5, but there are 2": lambda files: rewritten(
        files, 1, lambda record: record["annotation"].update(labels=[5, 1])
    ),
    "has beliefs in 3 classes, but there were 2": lambda files: rewritten(
        files, 2, lambda record: record["query"].update(probs=[[0.2, 0.2, 0.6]] * 2)
    ),
    "is not the record of round 1": lambda files: rewritten(files, 1, lambda record: record.update(round_index=2)),
    "is truncated or damaged": lambda files: files.update({"round-001.json": b'{"format":1'}),
    "should have": lambda files: files.update({"round-001.json": files["round-001.json"][:-1] + b',"more":1}'}),
}


@pytest.mark.parametrize("says", SPOILED)
def test_what_cannot_have_happened_is_told_as_of_a_cell_with_a_folder(
    study: SampleStudy, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = counted(monkeypatch)
    pack(study, SPOILED[says])
    with pytest.raises(StorageError, match=says) as found:
        read_study(study.path)
    assert "1 of 4 cells" in str(found.value)
    assert counts in ([3], [0])  # the others are proven, or all are read one by one where the text is no JSON
    assert len(read_study(study.path, skip_damaged=True).notices) == 1


def test_a_cell_with_what_is_rare_is_read_by_the_usual_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = SampleStudy(tmp_path)
    plain = study.cell()
    rounds = plain.rounds()
    other = study.begin(seed=7)
    drawn = EvaluationQuery(ids=np.array([30]), proposals=np.array([0.5]), labels=np.array([1]))
    revised = LabeledSet(ids=np.array([0]), labels=np.array([1]))
    for record in rounds:
        more = {1: {"evaluation": drawn}, 2: {"revised": revised}}.get(record.round_index, {})
        other.append(replace(record, **more))  # type: ignore[arg-type]
    other.finish({"n_rounds": len(rounds)})
    in_folders, counts = read_study(study.path), counted(monkeypatch)
    pack(study)
    assert_equal(read_study(study.path), in_folders)
    assert counts == [1]


def test_ids_are_kept_in_a_type_that_holds_them_all_negative_ones_too() -> None:
    ids = [np.array([-(10**12), 5]), np.array([200, -3])]
    cells = [QueriedCell(each, np.array([0, -1]), np.zeros((3, 10)), float("nan")) for each in ids]
    kept = QueriedExamples.of(cells)
    assert [kept.ids_of(cell).tolist() for cell in range(2)] == [each.tolist() for each in ids]
    assert QueriedExamples.of(cells[1:]).ids.dtype == np.int16
