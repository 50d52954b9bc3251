"""What was queried: classes, overlap between methods, outliers and kinds of example."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from al_ray.errors import StorageError
from al_ray.report.analysis.calibration import read_table
from al_ray.report.read import StudyRecords

POOL = "pool"
_ACQUIRED = "acquired."

Floats = npt.NDArray[np.float64]


def queried_by_method(records: StudyRecords, scores: pd.DataFrame) -> pd.DataFrame:
    """Return what finished cells queried after the initial query, with ``setting, method, seed`` of the cell."""
    asked = records.queries[(records.queries["round_index"] > 0) & records.queries["cell"].isin(scores.index)]
    names = scores[["setting", "method", "seed"]].astype({"setting": "category", "method": "category"})
    return asked[["cell", "id", "label"]].join(names, on="cell")


class PassiveModels:
    """What the passive cells of a setting say about its training examples, read once and dropped with the object.

    An example is an outlier where the model that was trained on all labels gets it wrong on the training split itself
    (Gonsior et al. 2022, arXiv 2210.03005). Several passive seeds are averaged: an example that two of five get wrong
    counts for 0.4.
    """

    def __init__(self, records: StudyRecords, scores: pd.DataFrame) -> None:
        self._records = records
        self._cells = scores[scores["role"] == "passive"]
        self._known: dict[str, tuple[Floats, npt.NDArray[np.int64], npt.NDArray[np.int64]] | None] = {}

    def wrong(self, setting: str) -> tuple[npt.NDArray[np.int64], Floats] | None:
        """Return ids ``[n_train]``, ascending, and how often each is got wrong; None without passive cells."""
        known = self._read(setting)
        return None if known is None else (known[1], known[0])

    def class_counts(self, setting: str, n_classes: int) -> list[int] | None:
        """Return how many training examples each class has, None without passive cells."""
        known = self._read(setting)
        return None if known is None else np.bincount(known[2], minlength=n_classes).tolist()

    def _read(self, setting: str) -> tuple[Floats, npt.NDArray[np.int64], npt.NDArray[np.int64]] | None:
        if setting not in self._known:
            self._known[setting] = self._average(self._cells[self._cells["setting"] == setting].index.tolist())
        return self._known[setting]

    def _average(self, cells: Sequence[int]) -> tuple[Floats, npt.NDArray[np.int64], npt.NDArray[np.int64]] | None:
        total: Floats | None = None
        ids = labels = np.empty(0, np.int64)
        n_read = 0
        for cell in cells:
            last = int(self._records.cells.at[cell, "n_rounds"]) - 1
            try:
                table = read_table(self._records.cell_store(cell), last, "train", ("id", "label", "log_probs"))
            except StorageError as error:
                self._records.leave_out(f"passive model {self._records.cells.at[cell, 'key']}", error)
                continue
            if not table or (total is not None and not np.array_equal(table["id"], ids)):
                continue
            wrong = (table["log_probs"].argmax(axis=1) != table["label"]).astype(np.float64)
            ids, labels = table["id"], table["label"].astype(np.int64)
            total = wrong if total is None else total + wrong
            n_read += 1
        return None if total is None else (total / n_read, ids, labels)


def pool_class_counts(records: StudyRecords, setting: str, passive: PassiveModels) -> list[int] | None:
    """Return how many examples of the training split each class has: from the plan, else from passive cells."""
    dataset = dataset_of(records, setting)
    counts = dataset.get("class_counts")
    return list(counts) if counts else passive.class_counts(setting, len(dataset.get("class_names", [])))


def dataset_of(records: StudyRecords, setting: str) -> Mapping[str, Any]:
    """Return what is known of a setting's data set."""
    name = records.cells.loc[records.cells["setting"] == setting, "dataset"].iloc[0]
    return records.datasets.get(str(name), {})


def class_table(records: StudyRecords, asked: pd.DataFrame, passive: PassiveModels) -> pd.DataFrame:
    """Return class shares among the queried: ``setting, method, class_index, class_name, n, share, pool_share``.

    All seeds together; examples on which the oracle abstained have no class. ``pool_share`` is NaN where nothing says
    how the classes of the training split are distributed.
    """
    rows = []
    for setting, members in asked[asked["label"] >= 0].groupby("setting", sort=False):
        pool = pool_class_counts(records, str(setting), passive)
        names = dataset_of(records, str(setting)).get("class_names", [])
        n_classes = max(len(names), len(pool or ()), int(members["label"].max()) + 1)
        shares = np.full(n_classes, np.nan) if not pool else _padded(pool, n_classes) / sum(pool)
        for method, queried in members.groupby("method", sort=False):
            counts = np.bincount(queried["label"].astype(np.int64), minlength=n_classes)
            rows += [
                (setting, method, at, names[at] if at < len(names) else str(at), int(n), n / counts.sum(), shares[at])
                for at, n in enumerate(counts)
            ]
    columns = ["setting", "method", "class_index", "class_name", "n", "share", "pool_share"]
    return pd.DataFrame(rows, columns=columns)


