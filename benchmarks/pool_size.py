"""Pools of 10,000, 100,000 and 1,000,000 texts through every part of al_ray: seconds by phase, and peak memory.

The texts are generated tickets, and the encoder has random weights and is tiny, since it is not what is measured; with
``--minilm`` it is MiniLM. Every part runs in processes of its own, which start with nothing. Wanted of every phase: ten
times the texts take at most 10.5 times as long, where there is more than the start of a process in it.

``python -m benchmarks.pool_size``; ``--texts 10000 100000`` leaves the largest out, ``--parts`` picks some.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

from al_ray.records.packed import PACKED
from benchmarks.processes import descendants, kind_of
from benchmarks.report import Report, run_benchmark

SIZES = (10_000, 100_000, 1_000_000)
N_TEST, QUERY_SIZE, THREADS = 1_000, 25, 2
RATIO, GIB, MIB = 10.5, 2**30, 2**20
DRIVER_GIB, LANE_GIB, RECORD_MIB = 2.0, 3.0, 1.0
# A phase that takes less is the start of a process and little else, and says nothing of how it grows.
LEAST_S = 1.0
# Every strategy of whole batches, behind every filter that keeps its candidates few.
STRATEGIES = ("badge", "batch_bald", "cal", "core_set", "embedding_kmeans", "prob_cover", "typiclust")
SUBSAMPLE = {"name": "random_subsample", "size": 10_000}
FILTERS: Mapping[str, Sequence[Any]] = {
    "unsure_subsample": ["unsure_subsample"],
    "anchor_subpool": ["anchor_subpool"],
    "random_subsample": [SUBSAMPLE],
}
# Their work grows with the square of the candidates, and unsure_subsample leaves a share of the pool.
OF_PAIRS = ("prob_cover", "typiclust")
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def write_inputs(folder: Path, n_texts: int, *, with_minilm: bool) -> dict[str, float]:
    """Write the texts as Parquet with a test split beside them, and the encoder; return the seconds it took."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from al_ray.data.tickets import Tickets

    began = time.monotonic()
    dataset = Tickets(n_train=n_texts, n_test=N_TEST).load()
    seconds = {"generate": time.monotonic() - began}
    names = pa.array(dataset.class_names)
    for name, split in (("train", dataset.train), ("test", dataset.test)):
        table = pa.table({"id": split.ids, "text": pa.array(split.texts), "label": names.take(pa.array(split.labels))})
        (folder / "data").mkdir(exist_ok=True)
        pq.write_table(table, folder / "data" / f"{name}.parquet")
    _write_encoder(folder / "encoder", with_minilm=with_minilm)
    return seconds


