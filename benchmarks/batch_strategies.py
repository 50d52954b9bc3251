"""How long every batch strategy takes to choose 100 of 120,000 examples, and how much memory.

``python -m benchmarks.batch_strategies``, or with names of strategies for these alone. Every strategy chooses in a
process of its own, on 2 threads; its time is that of the first choice, imports included, from scores to ids. One that
looks at a random sample of so large a pool has the size of the sample in the name of its figure.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from al_ray.core.ranking import rank
from al_ray.core.seeding import stream
from al_ray.core.types import FloatArray, History, LabeledSet, PoolView, RowView
from al_ray.core.uncertainty import log_softmax
from al_ray.errors import ConfigError
from al_ray.strategy import QueryStrategy, strategies
from benchmarks.report import Report, run_benchmark

SEED = 0
N_POOL = 120_000
N_LABELED = 525
N_FEATURES = 768
N_CLASSES = 4
N_DRAWS = 10
N_CLUSTERS = 50
SPREAD = 0.7
QUERY_SIZE = 100
N_THREADS = 2
LIMIT_S = 60
LIMIT_GIB = 4
BASELINE = "least_confidence"
N_EPOCHS = 15
N_ASKED = 300
N_REJECTED = 100
COSTLY_SCORES = ("cal", "eada", "isal", "open_set_margin", "tidal")
GIB = 2**30
GIVEN = (
    "consistent_draws", "scores", "features", "embeddings", "labeled", "predicted", "uncertainty", "logits",
    "labeled_dynamics", "history", "rejected",
)  # fmt: skip
"""What a strategy may declare as needed and :func:`pool_for` lays out."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What one strategy needed: wall and CPU seconds, and the peak of memory in GiB before it began and in all."""

    seconds: float
    cpu_seconds: float
    inputs_gib: float
    peak_gib: float


def measured_strategies() -> list[str]:
    """Return the strategies that choose a batch as a whole, and those of the rest whose score is no small thing."""
    own = [name for name in strategies.names() if strategies.get(name).pick is not QueryStrategy.pick]
    return [*own, *(name for name in COSTLY_SCORES if name not in own)]


def why_not(name: str) -> str:
    """Say why a strategy cannot be measured here, or nothing where it can."""
    try:
        strategy = strategies.build(name)
    except ConfigError:
        return "it has no default options"
    needs = [key.removeprefix("needs_") for key in dir(strategy) if key.startswith("needs_") and getattr(strategy, key)]
    lacking = [need for need in needs if need not in GIVEN]
    return f"it needs {' and '.join(lacking)}, which are not made here" if lacking else ""


def figure_name(name: str) -> str:
    """Return the name with how much of the pool the strategy looks at, where that is a sample."""
    most = getattr(strategies.build(name), "max_candidates", N_POOL)
    return name if most >= N_POOL else f"{name} (of {most:,})"


def write_inputs(folder: Path) -> None:
    """Write points and predictions, so that making them leaves no trace in the memory of who reads them."""
    points = _clustered_points()
    for split, part in (("pool", points[:N_POOL]), ("labeled", points[N_POOL:])):
        np.save(folder / f"{split}.npy", part)
        for n_draws in (1, N_DRAWS):
            np.save(folder / f"{split}_log_probs_{n_draws}.npy", _log_probs(part, n_draws))


def _clustered_points() -> npt.NDArray[np.float32]:
    """Make unit vectors in clusters of unequal size, of which the labelled ones are the last."""
    rng = stream(SEED, "benchmark", "points")
    shares = 1.0 / np.arange(1, N_CLUSTERS + 1)
    centres = _unit(rng.standard_normal((N_CLUSTERS, N_FEATURES), dtype=np.float32))
    cluster = rng.choice(N_CLUSTERS, size=N_POOL + N_LABELED, p=shares / shares.sum())
    points = rng.standard_normal((N_POOL + N_LABELED, N_FEATURES), dtype=np.float32)
    points *= SPREAD / np.sqrt(N_FEATURES)
    for start in range(0, len(points), 8192):
        rows = slice(start, start + 8192)
        points[rows] = _unit(points[rows] + centres[cluster[rows]])
    return points


def pool_for(strategy: QueryStrategy, folder: Path) -> PoolView:
    """Read the inputs and lay out what the strategy declares; the arrays are those that a round hands on."""
    n_draws = N_DRAWS if strategy.min_draws > 1 else 1
    log_probs, labeled_log_probs = (
        np.load(folder / f"{split}_log_probs_{n_draws}.npy") for split in ("pool", "labeled")
    )
    given: dict[str, Any] = {}
    if strategy.needs_features or strategy.needs_embeddings:
        pool, labeled = np.load(folder / "pool.npy"), np.load(folder / "labeled.npy")
    if strategy.needs_features:
        given |= {"features": pool, "labeled_features": labeled}
    if strategy.needs_embeddings:
        given |= {"embeddings": RowView.of(pool), "labeled_embeddings": labeled}
    if strategy.needs_uncertainty:
        given |= {"uncertainty": _unsure(log_probs), "labeled_uncertainty": _unsure(labeled_log_probs)}
    if strategy.needs_predicted:
        given["predicted"] = log_probs.mean(axis=1).argmax(axis=1)
    if strategy.needs_logits:
        given["logits"] = log_probs
    if strategy.needs_labeled_dynamics:
        given["labeled_dynamics"] = np.repeat(labeled_log_probs[:, :1], N_EPOCHS, axis=1)
    if strategy.needs_history:
        asked = np.arange(N_ASKED)
        arms = asked % len(strategy.arms)
        given["history"] = History(
            ids=N_POOL + asked, labels=asked % N_CLASSES, arms=arms, round_index=1 + asked // 100
        )
    if strategy.needs_rejected:
        given["rejected"] = N_POOL + N_LABELED + np.arange(N_REJECTED)
        given["rejected_features"] = labeled[:N_REJECTED] if strategy.needs_features else None
    labels = LabeledSet(ids=np.arange(N_POOL, N_POOL + N_LABELED), labels=np.arange(N_LABELED) % N_CLASSES)
    return PoolView(
        ids=np.arange(N_POOL), log_probs=log_probs, labeled=labels, labeled_log_probs=labeled_log_probs, **given
    )


