"""Storage that is away for a while is waited for, and nothing is lost, doubled or written beside it."""

import errno
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from al_ray.errors import ConfigError, StorageError
from al_ray.records.cell import CellStore
from al_ray.records.json import fingerprint
from al_ray.records.study import StudyStore
from al_ray.storage import local_files, remote_files
from al_ray.storage.outages import is_outage
from al_ray.study.file import Execution, set_options
from tests.needs import lacks
from tests.proxy import Proxy
from tests.records.record_samples import SPEC, make_record, make_story, open_cell
from tests.storage.conftest import Bucket
from tests.waiting import PATIENCE_S, wait_until

FILL_A_DISK = """
import os, sys, threading
import numpy as np
from al_ray.errors import StorageError
from al_ray.records.study import StudyStore
from tests.records.record_samples import make_record, open_cell
storage = sys.argv[1]
cell = open_cell(storage)
cell.append(make_record(0))
ballast = os.path.join(storage, "ballast")
with open(ballast, "wb", buffering=0) as file:
    try:
        while True:
            file.write(bytes(4096))
    except OSError as error:
        print("full:", error.errno)
arrays = {"pool": {"score": np.random.default_rng(0).normal(size=4000)}}
try:
    cell.append(make_record(1), arrays)
except StorageError as error:
    print("said:", error)
print("left:", sorted(os.listdir(cell.folder.address)), cell.n_rounds())
patient = StudyStore.open(storage, "softmax", claimed=True, patience_s=400).cell(cell.slug, cell.fingerprint)
threading.Timer(0.5, os.remove, [ballast]).start()
patient.append(make_record(1), arrays)
print("recorded:", [record.round_index for record in patient.rounds()], len(patient.arrays(1)["pool"]["score"]))
"""


def patient_cell(storage: str, patience_s: float = PATIENCE_S) -> CellStore:
    """Return the cell of the samples as a worker opens it."""
    store = StudyStore.open(storage, "softmax", claimed=True, patience_s=patience_s)
    return store.cell_folder("trec6-margin-s42", fingerprint(SPEC))


