"""A classifier and a records port for the loop, without torch, Ray or files."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from al_ray.confidence import confidences
from al_ray.core.seeding import stream
from al_ray.core.types import Annotation, Embedded, IntArray, LabeledSet, ModelOutputs, RoundRecord, Sampling, Split
from al_ray.filtering import filters as filter_registry
from al_ray.initial import initial_queries
from al_ray.loop.ports import Arrays, Loop
from al_ray.oracle import oracles
from al_ray.stopping import stopping_rules
from al_ray.strategy import QueryStrategy, strategies

N_EPOCHS = 4
QUICK = {"optimal": {"n_annealed": 30, "n_greedy": 10}}
"""Options with which a strategy that takes minutes takes none."""


@dataclass(frozen=True)
class FakeFit:
    """What the fake's fine-tune leaves behind."""

    dynamics: np.ndarray | None = None


@dataclass
class NearestCentroid:
    """Logits are ten minus the distance to each class's mean: a real, deterministic classifier on 2-D points.

    A draw shifts all centroids a little, the same for every example, so that draws are consistent models.
    """

    pool_points: dict[int, np.ndarray]
    test_points: dict[int, np.ndarray]
    n_classes: int
    sampling: Sampling = field(default_factory=Sampling)
    centroids: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    round_index: int = 0
    fitted_on: list[int] = field(default_factory=list)
    plain_fits: int = 0
    n_predicted: int = 0

    def finetune(
        self, labeled: LabeledSet, *, round_index: int, plain: bool = False, watched: IntArray | None = None
    ) -> FakeFit:
        """Take the mean point of every class; a class never seen is far away."""
        self.centroids, self.round_index = self._means(labeled), round_index
        self.plain_fits += plain
        if not plain:
            self.fitted_on.append(len(labeled))
        if watched is None:
            return FakeFit()
        assert np.all(np.diff(watched) > 0)
        start = self.centroids.mean(axis=0)
        ways = [start + (self.centroids - start) * share for share in np.linspace(0.2, 1, N_EPOCHS)]
        return FakeFit(np.stack([self._logits(self._points("pool", watched), way) for way in ways], axis=1))

    def predict(
        self,
        split: Split,
        ids: IntArray,
        *,
        plain: bool = False,
        with_features: bool = False,
        with_logits_without_dropout: bool = False,
    ) -> ModelOutputs:
        """Return minus the distances to the centroids as logits."""
        points = self._points(split, ids)
        self.n_predicted += len(ids)
        without_dropout = self._logits(points, self.centroids)
        logits = without_dropout[:, None]
        if not plain and self.sampling.n_draws > 1:
            shifts = [stream(self.round_index, "draw", d).normal(size=self.centroids.shape) * 0.5
                      for d in range(self.sampling.n_draws)]  # fmt: skip
            logits = np.stack([self._logits(points, self.centroids + shift) for shift in shifts], axis=1)
        features = points.astype(np.float32) if with_features else None
        return ModelOutputs(
            ids=ids,
            logits=logits,
            features=features,
            logits_without_dropout=without_dropout if with_logits_without_dropout else None,
        )

    def cross_predict(self, labeled: LabeledSet, *, n_folds: int, round_index: int) -> ModelOutputs:
        """Predict every labelled example from the others' means, fold by fold."""
        labeled = labeled.sorted()
        fold = np.arange(len(labeled)) % n_folds
        logits = np.empty((len(labeled), 1, self.n_classes), np.float32)
        for number in range(n_folds):
            rest = LabeledSet(ids=labeled.ids[fold != number], labels=labeled.labels[fold != number])
            held = labeled.ids[fold == number]
            logits[fold == number, 0] = self._logits(self._points("pool", held), self._means(rest))
        return ModelOutputs(ids=labeled.ids, logits=logits)

    def embeddings(self, of: Embedded) -> np.ndarray:
        """Return the points at unit length; names of classes lie evenly on the circle."""
        if of == "classes":
            angles = 2 * np.pi * np.arange(self.n_classes) / self.n_classes
            return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
        known = self.pool_points if of == "pool" else self.test_points
        points = self._points(of, np.array(sorted(known)))
        return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)

    def _means(self, labeled: LabeledSet) -> np.ndarray:
        points = self._points("pool", labeled.ids)
        far = np.full(2, 1e3)
        means = [points[labeled.labels == c].mean(axis=0) if (labeled.labels == c).any() else far
                 for c in range(self.n_classes)]  # fmt: skip
        return np.stack(means)

    def _points(self, split: Split, ids: IntArray) -> np.ndarray:
        known = self.pool_points if split == "pool" else self.test_points
        return np.array([known[i] for i in ids.tolist()]).reshape(-1, 2)

    def _logits(self, points: np.ndarray, centroids: np.ndarray) -> np.ndarray:
        distances = np.linalg.norm(points[:, None] - centroids[None], axis=2)
        return (10 - distances).astype(np.float32)


