"""A round on an object store is there whole or not at all: the line is cut, or the writer killed, in mid-upload."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from al_ray.errors import StorageError
from al_ray.records.study import StudyStore
from al_ray.storage.folder import Folder
from tests.proxy import Proxy
from tests.records.record_samples import SPEC, make_record, open_cell
from tests.storage.conftest import Bucket

ARRAYS = {"pool": {"id": np.arange(1000), "score": np.linspace(0, 1, 1000)}}

APPEND_FOR_EVER = """
import itertools, sys
import numpy as np
from tests.records.record_samples import make_record, open_cell
cell = open_cell(sys.argv[1])
for index in itertools.count(cell.n_rounds()):
    cell.append(make_record(index), {"pool": {"score": np.full(20_000, index)}})
"""


@dataclass
class During:
    """Does something once, while the body of a file is on its way; what is still to come is lost."""

    file: str
    then: Callable[[], None]
    started: bool = False
    done: threading.Event = field(default_factory=threading.Event)

    def __call__(self, data: bytes) -> None:
        if self.done.is_set():
            return
        if self.started:
            self.done.set()
            self.then()
        self.started = data.startswith(b"PUT") and self.file.encode() in data.split(b"\r\n", 1)[0]


@pytest.mark.parametrize("file", ["round-001.json", "round-001.parquet"])
def test_a_line_cut_in_an_upload_leaves_no_round_and_no_part_of_one(bucket: Bucket, proxy: Proxy, file: str) -> None:
    cell = open_cell(bucket.uri(port=proxy.port))
    cell.append(make_record(0), ARRAYS)
    proxy.on_bytes = cut = During(file, proxy.cut)
    with pytest.raises(StorageError, match=rf"round 1 of cell .* was not recorded: cannot write s3://.*{file}.*"):
        cell.append(make_record(1), ARRAYS)
    assert cut.done.is_set()
    assert not [key for key in bucket.objects() if key.endswith(file)]
    assert bucket.uploads() == []
    proxy.mend()
    assert cell.progress() == ("running", 1)
    cell.append(make_record(1), ARRAYS)
    assert [record.to_json() for record in cell.rounds()] == [make_record(index).to_json() for index in range(2)]


def test_a_writer_killed_in_an_upload_leaves_whole_rounds_only(bucket: Bucket, proxy: Proxy) -> None:
    process = subprocess.Popen([sys.executable, "-c", APPEND_FOR_EVER, bucket.uri(port=proxy.port)], cwd=os.getcwd())

    def kill() -> None:
        process.kill()
        proxy.cut()  # what the kernel still had to send is lost, as when the machine dies

    proxy.on_bytes = During("round-005.json", kill)
    process.wait()
    assert proxy.on_bytes.done.is_set()
    assert bucket.uploads() == []
    store = StudyStore.open(bucket.uri(), "softmax")
    (cell,) = store.cells()
    assert [record.to_json() for record in cell.rounds()] == [make_record(index).to_json() for index in range(5)]
    assert all((cell.arrays(index)["pool"]["score"] == index).all() for index in range(5))
    cell.begin(SPEC, {})
    cell.append(make_record(5), {"pool": {"score": np.full(20_000, 5)}})
    assert cell.n_rounds() == 6


def test_a_file_is_one_request_up_to_ten_mebibytes(bucket: Bucket, proxy: Proxy) -> None:
    folder = Folder.open(bucket.uri(port=proxy.port))
    requests: list[bytes] = []
    proxy.on_bytes = lambda data: requests.extend([data[:6]] if data[:5] in (b"PUT /", b"POST ") else [])
    folder.write("arrays.parquet", bytes(10 * 2**20 - 1), "round 1")
    assert requests == [b"PUT /b"]
    folder.write("arrays.parquet", bytes(10 * 2**20), "round 1")
    assert b"POST /" in requests[1:]
