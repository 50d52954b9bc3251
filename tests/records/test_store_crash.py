"""What is left after a crash, a kill or a full disk: whole rounds, and nothing else."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from al_ray.errors import StorageError
from al_ray.records.study import StudyStore
from al_ray.storage import local_files
from tests.records.record_samples import SPEC, make_record, make_story, open_cell

ARRAYS = {"pool": {"id": np.arange(1000), "score": np.linspace(0, 1, 1000)}}

APPEND_FOR_EVER = """
import itertools, sys
import numpy as np
from tests.records.record_samples import make_record, open_cell
cell = open_cell(sys.argv[1])
for index in itertools.count(cell.n_rounds()):
    cell.append(make_record(index), {"pool": {"score": np.full(20_000, index)}})
    print(index, flush=True)
"""


def failing(real: Callable[..., Any], code: int, when: Callable[[int], bool] = lambda call: True) -> Callable[..., Any]:
    """Return a system call that fails when its count of calls says so."""
    calls = 0

    def call(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if when(calls):
            raise OSError(code, os.strerror(code))
        return real(*args, **options)

    return call


def files(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_arrays_without_a_record_are_a_round_that_did_not_happen(tmp_path: Path) -> None:
    cell = open_cell(tmp_path)
    cell.append(make_record(0))
    with pytest.MonkeyPatch.context() as crash:
        crash.setattr(local_files.os, "replace", failing(os.replace, errno.EIO, when=lambda call: call == 2))
        with pytest.raises(StorageError, match=r"round 1 of cell .* was not recorded: cannot write .*round-001\.json"):
            cell.append(make_record(1), {"pool": {"id": np.arange(3)}})
    assert "round-001.parquet" in files(tmp_path / "softmax" / cell.key)
    assert cell.n_rounds() == 1
    cell.append(make_record(1), ARRAYS)
    assert cell.n_rounds() == 2
    np.testing.assert_array_equal(cell.arrays(1)["pool"]["id"], np.arange(1000))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("at", [1, 2])
def test_a_full_disk_says_how_much_is_free_and_leaves_nothing_behind(
    tmp_path: Path, code: int, call: str, at: int
) -> None:
    cell = open_cell(tmp_path)
    cell.append(make_record(0))
    with pytest.MonkeyPatch.context() as full:
        full.setattr(local_files.os, call, failing(getattr(os, call), code, when=lambda count: count >= at))
        with pytest.raises(StorageError, match=r"round 1 of cell .* no space left .* [GM]iB free\).*Nothing was lost"):
            cell.append(make_record(1), ARRAYS)
    assert not [name for name in files(tmp_path / "softmax" / cell.key) if name.endswith(".tmp")]
    assert [record.round_index for record in cell.rounds()] == [0]
    cell.append(make_record(1), ARRAYS)
    assert cell.n_rounds() == 2


def test_a_disk_that_is_full_while_a_folder_is_made_is_told_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_files.os, "makedirs", failing(os.makedirs, errno.ENOSPC))
    with pytest.raises(StorageError, match="study softmax was not recorded: no space left"):
        StudyStore.open(str(tmp_path), "softmax").claim()


def test_a_file_system_that_cannot_flush_folders_still_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def only_files(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, "not supported")
        real(descriptor)

    monkeypatch.setattr(local_files.os, "fsync", only_files)
    open_cell(tmp_path).append(make_record(0))
    assert [cell.n_rounds() for cell in StudyStore.open(str(tmp_path), "softmax").cells()] == [1]


def test_taking_a_cell_up_again_clears_half_written_files(tmp_path: Path) -> None:
    cell = open_cell(tmp_path)
    leftover = tmp_path / "softmax" / cell.key / ".round-000.json.0123abcd.tmp"
    leftover.write_bytes(b'{"form')
    assert (cell.n_rounds(), cell.rounds()) == (0, [])
    cell.begin(SPEC, {})
    assert not leftover.exists()


@pytest.mark.parametrize("after", [20, 27, 35])
def test_a_killed_process_leaves_only_whole_rounds(tmp_path: Path, after: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", APPEND_FOR_EVER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=os.getcwd()
    )
    assert process.stdout is not None
    for _ in range(after):  # it writes on meanwhile, so that the blow falls anywhere in a round
        said = int(process.stdout.readline())
    process.kill()
    said = max([said, *(int(line) for line in process.stdout.read().split("\n")[:-1])])
    process.wait()
    process.stdout.close()
    (cell,) = StudyStore.open(str(tmp_path), "softmax").cells()
    rounds = cell.rounds()
    assert len(rounds) in (said + 1, said + 2)
    assert [record.to_json() for record in rounds] == [make_record(index).to_json() for index in range(len(rounds))]
    for index in range(len(rounds)):
        assert (cell.arrays(index)["pool"]["score"] == index).all()
    cell.begin(SPEC, {})
    cell.append(make_record(len(rounds)))
    assert cell.n_rounds() == len(rounds) + 1


def test_the_story_of_the_samples_is_one_that_can_happen(tmp_path: Path) -> None:
    cell = open_cell(tmp_path)
    for record in make_story(4):
        cell.append(record)
    assert [record.n_labeled for record in cell.rounds()] == [0, 3, 6, 9, 12]
