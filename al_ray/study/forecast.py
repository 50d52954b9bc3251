"""What a study will cost, before anything starts: forward passes, fine-tuned examples, time and disk."""

import json
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from al_ray.confidence import ConfidenceMethod, needs_plain_model
from al_ray.core.types import TextDataset
from al_ray.model.source import ResolvedModel
from al_ray.study.plan import Plan, PlannedCell, dataset_key
from al_ray.study.spec import CellSpec

# Share of a plain float32 matrix product's speed that the whole step reaches, and how much faster bf16 is where the
# processor has bf16 instructions and where it has to emulate them. Measured with MiniLM-L6 on TREC-6, one thread.
SCORING_EFFICIENCY = 0.65
FINETUNE_EFFICIENCY = 0.45
BF16_SPEEDUP = 2.6
BF16_EMULATED = 0.3
START_UP_S = 25.0
# What a disk takes for the files of a round and of a cell beyond their content, in blocks of 4 KiB, and what MLflow's
# SQLite file and artifacts take: measured on the studies that come along.
ROUND_SLACK_BYTES, CELL_SLACK_BYTES = 4096, 5 * 4096
TRACKING_BYTES, TRACKING_BYTES_A_CELL, TRACKING_BYTES_A_ROUND = 800_000, 20_000, 5_000
TOKENS_PER_WORD = 1.35


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The cost of the cells that are not finished.

    Attributes:
        n_finetuned: examples seen by gradient steps, epochs counted.
        n_scored: texts through a forward pass alone, pool and test split.
        seconds: wall time on ``lanes`` lanes, start-up included; None where a data set or model is missing.
        disk_bytes: records to be written, in blocks of a disk.
        tracking_bytes: what MLflow will take for them, where it is a file in the storage folder.
        source: where the speed came from, in words.
    """

    n_finetuned: int
    n_scored: int
    seconds: float | None
    disk_bytes: int
    tracking_bytes: int
    source: str


@dataclass(frozen=True, kw_only=True)
class _Work:
    n_rounds: int
    n_finetuned: int
    n_scored: int
    disk_bytes: int


def forecast(plan: Plan, lanes: int, workers_speed: float | None = None) -> Forecast:
    """Estimate the rest of a study.

    Args:
        plan: the checked study.
        lanes: cells that run side by side.
        workers_speed: float32 operations a second of one worker; measured here when None.
    """
    speed = workers_speed if workers_speed is not None else matrix_speed()
    works, seconds, complete = [], 0.0, True
    words = {key: _mean_words(dataset) for key, dataset in plan.datasets.items()}
    parameters = {key: encoder_parameters(model) for key, model in plan.models.items()}
    for cell in plan.waiting():
        key = dataset_key(cell.spec.dataset)
        dataset = plan.datasets.get(key)
        weights = parameters.get((cell.spec.model.name, cell.spec.model.revision))
        if dataset is None or weights is None:
            complete = False
            continue
        work = _work(cell, dataset)
        works.append(work)
        tokens = min(words[key] * TOKENS_PER_WORD + 2, cell.spec.max_tokens)
        seconds += _seconds(work, cell, tokens, weights, speed)
    return Forecast(
        n_finetuned=sum(work.n_finetuned for work in works),
        n_scored=sum(work.n_scored for work in works),
        seconds=START_UP_S + seconds / lanes if complete and works else (0.0 if complete else None),
        disk_bytes=sum(work.disk_bytes for work in works),
        tracking_bytes=_tracking_bytes(works),
        source=f"{speed / 1e9:.0f} GFLOP/s a worker, measured with a float32 matrix product",
    )


def matrix_speed() -> float:
    """Return float32 operations a second of one core: the best of 0.2 s and 30 products of a transformer's shape."""
    rng = np.random.default_rng(0)
    left, right = (rng.normal(size=shape).astype(np.float32) for shape in ((512, 384), (384, 1536)))
    best = float("inf")
    deadline, n_products = time.perf_counter() + 0.2, 0
    with threadpool_limits(limits=1):
        # On a busy machine a moment may hold no undisturbed product, so the number of them counts too.
        while time.perf_counter() < deadline or n_products < 30:
            n_products += 1
            start = time.perf_counter()
            left @ right
            best = min(best, time.perf_counter() - start)
    return float(2 * left.shape[0] * left.shape[1] * right.shape[1] / best)


def encoder_parameters(model: ResolvedModel) -> int:
    """Return how many weights multiply every token: all but the embeddings, from the safetensors header."""
    with open(Path(model.path) / "model.safetensors", "rb") as file:
        header: Mapping[str, dict[str, list[int]]] = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    shapes = [value["shape"] for name, value in header.items() if name != "__metadata__" and "embeddings" not in name]
    return int(sum(np.prod(shape) for shape in shapes))


