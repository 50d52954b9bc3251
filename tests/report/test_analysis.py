"""From records to results, on studies small enough to compute by hand."""

import html
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_ray.core.metrics import labels_to_reach
from al_ray.report.analysis import analyse
from al_ray.report.analysis.curves import RANDOMS_FINAL, reach_all
from al_ray.report.analysis.results import StudyResults
from al_ray.report.page.render import render_page
from al_ray.report.read import read_study
from al_ray.report.verdict import make_verdict
from tests.report.study_samples import CLIPPED, CLIPPING, ENTROPY, MARGIN, RANDOM, SampleStudy, row


@pytest.fixture
def study(tmp_path: Path) -> SampleStudy:
    return SampleStudy(tmp_path)


def results_of(study: SampleStudy) -> StudyResults:
    return analyse(read_study(study.path))


# ---- scores and curves ----------------------------------------------------------------------------------------------


def test_area_is_the_mean_of_all_points_and_of_the_last_five_where_there_are_five(study: SampleStudy) -> None:
    study.cell((0.0, 0.5, 0.6, 0.7, 0.8, 0.9))
    study.cell((0.5, 0.7), seed=43)
    scores = results_of(study).cells.set_index("seed")
    assert scores.at[42, "aulc"] == pytest.approx(3.5 / 6)
    assert scores.at[42, "aulc_last5"] == pytest.approx(0.7)
    assert scores.at[42, "final_accuracy"] == pytest.approx(0.9)
    assert scores.at[43, "aulc"] == pytest.approx(0.6)
    assert math.isnan(scores.at[43, "aulc_last5"])


def test_ramp_up_ends_where_random_s_mean_curve_has_made_nine_tenths_of_its_rise(study: SampleStudy) -> None:
    study.cell((0.2, 0.8, 0.6, 0.7), strategy="random")
    study.cell((0.4, 0.6, 1.0, 0.9), strategy="random", seed=43)  # mean: 0.3 0.7 0.8 0.8, so 0.75 at 6 labels
    study.cell((0.1, 0.3, 0.5, 0.7))
    study.passive(0.9)
    results = results_of(study)
    assert results.settings[0].ramp_up_end == 6
    scores = results.cells.set_index(["strategy", "seed"])
    assert scores.at[("random", 43), "ramp_up_aulc"] == pytest.approx(0.5)
    assert scores.at[("random", 43), "plateau_aulc"] == pytest.approx(0.95)
    assert scores.loc["margin", ["ramp_up_aulc", "plateau_aulc"]].values.tolist() == [pytest.approx([0.2, 0.6])]
    assert scores.loc["passive", ["ramp_up_aulc", "plateau_aulc"]].isna().all(axis=None)
    ranked = row(results.ranking, setting="all settings", method=RANDOM)
    assert ranked["ramp_up_aulc"] == pytest.approx((0.5 + 0.5) / 2)
    assert ranked["plateau_aulc"] == pytest.approx((0.65 + 0.95) / 2)


def test_there_is_no_ramp_up_without_random_queries_or_where_their_curve_does_not_rise(study: SampleStudy) -> None:
    study.cell((0.4, 0.6))
    study.cell((0.7, 0.7, 0.6), dataset="trec6", strategy="random")
    study.cell((0.4, 0.6), dataset="trec6")
    results = results_of(study)
    assert [setting.ramp_up_end for setting in results.settings] == [None, None]
    assert results.cells[["ramp_up_aulc", "plateau_aulc"]].isna().all(axis=None)
    assert results.rankings[0].rows[0].ramp_up_aulc is None
    assert results.ranking["plateau_aulc"].isna().all()


def test_cells_that_are_not_finished_have_no_score(study: SampleStudy) -> None:
    study.cell()
    study.cell(seed=43, end="failed")
    study.cell(seed=44, end="running")
    cells = results_of(study).cells
    assert cells.loc[cells["final_accuracy"].notna(), "seed"].tolist() == [42]


def test_calibration_is_that_of_the_confidence_method_where_the_curve_is_a_plain_model_s(study: SampleStudy) -> None:
    study.cell(metrics={"own.ece": 0.3, "own.brier": 0.4})
    study.cell(seed=43)
    scores = results_of(study).cells
    assert scores["ece"].tolist() == [0.3, 0.1]
    assert scores["brier"].tolist() == [0.4, 0.2]