def overlap_table(asked: pd.DataFrame) -> pd.DataFrame:
    """Return the Jaccard overlap of what two methods queried: ``setting, method, other, jaccard, n_seeds``.

    The mean over seeds of intersection / union; both started from the same initial query, which is left out.

    Deviation: Gonsior et al. (arXiv 2210.03005) unite the queries of all seeds and data sets first, which makes the
    overlap of any two methods larger the more seeds there are.
    """
    rows = []
    for setting, members in asked.groupby("setting", sort=False):
        total: dict[tuple[str, str], list[float]] = {}
        for _, of_seed in members.groupby("seed", sort=False):
            for pair, value in _overlaps(of_seed):
                total.setdefault(pair, []).append(value)
        rows += [(setting, *pair, float(np.mean(values)), len(values)) for pair, values in total.items()]
    return pd.DataFrame(rows, columns=["setting", "method", "other", "jaccard", "n_seeds"])


def jaccard_by_chance(n_queried: float, n_pool: int) -> float:
    """Return the expected overlap, intersection / union, of two random draws of ``n_queried`` out of ``n_pool``.

    Exact: how many examples two draws share is hypergeometric. The mean number of a query's examples may be a fraction,
    which is rounded.
    """
    from scipy.stats import hypergeom

    n = round(n_queried)
    shared = np.arange(max(0, 2 * n - n_pool), n + 1)
    return float(hypergeom.pmf(shared, n_pool, n, n) @ (shared / (2 * n - shared)))


def outlier_table(asked: pd.DataFrame, passive: PassiveModels) -> pd.DataFrame:
    """Return the share of outliers among the queried: ``setting, method, outliers, n_cells``; the pool's first.

    Means over cells; nothing for a setting without passive cells.
    """
    rows: list[tuple[str, str, float, int]] = []
    for setting, members in asked.groupby("setting", sort=False):
        wrong = passive.wrong(str(setting))
        if wrong is None:
            continue
        ids, share = wrong
        at = np.minimum(np.searchsorted(ids, members["id"]), len(ids) - 1)
        known = ids[at] == members["id"]
        is_outlier = pd.Series(np.where(known, share[at], np.nan), index=members.index)
        by_cell = is_outlier.groupby([members["method"], members["cell"]], sort=False).mean()
        rows.append((str(setting), POOL, float(share.mean()), 0))
        rows += [
            (str(setting), str(method), float(of_cells.mean()), len(of_cells))
            for method, of_cells in by_cell.groupby(level=0, sort=False)
        ]
    return pd.DataFrame(rows, columns=["setting", "method", "outliers", "n_cells"])


def kind_table(records: StudyRecords, scores: pd.DataFrame) -> pd.DataFrame:
    """Return the share of each data slice among the queried: ``setting, method, kind, share``; the pool's first.

    Means over cells of ``acquired.SLICE`` after the last query.
    """
    names = [name for name in scores if name.startswith(_ACQUIRED)]
    rows: list[tuple[str, str, str, float]] = []
    for setting, members in scores[scores["role"] != "passive"].groupby("setting", sort=False):
        kinds = [name for name in names if members[name].notna().any()]
        if not kinds:
            continue
        pool = _pool_kinds(dataset_of(records, str(setting)).get("group_counts"))
        rows += [(str(setting), POOL, kind, share) for kind, share in pool.items()]
        means = members.groupby("method", sort=False)[kinds].mean()
        for method, row in means.iterrows():
            rows += [(str(setting), str(method), name.removeprefix(_ACQUIRED), float(row[name])) for name in kinds]
    return pd.DataFrame(rows, columns=["setting", "method", "kind", "share"])


def _overlaps(of_seed: pd.DataFrame) -> Iterator[tuple[tuple[str, str], float]]:
    """Yield the overlap of every ordered pair of methods for one seed, one cell each."""
    methods, names = pd.factorize(of_seed["method"])
    items, unique = pd.factorize(of_seed["id"])
    asked = np.zeros((len(names), len(unique)), dtype=np.float32)
    asked[methods, items] = 1
    shared = asked @ asked.T
    sizes = np.diag(shared)
    jaccard = shared / (sizes[:, None] + sizes[None, :] - shared)
    for row, method in enumerate(names):
        for column, other in enumerate(names):
            yield (str(method), str(other)), float(jaccard[row, column])


def _pool_kinds(counts: Mapping[str, int] | None) -> dict[str, float]:
    """Return the slices' shares of the training split."""
    if not counts:
        return {}
    total = sum(counts.values())
    return {name: n / total for name, n in counts.items()}


def _padded(counts: Sequence[int], n: int) -> Floats:
    return np.pad(np.asarray(counts, dtype=np.float64), (0, n - len(counts)))
