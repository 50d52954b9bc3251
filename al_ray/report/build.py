"""The report of a study: its page, and the same numbers as files of tables beside it."""

from datetime import UTC, datetime
from io import BytesIO

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from al_ray.report.analysis.results import StudyResults
from al_ray.report.page.render import render_page
from al_ray.storage.address import below
from al_ray.storage.folder import Folder

PAGE = "report.html"
FOLDER = "report"
"""Where a report stands unless told otherwise: inside the study's folder, beside its cells."""
TABLES = {
    "cells": "every cell, planned or recorded: how far it is and, finished, what it comes to",
    "curves": "mean learning curves with bootstrap bands",
    "ranking": "methods by mean accuracy of all points, over all settings and on each",
    "comparisons": "paired comparisons with random queries, with the best method, and of clipped with unclipped",
    "labels_saved": "labels saved against random queries at fixed accuracy levels",
    "gap": "share of the way from random queries to an upper bound that saw all labels",
    "calibration": "calibration error, Brier score and reliability on the test split and on the queried",
    "classes": "classes of the queried against the pool",
    "overlap": "Jaccard overlap of what two methods queried",
    "acquired": "outliers, regions of the data map, texts of no class and kinds of example among the queried, and "
    "which strategy chose",
    "agreement": "Kendall's tau-b between rankings under two values of one axis, and between seeds",
    "crossings": "from how many labels on one method is ahead of another",
    "costs": "seconds by phase and per label saved",
}
"""Table of :class:`StudyResults`, which is also the name of its two files -> what it holds."""


def write_report(results: StudyResults, folder: Folder, *, made_at: datetime) -> list[str]:
    """Write the page and its tables, each file whole or not at all; older ones of the same name are replaced.

    Args:
        results: what the report says.
        folder: where to.
        made_at: time that the page shows, in UTC.

    Returns:
        the locations of the files, the page first: what is to be logged to MLflow. They open the files again and may
        hold a key, so show them through :func:`al_ray.errors.without_secrets`.

    Raises:
        StorageError: the folder cannot be written.
    """
    page = render_page(results, made_at=f"{made_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC", tables=TABLES)
    files = {PAGE: page.encode("utf-8")}
    for name in TABLES:
        table = getattr(results, name)
        files[f"{name}.csv"] = table.to_csv(index=False).encode("utf-8")
        files[f"{name}.parquet"] = _parquet(table)
    for name, data in files.items():
        folder.write(name, data, f"the report of study {results.study}")
    return [below(folder.location, name) for name in files]


def _parquet(table: pd.DataFrame) -> bytes:
    sink = BytesIO()
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), sink, compression="zstd")
    return sink.getvalue()