def test_curves_are_averaged_where_all_seeds_have_a_point(study: SampleStudy) -> None:
    study.cell((0.4, 0.6, 0.8))
    study.cell((0.6, 0.8), seed=43)
    curves = results_of(study).curves
    assert curves["n_labeled"].tolist() == [2, 4]
    assert curves["mean"].tolist() == pytest.approx([0.5, 0.7])
    assert curves["low"].isna().all()


def test_a_band_holds_the_mean_and_is_no_wider_than_what_two_stretched_extremes_allow(study: SampleStudy) -> None:
    for seed in range(5):
        study.cell((0.5 + seed / 100, 0.7), seed=seed)
    curves = results_of(study).curves.set_index("n_labeled")
    assert curves.at[2, "low"] < 0.52 < curves.at[2, "high"]
    # Two standard errors of the mean are 0.014, Student's t makes them 0.0196; the extremes are 0.02 * sqrt(5/4) away.
    assert 0.016 < 0.52 - curves.at[2, "low"] < 0.0224
    assert curves.at[4, "low"] == pytest.approx(0.7)


def test_running_cells_are_drawn_only_where_none_is_finished(study: SampleStudy) -> None:
    study.cell((0.5, 0.6), end="running")
    study.cell((0.9, 0.9), strategy="random")
    study.cell((0.1, 0.1), strategy="random", seed=43, end="running")
    curves = results_of(study).curves
    assert not row(curves, method=MARGIN, n_labeled=4)["finished"]
    random = row(curves, method=RANDOM, n_labeled=4)
    assert random["finished"]
    assert random["mean"] == pytest.approx(0.9)


def test_rounds_of_one_number_of_labels_count_once_with_the_later_model(study: SampleStudy) -> None:
    study.cell((0.4, 0.5, 0.6, 0.7), labels=[0, 1, 0, 1, -1, -1, 0, 1])
    study.cell((0.5, 0.6, 0.7, 0.8), seed=43)
    curves = results_of(study).curves
    assert curves["n_labeled"].tolist() == [2, 4, 6]
    assert curves["mean"].tolist() == pytest.approx([(0.4 + 0.5) / 2, (0.6 + 0.6) / 2, (0.7 + 0.7) / 2])


# ---- labels saved ---------------------------------------------------------------------------------------------------


def test_labels_saved_are_counted_at_random_s_final_accuracy_and_at_shares_of_the_best(study: SampleStudy) -> None:
    study.cell((0.5, 0.6, 0.7), strategy="random")
    study.cell((0.5, 0.7, 0.8))
    savings = results_of(study).labels_saved
    at_final = row(savings, method=MARGIN, label=RANDOMS_FINAL)
    assert (at_final["n_labels"], at_final["saved_of"], at_final["labels_saved"]) == pytest.approx((4, 6, 2))
    assert row(savings, method=RANDOM, label=RANDOMS_FINAL)["labels_saved"] == 0
    at_80 = row(savings, method=MARGIN, label="80 % of the best accuracy")
    assert at_80["level"] == pytest.approx(0.64)
    assert at_80["n_labels"] == pytest.approx(2 + 2 * 0.14 / 0.2)
    assert at_80["saved_of"] == pytest.approx(4 + 2 * 0.04 / 0.1)


def test_levels_above_random_s_reach_have_labels_but_no_saving(study: SampleStudy) -> None:
    study.cell((0.5, 0.6, 0.7), strategy="random")
    study.cell((0.5, 0.7, 0.8))
    at_95 = row(results_of(study).labels_saved, method=MARGIN, label="95 % of the best accuracy")
    assert at_95["n_labels"] == pytest.approx(4 + 2 * 0.06 / 0.1)
    assert math.isnan(at_95["saved_of"])
    assert math.isnan(at_95["labels_saved"])


def test_a_level_that_every_curve_starts_above_is_left_out(study: SampleStudy) -> None:
    study.cell((0.5, 0.6, 0.7), strategy="random")
    study.cell((0.5, 0.7, 0.8))
    labels = set(results_of(study).labels_saved["label"])
    assert "70 % of the best accuracy" in labels
    assert "50 % of the best accuracy" not in labels


