"""What a study will cost, before anything starts: forward passes, fine-tuned examples, time and disk."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from al_ray.confidence import ConfidenceMethod, needs_plain_model
from al_ray.core.types import TextDataset
from al_ray.loop.learner import MAX_CHARTED
from al_ray.model.check import ModelFacts
from al_ray.model.source import ResolvedModel
from al_ray.study.plan import Plan, PlannedCell, by_pool, dataset_key
from al_ray.study.spec import CellSpec, once_a_kind

if TYPE_CHECKING:
    from al_ray.study.file import Execution
    from al_ray.study.measure import FrozenKind, Pace

# A gradient step on an example, in forward passes; a round of the frozen learner, in texts through one.
STEP_PASSES, FROZEN_ROUND_TEXTS = 4.3, 20.0
MINILM_SIZE = 6 * 384**2  # layers times the square of their width, with which a pass through an encoder grows
# Of Ray, of the lanes and of the end of a run; of processes that encode, beside them; and how much longer a cell takes
# beside others than alone. Set by hand after one run of the quickstart on two cores, of which 25 s and no more for all
# three had told 92 of 134 s.
START_UP_S, ENCODERS_START_S, SIDE_BY_SIDE = 28.0, 10.0, 1.1
# What a disk takes for the files of a round and of a cell beyond their content, in blocks of 4 KiB, and what MLflow's
# SQLite file and artifacts take: measured on the studies that come along. Quick cells share files, and take less.
ROUND_SLACK_BYTES, CELL_SLACK_BYTES = 4096, 5 * 4096
TRACKING_BYTES, TRACKING_BYTES_A_CELL, TRACKING_BYTES_A_ROUND = 800_000, 20_000, 5_000


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The cost of the cells that are not finished.

    Attributes:
        n_finetuned: examples seen by gradient steps of an encoder, epochs counted.
        n_scored: texts through a forward pass of one alone, pool and test split.
        n_heads: rounds of the frozen learner.
        seconds: wall time, start-up included; None where it was not measured, see :func:`measured_seconds`.
        disk_bytes: records to be written, in blocks of a disk.
        tracking_bytes: what MLflow will take for them, where it is a file in the storage folder.
    """

    n_finetuned: int
    n_scored: int
    n_heads: int
    disk_bytes: int
    tracking_bytes: int
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class _Work:
    n_rounds: int
    n_heads: int
    n_finetuned: int
    n_scored: int
    disk_bytes: int


def forecast(plan: Plan, *, tracks_cells: bool = True) -> Forecast:
    """Count what the rest of a study computes and writes, as far as its data sets and models are here.

    Args:
        plan: the checked study.
        tracks_cells: whether MLflow gets a run for each cell.
    """
    dataset_of = once_a_kind(lambda spec: plan.datasets.get(dataset_key(spec.dataset)))
    known: dict[tuple[tuple[int, ...], int], _Work] = {}
    works = []
    for cell in plan.waiting():
        dataset, kind = dataset_of(cell.spec), (cell.spec.kind, cell.n_recorded)
        if dataset is not None:
            if kind not in known:
                known[kind] = _work(cell, dataset)
            works.append(known[kind])
    return Forecast(
        n_finetuned=sum(work.n_finetuned for work in works),
        n_scored=sum(work.n_scored for work in works),
        n_heads=sum(work.n_heads for work in works),
        disk_bytes=sum(work.disk_bytes for work in works),
        tracking_bytes=_tracking_bytes(works if tracks_cells else works[:1]),
    )


def measured_seconds(
    plan: Plan,
    execution: "Execution",
    lanes: int,
    *,
    is_local: bool,
    unencoded: Callable[[str], float] = lambda pool_key: 1.0,
) -> float | None:
    """Measure for some seconds what the rest of a study will take here, start-up included.

    Every kind of cell takes its own path on a few texts of its data, one after the other; of many kinds of the frozen
    learner some are measured, and the others follow from their options.

    Args:
        plan: the checked study.
        execution: threads and GPUs of a worker.
        lanes: cells that run side by side.
        is_local: whether it runs without Ray.
        unencoded: pool key -> share of its encoding that the storage does not have yet.

    Returns:
        seconds; None where data or models are missing, or cells run on GPUs and this machine has none.
    """
    from al_ray.study.measure import Pace

    waiting, seconds = plan.waiting(), 0.0
    if not waiting:
        return 0.0
    if plan.missing or (execution.gpus_per_worker > 0 and not _has_gpu()):
        return None
    pace = Pace(execution.cpus_per_worker, execution.gpus_per_worker > 0)
    encoding_s = 0.0
    frozen: list[tuple[int, FrozenKind]] = []
    for pool_key, cells in by_pool(waiting).items():
        spec = cells[0].spec
        dataset, model = plan.datasets[dataset_key(spec.dataset)], plan.models[spec.model.name, spec.model.revision]
        alike: dict[tuple[tuple[int, ...], int], list[PlannedCell]] = {}
        for cell in cells:
            alike.setdefault((cell.spec.kind, cell.n_recorded), []).append(cell)
        for like in alike.values():
            if like[0].spec.finetune.is_frozen:
                frozen.append((len(like), _frozen_kind(like[0], dataset, model)))
            else:
                seconds += len(like) * _cell_seconds(like[0], dataset, model, pace)
        if share := unencoded(pool_key):
            encoding_s += share * pace.encoding_s([cell.spec for cell in cells], dataset, model)
    of_kinds = pace.rounds_s([kind for _, kind in frozen])
    seconds += sum(n * each for (n, _), each in zip(frozen, of_kinds, strict=True))
    if is_local:
        return seconds + encoding_s
    start_s = START_UP_S + (ENCODERS_START_S if encoding_s else 0.0)
    return start_s + (seconds + encoding_s) / lanes * (SIDE_BY_SIDE if lanes > 1 else 1.0)


