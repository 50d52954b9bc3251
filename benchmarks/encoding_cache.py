"""The cache of encodings: how much earlier a second study on a pool starts, and a pool larger than the object store.

``python -m benchmarks.encoding_cache``. First two studies of one frozen cell on TREC-6 and MiniLM share a storage: the
seconds from the command to the first recorded round with labels, without Ray and on a private one. Then the embeddings
of 40,000 tickets (an encoder of one layer with random weights, as wide as BERT, since the encoder is not what is
measured) are read by a cell from disk beside an object store that is too small for them, and from one that holds them.
"""

import argparse
import logging
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from al_ray.errors import AlRayError
from al_ray.runtime.tasks import CellEvent, CellFailed, RoundEnded
from al_ray.study.file import Study, load_study, set_options
from al_ray.study.plan import Plan, plan_study
from al_ray.study.run import run_study
from benchmarks.inputs import minilm, trec6
from benchmarks.processes import descendants
from benchmarks.report import Report, run_benchmark

N_TICKETS, WIDTH = 40_000, 768
SMALL_STORE, LARGE_STORE = 80 * 2**20, 400 * 2**20
LANE = "RayTrainWorker"
MIB = 2**20


class MemoryWatch:
    """The most memory that processes of each kind have had, read five times a second from ``/proc``.

    Attributes:
        own: part of the title -> bytes that are a process's own, at most.
        mapped: part of the title -> bytes of files that it maps, at most.
    """

    def __init__(self, *titles: str) -> None:
        self.own, self.mapped = dict.fromkeys(titles, 0), dict.fromkeys(titles, 0)

    @contextmanager
    def watching(self) -> Iterator["MemoryWatch"]:
        """Watch the descendants of this process inside the block."""
        left = threading.Event()

        def watch() -> None:
            while not left.wait(0.2):
                for pid in descendants(os.getpid()):
                    self._look(pid)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            left.set()
            thread.join()

    def _look(self, pid: int) -> None:
        try:
            title = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            return
        sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith("Rss")}
        for kind in self.own:
            if kind in title and sizes:
                self.own[kind] = max(self.own[kind], sizes["RssAnon"])
                self.mapped[kind] = max(self.mapped[kind], sizes["RssFile"])


def study_of(name: str, dataset: object, model: str, rounds: int, **changes: Any) -> Study:
    """Return a study of one cell of the frozen learner."""
    cell = {"dataset": dataset, "model": model, "precision": "float32", "finetune": {"frozen_layers": "all"}}
    sizes = {"rounds": rounds, "initial_size": 25, "query_size": 25, "strategy": "margin", "seed": 1}
    return load_study({"study": name, "grid": [{**cell, **sizes, **changes}]})


def run(study: Study, storage: Path, *options: str, local: bool) -> tuple[float, float, Plan]:
    """Run a study and return seconds to its first round with labels, seconds of the rounds after it, and its plan."""
    began, ends = time.monotonic(), list[float]()

    def listen(event: CellEvent) -> None:
        if isinstance(event, CellFailed):
            raise AlRayError(f"cell {event.key} failed: {event.failure.message}")
        if isinstance(event, RoundEnded) and event.round_index > 0:
            ends.append(time.monotonic())

    plan = plan_study(study, str(storage))
    execution = set_options(study.execution, [f"storage={storage}", "tracking=off", "lanes=1", *options])
    run_study(plan, execution, local=local, listener=listen)
    (cell,) = plan.store.cells()
    seconds = [record.seconds for record in cell.rounds()]
    return ends[0] - began, sum(sum(each.values()) for each in seconds[1:]) / (len(seconds) - 1), plan


