"""Packed cells: many finished cells in one file, read and proven like cells that have folders."""

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from al_ray.errors import StorageError
from al_ray.records.cell import CellStore
from al_ray.records.json import fingerprint
from al_ray.records.packed import KINDS, FilesOfCell, PackedCells, encode_part, kind_of, write_part
from al_ray.records.study import StudyStore
from al_ray.storage.folder import Folder
from al_ray.storage.local_files import LocalFiles
from al_ray.storage.memory import MemoryFolder
from tests.records.record_samples import SPEC, make_record, make_story, run_cell

N_ROUNDS = 3


def study_in(storage: Path) -> StudyStore:
    store = StudyStore.open(str(storage), "softmax")
    store.claim()
    return store


def ran(store: StudyStore, seed: int, *, packed: bool = True) -> CellStore:
    """Run a cell to its end: in memory, or in its folder."""
    spec: dict[str, Any] = {**SPEC, "seed": seed}
    cell = store.cell_folder(f"trec6-margin-s{seed}", fingerprint(spec))
    if packed:
        cell = replace(cell, folder=MemoryFolder(cell.folder.address))
    cell.begin(spec, {"al_ray": "0.1.0", "class_names": ["a", "b"]})
    table = {"id": np.arange(4), "label": np.arange(4) % 2}
    for record in make_story(N_ROUNDS):
        cell.append(record, {"test": table} if record.metrics else {})
    cell.finish({"n_rounds": N_ROUNDS + 1})
    return cell


def files(cell: CellStore) -> FilesOfCell:
    assert isinstance(cell.folder, MemoryFolder)
    return FilesOfCell(cell.key, cell.fingerprint, cell.folder)


def pack(store: StudyStore, *seeds: int) -> Path:
    """Write a part of cells of these seeds, and return where it is."""
    return Path(store.root, "packed", write_part(store.folder, [files(ran(store, seed)) for seed in seeds]))


def test_a_packed_cell_reads_like_one_that_has_a_folder(tmp_path: Path) -> None:
    store = study_in(tmp_path)
    in_folder = ran(store, 1, packed=False)
    pack(store, 2, 3)
    first, packed, _ = store.cells()
    assert (first.key, packed.slug) == (in_folder.key, "trec6-margin-s2")
    assert packed.progress() == ("done", N_ROUNDS + 1)
    assert packed.spec()["seed"] == 2
    assert packed.provenance()[0]["class_names"] == ["a", "b"]
    for index in range(N_ROUNDS + 1):
        mine, other = packed.recorded_round(index), in_folder.recorded_round(index)
        assert mine is not None
        assert other is not None
        assert mine.record.to_json() == other.record.to_json()
        assert mine.tables == other.tables
    assert [record.to_json() for record in packed.rounds()] == [record.to_json() for record in in_folder.rounds()]
    assert packed.arrays(2)["test"]["label"].tolist() == [0, 1, 0, 1]
    assert packed.ended_at() is not None
    assert packed.folder.names() == in_folder.folder.names()


def test_a_part_holds_exactly_the_bytes_that_the_files_of_a_folder_would(tmp_path: Path) -> None:
    store = study_in(tmp_path)
    cells = [ran(store, seed) for seed in (1, 2)]
    write_part(store.folder, [files(cell) for cell in cells])
    for cell in cells:
        assert isinstance(cell.folder, MemoryFolder)
        found = store.find(cell.key)
        assert found is not None
        assert {name: found.folder.read(name) for name in found.folder.names()[0]} == cell.folder.files


def test_a_part_is_a_parquet_file_that_any_reader_reads(tmp_path: Path) -> None:
    part = pack(study_in(tmp_path), 1, 2)
    table = pq.read_table(part)
    assert table.column_names == ["cell", "fingerprint", "n_rounds", "name", "size", "content"]
    assert set(table["n_rounds"].to_pylist()) == {N_ROUNDS + 1}
    assert table["size"].to_pylist() == [len(data) for data in table["content"].to_pylist()]
    groups = pq.ParquetFile(part).metadata.num_row_groups
    names = [pq.ParquetFile(part).read_row_group(at)["name"].to_pylist() for at in range(groups)]
    assert [{kind_of(name, N_ROUNDS + 1) for name in of_group} for of_group in names] == [{kind} for kind in KINDS]
    assert set(names[2]) == {f"round-{N_ROUNDS:03d}.parquet"}