def has_fast_bf16() -> bool | None:
    """Say whether this processor has bf16 instructions; None where it does not tell."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return None
    return any(f" {flag}" in flags for flag in ("avx512_bf16", "amx_bf16", "bf16"))


def round_costs(spec: CellSpec, n_train: int, n_test: int) -> list[float]:
    """Return what each fine-tuned round costs, in texts through a forward pass of scoring ``[n_rounds]``.

    A gradient step costs three forward passes, at the lower efficiency of fine-tuning.
    """
    step = 3 * SCORING_EFFICIENCY / FINETUNE_EFFICIENCY
    return [step * finetuned + scored for finetuned, scored in _rounds(spec, n_train, n_test)]


def _rounds(spec: CellSpec, n_train: int, n_test: int) -> list[tuple[float, float]]:
    """Return (examples fine-tuned on, texts scored) of every round."""
    # A stopping rule may allow more rounds than there are examples; those never come.
    possible = max(n_train - spec.initial_size, 0) // spec.query_size + 1
    first, rounds = (n_train, 0) if spec.strategy.labels_everything else (spec.initial_size, min(spec.rounds, possible))
    recipe, confidence, passes = spec.finetune, spec.confidence, n_passes_of(spec.confidence)
    # Whole fine-tunes, by the examples in them: all folds together leave each example out once.
    fits = n_fits_of(confidence) - (confidence.n_folds > 0) + needs_plain_model(spec.evaluation, confidence)
    costs: list[tuple[float, float]] = []
    for index in range(rounds + 1):
        n_labeled = first + index * spec.query_size
        scored: float = n_test * (passes + (spec.evaluation != "own"))
        scored += n_labeled * recipe.validation_fraction * recipe.epochs
        if index < rounds:
            scored += _scored_of_pool(spec, n_train - n_labeled, passes)
        costs.append((fits * n_labeled * (1 - recipe.validation_fraction) * recipe.epochs, scored))
    return costs


def n_fits_of(confidence: ConfidenceMethod) -> int:
    """Return how many models a confidence method fine-tunes a round: members and folds."""
    return confidence.sampling.n_members + confidence.n_folds


def n_passes_of(confidence: ConfidenceMethod) -> int:
    """Return how often a text goes through the encoder; dropout behind it costs next to nothing."""
    sampling = confidence.sampling
    return sampling.n_members * (sampling.n_passes if sampling.dropout == "network" else 1)


def _scored_of_pool(spec: CellSpec, n_pool: int, passes: int) -> float:
    sizes = [each.size for each in spec.filters if hasattr(each, "size")]
    n_candidates = min([n_pool, *sizes])
    watched = min(spec.strategy.n_watched, n_candidates) * spec.finetune.epochs
    return watched + (passes * n_candidates if spec.strategy.needs_scores else 0)


def _work(cell: PlannedCell, dataset: TextDataset) -> _Work:
    n_test = len(dataset.test)
    rounds = _rounds(cell.spec, len(dataset.train), n_test)[max(cell.n_recorded - 1, 0) :]
    content = n_test * (4 * dataset.n_classes + 4) + cell.spec.query_size * 120 + 2000
    return _Work(
        n_rounds=len(rounds),
        n_finetuned=round(sum(finetuned for finetuned, _ in rounds)),
        n_scored=round(sum(scored for _, scored in rounds)),
        disk_bytes=len(rounds) * (content + ROUND_SLACK_BYTES) + CELL_SLACK_BYTES,
    )


def _tracking_bytes(works: Sequence[_Work]) -> int:
    n_rounds = sum(work.n_rounds for work in works)
    return TRACKING_BYTES + TRACKING_BYTES_A_CELL * len(works) + TRACKING_BYTES_A_ROUND * n_rounds if works else 0


def _seconds(work: _Work, cell: PlannedCell, tokens: float, weights: int, speed: float) -> float:
    fast = 1.0
    if cell.spec.precision == "bf16":
        fast = BF16_EMULATED if has_fast_bf16() is False else BF16_SPEEDUP
    scoring = 2 * weights * tokens * work.n_scored / SCORING_EFFICIENCY
    finetuning = 6 * weights * tokens * work.n_finetuned / FINETUNE_EFFICIENCY
    return (scoring + finetuning) / (speed * fast * cell.spec.workers)


def _mean_words(dataset: TextDataset, n: int = 500) -> float:
    step = max(len(dataset.train) // n, 1)
    return float(np.mean([len(text.split()) for text in dataset.train.texts[::step]]))
