"""The statistics of the report: against scipy, scikit-posthocs, published examples, laws, and simulation."""

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import scikit_posthocs
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from al_ray.errors import ConfigError, DataError
from al_ray.report.stats.bootstrap import Interval, deviation_weights, mean_intervals
from al_ray.report.stats.paired import Comparison, compare_with_baseline, more_seeds, pairs_for_power, t_power
from al_ray.report.stats.ranks import CriticalDifference, critical_difference, find_cliques, rank_methods
from al_ray.report.stats.wilcoxon import fewest_pairs, holm, signed_rank, smallest_p_value

ALPHA: dict[str, Any] = {"alpha": 0.05}
QUICK: dict[str, Any] = {"alpha": 0.05, "n_resamples": 500}

# Demsar 2006, table 6: AUC of C4.5, with m tuned, with cf tuned, with both, on 14 data sets. The last two of "voting"
# are printed as 0.975 both, yet ranked 2 and 3 in the paper: a fifth decimal stands for what the print cut off.
C45 = pd.DataFrame(
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.97501, 0.975],
        [0.957, 0.978, 0.946, 0.970],
    ],
    columns=["C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf"],
)

# Hollander and Wolfe 1973, p. 140: time to round first base, 22 players, three ways.
ROUNDING = [
    [5.40, 5.50, 5.55], [5.85, 5.70, 5.75], [5.20, 5.60, 5.50], [5.55, 5.50, 5.40], [5.90, 5.85, 5.70],
    [5.45, 5.55, 5.60], [5.40, 5.40, 5.35], [5.45, 5.50, 5.35], [5.25, 5.15, 5.00], [5.85, 5.80, 5.70],
    [5.25, 5.20, 5.10], [5.65, 5.55, 5.45], [5.60, 5.35, 5.45], [5.05, 5.00, 4.95], [5.50, 5.50, 5.40],
    [5.45, 5.55, 5.50], [5.55, 5.55, 5.35], [5.45, 5.50, 5.55], [5.50, 5.45, 5.25], [5.65, 5.60, 5.40],
    [5.70, 5.65, 5.55], [6.30, 6.30, 6.25],
]  # fmt: skip


def grid(n_methods: int = 4, n_data_sets: int = 3, n_seeds: int = 5, seed: int = 0) -> tuple[pd.DataFrame, list[str]]:
    """Accuracies in steps of 1/500, as a test split gives them, with the stratum of every block."""
    rng = np.random.default_rng(seed)
    strata = [f"data-{at}" for at in range(n_data_sets) for _ in range(n_seeds)]
    level = np.repeat(rng.uniform(0.5, 0.9, n_data_sets), n_seeds)[:, None] + rng.normal(0, 0.02, (len(strata), 1))
    values = level + np.arange(n_methods) * 0.004 + rng.normal(0, 0.01, (len(strata), n_methods))
    columns = [f"method-{at}" for at in range(n_methods)]
    return pd.DataFrame(np.round(values * 500) / 500, columns=columns), strata


def two(differences: list[float], strata: list[str] | None = None) -> Comparison:
    values = pd.DataFrame({"margin": differences, "random": np.zeros(len(differences))})
    strata = strata or ["d"] * len(differences)
    return compare_with_baseline(values, strata, baseline="random", **QUICK)[0]


def of(values: pd.DataFrame, strata: list[str], method: str, other: str) -> Comparison:
    family = compare_with_baseline(values, strata, baseline=other, **QUICK)
    return next(one for one in family if one.method == method)


def only(differences: npt.NDArray[np.float64], strata: list[str], **options: int | float) -> Interval:
    values: dict[str, Any] = {"level": 0.95, "n_resamples": 2000, "seed": 0}
    (got,) = mean_intervals(differences, np.array(strata), **{**values, **options})
    assert got is not None
    return got


