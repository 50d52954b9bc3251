"""The closing table, on curves small enough to compute by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from al_ray.core.types import Annotation, Query, RoundRecord
from al_ray.study.cell import summarize
from al_ray.study.results import Curve, slice_shares, summarize_methods

RANDOM = Curve(
    dataset="d", model="m", method="softmax + random", variant="", strategy="random", filtered=False, seed=1,
    n_labeled=(25, 50, 75), accuracy=(0.5, 0.6, 0.7), acquired={"junk": 0.1},
)  # fmt: skip
MARGIN = replace(RANDOM, method="softmax + margin", strategy="margin", accuracy=(0.5, 0.7, 0.8))


def by_method(*curves: Curve):
    return {result.method: result for result in summarize_methods(curves)}


def test_labels_saved_are_read_where_the_curve_first_meets_random_s_final_accuracy() -> None:
    results = by_method(RANDOM, MARGIN)
    assert results["softmax + margin"].labels_saved == pytest.approx(25)
    assert results["softmax + margin"].saved_of == pytest.approx(75)
    assert results["softmax + random"].labels_saved == 0


def test_a_method_that_never_gets_there_saves_nothing_that_could_be_counted() -> None:
    worse = replace(MARGIN, accuracy=(0.5, 0.55, 0.6))
    result = by_method(RANDOM, worse)["softmax + margin"]
    assert math.isnan(result.labels_saved)
    assert result.saved_of == pytest.approx(75)


def test_without_random_there_is_nothing_to_compare_with() -> None:
    filtered = replace(RANDOM, method="softmax + random + clip", filtered=True)
    for result in by_method(MARGIN, filtered).values():
        assert math.isnan(result.saved_of)


def test_seeds_are_averaged_and_only_common_ones_compared() -> None:
    other = replace(MARGIN, seed=2, accuracy=(0.1, 0.1, 0.1))
    result = by_method(RANDOM, MARGIN, other)["softmax + margin"]
    assert result.n_seeds == 2
    assert result.final == pytest.approx(0.45)
    assert result.final_std == pytest.approx(math.sqrt(2) * 0.35)
    assert result.area == pytest.approx((2 / 3 + 0.1) / 2)
    assert result.labels_saved == pytest.approx(25)


def test_another_data_set_is_no_comparison() -> None:
    elsewhere = replace(RANDOM, dataset="other")
    assert math.isnan(by_method(MARGIN, elsewhere)["softmax + margin"].saved_of)


def test_what_else_varies_in_a_grid_is_another_method_with_a_random_of_its_own() -> None:
    fast = replace(RANDOM, method="softmax + random + epochs=9", variant="epochs=9", accuracy=(0.1, 0.2, 0.3))
    results = by_method(RANDOM, fast, MARGIN)
    assert results["softmax + random + epochs=9"].final == pytest.approx(0.3)
    assert results["softmax + random"].n_seeds == 1
    assert results["softmax + margin"].saved_of == pytest.approx(75)


def test_the_shares_of_the_slices_are_averaged_over_seeds() -> None:
    other = replace(RANDOM, seed=2, acquired={"junk": 0.3})
    assert by_method(RANDOM, other)["softmax + random"].acquired == {"junk": pytest.approx(0.2)}


def test_the_pool_s_shares_go_by_the_names_of_the_metrics() -> None:
    assert slice_shares(["a b", "c", "c", "a b", "c"]) == {"a b": pytest.approx(0.4), "c": pytest.approx(0.6)}


def test_a_metric_that_the_first_rounds_lack_has_a_last_value_and_no_area() -> None:
    nothing = Query(ids=np.empty(0, np.int64), scores=np.empty(0))
    annotation = Annotation(ids=nothing.ids, labels=nothing.ids, abstained=np.empty(0, np.bool_))

    def record(index: int, **metrics: float) -> RoundRecord:
        return RoundRecord(round_index=index, n_labeled=index, query=nothing, annotation=annotation, metrics=metrics)

    summary = summarize([record(0), record(1, accuracy=0.5), record(2, accuracy=0.7, stop_set_changed=0.2)])
    assert summary["final"] == {"accuracy": 0.7, "stop_set_changed": 0.2}
    assert summary["area_under_curve"] == {"accuracy": pytest.approx(0.6)}
