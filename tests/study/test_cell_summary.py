"""What is kept of a finished cell beside its rounds."""

import numpy as np
import pytest

from al_ray.core.types import Annotation, Query, RoundRecord
from al_ray.study.cell import summarize


def test_a_metric_that_the_first_rounds_lack_has_a_last_value_and_no_area() -> None:
    nothing = Query(ids=np.empty(0, np.int64), scores=np.empty(0))
    annotation = Annotation(ids=nothing.ids, labels=nothing.ids, abstained=np.empty(0, np.bool_))

    def record(index: int, **metrics: float) -> RoundRecord:
        return RoundRecord(round_index=index, n_labeled=index, query=nothing, annotation=annotation, metrics=metrics)

    summary = summarize([record(0), record(1, accuracy=0.5), record(2, accuracy=0.7, stop_set_changed=0.2)])
    assert summary["final"] == {"accuracy": 0.7, "stop_set_changed": 0.2}
    assert summary["area_under_curve"] == {"accuracy": pytest.approx(0.6)}