def _write_encoder(folder: Path, *, with_minilm: bool) -> None:
    """Write MiniLM, or a tiny encoder of random weights with its tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    from benchmarks.inputs import minilm

    found = Path(minilm().path)
    if with_minilm:
        shutil.copytree(found, folder)
        return
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.from_pretrained(found, **TINY)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(found).save_pretrained(folder)


def write_files(folder: Path) -> None:
    """Write a study of each kind of learner, and a project."""
    shared = {
        "dataset": {"path": str(folder / "data"), "id": "id"},
        "model": str(folder / "encoder"),
        "strategy": "margin",
        "initial_size": QUERY_SIZE,
        "query_size": QUERY_SIZE,
        "rounds": 2,
        "precision": "float32",
        "max_tokens": 60,
    }
    of_kind: Mapping[str, Any] = {"full": {"epochs": 2}, "frozen": {"frozen_layers": "all"}}
    for kind, finetune in of_kind.items():
        study = {"study": kind, "defaults": {**shared, "finetune": finetune}, "grid": [{"seed": 1}]}
        (folder / f"{kind}.json.yaml").write_text(json.dumps(study), encoding="utf-8")
    import pyarrow.parquet as pq

    classes = sorted(set(pq.read_table(folder / "data" / "test.parquet")["label"].to_pylist()))
    project = {
        "project": "labels",
        "data": {"path": str(folder / "data" / "train.parquet"), "id": "id"},
        "classes": classes,
        "model": str(folder / "encoder"),
        "finetune": {"frozen_layers": "all"},
        "initial_size": QUERY_SIZE,
        "query_size": QUERY_SIZE,
        "max_tokens": 60,
        # The study's, so that where the frozen learner's has run, the embeddings are there.
        "storage": str(folder / "results"),
        "answers": "people",
    }
    (folder / "project.yaml").write_text(json.dumps(project), encoding="utf-8")


class Watched:
    """The largest memory of each kind of process that a command started, looked at several times a second.

    ``own`` is what a process has for itself; what it maps of files and of the object store is counted once, as
    ``store``, the most that any of them maps of shared memory.
    """

    # By the beginning of what Ray calls a process; the first that fits counts.
    ROLES: Mapping[str, str] = {"RayTrainWorker": "lane", "MapWorker": "actors", "Map": "tasks"}

    def __init__(self, pid: int, every_s: float = 0.1) -> None:
        self._pid, self._every_s = pid, every_s
        self._left = threading.Event()
        self.own: dict[str, float] = {}
        self.store = 0.0
        self._roles: dict[int, str] = {}
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Watched":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._left.wait(self._every_s):
            for pid in (self._pid, *descendants(self._pid)):
                role = self._role(pid)
                own, shared = memory_of(pid)
                self.store = max(self.store, shared)
                self.own[role] = max(self.own.get(role, 0.0), own)

    def _role(self, pid: int) -> str:
        """Tell what a process is; a worker of Ray changes its title with what it does, and stays what it was."""
        if pid == self._pid:
            return "driver"
        kind = kind_of(pid)
        role = next((role for start, role in self.ROLES.items() if kind.startswith(start)), None)
        if role is None and kind.startswith("python"):
            role = "driver apart"
        if role is not None:
            self._roles[pid] = role
        return self._roles.get(pid, "others")


def memory_of(pid: int) -> tuple[float, float]:
    """Return what a process has in memory for itself, and of shared memory, in bytes; zeros for one that is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0.0, 0.0
    found = {key: int(kib) * 1024 for key, kib in re.findall(r"^(RssAnon|RssShmem):\s+(\d+) kB", status, re.MULTILINE)}
    return float(found.get("RssAnon", 0)), float(found.get("RssShmem", 0))


def watched_command(words: Sequence[str], folder: Path) -> tuple[float, Watched, str]:
    """Run a command of al_ray in a process of its own; return its seconds, its memory and what it printed.

    Raises:
        RuntimeError: it failed.
    """
    command = [sys.executable, "-m", "al_ray", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "COLUMNS": "200"}
    began = time.monotonic()
    with (folder / "output.txt").open("w+", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=folder)
        with Watched(process.pid) as watched:
            code = process.wait()
        seconds = time.monotonic() - began
        output.seek(0)
        printed = output.read()
    if code:
        raise RuntimeError(f"{' '.join(words)} ended with {code}: {printed[-3000:]}")
    return seconds, watched, printed


Found = dict[str, Any]
"""What a part measured: ``seconds`` by phase, ``bytes`` by what has them."""


def measure_plan(folder: Path, n_texts: int) -> Found:
    """Read, check, hash and plan, without a forecast of time (which measures for a while)."""
    from al_ray.study.file import load_study
    from al_ray.study.plan import plan_study

    study = load_study(str(folder / "full.json.yaml"))
    peak = _peak_while(lambda: plan_study(study, str(folder / "unused")))
    return {"seconds": {"read, check and plan": peak[0]}, "bytes": {"driver": peak[1]}}


