"""What sees the answers: the upper bound against a second library and all orders, and the pool without its hardest."""

from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from al_ray.core.metrics import training_dynamics
from al_ray.core.ranking import rank
from al_ray.core.seeding import stream
from al_ray.core.types import Hindsight, IntArray, LabeledSet, PoolView, TextDataset, TextSplit, UnscoredPool
from al_ray.data import datasets
from al_ray.errors import ConfigError
from al_ray.filtering import filters
from al_ray.loop import learner
from al_ray.strategy import optimal, strategies
from al_ray.strategy.optimal import Curves, Optimal, anneal, fit_nested
from al_ray.study.plan import _misfits, dataset_key
from al_ray.study.spec import CellSpec, make_spec
from tests.fakes import RecordsInMemory, make_classifier, make_loop, make_world

L2 = 1.0
N_CLASSES = 3


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let fits end where nothing more is to be had, so that no accuracy hangs on where a fit started."""
    monkeypatch.setattr(optimal, "TOLERANCE_NATS", 1e-9)
    monkeypatch.setattr(optimal, "MAX_FIT_STEPS", 20_000)


class Tiny:
    """Seven candidates of three overlapping classes, three labelled examples, and 40 to measure on."""

    def __init__(self, n: int = 7, seed: int = 0, query_size: int = 2) -> None:
        rng = np.random.default_rng(seed)
        centres = rng.normal(size=(N_CLASSES, 4)) * 1.5

        def draw(size: int) -> tuple[np.ndarray, IntArray]:
            labels = np.arange(size) % N_CLASSES
            return centres[labels] + rng.normal(size=(size, 4)), labels

        self.pool, self.labeled, self.test = draw(n), draw(3), draw(40)
        self.query_size = query_size

    @property
    def curves(self) -> Curves:
        return Curves(
            points=self.pool[0],
            labels=self.pool[1],
            labeled_points=self.labeled[0],
            labeled=self.labeled[1],
            test_points=self.test[0],
            test_labels=self.test[1],
            n_classes=N_CLASSES,
            query_size=self.query_size,
            l2=L2,
        )

    def accuracy(self, asked: tuple[int, ...]) -> float:
        """Return the accuracy of scikit-learn's logistic regression on the labelled and some candidates."""
        points = np.concatenate([self.labeled[0], self.pool[0][list(asked)]])
        labels = np.concatenate([self.labeled[1], self.pool[1][list(asked)]])
        fitted = LogisticRegression(C=1 / L2, fit_intercept=False, max_iter=10_000, tol=1e-10)
        fitted.fit(with_intercept(points), labels)
        return float((fitted.predict(with_intercept(self.test[0])) == self.test[1]).mean())

    def view(self, n_queries: int = 2, **changes: object) -> PoolView:
        n = len(self.pool[0])
        view = PoolView(
            ids=np.arange(n) * 3 + 100,
            log_probs=np.zeros((n, 1, N_CLASSES)),
            features=self.pool[0],
            truth=self.pool[1],
            last_scores=np.full(n, np.nan),
            hindsight=Hindsight(
                test_features=self.test[0],
                test_labels=self.test[1],
                query_size=self.query_size,
                n_queries=n_queries,
            ),
            labeled=LabeledSet(ids=np.arange(3), labels=self.labeled[1]),
            labeled_features=self.labeled[0],
        )
        return replace(view, **changes)  # type: ignore[arg-type]


def with_intercept(points: np.ndarray) -> np.ndarray:
    return np.concatenate([points, np.ones((len(points), 1))], axis=1)


@pytest.mark.usefixtures("exact")
def test_nested_fits_are_the_logistic_regressions_of_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    points, labels = rng.normal(size=(30, 5)), np.arange(30) % 4
    sizes = np.array([4, 11, 30])
    start = rng.normal(size=(3, 4, 5))
    fitted = fit_nested(points, np.eye(4)[labels], np.arange(30) < sizes[:, None], start, 0.5)
    for size, weights in zip(sizes, fitted, strict=True):
        reference = LogisticRegression(C=2.0, fit_intercept=False, max_iter=10_000, tol=1e-12)
        reference.fit(points[:size], labels[:size])
        np.testing.assert_allclose(weights, reference.coef_, atol=1e-3)


