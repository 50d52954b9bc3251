"""An array that a strategy asks for reaches it, with the rows of its examples, and no other strategy pays for it."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from al_ray.confidence import confidences
from al_ray.core.types import FloatArray, PoolView
from al_ray.core.uncertainty import log_softmax
from al_ray.loop import learner
from al_ray.strategy import QueryStrategy
from tests.fakes import N_EPOCHS, RecordsInMemory, make_classifier, make_loop, make_world


@dataclass(frozen=True)
class Looking(QueryStrategy):
    """Asks for what its options say, keeps what it sees, and scores all alike."""

    name: ClassVar[str] = "looking"
    source: ClassVar[str] = "test"
    needs_logits: bool = False
    needs_labeled: bool = False
    needs_labeled_dynamics: bool = False
    n_watched: int = 0
    seen: list[PoolView] = field(default_factory=list)

    def __post_init__(self) -> None:
        pass

    def score(self, pool: PoolView, stream: np.random.Generator) -> FloatArray:
        self.seen.append(pool)
        return np.zeros(len(pool))


def views_of(strategy: Looking, confidence: str = "softmax") -> list[PoolView]:
    world = make_world()
    loop = replace(make_loop(world, confidence=confidence, rounds=2), strategy=strategy)
    learner.run(loop, make_classifier(world, loop), RecordsInMemory())
    assert len(strategy.seen) == 2
    return strategy.seen


def test_logits_are_the_model_s_own_with_every_draw_before_the_confidence_method() -> None:
    for view in views_of(Looking(needs_logits=True), "ensemble"):
        assert view.logits is not None
        assert view.logits.shape == (len(view), confidences.build("ensemble").n_draws, 3)
        np.testing.assert_allclose(log_softmax(view.logits), view.log_probs, atol=1e-6)
    energy = views_of(Looking(needs_logits=True), "energy")[0]
    assert energy.logits is not None
    assert np.abs(log_softmax(energy.logits) - energy.log_probs).max() > 1e-3  # faded by the method, not in the logits
    assert all(view.logits is None for view in views_of(Looking()))


def test_the_labelled_are_watched_alone_or_beside_candidates_and_each_gets_its_own_rows() -> None:
    for n_watched in (0, 30, 1000):
        views = views_of(Looking(needs_labeled=True, needs_labeled_dynamics=True, n_watched=n_watched))
        for view, n_labeled in zip(views, (6, 11), strict=True):
            assert view.labeled_dynamics is not None
            assert view.labeled_dynamics.shape == (n_labeled, N_EPOCHS, 3)
            # The fake's last epoch is the model itself.
            np.testing.assert_allclose(view.labeled_dynamics[:, -1], view.labeled_log_probs[:, 0], atol=1e-9)
            assert np.abs(view.labeled_dynamics[:, 0] - view.labeled_dynamics[:, -1]).max() > 0.1
            if n_watched:
                assert len(view) == min(n_watched, 120 - n_labeled)
                np.testing.assert_allclose(view.dynamics[:, -1], view.log_probs[:, 0], atol=1e-9)
            else:
                assert view.dynamics is None
    view = views_of(Looking(needs_labeled=True, n_watched=30))[0]
    assert view.labeled_dynamics is None
    assert view.dynamics is not None
