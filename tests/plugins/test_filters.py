"""Candidate filters: hand-made cases, laws, and second implementations."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.signal import argrelextrema
from scipy.stats import gaussian_kde
from sklearn.neighbors import NearestNeighbors

from al_ray.core.ranking import rank
from al_ray.core.seeding import stream
from al_ray.core.types import LabeledSet, PoolView, Ranking, RowView, UnscoredPool
from al_ray.errors import ConfigError
from al_ray.filtering import filters
from al_ray.filtering.anchor_subpool import AnchorSubpool
from al_ray.filtering.class_balance import ClassBalance, quotas
from al_ray.filtering.density_clipping import DensityClipping, FirstPeak, FirstValley
from al_ray.filtering.near_duplicates import NearDuplicates
from al_ray.filtering.random_subsample import RandomSubsample
from al_ray.filtering.unsure_subsample import UnsureSubsample

Floats = npt.NDArray[np.float64]


def unit(points: Floats) -> Floats:
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def ranked(scores: Any, seed: int = 3) -> Ranking:
    values = np.asarray(scores, dtype=np.float64)
    return rank(np.arange(len(values)) * 7 + 100, values, seed)


def view(ranking: Ranking, seed: int = 0, n_classes: int = 3, n_labeled: int = 4) -> PoolView:
    rng = np.random.default_rng(seed)
    n = len(ranking)
    probs = rng.dirichlet(np.ones(n_classes), size=(n, 2))
    return PoolView(
        ids=np.sort(ranking.ids),
        log_probs=np.log(probs),
        embeddings=RowView.of(unit(rng.normal(size=(n, 2)))),
        labeled=LabeledSet(ids=np.arange(n_labeled), labels=rng.integers(n_classes, size=n_labeled)),
        labeled_embeddings=unit(rng.normal(size=(n_labeled, 2))),
    )


def unscored(n: int, *, round_index: int = 3, query_size: int = 5, seed: int = 0, **changes: Any) -> UnscoredPool:
    rng = np.random.default_rng(seed)
    values: dict[str, Any] = {
        "ids": np.sort(rng.choice(100_000, size=n, replace=False)).astype(np.int64),
        "embeddings": unit(rng.normal(size=(n, 6))),
        "last_scores": rng.permutation(n).astype(np.float64),
        "labeled": LabeledSet(ids=np.arange(200_000, 200_012), labels=np.arange(12) % 3),
        "labeled_embeddings": unit(rng.normal(size=(12, 6))),
        "n_classes": 3,
        "round_index": round_index,
        "query_size": query_size,
    }
    values |= changes
    points = values["embeddings"]
    return UnscoredPool(**values | {"embeddings": None if points is None else RowView.of(points)})


def draws(*names: str | int) -> np.random.Generator:
    return stream(1, *names)


# ---- laws of all of them -------------------------------------------------------------------------------------------

APPLY = ["uncertainty_clipping", "first_peak", "first_valley", "class_balance", "near_duplicates"]
SELECT = ["random_subsample", "unsure_subsample", "anchor_subpool"]
SCORES = st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0]), max_size=60) | st.lists(
    st.floats(-1e6, 1e6, allow_nan=False), max_size=60
)


@pytest.mark.parametrize("name", APPLY)
@given(scores=SCORES, query_size=st.integers(1, 20), seed=st.integers(0, 5))
@example(scores=[], query_size=3, seed=0)
@example(scores=[0.5], query_size=1, seed=0)
@example(scores=[0.0] * 40, query_size=5, seed=1)
@example(scores=[0.0, 5e-324], query_size=1, seed=1)
@settings(max_examples=60, deadline=None)
def test_a_filter_keeps_the_order_and_removes_no_more_than_it_says(
    name: str, scores: list[float], query_size: int, seed: int
) -> None:
    candidate_filter, ranking = filters.build(name), ranked(scores)
    pool = view(ranking, seed)
    kept = candidate_filter.apply(ranking, pool, query_size)
    stays = np.isin(ranking.ids, kept.ids)
    np.testing.assert_array_equal(ranking.ids[stays], kept.ids)
    np.testing.assert_array_equal(ranking.scores[stays], kept.scores)
    n_gone = len(ranking) - len(kept)
    assert 0 <= n_gone <= candidate_filter.n_removed(len(ranking), query_size) <= len(ranking)
    again = candidate_filter.apply(ranking, pool, query_size)
    np.testing.assert_array_equal(kept.ids, again.ids)
    if name in ("class_balance", "near_duplicates"):
        assert len(kept) >= min(query_size, len(ranking))


@pytest.mark.parametrize("name", SELECT)
@pytest.mark.parametrize("round_index", [1, 3])
@given(n=st.integers(0, 80), query_size=st.integers(1, 20), size=st.integers(1, 40), seed=st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_a_subset_is_of_the_pool_and_no_smaller_than_it_says(
    name: str, round_index: int, n: int, query_size: int, size: int, seed: int
) -> None:
    option = {"name": name} | ({} if name == "unsure_subsample" else {"size": size})
    option |= {"neighbours": 7} if name == "anchor_subpool" else {}
    candidate_filter = filters.build(option)
    pool = unscored(n, round_index=round_index, query_size=query_size, seed=seed)
    kept = candidate_filter.select(pool, draws(seed))
    assert len(set(kept.tolist())) == len(kept)
    assert set(kept.tolist()) <= set(pool.ids.tolist())
    assert n - len(kept) <= candidate_filter.n_removed(n, query_size) <= n
    np.testing.assert_array_equal(kept, candidate_filter.select(pool, draws(seed)))
    if name != "random_subsample":
        assert len(kept) >= min(query_size, n)


@pytest.mark.parametrize(
    "candidate_filter",
    [RandomSubsample(size=40), AnchorSubpool(size=100, anchors=2, neighbours=12)],
    ids=lambda candidate_filter: candidate_filter.name,
)
def test_what_is_selected_does_not_hang_on_who_else_stands_in_the_pool(
    candidate_filter: RandomSubsample | AnchorSubpool,
) -> None:
    pool = unscored(300)
    kept = candidate_filter.select(pool, draws("a"))
    others = np.setdiff1d(pool.ids, kept)
    fewer = pool.take(np.concatenate([kept, others[::3]]))
    assert set(candidate_filter.select(fewer, draws("a")).tolist()) == set(kept.tolist())
    assert set(candidate_filter.select(pool, draws("b")).tolist()) != set(kept.tolist())


# ---- first peak and first valley -----------------------------------------------------------------------------------


def reference_density(scores: Floats, grid: Floats) -> Floats:
    """The normal reference rule by its formula, the density by scipy."""
    lower, upper = np.quantile(scores, [0.25, 0.75])
    spread = scores.std(ddof=1)
    bandwidth = 1.059 * min(spread, (upper - lower) / 1.349) * len(scores) ** -0.2
    return gaussian_kde(scores, bw_method=bandwidth / spread)(grid)


MIXTURES = {
    "two equal": [(500, 0.2, 0.05), (500, 0.8, 0.05)],
    "few unsure": [(950, 0.1, 0.04), (50, 0.7, 0.02)],
    "three": [(300, -4.0, 0.5), (300, 0.0, 0.5), (300, 5.0, 0.7)],
    "small": [(12, 0.3, 0.05), (9, 0.9, 0.03)],
}


def mixture(parts: list[tuple[int, float, float]], seed: int) -> Floats:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(mean, spread, size=n) for n, mean, spread in parts])


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("parts", MIXTURES.values(), ids=MIXTURES.keys())
def test_peak_and_valley_are_where_scipy_has_them(parts: list[tuple[int, float, float]], seed: int) -> None:
    scores = mixture(parts, seed)
    has_gap = parts is MIXTURES["few unsure"]
    width = scores.max() - scores.min()
    grid = np.linspace(scores.min() - width, scores.max() + width, 24_001)
    density = reference_density(scores, grid)
    peak = grid[argrelextrema(density, np.greater)[0]].max()
    valleys = grid[argrelextrema(density, np.less)[0]]
    valley = valleys[valleys < peak].max()
    assert FirstPeak().landmark(scores) == pytest.approx(peak, abs=0.003 * width)
    found = FirstValley().landmark(scores)
    assert found is not None
    if not has_gap:  # within one, any place clips the same
        assert found == pytest.approx(valley, abs=0.003 * width)
    assert (scores > found).sum() == (scores > valley).sum()


def test_the_first_peak_of_two_is_the_one_of_the_highest_scores() -> None:
    scores = mixture([(20_000, 0.2, 0.05), (20_000, 0.8, 0.05)], seed=1)
    assert FirstPeak().landmark(scores) == pytest.approx(0.8, abs=0.02)
    assert FirstValley().landmark(scores) == pytest.approx(0.5, abs=0.05)
    assert FirstPeak().landmark(-scores) == pytest.approx(-0.2, abs=0.02)


def test_a_small_unsure_mode_goes_by_half_with_the_peak_and_whole_with_the_valley() -> None:
    unsure, sure = np.linspace(0.895, 0.905, 21), np.linspace(0.1, 0.3, 979)
    ranking = ranked(np.concatenate([sure, unsure]))
    by_peak = FirstPeak().apply(ranking, view(ranking), 25)
    by_valley = FirstValley().apply(ranking, view(ranking), 25)
    assert len(ranking) - len(by_peak) == pytest.approx(10, abs=1)
    assert len(ranking) - len(by_valley) == 21
    assert by_valley.scores.max() == pytest.approx(0.3)


@pytest.mark.parametrize("cls", [FirstPeak, FirstValley])
@pytest.mark.parametrize(("cap", "n_gone"), [(0.05, 50), (0.1, 100), (0.0, 0)])
def test_the_cap_bounds_what_a_far_landmark_would_clip(cls: type[DensityClipping], cap: float, n_gone: int) -> None:
    ranking = ranked(mixture([(500, 0.2, 0.05), (500, 0.8, 0.05)], seed=4))
    kept = cls(cap=cap).apply(ranking, view(ranking), 25)
    np.testing.assert_array_equal(kept.ids, ranking.ids[n_gone:])


@pytest.mark.parametrize("cls", [FirstPeak, FirstValley])
def test_scores_that_are_all_equal_lose_the_capped_share(cls: type[DensityClipping]) -> None:
    ranking = ranked(np.full(90, 0.3))
    np.testing.assert_array_equal(cls().apply(ranking, view(ranking), 5).ids, ranking.ids[4:])


def test_a_density_of_one_peak_has_no_valley_and_loses_the_capped_share() -> None:
    quantiles = (np.arange(1000) + 0.5) / 1000
    scores = np.sqrt(quantiles)  # the density 2 x rises to its one peak, near 1
    assert FirstValley().landmark(scores) is None
    assert FirstPeak().landmark(scores) is not None
    ranking = ranked(scores)
    np.testing.assert_array_equal(FirstValley().apply(ranking, view(ranking), 5).ids, ranking.ids[50:])


def test_a_landmark_moves_and_stretches_with_the_scores() -> None:
    scores = mixture(MIXTURES["few unsure"], seed=3)
    for cls in (FirstPeak, FirstValley):
        landmark = cls().landmark(scores)
        assert landmark is not None
        assert cls().landmark(scores * 1e-9 + 5) == pytest.approx(landmark * 1e-9 + 5, abs=1e-12)
        assert cls().landmark(scores * 1e9 - 5) == pytest.approx(landmark * 1e9 - 5, rel=1e-3)


def test_a_saturated_model_whose_scores_almost_all_vanish_is_still_clipped_by_its_outliers() -> None:
    rng = np.random.default_rng(0)
    scores = np.concatenate([10.0 ** rng.uniform(-9, -6, size=20_000), [0.5, 0.6, 0.7]])
    ranking = ranked(scores)
    assert len(ranking) - len(FirstPeak().apply(ranking, view(ranking), 25)) == 0
    assert len(ranking) - len(FirstValley().apply(ranking, view(ranking), 25)) == 1


# ---- subsets before scoring ----------------------------------------------------------------------------------------


def test_a_random_subset_takes_every_example_equally_often() -> None:
    pool, n_rounds = unscored(60), 3000
    counts = np.zeros(60)
    for at in range(n_rounds):
        kept = RandomSubsample(size=15).select(pool, draws(at))
        assert len(kept) == 15
        counts[np.searchsorted(pool.ids, kept)] += 1
    deviation = np.sqrt(0.25 * 0.75 / n_rounds)
    assert np.abs(counts / n_rounds - 0.25).max() < 4.5 * deviation


def test_a_pool_that_fits_is_scored_whole() -> None:
    pool = unscored(40)
    assert set(RandomSubsample(size=40).select(pool, draws()).tolist()) == set(pool.ids.tolist())
    np.testing.assert_array_equal(AnchorSubpool(size=40).select(pool, draws()), pool.ids)


def test_ups_keeps_each_rank_as_often_as_the_formula_says() -> None:
    n, n_rounds = 100, 4000
    pool = unscored(n, query_size=1)
    ups = UnsureSubsample(gamma=0.25, temperature=0.1)
    counts = np.zeros(n)
    for at in range(n_rounds):
        counts[np.searchsorted(pool.ids, ups.select(pool, draws(at)))] += 1
    assert pool.last_scores is not None
    ranks = n - 1 - pool.last_scores  # the scores are a permutation of 0 .. n - 1
    expected = np.array([1.0 if r <= 25 else np.exp(-(r / n - 0.25) / 0.1) for r in ranks])
    deviation = np.sqrt(expected * (1 - expected) / n_rounds)
    assert (np.abs(counts / n_rounds - expected) <= 4.5 * deviation).all()
    assert (counts[ranks <= 25] == n_rounds).all()


@pytest.mark.parametrize("round_index", [1, 2, 5, 9])
def test_ups_scores_everything_in_its_full_rounds(round_index: int) -> None:
    pool = unscored(100, round_index=round_index)
    np.testing.assert_array_equal(UnsureSubsample().select(pool, draws()), pool.ids)
    assert len(UnsureSubsample(full_rounds=()).select(pool, draws())) < 100


def test_ups_counts_examples_without_a_score_as_the_most_unsure() -> None:
    scores = np.arange(100.0)
    scores[:20] = np.nan
    pool = unscored(100, last_scores=scores, query_size=1)
    always = UnsureSubsample(gamma=0.25, temperature=1e-6).select(pool, draws())
    assert set(always.tolist()) == set(pool.ids[:20].tolist()) | set(pool.ids[94:].tolist())


def test_ups_fills_the_query_by_rank() -> None:
    pool = unscored(100, query_size=30)
    kept = UnsureSubsample(gamma=0.0, temperature=1e-9).select(pool, draws())
    assert pool.last_scores is not None
    assert set(kept.tolist()) == set(pool.ids[np.argsort(-pool.last_scores)[:30]].tolist())


def test_anchoral_keeps_the_highest_mean_similarity_to_the_anchors_that_retrieved() -> None:
    pool = unscored(500, seed=4)
    assert pool.embeddings is not None
    assert pool.labeled_embeddings is not None
    neighbors = NearestNeighbors(n_neighbors=20, metric="cosine").fit(pool.embeddings.read())
    distance, at = neighbors.kneighbors(pool.labeled_embeddings)  # 4 labelled examples a class: all 12 are anchors
    found: dict[int, list[float]] = {}
    for row, value in zip(at.ravel().tolist(), (1 - distance).ravel().tolist(), strict=True):
        found.setdefault(row, []).append(value)
    best = sorted(found, key=lambda row: -np.mean(found[row]))
    for size in (30, 10_000):
        kept = AnchorSubpool(size=min(size, 499), neighbours=20).select(pool, draws())
        assert kept.tolist() == pool.ids[best[:size]].tolist()


def test_anchoral_is_the_same_where_a_large_pool_is_read_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = unscored(500, seed=4)
    whole = AnchorSubpool(size=40, neighbours=20).select(pool, draws())
    monkeypatch.setattr(RowView, "BLOCK_ROWS", 64)
    assert pool.embeddings is not None
    assert [len(rows) for _, rows in pool.embeddings.blocks()] == [64] * 7 + [52]
    assert AnchorSubpool(size=40, neighbours=20).select(pool, draws()).tolist() == whole.tolist()


def test_anchoral_fills_the_query_with_the_next_most_similar() -> None:
    pool = unscored(500, query_size=40)
    assert pool.embeddings is not None
    assert pool.labeled_embeddings is not None
    one = pool.labeled_embeddings[:1]
    pool = unscored(500, query_size=40, labeled=LabeledSet(ids=np.array([200_000]), labels=np.array([2])),
                    labeled_embeddings=one)  # fmt: skip
    kept = AnchorSubpool(size=100, neighbours=5).select(pool, draws())
    assert set(kept.tolist()) == set(pool.ids[np.argsort(-(pool.embeddings.read() @ one[0]))[:40]].tolist())


def planted(n_pool: int = 3000, n_rare: int = 30, seed: int = 0) -> tuple[UnscoredPool, npt.NDArray[np.bool_]]:
    """A rare class in two clusters of its own among a common class spread over the sphere."""
    rng = np.random.default_rng(seed)
    centers = np.eye(16)[:2] * 10
    is_rare = np.zeros(n_pool, np.bool_)
    is_rare[rng.choice(n_pool, size=n_rare, replace=False)] = True
    points = rng.normal(size=(n_pool, 16))
    points[is_rare] += centers[rng.integers(2, size=n_rare)]
    labels = np.repeat([0, 1], [60, 6])
    known = rng.normal(size=(66, 16))
    known[60:] += centers[[0, 1, 0, 1, 0, 1]]
    pool = unscored(
        n_pool, embeddings=unit(points), n_classes=2, labeled=LabeledSet(ids=np.arange(66) + 200_000, labels=labels),
        labeled_embeddings=unit(known),
    )  # fmt: skip
    return pool, is_rare


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_anchoral_finds_a_planted_minority(seed: int) -> None:
    pool, is_rare = planted(seed=seed)
    kept = AnchorSubpool(size=150).select(pool, draws(seed))
    share = np.isin(pool.ids[is_rare], kept).mean()
    assert len(kept) == 150
    assert share > 0.9  # a random sub-pool would hold 5 % of them


def test_anchors_of_a_class_spread_over_its_clusters() -> None:
    rng = np.random.default_rng(0)
    centers = unit(rng.normal(size=(10, 8)))
    known = unit(np.repeat(centers, 20, axis=0) + rng.normal(size=(200, 8)) * 1e-3)
    labeled = LabeledSet(ids=np.arange(200) + 200_000, labels=np.zeros(200, np.int64))
    beside = unit(np.repeat(centers, 5, axis=0) + rng.normal(size=(50, 8)) * 1e-3)
    pool = unscored(500, embeddings=np.concatenate([beside, -unit(rng.random(size=(450, 8)))]), labeled=labeled,
                    labeled_embeddings=known, n_classes=1)  # fmt: skip
    kept = AnchorSubpool(size=50, anchors=10, neighbours=5).select(pool, draws())
    assert set(kept.tolist()) == set(pool.ids[:50].tolist())


def test_labelled_copies_are_drawn_as_anchors_without_end() -> None:
    known = np.tile(unit(np.ones((1, 6))), (30, 1))
    labeled = LabeledSet(ids=np.arange(30) + 200_000, labels=np.zeros(30, np.int64))
    pool = unscored(200, labeled=labeled, labeled_embeddings=known)
    assert pool.embeddings is not None
    kept = AnchorSubpool(size=10, neighbours=20).select(pool, draws())
    assert set(kept.tolist()) == set(pool.ids[np.argsort(-(pool.embeddings.read() @ known[0]))[:10]].tolist())


def test_copies_in_the_pool_are_chosen_by_hash_and_not_by_place() -> None:
    copies = np.tile(unit(np.ones((1, 6))), (400, 1)).astype(np.float32)
    chosen = []
    for seed in range(3):
        pool = unscored(400, embeddings=copies, seed=seed)
        chosen.append(np.searchsorted(pool.ids, AnchorSubpool(size=60, neighbours=60).select(pool, draws(seed))))
        assert len(chosen[-1]) == 60
        assert 120 < np.mean(chosen[-1]) < 280
    assert set(chosen[0].tolist()) != set(chosen[1].tolist())


# ---- class balance -------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 9), min_size=1, max_size=4), st.integers(0, 8))
@settings(deadline=None)
def test_quotas_bring_answers_and_query_as_near_to_balanced_as_any_can(answered: list[int], query_size: int) -> None:
    dealt = quotas(np.array(answered), query_size)
    every = (q for q in itertools.product(range(query_size + 1), repeat=len(answered)) if sum(q) == query_size)
    best = min(sum((a + n) ** 2 for a, n in zip(answered, q, strict=True)) for q in every)
    assert dealt.sum() == query_size
    assert dealt.min() >= 0
    assert int(((np.array(answered) + dealt) ** 2).sum()) == best


def predicting(classes: list[int], labels: list[int], n_classes: int = 3) -> tuple[Ranking, PoolView]:
    """Candidates that rank in the order given, each predicted as the class given."""
    n = len(classes)
    ranking = Ranking(ids=np.arange(n)[::-1].copy(), scores=np.linspace(1, 0, n))
    probs = np.full((n, 2, n_classes), 0.2 / n_classes)
    for place, c in enumerate(classes):
        probs[n - 1 - place, :, c] += 0.8
    labeled = LabeledSet(ids=np.arange(1000, 1000 + len(labels)), labels=np.array(labels, dtype=np.int64))
    return ranking, PoolView(ids=np.arange(n), log_probs=np.log(probs), labeled=labeled)


def places(ranking: Ranking, kept: Ranking) -> list[int]:
    return np.flatnonzero(np.isin(ranking.ids, kept.ids)).tolist()


def test_the_rarest_answers_get_the_query() -> None:
    ranking, pool = predicting([0, 0, 1, 0, 2, 2, 0, 1], labels=[0, 0, 0, 1, 2])
    kept = ClassBalance().apply(ranking, pool, 3)
    assert quotas(np.array([3, 1, 1]), 3).tolist() == [0, 2, 1]
    assert places(ranking, kept) == [2, 4, 7]


def test_a_quota_that_nobody_fills_goes_to_the_best_of_the_rest() -> None:
    ranking, pool = predicting([0, 0, 1, 0, 0, 0], labels=[0, 0, 2, 2])
    kept = ClassBalance().apply(ranking, pool, 3)
    assert quotas(np.array([2, 0, 2]), 3).tolist() == [1, 2, 0]
    assert places(ranking, kept) == [0, 1, 2, 3, 4, 5]


def test_what_ranks_behind_the_last_one_taken_stays() -> None:
    ranking, pool = predicting([0, 0, 0, 1, 0, 0], labels=[0, 1], n_classes=2)
    assert places(ranking, ClassBalance().apply(ranking, pool, 2)) == [0, 3, 4, 5]


def test_the_class_of_a_candidate_is_that_of_its_mean_probabilities() -> None:
    ranking, pool = predicting([0, 0, 1], labels=[0, 0, 1, 1, 1], n_classes=2)
    log_probs = np.array(pool.log_probs)
    log_probs[pool.ids == ranking.ids[0]] = np.log([[0.55, 0.45], [0.1, 0.9]])  # a tie of votes, class 1 on average
    changed = PoolView(ids=pool.ids, log_probs=log_probs, labeled=pool.labeled)
    assert places(ranking, ClassBalance().apply(ranking, pool, 1)) == [0, 1, 2]
    assert places(ranking, ClassBalance().apply(ranking, changed, 1)) == [1, 2]


@given(st.lists(st.integers(0, 2), min_size=1, max_size=30), st.lists(st.integers(0, 2), max_size=9),
       st.integers(1, 12))  # fmt: skip
@settings(deadline=None)
def test_the_query_is_what_a_walk_down_the_ranking_takes(classes: list[int], labels: list[int], n: int) -> None:
    ranking, pool = predicting(classes, labels)
    left = quotas(np.bincount(labels, minlength=3).astype(np.int64), n).tolist()
    taken = []
    for place, c in enumerate(classes):
        if left[c] > 0:
            left[c] -= 1
            taken.append(place)
    rest = [place for place in range(len(classes)) if place not in taken]
    taken = sorted(taken + rest[: n - len(taken)])
    kept = ClassBalance().apply(ranking, pool, n)
    assert kept.ids[:n].tolist() == ranking.ids[taken].tolist()


# ---- near duplicates -----------------------------------------------------------------------------------------------


def on_circle(degrees: list[float], labeled: list[float]) -> tuple[Ranking, PoolView]:
    """Candidates that rank in the order given, embedded as points of a circle."""

    def points(angles: list[float]) -> Floats:
        return np.stack([np.cos(np.radians(angles)), np.sin(np.radians(angles))], axis=1).reshape(-1, 2)

    n = len(degrees)
    ranking = Ranking(ids=np.arange(n)[::-1].copy(), scores=np.linspace(1, 0, n))
    answers = LabeledSet(ids=np.arange(1000, 1000 + len(labeled)), labels=np.zeros(len(labeled), np.int64))
    pool = PoolView(
        ids=np.arange(n), log_probs=np.zeros((n, 0, 2)), embeddings=RowView.of(points(degrees)[::-1]), labeled=answers,
        labeled_embeddings=points(labeled),
    )  # fmt: skip
    return ranking, pool


def test_near_copies_of_a_labelled_or_a_kept_candidate_go() -> None:
    # cosine 0.95 is 18.2 degrees: 50 repeats 40, 65 repeats only the dropped 50, 170 repeats the labelled 180
    ranking, pool = on_circle([40, 50, 65, 170, 300, 301], labeled=[180])
    assert places(ranking, NearDuplicates().apply(ranking, pool, 2)) == [0, 2, 4]
    assert places(ranking, NearDuplicates(depth=5).apply(ranking, pool, 2)) == [0, 2, 4, 5]
    assert places(ranking, NearDuplicates(threshold=0.99).apply(ranking, pool, 2)) == [0, 1, 2, 3, 4]


def test_dropping_stops_where_the_query_could_not_be_filled() -> None:
    ranking, pool = on_circle([40, 50, 41, 170, 300, 301], labeled=[180])
    assert places(ranking, NearDuplicates().apply(ranking, pool, 2)) == [0, 4]
    assert places(ranking, NearDuplicates().apply(ranking, pool, 4)) == [0, 1, 2, 4]
    assert places(ranking, NearDuplicates().apply(ranking, pool, 9)) == [0, 1, 2, 3, 4, 5]


@given(st.lists(st.integers(0, 359), max_size=25), st.lists(st.integers(0, 359), max_size=3), st.integers(1, 30))
@settings(deadline=None)
def test_duplicates_are_those_of_a_plain_double_loop(degrees: list[int], labeled: list[int], depth: int) -> None:
    ranking, pool = on_circle([float(d) for d in degrees], [float(d) for d in labeled])

    def alike(one: int, two: int) -> bool:
        apart = abs(one - two) % 360
        return min(apart, 360 - apart) <= 18  # whole degrees: cos(18) = 0.951, cos(19) = 0.946

    kept: list[int] = []
    for place, angle in enumerate(degrees):
        known = [*labeled, *(degrees[at] for at in kept if at < depth)]
        if place >= depth or not any(alike(angle, other) for other in known):
            kept.append(place)
    assert places(ranking, NearDuplicates(depth=depth).apply(ranking, pool, 0)) == kept


# ---- options -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FirstPeak(cap=1.0), r"cap is 1.0, it must be at least 0 and below 1. 0.05 clips 5 % at most."),
        (lambda: FirstValley(cap=-0.1), r"cap is -0.1, it must be at least 0"),
        (lambda: RandomSubsample(size=0), r"size is 0, it must be at least 1"),
        (lambda: UnsureSubsample(gamma=1.5), r"gamma is 1.5, it must be in \[0, 1\]"),
        (lambda: UnsureSubsample(temperature=0.0), r"temperature is 0.0, it must be above 0 and finite"),
        (lambda: UnsureSubsample(full_rounds=(0, 1)), r"full_rounds is \[0, 1\], the first round that scores is"),
        (lambda: AnchorSubpool(size=0), r"size is 0, it must be at least 1"),
        (lambda: AnchorSubpool(anchors=-1), r"anchors is -1, it must be at least 1"),
        (lambda: AnchorSubpool(neighbours=0), r"neighbours is 0, it must be at least 1"),
        (lambda: NearDuplicates(threshold=1.0), r"threshold is 1.0, it must be above 0 and below 1"),
        (lambda: NearDuplicates(depth=0), r"depth is 0, it must be at least 1"),
    ],
)  # fmt: skip
def test_a_bad_option_is_refused_with_what_would_be_right(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_option_that_is_no_number_is_refused(value: float) -> None:
    for build in (
        lambda: FirstPeak(cap=value),
        lambda: UnsureSubsample(gamma=value),
        lambda: UnsureSubsample(temperature=value),
        lambda: NearDuplicates(threshold=value),
    ):
        with pytest.raises(ConfigError, match=r"is (nan|inf), it must be"):
            build()


def test_what_a_filter_needs_is_declared() -> None:
    needs = ("clips", "needs_embeddings", "needs_last_scores", "needs_probs")
    declared = {name: [need for need in needs if getattr(filters.get(name), need)] for name in APPLY + SELECT}
    assert declared == {
        "uncertainty_clipping": ["clips"],
        "first_peak": ["clips"],
        "first_valley": ["clips"],
        "class_balance": ["clips", "needs_probs"],
        "near_duplicates": ["needs_embeddings"],
        "random_subsample": [],
        "unsure_subsample": ["needs_last_scores"],
        "anchor_subpool": ["needs_embeddings"],
    }
