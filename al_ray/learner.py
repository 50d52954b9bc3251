"""The active-learning loop, against ports: no Ray, no torch, no MLflow.

Run on every worker of a cell alike. Strategies are pure and every random stream is named, so each worker derives the
same query from the same gathered outputs; only the records port knows which of them writes.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from al_ray.confidence import ConfidenceMethod
from al_ray.core.metrics import evaluate
from al_ray.core.ranking import rank, take
from al_ray.core.seeding import stream
from al_ray.core.types import (
    Annotation,
    FloatArray,
    IntArray,
    LabeledSet,
    ModelOutputs,
    PoolView,
    Query,
    RoundRecord,
    asked_ids,
    labeled_after,
)
from al_ray.core.uncertainty import mean_log_probs
from al_ray.errors import RoundError
from al_ray.filtering import CandidateFilter
from al_ray.initial import InitialQuery
from al_ray.oracle import Oracle
from al_ray.stopping import StoppingRule
from al_ray.strategy import QueryStrategy

Arrays = Mapping[str, Mapping[str, np.ndarray[Any, Any]]]


class Classifier(Protocol):
    """The model port: fine-tunes from fresh weights, predicts with the last fine-tune."""

    def finetune(self, labeled: LabeledSet, *, round_index: int) -> object:
        """Fit a fresh model on the answers so far."""
        ...

    def predict(self, split: Literal["pool", "test"], ids: IntArray, *, with_features: bool = False) -> ModelOutputs:
        """Return the outputs of exactly ``ids``, sorted by id."""
        ...


class Records(Protocol):
    """The records port: what has been recorded, and the place for one round more."""

    def rounds(self) -> list[RoundRecord]:
        """Return the recorded rounds, oldest first."""
        ...

    def append(self, record: RoundRecord, arrays: Arrays) -> None:
        """Record one round for good; when this returns, the round has happened."""
        ...


@dataclass(frozen=True, kw_only=True)
class Loop:
    """What one cell does, with its plug-ins built.

    Attributes:
        truth: ids (ascending) and labels of the training split; read by the oracle and by stratified starts alone.
        test: ids (ascending) and labels of the test split.
        rounds: queries after the initial one, at most.
    """

    seed: int
    n_classes: int
    truth: LabeledSet
    test: LabeledSet
    initial: InitialQuery
    initial_size: int
    query_size: int
    rounds: int
    confidence: ConfidenceMethod
    strategy: QueryStrategy
    filters: Sequence[CandidateFilter]
    oracle: Oracle
    stopping: Sequence[StoppingRule]


def run(loop: Loop, classifier: Classifier, records: Records) -> list[RoundRecord]:
    """Run a cell to its end, from wherever its records stop.

    Returns:
        all rounds: the initial query, every fine-tuned round, and the last one, which only evaluates.

    Raises:
        RoundError: a round cannot be completed; what is recorded stays.
    """
    rounds = records.rounds()
    if not rounds:
        rounds.append(_initial_round(loop))
        records.append(rounds[0], {})
    while rounds[-1].stop_reason is None:
        record, arrays = _round(loop, classifier, rounds)
        records.append(record, arrays)
        rounds.append(record)
    return rounds


def _initial_round(loop: Loop) -> RoundRecord:
    if loop.strategy.labels_everything:
        ids = loop.truth.ids
    else:
        draws = stream(loop.seed, "initial")
        ids = loop.initial.pick(loop.truth, loop.n_classes, loop.initial_size, draws)
    query = Query(ids=ids, scores=np.zeros(len(ids)))
    return RoundRecord(round_index=0, n_labeled=0, query=query, annotation=_annotate(loop, query))


def _round(loop: Loop, classifier: Classifier, rounds: Sequence[RoundRecord]) -> tuple[RoundRecord, Arrays]:
    clock = _Clock()
    labeled = labeled_after(rounds)
    round_index = len(rounds)
    if not len(labeled):
        raise RoundError(f"no example has a label before round {round_index}: the oracle abstained on every query.")
    with clock.phase("finetune"):
        classifier.finetune(labeled, round_index=round_index)
    with clock.phase("evaluate"):
        log_probs = _predict(loop, classifier, "test", loop.test.ids)
        metrics = evaluate(log_probs, loop.test.labels)
        arrays = {"test": _table(loop.test, log_probs)}
    reason = _stop_reason(loop, rounds)
    if reason is None:
        query = _choose(loop, classifier, labeled, rounds, clock)
    else:
        query = Query(ids=np.empty(0, np.int64), scores=np.empty(0))
        if loop.strategy.labels_everything:
            with clock.phase("score"):
                arrays["train"] = _table(loop.truth, _predict(loop, classifier, "pool", loop.truth.ids))
    record = RoundRecord(
        round_index=round_index,
        n_labeled=len(labeled),
        query=query,
        annotation=_annotate(loop, query),
        metrics=metrics,
        seconds=clock.seconds,
        stop_reason=reason,
    )
    return record, arrays


def _choose(
    loop: Loop, classifier: Classifier, labeled: LabeledSet, rounds: Sequence[RoundRecord], clock: "_Clock"
) -> Query:
    """Score the pool, rank, filter and take the query of this round."""
    round_index = len(rounds)
    pool_ids = _unasked(loop, rounds)
    with clock.phase("score"):
        view = _pool_view(loop, classifier, pool_ids, labeled)
    with clock.phase("query"):
        scores = loop.strategy.score(view, stream(loop.seed, "round", round_index, "strategy"))
        ranking = rank(view.ids, scores, loop.seed, f"query strategy {loop.strategy.name!r}")
        for candidate_filter in loop.filters:
            ranking = candidate_filter.apply(ranking)
        query = take(ranking, loop.query_size, round_index, len(labeled))
        return Query(ids=query.ids, scores=query.scores, probs=_beliefs(loop, classifier, view, query.ids))


def _pool_view(loop: Loop, classifier: Classifier, pool_ids: IntArray, labeled: LabeledSet) -> PoolView:
    if not loop.strategy.needs_scores:
        no_draws = np.empty((len(pool_ids), 0, loop.n_classes))
        return PoolView(ids=pool_ids, log_probs=no_draws, labeled=labeled)
    with_features = loop.strategy.needs_features or loop.confidence.needs_features
    outputs = classifier.predict("pool", pool_ids, with_features=with_features)
    return PoolView(
        ids=outputs.ids,
        log_probs=loop.confidence.log_probs(outputs),
        features=outputs.features,
        dynamics=outputs.dynamics,
        labeled=labeled,
    )


def _beliefs(loop: Loop, classifier: Classifier, view: PoolView, ids: IntArray) -> npt.NDArray[np.float64]:
    """Return what the model believed of the query, ``[query_size, n_classes]``, for calibration on what was queried."""
    by_id = np.sort(ids)
    if loop.strategy.needs_scores:
        probs = np.exp(mean_log_probs(view.log_probs[np.searchsorted(view.ids, by_id)]))
    else:
        probs = np.exp(_predict(loop, classifier, "pool", by_id))
    return probs[np.searchsorted(by_id, ids)]


def _predict(
    loop: Loop, classifier: Classifier, split: Literal["pool", "test"], ids: IntArray
) -> npt.NDArray[np.float64]:
    outputs = classifier.predict(split, ids, with_features=loop.confidence.needs_features)
    return mean_log_probs(loop.confidence.log_probs(outputs))


def _annotate(loop: Loop, query: Query) -> Annotation:
    annotation = loop.oracle.label(query.ids, loop.truth)
    if not np.array_equal(annotation.ids, query.ids):
        raise RoundError(f"oracle {loop.oracle.name!r} answered other examples than were asked, or in another order.")
    answered = annotation.labels[~annotation.abstained]
    if len(answered) and not (answered.min() >= 0 and answered.max() < loop.n_classes):
        outside = answered[(answered < 0) | (answered >= loop.n_classes)][0]
        raise RoundError(
            f"oracle {loop.oracle.name!r} answered class {outside}, the classes are 0 to {loop.n_classes - 1}."
        )
    return annotation


def _stop_reason(loop: Loop, rounds: Sequence[RoundRecord]) -> str | None:
    """Say why no query follows the recorded rounds; a pure function of them, so that resuming asks the same."""
    if loop.strategy.labels_everything:
        return "everything is labelled"
    if len(rounds) > loop.rounds:
        return f"all {loop.rounds} rounds done"
    n_candidates = len(loop.truth) - len(asked_ids(rounds))
    for candidate_filter in loop.filters:
        n_candidates -= candidate_filter.n_removed(n_candidates)
    reasons = (rule.reason(rounds, n_candidates, loop.query_size) for rule in loop.stopping)
    return next((reason for reason in reasons if reason is not None), None)


def _unasked(loop: Loop, rounds: Sequence[RoundRecord]) -> IntArray:
    return np.setdiff1d(loop.truth.ids, asked_ids(rounds), assume_unique=True)


def _table(split: LabeledSet, log_probs: FloatArray) -> dict[str, np.ndarray[Any, Any]]:
    return {"id": split.ids, "label": split.labels, "log_probs": log_probs.astype(np.float32)}


class _Clock:
    """Wall time by phase, in seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
