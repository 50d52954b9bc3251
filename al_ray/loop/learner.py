"""The active-learning loop: initial query, then fit, evaluate, score, filter, query, annotate, record.

Written against ports: no Ray, no torch, no MLflow. It runs on every worker of a cell alike. Strategies are pure and
every random stream is named, so each worker derives the same query from the same gathered outputs; only the records
port knows which of them writes.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from al_ray.confidence import State, needs_plain_model
from al_ray.core.metrics import agreement, evaluate, group_accuracy, group_shares
from al_ray.core.ranking import check_enough, rank
from al_ray.core.seeding import stream, stream_seed, tie_keys
from al_ray.core.types import (
    Annotation,
    FloatArray,
    IntArray,
    LabeledSet,
    PoolView,
    Query,
    Ranking,
    RoundRecord,
    UnscoredPool,
    asked_ids,
    labeled_after,
)
from al_ray.core.uncertainty import entropy, log_softmax
from al_ray.errors import RoundError
from al_ray.loop.ports import Arrays, Classifier, Loop, Records
from al_ray.loop.predictions import RoundPredictions, needs_embeddings

STOP_SET_SIZE = 2000
NO_QUERY = Query(ids=np.empty(0, np.int64), scores=np.empty(0))


def run(loop: Loop, classifier: Classifier, records: Records) -> list[RoundRecord]:
    """Run a cell to its end, from wherever its records stop.

    Returns:
        all rounds: the initial query, every fine-tuned round, and the last one, which only evaluates.

    Raises:
        RoundError: a round cannot be completed; what is recorded stays.
    """
    return _Cell(loop, classifier, records).run()


@dataclass
class _Round:
    """Metrics, arrays and seconds of the round in progress."""

    index: int
    labeled: LabeledSet
    seconds: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    arrays: dict[str, dict[str, npt.NDArray[Any]]] = field(default_factory=dict)
    candidates: IntArray = field(default_factory=lambda: np.empty(0, np.int64))

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add wall time to a phase, in seconds."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


class _Cell:
    """State of one cell; all of it follows from its records, so that a resumed cell goes on as it would have."""

    def __init__(self, loop: Loop, classifier: Classifier, records: Records) -> None:
        self.loop, self.classifier, self.records = loop, classifier, records
        self.rounds = records.rounds()
        self.validation, self.truth = _hold_out(loop)
        self._embeddings: FloatArray | None = None
        self._first_features: FloatArray | None = None
        self._last_scores: FloatArray | None = None

    def run(self) -> list[RoundRecord]:
        if not self.rounds:
            self._append(self._initial_round(), {})
        while self.rounds[-1].stop_reason is None:
            self._append(*self._next_round())
        return self.rounds

    def _append(self, record: RoundRecord, arrays: Arrays) -> None:
        self.records.append(record, arrays)
        self.rounds.append(record)
        if self._last_scores is not None:
            self._remember_scores(self._last_scores, arrays)

    def _initial_round(self) -> RoundRecord:
        loop = self.loop
        if loop.strategy.labels_everything:
            ids = self.truth.ids
        else:
            embeddings = self._embedded(self.truth.ids) if loop.initial.needs_embeddings else None
            draws = stream(loop.seed, "initial")
            ids = loop.initial.pick(self.truth, loop.initial_size, draws, embeddings)
        query = Query(ids=ids, scores=np.zeros(len(ids)))
        return RoundRecord(round_index=0, n_labeled=0, query=query, annotation=self._annotate(query))

    def _next_round(self) -> tuple[RoundRecord, Arrays]:
        now = _Round(len(self.rounds), labeled_after(self.rounds))
        if not len(now.labeled):
            raise RoundError(f"no example has a label before round {now.index}: the oracle abstained on every query.")
        may_query = self._known_end() is None
        if may_query:
            with now.phase("select"):
                now.candidates = self._select(now)
        predictions, dynamics = self._fit(now, may_query)
        with now.phase("evaluate"):
            self._evaluate(now, predictions)
        reason = self._known_end() or self._stop_reason(now)
        if reason is None:
            query = self._choose(now, predictions, dynamics)
            now.metrics |= self._acquired(query)
        else:
            query = NO_QUERY
            if self.loop.strategy.labels_everything:
                with now.phase("score"):
                    now.arrays["train"] = _table(self.truth, predictions.predict("pool", self.truth.ids))
        return self._record(now, query, reason), now.arrays

    def _record(self, now: _Round, query: Query, reason: str | None) -> RoundRecord:
        return RoundRecord(
            round_index=now.index,
            n_labeled=len(now.labeled),
            query=query,
            annotation=self._annotate(query),
            metrics=now.metrics,
            seconds=now.seconds,
            stop_reason=reason,
        )

    # ---- before the model -------------------------------------------------------------------------------------------

    def _select(self, now: _Round) -> IntArray:
        """Return the candidates that the model shall score, ascending: what the filters leave of the pool."""
        loop = self.loop
        pool_ids = np.setdiff1d(self.truth.ids, asked_ids(self.rounds), assume_unique=True)
        pool = self._unscored(now, pool_ids)
        for candidate_filter in loop.filters:
            kept = candidate_filter.select(pool, stream(loop.seed, "round", now.index, "filter", candidate_filter.name))
            pool = pool.take(kept)
        n_watched = loop.strategy.n_watched
        if 0 < n_watched < len(pool):
            return _sample(pool.ids, n_watched, stream_seed(loop.seed, "round", now.index, "watched"))
        return pool.ids

    def _unscored(self, now: _Round, pool_ids: IntArray) -> UnscoredPool:
        labeled = now.labeled.sorted()
        embed = any(candidate_filter.needs_embeddings for candidate_filter in self.loop.filters)
        past = any(candidate_filter.needs_last_scores for candidate_filter in self.loop.filters)
        return UnscoredPool(
            ids=pool_ids,
            embeddings=self._embedded(pool_ids) if embed else None,
            last_scores=self._known_scores()[np.searchsorted(self.loop.truth.ids, pool_ids)] if past else None,
            labeled=labeled,
            labeled_embeddings=self._embedded(labeled.ids) if embed else None,
            n_classes=self.loop.n_classes,
            round_index=now.index,
            query_size=self.loop.query_size,
        )

    def _embedded(self, ids: IntArray) -> FloatArray:
        if self._embeddings is None:
            self._embeddings = self.classifier.embed("pool", self.loop.truth.ids)
        return self._embeddings[np.searchsorted(self.loop.truth.ids, ids)]

    def _known_scores(self) -> FloatArray:
        """Return the last score of every example of the training split, NaN where it never had one."""
        if self._last_scores is None:
            self._last_scores = np.full(len(self.loop.truth), np.nan)
            for record in self.rounds[1:]:
                self._remember_scores(self._last_scores, self.records.arrays(record.round_index))
        return self._last_scores

    def _remember_scores(self, scores: FloatArray, arrays: Arrays) -> None:
        if "pool" in arrays:
            scores[np.searchsorted(self.loop.truth.ids, arrays["pool"]["id"])] = arrays["pool"]["score"]

    # ---- the model --------------------------------------------------------------------------------------------------

    def _fit(self, now: _Round, may_query: bool) -> tuple[RoundPredictions, FloatArray | None]:
        loop, labeled = self.loop, now.labeled.sorted()
        if may_query and needs_embeddings(loop) and self._embeddings is None:
            with now.phase("select"):
                self._embedded(labeled.ids)
        state: State | None = None
        if loop.confidence.n_folds:
            with now.phase("calibrate"):
                state = self._cross_fit(now)
        if loop.confidence.needs_first_features and self._first_features is None and may_query:
            with now.phase("finetune"):
                self._first_features = self._features_of_first_model()
        if needs_plain_model(loop.evaluation, loop.confidence):
            with now.phase("finetune"):
                self.classifier.finetune(now.labeled, round_index=now.index, plain=True)
            with now.phase("evaluate"):
                now.metrics |= self._plain_metrics(now)
        watched = now.candidates if may_query and loop.strategy.n_watched else None
        with now.phase("finetune"):
            fit = self.classifier.finetune(now.labeled, round_index=now.index, watched=watched)
        with now.phase("calibrate"):
            predictions = RoundPredictions(loop, self.classifier, labeled, state, self._first_features)
        if not (loop.confidence.n_folds or loop.confidence.needs_labeled):
            del now.seconds["calibrate"]
        return predictions, fit.dynamics

    def _cross_fit(self, now: _Round) -> State:
        n_folds = self.loop.confidence.n_folds
        outputs = self.classifier.cross_predict(now.labeled, n_folds=n_folds, round_index=now.index)
        labeled = now.labeled.sorted()
        return self.loop.confidence.calibrate(outputs, labeled.labels[np.searchsorted(labeled.ids, outputs.ids)])

    def _features_of_first_model(self) -> FloatArray:
        """Fine-tune the model of round 1 again; a resumed cell gets the same one."""
        self.classifier.finetune(labeled_after(self.rounds[:1]), round_index=1)
        features = self.classifier.predict("pool", self.loop.truth.ids, with_features=True).features
        assert features is not None
        return features

    def _evaluate(self, now: _Round, predictions: RoundPredictions) -> None:
        loop = self.loop
        log_probs = predictions.predict("test", loop.test.ids)
        own = evaluate(log_probs, loop.test.labels)
        if loop.evaluation == "own":
            now.metrics |= own | self._slices(log_probs)
            now.arrays["test"] = _table(loop.test, log_probs)
        else:
            if "test" not in now.arrays:
                now.metrics |= self._plain_metrics(now)
            now.metrics |= {f"own.{name}": value for name, value in own.items()}
            now.arrays["test"]["own_log_probs"] = log_probs.astype(np.float32)
        now.metrics |= predictions.calibration()
        self._watch_stopping(now, predictions)

    def _plain_metrics(self, now: _Round) -> dict[str, float]:
        """Evaluate the plain model, and keep its predictions as those of the round."""
        outputs = self.classifier.predict("test", self.loop.test.ids, plain=True)
        log_probs = log_softmax(outputs.logits[:, 0])
        now.arrays["test"] = _table(self.loop.test, log_probs)
        return evaluate(log_probs, self.loop.test.labels) | self._slices(log_probs)

    def _slices(self, log_probs: FloatArray) -> dict[str, float]:
        if self.loop.groups is None:
            return {}
        return group_accuracy(log_probs, self.loop.test.labels, self.loop.groups[1])

    def _watch_stopping(self, now: _Round, predictions: RoundPredictions) -> None:
        """Measure what the stopping rules ask for."""
        if len(self.validation):
            predicted = predictions.predict("pool", self.validation.ids).argmax(axis=1)
            now.metrics["validation_accuracy"] = float((predicted == self.validation.labels).mean())
        if any(rule.needs_stop_set for rule in self.loop.stopping):
            ids = _sample(self.truth.ids, STOP_SET_SIZE, stream_seed(self.loop.seed, "stop_set"))
            log_probs = predictions.predict("pool", ids)
            predicted = log_probs.argmax(axis=1)
            now.metrics["stop_set_entropy"] = float(entropy(log_probs).mean())
            if now.index > 1:
                before = self.records.arrays(now.index - 1)["stop_set"]["predicted"]
                changed, kappa = agreement(before, predicted, self.loop.n_classes)
                now.metrics |= {"stop_set_changed": changed, "stop_set_kappa": kappa}
            now.arrays["stop_set"] = {"id": ids, "predicted": predicted}

    # ---- the query --------------------------------------------------------------------------------------------------

    def _choose(self, now: _Round, predictions: RoundPredictions, dynamics: FloatArray | None) -> Query:
        """Score the candidates, rank, filter and pick the query of this round."""
        loop = self.loop
        with now.phase("score"):
            view = predictions.view(now.candidates, dynamics, self._embeddings)
        with now.phase("query"):
            ranking = self._ranking(now, view)
            draws = stream(loop.seed, "round", now.index, "pick")
            ids = loop.strategy.pick(view.take(ranking.ids), ranking, loop.query_size, draws)
            query = _query(ranking, ids, loop.strategy.name)
            return replace(query, probs=predictions.query_probs(view, query.ids))

    def _ranking(self, now: _Round, view: PoolView) -> Ranking:
        """Rank the candidates and let the filters take theirs.

        Raises:
            RoundError: fewer than the query's size are left.
        """
        loop = self.loop
        scores = loop.strategy.score(view, stream(loop.seed, "round", now.index, "strategy"))
        ranking = rank(view.ids, scores, loop.seed, f"query strategy {loop.strategy.name!r}")
        if any(candidate_filter.needs_last_scores for candidate_filter in loop.filters):
            now.arrays["pool"] = {"id": view.ids, "score": np.asarray(scores, dtype=np.float64)}
        for candidate_filter in loop.filters:
            ranking = candidate_filter.apply(ranking, view, loop.query_size)
        check_enough(ranking, loop.query_size, now.index, len(now.labeled))
        return ranking

    def _acquired(self, query: Query) -> dict[str, float]:
        """Return the share of every slice among all that was queried by strategy so far, this query included."""
        if self.loop.groups is None:
            return {}
        ids = np.concatenate([*(record.query.ids for record in self.rounds[1:]), query.ids])
        groups = self.loop.groups[0]
        rows = np.searchsorted(self.loop.truth.ids, ids)
        return group_shares([groups[row] for row in rows], sorted(set(groups)))

    def _annotate(self, query: Query) -> Annotation:
        oracle, n_classes = self.loop.oracle, self.loop.n_classes
        annotation = oracle.label(query.ids, self.loop.truth)
        if not np.array_equal(annotation.ids, query.ids):
            raise RoundError(f"oracle {oracle.name!r} answered other examples than were asked, or in another order.")
        answered = annotation.labels[~annotation.abstained]
        outside = answered[(answered < 0) | (answered >= n_classes)]
        if len(outside):
            raise RoundError(
                f"oracle {oracle.name!r} answered class {outside[0]}, the classes are 0 to {n_classes - 1}."
            )
        return annotation

    # ---- the end ----------------------------------------------------------------------------------------------------

    def _known_end(self) -> str | None:
        """Say why no query follows, as far as that is known before the round."""
        if self.loop.strategy.labels_everything:
            return "everything is labelled"
        if len(self.rounds) > self.loop.rounds:
            return f"all {self.loop.rounds} rounds done"
        return None

    def _stop_reason(self, now: _Round) -> str | None:
        """Ask the stopping rules; a pure function of the records and this round's metrics."""
        loop = self.loop
        n_candidates = len(now.candidates)
        for candidate_filter in loop.filters:
            if candidate_filter.clips:
                n_candidates -= candidate_filter.n_removed(n_candidates, loop.query_size)
        rounds = [*self.rounds, self._record(now, NO_QUERY, None)]
        reasons = (rule.reason(rounds, n_candidates, loop.query_size) for rule in loop.stopping)
        return next((reason for reason in reasons if reason is not None), None)