@dataclass
class RecordsInMemory:
    """Keeps the rounds as the JSON that a store would keep; can be told to fail at one of them."""

    stored: list[dict[str, Any]] = field(default_factory=list)
    tables: list[Arrays] = field(default_factory=list)
    fail_at: int | None = None

    def rounds(self) -> list[RoundRecord]:
        """Read everything back."""
        return [RoundRecord.from_json(data) for data in self.stored]

    def arrays(self, round_index: int) -> Arrays:
        """Return the arrays of a round."""
        return self.tables[round_index]

    def append(self, record: RoundRecord, arrays: Arrays) -> None:
        """Keep one round, or die before it is kept."""
        if record.round_index == self.fail_at:
            raise KeyboardInterrupt
        assert record.round_index == len(self.stored)
        self.stored.append(record.to_json())
        self.tables.append(arrays)


@dataclass
class PeopleInMemory:
    """Keeps what is asked as JSON, and answers from a mapping that grows.

    Attributes:
        answers: id -> class, or -1 where people abstained.
    """

    answers: dict[int, int] = field(default_factory=dict)
    revised: dict[int, int] = field(default_factory=dict)
    asked: tuple[dict[str, Any], Arrays] | None = None
    n_asked: int = 0

    def pending(self) -> tuple[RoundRecord, Arrays] | None:
        """Read back what is asked."""
        return None if self.asked is None else (RoundRecord.from_json(self.asked[0]), self.asked[1])

    def ask(self, record: RoundRecord, arrays: Arrays) -> None:
        """Keep a query."""
        assert self.asked is None, "a query is out already"
        self.asked = record.to_json(), arrays
        self.n_asked += 1

    def answered(self, record: RoundRecord) -> RoundRecord | None:
        """Fill in the answers once all are there."""
        evaluation = record.evaluation
        asked = [*record.query.ids.tolist(), *([] if evaluation is None else evaluation.ids.tolist())]
        if not all(id_ in self.answers for id_ in asked):
            return None
        labels = np.array([self.answers[id_] for id_ in record.query.ids.tolist()], dtype=np.int64)
        self.asked = None
        revised, self.revised = self.revised, {}
        return replace(
            record,
            annotation=Annotation(ids=record.query.ids, labels=labels, abstained=labels < 0),
            evaluation=None
            if evaluation is None
            else replace(evaluation, labels=np.array([self.answers[id_] for id_ in evaluation.ids.tolist()])),
            revised=LabeledSet(ids=np.array([*revised], np.int64), labels=np.array([*revised.values()], np.int64)),
        )


def make_world(n_train: int = 120, n_test: int = 60, n_classes: int = 3, seed: int = 0) -> dict[str, Any]:
    """Draw Gaussian blobs; ids start at 1000 so that an id is never also a position."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(n_classes, 2)) * 3

    def split(n: int, first_id: int) -> tuple[LabeledSet, dict[int, np.ndarray]]:
        labels = np.arange(n) % n_classes
        ids = first_id + np.arange(n) * 3
        points = centers[labels] + rng.normal(size=(n, 2))
        return LabeledSet(ids=ids, labels=labels), dict(zip(ids.tolist(), points, strict=True))

    truth, pool_points = split(n_train, 1000)
    test, test_points = split(n_test, 50)
    return {"truth": truth, "test": test, "pool": pool_points, "test_points": test_points, "n_classes": n_classes}


def fitting_confidence(strategy: QueryStrategy) -> str:
    """Name a confidence method that a strategy can work with."""
    if strategy.min_draws > 1:
        return "ensemble"
    if strategy.needs_uncertainty:
        return "gonsior2022/trust_score" if strategy.name.startswith("gonsior2022/") else "evidential"
    return "softmax"


def quick(name: str) -> dict[str, Any]:
    """Return the option that names a strategy, so that it takes no minutes."""
    return {"name": name, **QUICK.get(name, {})}


def make_loop(world: dict[str, Any], **changes: Any) -> Loop:
    """Build a loop from plug-in options, as a study would."""
    option = {"strategy": "margin", "filters": [], "stopping": [], "initial": "stratified", "oracle": "ground_truth"}
    option |= {key: changes.pop(key) for key in list(changes) if key in option}
    named = option["strategy"]
    strategy = strategies.build(quick(named) if isinstance(named, str) else named)
    confidence = changes.pop("confidence", None) or fitting_confidence(strategy)
    values = {"seed": 1, "initial_size": 6, "query_size": 5, "rounds": 4} | changes
    return Loop(
        n_classes=world["n_classes"],
        truth=world["truth"],
        test=world["test"],
        initial=initial_queries.build(option["initial"]),
        confidence=confidences.build(confidence),
        strategy=strategy,
        filters=[filter_registry.build(f) for f in option["filters"]],
        oracle=oracles.build(option["oracle"]),
        stopping=[stopping_rules.build(s) for s in option["stopping"]],
        **values,
    )


def make_classifier(world: dict[str, Any], loop: Loop | None = None) -> NearestCentroid:
    """Build the fake model of a world, predicting as the loop's confidence method asks."""
    sampling = Sampling() if loop is None else loop.confidence.sampling
    return NearestCentroid(world["pool"], world["test_points"], world["n_classes"], sampling)
