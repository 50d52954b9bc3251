"""Reads back what MLflow shows of a study, and hears what the tracker says of it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _Listener(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.sentences: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.sentences.append(record.getMessage())


@contextmanager
def warnings_heard() -> Iterator[list[str]]:
    """Yield what is logged for people to read, which grows meanwhile."""
    listener, logger = _Listener(), logging.getLogger("al_ray.tracking")
    logger.addHandler(listener)
    try:
        yield listener.sentences
    finally:
        logger.removeHandler(listener)


def shown(address: str, study: str = "softmax") -> dict[str, dict[str, Any]]:
    """Return everything that MLflow shows of the study, run name -> what a person sees."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=address)
    experiment = client.get_experiment_by_name(study)
    runs = client.search_runs([experiment.experiment_id])
    found = {run.info.run_name: _view(client, run) for run in runs}
    assert len(found) == len(runs), "two runs have the same name"
    return found


def _view(client: Any, run: Any) -> dict[str, Any]:
    history = [point for name in run.data.metrics for point in client.get_metric_history(run.info.run_id, name)]
    return {
        "status": run.info.status,
        "params": run.data.params,
        "tags": {key: text for key, text in run.data.tags.items() if key.startswith(("al_ray.", "mlflow.parent"))},
        "points": sorted((point.key, point.step, point.value, point.timestamp) for point in history),
        "artifacts": sorted(file.path for file in client.list_artifacts(run.info.run_id)),
        "id": run.info.run_id,
    }


def values(view: dict[str, Any]) -> list[tuple[str, int, float]]:
    """Return the points of a run without their times."""
    return [(key, step, value) for key, step, value, _ in view["points"]]


def without_ids(views: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the runs without what differs between two MLflows: ids, and when a method was written."""
    return {
        name: {**view, "id": 0, "points": view["points"] if view["tags"]["al_ray.kind"] == "cell" else values(view)}
        for name, view in views.items()
    }
