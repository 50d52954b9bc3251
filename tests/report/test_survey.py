"""Rankings under one changed axis, and crossings of methods, by hand and by scipy."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from al_ray.report.analysis import analyse
from al_ray.report.analysis.results import StudyResults
from al_ray.report.analysis.survey import AxisSummary, agreements, find_crossing, held_groups, summarise, varied_axes
from al_ray.report.page.render import render_page
from al_ray.report.read import read_study
from al_ray.report.stats.ranks import kendall_tau_b
from al_ray.report.verdict import what_survives
from tests.report.study_samples import SampleStudy, row

STRATEGIES = ("random", "margin", "entropy", "least_confidence")


@pytest.fixture
def study(tmp_path: Path) -> SampleStudy:
    return SampleStudy(tmp_path)


def results_of(study: SampleStudy) -> StudyResults:
    return analyse(read_study(study.path))


def page_of(results: StudyResults) -> str:
    return render_page(results, made_at="now", tables={})


def scores(boards: dict[str, list[list[float]]]) -> pd.DataFrame:
    """Return a table of scores: setting -> values by seed and method, NaN = no cell."""
    rows = [
        {"setting": setting, "seed": seed, "method": f"m{at}", "aulc": value, "final_accuracy": value}
        for setting, values in boards.items()
        for seed, of_seed in enumerate(values)
        for at, value in enumerate(of_seed)
        if not np.isnan(value)
    ]
    return pd.DataFrame(rows)


# ---- tau-b ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=12))
def test_tau_b_is_that_of_scipy_with_ties(pairs: list[tuple[int, int]]) -> None:
    first, second = (np.array(side, dtype=np.float64) for side in zip(*pairs, strict=True))
    np.testing.assert_allclose(kendall_tau_b(first, second), kendalltau(first, second).statistic, atol=1e-12)


def test_tau_b_of_many_boards_is_that_of_each() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 7, 5))
    wanted = [kendalltau(one, other).statistic for one, other in zip(first, second, strict=True)]
    np.testing.assert_allclose(kendall_tau_b(first, second), wanted)


def test_values_that_rounding_alone_tells_apart_are_tied() -> None:
    assert np.isnan(kendall_tau_b(np.array([0.1 + 0.2, 0.3, 0.3]), np.array([1.0, 2.0, 3.0])))


# ---- axes -----------------------------------------------------------------------------------------------------------


def test_settings_are_compared_that_differ_in_one_axis_and_rounds_follow_the_query_size() -> None:
    axes = {
        "a": {"data set": "x", "query_size": "5", "rounds": "20", "n_components": "all"},
        "b": {"data set": "x", "query_size": "25", "rounds": "4", "n_components": "all"},
        "c": {"data set": "x", "query_size": "25", "rounds": "4", "n_components": "8"},
        "d": {"data set": "y", "query_size": "5", "rounds": "20", "n_components": "8"},
    }
    varied = varied_axes(axes)
    assert varied == ["data set", "query_size", "rounds", "n_components"]
    groups = {axis: [m for m in held_groups(axes, axis, varied).values() if len(m) > 1] for axis in varied}
    assert groups == {"data set": [], "query_size": [["a", "b"]], "rounds": [], "n_components": [["b", "c"]]}
    found = agreements(axes, scores({name: [[0.1, 0.2, 0.3]] for name in axes}))
    assert {(one.axis, one.value, one.other, one.held) for one in found} == {
        ("query_size", "5", "25", "x · n_components=all"),
        ("n_components", "8", "all", "x · query_size=25 · rounds=4"),
    }


def test_initial_sizes_that_bring_their_own_query_size_are_compared_all_the_same() -> None:
    axes = {f"{n}": {"initial_size": f"{n}", "query_size": f"{n // 4}"} for n in (8, 16, 32)}
    assert held_groups(axes, "initial_size", varied_axes(axes)) == {"": ["8", "16", "32"]}
    assert all(len(members) == 1 for members in held_groups(axes, "query_size", varied_axes(axes)).values())


def test_tau_is_over_the_methods_and_seeds_that_both_sides_have() -> None:
    nan = float("nan")
    boards = {
        "a": [[0.1, 0.2, 0.3, 0.9], [0.2, 0.3, 0.4, 0.9]],
        "b": [[0.3, 0.1, 0.2, nan], [0.2, 0.2, 0.3, nan], [9.0, 8.0, 7.0, nan]],
    }
    (found,) = (
        one
        for one in agreements({"a": {"k": "1"}, "b": {"k": "2"}}, scores(boards))
        if one.axis == "k" and one.metric == "aulc"
    )
    # Means over the two shared seeds: 0.15 0.25 0.35 against 0.25 0.15 0.25. Pairs: -1, 0, +1 of 3 and of 2 untied.
    assert (found.n_methods, found.n_seeds, found.tau) == (3, 2, pytest.approx(0.0))
    assert found.tau_same is None


def test_a_missing_cell_is_left_out_and_never_the_worst_of_its_board() -> None:
    nan = float("nan")
    boards = {"a": [[0.1, 0.2, 0.3, 0.4]], "b": [[0.1, 0.2, 0.3, nan]]}
    found = agreements({"a": {"k": "1"}, "b": {"k": "2"}}, scores(boards))
    assert {(one.n_methods, one.tau) for one in found} == {(3, 1.0)}


def test_halves_tell_another_axis_from_other_seeds() -> None:
    rng = np.random.default_rng(0)
    quality = np.linspace(0.5, 0.9, 5)
    here, there = (quality + rng.normal(scale=0.01, size=(6, 5)) for _ in range(2))
    found = agreements({"a": {"k": "1"}, "b": {"k": "2"}}, scores({"a": here.tolist(), "b": there[:, ::-1].tolist()}))
    one = next(one for one in found if one.axis == "k" and one.metric == "aulc")
    assert (one.tau, one.tau_halves, one.tau_same) == pytest.approx((-1, -1, 1))
    assert one.p_value == pytest.approx(2 / 120)  # 5! orders, and as extreme in either direction


@pytest.mark.parametrize(
    ("halves", "same", "survives"),
    [(0.5, 0.55, True), (0.3, 0.55, False), (0.3, 0.3, None), (-0.2, -0.1, None), (None, None, None)],
)
def test_an_order_survives_what_changes_it_no_more_than_other_seeds_and_only_where_these_leave_one(
    halves: float | None, same: float | None, survives: bool | None
) -> None:
    one = AxisSummary(
        axis="k", taus={"aulc": (0.5,)}, n_comparisons=1, n_methods=(3, 3), tau_halves=halves, tau_same=same
    )
    assert one.survives is survives


def test_seeds_agree_by_the_mean_over_their_pairs() -> None:
    board = np.array([[0.1, 0.2, 0.3], [0.2, 0.1, 0.3], [0.3, 0.2, 0.1]])
    (one, _) = agreements({"a": {}}, scores({"a": board.tolist()}))
    wanted = np.mean([kendalltau(*pair).statistic for pair in itertools.combinations(board, 2)])
    assert (one.axis, one.n_seeds, one.tau) == ("seed", 3, pytest.approx(wanted))


def test_two_methods_make_no_ranking() -> None:
    assert agreements({"a": {"k": "1"}, "b": {"k": "2"}}, scores({"a": [[1, 2]] * 2, "b": [[1, 2]] * 2})) == ()


# ---- crossings ------------------------------------------------------------------------------------------------------

SIZES = np.array([8, 16, 32, 64])


def test_a_crossing_is_the_cut_that_parts_the_leads() -> None:
    lead = np.array([[0.1, 0.1, -0.1, -0.2]] * 5) + np.linspace(-0.01, 0.01, 5)[:, None]
    one = find_crossing(lead, SIZES, ("few", "many"), "initial_size", "x")
    assert (one.first, one.then, one.n_labels, one.share) == ("few", "many", 32, 1.0)
    assert one.interval is not None
    assert (one.interval.low, one.interval.high) == (32, 32)
    mirrored = find_crossing(-lead, SIZES, ("many", "few"), "initial_size", "x")
    assert (mirrored.first, mirrored.then, mirrored.n_labels) == ("few", "many", 32)


@given(st.lists(st.integers(-9, 9), min_size=2, max_size=8))
def test_the_cut_is_the_best_of_all_cuts_in_both_directions(lead: list[int]) -> None:
    n = len(lead)
    one = find_crossing(np.array([lead] * 5, dtype=np.float64), np.arange(n), ("a", "b"), "n_labeled", "x")
    gains = {(k, sign): sign * (sum(lead[:k]) - sum(lead[k:])) for k in range(n + 1) for sign in (1, -1)}
    cut = n if one.n_labels is None else one.n_labels
    assert gains[cut, 1 if one.first == "a" else -1] == max(gains.values())


def test_one_point_of_noise_moves_no_crossing_and_a_lead_throughout_is_none() -> None:
    lead = np.array([[0.1, -0.01, 0.1, 0.1]] * 5)
    one = find_crossing(lead, SIZES, ("a", "b"), "initial_size", "x")
    assert (one.first, one.n_labels, one.interval, one.is_shown) == ("a", None, None, True)


def test_methods_that_start_from_one_initial_query_do_not_cross_there() -> None:
    lead = np.array([[0.0, 0.1, 0.1, 0.2]] * 5) + np.array([0, 0.01, -0.02, 0.01])
    one = find_crossing(lead, SIZES, ("a", "b"), "n_labeled", "x")
    assert (one.first, one.n_labels, one.is_shown) == ("a", None, True)


def test_leads_that_are_noise_are_rarely_said_to_cross() -> None:
    rng = np.random.default_rng(1)
    leads = rng.normal(size=(200, 10, 7))
    said = [find_crossing(lead, np.arange(7), ("a", "b"), "n_labeled", "x") for lead in leads]
    assert sum(one.is_shown and one.n_labels is not None for one in said) <= 0.1 * len(said)


# ---- from records ---------------------------------------------------------------------------------------------------


def test_a_study_over_query_sizes_and_learners_says_what_its_ranking_survives(study: SampleStudy) -> None:
    lbfgs = {"frozen_layers": "all", "solver": "lbfgs"}
    adamw = {"frozen_layers": "all", "epochs": 3}
    for recipe, order in ((lbfgs, 1), (adamw, -1)):
        for size in (2, 5):
            for seed, (at, strategy) in itertools.product(range(4), enumerate(STRATEGIES[::order])):
                end = 0.5 + at / 10 + seed / 1000
                study.cell((0.3, end), strategy=strategy, seed=seed, query_size=size, finetune=recipe)
    results = results_of(study)
    table = results.agreement
    assert dict.fromkeys(table["axis"]) == dict.fromkeys(["learner", "query_size", "seed"])
    learner = row(table, axis="learner", metric="aulc", held="query_size=2")
    assert (learner["value"], learner["other"]) == ("frozen_adamw", "frozen_lbfgs")
    assert (learner["tau"], learner["tau_halves"], learner["tau_same"], learner["n_seeds"]) == (-1, -1, 1, 4)
    size = row(table, axis="query_size", metric="plateau_aulc", held="frozen_adamw")
    assert (size["tau"], size["n_methods"]) == (1, 4)
    assert row(table, axis="seed", metric="aulc", held="frozen_lbfgs · query_size=5")["tau"] == 1
    said = what_survives(results)
    assert said == (
        "The ranking survives another query_size (100 % of pairs of methods keep their order, 100 % with other seeds "
        "alone); the ranking changes with another learner (0 % of pairs of methods keep their order, 100 % with "
        "other seeds alone); from one seed to another 100 % of pairs of methods keep their order."
    )
    assert "another query_size (100" in page_of(results).replace("\u00a0", " ")


def test_initial_sizes_say_where_one_method_overtakes_another(study: SampleStudy) -> None:
    for size, seed in itertools.product((2, 4, 8), range(5)):
        study.cell((0.5, 0.5), strategy="random", seed=seed, initial_size=size)
        study.cell((0.5 - (4 - size) / 100,) * 2, strategy="margin", seed=seed, initial_size=size)
        study.cell((0.5 + (5 - size) / 100,) * 2, strategy="typiclust", seed=seed, initial_size=size)
    table = results_of(study).crossings
    found = row(table, over="initial_size", first="softmax + typiclust", then="softmax + random")
    assert (found["n_labels"], found["low"], found["high"], found["is_shown"]) == (8, 8, 8, True)
    assert row(table, over="initial_size", first="softmax + typiclust", then="softmax + margin")["n_labels"] == 8
    assert "<td>the other from 8 labels on</td>" in page_of(results_of(study)).replace("\u00a0", " ")


def test_two_methods_or_one_seed_leave_the_section_with_a_reason(study: SampleStudy) -> None:
    for seed in range(2):
        study.cell(strategy="random", seed=seed)
        study.cell(seed=seed)
    results = results_of(study)
    assert results.agreements == results.crossing_points == ()
    assert what_survives(results) == ""
    assert "Too few methods, seeds or settings are finished" in page_of(results)


def test_studies_whose_settings_differ_in_several_axes_compare_their_seeds_alone(study: SampleStudy) -> None:
    for seed, strategy in itertools.product(range(2), STRATEGIES):
        study.cell(strategy=strategy, seed=seed)
        study.cell(strategy=strategy, seed=seed, dataset="trec6", max_tokens=30)
    results = results_of(study)
    assert set(results.agreement["axis"]) <= {"seed"}
    assert results.settings[1].axes["data set"] == "trec6"


def test_a_ranking_that_seeds_alone_reorder_is_neither_said_to_survive_nor_to_change(study: SampleStudy) -> None:
    orders = list(itertools.permutations((0.4, 0.5, 0.6, 0.7)))
    for size, seed in itertools.product((2, 5), range(24)):
        # Every order of the methods comes once, so that seeds hold next to none.
        for at, (strategy, end) in enumerate(zip(STRATEGIES, orders[seed if size == 2 else 23 - seed], strict=True)):
            study.cell((0.3, end + 0.001 * at), strategy=strategy, seed=seed, query_size=size)
    said = what_survives(results_of(study))
    assert said.startswith("Seeds alone leave no order of the methods that could survive another query_size (")


def test_an_area_that_tells_no_methods_apart_is_no_order_in_half_of_the_pairs(study: SampleStudy) -> None:
    for size, seed, (at, strategy) in itertools.product((2, 5), range(4), enumerate(STRATEGIES)):
        study.cell((0.5 - at / 10, 0.5 + at / 10), strategy=strategy, seed=seed, query_size=size)
    results = results_of(study)
    assert set(results.agreement["metric"]) >= {"final_accuracy"}
    assert "aulc" not in set(results.agreement["metric"])
    assert what_survives(results) == ""


def test_settings_that_share_no_seed_are_not_said_to_differ_in_more_than_one_axis(study: SampleStudy) -> None:
    for size, seed, (at, strategy) in itertools.product((2, 5), range(2), enumerate(STRATEGIES)):
        study.cell((0.3, 0.5 + at / 10), strategy=strategy, seed=seed + 10 * size, query_size=size)
    page = page_of(results_of(study))
    assert "share 3 methods on a finished seed" in page
    assert ">other seeds alone<" not in page


def test_the_pairs_of_seeds_are_counted(study: SampleStudy) -> None:
    for seed, (at, strategy) in itertools.product(range(5), enumerate(STRATEGIES)):
        study.cell((0.3, 0.5 + at / 10), strategy=strategy, seed=seed)
    (of_seeds,) = summarise(results_of(study).agreements)
    assert (of_seeds.n_comparisons, of_seeds.tau) == (10, 1.0)