def test_the_same_cells_give_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    store = study_in(tmp_path)
    cells = [files(ran(store, seed)) for seed in (1, 2)]
    assert encode_part(cells) == encode_part(cells[::-1])


def test_a_part_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = study_in(tmp_path)
    cells = [files(ran(store, 1))]

    def fail(self: LocalFiles, files: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(LocalFiles, "write", fail)
        with pytest.raises(StorageError, match=r"cell trec6-margin-s1--\w+ was not recorded: no space left"):
            write_part(store.folder, cells)
    assert store.cells() == []
    write_part(store.folder, cells)
    assert len(store.cells()) == 1


def test_nothing_is_written_to_a_packed_cell(tmp_path: Path) -> None:
    store = study_in(tmp_path)
    pack(store, 1)
    (cell,) = store.cells()
    with pytest.raises(StorageError, match=r"the failure of cell .* was not recorded: .* is finished"):
        cell.fail({"error": "x"})
    with pytest.raises(StorageError, match="is finished, and does not change"):
        cell.folder.remove("spec.json")


def test_a_cell_that_is_packed_and_has_a_folder_is_the_packed_one(tmp_path: Path) -> None:
    """A lane that was cut off, and the one in its place, may both have begun it."""
    store = study_in(tmp_path)
    left_over = ran(store, 1, packed=False)
    Path(left_over.folder.where("done.json")).unlink()
    pack(store, 1)
    pack(store, 1)
    (cell,) = store.cells()
    assert cell.status() == "done"
    assert store.recorded_keys() == [cell.key]


def test_parts_that_come_later_are_found_by_another_look_and_known_ones_are_not_read_again(tmp_path: Path) -> None:
    store = study_in(tmp_path)
    old = pack(store, 1)
    packed = PackedCells(store.folder)
    assert len(packed.whole()) == 1
    old.write_bytes(b"spoiled since")
    pack(store, 2, 3)
    assert len(packed.look().whole()) == 3


@pytest.mark.parametrize("at", [0.05, 0.3, 0.6, 0.9])
def test_a_part_with_a_changed_byte_is_damaged_and_named(tmp_path: Path, at: float) -> None:
    part = pack(study_in(tmp_path), 1, 2)
    data = bytearray(part.read_bytes())
    data[int(len(data) * at)] ^= 0x40
    part.write_bytes(bytes(data))
    store = StudyStore.open(str(tmp_path), "softmax")
    with pytest.raises(StorageError, match=re.escape(str(part))) as found:
        read_all(store)
    assert "its cells" in str(found.value) or "the cells in it" in str(found.value)


def read_all(store: StudyStore) -> None:
    for cell in store.cells():
        cell.spec(), cell.provenance(), cell.ended_at()
        for entry in cell.recorded_rounds():
            cell.arrays(entry.record.round_index)


def test_a_part_that_is_cut_off_is_damaged(tmp_path: Path) -> None:
    part = pack(study_in(tmp_path), 1)
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(StorageError, match=r"\.parquet is damaged: .* move it away; the cells in it are then run anew"):
        StudyStore.open(str(tmp_path), "softmax").cells()


def test_a_part_of_a_later_version_is_refused(tmp_path: Path) -> None:
    part = pack(study_in(tmp_path), 1)
    table = pq.read_table(part)
    pq.write_table(table.replace_schema_metadata({"al_ray.format": "2"}), part)
    with pytest.raises(StorageError, match="has format '2', this al_ray reads format 1"):
        StudyStore.open(str(tmp_path), "softmax").cells()


def with_other_columns(part: Path) -> None:
    table = pq.read_table(part)
    table = table.set_column(2, "n_rounds", table["n_rounds"].cast("string"))
    pq.write_table(table, part, row_group_size=table.num_rows // len(KINDS) + 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_other_columns, "n_rounds: string, name: string, size: int64, content: binary, which should be those"),
        (lambda part: pq.write_table(pq.read_table(part), part), "it has 1 row groups, which should be 4"),
    ],
)
def test_a_part_that_was_written_otherwise_is_damaged(tmp_path: Path, change: Any, message: str) -> None:
    part = pack(study_in(tmp_path), 1)
    change(part)
    with pytest.raises(StorageError, match=rf"{part} is damaged: .*{message}"):
        StudyStore.open(str(tmp_path), "softmax").cells()