def test_the_usual_tolerance_leaves_a_fit_where_it_hardly_moves_a_probability() -> None:
    rng = np.random.default_rng(2)
    points, labels = rng.normal(size=(60, 6)), np.arange(60) % 3
    fitted = fit_nested(points, np.eye(3)[labels], np.ones((1, 60), np.bool_), np.zeros((1, 3, 6)), 0.1)[0]
    reference = LogisticRegression(C=10.0, fit_intercept=False, max_iter=10_000, tol=1e-12).fit(points, labels)
    logits = points @ fitted.T
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.abs(probs - reference.predict_proba(points)).max() < 0.02


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("seed", [0, 1])
def test_annealing_finds_the_best_of_all_orders(seed: int) -> None:
    tiny = Tiny(seed=seed)
    first = {pair: tiny.accuracy(pair) for pair in combinations(range(7), 2)}
    both = {four: tiny.accuracy(four) for four in combinations(range(7), 4)}
    start = tiny.accuracy(())
    best = max((start + first[pair] + both[four]) / 3 for four in both for pair in combinations(four, 2))
    order, quality = anneal(tiny.curves, 4, 900, 100, stream(seed, "search"))
    assert quality == pytest.approx(best)
    found = [start, tiny.accuracy(tuple(order[:2])), tiny.accuracy(tuple(order))]
    assert quality == pytest.approx(np.mean(found))
    chance = stream(seed, "orders")
    for _ in range(100):
        some = chance.permutation(7)[:4]
        assert (start + tiny.accuracy(tuple(some[:2])) + tiny.accuracy(tuple(some))) / 3 <= quality + 1e-12


@pytest.mark.usefixtures("exact")
def test_a_longer_search_never_ends_below_a_shorter_one() -> None:
    tiny = Tiny(n=30, query_size=3)
    qualities = [anneal(tiny.curves, 12, n, 0, stream(3, "search"))[1] for n in (0, 10, 40, 160)]
    qualities.append(anneal(tiny.curves, 12, 160, 60, stream(3, "search"))[1])
    assert qualities == sorted(qualities)
    assert qualities[-1] > qualities[0]


