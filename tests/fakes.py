"""A classifier and a records port for the loop, without torch, Ray or files."""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from al_ray.confidence import confidences
from al_ray.core.types import IntArray, LabeledSet, ModelOutputs, RoundRecord
from al_ray.filtering import filters as filter_registry
from al_ray.initial import initial_queries
from al_ray.learner import Arrays, Loop
from al_ray.oracle import oracles
from al_ray.stopping import stopping_rules
from al_ray.strategy import strategies


@dataclass
class NearestCentroid:
    """Logits are minus the distance to each class's mean: a real, deterministic classifier on 2-D points."""

    pool_points: dict[int, np.ndarray]
    test_points: dict[int, np.ndarray]
    n_classes: int
    centroids: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    fitted_on: list[int] = field(default_factory=list)
    n_predicted: int = 0

    def finetune(self, labeled: LabeledSet, *, round_index: int) -> None:
        """Take the mean point of every class; a class never seen is far away."""
        points = np.array([self.pool_points[i] for i in labeled.ids.tolist()])
        far = np.full(2, 1e3)
        means = [points[labeled.labels == c].mean(axis=0) if (labeled.labels == c).any() else far
                 for c in range(self.n_classes)]  # fmt: skip
        self.centroids = np.stack(means)
        self.fitted_on.append(len(labeled))

    def predict(self, split: Literal["pool", "test"], ids: IntArray, *, with_features: bool = False) -> ModelOutputs:
        """Return minus the distances to the centroids as logits."""
        known = self.pool_points if split == "pool" else self.test_points
        points = np.array([known[i] for i in ids.tolist()]).reshape(-1, 2)
        logits = -np.linalg.norm(points[:, None] - self.centroids[None], axis=2)
        self.n_predicted += len(ids)
        features = points.astype(np.float32) if with_features else None
        return ModelOutputs(ids=ids, logits=logits[:, None].astype(np.float32), features=features)


@dataclass
class RecordsInMemory:
    """Keeps the rounds as the JSON that a store would keep; can be told to fail at one of them."""

    stored: list[dict[str, Any]] = field(default_factory=list)
    arrays: list[Arrays] = field(default_factory=list)
    fail_at: int | None = None

    def rounds(self) -> list[RoundRecord]:
        """Read everything back."""
        return [RoundRecord.from_json(data) for data in self.stored]

    def append(self, record: RoundRecord, arrays: Arrays) -> None:
        """Keep one round, or die before it is kept."""
        if record.round_index == self.fail_at:
            raise KeyboardInterrupt
        assert record.round_index == len(self.stored)
        self.stored.append(record.to_json())
        self.arrays.append(arrays)


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


def make_loop(world: dict[str, Any], **changes: Any) -> Loop:
    """Build a loop from plug-in options, as a study would."""
    option = {"strategy": "margin", "filters": [], "stopping": [], "initial": "stratified", "oracle": "ground_truth"}
    option |= {key: changes.pop(key) for key in list(changes) if key in option}
    numbers = {"seed": 1, "initial_size": 6, "query_size": 5, "rounds": 4} | changes
    return Loop(
        n_classes=world["n_classes"],
        truth=world["truth"],
        test=world["test"],
        initial=initial_queries.build(option["initial"]),
        confidence=confidences.build("softmax"),
        strategy=strategies.build(option["strategy"]),
        filters=[filter_registry.build(f) for f in option["filters"]],
        oracle=oracles.build(option["oracle"]),
        stopping=[stopping_rules.build(s) for s in option["stopping"]],
        **numbers,
    )


def make_classifier(world: dict[str, Any]) -> NearestCentroid:
    """Build the fake model of a world."""
    return NearestCentroid(world["pool"], world["test_points"], world["n_classes"])
