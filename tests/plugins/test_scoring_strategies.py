"""Strategies that score by disagreement, dynamics or contrast, against hand-made values, scipy and scikit-learn."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import special, stats
from sklearn.neighbors import NearestNeighbors

from al_ray.core.joint_information import Candidates, choose_jointly, extended, information_gains, nothing_chosen
from al_ray.core.ranking import rank
from al_ray.core.seeding import stream
from al_ray.core.types import LabeledSet, PoolView, Ranking
from al_ray.core.uncertainty import log_softmax
from al_ray.errors import ConfigError
from al_ray.registry import option_of
from al_ray.strategy import QueryStrategy, strategies

DISAGREEMENT = ["vote_entropy", "consensus_kl", "bald"]
TRIO = ["stochastic_softmax", "stochastic_power", "stochastic_softrank"]
LABELED = LabeledSet(ids=np.arange(90_000, 90_012), labels=np.arange(12) % 2)

draws_of_logits = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 6), st.integers(2, 7), st.integers(2, 20)),
    elements=st.floats(-30, 30, width=32),
)


def view(log_probs: np.ndarray, **arrays) -> PoolView:
    ids = np.arange(len(log_probs), dtype=np.int64) * 7 + 3
    return PoolView(**({"ids": ids, "log_probs": log_probs, "labeled": LABELED} | arrays))


def score(name: str, log_probs: np.ndarray, **arrays) -> np.ndarray:
    return strategies.build(name).score(view(log_probs, **arrays), stream(1, "score"))


def watched(dynamics: np.ndarray) -> PoolView:
    return view(np.empty((len(dynamics), 0, dynamics.shape[2])), dynamics=dynamics)


def logs(probs) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(probs, dtype=np.float64))


# Disagreement of draws


def test_vote_entropy_by_hand() -> None:
    votes = [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 1], [0, 1, 2, 2]]
    log_probs = logs(np.array([[np.eye(3)[v] * 0.7 + 0.1 for v in row] for row in votes]))
    by_hand = [0, stats.entropy([3, 1]), np.log(2), stats.entropy([1, 1, 2])]
    np.testing.assert_allclose(score("vote_entropy", log_probs), by_hand, atol=1e-15)


@pytest.mark.parametrize("split", [(4, 2, 1), (5, 3, 2), (1, 2, 3, 4, 5), (7, 3, 1, 1)])
def test_equal_splits_of_the_votes_tie_exactly_on_whatever_classes_they_fall(split: tuple[int, ...]) -> None:
    rows = [np.repeat(classes, split) for classes in itertools.permutations(range(6), len(split))]
    values = score("vote_entropy", log_softmax(np.eye(6)[np.array(rows)] * 3))
    assert len(set(values.tolist())) == 1
    assert values[0] == pytest.approx(stats.entropy(split))


@given(draws_of_logits)
def test_bald_is_the_entropy_of_the_mean_less_the_mean_of_the_entropies(logits: np.ndarray) -> None:
    probs = special.softmax(logits, axis=2)
    expected = stats.entropy(probs.mean(axis=1), axis=1) - stats.entropy(probs, axis=2).mean(axis=1)
    np.testing.assert_allclose(score("bald", log_softmax(logits)), expected, atol=1e-12)


@given(draws_of_logits)
def test_consensus_kl_is_the_mean_relative_entropy_of_the_members_and_equals_bald(logits: np.ndarray) -> None:
    probs = special.softmax(logits, axis=2)
    expected = special.rel_entr(probs, probs.mean(axis=1, keepdims=True)).sum(axis=2).mean(axis=1)
    values = score("consensus_kl", log_softmax(logits))
    np.testing.assert_allclose(values, expected, atol=1e-12)
    np.testing.assert_allclose(values, score("bald", log_softmax(logits)), atol=1e-12)


@pytest.mark.parametrize("name", DISAGREEMENT)
@given(logits=draws_of_logits, shuffle=st.randoms(use_true_random=False))
def test_disagreement_is_bounded_and_knows_no_order_of_the_draws(name: str, logits: np.ndarray, shuffle) -> None:
    _, n_draws, n_classes = logits.shape
    values = score(name, log_softmax(logits))
    assert values.dtype == np.float64
    assert np.all(values >= 0)
    assert np.all(values <= np.log(min(n_draws, n_classes)) + 1e-12)
    order = list(range(n_draws))
    shuffle.shuffle(order)
    np.testing.assert_allclose(score(name, log_softmax(logits[:, order])), values, atol=1e-12)


@pytest.mark.parametrize("name", DISAGREEMENT)
@given(logits=draws_of_logits)
def test_draws_that_are_all_alike_do_not_disagree_at_all(name: str, logits: np.ndarray) -> None:
    alike = np.repeat(log_softmax(logits[:, :1]), logits.shape[1], axis=1)
    np.testing.assert_array_equal(score(name, alike), 0.0)


@pytest.mark.parametrize("name", DISAGREEMENT)
def test_a_large_pool_is_scored_as_its_parts_are(name: str) -> None:
    log_probs = log_softmax(np.random.default_rng(0).normal(size=(9000, 3, 4)))
    parts = [score(name, part) for part in np.array_split(log_probs, 7)]
    np.testing.assert_array_equal(score(name, log_probs), np.concatenate(parts))


@pytest.mark.parametrize("name", DISAGREEMENT)
@pytest.mark.parametrize("make", [lambda p: logs(p), lambda p: log_softmax((p * 2 - 1) * 1e4)], ids=["-inf", "1e4"])
def test_certain_draws_disagree_by_their_votes(name: str, make) -> None:
    one_hot = np.eye(3)[np.array([[0, 1, 2], [0, 0, 1], [2, 2, 2]])]
    np.testing.assert_allclose(score(name, make(one_hot)), [np.log(3), stats.entropy([2, 1]), 0.0], atol=1e-12)


# BatchBALD


def joint_information(log_probs: np.ndarray) -> float:
    """I(y_1..y_n; draw) by listing every configuration of labels."""
    probs = np.exp(log_probs)
    n, n_draws, n_classes = probs.shape
    given_draw = np.array(
        [
            [np.prod([probs[i, w, c] for i, c in enumerate(labels)]) for w in range(n_draws)]
            for labels in itertools.product(range(n_classes), repeat=n)
        ]
    )
    return float(stats.entropy(given_draw.mean(axis=1)) - stats.entropy(given_draw, axis=0).mean())


def pick_jointly(log_probs: np.ndarray, n: int, **options) -> list[int]:
    """Return the rows that batch_bald picks."""
    strategy = strategies.build({"name": "batch_bald", **options})
    pool = view(log_probs)
    ranking = rank(pool.ids, strategy.score(pool, stream(1, "score")), 1)
    return np.searchsorted(pool.ids, strategy.pick(pool, ranking, n, stream(1, "pick"))).tolist()


@pytest.mark.parametrize(("n_draws", "n_classes", "seed"), [(4, 3, 0), (3, 2, 1), (6, 2, 2), (5, 4, 3), (2, 3, 4)])
def test_batch_bald_is_greedy_in_the_joint_mutual_information(n_draws: int, n_classes: int, seed: int) -> None:
    log_probs = log_softmax(np.random.default_rng(seed).normal(size=(9, n_draws, n_classes)) * 2)
    greedy: list[int] = []
    for _ in range(4):
        gains = {row: joint_information(log_probs[[*greedy, row]]) for row in set(range(9)) - set(greedy)}
        greedy.append(max(gains, key=lambda row: gains[row]))
    assert pick_jointly(log_probs, 4) == greedy


def test_exact_gains_add_up_to_the_joint_mutual_information() -> None:
    log_probs = log_softmax(np.random.default_rng(3).normal(size=(5, 4, 3)) * 2)
    candidates, configurations, total = Candidates.of(log_probs), nothing_chosen(4), 0.0
    for n_chosen in range(5):
        total += information_gains(candidates, configurations)[n_chosen]
        assert total == pytest.approx(joint_information(log_probs[: n_chosen + 1]), abs=1e-12)
        configurations = extended(configurations, log_probs[: n_chosen + 1], 10**6, stream(1, "pick"))
        assert len(configurations.weights) == 3 ** (n_chosen + 1)
        assert configurations.weights.sum() == pytest.approx(1.0)


@pytest.mark.parametrize(("n_draws", "spread"), [(5, 1.0), (7, 0.5)])
def test_sampled_gains_estimate_the_exact_ones(n_draws: int, spread: float) -> None:
    log_probs = log_softmax(np.random.default_rng(5).normal(size=(40, n_draws, 3)) * spread)
    exact = sampled = nothing_chosen(n_draws)
    for n_chosen in range(1, 8):
        exact = extended(exact, log_probs[:n_chosen], 10**6, stream(1, "exact"))
        sampled = extended(sampled, log_probs[:n_chosen], 2000, stream(1, "sampled", n_chosen))
    assert exact.draws is None
    assert len(exact.weights) == 3**7
    assert sampled.draws is not None
    assert len(sampled.weights) == 2000
    one, two = (information_gains(Candidates.of(log_probs), each) for each in (exact, sampled))
    np.testing.assert_allclose(two, one, atol=0.01)
    assert np.corrcoef(one, two)[0, 1] > 0.99


def test_a_duplicate_is_not_asked_while_an_independent_example_is_there() -> None:
    sure, unsure = [0.99, 0.01], [0.01, 0.99]
    strong = np.array([sure, sure, unsure, unsure])
    other = np.array([[0.9, 0.1], [0.1, 0.9], [0.9, 0.1], [0.1, 0.9]])
    log_probs = logs([strong, strong, strong, other, strong])
    assert np.argsort(-score("bald", log_probs), kind="stable")[-1] == 3
    chosen = pick_jointly(log_probs, 2)
    assert chosen[0] != 3
    assert chosen[1] == 3
    assert pick_jointly(log_probs, 2, n_samples=1)[0] != 3


def test_once_the_draws_have_told_everything_the_ranking_decides() -> None:
    told_apart = logs(np.eye(2)[[[0, 0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 0, 0, 1], [0, 1, 0, 1, 0, 1, 0]]])
    rest = log_softmax(np.random.default_rng(2).normal(size=(30, 7, 2)))
    log_probs = np.concatenate([rest, told_apart])
    pool = view(log_probs)
    ranking = rank(pool.ids, score("batch_bald", log_probs), 5)
    picked = strategies.build("batch_bald").pick(pool, ranking, 20, stream(1, "pick"))
    assert set(picked[:3].tolist()) == set(pool.ids[30:].tolist())
    np.testing.assert_array_equal(picked[3:], ranking.ids[3:20])


@pytest.mark.parametrize("n_classes", [2, 20])
def test_a_long_batch_of_extreme_predictions_is_distinct_and_repeats(n_classes: int) -> None:
    logits = np.random.default_rng(1).normal(size=(150, 5, n_classes)) * 1e4
    one = pick_jointly(log_softmax(logits), 100, n_samples=50)
    assert len(set(one)) == 100
    assert one == pick_jointly(log_softmax(logits), 100, n_samples=50)
    # Three labels, each the prediction of one certain draw, can tell five draws apart: all that there is to know.
    assert joint_information(log_softmax(logits)[one[:3]]) == pytest.approx(np.log(5))


def test_batch_bald_considers_the_highest_ranked_and_never_fewer_than_the_query() -> None:
    log_probs = log_softmax(np.random.default_rng(7).normal(size=(30, 4, 3)))
    top = np.argsort(-score("bald", log_probs))
    assert set(pick_jointly(log_probs, 3, max_candidates=4)) <= set(top[:4].tolist())
    assert set(pick_jointly(log_probs, 6, max_candidates=1)) == set(top[:6].tolist())


def test_batch_bald_leaves_alone_what_filters_removed() -> None:
    log_probs = log_softmax(np.random.default_rng(8).normal(size=(30, 4, 3)))
    strategy, pool = strategies.build("batch_bald"), view(log_probs)
    ranking = rank(pool.ids, strategy.score(pool, stream(1, "score")), 1)
    left = Ranking(ids=ranking.ids[10:], scores=ranking.scores[10:])
    picked = strategy.pick(pool.take(left.ids), left, 5, stream(1, "pick"))
    assert set(picked.tolist()) <= set(left.ids.tolist())
    alone = choose_jointly(log_probs[np.searchsorted(pool.ids, left.ids)], 5, 2000, stream(1, "pick"))
    np.testing.assert_array_equal(picked, left.ids[alone])


# The stochastic batch trio

SCORES = np.array([1.7, 1.1, 0.6, 0.25, 0.1])
WEIGHTS = {
    "stochastic_softmax": lambda beta: np.exp(beta * SCORES),
    "stochastic_power": lambda beta: SCORES**beta,
    "stochastic_softrank": lambda beta: np.arange(1.0, 6.0) ** -beta,
}


def falling(scores: np.ndarray) -> Ranking:
    return Ranking(ids=np.arange(len(scores), dtype=np.int64) * 11 + 5, scores=np.asarray(scores, dtype=np.float64))


def unread_pool(ranking: Ranking) -> PoolView:
    return PoolView(ids=np.sort(ranking.ids), log_probs=np.zeros((len(ranking), 1, 1)), labeled=LABELED)


def sample(strategy, ranking: Ranking, n: int, draws: np.random.Generator) -> np.ndarray:
    picked = strategy.pick(unread_pool(ranking), ranking, n, draws)
    return np.argmax(ranking.ids == picked[:, None], axis=1)


@pytest.mark.parametrize("name", TRIO)
@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
def test_the_first_of_a_stochastic_batch_follows_the_weights(name: str, beta: float) -> None:
    strategy, draws = strategies.build({"name": name, "coldness": beta}), stream(3, "first")
    first = [sample(strategy, falling(SCORES), 1, draws)[0] for _ in range(6000)]
    weights = WEIGHTS[name](beta)
    expected = weights / weights.sum() * len(first)
    assert stats.chisquare(np.bincount(first, minlength=5), expected).pvalue > 0.005


@pytest.mark.parametrize("name", TRIO)
def test_the_rest_of_a_stochastic_batch_is_drawn_without_replacement(name: str) -> None:
    strategy, draws = strategies.build(name), stream(4, "pairs")
    weights = WEIGHTS[name](1.0)
    pairs = list(itertools.permutations(range(5), 2))
    expected = [weights[i] / weights.sum() * weights[j] / (weights.sum() - weights[i]) for i, j in pairs]
    seen = [tuple(sample(strategy, falling(SCORES), 2, draws).tolist()) for _ in range(8000)]
    counts = [seen.count(pair) for pair in pairs]
    assert sum(counts) == 8000
    assert stats.chisquare(counts, np.array(expected) / sum(expected) * 8000).pvalue > 0.005


@pytest.mark.parametrize("name", TRIO)
@pytest.mark.parametrize("beta", [1e6, 1e300])
def test_a_very_cold_stochastic_batch_is_the_plain_top(name: str, beta: float) -> None:
    ranking = falling(np.linspace(5, 0.1, 200))
    strategy = strategies.build({"name": name, "coldness": beta})
    np.testing.assert_array_equal(sample(strategy, ranking, 20, stream(1, "pick")), np.arange(20))


def test_a_very_warm_stochastic_batch_is_uniform() -> None:
    ranking, draws = falling(np.linspace(5, 0.1, 10)), stream(2, "warm")
    for name in TRIO:
        strategy = strategies.build({"name": name, "coldness": 1e-9})
        counts = np.bincount([sample(strategy, ranking, 1, draws)[0] for _ in range(3000)], minlength=10)
        assert stats.chisquare(counts).pvalue > 0.005


def test_power_asks_what_has_no_weight_last_and_in_the_order_of_the_ranking() -> None:
    ranking = falling([0.3, 0.2, 1e-12, 0.0, 0.0, -1.0, -4.0])
    strategy = strategies.build("stochastic_power")
    for seed in range(30):
        picked = sample(strategy, ranking, 7, stream(seed, "pick")).tolist()
        assert sorted(picked[:3]) == [0, 1, 2]
        assert picked[3:] == [3, 4, 5, 6]


@pytest.mark.parametrize("name", ["stochastic_softmax", "stochastic_power"])
def test_the_noise_hangs_on_the_example_and_not_on_its_place(name: str) -> None:
    ranking, strategy = falling(np.linspace(3, 1, 60)), strategies.build(name)
    full = strategy.pick(unread_pool(ranking), ranking, 60, stream(9, "pick"))
    kept = np.arange(60) % 3 != 0
    part = Ranking(ids=ranking.ids[kept], scores=ranking.scores[kept])
    again = strategy.pick(unread_pool(part), part, len(part), stream(9, "pick"))
    np.testing.assert_array_equal(again, full[np.isin(full, part.ids)])
    assert not np.array_equal(full, strategy.pick(unread_pool(ranking), ranking, 60, stream(10, "pick")))


@pytest.mark.parametrize("name", TRIO)
def test_a_stochastic_batch_ranks_by_the_plain_score_and_needs_what_that_needs(name: str) -> None:
    log_probs = log_softmax(np.random.default_rng(0).normal(size=(20, 3, 4)))
    assert strategies.build(name).min_draws == 2
    np.testing.assert_array_equal(score(name, log_probs), score("bald", log_probs))
    needs = ["min_draws", "n_watched", *(each for each in dir(QueryStrategy) if each.startswith("needs_"))]
    for over in ["cal", "eada", "entropy", "label_dispersion", "open_set_margin", "own_uncertainty", "random", "tidal"]:
        stochastic, base = strategies.build({"name": name, "over": over}), strategies.build(over)
        assert [getattr(stochastic, need) for need in needs] == [getattr(base, need) for need in needs]
        assert option_of(stochastic) == {"name": name, "over": over, "coldness": 1.0}
    assert strategies.build({"name": name, "over": "label_dispersion"}).n_watched == 2000


@pytest.mark.parametrize("name", TRIO)
def test_what_a_stochastic_batch_cannot_perturb_is_refused(name: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"'{name}': unknown query strategy 'entropi'. Did you mean 'entropy'\? Known"
    ):
        strategies.build({"name": name, "over": "entropi"})
    for over in ["batch_bald", "passive", *TRIO]:
        with pytest.raises(ConfigError, match=rf"over is '{over}', which picks in its own way. It must be a strategy"):
            strategies.build({"name": name, "over": over})
    for coldness in [0.0, -1.0, float("inf"), float("nan")]:
        with pytest.raises(ConfigError, match=rf"coldness is {coldness}, it must be above 0 and finite. 1.0 is"):
            strategies.build({"name": name, "coldness": coldness})


# The confidence method's own measure


def test_own_uncertainty_hands_the_measure_on() -> None:
    measure = np.array([-3.5, 0.0, 12.0], dtype=np.float32)
    values = score("own_uncertainty", np.zeros((3, 1, 1)), uncertainty=measure)
    assert values.dtype == np.float64
    np.testing.assert_array_equal(values, measure)
    assert strategies.build("own_uncertainty").needs_uncertainty


# Training dynamics

DYNAMICS = np.array(
    [
        [[0.9, 0.05, 0.05]] * 5,
        [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1]],
        [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]],
    ]
)


def test_label_dispersion_by_hand() -> None:
    pool = watched(logs(DYNAMICS))
    np.testing.assert_allclose(strategies.build("label_dispersion").score(pool, stream(1)), [0.0, 3 / 5, 2 / 5])


def test_prediction_confidence_and_variability_follow_the_class_that_training_ended_with() -> None:
    pool = watched(logs(DYNAMICS))
    followed = np.array([[0.9] * 5, [0.8, 0.1, 0.1, 0.1, 0.6], [0, 1, 1, 0, 1]])
    confidence = strategies.build("prediction_confidence").score(pool, stream(1))
    np.testing.assert_allclose(confidence, [-0.9, -1.7 / 5, -3 / 5])
    spread = strategies.build("prediction_variability").score(pool, stream(1))
    np.testing.assert_allclose(spread, [np.sqrt(np.mean((row - row.mean()) ** 2)) for row in followed], atol=1e-12)


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(2, 20)),
                  elements=st.floats(-1e4, 1e4, width=32)))  # fmt: skip
def test_training_dynamics_agree_with_scipy_and_keep_their_bounds(logits: np.ndarray) -> None:
    log_probs = log_softmax(logits)
    pool, (_, n_epochs, n_classes) = watched(log_probs), logits.shape
    dispersion = strategies.build("label_dispersion").score(pool, stream(1))
    mode_count = stats.mode(log_probs.argmax(axis=2), axis=1).count
    np.testing.assert_allclose(dispersion, 1 - mode_count / n_epochs, atol=1e-15)
    assert np.all(dispersion <= 1 - 1 / min(n_epochs, n_classes) + 1e-15)
    confidence = strategies.build("prediction_confidence").score(pool, stream(1))
    assert np.all((confidence >= -1 - 1e-12) & (confidence <= 0))
    spread = strategies.build("prediction_variability").score(pool, stream(1))
    assert np.all((spread >= 0) & (spread <= 0.5 + 1e-12))


@pytest.mark.parametrize("name", ["label_dispersion", "prediction_confidence", "prediction_variability"])
def test_dynamics_are_watched_at_a_stated_number_and_the_pool_is_not_scored(name: str) -> None:
    assert strategies.build(name).n_watched == 2000
    assert strategies.build({"name": name, "n_watched": 7}).n_watched == 7
    assert not strategies.build(name).needs_scores
    with pytest.raises(ConfigError, match=rf"'{name}': n_watched is 0, it must be at least 1. 2000 predicts"):
        strategies.build({"name": name, "n_watched": 0})


# CAL


def contrast(n_pool: int, n_labeled: int, n_draws: int = 3, n_classes: int = 4, seed: int = 0) -> PoolView:
    rng = np.random.default_rng(seed)
    return PoolView(
        ids=np.arange(n_pool, dtype=np.int64),
        log_probs=log_softmax(rng.normal(size=(n_pool, n_draws, n_classes)) * 2),
        features=rng.normal(size=(n_pool, 6)).astype(np.float32),
        labeled=LabeledSet(ids=np.arange(n_labeled) + n_pool, labels=np.zeros(n_labeled, np.int64)),
        labeled_log_probs=log_softmax(rng.normal(size=(n_labeled, n_draws, n_classes)) * 2),
        labeled_features=(rng.normal(size=(n_labeled, 6)) * 50).astype(np.float32),
    )


@pytest.mark.parametrize(("n_pool", "n_labeled", "k"), [(50, 30, 10), (9000, 40, 3), (20, 4, 10), (20, 1, 10)])
def test_cal_agrees_with_scikit_learn_and_scipy(n_pool: int, n_labeled: int, k: int) -> None:
    pool = contrast(n_pool, n_labeled)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (pool.features, pool.labeled_features)]
    neighbors = NearestNeighbors(n_neighbors=min(k, n_labeled)).fit(unit[1]).kneighbors(unit[0], return_distance=False)
    near = np.exp(pool.labeled_log_probs).mean(axis=1)[neighbors]
    expected = special.rel_entr(near, pool.probs()[:, None]).sum(axis=2).mean(axis=1)
    values = strategies.build({"name": "cal", "n_neighbors": k}).score(pool, stream(1))
    np.testing.assert_allclose(values, expected, rtol=1e-9)


def test_cal_by_hand_asks_where_the_belief_differs_from_the_neighbour() -> None:
    pool = PoolView(
        ids=np.arange(3),
        log_probs=logs([[[0.5, 0.5]], [[0.2, 0.8]], [[1.0, 0.0]]]),
        features=np.array([[2.0, 0.0], [3.0, 0.1], [0.0, 9.0]]),
        labeled=LabeledSet(ids=np.array([7, 8]), labels=np.array([0, 1])),
        labeled_log_probs=logs([[[0.5, 0.5]], [[1.0, 0.0]]]),
        labeled_features=np.array([[1.0, 0.0], [0.0, 1.0]]),
    )
    values = strategies.build({"name": "cal", "n_neighbors": 1}).score(pool, stream(1))
    np.testing.assert_allclose(values, [0.0, 0.5 * np.log(0.5 / 0.2) + 0.5 * np.log(0.5 / 0.8), 0.0], atol=1e-15)


def test_cal_stays_finite_for_impossible_classes_extreme_logits_and_features_of_zero() -> None:
    pool = PoolView(
        ids=np.arange(3),
        log_probs=np.stack([logs([[1.0, 0.0]]), log_softmax(np.array([[1e4, -1e4]])), logs([[0.5, 0.5]])]),
        features=np.zeros((3, 2)),
        labeled=LabeledSet(ids=np.array([7]), labels=np.array([0])),
        labeled_log_probs=logs([[[0.0, 1.0]]]),
        labeled_features=np.zeros((1, 2)),
    )
    values = strategies.build("cal").score(pool, stream(1))
    assert np.isfinite(values).all()
    assert values[0] > values[1] > values[2]
    np.testing.assert_allclose(values[1:], [2e4, np.log(2)])


def test_cal_and_batch_bald_refuse_options_out_of_range() -> None:
    with pytest.raises(ConfigError, match=r"'cal': n_neighbors is 0, it must be at least 1. 10 is the paper's value"):
        strategies.build({"name": "cal", "n_neighbors": 0})
    with pytest.raises(ConfigError, match=r"max_candidates is 0, it must be at least 1. 2000 considers"):
        strategies.build({"name": "batch_bald", "max_candidates": 0})
    with pytest.raises(
        ConfigError, match=r"n_samples is -1, it must be at least 1. 2000 is exact for 10 examples of 2"
    ):
        strategies.build({"name": "batch_bald", "n_samples": -1})


def test_what_each_strategy_needs_is_declared() -> None:
    for name in [*DISAGREEMENT, "batch_bald"]:
        assert strategies.build(name).min_draws == 2
    assert strategies.build("batch_bald").needs_consistent_draws
    cal = strategies.build("cal")
    assert cal.needs_features
    assert cal.needs_labeled
    assert cal.min_draws == 1