class PreparingSeconds(logging.Handler):
    """Seconds that a run says it took to have an encoding, from the log."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.seconds: list[float] = []

    def emit(self, record: logging.LogRecord) -> None:
        if found := re.search(r" texts (?:encoded|found in the cache).* in ([\d.]+) s$", record.getMessage()):
            self.seconds.append(float(found[1]))


def second_study(report: Report, storage: Path) -> None:
    """Run two studies on one pool, without Ray and with it."""
    trec6(), minilm()
    logging.getLogger("al_ray").addHandler(listener := PreparingSeconds())
    logging.getLogger("al_ray").setLevel(logging.INFO)
    for local in (True, False):
        how = "without Ray" if local else "on a private Ray"
        folder = storage / ("here" if local else "lanes")
        if local:  # imports, and other tokens than those that are measured
            run(study_of("warms-up", "trec6", "minilm", 1, max_tokens=8), folder, local=True)
        first, second = (
            run(study_of(name, "trec6", "minilm", 3), folder, local=local)[0] for name in ("first", "second")
        )
        report.add(f"first study on TREC-6, {how}", first, "s", note="command to first round with labels")
        report.add(f"second study on the same pool, {how}", second, "s", note="the encoding is in the storage")
        if local:
            report.add(f"second against first, {how}", first / second, "x earlier", at_least=5.0)
    before, after = listener.seconds
    report.add("encoding for the first study, beside the start of a lane", before, "s", note="processes of Ray Data")
    report.add("encoding for the second study", after, "s", note="no process is started")
    report.add("second against first, on a private Ray", before / after, "x sooner encoded", at_least=5.0)


def wide_encoder(folder: Path) -> str:
    """Write an encoder of one layer, as wide as BERT, with random weights and the words of MiniLM."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    tokenizer = AutoTokenizer.from_pretrained(minilm().path, local_files_only=True)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=12, intermediate_size=256
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def larger_than_the_store(report: Report, storage: Path, n_tickets: int) -> None:
    """Read one pool from an object store that holds its embeddings, and from disk beside one that does not."""
    import ray

    from al_ray.runtime.cluster.ray_internals import on_loopback
    from al_ray.runtime.cluster.session import quiet_ray

    model = wide_encoder(storage / "encoder")
    dataset = {"name": "tickets", "n_train": n_tickets, "n_test": 1000}
    report.details["embeddings_mib"] = (n_tickets + 1000) * WIDTH * 4 / MIB
    found = {}
    for name, store_bytes in (("small", SMALL_STORE), ("large", LARGE_STORE)):
        with quiet_ray(), on_loopback(), MemoryWatch(LANE).watching() as memory:
            ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False,
                     object_store_memory=store_bytes)  # fmt: skip
            try:
                begins, round_s, plan = run(
                    study_of(name, dataset, model, 6, max_tokens=16), storage / "out", local=False
                )
            finally:
                ray.shutdown()
        found[name] = [entry.record.query.ids.tolist() for entry in plan.store.cells()[0].recorded_rounds()]
        where = f"object store of {store_bytes / MIB:.0f} MiB"
        report.add(
            f"to the first round, {where}", begins, "s", note="computed" if name == "small" else "in the storage"
        )
        report.add(f"a round, {where}", 1000 * round_s, "ms", note=f"pool of {n_tickets:,}, {WIDTH} wide")
        report.add(f"a lane's own memory, {where}", memory.own[LANE] / MIB, "MiB")
        report.add(
            f"files that a lane maps, {where}", memory.mapped[LANE] / MIB, "MiB", note="of the page cache, shared"
        )
    report.add("queries that differ", sum(a != b for a, b in zip(*found.values(), strict=True)), "rounds", at_most=0)
    report.remark(f"The embeddings take {report.details['embeddings_mib']:.0f} MiB.")


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encoding_cache", description="The cache of encodings.")
    parser.add_argument("--tickets", type=int, default=N_TICKETS, help="texts of the large pool")
    n_tickets = parser.parse_args().tickets

    def measure(report: Report) -> None:
        with tempfile.TemporaryDirectory(prefix="al_ray_benchmark_") as folder:
            second_study(report, Path(folder))
            larger_than_the_store(report, Path(folder), n_tickets)

    run_benchmark("encoding_cache", "encodings: a second study, and a pool larger than the object store", measure)


if __name__ == "__main__":
    main()
