"""What was queried: classes, overlap between methods, outliers and kinds of example."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from al_ray.core.seeding import tie_keys
from al_ray.errors import StorageError
from al_ray.report.analysis.calibration import read_table
from al_ray.report.analysis.curves import Floats, Ints
from al_ray.report.analysis.results import POOL, Acquired, ClassShares, Overlap, Queries
from al_ray.report.queried import QueriedExamples
from al_ray.report.read import StudyRecords

_ACQUIRED = "acquired."
_CHOSEN_BY = "chosen_by."
_REGIONS = {"hard to learn": ("confidence", 1), "ambiguous": ("variability", -1), "easy to learn": ("confidence", -1)}
"""Region of a data set's map -> what it is a third by, and whether that is lowest (1) or highest (-1) there."""


@dataclass(frozen=True, kw_only=True)
class TrainingExamples:
    """What passive models say of the training examples of a setting.

    Attributes:
        ids: ``[n_train]``, ascending.
        labels: class indices ``[n_train]``.
        wrong: how often each is got wrong ``[n_train]``, in [0, 1].
        regions: region of the map -> 1 where an example lies in it, 0 where not, NaN where nobody knows ``[n_train]``;
            regions overlap, each is a third.
    """

    ids: Ints
    labels: Ints
    wrong: Floats
    regions: Mapping[str, Floats]

    def share_of(self, values: Floats, asked: npt.NDArray[np.integer]) -> float:
        """Return the mean of some values over those asked examples of which it is known, NaN where of none."""
        at = np.minimum(np.searchsorted(self.ids, asked), len(self.ids) - 1)
        known = values[at[self.ids[at] == asked]]
        known = known[~np.isnan(known)]
        return float(known.mean()) if len(known) else float("nan")


class PassiveModels:
    """What the passive cells of a setting say about its training examples, read once and dropped with the object.

    An example is an outlier where the model that was trained on all labels gets it wrong on the training split itself
    (Gonsior et al. 2022, arXiv 2210.03005). Several passive seeds are averaged: an example that two of five get wrong
    counts for 0.4.

    On the map of a data set (Swayamdipta et al. 2020, arXiv 2009.10795) the third of lowest confidence is hard to
    learn, the third of highest confidence easy, and the third of highest variability ambiguous, as that paper selects
    them for its experiments (section 3); confidence and variability are averaged over passive seeds first. Equal values
    are settled by a hash of the id.

    Args:
        records: of the study.
        cells: the finished passive ones; none where their arrays are not to be read.
    """

    def __init__(self, records: StudyRecords, cells: pd.DataFrame) -> None:
        self._records, self._cells = records, cells
        self._known: dict[str, TrainingExamples | None] = {}

    def examples(self, setting: str) -> TrainingExamples | None:
        """Return what is known of the training examples; None without passive cells."""
        if setting not in self._known:
            self._known[setting] = self._read(self._cells.index[self._cells["setting"] == setting].tolist())
        return self._known[setting]

    def _read(self, cells: Sequence[int]) -> TrainingExamples | None:
        totals: dict[str, Floats] = {}
        n_read: Counter[str] = Counter()
        ids = labels = np.empty(0, np.int64)
        for cell in cells:
            last = int(self._records.cells.at[cell, "n_rounds"]) - 1
            try:
                table = read_table(self._records.cell_store(cell), last, "train", _COLUMNS)
            except StorageError as error:
                self._records.leave_out(f"passive model {self._records.cells.at[cell, 'key']}", error)
                continue
            if not table or (totals and not np.array_equal(table["id"], ids)):
                continue
            ids, labels = table["id"], table["label"].astype(np.int64)
            wrong = (table["log_probs"].argmax(axis=1) != labels).astype(np.float64)
            for name, values in {"wrong": wrong, **{name: table[name] for name in _MAPPED if name in table}}.items():
                totals[name] = totals.get(name, 0.0) + values.astype(np.float64)
                n_read[name] += 1
        if not totals:
            return None
        means = {name: total / n_read[name] for name, total in totals.items()}
        regions = {
            region: _lowest_third(ids, sign * means[name])
            for region, (name, sign) in _REGIONS.items()
            if name in means and not np.isnan(means[name]).all()
        }
        return TrainingExamples(ids=ids, labels=labels, wrong=means["wrong"], regions=regions)


_MAPPED = ("confidence", "variability")
_COLUMNS = ("id", "label", "log_probs", *_MAPPED)


