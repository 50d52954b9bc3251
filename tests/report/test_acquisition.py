"""Calibration and what was queried, from records to results, on studies small enough to compute by hand."""

import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from al_ray.core.metrics import expected_calibration_error
from al_ray.core.types import Annotation, Query, RoundRecord
from al_ray.errors import StorageError
from al_ray.report.analysis import analyse
from al_ray.report.analysis.calibration import bin_sums, calibration_error
from al_ray.report.analysis.queries import jaccard_by_chance
from al_ray.report.analysis.results import StudyResults
from al_ray.report.page.charts import assign_looks
from al_ray.report.page.sections import queries_views
from al_ray.report.read import read_study
from tests.report.study_samples import ENTROPY, MARGIN, RANDOM, TEST, SampleStudy, row


@pytest.fixture
def study(tmp_path: Path) -> SampleStudy:
    return SampleStudy(tmp_path)


def results_of(study: SampleStudy) -> StudyResults:
    return analyse(read_study(study.path))


# ---- calibration ----------------------------------------------------------------------------------------------------


def test_reliability_on_the_test_split_is_that_of_the_last_round(study: SampleStudy) -> None:
    study.cell(test=TEST)
    table = row(results_of(study).calibration, on="test")
    assert table["n"] == 4
    assert [table[f"n_{at}"] for at in range(10)] == [0, 0, 0, 0, 0, 1, 1, 0, 1, 1]
    assert (table["accuracy_6"], table["accuracy_8"], table["accuracy_9"]) == (0, 1, 1)
    assert table["confidence_9"] == pytest.approx(0.95)
    assert math.isnan(table["confidence_0"])


def test_reliability_is_that_of_the_confidence_method_where_both_were_kept(study: SampleStudy) -> None:
    study.cell(test={**TEST, "own_log_probs": TEST["log_probs"][::-1].copy()})
    table = row(results_of(study).calibration, on="test")
    assert (table["accuracy_5"], table["accuracy_8"], table["accuracy_9"]) == (1, 0, 0)


def test_binned_error_is_the_expected_calibration_error() -> None:
    draws = np.random.default_rng(0)
    probs = draws.dirichlet(np.ones(3), size=200)
    labels = draws.integers(3, size=200)
    sums = bin_sums(probs.max(axis=1), (probs.argmax(axis=1) == labels).astype(float))
    assert calibration_error(sums) == pytest.approx(expected_calibration_error(np.log(probs), labels))


def test_calibration_on_the_queried_is_what_was_believed_of_them(study: SampleStudy) -> None:
    study.cell((0.5, 0.6, 0.7), labels=[0, 0, 0, 1, -1, 0], probs=(0.75, 0.25))
    table = row(results_of(study).calibration, on="queried")
    assert table["n"] == 3
    assert table["ece"] == pytest.approx(0.75 - 2 / 3)
    assert table["brier"] == pytest.approx((2 * 0.125 + 1.125) / 3)


def test_missing_arrays_are_named(study: SampleStudy) -> None:
    cell = study.cell(test=TEST)
    (Path(cell.folder.address) / "round-003.parquet").unlink()
    with pytest.raises(StorageError, match=r"round-003.parquet is missing"):
        results_of(study)


def test_damaged_arrays_are_named(study: SampleStudy) -> None:
    cell = study.cell(test=TEST)
    file = Path(cell.folder.address) / "round-003.parquet"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(StorageError, match=r"round-003.parquet is damaged"):
        results_of(study)


def test_damaged_arrays_are_left_out_only_when_asked_and_never_silently(study: SampleStudy) -> None:
    study.cell(test=TEST, seed=43)
    for cell, index in ((study.cell(test=TEST), 3), (study.passive(0.9), 1)):
        (Path(cell.folder.address) / f"round-00{index}.parquet").unlink()
    records = read_study(study.path, skip_damaged=True)
    results = analyse(records)
    assert row(results.calibration, on="test")["n_cells"] == 1
    assert results.acquired.empty
    assert sorted(notice.split(" was left out")[0].split("--")[0] for notice in results.notices) == [
        "calibration of subj-minilm-softmax-margin-s42",
        "passive model subj-minilm-softmax-passive-s42",
    ]


