"""Predictions of a round's model, through the cell's confidence method: for evaluation and for the strategy."""

from dataclasses import replace

import numpy as np

from al_ray.confidence import State
from al_ray.core.types import (
    Float64Array,
    FloatArray,
    Hindsight,
    IntArray,
    LabeledSet,
    ModelOutputs,
    PoolView,
    RowView,
    Split,
)
from al_ray.core.uncertainty import log_softmax, mean_log_probs
from al_ray.loop.ports import Classifier, Loop
from al_ray.strategy import QueryStrategy


class RoundPredictions:
    """Predictions of one round's fine-tuned model, through the cell's confidence method.

    Args:
        loop: the cell.
        classifier: fine-tuned.
        labeled: the answers that it was fine-tuned on, ids ascending.
        state: what calibration learned, or None to learn it now from the labelled examples.
        first_features: features of all of ``loop.truth`` from the model of round 1, for methods that ask for them.
    """

    def __init__(
        self,
        loop: Loop,
        classifier: Classifier,
        labeled: LabeledSet,
        state: State | None,
        first_features: FloatArray | None,
    ) -> None:
        self._loop, self._classifier, self._labeled = loop, classifier, labeled
        self._first_features = first_features
        self._labeled_outputs: ModelOutputs | None = None
        if state is None and loop.confidence.needs_labeled:
            state = loop.confidence.calibrate(self._on_labeled(), labeled.labels)
        self.state: State = {} if state is None else state

    def calibration(self) -> dict[str, float]:
        """Return the plain numbers that calibration learned, as metrics."""
        floats = {name: value for name, value in self.state.items() if isinstance(value, float)}
        return {f"calibration.{name}": value for name, value in floats.items()}

    def predict(self, split: Split, ids: IntArray) -> Float64Array:
        """Return log-probabilities averaged over the draws ``[n, n_classes]``, ids ascending."""
        outputs = self._classifier.predict(split, ids, with_features=self._loop.confidence.needs_features)
        return mean_log_probs(self._loop.confidence.log_probs(outputs, self.state))

    def view(
        self, ids: IntArray, dynamics: FloatArray | None, embeddings: FloatArray | None, rejected: IntArray
    ) -> PoolView:
        """Return what the strategy may see of some candidates.

        Args:
            ids: candidates, ascending.
            dynamics: logits after every epoch, rows as in :func:`watched_ids`, where something was watched.
            embeddings: of all of ``loop.truth``, where something needs them.
            rejected: what was asked for and got no label, ascending; none where the strategy does not read it.
        """
        loop = self._loop
        known, labeled_known = self._watched(ids, dynamics)
        if not (loop.strategy.needs_scores or any(each.needs_probs for each in loop.filters)):
            no_draws = np.empty((len(ids), 0, loop.n_classes))
            view = PoolView(ids=ids, log_probs=no_draws, dynamics=known, labeled=self._labeled)
        else:
            view = self._scored(ids, known)
        view = replace(view, labeled_dynamics=labeled_known)
        if loop.strategy.needs_rejected:
            view = self._with_rejected(view, rejected, embeddings)
        if embeddings is None:
            return view
        rows, labeled_rows = (np.searchsorted(loop.truth.ids, asked) for asked in (ids, self._labeled.ids))
        return replace(view, embeddings=RowView(embeddings, rows), labeled_embeddings=embeddings[labeled_rows])

    def query_probs(self, view: PoolView, ids: IntArray) -> Float64Array:
        """Return the class probabilities of the queried examples ``[query_size, n_classes]``, in the query's order."""
        by_id = np.sort(ids)
        if view.log_probs.shape[1]:
            probs = np.exp(mean_log_probs(view.log_probs[np.searchsorted(view.ids, by_id)]))
        else:
            probs = np.exp(self.predict("pool", by_id))
        return probs[np.searchsorted(by_id, ids)]

    def hindsight(self, n_queries: int) -> Hindsight:
        """Return what only an upper bound may see of the test split, and that so many queries are still to come."""
        test = self._loop.test
        outputs = self._classifier.predict("test", test.ids, with_features=True)
        assert outputs.features is not None
        return Hindsight(
            test_features=outputs.features,
            test_labels=test.labels,
            query_size=self._loop.query_size,
            n_queries=n_queries,
        )

    def _watched(self, ids: IntArray, dynamics: FloatArray | None) -> tuple[FloatArray | None, FloatArray | None]:
        """Return the log-probabilities after every epoch of the candidates and of the labelled, as far as needed."""
        strategy, labeled = self._loop.strategy, self._labeled.ids
        if dynamics is None:
            return None, None
        known, watched = log_softmax(dynamics), watched_ids(strategy, ids, labeled)
        return (
            known[np.searchsorted(watched, ids)] if strategy.n_watched else None,
            known[np.searchsorted(watched, labeled)] if strategy.needs_labeled_dynamics else None,
        )

    def _scored(self, ids: IntArray, dynamics: FloatArray | None) -> PoolView:
        strategy, confidence = self._loop.strategy, self._loop.confidence
        outputs = self._classifier.predict(
            "pool",
            ids,
            with_features=strategy.needs_features or confidence.needs_features,
            with_logits_without_dropout=strategy.needs_predicted,
        )
        read = self._with_first_features(outputs)
        view = PoolView(
            ids=outputs.ids,
            log_probs=confidence.log_probs(read, self.state),
            logits=outputs.logits if strategy.needs_logits else None,
            features=outputs.features,
            predicted=None if outputs.logits_without_dropout is None else outputs.logits_without_dropout.argmax(axis=1),
            uncertainty=confidence.uncertainty(read, self.state) if strategy.needs_uncertainty else None,
            dynamics=dynamics,
            labeled=self._labeled,
        )
        return self._with_labeled(view) if strategy.needs_labeled else view

    def _with_labeled(self, view: PoolView) -> PoolView:
        outputs, confidence = self._on_labeled(), self._loop.confidence
        read = self._with_first_features(outputs)
        needs_uncertainty = self._loop.strategy.needs_uncertainty
        return replace(
            view,
            labeled_log_probs=confidence.log_probs(read, self.state),
            labeled_features=outputs.features,
            labeled_uncertainty=confidence.uncertainty(read, self.state) if needs_uncertainty else None,
        )

    def _with_rejected(self, view: PoolView, rejected: IntArray, embeddings: FloatArray | None) -> PoolView:
        features = embedded = None
        if view.features is not None:
            features = view.features[:0]
            if len(rejected):
                features = self._classifier.predict("pool", rejected, with_features=True).features
        if embeddings is not None:
            embedded = embeddings[np.searchsorted(self._loop.truth.ids, rejected)]
        return replace(view, rejected=rejected, rejected_features=features, rejected_embeddings=embedded)

    def _with_first_features(self, outputs: ModelOutputs) -> ModelOutputs:
        if self._first_features is None:
            return outputs
        return replace(outputs, features=self._first_features[np.searchsorted(self._loop.truth.ids, outputs.ids)])

    def _on_labeled(self) -> ModelOutputs:
        if self._labeled_outputs is None:
            needed = self._loop.strategy.needs_features or self._loop.confidence.needs_features
            self._labeled_outputs = self._classifier.predict("pool", self._labeled.ids, with_features=needed)
        return self._labeled_outputs


def watched_ids(strategy: QueryStrategy, candidates: IntArray, labeled: IntArray) -> IntArray:
    """Return whose predictions are recorded after every epoch, ascending: candidates, labelled examples, or neither."""
    watched = [
        np.empty(0, np.int64),
        *([candidates] if strategy.n_watched else []),
        *([labeled] if strategy.needs_labeled_dynamics else []),
    ]
    return np.sort(np.concatenate(watched))


def needs_embeddings(loop: Loop) -> bool:
    """Say whether a round reads embeddings of the pretrained encoder."""
    return loop.strategy.needs_embeddings or any(each.needs_embeddings for each in loop.filters)