def test_savings_are_paired_by_seed(study: SampleStudy) -> None:
    study.cell((0.5, 0.6, 0.7), strategy="random")
    study.cell((0.5, 0.7, 0.8))
    study.cell((0.1, 0.1, 0.1), seed=43)
    assert row(results_of(study).labels_saved, method=MARGIN, label=RANDOMS_FINAL)["labels_saved"] == pytest.approx(2)


def test_equal_seeds_give_a_saving_without_doubt(study: SampleStudy) -> None:
    for seed in range(5):
        study.cell((0.5, 0.6, 0.7), strategy="random", seed=seed)
        study.cell((0.5, 0.7, 0.8), seed=seed)
    saving = row(results_of(study).labels_saved, method=MARGIN, label="80 % of the best accuracy")
    assert (saving["low"], saving["high"]) == pytest.approx((saving["labels_saved"], saving["labels_saved"]))


def test_without_random_nothing_is_saved_but_labels_are_counted(study: SampleStudy) -> None:
    study.cell((0.5, 0.7, 0.8))
    saving = row(results_of(study).labels_saved, label="80 % of the best accuracy")
    assert saving["n_labels"] == pytest.approx(2 + 2 * 0.14 / 0.2)
    assert math.isnan(saving["labels_saved"])


@given(
    st.lists(st.lists(st.floats(0, 1), min_size=4, max_size=4), min_size=1, max_size=8),
    st.floats(0, 1),
)
def test_many_curves_reach_a_level_where_each_alone_does(curves: list[list[float]], level: float) -> None:
    n_labeled = np.array([25, 50, 75, 100])
    found = reach_all(n_labeled, np.array(curves), np.full(len(curves), level))
    alone = [labels_to_reach(n_labeled.tolist(), curve, level) for curve in curves]
    np.testing.assert_allclose(found, alone)


# ---- rankings -------------------------------------------------------------------------------------------------------


def test_methods_are_ranked_by_area_and_passive_is_no_rival(study: SampleStudy) -> None:
    study.cell((0.5, 0.6), strategy="random")
    study.cell((0.6, 0.8))
    study.passive(0.9)
    ranking = results_of(study).rankings[0]
    assert [one.method for one in ranking.rows] == [MARGIN, RANDOM]
    assert ranking.rows[0].aulc.mean == pytest.approx(0.7)
    assert ranking.rows[0].passive_share == pytest.approx(0.8 / 0.9)
    assert ranking.rows[0].versus_best is None
    assert ranking.rows[1].versus_random is None


def test_differences_are_paired_by_seed_and_refused_without_enough_of_them(study: SampleStudy) -> None:
    study.cell((0.5,), strategy="random")
    study.cell((0.6,), strategy="random", seed=43)
    study.cell((0.7,), seed=43)
    versus = results_of(study).rankings[0].rows[0].versus_random
    assert versus is not None
    assert versus.difference == pytest.approx(0.1)
    assert (versus.n_pairs, versus.wins, versus.p_value) == (1, 1, None)
    assert "Run more seeds" in str(versus.refusal)


def test_six_seeds_that_agree_are_significant(study: SampleStudy) -> None:
    for seed in range(6):
        study.cell((0.5 + seed / 100,), strategy="random", seed=seed)
        study.cell((0.6 + seed / 50,), seed=seed)
    row_of_margin = results_of(study).rankings[1].rows[0]
    assert row_of_margin.versus_random is not None
    assert row_of_margin.versus_random.p_holm == pytest.approx(2 / 2**6)
    assert row_of_margin.versus_random.interval is not None
    assert row_of_margin.aulc.interval is not None


def test_the_overall_ranking_keeps_to_the_settings_that_its_methods_share_and_says_so(study: SampleStudy) -> None:
    for dataset in ("subj", "trec6"):
        study.cell((0.5,), strategy="random", dataset=dataset)
        study.cell((0.6,), dataset=dataset)
    study.cell((0.9,), strategy="entropy")
    study.cell((0.4,), strategy="random", dataset="sst2")
    overall, *each = results_of(study).rankings
    assert [one.method for one in overall.rows] == [MARGIN, RANDOM]
    assert ENTROPY in overall.note
    assert "sst2 · minilm" in overall.note
    assert {one.setting: one.rows[0].method for one in each} == {
        "sst2 · minilm": RANDOM, "subj · minilm": ENTROPY, "trec6 · minilm": MARGIN
    }  # fmt: skip