def test_without_arrays_none_is_read(study: SampleStudy) -> None:
    for cell in (study.cell(test=TEST), study.passive(0.9)):
        for file in Path(cell.folder.address).glob("*.parquet"):
            file.unlink()
    results = analyse(read_study(study.path), with_arrays=False)
    assert set(results.calibration["on"]) == {"queried"}
    assert results.acquired.empty
    assert results.classes["pool_share"].isna().all()
    assert results.settings[0].passive is not None


# ---- queries --------------------------------------------------------------------------------------------------------


def test_classes_of_the_queried_are_counted_without_the_initial_query(study: SampleStudy) -> None:
    study.plan()
    study.write_plan()
    study.cell((0.5, 0.6, 0.7), labels=[1, 1, 0, 1, 1, 1])
    classes = results_of(study).classes.set_index("class_name")
    assert classes["share"].to_dict() == {"no": 0.25, "yes": 0.75}
    assert classes["pool_share"].to_dict() == {"no": 0.75, "yes": 0.25}


def test_without_a_plan_the_passive_model_s_examples_say_how_classes_are_distributed(study: SampleStudy) -> None:
    study.cell()
    study.passive(0.9)
    results = results_of(study)
    assert results.queries[0].pool == (0.75, 0.25)
    assert results.settings[0].n_pool == 40


def test_without_either_the_pool_is_unknown(study: SampleStudy) -> None:
    study.cell()
    results = results_of(study)
    assert results.classes["pool_share"].isna().all()
    assert [one.distance for one in results.queries[0].classes] == [None]


def test_overlap_is_intersection_over_union_of_one_seed_and_then_the_mean(study: SampleStudy) -> None:
    study.cell((0.5, 0.6, 0.7), ids=[0, 1, 10, 11, 12, 13])
    study.cell((0.5, 0.6, 0.7), ids=[0, 1, 10, 11, 14, 15], strategy="entropy")
    study.cell((0.5, 0.6, 0.7), ids=[0, 1, 10, 11, 12, 13], seed=43)
    study.cell((0.5, 0.6, 0.7), ids=[0, 1, 20, 21, 22, 23], strategy="entropy", seed=43)
    study.cell((0.5, 0.6, 0.7), ids=[0, 1, 20, 21, 22, 23], strategy="random", seed=44)
    overlap = results_of(study).overlap
    both = row(overlap, method=MARGIN, other=ENTROPY)
    assert both["jaccard"] == pytest.approx((2 / 6 + 0) / 2)
    assert both["n_seeds"] == 2
    assert row(overlap, method=MARGIN, other=MARGIN)["jaccard"] == 1
    assert overlap[(overlap["method"] == MARGIN) & (overlap["other"] == RANDOM)].empty


def test_overlap_by_chance_is_the_exact_mean_over_all_pairs_of_draws() -> None:
    for n, n_pool in ((2, 5), (3, 6), (4, 5), (1, 3)):
        one = set(range(n))
        found = [len(one & set(other)) / len(one | set(other)) for other in combinations(range(n_pool), n)]
        assert jaccard_by_chance(n, n_pool) == pytest.approx(np.mean(found), abs=1e-12)
    assert jaccard_by_chance(25, 100) == pytest.approx(0.1450, abs=5e-5), "and not 0.1429, the ratio of the means"
    assert jaccard_by_chance(100, 100) == 1
    assert 0 < jaccard_by_chance(500, 120_000) < 0.003


def test_overlap_by_chance_is_that_of_random_draws() -> None:
    draws = np.random.default_rng(0)
    found = []
    for _ in range(300):
        one, other = (set(draws.choice(200, 50, replace=False).tolist()) for _ in range(2))
        found.append(len(one & other) / len(one | other))
    assert jaccard_by_chance(50, 200) == pytest.approx(np.mean(found), abs=0.005)


def test_outliers_are_what_the_passive_models_get_wrong(study: SampleStudy) -> None:
    study.cell((0.5, 0.6, 0.7), ids=[0, 1, 10, 11, 12, 13])
    study.passive(0.9, wrong=[0, 10, 11])
    study.passive(0.9, wrong=[10], seed=43)
    outliers = results_of(study).acquired
    assert row(outliers, method=MARGIN)["share"] == pytest.approx((1 + 0.5 + 0 + 0) / 4)
    assert row(outliers, method="pool")["share"] == pytest.approx((0.5 + 1 + 0.5) / 40)


