"""An array that a strategy asks for reaches it, with the rows of its examples, and no other strategy pays for it."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from al_ray.confidence import confidences
from al_ray.core.types import FloatArray, PoolView
from al_ray.core.uncertainty import log_softmax
from al_ray.loop import learner
from al_ray.strategy import QueryStrategy
from tests.fakes import RecordsInMemory, make_classifier, make_loop, make_world


@dataclass(frozen=True)
class Looking(QueryStrategy):
    """Asks for what its options say, keeps what it sees, and scores all alike."""

    name: ClassVar[str] = "looking"
    source: ClassVar[str] = "test"
    needs_logits: bool = False
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
