"""Arms: the strategies that another strategy chooses among, and what the classes that they found are worth."""

from collections import Counter
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from al_ray.core.ranking import rank
from al_ray.core.types import Float64Array, FloatArray, History, IntArray, PoolView, Ranking
from al_ray.errors import ConfigError
from al_ray.registry import Parts
from al_ray.strategy import QueryStrategy, declares_for, strategies
from al_ray.strategy.badge import Badge
from al_ray.strategy.margin import Margin
from al_ray.strategy.typiclust import TypiClust


@declares_for(lambda strategy: strategy.arms)
@dataclass(frozen=True)
class ChoosesAmong(QueryStrategy):
    """Base of the strategies that choose among others; it needs whatever one of them needs.

    Where one of them watches a part of the pool during the fit, the candidates of all are that part.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.arms) < 2 or len(set(self.arms)) < len(self.arms):
            raise ConfigError(
                f"strategy {self.name!r} chooses among {', '.join(arm_names(self)) or 'no strategies'}. Name two "
                "strategies or more, each once."
            )

    def pick(self, pool: PoolView, ranking: Ranking, n: int, stream: np.random.Generator) -> IntArray:
        """Return the ids of the query ``[n]``, in the order of choice."""
        return self.choose(pool, ranking, n, stream)[0]


single_strategies = Parts(
    strategies,
    lambda cls: not (issubclass(cls, ChoosesAmong) or cls.labels_everything or cls.needs_hindsight),
    "cannot be one of those that another chooses among. Name one that looks at examples itself, such as 'margin'.",
)
Arm = Annotated[QueryStrategy, single_strategies]

UNSURE: QueryStrategy = Margin()  # type: ignore[abstract]  # its name is set by the registry
TYPICAL: QueryStrategy = TypiClust()  # type: ignore[abstract]
USUAL_ARMS: tuple[QueryStrategy, ...] = (UNSURE, Badge(), TYPICAL)  # type: ignore[abstract]


def arm_names(strategy: QueryStrategy) -> list[str]:
    """Return a name for each strategy that another one chooses among: its own, numbered where two have the same."""
    names = [arm.name for arm in strategy.arms]
    doubled, seen = {name for name, n in Counter(names).items() if n > 1}, Counter[str]()
    found = []
    for name in names:
        seen[name] += 1
        found.append(f"{name}_{seen[name]}" if name in doubled else name)
    return found


@dataclass(frozen=True)
class Bandit(ChoosesAmong):
    """Base of the strategies that decide anew for every place in the query which of some strategies fills it.

    A place is filled by the first example of the strategy's own order that none has chosen yet. All answers of a round
    come at its end, so that within a round a strategy learns nothing.
    """

    source: ClassVar[str]
    needs_history: ClassVar[bool] = True
    ranks: ClassVar[bool] = False

    def draw_arms(self, counts: "ArmCounts", n: int, stream: np.random.Generator) -> IntArray:
        """Return which strategy fills each place ``[n]``."""
        raise NotImplementedError

    def count(self, history: History, n_classes: int) -> "ArmCounts":
        """Return what the answers so far say about each strategy; all count alike."""
        return ArmCounts.of(history, len(self.arms), n_classes)

    def choose(
        self, pool: PoolView, ranking: Ranking, n: int, stream: np.random.Generator
    ) -> tuple[IntArray, IntArray | None]:
        """Return the ids of the query ``[n]``, and which strategy chose each."""
        assert pool.history is not None, f"{self.name} needs PoolView.history"
        of_places, *of_arms = stream.spawn(1 + len(self.arms))
        counts = self.count(pool.history, pool.n_classes).with_labeled(pool.labeled.labels)
        arms = self.draw_arms(counts, n, of_places)
        orders = {at: iter(picked(self.arms[at], pool, n, of_arms[at]).tolist()) for at in np.unique(arms).tolist()}
        chosen: dict[int, int] = {}
        for arm in arms.tolist():
            id_ = next(id_ for id_ in orders[arm] if id_ not in chosen)
            chosen[id_] = arm
        return np.array([*chosen], dtype=np.int64), arms


def picked(arm: QueryStrategy, pool: PoolView, n: int, stream: np.random.Generator) -> IntArray:
    """Return what a strategy alone would ask for ``[n]``, in the order of choice."""
    for_ties, for_scores, for_picks = stream.spawn(3)
    scores = arm.score(pool, for_scores)
    ranking = rank(pool.ids, scores, int(for_ties.integers(2**62)), f"query strategy {arm.name!r}")
    return arm.pick(pool, ranking, n, for_picks)


@dataclass(frozen=True, kw_only=True)
class ArmCounts:
    """What the answers to earlier queries say about each of some strategies.

    Attributes:
        found: weighted number of labels of each class that each strategy found ``[n_arms, n_classes]``.
        n_asked: examples that each asked for, whether or not somebody named a class ``[n_arms]``.
        n_labeled: labels of each class, whoever asked for them ``[n_classes]``.
    """

    found: Float64Array
    n_asked: IntArray
    n_labeled: IntArray

    @classmethod
    def of(cls, history: History, n_arms: int, n_classes: int, keep: float = 1.0, first: float = 0.0) -> "ArmCounts":
        """Count a history.

        Args:
            history: earlier queries.
            n_arms: how many strategies there are.
            n_classes: how many classes there are.
            keep: share of all counts that is kept when a round's answers come.
            first: every count before the first answer.
        """
        found = np.full((n_arms, n_classes), first)
        for index in np.unique(history.round_index).tolist():
            known = (history.round_index == index) & (history.labels >= 0)
            found *= keep
            np.add.at(found, (history.arms[known], history.labels[known]), 1.0)
        n_asked = np.bincount(history.arms, minlength=n_arms)
        return cls(found=found, n_asked=n_asked, n_labeled=np.zeros(n_classes, dtype=np.int64))

    def with_labeled(self, labels: IntArray) -> "ArmCounts":
        """Return the same counts, with those of all labels there are."""
        n_labeled = np.bincount(labels, minlength=self.found.shape[1])
        return ArmCounts(found=self.found, n_asked=self.n_asked, n_labeled=n_labeled)

    def class_worth(self) -> Float64Array:
        """Return what a label of each class is worth ``[n_classes]``.

        1 / max(n_c, 1) with n_c labels of class c so far, negative for a class that holds more than half of all labels
        (Zhang et al. 2023, arXiv 2302.07317, the reward for class diversity).
        """
        worth = 1.0 / np.maximum(self.n_labeled, 1)
        return np.where(2 * self.n_labeled > self.n_labeled.sum(), -worth, worth)

    def mean_reward(self) -> Float64Array:
        """Return the mean reward of each strategy, in [0, 1] ``[n_arms]``; 0 where it never asked.

        The reward of a label is its class's worth now, as a share of the largest; none for a class that holds more
        than half of all labels, and for an example that has no label.
        """
        worth = np.maximum(self.class_worth(), 0.0)
        reward = self.found @ (worth / max(float(worth.max()), np.finfo(float).tiny))
        return np.asarray(reward / np.maximum(self.n_asked, 1))


def largest_at_random(values: FloatArray, stream: np.random.Generator) -> int:
    """Return the place of the largest value; of several that are as large, one at random."""
    return int(stream.choice(np.flatnonzero(values == values.max())))
