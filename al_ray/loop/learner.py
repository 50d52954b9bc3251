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
from al_ray.core.metrics import agreement, evaluate, group_accuracy, group_shares, training_dynamics
from al_ray.core.ranking import check_enough, rank
from al_ray.core.seeding import stream, stream_seed, tie_keys
from al_ray.core.types import (
    NO_CLASS,
    Annotation,
    EvaluationQuery,
    FloatArray,
    IntArray,
    LabeledSet,
    PoolView,
    Query,
    Ranking,
    RoundRecord,
    RowView,
    StartPool,
    UnscoredPool,
    asked_ids,
    evaluated_after,
    history_after,
    labeled_after,
    rejected_after,
)
from al_ray.core.uncertainty import entropy, log_softmax
from al_ray.errors import RoundError
from al_ray.loop.ports import Arrays, Classifier, Loop, Outside, Records
from al_ray.loop.predictions import RoundPredictions, needs_embeddings, watched_ids
from al_ray.strategy.arms import arm_names

STOP_SET_SIZE = 2000
MAX_CHARTED = 10_000
"""Examples whose predictions are followed over the epochs of a passive model, at most."""
POOL_ASKED = "every text of the pool has been asked for"
NOTHING: IntArray = np.empty(0, np.int64)
NO_QUERY = Query(ids=NOTHING, scores=np.empty(0))


def run(loop: Loop, classifier: Classifier, records: Records, outside: Outside | None = None) -> list[RoundRecord]:
    """Run a cell to its end, from wherever its records stop, or until answers from outside are missing.

    Args:
        loop: the cell.
        classifier: its model.
        records: what has been recorded, and the place for more.
        outside: whom an oracle that is outside is asked through.

    Returns:
        all recorded rounds: the initial query, every fine-tuned round, and the last one, which only evaluates.

    Raises:
        RoundError: a round cannot be completed; what is recorded stays.
    """
    return _Cell(loop, classifier, records, outside).run()


def held_out(loop: Loop) -> IntArray:
    """Return the ids of the test pool, ascending: what a cell measures its models by and never learns from."""
    return _hold_out(loop)[1].ids


@dataclass
class _Round:
    """Metrics, arrays and seconds of the round in progress."""

    index: int
    labeled: LabeledSet
    seconds: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    arrays: dict[str, dict[str, npt.NDArray[Any]]] = field(default_factory=dict)
    candidates: IntArray = field(default_factory=lambda: np.empty(0, np.int64))
    test_query: EvaluationQuery | None = None

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add wall time to a phase, in seconds."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