def measure_study(folder: Path, n_texts: int, kind: str) -> Found:
    """Run a study of one cell on a private Ray with one lane, and report it."""
    storage = folder / "results"
    words = ["run", f"{kind}.json.yaml", "--storage", str(storage), "-v"]
    for option in ("lanes=1", "cpus_per_worker=1", "tracking=off"):
        words += ["--set", option]
    seconds, watched, printed = watched_command(words, folder)
    rounds = _rounds_of(storage / kind)
    found: dict[str, float] = {"whole run": seconds}
    for what, text in re.findall(r"texts (tokenised|encoded)\s+in\s+([\d.]+)\s+s", " ".join(printed.split())):
        found[what] = found.get(what, 0.0) + float(text)
    for phase in ("select", "score", "query"):
        found[f"{phase}, a round"] = max(
            (record.seconds.get(phase, 0.0) for record in rounds if len(record.query)), default=0.0
        )
    # A file of a round; of a quick cell the part that holds it all.
    sizes = [file.stat().st_size for file in (storage / kind).rglob("*") if is_record(file)]
    of_report = watched_command(["report", str(storage / kind)], folder)
    found["report"] = of_report[0]
    peaks = {**watched.own, "object store": watched.store, "report": of_report[1].own["driver"]}
    return {"seconds": found, "bytes": {**peaks, "largest record": float(max(sizes))}}


def is_record(file: Path) -> bool:
    """Tell whether a file of a study holds rounds."""
    return file.name.startswith("round-") or file.parent.name == PACKED


def _rounds_of(study: Path) -> list[Any]:
    from al_ray.records.study import open_study

    (cell,) = open_study(str(study)).cells()
    return list(cell.rounds())


def measure_project(folder: Path, n_texts: int) -> Found:
    """Ask for three queries of a project as files, answer them, export the model and score the pool with it."""
    import pyarrow.csv
    import pyarrow.parquet as pq

    seconds: dict[str, float] = {}
    peaks: dict[str, float] = {}

    def run(what: str, *words: str) -> None:
        seconds[what], watched, _ = watched_command(list(words), folder)
        for role, size in watched.own.items():
            name = f"{what}: {role}"
            peaks[name] = max(peaks.get(name, 0.0), size)

    truth = pq.read_table(folder / "data" / "train.parquet", columns=["id", "label"])
    labels = dict(zip(truth["id"].to_pylist(), truth["label"].to_pylist(), strict=True))
    for what in ("first", "second", "third"):
        query = folder / f"query-{what}.csv"
        run(f"ask {what}", "ask", "project.yaml", "--to", str(query))
        table = pyarrow.csv.read_csv(query)
        at = table.schema.get_field_index("label")
        answers = [labels[id_] for id_ in table["id"].to_pylist()]
        pyarrow.csv.write_csv(table.set_column(at, "label", [answers]), query)
        run("tell", "tell", "project.yaml", str(query))
    run("status", "status", "project.yaml")
    run("export", "export", "project.yaml", "--to", str(folder / "model"))
    scored = ["score", str(folder / "data" / "train.parquet"), "--model", str(folder / "model")]
    run("score", *scored, "--to", str(folder / "scored"))
    return {"seconds": seconds, "bytes": peaks}


def measure_strategies(folder: Path, n_texts: int) -> Found:
    """Run three rounds of a frozen learner with every batch strategy behind every filter, on made-up features.

    The features have MiniLM's width, and lie in a file that is mapped, as the object store is. What filters are left
    alone with (``unsure_subsample`` scores all in its first two rounds) is the strategy's to manage.
    """
    from benchmarks.made_pool import MadePool

    pool = MadePool.make(folder / "features.npy", n_texts)
    seconds: dict[str, float] = {}
    peaks: dict[str, float] = {}
    runs: dict[str, tuple[str, Sequence[Any]]] = {"margin": ("margin", [])}
    for strategy in STRATEGIES:
        for name, filters in FILTERS.items():
            is_cut = name == "unsure_subsample" and strategy in OF_PAIRS
            what = f"{strategy} behind {name}{' and random_subsample' if is_cut else ''}"
            runs[what] = strategy, [*filters, *([SUBSAMPLE] if is_cut else [])]
    for what, (strategy, filters) in runs.items():
        taken, peak = _peak_while(partial(pool.run, strategy, filters))
        seconds[f"{what}, 3 rounds"], peaks[what] = taken, peak
        print(f"{what}: {taken:.1f} s, {peak / GIB:.2f} GiB", file=sys.stderr, flush=True)
    return {"seconds": seconds, "bytes": peaks}