@contextmanager
def in_the_background(action: Callable[[], Any]) -> Iterator[threading.Thread]:
    """Do something in a thread, which must be done at the end; what it raises is raised here."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield thread
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    if raised:
        raise raised[0]


def append_the_rest(cell: CellStore) -> None:
    """Take the cell up as a run does, from what is recorded."""
    cell.begin(SPEC, {})
    done = len(cell.rounds())
    assert done == 2
    for record in make_story(4)[done:]:
        cell.append(record)


def check_whole(cell: CellStore) -> None:
    assert [record.to_json() for record in cell.rounds()] == [record.to_json() for record in make_story(4)]
    assert len(cell.provenance()) == 2


# ---- a disk that is not there


@pytest.mark.parametrize("what_is_there", ["nothing", "an empty mount point"])
def test_a_disk_that_comes_back_finds_the_cell_waiting_and_nothing_written_in_its_place(
    tmp_path: Path, impatient: list[float], what_is_there: str
) -> None:
    storage, away = tmp_path / "mounted", tmp_path / "away"
    first = open_cell(storage)
    for record in make_story(4)[:2]:
        first.append(record)
    cell = patient_cell(str(storage))
    storage.rename(away)
    if what_is_there != "nothing":
        storage.mkdir()
    with in_the_background(lambda: append_the_rest(cell)) as run:
        wait_until(lambda: len(impatient) >= 3, "three attempts")
        assert run.is_alive()
        assert what_is_there == "nothing" or list(storage.iterdir()) == []
        if what_is_there != "nothing":
            storage.rmdir()
        assert not storage.exists()
        away.rename(storage)
    check_whole(cell)


def test_what_vanishes_within_a_round_is_neither_absent_nor_made_anew(tmp_path: Path) -> None:
    first = open_cell(tmp_path / "mounted")
    first.append(make_record(0))
    cell = patient_cell(str(tmp_path / "mounted"), patience_s=0.0)
    (tmp_path / "mounted").rename(tmp_path / "away")
    (tmp_path / "mounted" / "softmax").mkdir(parents=True)
    for ask in (cell.rounds, cell.status, lambda: cell.append(make_record(0)), lambda: cell.fail({})):
        with pytest.raises(StorageError, match=r"softmax.*mount it again, or put the study back"):
            ask()
    assert [str(path.relative_to(tmp_path)) for path in (tmp_path / "mounted").rglob("*")] == ["mounted/softmax"]


def test_patience_that_ends_says_how_long_it_lasted(tmp_path: Path, impatient: list[float]) -> None:
    open_cell(tmp_path / "mounted")
    cell = patient_cell(str(tmp_path / "mounted"), patience_s=0.2)
    (tmp_path / "mounted").rename(tmp_path / "away")
    with pytest.raises(StorageError, match=r"cannot write .*round-000\.json.*run again\. It was tried for [\d.]+ s\."):
        cell.folder.write("round-000.json", b"{}", "round 0")
    assert not (tmp_path / "mounted").exists()


# ---- a disk that fails


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOSPC, errno.EDQUOT, errno.EACCES])
@pytest.mark.parametrize("call", ["replace", "fsync", "scandir", "stat"])
def test_failures_that_pass_are_waited_out(
    tmp_path: Path, impatient: list[float], monkeypatch: pytest.MonkeyPatch, code: int, call: str
) -> None:
    open_cell(tmp_path)
    cell = patient_cell(str(tmp_path))
    real, failures = getattr(os, call), [code] * 3

    def fail_at_first(*arguments: Any, **options: Any) -> Any:
        if failures and str(tmp_path) in str(arguments[0]) + str(arguments[-1]) + (str(tmp_path) * (call == "fsync")):
            raise OSError(failures.pop(), "for now")
        return real(*arguments, **options)

    monkeypatch.setattr(local_files.os, call, fail_at_first)
    for record in make_story(2):
        cell.append(record)
    assert (cell.n_rounds(), failures) == (3, [])


def test_a_file_created_by_a_try_that_seemed_to_fail_is_ones_own(
    tmp_path: Path, impatient: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_cell(tmp_path)
    folder = StudyStore.open(str(tmp_path), "softmax").claimed(PATIENCE_S).folder
    real, failures = local_files._sync_folder, [errno.EIO]

    def fail_once(path: str) -> None:
        real(path)
        if failures:
            raise OSError(failures.pop(), "for now")

    monkeypatch.setattr(local_files, "_sync_folder", fail_once)
    assert folder.create("driver.json", b"mine", "the driver")
    assert not folder.create("driver.json", b"mine", "the driver")
    assert failures == []


def test_a_really_full_disk_is_told_and_then_waited_for(tmp_path: Path) -> None:
    """The disk is a small one in memory, mounted where only the child process sees it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=256k tmpfs {disk}"
    apart = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    try:
        subprocess.run([*apart, mount], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        lacks("mount", f"no file system can be mounted here: {error}")
    script = [*apart, f'{mount} && exec "$0" -c "$1" {disk}', sys.executable, FILL_A_DISK]
    said = subprocess.run(script, check=True, capture_output=True, text=True, cwd=os.getcwd()).stdout.splitlines()
    assert said[0] == f"full: {errno.ENOSPC}"
    assert "was not recorded: no space left" in said[1]
    assert said[2] == "left: ['provenance.json', 'round-000.json', 'spec.json'] 1"
    assert said[3:] == ["recorded: [0, 1] 4000"]


# ---- an object store that is away


def test_an_object_store_that_comes_back_finds_the_cell_waiting(
    bucket: Bucket, proxy: Proxy, impatient: list[float]
) -> None:
    first = open_cell(bucket.uri())
    for record in make_story(4)[:2]:
        first.append(record)
    proxy.cut()
    cell = patient_cell(bucket.uri(port=proxy.port))
    with in_the_background(lambda: append_the_rest(cell)) as run:
        wait_until(lambda: impatient, "an attempt")
        assert run.is_alive()
        proxy.mend()
    check_whole(cell)
    assert bucket.uploads() == []


def test_a_line_cut_in_an_upload_and_mended_records_the_round_once(
    bucket: Bucket, proxy: Proxy, impatient: list[float]
) -> None:
    open_cell(bucket.uri())
    cell = patient_cell(bucket.uri(port=proxy.port))

    def cut_once(data: bytes) -> None:
        if b"round-001.json" in data and data.startswith(b"PUT"):
            proxy.on_bytes = lambda data: None
            proxy.cut()

    def mend() -> None:
        wait_until(lambda: impatient, "an attempt that fails")
        proxy.mend()

    proxy.on_bytes = cut_once
    with in_the_background(mend):
        for record in make_story(3):
            cell.append(record)
    assert [record.to_json() for record in cell.rounds()] == [record.to_json() for record in make_story(3)]
    assert len([key for key in bucket.objects() if "round-" in key]) == 4


def test_a_server_that_says_nothing_is_left_after_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_files, "SILENCE_TIMEOUT_S", 1.0)
    monkeypatch.setattr(remote_files, "N_ATTEMPTS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"s3://key:secret@bucket/x?endpoint_override=127.0.0.1:{silent.getsockname()[1]}&scheme=http"
        with pytest.raises(StorageError, match=r"cannot be used: .*NETWORK_CONNECTION.*Check the network"):
            StudyStore.open(f"{uri}&region=us-east-1", "softmax")


# ---- what passes and what does not


def test_the_patience_of_a_study_is_set_in_seconds_and_is_finite() -> None:
    assert set_options(Execution(), ["storage_patience_s=0"]).storage_patience_s == 0
    assert set_options(Execution(), ["storage_patience_s=12.5"]).storage_patience_s == 12.5
    for wrong in ("-1", ".inf", "long"):
        with pytest.raises(ConfigError, match="storage_patience_s"):
            set_options(Execution(), [f"storage_patience_s={wrong}"])


@pytest.mark.parametrize(
    ("answer", "passes"),
    [
        ("AWS Error SLOW_DOWN during PutObject operation: Please reduce your request rate.", True),
        ("AWS Error UNKNOWN (HTTP status 503) during HeadObject operation: No response body.", True),
        ("AWS Error INTERNAL_FAILURE during ListObjectsV2 operation: We encountered an internal error.", True),
        ("AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 6, Could not resolve hostname", True),
        ("google::cloud::Status(UNAVAILABLE: Retry policy exhausted)", True),
        ("AWS Error ACCESS_DENIED during HeadObject operation: No response body.", False),
        ("AWS Error NO_SUCH_BUCKET during PutObject operation: The specified bucket does not exist", False),
        ("AWS Error UNKNOWN (HTTP status 400) during HeadObject operation: No response body.", False),
    ],
)
def test_an_answer_of_an_object_store_is_an_outage_or_a_refusal(answer: str, passes: bool) -> None:
    assert is_outage(OSError(answer), claimed=False) is passes
    assert is_outage(OSError(answer), claimed=True) is passes


def test_a_missing_file_is_an_outage_only_where_a_study_was() -> None:
    missing = FileNotFoundError(errno.ENOENT, "No such file or directory")
    assert is_outage(missing, claimed=True)
    assert not is_outage(missing, claimed=False)
    assert not is_outage(OSError(errno.EROFS, "Read-only file system"), claimed=True)