def _hold_out(loop: Loop) -> tuple[LabeledSet, LabeledSet]:
    """Divide the training split into validation examples, which a stopping rule may ask for, and the rest."""
    n = max((rule.n_validation for rule in loop.stopping), default=0)
    ids = _sample(loop.truth.ids, n, stream_seed(loop.seed, "validation_split"))
    is_held = np.isin(loop.truth.ids, ids, assume_unique=True)
    return tuple(LabeledSet(ids=loop.truth.ids[at], labels=loop.truth.labels[at]) for at in (is_held, ~is_held))  # type: ignore[return-value]


def _sample(ids: IntArray, n: int, seed: int) -> IntArray:
    """Draw ``n`` of some ids, all if there are fewer, by a hash of each: their order cannot matter; ascending."""
    return np.sort(ids[np.argsort(tie_keys(ids, seed))[:n]])


def _query(ranking: Ranking, ids: IntArray, strategy: str) -> Query:
    """Return the picked ids with their scores."""
    order = np.argsort(ranking.ids)
    at = order[np.minimum(np.searchsorted(ranking.ids[order], ids), len(order) - 1)]
    assert np.array_equal(ranking.ids[at], ids), f"strategy {strategy!r} picked an example that is no candidate"
    return Query(ids=ids, scores=ranking.scores[at])


def _table(split: LabeledSet, log_probs: FloatArray) -> dict[str, npt.NDArray[Any]]:
    return {"id": split.ids, "label": split.labels, "log_probs": log_probs.astype(np.float32)}