class TestSignedRank:
    def test_hollander_and_wolfe_s_depression_scores(self) -> None:
        before = [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]
        after = [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]
        got = signed_rank(np.subtract(before, after), 0.05)
        assert (got.plus, got.minus) == (40.0, 5.0)
        assert got.p_value == pytest.approx(0.0390625)  # published one-sided: 0.0195
        assert got.rank_biserial == pytest.approx(35 / 45)

    def test_demsar_s_table_with_the_zeros_left_out_of_both_sums(self) -> None:
        # Published 93 and 12 with the ranks of the two zeros, 1.5 each, split evenly: one 1.5 on either side.
        got = signed_rank((C45["C4.5+m"] - C45["C4.5"]).to_numpy(), 0.05)
        assert (got.plus, got.minus, got.n, got.n_nonzero) == (91.5, 10.5, 14, 12)

    @given(st.integers(6, 50), st.integers(0, 10_000))
    @settings(max_examples=30, deadline=None)
    def test_without_ties_it_is_scipy_s_exact_test(self, n: int, seed: int) -> None:
        differences = np.random.default_rng(seed).normal(0.3, 1, n)
        assert signed_rank(differences, 0.05).p_value == pytest.approx(
            stats.wilcoxon(differences, method="exact").pvalue
        )

    @given(st.lists(st.integers(-4, 5), min_size=6, max_size=11))
    @settings(max_examples=40, deadline=None)
    def test_with_ties_and_zeros_it_counts_every_pattern_of_signs(self, steps: list[int]) -> None:
        differences = np.array(steps) / 500
        got = signed_rank(differences, 0.05)
        if got.p_value is None:
            assert got.n_nonzero < 6
            return
        ranks = stats.rankdata(np.abs(steps))[np.array(steps) != 0]
        sums = [ranks @ signs for signs in itertools.product((-1, 1), repeat=len(ranks))]
        expected = np.mean(np.abs(sums) >= abs(got.plus - got.minus) - 1e-9)
        assert got.p_value == pytest.approx(expected)

    def test_above_fifty_it_is_scipy_s_normal_approximation_with_pratt_s_zeros(self) -> None:
        steps = np.random.default_rng(1).integers(-4, 6, 120)
        got = signed_rank(steps / 500, 0.05)
        expected = stats.wilcoxon(steps, zero_method="pratt", method="asymptotic", correction=False)
        assert got.p_value == pytest.approx(expected.pvalue)

    def test_exact_and_normal_agree_where_they_meet(self) -> None:
        steps = np.random.default_rng(2).integers(-9, 12, 50)
        normal = stats.wilcoxon(steps, zero_method="pratt", method="asymptotic", correction=False).pvalue
        assert signed_rank(steps, 0.05).p_value == pytest.approx(normal, rel=0.05)

    def test_differences_that_rounding_keeps_apart_still_tie(self) -> None:
        differences = np.array([0.3 - 0.1, 0.2, 0.7 - 0.5, 0.4 - 0.2, 0.9 - 0.7, -(0.6 - 0.4), 0.1 + 0.2 - 0.3])
        assert len(set(np.abs(differences))) > 2
        got = signed_rank(differences, 0.05)
        assert (got.n_nonzero, got.plus, got.minus) == (6, 5 * 4.5, 4.5)

    @pytest.mark.parametrize(("n", "p"), [(1, 1.0), (4, 0.125), (5, 0.0625), (6, 0.03125)])
    def test_the_smallest_p_value_of_few_pairs(self, n: int, p: float) -> None:
        assert smallest_p_value(n) == p
        found = signed_rank(np.arange(1, n + 1.0), 0.05).p_value
        assert found == (p if p < 0.05 else None)

    @pytest.mark.parametrize("alpha", [0.05, 0.01, 0.001, 0.05 / 1225, 0.125, 0.0625])
    def test_the_fewest_pairs_can_reach_alpha_and_one_less_cannot(self, alpha: float) -> None:
        n = fewest_pairs(alpha)
        assert smallest_p_value(n) < alpha <= smallest_p_value(n - 1)


