"""Strategies that choose among strategies: what they count, draw and hand on, against numbers worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from al_ray.core.ranking import rank
from al_ray.core.seeding import stream
from al_ray.core.types import (
    Annotation,
    History,
    LabeledSet,
    Query,
    Ranking,
    RoundRecord,
    RowView,
    history_after,
)
from al_ray.errors import ConfigError
from al_ray.registry import option_of
from al_ray.strategy import strategies
from al_ray.strategy.arms import ArmCounts, arm_names, picked
from al_ray.strategy.switch import coverage
from al_ray.study.names import plugin_label
from tests.plugins.test_contracts import pool_view

CHOOSING = ("epsilon_greedy", "mixture", "switch", "tailor", "ucb")
NO_HISTORY = History(**dict.fromkeys(("ids", "labels", "arms", "round_index"), np.empty(0, np.int64)))


def history(*rows: tuple[int, int, int]) -> History:
    """Make a history of rows (round, arm, label)."""
    rounds, arms, labels = (np.array(column) for column in zip(*rows, strict=True))
    return History(ids=np.arange(len(rows)), labels=labels, arms=arms, round_index=rounds)


def labeled(*counts: int) -> LabeledSet:
    labels = np.repeat(np.arange(len(counts)), counts)
    return LabeledSet(ids=np.arange(30_000, 30_000 + len(labels)), labels=labels)


def chosen(strategy, pool, n, seed=1):
    ranking = rank(pool.ids, strategy.score(pool, stream(seed, "score")), seed)
    return strategy.choose(pool, ranking, n, stream(seed, "pick"))


# ---- counts and rewards -------------------------------------------------------------------------------------------


def test_counts_decay_once_a_round_and_skip_examples_without_a_class() -> None:
    asked = history((1, 0, 2), (1, 1, 0), (2, 0, 2), (2, 0, -1), (5, 1, 1))
    counts = ArmCounts.of(asked, n_arms=2, n_classes=3, keep=0.5, first=1.0)
    # Arm 0, class 2: ((1 * .5 + 1) * .5 + 1) * .5 = 0.875; what was never found decays to 1 / 8.
    np.testing.assert_allclose(counts.found, [[0.125, 0.125, 0.875], [0.375, 1.125, 0.125]])
    assert counts.n_asked.tolist() == [3, 2]


def test_a_rare_class_is_worth_more_and_one_that_holds_more_than_half_less_than_nothing() -> None:
    counts = ArmCounts.of(NO_HISTORY, 2, 4).with_labeled(np.repeat([0, 1, 2], [6, 4, 1]))
    np.testing.assert_allclose(counts.class_worth(), [-1 / 6, 1 / 4, 1, 1])
    half = ArmCounts.of(NO_HISTORY, 2, 2).with_labeled(np.array([0, 0, 1, 1]))
    np.testing.assert_allclose(half.class_worth(), [0.5, 0.5])


def test_the_mean_reward_counts_all_that_was_asked_for() -> None:
    asked = history((1, 0, 1), (1, 0, -1), (1, 1, 0), (1, 1, 2))
    counts = ArmCounts.of(asked, 3, 3).with_labeled(np.repeat([0, 1, 2], [6, 2, 1]))
    # worth: negative, 1/2, 1; arm 0 found one of class 1 in two, arm 1 one of class 2 in two, arm 2 nothing.
    np.testing.assert_allclose(counts.mean_reward(), [0.25, 0.5, 0.0])


def test_the_history_follows_from_the_records_with_labels_as_last_revised() -> None:
    def record(index, ids, labels, arms, revised=None):
        n, array = len(ids), np.array
        return RoundRecord(
            round_index=index,
            n_labeled=0,
            query=Query(ids=array(ids), scores=np.zeros(n), arms=None if arms is None else array(arms)),
            annotation=Annotation(ids=array(ids), labels=array(labels), abstained=array(labels) < 0),
            **({} if revised is None else {"revised": revised}),
        )

    rounds = [
        record(0, [9, 8], [0, 1], None),
        record(1, [3, 5], [1, -1], [0, 2]),
        record(2, [4], [1], [1], LabeledSet(ids=np.array([3]), labels=np.array([0]))),
    ]
    found = history_after(rounds)
    assert found.ids.tolist() == [3, 5, 4]
    assert found.labels.tolist() == [0, -1, 1]
    assert found.arms.tolist() == [0, 2, 1]
    assert found.round_index.tolist() == [1, 1, 2]
    assert [RoundRecord.from_json(each.to_json()).to_json() for each in rounds] == [each.to_json() for each in rounds]
    assert "arms" not in rounds[0].to_json()["query"], "records of other strategies stay as they were"


# ---- how places are dealt -----------------------------------------------------------------------------------------


def test_tailor_draws_each_strategy_as_often_as_thompson_sampling_does() -> None:
    tailor = strategies.build("tailor", arms=["margin", "entropy"])
    asked = history(*[(1, 0, 0)] * 5, *[(1, 1, 1)] * 2)
    counts = tailor.count(asked, 2).with_labeled(np.repeat([0, 1], [4, 4]))
    np.testing.assert_allclose(counts.found, [[5.9, 0.9], [0.9, 2.9]])
    counts = counts.with_labeled(np.repeat([0, 1], [9, 1]))  # worth -1/9 and 1
    # theta . v grows with the share of class 1, Beta(1.9, 6.9) for arm 0 and Beta(3.9, 1.9) for arm 1.
    grid = (np.arange(200_000) + 0.5) / 200_000
    second = stats.beta(3.9, 1.9).ppf(grid)
    expected = float(stats.beta(1.9, 6.9).sf(second).mean())
    arms = tailor.draw_arms(counts, 20_000, stream(3, "draws"))
    assert abs((arms == 0).mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / 20_000)


def test_epsilon_greedy_explores_with_its_share_and_else_takes_the_best() -> None:
    strategy = strategies.build("epsilon_greedy", arms=["margin", "entropy", "random"], epsilon=0.3)
    asked = history((1, 0, 0), (1, 1, 1), (1, 2, 0))
    counts = strategy.count(asked, 2).with_labeled(np.repeat([0, 1], [9, 1]))
    shares = np.bincount(strategy.draw_arms(counts, 30_000, stream(0, "draws")), minlength=3) / 30_000
    np.testing.assert_allclose(shares, [0.1, 0.8, 0.1], atol=0.01)
    at_first = strategy.count(NO_HISTORY, 2).with_labeled(np.array([0, 1]))
    shares = np.bincount(strategy.draw_arms(at_first, 30_000, stream(0, "draws")), minlength=3) / 30_000
    np.testing.assert_allclose(shares, [1 / 3] * 3, atol=0.015)


def test_ucb_tries_each_strategy_once_and_then_follows_its_bounds() -> None:
    ucb = strategies.build("ucb", arms=["margin", "entropy", "random"])
    first = ucb.draw_arms(ucb.count(NO_HISTORY, 2).with_labeled(np.array([0, 1])), 3, stream(0, "draws"))
    assert sorted(first.tolist()) == [0, 1, 2]
    asked = history(*[(1, 0, 1)] * 4, *[(1, 1, 0)] * 4, *[(1, 2, 0)] * 2)
    counts = ucb.count(asked, 2).with_labeled(np.repeat([0, 1], [9, 1]))
    rewards, n_asked, expected = np.array([1.0, 0.0, 0.0]), np.array([4.0, 4.0, 2.0]), []
    for _ in range(12):
        expected.append(int(np.argmax(rewards + np.sqrt(2 * np.log(n_asked.sum()) / n_asked))))
        n_asked[expected[-1]] += 1
    assert ucb.draw_arms(counts, 12, stream(0, "draws")).tolist() == expected
    assert set(expected) == {0, 2}, "both the best one and the one that is known least"
    greedy = strategies.build("ucb", arms=["margin", "entropy", "random"], width=0.0)
    assert greedy.draw_arms(counts, 5, stream(0, "draws")).tolist() == [0] * 5


@pytest.mark.parametrize(
    ("n", "shares", "sizes"),
    [(8, None, [4, 4]), (10, [0.3, 0.7], [3, 7]), (25, [0.2, 0.8], [5, 20]), (4, [0.0, 1.0], [0, 4])],
)
def test_a_mixture_keeps_its_shares(n: int, shares: list[float] | None, sizes: list[int]) -> None:
    mixture = strategies.build("mixture", arms=["margin", "random"], **({"shares": shares} if shares else {}))
    ids, arms = chosen(mixture, pool_view(), n)
    assert np.bincount(arms, minlength=2).tolist() == sizes
    assert len(set(ids.tolist())) == n


def test_a_mixture_of_one_example_keeps_its_shares_on_average() -> None:
    mixture, pool = strategies.build("mixture", arms=["margin", "random"], shares=[0.25, 0.75]), pool_view()
    arms = [int(chosen(mixture, pool, 1, seed)[1][0]) for seed in range(400)]
    assert abs(np.mean(arms) - 0.75) < 4 * np.sqrt(0.25 * 0.75 / 400)
    sizes = [np.bincount(chosen(mixture, pool, 5, seed)[1], minlength=2)[0] for seed in range(100)]
    assert set(sizes) == {1, 2}


def test_a_later_strategy_of_a_mixture_chooses_from_what_the_first_left() -> None:
    mixture, pool = strategies.build("mixture", arms=["margin", "least_confidence"]), pool_view(n_classes=2)
    ids, arms = chosen(mixture, pool, 10)
    top = rank(pool.ids, strategies.build("margin").score(pool, stream(0)), 1).ids[:10]
    assert set(ids.tolist()) == set(top.tolist()), (
        "with two classes both order alike, so that one goes on for the other"
    )
    assert arms.tolist() == [0] * 5 + [1] * 5


@pytest.mark.parametrize("name", ["tailor", "epsilon_greedy", "ucb"])
def test_a_place_gets_the_next_example_in_its_strategys_own_order(name: str) -> None:
    strategy, pool = strategies.build(name), pool_view()
    ids, arms = chosen(strategy, pool, 20, seed=5)
    of_places, *of_arms = stream(5, "pick").spawn(1 + len(strategy.arms))
    counts = strategy.count(pool.history, 4).with_labeled(pool.labeled.labels)
    np.testing.assert_array_equal(arms, strategy.draw_arms(counts, 20, of_places))
    orders = [picked(arm, pool, 20, each).tolist() for arm, each in zip(strategy.arms, of_arms, strict=True)]
    taken: list[int] = []
    for arm in arms.tolist():
        taken.append(next(id_ for id_ in orders[arm] if id_ not in taken))
    assert ids.tolist() == taken


@pytest.mark.parametrize("name", CHOOSING)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_chosen_does_not_hang_on_the_order_of_the_labelled_or_on_extreme_scores(name: str, dtype) -> None:
    strategy, pool = strategies.build(name), pool_view()
    extreme = np.full((50, 1, 4), -1e4, dtype=dtype)
    extreme[np.arange(50), 0, np.arange(50) % 4] = 0.0
    certain = replace(pool, log_probs=extreme, features=pool.features.astype(dtype))
    ids, arms = chosen(strategy, certain, 50)
    assert sorted(ids.tolist()) == pool.ids.tolist()
    assert len(arms) == 50
    one_class = replace(pool, labeled=LabeledSet(ids=pool.labeled.ids, labels=np.zeros(10, np.int64)))
    assert len(chosen(strategy, one_class, 8)[0]) == 8


@pytest.mark.parametrize(("share", "arm"), [(0.99, 0), (1.01, 1)])
def test_ucb_changes_its_mind_where_two_bounds_cross(share: float, arm: int) -> None:
    # Means 1 and 0 after 5 and 1 of 6 examples: 1 + width * sqrt(2 ln 6 / 5) against width * sqrt(2 ln 6).
    counts = ArmCounts(found=np.array([[5.0, 0.0], [0.0, 0.0]]), n_asked=np.array([5, 1]), n_labeled=np.array([1, 1]))
    crossing = 1 / (np.sqrt(2 * np.log(6)) - np.sqrt(2 * np.log(6) / 5))
    strategy = strategies.build("ucb", arms=["random", "margin"], width=share * crossing)
    assert strategy.draw_arms(counts, 1, stream(0)).tolist() == [arm]


# ---- switch -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("after", "turn"), [(10, 1), (11, 0)])
def test_a_switch_asks_as_the_strategy_whose_turn_it_is(after: int, turn: int) -> None:
    switch, pool = strategies.build("switch", low="random", high="margin", after=after), pool_view()
    ids, arms = chosen(switch, pool, 7)
    alone = ("random", "margin")[turn]
    assert ids.tolist() == chosen(strategies.build(alone), pool, 7)[0].tolist()
    assert arms.tolist() == [turn] * 7
    assert switch.ranks
    assert not strategies.build("switch").ranks, "typiclust orders no single examples"


def test_a_switch_by_coverage_waits_until_the_labelled_lie_near_the_pool() -> None:
    rng = np.random.default_rng(0)
    centres = np.vstack([np.eye(3), -np.ones(3) / np.sqrt(3)])
    points = np.repeat(centres, 30, axis=0) + rng.normal(size=(120, 3)) * 0.02
    points = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)

    def view(rows: list[int]):
        rest = np.setdiff1d(np.arange(120), rows)
        return replace(
            pool_view(n=len(rest)),
            embeddings=RowView.of(points[rest]),
            labeled=LabeledSet(ids=20_000 + np.arange(len(rows)), labels=np.arange(len(rows)) % 4),
            labeled_embeddings=points[rows],
            labeled_log_probs=None, labeled_features=None, labeled_uncertainty=None, labeled_dynamics=None,
        )  # fmt: skip

    assert abs(coverage(view([0])) - 29 / 119) < 1e-9, "one group of four"
    assert abs(coverage(view([0, 30])) - 58 / 118) < 1e-9
    assert coverage(view([0, 30, 60, 90])) == 1.0
    switch = strategies.build("switch", low="random", high="margin", when="coverage", covered=0.7)
    turns = [chosen(switch, view(rows), 5)[1][0] for rows in ([0], [0, 30], [0, 30, 60], [0, 30, 60, 90])]
    assert turns == [0, 0, 1, 1]
    assert switch.needs_embeddings
    assert not strategies.build("switch", low="random", high="margin").needs_embeddings


def test_a_switch_by_coverage_asks_by_one_strategy_also_where_filters_change_what_is_covered() -> None:
    pool = pool_view()
    least = rank(pool.ids, strategies.build("least_confidence").score(pool, stream(0)), 1)
    every, shares = pool.embeddings.read(), np.linspace(0.01, 1.0, 100)
    near = np.argsort((every @ pool.labeled_embeddings.T).max(axis=1))  # the last ones are covered first
    kept = np.sort(pool.ids[near[-20:]])
    left = Ranking(ids=least.ids[np.isin(least.ids, kept)], scores=least.scores[np.isin(least.ids, kept)])
    covered = shares[(shares > coverage(pool)) & (shares <= coverage(pool.take(kept)))][0]
    switch = strategies.build("switch", low="least_confidence", high="entropy", when="coverage", covered=covered)
    np.testing.assert_array_equal(switch.score(pool, stream(0)), strategies.build("least_confidence").score(pool, None))
    ids, arms = switch.choose(pool.take(kept), left, 6, stream(1, "pick"))
    assert arms.tolist() == [1] * 6
    assert ids.tolist() == chosen(strategies.build("entropy"), pool.take(kept), 6)[0].tolist()
    assert ids.tolist() != left.ids[:6].tolist()


# ---- as options of a study ----------------------------------------------------------------------------------------


def test_what_one_of_its_strategies_needs_it_needs() -> None:
    both = strategies.build("mixture", arms=["bald", "label_dispersion"])
    assert (both.min_draws, both.n_watched, both.needs_scores) == (2, 2000, True)
    assert not both.needs_features
    assert strategies.build("mixture", arms=["badge", "typiclust"]).needs_features
    assert strategies.build("tailor", arms=["random", "typiclust"]).needs_history
    assert not strategies.build("mixture", arms=["random", "typiclust"]).needs_scores


def test_strategies_within_strategies_are_written_and_named_plainly() -> None:
    tailor = strategies.build("tailor", arms=["margin", {"name": "prob_cover", "delta": 0.5}])
    assert option_of(tailor)["arms"][1]["delta"] == 0.5
    assert plugin_label(tailor) == "tailor_(margin, prob_cover_0.5)"
    twice = strategies.build("mixture", arms=["margin", *({"name": "prob_cover", "delta": d} for d in (0.5, 0.6))])
    assert arm_names(twice) == ["margin", "prob_cover_1", "prob_cover_2"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"name": "tailor", "arms": ["margin"]}, "chooses among margin. Name two strategies or more, each once."),
        ({"name": "tailor", "arms": ["margin", "margin"]}, "chooses among margin_1, margin_2. Name two"),
        ({"name": "tailor", "arms": ["margin", "ucb"]}, "'ucb' cannot be one of those .* such as 'margin'"),
        ({"name": "mixture", "arms": ["margin", "passive"]}, "'passive' cannot be one of those"),
        ({"name": "mixture", "arms": ["margin", "optimal"]}, "'optimal' cannot be one of those"),
        ({"name": "tailor", "arms": ["margin", "badg"]}, "option 'arms' .* strategy 'badg'. Did you mean 'badge'"),
        ({"name": "mixture", "shares": [0.5, 0.6]}, r"add up to 1.1, for 2 strategies. Give each strategy one share"),
        ({"name": "mixture", "shares": [1.0]}, r"add up to 1, for 2 strategies"),
        ({"name": "switch", "low": {"name": "prob_cover", "delta": 5}}, "delta is 5, it must be above 0 and at most 2"),
    ],
)  # fmt: skip
def test_a_choice_that_makes_no_sense_is_refused(option, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        strategies.build(option)