def test_what_a_killed_writer_left_among_the_parts_goes_with_the_next_run(tmp_path: Path) -> None:
    store = study_in(tmp_path)
    part = pack(store, 1)
    left = {age: part.with_name(f".{part.name}.{age}.tmp") for age in ("old", "new")}
    for path in left.values():
        path.write_bytes(b"half")
    os.utime(left["old"], (0, 0))
    store.claim()
    assert sorted(path.name for path in part.parent.iterdir()) == sorted([part.name, left["new"].name])


def test_drift_of_packed_cells_names_their_parts(tmp_path: Path) -> None:
    store = study_in(tmp_path)
    part = pack(store, 1, 2)

    def refusal() -> str:
        with pytest.raises(StorageError) as found:
            store.check_drift((cell, {**SPEC, "seed": 7}) for cell in store.cells())
        return str(found.value)

    ways = f"move these parts away: {part}; the other cells in them are then run anew."
    assert refusal().endswith(f"Rename the study, undo the change, or {ways}")
    ran(store, 3, packed=False)
    folders = "move the folders of these cells out of the study"
    assert refusal().endswith(f"Rename the study, undo the change, {folders}, or {ways}")


def test_a_part_that_is_gone_since_it_was_found_is_told(tmp_path: Path) -> None:
    store = study_in(tmp_path)
    part = pack(store, 1)
    (cell,) = store.cells()
    part.unlink()
    with pytest.raises(StorageError, match=r"\.parquet is missing\. Put the file back"):
        cell.spec()


def test_a_round_that_was_forged_inside_a_part_is_caught_by_its_own_checksum(tmp_path: Path) -> None:
    store = study_in(tmp_path)
    cell = ran(store, 1)
    assert isinstance(cell.folder, MemoryFolder)
    data = cell.folder.files["round-001.json"]
    cell.folder.files["round-001.json"] = data.replace(b'"accuracy":0.6', b'"accuracy":0.9')
    assert cell.folder.files["round-001.json"] != data
    write_part(store.folder, [files(cell)])
    (found,) = store.cells()
    with pytest.raises(StorageError, match=r"round-001\.json of cell .*\.parquet was changed after it was recorded"):
        found.rounds()


def test_the_bytes_of_a_part_are_shared_by_its_cells(tmp_path: Path) -> None:
    store = study_in(tmp_path)
    part = pack(store, 1, 2)
    ran(store, 3, packed=False)
    sizes = store.sizes()
    assert len(sizes) == 3
    assert sizes[store.cells()[0].key] == part.stat().st_size // 2


def test_a_thousand_cells_are_looked_up_by_reading_parts_and_not_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = study_in(tmp_path)
    held = [files(ran(store, seed)) for seed in range(1000)]
    for at in range(0, 1000, 250):
        write_part(store.folder, held[at : at + 250])
    opened: list[str] = []
    usual = {name: getattr(Folder, name) for name in ("read", "read_with", "names", "exists")}
    for name, method in usual.items():
        monkeypatch.setattr(Folder, name, lambda *args, of=name, method=method: (opened.append(of), method(*args))[1])
    fresh = StudyStore.open(str(tmp_path), "softmax")
    cells = fresh.cells()
    assert len(cells) == 1000
    assert all(fresh.find(cell.key) is not None for cell in cells)
    assert opened.count("read_with") == 4
    assert len(opened) <= 4 + 5  # study.json and the two listings


def test_the_record_of_a_round_is_the_same_in_memory(tmp_path: Path) -> None:
    cell = CellStore(MemoryFolder("memory"), "a", "0" * 64)
    cell.begin(SPEC, {})
    run_cell(replace(cell), N_ROUNDS)
    assert cell.progress() == ("done", N_ROUNDS + 1)
    with pytest.raises(StorageError, match="is already recorded with other content"):
        cell.append(replace(make_record(1), n_labeled=7))