class TestHolm:
    def test_by_hand(self) -> None:
        # 4 x 0.005, 3 x 0.01, 2 x 0.03, then 0.04 may not fall below 0.06
        assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])

    def test_tests_that_were_not_made_do_not_count(self) -> None:
        assert holm([None, 0.02, None, 0.03]) == [None, 0.04, None, 0.04]

    def test_never_above_one_and_nothing_for_nothing(self) -> None:
        assert holm([0.9, 0.8, 0.7]) == [1.0, 1.0, 1.0]
        assert holm([]) == []

    @given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
    def test_no_less_than_the_raw_and_in_the_same_order(self, raw: list[float]) -> None:
        got = np.array(holm(raw), dtype=float)
        assert (got >= np.array(raw)).all()
        assert (got <= np.minimum(1.0, np.array(raw) * len(raw)) + 1e-12).all()
        assert (np.diff(got[np.argsort(raw, kind="stable")]) >= 0).all()


class TestComparison:
    def test_by_hand(self) -> None:
        got = two([0.02, 0.04, -0.01, 0.0, 0.03, 0.01, 0.005])
        assert got.difference == pytest.approx(0.095 / 7)
        assert (got.n_pairs, got.wins, got.ties, got.losses) == (7, 5, 1, 1)
        # ranks with the zero as 1: 0.005 is 2, the two of 0.01 are 3.5 each, then 5, 6, 7
        assert got.effect_size == pytest.approx((23.5 - 3.5) / 27)

    def test_blocks_that_lack_one_of_the_two_are_left_out_and_counted(self) -> None:
        nan = float("nan")
        values = pd.DataFrame({"margin": [1, 2, nan, nan, 5, 6, 7, 8.0], "random": [0, nan, 0, nan, 1, 0, 2, 0.0]})
        got = compare_with_baseline(values, ["a"] * 5 + ["b"] * 3, baseline="random", **QUICK)[0]
        assert got.n_pairs == 5
        assert got.refusal is not None
        assert got.refusal.endswith("2 blocks were left out because one of the two is missing.")

    def test_five_pairs_give_no_p_value_but_the_reason(self) -> None:
        got = two([0.1, 0.2, 0.3, 0.4, 0.5])
        assert (got.p_value, got.p_holm, got.effect_size, got.interval) == (None, None, None, None)
        assert not got.is_significant(0.05)
        assert got.refusal == (
            "5 of 5 pairs differ, and a test below 0.05 takes at least 6: the smallest p-value that 5 can give is "
            "0.0625. Run more seeds."
        )
        assert got.difference == pytest.approx(0.3)

    def test_pairs_without_a_difference_are_too_little_data_as_well(self) -> None:
        assert "5 of 9 pairs differ" in (two([0.1, 0.2, 0.3, 0.4, 0.5, 0, 0, 0, 0]).refusal or "")
        same = two([0.0] * 9)
        assert same.refusal == "All 9 pairs are equal, so there is no difference to test."
        assert same.interval is not None
        assert (same.ties, same.interval.low, same.interval.high) == (9, 0.0, 0.0)

    def test_without_a_common_block_there_is_nothing_to_compare(self) -> None:
        nan = float("nan")
        values = pd.DataFrame({"margin": [1.0, nan], "random": [nan, 1.0]})
        assert compare_with_baseline(values, ["a", "a"], baseline="random", **ALPHA) == ()

    def test_a_constant_difference_has_no_spread(self) -> None:
        got = two([0.3 - 0.1, 0.2, 0.7 - 0.5, 0.4 - 0.2, 0.9 - 0.7])
        assert got.more_seeds == 1, "a sixth pair makes it certain"
        assert two([0.3 - 0.1, 0.2, 0.7 - 0.5, 0.4 - 0.2, 0.9 - 0.7, 0.6 - 0.4]).p_value == pytest.approx(0.03125)

    def test_unknown_baselines_infinite_values_and_doubled_names_are_refused(self) -> None:
        values, strata = grid()
        with pytest.raises(ConfigError, match=r"unknown baseline 'methd-1'\. Did you mean 'method-1'\?"):
            compare_with_baseline(values, strata, baseline="methd-1", **ALPHA)
        with pytest.raises(DataError, match="two columns are named 'method-0'"):
            compare_with_baseline(values[["method-0", "method-0"]], strata, baseline="method-0", **ALPHA)
        values.iloc[3, 1] = np.inf
        with pytest.raises(DataError, match="method 'method-1' is inf in block 3, values must be finite"):
            compare_with_baseline(values, strata, baseline="method-0", **ALPHA)

    def test_p_values_are_corrected_over_the_family(self) -> None:
        values, strata = grid(n_methods=4, n_seeds=8)
        found = compare_with_baseline(values, strata, baseline="method-0", **QUICK)
        assert len(found) == 3
        assert [one.p_holm for one in found] == holm([one.p_value for one in found])
        assert {one.is_significant(0.05) for one in found} == {True, False}

    def test_one_method_alone_has_nothing_to_compare_with(self) -> None:
        assert compare_with_baseline(*grid(n_methods=1), baseline="method-0", **ALPHA) == ()


