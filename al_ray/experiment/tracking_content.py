"""What MLflow is shown of the records: points, parameters and the table of queries. Knows nothing of MLflow."""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from al_ray.core.metrics import area_under_curve
from al_ray.experiment.canonical import canonical_json
from al_ray.experiment.recorded_rounds import RecordedRound
from al_ray.names import identifier, with_hash

# MLflow 3 takes 6000 and 250 characters, older servers 500 and 250.
_MAX_VALUE, _MAX_KEY = 500, 250
_COMPARED = ("accuracy", "macro_f1")

# Databases cut what is long, and may take one Unicode form for another; MLflow takes a name for a path.
_TAKEN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_NOT_TAKEN = re.compile(r"[^\w.-]+")

Identity = tuple[str, int, float]


@dataclass(frozen=True, kw_only=True)
class Point:
    """One value of a learning curve; ``step`` is the number of labels."""

    name: str
    step: int
    value: float
    at: datetime

    @property
    def identity(self) -> Identity:
        """Return what tells it from other points of its run."""
        return self.name, self.step, self.value


def round_points(entry: RecordedRound) -> list[Point]:
    """Return what one round shows as metrics; nothing for the initial query, which has no model."""
    record = entry.record
    if not record.metrics:
        return []
    seconds = {f"seconds/{phase}": value for phase, value in record.seconds.items()}
    return _points(entry, {**record.metrics, **seconds, "round_index": float(record.round_index)})


def final_points(entries: Sequence[RecordedRound]) -> list[Point]:
    """Return the figures that compare cells: last value and area under the learning curve of accuracy and macro F1."""
    fitted = [entry.record.metrics for entry in entries if entry.record.metrics]
    names = [name for name in _COMPARED if fitted and all(name in metrics for metrics in fitted)]
    finals = {f"final/{name}": fitted[-1][name] for name in names}
    areas = {f"alc/{name}": area_under_curve([metrics[name] for metrics in fitted]) for name in names}
    return _points(entries[-1], {**finals, **areas}) if entries else []


def _points(entry: RecordedRound, values: Mapping[str, float]) -> list[Point]:
    step, at = entry.record.n_labeled, entry.recorded_at
    return [
        Point(name=shown_name(name), step=step, value=float(value), at=at) for name, value in sorted(values.items())
    ]


def query_table(entries: Iterable[RecordedRound]) -> str:
    """Return everything that was asked and answered as CSV, one row an example, in the order of asking."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["round_index", "id", "score", "label", "abstained"])
    for entry in entries:
        query, annotation = entry.record.query, entry.record.annotation
        columns = (query.ids, query.scores, annotation.labels, annotation.abstained)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        table.writerows([entry.record.round_index, *row] for row in rows)
    return text.getvalue()


def spec_params(spec: Mapping[str, Any]) -> dict[str, str]:
    """Flatten a spec for MLflow's tables: an option shows under its family's name, its fields under dotted names.

    ``{strategy: {name: badge, seed: 1}}`` gives ``strategy = badge`` and ``strategy.seed = 1``; a list of options is
    one text. A text that MLflow would refuse as too long is cut.
    """
    params: dict[str, str] = {}
    for name, value in spec.items():
        _add_params(params, name, value)
    return {shown_name(name): cut(text, _MAX_VALUE) for name, text in params.items()}


def shown_name(name: str) -> str:
    """Return a metric's or parameter's name as MLflow has it: two names never become one.

    A slice such as ``C++`` shows as ``accuracy.C_.`` and a short hash.
    """
    return identifier(name, _TAKEN, _NOT_TAKEN, _MAX_KEY)


def _add_params(params: dict[str, str], path: str, value: Any) -> None:
    if isinstance(value, Mapping):
        if "name" in value:
            params[path] = _words(value["name"])
        for key, inner in value.items():
            if key != "name":
                _add_params(params, f"{path}.{key}", inner)
    elif isinstance(value, list | tuple):
        params[path] = ", ".join(_words(inner) for inner in value) or "none"
    else:
        params[path] = _words(value)


def _words(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping) and "name" in value:
        fields = ", ".join(f"{key}={_words(inner)}" for key, inner in sorted(value.items()) if key != "name")
        return f"{value['name']}({fields})" if fields else str(value["name"])
    return canonical_json(value)


def cut(text: str, limit: int) -> str:
    """Return a text that fits, ending in its own hash where it had to be cut, so that two of them stay apart."""
    return text if len(text) <= limit else with_hash(text, text, limit)