def choose(name: str, folder: Path) -> Choice:
    """Let one strategy choose, in this process."""
    strategy = strategies.build(name)
    pool = pool_for(strategy, folder)
    before = _peak_gib()
    with threadpool_limits(limits=N_THREADS):
        began, cpu_began = time.perf_counter(), time.process_time()
        scores = strategy.score(pool, stream(SEED, "round", 1, "score"))
        ranking = rank(pool.ids, scores, SEED)
        chosen = strategy.pick(pool, ranking, QUERY_SIZE, stream(SEED, "round", 1, "pick"))
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    if len(np.unique(chosen)) != QUERY_SIZE or not np.isin(chosen, pool.ids).all():
        raise SystemExit(f"{name} chose {len(np.unique(chosen))} examples of the pool instead of {QUERY_SIZE}")
    return Choice(seconds=seconds, cpu_seconds=cpu_seconds, inputs_gib=before, peak_gib=_peak_gib())


def choose_in_a_process(name: str, folder: Path) -> Choice:
    """Let one strategy choose in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.batch_strategies", name, "--inputs", str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Choice(**json.loads(done.stdout))


def measure(report: Report, names: list[str]) -> None:
    """Let every strategy choose; the baseline ranks by one score."""
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(Path(folder))
        baseline = choose_in_a_process(BASELINE, Path(folder))
        _report(report, f"{BASELINE} (plain top)", baseline, baseline)
        for name in names:
            if reason := why_not(name):
                report.remark(f"{name} is not measured: {reason}.")
            else:
                _report(report, figure_name(name), choose_in_a_process(name, Path(folder)), baseline)
    report.remark(
        f"Each chooses {QUERY_SIZE} of {N_POOL:,} examples with {N_FEATURES} features (unit length, {N_CLUSTERS} "
        f"clusters of unequal size), {N_CLASSES} classes, {N_DRAWS} draws where draws are needed, {N_LABELED} "
        f"labelled; {N_THREADS} threads, scoring by the model not included."
    )


def _report(report: Report, name: str, choice: Choice, baseline: Choice) -> None:
    ratio = choice.seconds / baseline.seconds
    note = f"{choice.cpu_seconds:.1f} s of CPU time; {ratio:.3g} x {BASELINE}"
    report.add(f"{name}: time", choice.seconds, "s", at_most=LIMIT_S, note=note)
    note = f"at its peak, of which {choice.peak_gib - choice.inputs_gib:.2f} GiB above inputs and interpreter"
    report.add(f"{name}: memory", choice.peak_gib, "GiB", at_most=LIMIT_GIB, note=note)
    report.details[name] = vars(choice)


def _unit(points: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def _log_probs(points: npt.NDArray[np.float32], n_draws: int) -> FloatArray:
    """Predict as a linear classifier with a little other weights in every draw: draws are consistent."""
    rng = stream(SEED, "benchmark", "classifier")
    weights = rng.standard_normal((N_FEATURES, 1, N_CLASSES), dtype=np.float32)
    weights = weights + 0.5 * rng.standard_normal((N_FEATURES, n_draws, N_CLASSES), dtype=np.float32)
    logits = points @ weights.reshape(N_FEATURES, -1)
    return log_softmax(3.0 * logits.reshape(len(points), n_draws, N_CLASSES))


def _unsure(log_probs: FloatArray) -> FloatArray:
    return 1.0 - np.exp(log_probs).mean(axis=1).max(axis=1)


def _peak_gib() -> float:
    """Return the largest resident memory of this process so far."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) * 1024 / GIB
    except OSError:
        # Only where there is no /proc: Linux lets a new process inherit the ru_maxrss of the one that started it.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / GIB


def main() -> None:
    """Run the benchmark, or, with ``--inputs``, one strategy of it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batch_strategies", description=__doc__)
    parser.add_argument("names", nargs="*", help="strategies; all that choose a batch as a whole, where none is named")
    parser.add_argument("--inputs", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.inputs is not None:
        print(json.dumps(vars(choose(asked.names[0], asked.inputs))))
        return
    names = asked.names or measured_strategies()
    run_benchmark("batch_strategies", "choosing a batch of a large pool", lambda report: measure(report, names))


if __name__ == "__main__":
    main()