class TestLaws:
    def test_swapping_a_pair_flips_every_sign_and_nothing_else(self) -> None:
        values, strata = grid(n_methods=4, seed=3)
        values = values[["method-0", "method-3"]]
        values.iloc[2, 0] = np.nan
        forward, backward = of(values, strata, "method-0", "method-3"), of(values, strata, "method-3", "method-0")
        assert forward.interval is not None
        assert backward.interval is not None
        assert (backward.interval.low, backward.interval.high) == (-forward.interval.high, -forward.interval.low)
        assert backward.difference == -forward.difference
        assert backward.effect_size == -(forward.effect_size or 0)
        assert (backward.wins, backward.losses) == (forward.losses, forward.wins)
        assert (backward.p_value, backward.more_seeds) == (forward.p_value, forward.more_seeds)
        assert backward.swapped() == forward

    @given(st.integers(0, 1000))
    @settings(max_examples=10, deadline=None)
    def test_the_order_of_blocks_changes_nothing(self, seed: int) -> None:
        values, strata = grid(seed=seed)
        order = np.random.default_rng(seed).permutation(len(values))
        values.iloc[seed % 15, 2] = np.nan
        mixed, names = values.iloc[order], [strata[at] for at in order]
        for baseline in values:
            assert compare_with_baseline(mixed, names, baseline=baseline, **QUICK) == (
                compare_with_baseline(values, strata, baseline=baseline, **QUICK)
            )
        assert rank_methods(mixed, names, alpha=0.05) == rank_methods(values, strata, alpha=0.05)

    @given(st.integers(0, 1000))
    @settings(max_examples=10, deadline=None)
    def test_an_effect_of_the_block_on_all_methods_changes_nothing(self, seed: int) -> None:
        values, strata = grid(seed=seed)
        moved = values.add(np.random.default_rng(seed).uniform(-0.3, 0.3, len(values)), axis=0)
        plain, other = (compare_with_baseline(each, strata, baseline="method-1", **QUICK) for each in (values, moved))
        for one, two_ in zip(plain, other, strict=True):
            assert (one.p_value, one.wins, one.ties, one.effect_size) == (
                two_.p_value, two_.wins, two_.ties, two_.effect_size
            )  # fmt: skip
            assert one.interval is not None
            assert two_.interval is not None
            assert (one.interval.low, one.interval.high) == pytest.approx((two_.interval.low, two_.interval.high))
        blocks = [str(at) for at in range(len(values))]
        assert rank_methods(values, blocks, alpha=0.05).mean_ranks == rank_methods(moved, blocks, alpha=0.05).mean_ranks

    def test_another_method_in_the_frame_changes_only_the_correction(self) -> None:
        values, strata = grid(n_methods=5)
        fewer = of(values.iloc[:, :3], strata, "method-0", "method-2")
        more = of(values, strata, "method-0", "method-2")
        assert (more.interval, more.p_value) == (fewer.interval, fewer.p_value)


