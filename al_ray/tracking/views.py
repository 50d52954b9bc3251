"""Saved views of a study's page in MLflow: which runs, columns, order and charts each of them opens with.

MLflow keeps a view as a tag of the experiment, ``mlflow.sharedViewState.KEY``, written here as its own *Save as new
view* writes it (seen in MLflow 3.17). The page's address opens one by its key; whether it opens as a table or as charts
stands in the address alone.
"""

import base64
import json
import urllib.parse
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

KIND, STUDY_ID = "al_ray.kind", "al_ray.study_id"
"""Tags of every run: what it is, and whose."""
_TAG = "mlflow.sharedViewState."
SETTING = ("dataset", "model", "variant")
"""Parameters of a method's run that say on what the method was tried."""
BEST_FIRST = "metrics.`aulc`"
_MAX_SETTINGS = 20
_CHART_HEIGHT = 400  # pixels, so that a laptop's window holds a chart with its legend
_METHOD_COLUMNS = (
    "metrics.`aulc`", "metrics.`final_accuracy`", "metrics.`n_seeds`", "params.`confidence`", "params.`strategy`",
    "params.`filters`", "params.`dataset`", "params.`model`", "params.`learner`",
)  # fmt: skip
_CELL_COLUMNS = (
    "metrics.`aulc`", "metrics.`final_accuracy`", "metrics.`final_macro_f1`", "metrics.`ece`", "params.`confidence`",
    "params.`strategy`", "params.`filters`", "params.`dataset`", "params.`model`", "params.`seed`",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SavedView:
    """One saved view.

    Attributes:
        key: what its address and its tag call it; of one study alone, since studies of one name may share a page.
        name: in the menu *Views*.
        state: what MLflow's page keeps of itself.
        is_chart: whether it is meant to be opened as charts.
    """

    key: str
    name: str
    state: Mapping[str, Any]
    is_chart: bool

    @property
    def tag(self) -> str:
        """Return the name of the experiment's tag that holds the view."""
        return _TAG + self.key

    def value(self, made_at: int) -> str:
        """Return the tag's value; the same for the same view and time (milliseconds)."""
        packed = base64.b64encode(zlib.compress(json.dumps(self.state, separators=(",", ":")).encode())).decode()
        return json.dumps({"name": self.name, "createdAt": made_at, "updatedAt": made_at, "state": f"deflate;{packed}"})

    def path(self, experiment_id: str) -> str:
        """Return what follows a server's address to open the view."""
        mode = {"compareRunsMode": "CHART"} if self.is_chart else {}
        return f"/#/experiments/{experiment_id}/runs?{urllib.parse.urlencode({'viewStateShareKey': self.key, **mode})}"


def saved_views(study_id: str, settings: Iterable[Mapping[str, str]]) -> list[SavedView]:
    """Return the views of a study: four, and one for each of its settings where there are several.

    Args:
        study_id: which runs are its own.
        settings: data set, model and variant of every method, by the names of :data:`SETTING`, in any order.
    """
    methods = {f"tags.`{KIND}`": "method", f"tags.`{STUDY_ID}`": study_id}
    cells = {**methods, f"tags.`{KIND}`": "cell"}
    own = study_id[:6]
    views = [
        _view(f"curves-{own}", "Learning curves", methods, _METHOD_COLUMNS, _CURVES),
        _view(f"ranking-{own}", "Ranking", methods, _METHOD_COLUMNS),
        _view(f"matters-{own}", "What matters", methods, _METHOD_COLUMNS, _MATTERS, runListHidden=True),
        _view(f"cells-{own}", "Cells", cells, _CELL_COLUMNS),
    ]
    distinct = sorted({tuple(each.get(name, "") for name in SETTING) for each in settings})
    if not 1 < len(distinct) <= _MAX_SETTINGS:
        return views
    for number, setting in enumerate(distinct, 1):
        values = {f"params.`{name}`": value for name, value in zip(SETTING, setting, strict=True) if value}
        if all(map(_quoted, values.values())):
            name = f"Setting {' · '.join(values.values())}"
            views.append(_view(f"setting-{number}-{own}", name, methods | values, _METHOD_COLUMNS, _CURVES))
    return views


def _view(
    key: str,
    name: str,
    filters: Mapping[str, str],
    columns: Sequence[str],
    charts: Sequence[Mapping[str, Any]] = (),
    **changed: Any,
) -> SavedView:
    conditions = [f"{column} = {_quoted(value)}" for column, value in filters.items()]
    section = {"uuid": f"{key}-section", "name": name, "display": True, "isReordered": False, "deleted": False}
    state = {
        "searchFilter": " and ".join(conditions),
        "orderByKey": BEST_FIRST,
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(columns),
        "columnOrder": [],
        "columnWidths": {},
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        # A chart of more lines cannot be read; the eye beside a run shows it as well.
        "runsHiddenMode": "FIRST_20_RUNS",
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": False,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
        **changed,
    }
    if charts:
        state["compareRunSections"] = [section | {"isGenerated": False, "columns": 1, "cardHeight": _CHART_HEIGHT}]
        state["compareRunCharts"] = [
            {"uuid": f"{key}-{number}", "metricSectionId": section["uuid"], **_CHART, **chart}
            for number, chart in enumerate(charts)
        ]
    return SavedView(key=key, name=name, state=state, is_chart=bool(charts))


def _quoted(value: str) -> str:
    """Write a text for MLflow's search; empty where it has no way to say it."""
    return next((f"{quote}{value}{quote}" for quote in "'\"" if quote not in value), "")


def _line(metrics: Sequence[str], name: str) -> dict[str, Any]:
    """Return a chart of metrics against the number of labels, which is the step of every point."""
    return {
        "type": "LINE",
        "displayName": name,
        "metricKey": metrics[0],
        "selectedMetricKeys": list(metrics),
        "lineSmoothness": 0,
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "range": {},
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "ignoreOutliers": False,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
    }


_CHART = {"runsCountToCompare": 100, "deleted": False, "isGenerated": False}
_CURVES = (
    _line(["accuracy"], "accuracy against labels"),
    _line(["accuracy", "accuracy_low", "accuracy_high"], "accuracy against labels, with the band of the mean"),
)
_MATTERS = (
    {
        "type": "PARALLEL",
        "displayName": "what the area under the learning curve depends on",
        "selectedParams": ["confidence", "strategy", "filters"],
        "selectedMetrics": ["aulc"],
        "showAllRuns": True,
    },
)