class Displacement:
    """A curve whose quality falls with every example that the best order does not hold; it remembers what was tried."""

    query_size, n_candidates = 20, 40

    def __init__(self) -> None:
        self.tried: list[int] = []
        self._best: set[int] | None = None

    def n_queries(self, n_asked: int) -> int:
        return 1

    def start(self, n_asked: int) -> np.ndarray:
        return np.zeros((2, 1, 1))

    def accuracies(self, order: IntArray, weights: np.ndarray, first: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        self._best = self._best or set(order.tolist())
        self.tried.append(len(order) - len(self._best & set(order.tolist())))
        return np.full(stop - first, -float(self.tried[-1])), weights[first:stop]


def test_a_worse_order_is_accepted_while_the_search_is_hot_and_hardly_once_it_is_cold() -> None:
    # A step that displaces an example loses 1/2: exp(-1/20) of them are accepted at first, exp(-40) at the end.
    curve = Displacement()
    order, _ = anneal(curve, 20, 800, 0, stream(1, "search"))  # type: ignore[arg-type]
    assert max(curve.tried[:40]) > 3
    assert max(curve.tried[-100:]) == 1
    assert len(set(order.tolist()) & curve._best) == 20


def test_swaps_go_half_between_batches_and_half_outside_and_every_place_is_drawn() -> None:
    draws = stream(4, "swaps")
    swaps = [optimal._swap(6, 10, 2, draws) for _ in range(6000)]
    inside = [swap for swap in swaps if swap is not None and swap[1] < 6]
    assert abs(len(inside) / 6000 - 0.5) < 0.03
    assert all(i < j and i // 2 != j // 2 for i, j in inside)
    assert len(Counter(inside)) == 12  # 15 pairs of places, three of them within a batch
    assert max(Counter(inside).values()) < 2 * min(Counter(inside).values())
    assert {swap for swap in swaps if swap is not None and swap[1] >= 6} == {
        (i, j) for i in range(6) for j in range(6, 10)
    }
    assert optimal._swap(4, 4, 4, draws) is None
    assert {optimal._swap(4, 5, 4, draws) for _ in range(60)} == {(i, 4) for i in range(4)}
    assert all(swap is not None and swap[1] < 4 for swap in (optimal._swap(4, 4, 2, draws) for _ in range(60)))


def test_an_only_order_is_not_searched_for() -> None:
    tiny = Tiny(n=4, query_size=4)
    order, quality = anneal(tiny.curves, 4, 50, 10, stream(1, "search"))
    assert sorted(order.tolist()) == [0, 1, 2, 3]
    assert quality == pytest.approx((tiny.accuracy(()) + tiny.accuracy((0, 1, 2, 3))) / 2, abs=0.05)


def test_the_last_query_may_be_smaller_than_the_others() -> None:
    scores = Optimal(n_annealed=30, n_greedy=5).score(Tiny(n=7, query_size=3).view(n_queries=3), stream(1, "round"))
    assert sorted(scores.tolist()) == [1, 2, 3, 4, 5, 6, 7]


def test_scores_of_the_first_round_are_gone_on_with() -> None:
    view = Tiny().view()
    scores = Optimal(n_annealed=50, n_greedy=5).score(view, stream(1, "round", 1))
    assert sorted(scores.tolist()) == [0, 0, 0, 1, 2, 3, 4]
    left = view.take(view.ids[scores < 3])
    again = Optimal().score(replace(left, last_scores=scores[scores < 3]), stream(1, "round", 2))
    np.testing.assert_array_equal(again, scores[scores < 3])


def test_a_cell_asks_in_the_order_that_its_first_round_recorded() -> None:
    world = make_world()
    loop = make_loop(world, strategy="optimal")
    records = RecordsInMemory()
    rounds = learner.run(loop, make_classifier(world, loop), records)
    pool = records.arrays(1)["pool"]
    planned = pool["id"][np.argsort(-pool["score"])][: 4 * 5]
    asked = np.concatenate([record.query.ids for record in rounds[1:]])
    np.testing.assert_array_equal(asked, planned)
    assert records.arrays(2)["pool"]["score"].max() == 15


@pytest.mark.usefixtures("exact")
def test_single_and_double_precision_give_one_order() -> None:
    view, strategy = Tiny(n=20).view(), Optimal(n_annealed=40, n_greedy=5)
    assert view.features is not None
    single = view.features.astype(np.float32)
    one, two = (strategy.score(replace(view, features=features), stream(1, "round"))
                for features in (single, single.astype(np.float64)))  # fmt: skip
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_features_of_any_size_one_class_and_no_labelled_example_are_borne(scale: float) -> None:
    tiny = Tiny(n=12)
    assert tiny.view().features is not None
    for labeled, features in (
        (LabeledSet(ids=np.arange(3), labels=np.zeros(3, np.int64)), tiny.labeled[0] * scale),
        (LabeledSet(ids=np.arange(0), labels=np.zeros(0, np.int64)), tiny.labeled[0][:0]),
    ):
        view = tiny.view(features=tiny.pool[0] * scale, labeled=labeled, labeled_features=features)
        scores = Optimal(n_annealed=20, n_greedy=5).score(view, stream(1, "round"))
        assert sorted(scores.tolist()) == [0] * 8 + [1, 2, 3, 4]


def test_a_large_pool_is_cut_by_a_hash_and_many_features_are_rotated() -> None:
    view = Tiny(n=60).view(n_queries=5)
    strategies_ = [Optimal(n_annealed=20, n_greedy=5, max_candidates=n) for n in (8, 8, 60)]
    asked = [set(view.ids[strategy.score(view, stream(seed, "round")) > 0].tolist())
             for strategy, seed in zip(strategies_, (1, 2, 1), strict=True)]  # fmt: skip
    assert [len(each) for each in asked] == [8, 8, 10]
    assert asked[0] != asked[1]


@pytest.mark.usefixtures("exact")
def test_a_rotation_to_as_many_directions_as_there_are_changes_no_accuracy() -> None:
    tiny = Tiny(n=20)
    padded = [np.concatenate([part, np.zeros((len(part), 3))], axis=1) for part in (tiny.pool[0], tiny.labeled[0])]
    test = np.concatenate([tiny.test[0], np.zeros((40, 3))], axis=1)
    rotated = optimal._rotated((*padded, test), 4)
    assert [part.shape[1] for part in rotated] == [4, 4, 4]
    np.testing.assert_allclose(rotated[2] @ rotated[0].T, tiny.test[0] @ tiny.pool[0].T, atol=1e-9)


def test_the_bound_is_no_strategy_to_perturb_or_clip_and_needs_features_that_never_change() -> None:
    values = {"dataset": "tickets", "seed": 1, "strategy": "optimal"}
    assert "which only features that never change allow" in make_spec(values, "here").conflicts()[0]
    frozen = {"finetune": {"frozen_layers": "all", "solver": "lbfgs"}}
    assert make_spec(values | frozen, "here").conflicts() == []
    clipped = make_spec({**values, **frozen, "filters": ["uncertainty_clipping"]}, "here")
    assert "removes the top of the ranking" in clipped.conflicts()[0]
    with pytest.raises(ConfigError, match="picks in its own way"):
        strategies.build({"name": "stochastic_power", "over": "optimal"})


def test_the_top_of_the_ranking_is_the_start_of_the_order() -> None:
    view, strategy = Tiny(n=20).view(), Optimal(n_annealed=40, n_greedy=5)
    scores = strategy.score(view, stream(1, "round"))
    ranking = rank(view.ids, scores, 1)
    picked = strategy.pick(view, ranking, 2, stream(1, "pick"))
    np.testing.assert_array_equal(picked, view.ids[np.argsort(-scores)[:2]])


# ---- without the hardest of the pool ---------------------------------------------------------------------------------


def test_confidence_variability_and_correctness_are_those_of_the_label_over_the_epochs() -> None:
    probs = np.array([[[0.5, 0.3, 0.2], [0.1, 0.7, 0.2]], [[0.2, 0.2, 0.6], [0.3, 0.1, 0.6]]])
    found = training_dynamics(np.log(probs), np.array([1, 2]))
    np.testing.assert_allclose(found["confidence"], [0.5, 0.6])
    np.testing.assert_allclose(found["variability"], [0.2, 0.0], atol=1e-12)
    np.testing.assert_allclose(found["correctness"], [0.5, 1.0])
    assert set(training_dynamics(np.log(probs[:, :1]), np.array([1, 2]))) == {"confidence", "correctness"}
    extreme = training_dynamics(np.array([[[0.0, -1e4], [-1e4, 0.0]]]), np.array([0]))
    assert [extreme[name][0] for name in ("confidence", "variability", "correctness")] == [0.5, 0.5, 0.5]


def hardest_first(world: dict, seed: int = 1) -> IntArray:
    """Rank the examples by correctness, then confidence, along the four epochs of the fake, by hand."""
    ids, labels = world["truth"].ids, world["truth"].labels
    points = np.array([world["pool"][id_] for id_ in ids.tolist()])
    means = np.stack([points[labels == c].mean(axis=0) for c in range(3)])
    rows = np.arange(len(ids))
    confidence, correct = np.zeros(len(ids)), np.zeros(len(ids))
    for share in np.linspace(0.2, 1, 4):
        centres = means.mean(axis=0) + (means - means.mean(axis=0)) * share
        odds = np.exp(-np.linalg.norm(points[:, None] - centres, axis=2))
        confidence += odds[rows, labels] / odds.sum(axis=1)
        correct += odds.argmax(axis=1) == labels
    return ids[np.lexsort((confidence, correct))]


@pytest.mark.parametrize("keep", [0.5, 0.75, 0.9])
def test_only_the_easiest_share_of_the_training_split_is_asked_for(keep: float) -> None:
    world = make_world(n_classes=3, seed=4)
    n_hard = round(120 * (1 - keep))
    hard = set(hardest_first(world)[:n_hard].tolist())
    loop = make_loop(world, filters=[{"name": "exclude_hardest", "keep": keep}], rounds=20, query_size=5,
                     stopping=["pool_exhausted"])  # fmt: skip
    rounds = learner.run(loop, make_classifier(world, loop), RecordsInMemory())
    asked = set(np.concatenate([record.query.ids for record in rounds[1:]]).tolist())
    assert not asked & hard
    n_left = 120 - n_hard - len(set(rounds[0].query.ids.tolist()) - hard)
    assert len(asked) == min(100, n_left // 5 * 5)


def test_keeping_everything_changes_nothing_but_the_count_of_candidates() -> None:
    world = make_world()
    plain, whole = (
        learner.run(loop, make_classifier(world, loop), RecordsInMemory())
        for loop in (make_loop(world), make_loop(world, filters=[{"name": "exclude_hardest", "keep": 1.0}]))
    )
    assert [record.query.ids.tolist() for record in plain] == [record.query.ids.tolist() for record in whole]
    assert [record.metrics["accuracy"] for record in plain[1:]] == [record.metrics["accuracy"] for record in whole[1:]]


def test_the_model_that_judges_is_fitted_once_a_cell_before_any_other_and_on_everything() -> None:
    world = make_world()
    loop = make_loop(world, filters=["exclude_hardest"])
    classifier = make_classifier(world, loop)
    learner.run(loop, classifier, RecordsInMemory())
    assert classifier.plain_fits == 1
    assert classifier.fitted_on == [6, 11, 16, 21, 26]


@pytest.mark.parametrize("n", [1, 7, 40, 1000])
@pytest.mark.parametrize("keep", [0.3, 0.5, 0.6, 0.75, 0.9, 1.0])
def test_the_plan_counts_what_the_filter_leaves_out(n: int, keep: float) -> None:
    filter_ = filters.build({"name": "exclude_hardest", "keep": keep})
    hardness = np.arange(1, n + 1) / n
    pool = UnscoredPool(ids=np.arange(n), hardness=hardness, labeled=LabeledSet(ids=np.arange(0), labels=np.arange(0)),
                        n_classes=2, round_index=1, query_size=1)  # fmt: skip
    kept = filter_.select(pool, stream(1, "filter"))
    assert len(kept) == n - filter_.n_excluded(n)
    np.testing.assert_array_equal(kept, np.arange(len(kept)))


def planned(spec: CellSpec, dataset: TextDataset) -> list[str]:
    """Return what the plan says against a cell on a data set."""
    return _misfits(spec, {dataset_key(spec.dataset): dataset}, {}, {})


def test_a_study_that_asks_for_more_than_the_easy_part_is_refused() -> None:
    dataset = datasets.build({"name": "tickets", "n_train": 200, "n_test": 20}).load()
    values = {"dataset": {"name": "tickets", "n_train": 200, "n_test": 20}, "seed": 1, "strategy": "margin",
              "initial_size": 20, "query_size": 10, "rounds": 18}  # fmt: skip
    assert planned(make_spec(values, "here"), dataset) == []
    halved = {**values, "filters": [{"name": "exclude_hardest", "keep": 0.5}]}
    (refused,) = planned(make_spec(halved, "here"), dataset)
    assert "18 rounds of 10 ask for more than 'tickets' has" in refused
    assert "lower rounds to 8 at most" in refused.lower()
    assert planned(make_spec({**halved, "rounds": 8}, "here"), dataset) == []


def test_a_study_of_an_open_set_counts_on_no_text_of_no_class_among_the_easy_ones() -> None:
    option = {"name": "tickets", "n_train": 200, "n_test": 20, "no_class_fraction": 0.4}
    dataset = datasets.build(option).load()
    values = {"dataset": option, "seed": 1, "strategy": "margin", "initial": "random", "initial_size": 20,
              "query_size": 10, "filters": [{"name": "exclude_hardest", "keep": 0.75}]}  # fmt: skip
    assert dataset.n_no_class == 80, "more than the quarter that is left out without them"
    assert planned(make_spec({**values, "rounds": 10}, "here"), dataset) == []
    (refused,) = planned(make_spec({**values, "rounds": 11}, "here"), dataset)
    assert "lower rounds to 10 at most" in refused.lower()
    everything = [{"name": "exclude_hardest", "keep": 1.0}]
    assert planned(make_spec({**values, "rounds": 18, "filters": everything}, "here"), dataset) == []


def test_a_search_for_the_best_curve_needs_a_test_split() -> None:
    dataset = datasets.build({"name": "tickets", "n_train": 200, "n_test": 20}).load()
    values = {
        "dataset": {"name": "tickets", "n_train": 200, "n_test": 20},
        "seed": 1,
        "strategy": "optimal",
        "rounds": 2,
    }
    spec = make_spec({**values, "finetune": {"frozen_layers": "all"}}, "here")
    assert planned(spec, dataset) == []
    nothing = TextSplit(ids=np.arange(0), texts=[], labels=np.arange(0))
    (refused,) = planned(spec, replace(dataset, test=nothing))
    assert "searches for the best learning curve on a test split, and 'tickets' has none" in refused
