"""Records of 1,000 and 10,000 quick cells on an object store: requests and seconds when a study starts and goes on.

``python -m benchmarks.s3_records``, or others with ``--cells 200 1000``. The store is moto, a simulated S3, on
loopback: its requests are counted, and take about a millisecond each, where a real one takes ten to thirty.
"""

import argparse
import logging
import os
import re
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from al_ray.records.packed import PACKED, FilesOfCell, write_part
from al_ray.records.progress import Watcher
from al_ray.records.study import StudyStore
from al_ray.report.analysis import analyse
from al_ray.report.read import read_study
from al_ray.storage.folder import Folder
from al_ray.storage.memory import MemoryFolder
from benchmarks.made_study import MadeStudy
from benchmarks.report import Report, run_benchmark

SIZES = (1000, 10_000)
N_ROUNDS, PART_SIZE = 20, 10
START_REQUESTS_A_CELL, ROUND_REQUESTS = 0.25, 0.01
_REQUEST = re.compile(r'"(?:\x1b\[\d+m)*(GET|PUT|HEAD|POST|DELETE) /')


class Requests(logging.Handler):
    """Counts what a simulated S3 is asked for, by method; a listing is one of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        """Count one line of the server's log."""
        if found := _REQUEST.search(record.getMessage()):
            self.counts["LIST" if "list-type=2" in record.getMessage() else found[1]] += 1

    @contextmanager
    def counted(self, into: dict[str, Any]) -> Iterator[None]:
        """Add the requests and the seconds of a block to a mapping."""
        self.counts.clear()
        began = time.perf_counter()
        yield
        into |= {"seconds": time.perf_counter() - began, "n": self.counts.total(), "kinds": dict(self.counts)}


@contextmanager
def simulated_s3() -> Iterator[tuple[str, Requests]]:
    """Run a simulated S3 with a bucket; yield the address of storage there, and its count of requests."""
    from moto import server as server_module

    os.environ |= {"AWS_EC2_METADATA_DISABLED": "true"}
    requests, logger = Requests(), logging.getLogger("werkzeug")
    logger.addHandler(requests)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    server = server_module.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        port = server.get_host_and_port()[1]
        # What an earlier server of this process held is still there.
        urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/reset", data=b"", timeout=60).close()
        bucket = f"s3://key:secret@bucket?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
        Folder.at(f"{bucket}&allow_bucket_creation=true").filesystem.create_dir("bucket")
        yield bucket.replace("@bucket?", "@bucket/records?"), requests
    finally:
        server.stop()
        logger.removeHandler(requests)


def measure(report: Report, sizes: Sequence[int]) -> None:
    """Upload made-up studies, and look at each as a run, a watch, a report and a lane do."""
    for n in sizes:
        with simulated_s3() as (storage, requests):
            _upload(n, storage)
            start, watch, shown, write = (dict[str, Any]() for _ in range(4))
            with requests.counted(start):
                assert len(StudyStore.open(storage, "made").cells()) == n
            _add(report, f"{n:,} cells: requests when a study starts", start, START_REQUESTS_A_CELL * n)
            with requests.counted(watch):
                assert len(Watcher(StudyStore.open(storage, "made")).look()) == n
            _add(report, f"{n:,} cells: requests of a first look of watch", watch, None)
            with requests.counted(shown):
                assert len(analyse(read_study(StudyStore.open(storage, "made").folder.location)).cells) == n
            _add(report, f"{n:,} cells: requests of a report", shown, None)
            store = StudyStore.open(storage, "made", claimed=True)
            held = [_renamed(store, number) for number in range(PART_SIZE)]
            with requests.counted(write):
                write_part(store.folder, held)
            note = f"{PART_SIZE} cells of {N_ROUNDS + 1} rounds: {write['kinds']}, {write['seconds']:.2f} s"
            a_round = write["n"] / PART_SIZE / (N_ROUNDS + 1)
            report.add(f"{n:,} cells: requests a round", a_round, "", at_most=ROUND_REQUESTS, note=note)
            report.details |= {str(n): {"start": start, "watch": watch, "report": shown, "write": write}}


def _add(report: Report, what: str, found: dict[str, Any], at_most: float | None) -> None:
    report.add(what, found["n"], "", at_most=at_most, note=f"{found['seconds']:.1f} s; {found['kinds']}")


def _upload(n_cells: int, storage: str) -> None:
    with tempfile.TemporaryDirectory(prefix="al_ray_s3_") as here:
        root = MadeStudy(Path(here), n_cells, N_ROUNDS, n_seeds=max(n_cells // 500, 1), part_size=PART_SIZE).write()
        there = StudyStore.open(storage, "made").folder
        for path in root.rglob("*"):
            if path.is_file():
                folder = there.child(PACKED) if path.parent.name == PACKED else there
                folder.write(path.name, path.read_bytes(), path.name)


def _renamed(store: StudyStore, number: int) -> FilesOfCell:
    """Return the files of a recorded cell, held in memory."""
    cell = list(store.packed.readable().values())[number]
    files = store.packed.files(cell)
    return FilesOfCell(
        cell.key, cell.fingerprint, MemoryFolder("held", {n: files.read(n) or b"" for n in files.names()[0]})
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.s3_records", description=__doc__)
    parser.add_argument("--cells", type=int, nargs="+", default=SIZES, help="sizes of the studies")
    asked = parser.parse_args()
    run_benchmark("s3_records", "records on an object store", lambda report: measure(report, asked.cells))


if __name__ == "__main__":
    main()