def test_a_setting_with_more_seeds_weighs_no_more(study: SampleStudy) -> None:
    study.cell((0.9,), dataset="subj")
    for seed in (42, 43, 44):
        study.cell((0.3,), dataset="trec6", seed=seed)
    assert results_of(study).rankings[0].rows[0].final_accuracy.mean == pytest.approx(0.6)


def test_one_random_method_is_the_reference_with_plain_softmax_where_there_are_several(study: SampleStudy) -> None:
    study.cell(strategy="random", confidence="label_smoothing")
    study.cell(strategy="random")
    roles = {name: method.role for name, method in results_of(study).methods.items()}
    assert roles == {RANDOM: "random", "label_smoothing + random": "query"}


def test_clipping_is_the_paired_difference_to_the_same_method_without(study: SampleStudy) -> None:
    for seed, gain in ((42, 0.1), (43, 0.3)):
        study.cell((0.5,), seed=seed)
        study.cell((0.5 + gain,), seed=seed, filters=CLIPPING)
    study.cell((0.9,), seed=44, filters=CLIPPING)
    effects = results_of(study).clipping
    assert [effect.setting for effect in effects] == [None, "subj · minilm"]
    one = effects[0]
    assert (one.method, one.filters, one.comparison.against) == (MARGIN, "uncertainty_clipping", MARGIN)
    assert one.comparison.method == CLIPPED
    assert one.comparison.difference == pytest.approx(0.2)
    assert one.comparison.n_pairs == 2


def test_clipping_without_its_counterpart_is_no_effect(study: SampleStudy) -> None:
    study.cell(filters=CLIPPING)
    study.cell(seed=43)
    assert not results_of(study).clipping


def test_clipping_random_queries_is_no_effect(study: SampleStudy) -> None:
    for seed in (42, 43):
        study.cell((0.5,), strategy="random", seed=seed)
        study.cell((0.6,), strategy="random", seed=seed, filters=CLIPPING)
    results = results_of(study)
    assert not results.clipping
    assert results.absences["clipping"] == (
        "Only random queries are clipped in this study, for which clipping changes nothing but the draws."
    )


def test_friedmans_test_says_everywhere_that_it_ranks_data_sets_from_three_of_them_on(study: SampleStudy) -> None:
    for dataset in ("subj", "trec6", "sst2"):
        for seed in range(4):
            study.cell((0.5 + seed / 100,), strategy="random", dataset=dataset, seed=seed)
            study.cell((0.6 + seed / 100,), dataset=dataset, seed=seed)
            study.cell((0.7 + seed / 100,), strategy="entropy", dataset=dataset, seed=seed)
    results = results_of(study)
    overall, each = results.rankings[0].critical_difference, results.rankings[1].critical_difference
    assert overall is not None
    assert each is not None
    assert (overall.unit, overall.n_units) == ("data set", 3)
    assert (each.unit, each.n_units) == ("block", 4)
    said = "Friedman's test finds a difference between 3 methods over 3 data sets (p = 0.050)."
    assert said in make_verdict(results).sure
    page = html.unescape(render_page(results, made_at="today", tables={})).replace("\u00a0", " ")
    assert said in page
    assert "Friedman's test over 3 data sets: chi-square 6.0, p = 0.050." in page
    assert "Critical-difference diagram over 3 data sets, critical difference" in page
    assert "Ranked on the means of 3 data sets over their models and seeds" in page
    assert "over 3 blocks" not in page
    assert "Friedman's test over 4 blocks" in page


# ---- costs ----------------------------------------------------------------------------------------------------------


def test_seconds_are_added_over_rounds_and_set_against_the_labels_saved(study: SampleStudy) -> None:
    study.cell((0.5, 0.6, 0.7), strategy="random", seconds=1)
    study.cell((0.5, 0.7, 0.8), seconds=3)
    costs = results_of(study).costs.set_index("method")
    assert costs["seconds.finetune"].to_dict() == {RANDOM: 3, MARGIN: 9}
    assert costs.at[MARGIN, "labels_saved"] == pytest.approx(2)
    assert costs.at[MARGIN, "seconds_per_label_saved"] == pytest.approx((9 - 3) / 2)
    assert math.isnan(costs.at[RANDOM, "seconds_per_label_saved"])