def _frozen_kind(cell: PlannedCell, dataset: TextDataset, model: ResolvedModel) -> "FrozenKind":
    from al_ray.study.measure import FrozenKind

    spec, n_done = cell.spec, max(cell.n_recorded - 1, 0)
    n_rounds = len(_rounds(spec, len(dataset.train), len(dataset.test))) - n_done
    first = len(dataset.train) if spec.strategy.labels_everything else spec.initial_size
    sizes = [first + (n_done + at) * spec.query_size for at in range(n_rounds)]
    return FrozenKind(spec=spec, dataset=dataset, model=model, sizes=sizes)


def _cell_seconds(cell: PlannedCell, dataset: TextDataset, model: ResolvedModel, pace: "Pace") -> float:
    spec, n_test = cell.spec, len(dataset.test)
    rounds = _rounds(spec, len(dataset.train), n_test)[max(cell.n_recorded - 1, 0) :]
    speed, fits = pace.speed(spec, dataset, model), n_fits_of(spec.confidence)
    of_rounds = (speed.fit_s * fits + speed.step_s * fitted + speed.score_s * scored for fitted, scored in rounds)
    return sum(of_rounds) / spec.workers


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def has_fast_bf16() -> bool | None:
    """Say whether this processor has bf16 instructions that torch may use; None where it does not tell."""
    allowed = os.environ.get("ONEDNN_MAX_CPU_ISA", "")
    if allowed and not any(kind in allowed.upper() for kind in ("BF16", "AMX", "DEFAULT", "AVX10")):
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return None
    return any(f" {flag}" in flags for flag in ("avx512_bf16", "amx_bf16", "bf16"))


def round_costs(spec: CellSpec, n_train: int, n_test: int) -> list[float]:
    """Return about what each fitted round costs, in texts through a forward pass of scoring ``[n_rounds]``."""
    rounds = _rounds(spec, n_train, n_test)
    if spec.finetune.is_frozen:
        return [FROZEN_ROUND_TEXTS] * len(rounds)
    return [STEP_PASSES * finetuned + scored for finetuned, scored in rounds]


def cell_cost(cell: PlannedCell, dataset: TextDataset, facts: ModelFacts) -> float:
    """Return about what is left of a cell, in texts through MiniLM; so that the longest cells can go first.

    Counted, not measured: fine-tuned examples and scored texts, by the size of the layers that run. A query strategy
    that is slow by itself, such as TypiClust, counts like the others.
    """
    spec = cell.spec
    costs = round_costs(spec, len(dataset.train), len(dataset.test))[max(cell.n_recorded - 1, 0) :]
    n_layers = facts.n_layers - spec.finetune.n_frozen
    size = 1.0 if spec.finetune.is_frozen else max(n_layers, 1) * facts.n_features**2 / MINILM_SIZE
    return max(sum(costs), 1.0) * size


def _rounds(spec: CellSpec, n_train: int, n_test: int) -> list[tuple[float, float]]:
    """Return (examples fine-tuned on, texts scored) of every round."""
    # A stopping rule may allow more rounds than there are examples; those never come.
    possible = max(n_train - spec.initial_size, 0) // spec.query_size + 1
    first, rounds = (n_train, 0) if spec.strategy.labels_everything else (spec.initial_size, min(spec.rounds, possible))
    recipe, confidence, passes = spec.finetune, spec.confidence, n_passes_of(spec.confidence)
    # Whole fine-tunes, by the examples in them: all folds together leave each example out once.
    fits = n_fits_of(confidence) - (confidence.n_folds > 0) + needs_plain_model(spec.measured_model, confidence)
    costs: list[tuple[float, float]] = []
    for index in range(rounds + 1):
        n_labeled = first + index * spec.query_size
        scored: float = n_test * (passes + (spec.measured_model != "own"))
        scored += n_labeled * recipe.validation_fraction * recipe.epochs
        if index < rounds:
            scored += _scored_of_pool(spec, n_train - n_labeled, passes)
            scored += n_labeled * recipe.epochs * spec.strategy.needs_labeled_dynamics
        costs.append((fits * n_labeled * (1 - recipe.validation_fraction) * recipe.epochs, scored))
    # What is trained on everything is followed over its epochs.
    finetuned, scored = costs[0]
    if spec.strategy.labels_everything:
        scored += passes * n_train + min(MAX_CHARTED, n_train) * recipe.epochs
    if any(each.needs_hardness for each in spec.filters):
        finetuned += n_train * (1 - recipe.validation_fraction) * recipe.epochs
        scored += n_train * (1 + recipe.validation_fraction) * recipe.epochs
    return [(finetuned, scored), *costs[1:]]


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
    is_frozen = cell.spec.finetune.is_frozen
    return _Work(
        n_rounds=len(rounds),
        n_heads=len(rounds) if is_frozen else 0,
        n_finetuned=0 if is_frozen else round(sum(finetuned for finetuned, _ in rounds)),
        n_scored=0 if is_frozen else round(sum(scored for _, scored in rounds)),
        disk_bytes=len(rounds) * content + (0 if is_frozen else len(rounds) * ROUND_SLACK_BYTES + CELL_SLACK_BYTES),
    )


def _tracking_bytes(works: Sequence[_Work]) -> int:
    n_rounds = sum(work.n_rounds for work in works)
    return TRACKING_BYTES + TRACKING_BYTES_A_CELL * len(works) + TRACKING_BYTES_A_ROUND * n_rounds if works else 0