class TestBootstrap:
    def test_weights_sum_to_zero_and_have_the_variance_of_a_sum(self) -> None:
        weights = deviation_weights(3, 200_000, np.random.default_rng(0))
        assert np.abs(weights.sum(axis=1)).max() < 1e-12
        values = np.array([1.0, 2.0, 6.0])
        assert (weights @ values / 3).var() == pytest.approx(values.var(ddof=1) / 3, rel=0.02)

    def test_blocks_are_resampled_within_their_stratum(self) -> None:
        # Strata that differ by far, without spread inside: nothing is left to vary.
        got = only(np.repeat([1.0, 9.0], 5)[:, None], ["a"] * 5 + ["b"] * 5, n_resamples=300)
        assert (got.low, got.high, got.resampled) == (pytest.approx(5.0), pytest.approx(5.0), "within strata")

    def test_one_seed_each_is_resampled_across_strata_and_says_so(self) -> None:
        got = only(np.arange(8.0)[:, None], list("abcdefgh"))
        assert got.resampled == "across strata"
        assert got.low < 2.5 < 3.5 < 4.5 < got.high

    def test_too_few_blocks_have_no_interval(self) -> None:
        assert mean_intervals(np.arange(5.0)[:, None], np.array(["a"] * 5), level=0.95, n_resamples=200, seed=0) == [
            None
        ]

    def test_blocks_alone_in_their_stratum_borrow_the_variance_of_the_others(self) -> None:
        differences = np.random.default_rng(0).normal(size=(20, 1))
        got = only(differences, ["together"] * 10 + [f"alone-{at}" for at in range(10)], n_resamples=4000)
        assert got.resampled == "within strata"
        expected = 2 * stats.t.ppf(0.975, 9) * differences[:10].std(ddof=1) / math.sqrt(20)
        assert got.high - got.low == pytest.approx(expected, rel=0.1)

    @pytest.mark.parametrize(("n_strata", "n_seeds"), [(1, 6), (1, 10), (3, 3), (7, 2), (7, 10)])
    def test_intervals_cover_the_truth_as_often_as_they_say(self, n_strata: int, n_seeds: int) -> None:
        rng = np.random.default_rng(7)
        effects = np.repeat(np.linspace(-1, 2, n_strata), n_seeds)
        differences = effects[:, None] + rng.normal(size=(n_strata * n_seeds, 1500))
        strata = np.repeat([f"s{at}" for at in range(n_strata)], n_seeds)
        found = mean_intervals(differences, strata, level=0.95, n_resamples=2000, seed=0)
        covered = np.mean([one is not None and one.low <= effects.mean() <= one.high for one in found])
        assert 0.925 <= covered <= 0.975  # binomial noise of 1,500 is 0.006

    def test_skewed_differences_are_covered_too(self) -> None:
        rng = np.random.default_rng(8)
        differences = rng.exponential(size=(30, 1500))
        strata = np.repeat(["a", "b", "c"], 10)
        found = mean_intervals(differences, strata, level=0.9, n_resamples=2000, seed=0)
        assert 0.86 <= np.mean([one is not None and one.low <= 1 <= one.high for one in found]) <= 0.93

    def test_the_same_seed_gives_the_same_interval_and_another_seed_another(self) -> None:
        values = np.random.default_rng(0).normal(size=(10, 1))
        low = [only(values, ["a"] * 10, n_resamples=300, seed=seed).low for seed in (1, 1, 2)]
        assert low[0] == low[1] != low[2]