def test_without_a_passive_cell_nobody_knows_the_outliers(study: SampleStudy) -> None:
    study.cell()
    assert results_of(study).acquired.empty


def test_kinds_are_read_where_they_were_recorded_and_compared_with_the_pool(study: SampleStudy) -> None:
    study.plan()
    note = {"class_names": ["no", "yes"], "class_counts": [30, 10], "n_train": 40, "n_test": 4, "source": "made up"}
    study.write_plan({"subj": {**note, "group_counts": {"junk": 4, "very rare": 36}}})
    study.cell(metrics={"acquired.junk": 0.25, "acquired.very rare": 0.75})
    study.cell(seed=43, metrics={"acquired.junk": 0.75, "acquired.very rare": 0.25})
    kinds = results_of(study).acquired
    assert row(kinds, method=MARGIN, kind="junk")["share"] == pytest.approx(0.5)
    assert row(kinds, method="pool", kind="very rare")["share"] == pytest.approx(0.9)


def test_which_strategy_chose_is_the_mean_over_cells_and_stands_beside_nothing_else(study: SampleStudy) -> None:
    study.cell(metrics={"chosen_by.margin": 0.25, "chosen_by.badge": 0.75})
    study.cell(seed=43, metrics={"chosen_by.margin": 0.75, "chosen_by.badge": 0.25})
    chosen = results_of(study).acquired
    assert chosen["what"].tolist() == ["chosen_by", "chosen_by"]
    assert row(chosen, method=MARGIN, kind="badge")["share"] == pytest.approx(0.5)


# ---- open sets ------------------------------------------------------------------------------------------------------


def test_the_share_of_the_budget_that_went_to_texts_of_no_class_is_a_figure_of_every_method(study: SampleStudy) -> None:
    study.plan()
    study.plan(strategy="entropy")
    note = {"class_names": ["no", "yes"], "class_counts": [20, 10], "n_no_class": 10, "n_train": 40, "n_test": 4,
            "source": "made up", "group_counts": None}  # fmt: skip
    study.write_plan({"subj": note})
    study.cell(labels=[0, 1, -1, 0, -1, -1])
    study.cell(labels=[0, 1, 0, 1, 0, -1], seed=43)
    study.cell(labels=[0, 1, 0, 1, 0, 1], strategy="entropy")
    results = results_of(study)
    shares = results.acquired[results.acquired["what"] == "rejected"].set_index("method")["share"]
    assert shares[MARGIN] == pytest.approx((3 / 4 + 1 / 4) / 2)
    assert shares[ENTROPY] == 0
    assert shares["pool"] == 10 / 40
    assert results.queries[0].pool == pytest.approx((2 / 3, 1 / 3))
    table = queries_views(results, assign_looks(results))[0].acquired
    assert table is not None
    assert table.columns == ("of no class",)
    assert {name: cells[0].words for name, _, cells in table.rows}["pool"] == "25.0 %"


def test_without_a_text_of_no_class_there_is_no_such_figure(study: SampleStudy) -> None:
    study.cell()
    assert results_of(study).acquired.empty


def test_answers_of_no_class_count_as_labels_of_the_learning_curve(study: SampleStudy) -> None:
    """Two seeds spend the same, and get other numbers of labels for it: only what was spent is common to both."""
    study.plan()
    study.write_plan()
    for seed, labels in ((42, [0, 1, -1, 0, 0, 0]), (43, [0, 1, -1, -1, 0, 0])):
        cell = study.begin(rounds=2, seed=seed)
        n_asked = n_answered = 0
        for index, accuracy in enumerate((None, 0.5, 0.6, 0.7)):
            ids, answers = np.arange(2 * index, 2 * index + 2), np.array(labels[2 * index : 2 * index + 2])
            ids = ids[: len(answers)]
            metrics = {} if accuracy is None else {"accuracy": accuracy, "n_rejected": float(n_asked - n_answered)}
            cell.append(
                RoundRecord(
                    round_index=index,
                    n_labeled=n_answered,
                    query=Query(ids=ids, scores=np.zeros(len(ids))),
                    annotation=Annotation(ids=ids, labels=answers, abstained=answers < 0),
                    metrics=metrics,
                    stop_reason=None if len(ids) else "all 2 rounds done",
                )
            )
            n_asked += len(ids)
            n_answered += int((answers >= 0).sum())
        cell.finish({})
    (curve,) = results_of(study).learning_curves
    assert curve.n_labeled == (2, 4, 6)
    assert curve.mean == pytest.approx((0.5, 0.6, 0.7))
    assert not [notice for notice in results_of(study).notices if "labels, so" in notice]


