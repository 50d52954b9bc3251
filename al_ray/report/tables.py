"""The tables that are written beside the page: the same numbers, for machines."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pandas as pd

from al_ray.report.analysis import Analysis
from al_ray.report.analysis.results import Comparison, Ranking

TABLES = {
    "cells": "every cell, planned or recorded: how far it is and, finished, what it comes to",
    "curves": "mean learning curves with bootstrap bands",
    "ranking": "methods by mean accuracy of all points, over all settings and on each",
    "comparisons": "paired comparisons with random queries, with the best method, and of clipped with unclipped",
    "labels_saved": "labels saved against random queries at fixed accuracy levels",
    "calibration": "calibration error, Brier score and reliability on the test split and on the queried",
    "classes": "classes of the queried against the pool",
    "overlap": "Jaccard overlap of what two methods queried",
    "acquired": "outliers and kinds of example among the queried",
    "costs": "seconds by phase and per label saved",
}
_EVERYWHERE = "all settings"


def report_tables(analysis: Analysis) -> dict[str, pd.DataFrame]:
    """Return every table of :data:`TABLES` by its name; one without rows still has its columns."""
    return {
        "cells": _cells(analysis),
        "curves": analysis.curves,
        "ranking": _frame(_ranking_rows(analysis), ["setting", "place", "method"]),
        "comparisons": _frame(_comparison_rows(analysis), ["setting", "what", "method", "against"]),
        "labels_saved": analysis.savings,
        "calibration": analysis.calibration,
        "classes": analysis.classes,
        "overlap": analysis.overlap,
        "acquired": _acquired(analysis),
        "costs": analysis.costs,
    }


def _cells(analysis: Analysis) -> pd.DataFrame:
    known = [name for name in analysis.scores if name not in analysis.records.cells]
    return analysis.records.cells.join(analysis.scores[known])


def _acquired(analysis: Analysis) -> pd.DataFrame:
    outliers = analysis.outliers.rename(columns={"outliers": "share"}).assign(what="outliers", kind="")
    columns = ["setting", "method", "what", "kind", "share"]
    parts = [part[columns] for part in (outliers, analysis.kinds.assign(what="kind")) if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def _ranking_rows(analysis: Analysis) -> Iterator[dict[str, Any]]:
    for ranking in analysis.rankings:
        for place, row in enumerate(ranking.rows, start=1):
            yield {
                "setting": ranking.setting or _EVERYWHERE,
                "place": place,
                "method": row.method,
                "n_cells": row.n_cells,
                "n_cells_planned": row.n_cells_planned,
                "mean_rank": row.mean_rank,
                "passive_share": row.passive_share,
                **_estimates(final=row.final, aulc=row.aulc, aulc_last5=row.aulc_last5),
            }


def _estimates(**estimates: Any) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name, one in estimates.items():
        interval = one.interval if one else None
        found |= {
            name: one.mean if one else None,
            f"{name}_std": one.std if one else None,
            f"{name}_low": interval.low if interval else None,
            f"{name}_high": interval.high if interval else None,
        }
    return found


def _comparison_rows(analysis: Analysis) -> Iterator[dict[str, Any]]:
    for ranking in analysis.rankings:
        yield from _of_ranking(ranking)
    for effect in analysis.clipping:
        yield _comparison(effect.setting, f"clipping: {effect.filters}", effect.comparison)


def _of_ranking(ranking: Ranking) -> Iterator[dict[str, Any]]:
    for row in ranking.rows:
        for what, one in (("against random", row.versus_random), ("against the best", row.versus_best)):
            if one is not None:
                yield _comparison(ranking.setting, what, one)


def _comparison(setting: str | None, what: str, one: Comparison) -> dict[str, Any]:
    interval = one.interval
    values = {name: value for name, value in asdict(one).items() if name != "interval"}
    ends = {"low": interval.low if interval else None, "high": interval.high if interval else None}
    return {"setting": setting or _EVERYWHERE, "what": what, **values, **ends}


def _frame(rows: Iterator[dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    found = list(rows)
    return pd.DataFrame(found) if found else pd.DataFrame(columns=columns)