def _lowest_third(ids: Ints, values: Floats) -> Floats:
    """Return 1 for the third of lowest values, 0 for the others, NaN where there is no value ``[n]``."""
    order = np.lexsort((tie_keys(ids, 0), values))[: int((~np.isnan(values)).sum()) // 3]  # NaN comes last
    found = np.where(np.isnan(values), np.nan, 0.0)
    found[order] = 1.0
    return found


def pool_class_counts(dataset: Mapping[str, Any], setting: str, passive: PassiveModels) -> list[int]:
    """Return how many examples of the training split each class has: from the plan, else from passive cells.

    Empty where neither says so.
    """
    if dataset.get("class_counts"):
        return list(dataset["class_counts"])
    examples = passive.examples(setting)
    return (
        [] if examples is None else np.bincount(examples.labels, minlength=len(dataset.get("class_names", []))).tolist()
    )


def queries_of(records: StudyRecords, scores: pd.DataFrame, passive: PassiveModels) -> tuple[Queries, ...]:
    """Return what the finished cells of every setting queried after the initial query.

    Args:
        records: of the study.
        scores: its finished cells.
        passive: what passive models say of the training examples.
    """
    asking = scores.loc[[cell for cell in map(int, scores.index) if records.queried.has(cell)]]
    by_setting = {str(name): members for name, members in asking.groupby("setting", sort=False)}
    return tuple(
        _of_setting(records, setting, by_setting[setting], scores[scores["setting"] == setting], passive)
        for setting in map(str, records.cells["setting"].unique())
        if setting in by_setting
    )


def _of_setting(
    records: StudyRecords, setting: str, asking: pd.DataFrame, scores: pd.DataFrame, passive: PassiveModels
) -> Queries:
    dataset, queried = records.datasets.get(str(scores["dataset"].iloc[0]), {}), records.queried
    counts = pool_class_counts(dataset, setting, passive)
    cells = {str(name): list(map(int, members.index)) for name, members in asking.groupby("method", sort=False)}
    classes = {name: _class_counts(queried, of_method) for name, of_method in cells.items()}
    n_classes = max(len(dataset.get("class_names", [])), len(counts), *map(len, classes.values()))
    pool = np.pad(np.asarray(counts, dtype=np.float64), (0, n_classes - len(counts))) / sum(counts) if counts else None
    n_queried = np.mean([np.mean([len(queried.ids_of(cell)) for cell in of_method]) for of_method in cells.values()])
    n_pool = dataset.get("n_train") or sum(counts)
    return Queries(
        setting=setting,
        class_names=tuple((*dataset.get("class_names", []), *map(str, range(n_classes)))[:n_classes]),
        pool=() if pool is None else tuple(pool.tolist()),
        classes=tuple(_class_shares(classes, n_classes, pool)),
        overlap=_overlap(queried, asking),
        jaccard_by_chance=jaccard_by_chance(float(n_queried), int(n_pool)) if n_pool else None,
        acquired=_acquired(queried, cells, scores, dataset, passive.examples(setting)),
    )


def _class_counts(queried: QueriedExamples, cells: Sequence[int]) -> Ints:
    """Count the classes of what cells queried; examples on which the oracle abstained have none."""
    labels = np.concatenate([queried.labels_of(cell) for cell in cells])
    return np.bincount(labels[labels >= 0])


def _class_shares(classes: Mapping[str, Ints], n_classes: int, pool: Floats | None) -> Iterator[ClassShares]:
    """Compare the classes that methods queried, all seeds together, with the pool's."""
    for method, found in classes.items():
        if not found.sum():
            continue
        counts = np.pad(found, (0, n_classes - len(found)))
        distance = None if pool is None else float(np.abs(counts / counts.sum() - pool).sum() / 2)
        yield ClassShares(method=method, counts=tuple(counts.tolist()), distance=distance)


def _overlap(queried: QueriedExamples, asking: pd.DataFrame) -> tuple[Overlap, ...]:
    """Return the Jaccard overlap of what two methods queried: the mean over seeds of intersection / union.

    Both started from the same initial query, which is left out.

    Deviation: Gonsior et al. (arXiv 2210.03005) unite the queries of all seeds and data sets first, which makes the
    overlap of any two methods larger the more seeds there are.
    """
    total: dict[tuple[tuple[str, ...], int], list[Floats]] = {}
    for _, of_seed in asking.groupby("seed", sort=False):
        methods = tuple(map(str, of_seed["method"].unique()))
        total.setdefault((methods, len(methods)), []).append(_overlaps(queried, of_seed, methods))
    values: dict[tuple[str, str], list[Floats]] = {}
    for (methods, _), matrices in total.items():
        stacked = np.stack(matrices)
        for row, method in enumerate(methods):
            for column, other in enumerate(methods):
                values.setdefault((method, other), []).append(stacked[:, row, column])
    return tuple(
        Overlap(method=method, other=other, jaccard=float(np.mean(of_pair)), n_seeds=len(of_pair))
        for (method, other), of_pair in ((pair, np.concatenate(several)) for pair, several in values.items())
    )


def _overlaps(queried: QueriedExamples, of_seed: pd.DataFrame, methods: Sequence[str]) -> Floats:
    """Return the overlap of any two methods for one seed ``[n_methods, n_methods]``."""
    ids = [queried.ids_of(cell) for cell in map(int, of_seed.index)]
    unique, items = np.unique(np.concatenate(ids), return_inverse=True)
    rows = np.repeat([methods.index(str(method)) for method in of_seed["method"]], [len(each) for each in ids])
    asked = np.zeros((len(methods), len(unique)), dtype=np.float32)
    asked[rows, items] = 1
    shared = asked @ asked.T
    sizes = np.diag(shared)
    return np.asarray(shared / (sizes[:, None] + sizes[None, :] - shared), dtype=np.float64)


def jaccard_by_chance(n_queried: float, n_pool: int) -> float:
    """Return the expected overlap, intersection / union, of two random draws of ``n_queried`` out of ``n_pool``.

    Exact: how many examples two draws share is hypergeometric. The mean number of a query's examples may be a fraction,
    which is rounded.
    """
    from scipy.stats import hypergeom

    n = round(n_queried)
    shared = np.arange(max(0, 2 * n - n_pool), n + 1)
    return float(hypergeom.pmf(shared, n_pool, n, n) @ (shared / (2 * n - shared)))


def _acquired(
    queried: QueriedExamples,
    cells: Mapping[str, Sequence[int]],
    scores: pd.DataFrame,
    dataset: Mapping[str, Any],
    examples: TrainingExamples | None,
) -> tuple[Acquired, ...]:
    """Return what is odd among the queried, and which strategy chose it; means over cells, the pool first."""
    outliers = {} if examples is None else _shares(queried, cells, examples, examples.wrong)
    regions = (
        {}
        if examples is None
        else {region: _shares(queried, cells, examples, is_in) for region, is_in in examples.regions.items()}
    )
    asking, rejected = scores[scores["role"] != "passive"], _rejected(queried, cells, dataset)
    kinds, chosen_by = _kinds(asking, dataset.get("group_counts")), _mean_shares(asking, _CHOSEN_BY)
    names = dict.fromkeys([*outliers, *rejected, *kinds, *chosen_by])
    return tuple(
        Acquired(
            method=name,
            outliers=outliers.get(name),
            rejected=rejected.get(name),
            regions={region: shares[name] for region, shares in regions.items() if name in shares},
            kinds=kinds.get(name, {}),
            chosen_by=chosen_by.get(name, {}),
        )
        for name in sorted(names, key=lambda name: name != POOL)
    )


def _rejected(
    queried: QueriedExamples, cells: Mapping[str, Sequence[int]], dataset: Mapping[str, Any]
) -> dict[str, float]:
    """Return the shares of the queried that got no label, nothing where all of them did."""
    shares = {
        name: float(np.mean([(queried.labels_of(cell) < 0).mean() for cell in of_method]))
        for name, of_method in cells.items()
    }
    pool = {POOL: dataset["n_no_class"] / dataset["n_train"]} if "n_no_class" in dataset else {}
    return {**pool, **shares} if pool or any(shares.values()) else {}


def _shares(
    queried: QueriedExamples, cells: Mapping[str, Sequence[int]], examples: TrainingExamples, values: Floats
) -> dict[str, float]:
    """Return the mean of some values of training examples over what each method queried, and over the pool."""

    def mean_of(of_method: Sequence[int]) -> float:
        shares = np.array([examples.share_of(values, queried.ids_of(cell)) for cell in of_method])
        return float(shares[~np.isnan(shares)].mean()) if not np.isnan(shares).all() else float("nan")

    by_method = {name: mean_of(of_method) for name, of_method in cells.items()}
    return {POOL: float(np.nanmean(values)), **{name: share for name, share in by_method.items() if share == share}}


def _kinds(scores: pd.DataFrame, group_counts: Mapping[str, int] | None) -> dict[str, dict[str, float]]:
    """Return the shares of slices after the last query, as the cells recorded them, and those of the training split."""
    found = _mean_shares(scores, _ACQUIRED)
    if not found:
        return {}
    total = sum((group_counts or {}).values())
    pool = {POOL: {name: n / total for name, n in group_counts.items()}} if group_counts else {}
    return {**pool, **found}


def _mean_shares(scores: pd.DataFrame, prefix: str) -> dict[str, dict[str, float]]:
    """Return what the columns of a prefix hold, means over the cells of each method that has any."""
    columns = [name for name in scores if name.startswith(prefix) and scores[name].notna().any()]
    if not columns:
        return {}
    means = scores.groupby("method", sort=False)[columns].mean()
    found = {
        str(method): {name.removeprefix(prefix): float(row[name]) for name in columns if pd.notna(row[name])}
        for method, row in means.iterrows()
    }
    return {method: shares for method, shares in found.items() if shares}
