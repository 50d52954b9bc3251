"""Short measurement of a study's speed on this machine: its cells' own path, on a few of its texts."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa

from al_ray.confidence import confidences
from al_ray.core.types import Float32Array, Float64Array, IntArray, LabeledSet, Query, RoundRecord, TextDataset
from al_ray.loop import learner
from al_ray.loop.ports import Arrays, Classifier, Loop
from al_ray.model.encoding import Encoding
from al_ray.model.recipe import FinetuneRecipe
from al_ray.model.source import ResolvedModel
from al_ray.model.tokens import tokenize_table
from al_ray.model.worker import SingleProcess, set_threads
from al_ray.records.json import canonical_json
from al_ray.runtime.pool import CellPool, PoolSource, local_pool, text_table
from al_ray.strategy import strategies
from al_ray.study.cell import encodings_of, encodings_read, make_classifier, make_loop
from al_ray.study.spec import CellSpec

N_TEXTS = 96
"""Texts that are encoded, or scored, to see how long it takes."""
N_METHODS = 40
"""Kinds of frozen cells that are measured; what others take follows from what they share with these."""
PRIOR = 0.5
"""How much evidence against an effect of one value of one option there is to begin with, in kinds measured."""
EPOCHS = 2
_PLAIN = {
    "strategy": strategies.build("margin"),
    "confidence": confidences.build("softmax"),
    "filters": (),
    "stopping": (),
}


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Seconds that one worker takes for the parts of a cell whose encoder is fine-tuned.

    Attributes:
        fit_s: for a fit, whatever its size.
        step_s: for an example in an epoch of it.
        score_s: for a text in one forward pass.
    """

    fit_s: float
    step_s: float
    score_s: float


@dataclass(frozen=True, kw_only=True)
class FrozenKind:
    """Cells of the frozen learner that take alike: a spec, its data and model, and the labels in each of its rounds."""

    spec: CellSpec
    dataset: TextDataset
    model: ResolvedModel
    sizes: Sequence[int]