def ranked(values: pd.DataFrame, data_sets: list[str], *, alpha: float) -> CriticalDifference:
    got = rank_methods(values, data_sets, alpha=alpha)
    assert got.test is not None
    assert got.test.mean_ranks == got.mean_ranks
    assert got.refusal == ""
    return got.test


class TestRanks:
    def test_demsar_s_c45_variants(self) -> None:
        got = ranked(C45, [str(at) for at in range(14)], alpha=0.05)
        published = {"C4.5": 3.143, "C4.5+m": 2.000, "C4.5+cf": 2.893, "C4.5+m+cf": 1.964}
        assert got.mean_ranks == pytest.approx(published, abs=5e-4)
        assert list(got.mean_ranks) == ["C4.5+m+cf", "C4.5+m", "C4.5+cf", "C4.5"]
        # Published 9.28 is without the correction for ties, which divides by 1 - sum(t^3 - t) / (N k (k^2 - 1)):
        # here three pairs (iris, lung cancer, primary tumor) and one row of four (mushroom).
        ties = 3 * (2**3 - 2) + (4**3 - 4)
        assert got.statistic * (1 - ties / (14 * 4 * 15)) == pytest.approx(9.28, abs=0.01)
        assert got.critical_difference == pytest.approx(1.25, abs=0.005)
        assert (got.unit, got.n_units, got.n_blocks_dropped) == ("data set", 14, 0)

    def test_demsar_s_verdict_needs_a_tenth(self) -> None:
        got = ranked(C45, [str(at) for at in range(14)], alpha=0.1)
        assert got.alpha == 0.1
        assert got.critical_difference == pytest.approx(1.12, abs=0.005)
        assert ("C4.5+m+cf", "C4.5+m", "C4.5+cf") in got.cliques
        assert not any({"C4.5", "C4.5+m"} <= set(clique) for clique in got.cliques)
        assert not any({"C4.5", "C4.5+m+cf"} <= set(clique) for clique in got.cliques)

    @pytest.mark.parametrize(("k", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)])
    def test_critical_values_of_demsar_s_table_5(self, k: int, q: float) -> None:
        assert critical_difference(k, 1, 0.05) / math.sqrt(k * (k + 1) / 6) == pytest.approx(q, abs=1e-3)

    def test_hollander_and_wolfe_s_rounding_times(self) -> None:
        values = -pd.DataFrame(ROUNDING, columns=["round out", "narrow", "wide"])  # less time is better
        got = ranked(values, ["d"] * 22, alpha=0.05)
        assert got.statistic == pytest.approx(11.1429, abs=1e-4)
        assert got.p_value == pytest.approx(0.003805, abs=1e-6)
        assert next(iter(got.mean_ranks)) == "wide"

    def test_against_scipy_and_scikit_posthocs(self) -> None:
        values, strata = grid(n_methods=5, n_data_sets=2, n_seeds=9, seed=4)
        got = ranked(values, strata, alpha=0.05)
        assert (got.statistic, got.p_value) == pytest.approx(tuple(stats.friedmanchisquare(*values.to_numpy().T)))
        expected = scikit_posthocs.posthoc_nemenyi_friedman(values.to_numpy()).to_numpy()
        ranks = [got.mean_ranks[method] for method in values]
        apart = np.abs(np.subtract.outer(ranks, ranks)) >= got.critical_difference
        assert apart.any()
        assert (apart == (expected <= 0.05)).all()

    def test_seeds_are_averaged_before_data_sets_are_ranked(self) -> None:
        # By blocks a wins four of six; by means of three data sets it wins one and c two.
        values = pd.DataFrame(
            {"a": [3, 3, 3, 3, 0, 0.0], "b": [2, 2, 2, 2, 1, 1], "c": [1, 1, 1, 9, 9, 9]},
        )
        means = rank_methods(values, ["x", "x", "y", "y", "z", "z"], alpha=0.5)
        assert means.mean_ranks == pytest.approx({"c": (3 + 1 + 1) / 3, "a": (1 + 2 + 3) / 3, "b": (2 + 3 + 2) / 3})
        assert means.test is not None
        assert (means.test.unit, means.test.n_units) == ("data set", 3)
        assert "not independent data sets (Demsar 2006)" in means.test.unit_note

    def test_two_data_sets_are_ranked_by_blocks(self) -> None:
        got = ranked(*grid(n_data_sets=2), alpha=0.05)
        assert (got.unit, got.n_units) == ("block", 10)
        assert got.unit_note.startswith("Ranked on 10 blocks of 2 data sets: seeds are counted")
        assert "not about other data" in got.unit_note

    def test_incomplete_blocks_are_dropped_and_counted(self) -> None:
        values, strata = grid(n_data_sets=4)
        values.iloc[:5, 1] = np.nan
        values.iloc[7, 2] = np.nan
        values["method-9"] = np.nan
        got = ranked(values, strata, alpha=0.05)
        assert (got.n_blocks_dropped, got.n_units) == (6, 3)
        assert set(got.mean_ranks) == {"method-0", "method-1", "method-2", "method-3"}

    def test_too_little_data_gives_ranks_but_no_test(self) -> None:
        got = rank_methods(*grid(n_data_sets=1, n_seeds=2), alpha=0.05)
        assert got.test is None
        assert got.refusal == "2 blocks with every method, and a Friedman test takes at least 3. Run more."
        assert len(got.mean_ranks) == 4
        pair = rank_methods(*grid(n_methods=2), alpha=0.05)
        assert pair.refusal == (
            "2 methods have values, and a Friedman test compares at least 3. See the paired comparison."
        )
        strict = rank_methods(*grid(n_methods=3, n_data_sets=1, n_seeds=3), alpha=0.01)
        assert strict.refusal == (
            "3 blocks are too few for 3 methods: even full agreement has probability 0.0278, not below 0.01. Run more."
        )

    def test_no_complete_block_names_the_method_to_finish(self) -> None:
        values, strata = grid(n_methods=3)
        values.iloc[:10, 0] = np.nan
        values.iloc[10:, 2] = np.nan
        got = rank_methods(values, strata, alpha=0.05)
        assert got.refusal == (
            "No block has a value of every method; 'method-0' lacks 10, the most. Finish its cells or leave it out."
        )
        assert got.mean_ranks == {}

    def test_nothing_at_all_is_no_error(self) -> None:
        assert rank_methods(pd.DataFrame({"a": [np.nan] * 4, "b": [np.nan] * 4}), ["x"] * 4, alpha=0.05).refusal
        assert rank_methods(pd.DataFrame(columns=["a", "b", "c"], dtype=float), [], alpha=0.05).refusal

    def test_methods_that_are_all_alike_do_not_differ(self) -> None:
        got = ranked(pd.DataFrame(np.ones((8, 3)), columns=["a", "b", "c"]), ["d"] * 8, alpha=0.05)
        assert (got.statistic, got.p_value, got.mean_ranks) == (0.0, 1.0, {"a": 2.0, "b": 2.0, "c": 2.0})
        assert got.cliques == (("a", "b", "c"),)

    def test_full_agreement_has_the_largest_statistic(self) -> None:
        values = pd.DataFrame([[1, 2, 3.0]] * 6, columns=["a", "b", "c"])
        assert ranked(values, ["d"] * 6, alpha=0.05).statistic == pytest.approx(12)

    @pytest.mark.parametrize(
        ("difference", "expected"),
        [
            (0.5, ()),
            (1.1, (("a", "b"), ("c", "d"))),
            (1.6, (("a", "b"), ("b", "c"), ("c", "d"))),
            (2.6, (("a", "b", "c"), ("b", "c", "d"))),
            (9.0, (("a", "b", "c", "d"),)),
            (1.0, ()),  # at the critical difference they differ
        ],
    )
    def test_cliques_by_hand(self, difference: float, expected: tuple[tuple[str, ...], ...]) -> None:
        assert find_cliques(list("abcd"), [1.0, 2.0, 3.5, 4.5], difference) == expected


