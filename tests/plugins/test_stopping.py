"""Stopping rules: pure functions of the recorded rounds, told with their numbers."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from al_ray.core.types import Annotation, Query, RoundRecord
from al_ray.errors import ConfigError
from al_ray.registry import option_of
from al_ray.stopping import stopping_rules
from al_ray.stopping.classification_change import ClassificationChange
from al_ray.stopping.kappa_agreement import KappaAgreement
from al_ray.stopping.overall_uncertainty import OverallUncertainty
from al_ray.stopping.target_accuracy import TargetAccuracy

METRIC = {
    "target_accuracy": "validation_accuracy",
    "classification_change": "stop_set_changed",
    "kappa_agreement": "stop_set_kappa",
    "overall_uncertainty": "stop_set_entropy",
}


def rounds_with(metric: str, values: Sequence[float | None]) -> list[RoundRecord]:
    """Round 0, and one round a value; None where a round does not have the metric. The last has no query yet."""
    rounds = [record(0, {}, n_asked=5)]
    for at, value in enumerate(values, start=1):
        rounds.append(record(at, {"accuracy": 0.5} | ({} if value is None else {metric: value}), n_asked=5))
    return [*rounds[:-1], record(len(values), dict(rounds[-1].metrics), n_asked=0)]


def record(round_index: int, metrics: dict[str, float], n_asked: int) -> RoundRecord:
    ids = np.arange(n_asked) + 100 * round_index
    return RoundRecord(
        round_index=round_index,
        n_labeled=5 * round_index,
        query=Query(ids=ids, scores=np.zeros(n_asked)),
        annotation=Annotation(ids=ids, labels=np.zeros(n_asked, np.int64), abstained=np.zeros(n_asked, np.bool_)),
        metrics=metrics,
    )


def asked(rule: Any, values: Sequence[float | None]) -> str | None:
    return rule.reason(rounds_with(METRIC[rule.name], values), 1000, 5)


@pytest.mark.parametrize(
    ("rule", "values", "stops"),
    [
        (TargetAccuracy(target=0.9), [0.8, 0.89], False),
        (TargetAccuracy(target=0.9), [0.8, 0.9], True),
        (TargetAccuracy(target=0.9), [0.95, 0.8], False),
        (TargetAccuracy(target=0.9, patience=2), [0.8, 0.95], False),
        (TargetAccuracy(target=0.9, patience=2), [0.8, 0.95, 0.9], True),
        (TargetAccuracy(target=0.9, patience=2), [0.95, 0.8, 0.95], False),
        (TargetAccuracy(target=0.9, patience=2), [0.95], False),
        (ClassificationChange(), [None, 0.1, 0.005], False),
        (ClassificationChange(), [None, 0.005, 0.0], True),
        (ClassificationChange(), [None, 0.0], False),
        (ClassificationChange(), [None, 0.0, 0.0051], False),
        (ClassificationChange(threshold=0.0, patience=1), [None, 0.0], True),
        (KappaAgreement(), [None, 0.99, 0.99], False),
        (KappaAgreement(), [None, 0.98, 1.0, 1.0], True),
        (KappaAgreement(), [None, 1.0, 1.0, 1.0, 0.96], False),
        (KappaAgreement(window=1, threshold=0.9), [None, 0.2, 0.91], True),
        (OverallUncertainty(), [0.6, 0.05], False),
        (OverallUncertainty(), [0.6, 0.049], True),
        (OverallUncertainty(), [0.01, 0.6], False),
    ],
)
def test_a_rule_stops_where_its_paper_does(rule: Any, values: list[float | None], stops: bool) -> None:
    assert (asked(rule, values) is not None) == stops


@pytest.mark.parametrize(
    ("rule", "values", "reason"),
    [
        (
            TargetAccuracy(target=0.9, patience=2),
            [0.91, 0.9375],
            "target accuracy: 0.9100, 0.9375 on 200 validation examples in the last 2 round(s), the target is 0.9",
        ),
        (
            ClassificationChange(),
            [None, 0.0025, 0.0],
            "classification change: 0.0025, 0.0000 of the stop set changed its class in the last 2 round(s), "
            "the threshold is 0.005",
        ),
        (
            KappaAgreement(),
            [None, 0.99, 1.0, 1.0],
            "kappa agreement: the last 3 pair(s) of successive models agree with a mean kappa of 0.9967, "
            "the threshold is 0.99",
        ),
        (
            OverallUncertainty(),
            [0.04],
            "overall uncertainty: the mean entropy of the stop set is 0.0400 nats, the threshold is 0.05",
        ),
    ],
)
def test_a_reason_is_a_sentence_with_the_numbers(rule: Any, values: list[float | None], reason: str) -> None:
    assert asked(rule, values) == reason


RULES = [TargetAccuracy(target=0.9), ClassificationChange(), KappaAgreement(), OverallUncertainty()]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
@given(values=st.lists(st.sampled_from([None, 0.0, 0.004, 0.04, 0.9, 0.98, 1.0]), min_size=1, max_size=7))
@settings(max_examples=60, deadline=None)
def test_a_rule_hangs_on_the_last_rounds_alone_and_goes_on_where_a_metric_is_missing(
    rule: Any, values: list[float | None]
) -> None:
    n = {"classification_change": 2, "kappa_agreement": 3}.get(rule.name, 1)
    reason = asked(rule, values)
    assert reason == asked(rule, values)
    if len(values) < n or None in values[-n:]:
        assert reason is None
    else:
        assert reason == asked(rule, [0.5, *values[-n:]])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_goes_on_after_the_initial_query_and_where_a_metric_is_no_number(rule: Any) -> None:
    assert rule.reason([record(0, {}, n_asked=5)], 1000, 5) is None
    assert asked(rule, [float("nan")] * 4) is None


def test_only_a_target_accuracy_keeps_labels_for_validation() -> None:
    assert {rule.name: rule.n_validation for rule in RULES} == {
        name: 200 * (name == "target_accuracy") for name in METRIC
    }
    assert TargetAccuracy(target=0.8, n_examples=50).n_validation == 50
    assert option_of(TargetAccuracy(target=0.8)) == {
        "name": "target_accuracy", "target": 0.8, "n_examples": 200, "patience": 1,
    }  # fmt: skip


def test_what_looks_at_predictions_declares_the_stop_set() -> None:
    assert {rule.name: rule.needs_stop_set for rule in RULES} == {name: name != "target_accuracy" for name in METRIC}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: TargetAccuracy(target=90.0),
            r"target is 90.0, it must be above 0 and at most 1. 0.9 is an accuracy of",
        ),
        (lambda: TargetAccuracy(target=0.0), r"target is 0.0, it must be above 0"),
        (lambda: TargetAccuracy(target=0.9, n_examples=0), r"n_examples is 0, it must be at least 1"),
        (lambda: TargetAccuracy(target=0.9, patience=0), r"patience is 0, it must be at least 1"),
        (lambda: ClassificationChange(threshold=1.0), r"threshold is 1.0, it must be at least 0 and below 1"),
        (lambda: ClassificationChange(patience=0), r"patience is 0, it must be at least 1"),
        (lambda: KappaAgreement(threshold=1.01), r"threshold is 1.01, it must be above 0 and at most 1"),
        (lambda: KappaAgreement(window=0), r"window is 0, it must be at least 1"),
        (lambda: OverallUncertainty(threshold=0.0), r"threshold is 0.0, it must be above 0. 0.05 is a mean entropy"),
        (lambda: OverallUncertainty(threshold=float("nan")), r"threshold is nan, it must be above 0"),
        (
            lambda: stopping_rules.build("target_accuracy"),
            r"stopping rule 'target_accuracy' needs the option 'target' \(float\)",
        ),
    ],
)
def test_a_bad_option_is_refused_with_what_would_be_right(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()