class Pace:
    """Measures what the cells of a study take, each kind of them once, when it is asked.

    Args:
        threads: torch threads of a worker.
        on_gpu: whether workers compute on a GPU.

    Raises:
        ExecutionError: on a GPU, and this machine has none.
    """

    def __init__(self, threads: int, on_gpu: bool) -> None:
        set_threads(threads)
        self._worker = SingleProcess(device="cuda" if on_gpu else "cpu")
        # Of one thread the processor's time, which neighbours do not stretch.
        self._clock = time.process_time if threads == 1 and not on_gpu else time.perf_counter
        self._speeds: dict[str, Speed] = {}
        self._encoded: dict[str, tuple[float, int]] = {}

    def speed(self, spec: CellSpec, dataset: TextDataset, model: ResolvedModel) -> Speed:
        """Fine-tune and score a few texts as a cell would."""
        # What sets the pace of a pass; how often there is one is counted elsewhere.
        plain = spec.model_copy(update=_PLAIN)
        parts = ("dataset", "model", "max_tokens", "finetune", "precision", "scoring_batch_size")
        key = canonical_json({name: value for name, value in plain.to_json().items() if name in parts})
        if key not in self._speeds:
            self._speeds[key] = self._measure(plain, dataset, model)
        return self._speeds[key]

    def rounds_s(self, kinds: "Sequence[FrozenKind]") -> list[float]:
        """Return the seconds of a cell of each kind of frozen learner, all its rounds together.

        Up to :data:`N_METHODS` kinds are measured, chosen so that every value of every option is. The others get what
        the values of their options make of a round: a multiple each, fitted to what was measured.
        """
        levels = _levels([kind.spec for kind in kinds])
        measured = _spread(levels, N_METHODS)
        found = {at: self._measured_s(kinds[at]) for at in measured}
        if len(found) == len(kinds):
            return [found[at] for at in range(len(kinds))]
        n_rounds = np.array([max(len(kind.sizes), 1) for kind in kinds])
        of_round = np.array([found[at] for at in measured]) / n_rounds[measured]
        predicted = _predicted(levels, measured, of_round) * n_rounds
        # An exponential of a mean is too low a mean: all are raised by as much as the measured ones together need.
        predicted *= sum(found.values()) / predicted[measured].sum()
        return [found.get(at, float(predicted[at])) for at in range(len(kinds))]

    def _measured_s(self, kind: "FrozenKind") -> float:
        points = self._measure_rounds(kind.spec, kind.dataset, kind.model)
        return float(_between(points, kind.sizes).sum())

    def encoding_s(self, specs: Sequence[CellSpec], dataset: TextDataset, model: ResolvedModel) -> float:
        """Return the seconds that one worker takes to encode a pool, test split included, for some cells."""
        n_texts, max_tokens = len(dataset.train) + len(dataset.test), specs[0].max_tokens
        read = encodings_read(specs).values()
        return n_texts * sum(self._encode(encoding, max_tokens, dataset, model)[0] for encoding in read)

    def _encode(
        self, encoding: Encoding, max_tokens: int, dataset: TextDataset, model: ResolvedModel
    ) -> tuple[float, int]:
        """Return the seconds a text of one encoding, and its width."""
        name = f"{dataset.content_sha256}-{max_tokens}-{encoding.key}"
        if name not in self._encoded:
            table = tokenize_table(_sample(dataset, N_TEXTS), model, max_tokens)
            encode = encoding.encoder(self._worker.device)
            width = encode(table).shape[1]  # which also warms up
            self._encoded[name] = (self._seconds(lambda: encode(table)) / len(table), width)
        return self._encoded[name]

    def _measure(self, spec: CellSpec, dataset: TextDataset, model: ResolvedModel) -> Speed:
        texts = _sample(dataset, N_TEXTS)
        source = PoolSource(
            tables={"pool": texts, "test": texts},
            tokenize=partial(tokenize_table, model=model, max_tokens=spec.max_tokens),
            encoders={key: encoding.encoder for key, encoding in encodings_read([spec]).items()},
        )
        pool, n = local_pool(source, self._worker.device), min(spec.finetune.batch_size, len(texts))
        loop = make_loop(spec, dataset.n_classes, pool.tables)
        # What is learned costs no time, so a text of no class counts as one of the first.
        labeled = LabeledSet(ids=loop.truth.ids[:n], labels=np.maximum(loop.truth.labels[:n], 0))

        def fitting(epochs: int) -> tuple[Classifier, Callable[[], object]]:
            recipe = replace(spec.finetune, epochs=epochs, validation_fraction=0.0, patience=0)
            classifier = make_classifier(_with(spec, recipe), loop, pool, self._worker)
            return classifier, lambda: classifier.finetune(labeled, round_index=1)

        (classifier, fit), (_, fit_longer) = fitting(1), fitting(1 + EPOCHS)
        fit()  # loads and warms up
        short, long = self._seconds(fit), self._seconds(fit_longer)
        step_s = max(long - short, 0.0) / (EPOCHS * n)
        classifier.predict("pool", loop.truth.ids)
        score_s = self._seconds(lambda: classifier.predict("pool", loop.truth.ids)) / len(texts)
        return Speed(fit_s=max(short - n * step_s, 0.0), step_s=step_s, score_s=score_s)

    def _measure_rounds(self, spec: CellSpec, dataset: TextDataset, model: ResolvedModel) -> list[tuple[int, float]]:
        """Run whole rounds on made-up features: at the first number of labels and at the last that leaves a query."""
        tables = {"pool": text_table(dataset.train), "test": text_table(dataset.test)}
        width = self._encode(encodings_of(spec)["features"], spec.max_tokens, dataset, model)[1]
        pool = CellPool(
            tables=tables, encoded=functools.cache(partial(_made_features, tables, dataset.n_classes, width))
        )
        n_train = len(dataset.train)
        first = n_train if spec.strategy.labels_everything else spec.initial_size
        most = min(first + spec.rounds * spec.query_size, n_train)
        reached = range(first, most + 1, spec.query_size) if spec.rounds else ()
        n_most = n_train - spec.n_excluded(n_train, dataset.n_no_class)
        asking = [n for n in reached if spec.n_left(n_most - n) >= spec.query_size]
        # Where no round has a query, the one that there is only evaluates.
        sizes = sorted({asking[0], asking[-1]}) if asking else [first]
        whole = replace(make_loop(spec, dataset.n_classes, tables), stopping=())
        loop = replace(_without_what_is_done_once(whole), rounds=1 if asking else 0)
        classifier = make_classifier(spec, loop, pool, self._worker)
        self._run_round(loop, classifier, sizes[0])  # imports and warms up
        points = [(n, self._run_round(loop, classifier, n)) for n in sizes]
        if asking and (loop.strategy, loop.filters) != (whole.strategy, whole.filters):
            after = sizes[0] + spec.query_size
            later = [(after, float(_between(points, [after])[0])), *(point for point in points if point[0] > after)]
            return [(sizes[0], self._run_round(whole, classifier, sizes[0])), *later]
        return points

    def _run_round(self, loop: Loop, classifier: Classifier, n_labeled: int) -> float:
        records = _MadeRecords(loop, n_labeled, self._clock)
        began = self._clock()
        learner.run(loop, classifier, records)
        return records.first_at - began

    def _seconds(self, work: Callable[[], object]) -> float:
        began = self._clock()
        work()
        return self._clock() - began


