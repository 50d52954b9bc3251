"""Calibration of confidence: reliability on the test split and on the queried examples.

Arrays are read one cell at a time, the last round's only, and reduced to ten bins at once.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from al_ray.errors import StorageError
from al_ray.records.arrays import decode_table
from al_ray.records.cell import CellStore
from al_ray.records.round import round_file
from al_ray.report.analysis.results import Calibration, ReliabilityBin
from al_ray.report.queried import N_BINS, Bins, bin_sums
from al_ray.report.read import StudyRecords

_N_READERS = 4
_CHUNK = 64


def read_table(store: CellStore, round_index: int, table: str, columns: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """Read some columns of one table of a recorded round's arrays, those that are there.

    Raises:
        StorageError: the file is missing or damaged; the message names it.
    """
    name = round_file(round_index, "parquet")
    where, data = store.folder.where(name), store.folder.read(name)
    if data is None:
        raise StorageError(f"{where} is missing. Put the file back, or move the folder of its cell away.")
    return decode_table(data, where, table, columns)


def calibration_error(sums: Bins) -> float:
    """Return the expected calibration error of binned predictions."""
    return float(np.abs(sums[2] - sums[1]).sum() / sums[0].sum())


def test_bins(records: StudyRecords, scores: pd.DataFrame) -> Iterator[tuple[int, Bins]]:
    """Yield the bins of the last round's test predictions of every finished cell that has some.

    They are those of the cell's own confidence method, also where its learning curve is that of a plain model.
    """
    has_some = (records.cells.loc[scores.index, "n_test"] > 0) & (scores["role"] != "passive")
    numbers = {str(records.cells.at[cell, "key"]): int(cell) for cell in scores.index[has_some]}
    cells = [numbers[key] for key in records.store.part_by_part(numbers)]
    with ThreadPoolExecutor(_N_READERS) as readers:
        for start in range(0, len(cells), _CHUNK):
            chunk = cells[start : start + _CHUNK]
            for cell, found in zip(chunk, readers.map(lambda cell: _bins_of(records, cell), chunk), strict=True):
                if isinstance(found, StorageError):
                    records.leave_out(f"calibration of {records.cells.at[cell, 'key']} on the test split", found)
                else:
                    yield cell, found


def calibrations(records: StudyRecords, scores: pd.DataFrame, *, with_arrays: bool) -> tuple[Calibration, ...]:
    """Return calibration on the test split, then on the queried, by setting and method.

    Errors are means over cells; the bins are summed over them. On the queried it is what the model believed of each
    example when it asked, all rounds together.

    Args:
        records: of the study.
        scores: its finished cells.
        with_arrays: whether test predictions are to be read; if not, they are left out.
    """
    on_test = _on_test(records, scores) if with_arrays else ()
    return (*on_test, *_on_queried(records, scores))


def _on_test(records: StudyRecords, scores: pd.DataFrame) -> Iterator[Calibration]:
    bins = dict(test_bins(records, scores))
    with_bins = scores[scores.index.isin(bins)]
    for (setting, method), members in with_bins.groupby(["setting", "method"], sort=False):
        sums = np.sum([bins[cell] for cell in members.index], axis=0)
        brier = float(members["brier"].mean())
        yield _calibration(setting, method, "test", len(members), float(members["ece"].mean()), brier, sums)


def _on_queried(records: StudyRecords, scores: pd.DataFrame) -> Iterator[Calibration]:
    queried = records.queried
    believed = [cell for cell in map(int, scores.index) if queried.believed(cell)]
    for (setting, method), members in scores.loc[believed].groupby(["setting", "method"], sort=False):
        sums = queried.sums[members.index]
        ece = float(np.mean([calibration_error(of_cell) for of_cell in sums]))
        mean_brier = float(queried.brier[members.index].mean())
        yield _calibration(setting, method, "queried", len(members), ece, mean_brier, sums.sum(0))


def _bins_of(records: StudyRecords, cell: int) -> Bins | StorageError:
    last = int(records.cells.at[cell, "n_rounds"]) - 1
    try:
        table = read_table(records.cell_store(cell), last, "test", ("label", "log_probs", "own_log_probs"))
    except StorageError as error:
        return error
    log_probs = table.get("own_log_probs", table["log_probs"])
    confidence = np.exp(log_probs.max(axis=1).astype(np.float64))
    return bin_sums(confidence, (log_probs.argmax(axis=1) == table["label"]).astype(np.float64))


def _calibration(
    setting: str, method: str, on: Literal["test", "queried"], n_cells: int, ece: float, brier: float, sums: Bins
) -> Calibration:
    bins = tuple(
        ReliabilityBin(
            low=at / N_BINS,
            high=(at + 1) / N_BINS,
            n=int(n),
            confidence=float(confidence / n) if n else None,
            accuracy=float(right / n) if n else None,
        )
        for at, (n, confidence, right) in enumerate(sums.T)
    )
    return Calibration(
        setting=setting,
        method=method,
        on=on,
        n=int(sums[0].sum()),
        n_cells=n_cells,
        ece=ece,
        brier=None if np.isnan(brier) else brier,
        bins=bins,
    )