class _Cell:
    """State of one cell; all of it follows from its records, so that a resumed cell goes on as it would have."""

    def __init__(self, loop: Loop, classifier: Classifier, records: Records, outside: Outside | None) -> None:
        self.loop, self.classifier, self.records, self.outside = loop, classifier, records, outside
        self.rounds = records.rounds()
        self.validation, self.test_pool, self.truth = _hold_out(loop)
        self.is_open_set = not loop.oracle.is_outside and bool((loop.truth.labels == NO_CLASS).any())
        self._embeddings: FloatArray | None = None
        self._first_features: FloatArray | None = None
        self._last_scores: FloatArray | None = None
        self._hardness: FloatArray | None = None

    def run(self) -> list[RoundRecord]:
        while not self.rounds or self.rounds[-1].stop_reason is None:
            if self.loop.oracle.is_outside:
                record, arrays = self._asked()
                if record is None:
                    break
            else:
                record, arrays = self._answered(*self._next_round())
            self._append(record, arrays)
        return self.rounds

    def _answered(self, record: RoundRecord, arrays: Arrays) -> tuple[RoundRecord, Arrays]:
        """Let the oracle answer all that a round asks for."""
        query = record.evaluation
        if query is not None:
            query = replace(query, labels=self._annotate(query.ids).labels)
        return replace(record, annotation=self._annotate(record.query.ids), evaluation=query), arrays

    def _asked(self) -> tuple[RoundRecord | None, Arrays]:
        """Return the round whose query is out, or the next one, with its answers, or None while some are missing."""
        assert self.outside is not None, "an oracle that is outside is asked through a port"
        pending = self.outside.pending()
        if pending is None:
            pending = self._next_round()
            self.outside.ask(*pending)
        record, arrays = pending
        return self.outside.answered(record), arrays

    def _append(self, record: RoundRecord, arrays: Arrays) -> None:
        self.records.append(record, arrays)
        self.rounds.append(record)
        if self._last_scores is not None:
            self._remember_scores(self._last_scores, arrays)

    def _round_without_model(self, now: _Round) -> RoundRecord:
        """Return the initial query, or another one like it where nothing that was asked for has a label."""
        loop = self.loop
        left = ~np.isin(self.truth.ids, asked_ids(self.rounds), assume_unique=True)
        pool = LabeledSet(ids=self.truth.ids[left], labels=self.truth.labels[left])
        if loop.strategy.labels_everything:
            ids = pool.ids
        else:
            given = np.isin(pool.ids, loop.given, assume_unique=True)
            n_more = min(max(loop.initial_size - int(given.sum()), 0), int((~given).sum()))
            unknown = LabeledSet(ids=pool.ids[~given], labels=pool.labels[~given])
            names = ("initial",) if now.index == 0 else ("round", now.index, "initial")
            ids = np.concatenate([pool.ids[given], self._start_of(unknown, n_more, stream(loop.seed, *names))])
        return self._record(now, Query(ids=ids, scores=np.zeros(len(ids))), None if len(ids) else POOL_ASKED)

    def _start_of(self, unknown: LabeledSet, n: int, draws: np.random.Generator) -> IntArray:
        """Return what the initial query asks for among what has no label yet."""
        initial = self.loop.initial
        if not n:
            return unknown.ids[:0]
        pool = StartPool(
            truth=unknown,
            embeddings=self._embedded(unknown.ids).read() if initial.needs_embeddings else None,
            class_embeddings=self.classifier.embeddings("classes") if initial.needs_class_embeddings else None,
        )
        return initial.pick(pool, n, draws)

    def _next_round(self) -> tuple[RoundRecord, Arrays]:
        """Return the next round, all but its answers."""
        now = _Round(len(self.rounds), labeled_after(self.rounds))
        if not len(now.labeled) and (now.index == 0 or self.loop.oracle.is_outside):
            self._draw_test(now, None)
            return self._round_without_model(now), now.arrays
        if not len(now.labeled):
            raise RoundError(
                f"no example has a label before round {now.index}: the oracle abstained on every query. Raise "
                "initial_size, or use 'initial: stratified', which takes none that has no class."
            )
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
            now.metrics |= self._acquired(query) | self._chosen_by(query)
            with now.phase("evaluate"):
                self._draw_test(now, predictions)
        else:
            query = NO_QUERY
            if self.loop.strategy.labels_everything:
                with now.phase("score"):
                    known = self.truth.of_a_class()
                    table = _table(known, predictions.predict("pool", known.ids))
                    now.arrays["train"] = table | self._charted(known, table, dynamics)
        return self._record(now, query, reason), now.arrays

    def _record(self, now: _Round, query: Query, reason: str | None) -> RoundRecord:
        return RoundRecord(
            round_index=now.index,
            n_labeled=len(now.labeled),
            query=query,
            annotation=_unanswered(query.ids),
            metrics=now.metrics,
            seconds=now.seconds,
            stop_reason=reason,
            evaluation=now.test_query,
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
        if loop.filters:
            now.metrics["n_candidates"] = float(len(pool))
        n_watched = loop.strategy.n_watched
        if 0 < n_watched < len(pool):
            return _sample(pool.ids, n_watched, stream_seed(loop.seed, "round", now.index, "watched"))
        return pool.ids

    def _unscored(self, now: _Round, pool_ids: IntArray) -> UnscoredPool:
        labeled = now.labeled.sorted()
        embed = any(candidate_filter.needs_embeddings for candidate_filter in self.loop.filters)
        past = any(candidate_filter.needs_last_scores for candidate_filter in self.loop.filters)
        judge = any(candidate_filter.needs_hardness for candidate_filter in self.loop.filters)
        return UnscoredPool(
            ids=pool_ids,
            embeddings=self._embedded(pool_ids) if embed else None,
            last_scores=self._known_scores()[self._rows(pool_ids)] if past else None,
            hardness=self._known_hardness()[np.searchsorted(self.truth.ids, pool_ids)] if judge else None,
            labeled=labeled,
            labeled_embeddings=self._embedded(labeled.ids).read() if embed else None,
            n_classes=self.loop.n_classes,
            round_index=now.index,
            query_size=self._query_size(len(pool_ids)),
        )

    def _query_size(self, n_left: int) -> int:
        """Return how many examples are asked for; people are asked for what is left, too, where that is less."""
        return min(self.loop.query_size, n_left) if self.loop.oracle.is_outside else self.loop.query_size

    def _embedded(self, ids: IntArray) -> RowView:
        if self._embeddings is None:
            self._embeddings = self.classifier.embeddings("pool")
        return RowView(self._embeddings, np.searchsorted(self.loop.truth.ids, ids))

    def _known_scores(self) -> FloatArray:
        """Return the last score of every example of the training split, NaN where it never had one."""
        if self._last_scores is None:
            self._last_scores = np.full(len(self.loop.truth), np.nan)
            for record in self.rounds[1:]:
                self._remember_scores(self._last_scores, self.records.arrays(record.round_index))
        return self._last_scores

    def _known_hardness(self) -> FloatArray:
        """Return how hard each example that can be asked for is to a model that is trained on all of them, in (0, 1].

        That model is fitted once, and again where a cell goes on; the streams of round 0, which has no model, are its
        own. A fit without epochs is judged by its end. Texts of no class are as hard as can be.
        """
        if self._hardness is None:
            truth, known = self.truth, self.truth.of_a_class()
            fit = self.classifier.finetune(known, round_index=0, plain=True, watched=known.ids)
            logits = fit.dynamics
            if logits is None:
                logits = self.classifier.predict("pool", known.ids, plain=True).logits
            found = training_dynamics(log_softmax(logits), known.labels)
            keys = (tie_keys(known.ids, self.loop.seed), -found["confidence"], -found["correctness"])
            self._hardness = np.ones(len(truth))
            rows = np.searchsorted(truth.ids, known.ids[np.lexsort(keys)])
            self._hardness[rows] = np.arange(1, len(known) + 1) / len(truth)
        return self._hardness

    def _remember_scores(self, scores: FloatArray, arrays: Arrays) -> None:
        if "pool" in arrays:
            scores[np.searchsorted(self.loop.truth.ids, arrays["pool"]["id"])] = arrays["pool"]["score"]

    # ---- the model --------------------------------------------------------------------------------------------------

    def _fit(self, now: _Round, may_query: bool) -> tuple[RoundPredictions, FloatArray | None]:
        loop, labeled = self.loop, now.labeled.sorted()
        if may_query and needs_embeddings(loop) and self._embeddings is None:
            with now.phase("select"):
                self._embeddings = self.classifier.embeddings("pool")
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
        watched = watched_ids(loop.strategy, now.candidates, labeled.ids) if may_query else labeled.ids[:0]
        if loop.strategy.labels_everything:
            watched = self._to_chart()
        with now.phase("finetune"):
            fit = self.classifier.finetune(
                now.labeled, round_index=now.index, watched=watched if len(watched) else None
            )
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
        """Fine-tune the first model again, that of the round before which something had a label first."""
        first = next(n for n in range(1, len(self.rounds) + 1) if len(labeled_after(self.rounds[:n])))
        self.classifier.finetune(labeled_after(self.rounds[:first]), round_index=first)
        features = self.classifier.predict("pool", self.loop.truth.ids, with_features=True).features
        assert features is not None
        return features

    def _to_chart(self) -> IntArray:
        """Return the examples that are followed, ascending; they hang on no seed, so that seeds can be averaged."""
        return _sample(self.truth.of_a_class().ids, MAX_CHARTED, stream_seed(0, "charted"))

    def _charted(
        self, known: LabeledSet, table: dict[str, npt.NDArray[Any]], dynamics: FloatArray | None
    ) -> dict[str, npt.NDArray[Any]]:
        """Return where the examples of the training split lie on its map, NaN where an example was not followed.

        A fit without epochs, that of ``solver: lbfgs``, tells what its final model says, and no variability.
        """
        if dynamics is None:
            ids, log_probs = known.ids, table["log_probs"][:, None]
        else:
            ids, log_probs = self._to_chart(), log_softmax(dynamics)
        rows = np.searchsorted(known.ids, ids)
        found = {}
        for name, values in training_dynamics(log_probs, known.labels[rows]).items():
            found[name] = np.full(len(known), np.nan, dtype=np.float32)
            found[name][rows] = values
        return found

    def _evaluate(self, now: _Round, predictions: RoundPredictions) -> None:
        if len(self.loop.test):
            self._measure(now, predictions)
        now.metrics |= self._estimated(predictions)
        now.metrics |= predictions.calibration()
        if self.is_open_set:
            now.metrics["n_rejected"] = float(len(rejected_after(self.rounds)))
        self._watch_stopping(now, predictions)

    def _measure(self, now: _Round, predictions: RoundPredictions) -> None:
        """Measure the model on the test split."""
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

    def _estimated(self, predictions: RoundPredictions) -> dict[str, float]:
        """Return the accuracy over the test pool, as estimated from what was drawn and answered so far, or nothing."""
        evaluation, drawn = self.loop.estimation, evaluated_after(self.rounds)
        if evaluation is None or not len(drawn.ids):
            return {}
        order = np.argsort(drawn.ids)
        predicted = np.empty(len(drawn.ids), np.int64)
        predicted[order] = predictions.predict("pool", drawn.ids[order]).argmax(axis=1)
        losses = np.where(drawn.labels < 0, np.nan, predicted != drawn.labels)
        estimate = evaluation.estimate(drawn, losses, len(self.test_pool))
        if estimate is None:
            return {}
        return {
            "estimated_accuracy": 1 - estimate.value,
            "estimated_accuracy_low": 1 - estimate.high,
            "estimated_accuracy_high": 1 - estimate.low,
            "n_evaluated": float(estimate.n),
        }

    def _draw_test(self, now: _Round, predictions: RoundPredictions | None) -> None:
        """Draw the texts that this round asks for to measure models by."""
        loop, ids = self.loop, self.test_pool.ids
        if loop.estimation is None:
            return
        probs = None
        if predictions is not None and loop.estimation.needs_probs:
            probs = np.exp(predictions.predict("pool", ids))
        before = evaluated_after(self.rounds)
        n = loop.estimation.n_per_round(loop.query_size)
        new = loop.estimation.draw(ids, probs, before, n, stream(loop.seed, "round", now.index, "evaluation"))
        if len(new):
            labels = np.full(len(new), -1, dtype=np.int64)
            now.test_query = EvaluationQuery(ids=new.ids, proposals=new.proposals, labels=labels)

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
            # The round before has none where it had no model: it was the first, or nobody had named a class yet.
            before = self.records.arrays(now.index - 1).get("stop_set")
            if before is not None:
                changed, kappa = agreement(before["predicted"], predicted, self.loop.n_classes)
                now.metrics |= {"stop_set_changed": changed, "stop_set_kappa": kappa}
            now.arrays["stop_set"] = {"id": ids, "predicted": predicted}

    # ---- the query --------------------------------------------------------------------------------------------------

    def _choose(self, now: _Round, predictions: RoundPredictions, dynamics: FloatArray | None) -> Query:
        """Score the candidates, rank, filter and pick the query of this round."""
        loop = self.loop
        with now.phase("score"):
            rejected = rejected_after(self.rounds) if loop.strategy.needs_rejected else NOTHING
            view = predictions.view(now.candidates, dynamics, self._embeddings, rejected)
            if loop.strategy.needs_history:
                view = replace(view, history=history_after(self.rounds))
            if loop.strategy.needs_hindsight:
                view = self._with_hindsight(view, predictions, now.index)
        with now.phase("query"):
            ranking = self._ranking(now, view)
            draws = stream(loop.seed, "round", now.index, "pick")
            size = self._query_size(len(ranking))
            ids, arms = loop.strategy.choose(view.take(ranking.ids), ranking, size, draws)
            query = _query(ranking, ids, loop.strategy.name)
            return replace(query, probs=predictions.query_probs(view, query.ids), arms=arms)

    def _with_hindsight(self, view: PoolView, predictions: RoundPredictions, round_index: int) -> PoolView:
        """Add what only an upper bound may see: answers, the test split, and the scores of the last round."""
        rows = self._rows(view.ids)
        return replace(
            view,
            truth=self.loop.truth.labels[rows],
            last_scores=self._known_scores()[rows],
            hindsight=predictions.hindsight(self.loop.rounds - round_index + 1),
        )

    def _rows(self, ids: IntArray) -> IntArray:
        return np.searchsorted(self.loop.truth.ids, ids)

    def _ranking(self, now: _Round, view: PoolView) -> Ranking:
        """Rank the candidates and let the filters take theirs.

        Raises:
            RoundError: fewer than the query's size are left.
        """
        loop = self.loop
        scores = loop.strategy.score(view, stream(loop.seed, "round", now.index, "strategy"))
        ranking = rank(view.ids, scores, loop.seed, f"query strategy {loop.strategy.name!r}")
        if loop.strategy.needs_hindsight or any(each.needs_last_scores for each in loop.filters):
            now.arrays["pool"] = {"id": view.ids, "score": np.asarray(scores, dtype=np.float64)}
        size = self._query_size(len(now.candidates))
        for candidate_filter in loop.filters:
            ranking = candidate_filter.apply(ranking, view, size)
        check_enough(ranking, self._query_size(len(ranking)), now.index, len(now.labeled))
        return ranking

    def _acquired(self, query: Query) -> dict[str, float]:
        """Return the share of every slice among all that was queried by strategy so far, this query included."""
        if self.loop.groups is None:
            return {}
        ids = np.concatenate([*(record.query.ids for record in self.rounds[1:]), query.ids])
        groups = self.loop.groups[0]
        rows = np.searchsorted(self.loop.truth.ids, ids)
        return group_shares([groups[row] for row in rows], sorted(set(groups)))

    def _chosen_by(self, query: Query) -> dict[str, float]:
        """Return which share of all queries so far, this one included, each of the strategies chose among chose."""
        if query.arms is None:
            return {}
        arms = np.concatenate([history_after(self.rounds).arms, query.arms])
        shares = np.bincount(arms, minlength=len(self.loop.strategy.arms)) / len(arms)
        named = zip(arm_names(self.loop.strategy), shares.tolist(), strict=True)
        return {f"chosen_by.{name}": share for name, share in named}

    def _annotate(self, ids: IntArray) -> Annotation:
        oracle, n_classes = self.loop.oracle, self.loop.n_classes
        annotation = oracle.label(ids, self.loop.truth)
        if not np.array_equal(annotation.ids, ids):
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
                n_candidates -= candidate_filter.n_removed(n_candidates, self._query_size(n_candidates))
        if loop.oracle.is_outside:  # whoever labels decides when it is enough; the rules are advice
            return None if n_candidates else POOL_ASKED
        rounds = [*self.rounds, self._record(now, NO_QUERY, None)]
        reasons = (rule.reason(rounds, n_candidates, loop.query_size) for rule in loop.stopping)
        return next((reason for reason in reasons if reason is not None), None)


def _hold_out(loop: Loop) -> tuple[LabeledSet, LabeledSet, LabeledSet]:
    """Divide the training split: validation examples of a stopping rule, the test pool of an estimate, the rest.

    All validation examples have a class; the test pool is drawn as whoever labels would have to, from all that is left.
    """
    n_validation = max((rule.n_validation for rule in loop.stopping), default=0)
    drawn = _sample(loop.truth.of_a_class().ids, n_validation, stream_seed(loop.seed, "validation_split"))
    validation, rest = _divided(loop.truth, drawn)
    n_test = 0 if loop.estimation is None else loop.estimation.n_held_out(len(rest))
    return validation, *_divided(rest, _sample(rest.ids, n_test, stream_seed(loop.seed, "test_pool")))


def _divided(examples: LabeledSet, ids: IntArray) -> tuple[LabeledSet, LabeledSet]:
    """Return those of some examples that have these ids, and the others, in their order."""
    is_drawn = np.isin(examples.ids, ids, assume_unique=True)
    drawn, others = (LabeledSet(ids=examples.ids[at], labels=examples.labels[at]) for at in (is_drawn, ~is_drawn))
    return drawn, others


def _unanswered(ids: IntArray) -> Annotation:
    return Annotation(ids=ids, labels=np.full(len(ids), -1), abstained=np.ones(len(ids), dtype=np.bool_))


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