class _MadeRecords:
    """Records of a cell that has so many labels, drawn at random, and of which nothing is kept but a time."""

    def __init__(self, loop: Loop, n_labeled: int, clock: Callable[[], float]) -> None:
        ids: IntArray = np.random.default_rng(0).permutation(loop.truth.ids)[:n_labeled]
        query = Query(ids=ids, scores=np.zeros(n_labeled))
        annotation = loop.oracle.label(ids, loop.truth)
        self._first = RoundRecord(round_index=0, n_labeled=0, query=query, annotation=annotation)
        self.first_at, self._clock = 0.0, clock

    def rounds(self) -> list[RoundRecord]:
        return [self._first]

    def arrays(self, round_index: int) -> Arrays:
        return {}

    def append(self, record: RoundRecord, arrays: Arrays) -> None:
        self.first_at = self.first_at or self._clock()


def _levels(specs: Sequence[CellSpec]) -> IntArray:
    """Return the value of every option in which some specs differ, as a number ``[n_specs, n_options]``."""
    columns = []
    options = [{name: canonical_json(value) for name, value in spec.to_json().items()} for spec in specs]
    for name in sorted({name for each in options for name in each} - {"seed", "rounds"}):
        numbers: dict[str | None, int] = {}
        column = [numbers.setdefault(each.get(name), len(numbers)) for each in options]
        if len(numbers) > 1:
            columns.append(column)
    return np.array(columns, dtype=np.int64).reshape(len(columns), len(specs)).T


def _spread(levels: IntArray, most: int) -> list[int]:
    """Choose rows so that every value of every column is among them, and as evenly as can be; the first of equal ones.

    Args:
        levels: ``[n, n_options]``.
        most: rows to choose.
    """
    n, n_options = levels.shape
    if n <= most:
        return list(range(n))
    counts = np.zeros((n_options, int(levels.max(initial=0)) + 1))
    chosen: list[int] = []
    columns = np.arange(n_options)
    for _ in range(most):
        worth = (1 / (1 + counts[columns, levels]) ** 2).sum(axis=1)
        worth[chosen] = -1
        chosen.append(int(worth.argmax()))
        counts[columns, levels[chosen[-1]]] += 1
    return chosen


def _predicted(levels: IntArray, measured: Sequence[int], seconds: Float64Array) -> Float64Array:
    """Return the seconds of a round of every kind ``[n]``: main effects on their logarithm, by ridge regression.

    Args:
        levels: ``[n, n_options]``.
        measured: rows whose seconds are known.
        seconds: of these, above 0.
    """
    hot = [np.equal.outer(column, np.unique(column)) for column in levels.T]
    features = np.concatenate([np.zeros((len(levels), 0)), *hot], axis=1)
    known, logs = features[measured], np.log(np.maximum(seconds, 1e-6))
    penalty = PRIOR * np.eye(features.shape[1])
    effects = np.linalg.solve(known.T @ known + penalty, known.T @ (logs - logs.mean()))
    predicted: Float64Array = np.exp(logs.mean() + features @ effects)
    return predicted


def _made_features(tables: Mapping[str, pa.Table], n_classes: int, width: int, key: str) -> dict[str, Float32Array]:
    """Draw features around a centre for each class, about as hard to tell apart as real ones."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(n_classes, width)).astype(np.float32)
    made = {}
    for split, table in tables.items():
        rows = 0.35 * centres[table["label"].to_numpy()] + rng.normal(size=(len(table), width)).astype(np.float32)
        made[split] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return made


def _without_what_is_done_once(loop: Loop) -> Loop:
    """Return a cell as it is after its first query: without a search over all queries or a fit on every answer."""
    strategy = strategies.build("random") if loop.strategy.needs_hindsight else loop.strategy
    return replace(loop, strategy=strategy, filters=tuple(each for each in loop.filters if not each.needs_hardness))


def _sample(dataset: TextDataset, n: int) -> pa.Table:
    """Return texts of all parts of the training split, by id."""
    table = text_table(dataset.train)
    return table.take(np.unique(np.linspace(0, len(table) - 1, min(n, len(table))).astype(np.int64)))


def _with(spec: CellSpec, recipe: FinetuneRecipe) -> CellSpec:
    return spec.model_copy(update={"finetune": recipe})


def _between(points: Sequence[tuple[int, float]], sizes: Sequence[int]) -> Float64Array:
    """Return the seconds at each number of labels, on the line between what was measured."""
    measured, seconds = (np.array(column) for column in zip(*points, strict=True))
    return np.interp(np.asarray(sizes), measured, seconds)