# ---- the map of a data set ----


def confidence(*hard: int) -> np.ndarray:
    """Return confidences of the 40 examples: 0.1 for some, 0.9 for those from 27 on, else 0.5."""
    return np.where(np.isin(np.arange(40), hard), 0.1, np.where(np.arange(40) >= 27, 0.9, 0.5)).astype(np.float32)


def test_a_third_of_the_pool_is_hard_to_learn_and_each_method_asks_for_its_share(study: SampleStudy) -> None:
    # 40 examples: a third is 13. Hard are 0 to 12, easy 27 to 39.
    charted = {"confidence": confidence(*range(13))}
    study.passive(0.9, charted=charted | {"variability": np.linspace(0.4, 0.0, 40, dtype=np.float32)})
    study.cell(ids=[20, 21, 0, 1, 30, 22])
    study.cell(ids=[20, 21, 0, 24, 25, 26], seed=43)
    study.cell(ids=[20, 21, 39, 38, 37, 36], strategy="random")
    acquired = results_of(study).acquired
    regions = acquired[acquired["what"] == "region"].set_index(["method", "kind"])["share"]
    assert regions["pool"].to_dict() == dict.fromkeys(("hard to learn", "ambiguous", "easy to learn"), 13 / 40)
    assert regions[MARGIN].to_dict() == pytest.approx(
        {"hard to learn": (2 / 4 + 1 / 4) / 2, "ambiguous": (2 / 4 + 1 / 4) / 2, "easy to learn": (1 / 4 + 0) / 2}
    )
    assert regions[RANDOM].to_dict() == {"hard to learn": 0, "ambiguous": 0, "easy to learn": 1}


def test_confidences_of_several_passive_seeds_are_averaged_before_a_third_is_taken(study: SampleStudy) -> None:
    first, second = confidence(*range(13)), confidence(*range(13))
    first[[0, 13]], second[[0, 13]] = (0.0, 0.2), (1.0, 0.2)  # 0: 0.5 on average, 13: 0.2
    study.passive(0.9, charted={"confidence": first})
    study.passive(0.9, charted={"confidence": second}, seed=43)
    study.cell(ids=[20, 21, 0, 22, 13, 23])
    acquired = results_of(study).acquired
    assert row(acquired, method=MARGIN, kind="hard to learn")["share"] == pytest.approx(1 / 4)
    assert set(acquired.loc[acquired["what"] == "region", "kind"]) == {"hard to learn", "easy to learn"}


def test_what_was_not_followed_counts_neither_way_and_older_passive_cells_have_no_map(study: SampleStudy) -> None:
    values = confidence(*range(13))
    values[::2] = np.nan  # 20 are known: 6 of them are a third, of 1, 3, 5, 7, 9 and 11
    study.passive(0.9, charted={"confidence": values})
    study.cell(ids=[20, 21, 0, 1, 3, 23])
    acquired = results_of(study).acquired
    assert row(acquired, method="pool", kind="hard to learn")["share"] == pytest.approx(6 / 20)
    assert row(acquired, method=MARGIN, kind="hard to learn")["share"] == pytest.approx(2 / 3)


def test_a_passive_cell_without_a_map_has_outliers_and_no_regions(study: SampleStudy) -> None:
    study.passive(0.9, wrong=[2])
    study.cell(ids=range(6))
    acquired = results_of(study).acquired
    assert set(acquired["what"]) == {"outliers"}


def test_examples_of_one_confidence_are_drawn_by_a_hash_and_a_third_all_the_same(study: SampleStudy) -> None:
    study.passive(0.9, charted={"confidence": np.full(40, 0.5, np.float32)})
    study.cell(ids=range(6))
    share = row(results_of(study).acquired, method="pool", kind="hard to learn")["share"]
    assert share == pytest.approx(13 / 40)
