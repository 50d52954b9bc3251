"""The report of a study: its page, and the same numbers as files of tables beside it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from al_ray.report.analysis import analyse
from al_ray.report.analysis.results import StudyResults
from al_ray.report.page.render import render_page
from al_ray.report.read import read_study
from al_ray.storage.address import below
from al_ray.storage.folder import Folder

PAGE = "report.html"
FOLDER = "report"
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
"""Table of :class:`StudyResults`, which is also the name of its two files -> what it holds."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """A report that is not written yet.

    Attributes:
        results: what it says.
        made_at: when, as text for people.
        study_folder: of the study.
    """

    results: StudyResults
    made_at: str
    study_folder: Folder


def build_report(
    address: str,
    *,
    description: str = "",
    skip_damaged: bool = False,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Report:
    """Read a study and work out everything that its report says.

    Args:
        address: the study's own folder or URI; finished, half finished, or a copy.
        description: one paragraph for people, which the records do not hold.
        skip_damaged: leave cells out whose records cannot be read, and say so on the page, instead of refusing.
        now: tells the time.

    Raises:
        StorageError: no study, no cell, or records that cannot be read; the message names the files.
    """
    records = read_study(address, skip_damaged=skip_damaged)
    results = analyse(records, description=description)
    made_at = f"{now().astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    return Report(results=results, made_at=made_at, study_folder=records.store.folder)


def write_report(report: Report, out: str | None = None) -> list[str]:
    """Write the page and its tables, each file whole or not at all; older ones of the same name are replaced.

    Args:
        report: what to write.
        out: folder or URI; None = ``report`` inside the study's folder, beside its cells.

    Returns:
        the locations of the files, the page first: what is to be logged to MLflow. They open the files again and may
        hold a key, so show them through :func:`al_ray.errors.without_secrets`.

    Raises:
        StorageError: the folder cannot be written.
    """
    folder = report.study_folder.child(FOLDER) if out is None else Folder.open(out)
    files = {PAGE: render_page(report.results, made_at=report.made_at, tables=TABLES).encode("utf-8")}
    for name in TABLES:
        table = getattr(report.results, name)
        files[f"{name}.csv"] = table.to_csv(index=False).encode("utf-8")
        files[f"{name}.parquet"] = _parquet(table)
    for name, data in files.items():
        folder.write(name, data, f"the report of study {report.results.study}")
    return [below(folder.location, name) for name in files]


def _parquet(table: pd.DataFrame) -> bytes:
    sink = BytesIO()
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), sink, compression="zstd")
    return sink.getvalue()