def _peak_while(work: Callable[[], Any]) -> tuple[float, float]:
    """Return the seconds that something takes, and the most memory that this process has for itself meanwhile."""
    began = time.monotonic()
    with Watched(os.getpid(), every_s=0.02) as watched:
        work()
    return time.monotonic() - began, max(watched.own.get("driver", 0.0), memory_of(os.getpid())[0])


PARTS: Mapping[str, Callable[[Path, int], Found]] = {
    "plan": measure_plan,
    "full": lambda folder, n_texts: measure_study(folder, n_texts, "full"),
    "frozen": lambda folder, n_texts: measure_study(folder, n_texts, "frozen"),
    "project": measure_project,
    "strategies": measure_strategies,
}


def measure(report: Report, sizes: Sequence[int], parts: Sequence[str], with_minilm: bool) -> None:
    """Run every part at every size, and compare each size with the one before."""
    found: dict[int, dict[str, Found]] = {}
    for n_texts in sizes:
        with inputs_of(n_texts, with_minilm) as folder:
            found[n_texts] = {part: _in_own_process(part, n_texts, folder) for part in parts}
    report.details |= {str(n_texts): of_part for n_texts, of_part in found.items()}
    for part in parts:
        for n_texts in sizes:
            _report_one(report, part, n_texts, found[n_texts][part], found.get(n_texts // 10, {}).get(part))
    if with_minilm:
        report.remark("The encoder is MiniLM.")


@contextlib.contextmanager
def inputs_of(n_texts: int, with_minilm: bool) -> Iterator[Path]:
    """Keep texts, encoder, study and project files in a folder for temporary files while inside."""
    folder = Path(tempfile.mkdtemp(prefix="al_ray_benchmark_"))
    try:
        write_inputs(folder, n_texts, with_minilm=with_minilm)
        write_files(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _report_one(report: Report, part: str, n_texts: int, found: Found, smaller: Found | None) -> None:
    for phase, seconds in found["seconds"].items():
        report.add(f"{part}, {n_texts:,} texts: {phase}", seconds, "s")
        before = 0.0 if smaller is None else smaller["seconds"].get(phase, 0.0)
        if before >= LEAST_S:
            note = f"{n_texts:,} / {n_texts // 10:,} texts"
            report.add(f"{part}: {phase}, grown", seconds / before, "x", at_most=RATIO, note=note)
    for what, size in found["bytes"].items():
        if what == "largest record":
            report.add(f"{part}, {n_texts:,} texts: {what}", size / MIB, "MiB", at_most=RECORD_MIB)
        else:
            name = f"{part}, {n_texts:,} texts: memory of {what}"
            report.add(name, size / GIB, "GiB", at_most=_most_gib(part, what))


def _most_gib(part: str, what: str) -> float | None:
    """Return what a process may have, where something is wanted of it."""
    if part == "strategies" or what == "lane":
        return LANE_GIB
    return DRIVER_GIB if "driver" in what or what == "report" else None


def _in_own_process(part: str, n_texts: int, folder: Path) -> Found:
    print(f"{part}, {n_texts:,} texts", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "benchmarks.pool_size", "--part", part, "--folder", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS)}
    done = subprocess.run([*command, "--texts", str(n_texts)], check=True, stdout=subprocess.PIPE, env=environment)
    found: Found = json.loads(done.stdout)
    print(json.dumps(found, indent=1), file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Run the benchmark, or, with ``--part``, one part alone."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pool_size", description=__doc__)
    parser.add_argument("--texts", type=int, nargs="+", default=SIZES, help="sizes of the pools")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="what is measured")
    parser.add_argument("--minilm", action="store_true", help="MiniLM in place of a tiny encoder")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.part is not None:
        with redirect_stdout(sys.stderr):
            found = PARTS[asked.part](asked.folder, asked.texts[0])
        print(json.dumps(found))
        return
    title = "pools of many texts, part by part"
    run_benchmark("pool_size", title, lambda report: measure(report, asked.texts, asked.parts, asked.minilm))


if __name__ == "__main__":
    main()