class TestPower:
    @pytest.mark.parametrize(("effect", "n"), [(0.2, 199), (0.5, 34), (0.8, 15)])
    def test_cohen_s_paired_sample_sizes_over_the_efficiency_of_the_signed_rank_test(
        self, effect: float, n: int
    ) -> None:
        # Sizes of the two-sided paired t test at power 0.8 and alpha 0.05, as G*Power gives them.
        assert t_power(effect, n, 0.05) >= 0.8 > t_power(effect, n - 1, 0.05)
        assert pairs_for_power(effect, 0.05) == math.ceil(n / (3 / math.pi))

    @pytest.mark.parametrize("effect", [0.45, 0.9])
    def test_the_power_is_there_in_a_simulation(self, effect: float) -> None:
        n = pairs_for_power(effect, 0.05)
        assert n is not None
        samples = np.random.default_rng(5).normal(effect, 1, (400, n))
        found = np.mean([(signed_rank(one, 0.05).p_value or 1.0) < 0.05 for one in samples])
        assert 0.74 <= found <= 0.87  # binomial noise of 400 is 0.02

    def test_never_fewer_than_a_test_takes_and_none_for_noise(self) -> None:
        assert pairs_for_power(math.inf, 0.05) == 6
        assert pairs_for_power(50.0, 0.05 / 1225) == fewest_pairs(0.05 / 1225) == 16
        assert pairs_for_power(0.0, 0.05) is None
        assert pairs_for_power(0.05, 0.05) is None
        assert (pairs_for_power(0.1, 0.05) or 0) <= 1000

    def test_what_is_significant_needs_nothing(self) -> None:
        assert two([0.01, 0.02, 0.03, 0.02, 0.04, 0.01, 0.02]).more_seeds == 0

    def test_further_seeds_are_counted_for_each_stratum(self) -> None:
        differences = [0.02, -0.01, 0.03, -0.02, 0.01, 0.0, 0.02, 0.01]
        needed = pairs_for_power(abs(np.mean(differences)) / np.std(differences, ddof=1), 0.05)
        assert needed is not None
        assert needed > 8
        assert two(differences, ["a", "b"] * 4).more_seeds == math.ceil((needed - 8) / 2)

    def test_a_stricter_family_needs_more(self) -> None:
        differences = np.array([0.02, -0.01, 0.03, -0.02, 0.01, 0.0, 0.02, 0.01])
        alone, among = (more_seeds(differences, 1, alpha) for alpha in (0.05, 0.05 / 20))
        assert (alone or 0) < (among or 0)

    def test_a_difference_of_nothing_is_noise(self) -> None:
        assert two([0.02, -0.02, 0.01, -0.01, 0.03, -0.03, 0.02, -0.0199]).more_seeds is None
        assert two([0.0] * 8).more_seeds is None

    def test_enough_pairs_need_no_more(self) -> None:
        assert more_seeds(np.array([0.02, 0.01, 0.02, 0.01, 0.02, 0.01, 0.02]), 1, 0.05) == 0

    def test_one_pair_says_nothing_of_the_spread(self) -> None:
        assert two([0.02]).more_seeds is None


def test_fifty_methods_on_seven_hundred_blocks_are_compared_with_missing_cells() -> None:
    values, strata = grid(n_methods=50, n_data_sets=70, n_seeds=10)
    holes: npt.NDArray[np.bool_] = np.random.default_rng(0).random(values.shape) < 0.01
    values = values.mask(holes)
    for baseline in ("method-0", "method-25"):
        found = compare_with_baseline(values, strata, baseline=baseline, alpha=0.05, n_resamples=2000)
        assert len(found) == 49
        assert all(one.p_value is not None and one.interval is not None for one in found)
        assert all(one.interval.low < one.interval.high for one in found if one.interval)
        assert min(one.n_pairs for one in found) < 700
