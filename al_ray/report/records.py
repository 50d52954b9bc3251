"""The records of a study as tables: every cell that is planned or recorded, every round, every queried example.

Reads only, and only what is in the study's folder, so a finished, a half-finished and a copied study are all the same.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pyarrow import fs

from al_ray.errors import AlRayError, StorageError
from al_ray.experiment.cell_names import CellNames, dataset_content, model_content, name_cells
from al_ray.experiment.cell_store import CellStore
from al_ray.experiment.spec import SPEC_VERSION, CellSpec, read_spec
from al_ray.experiment.store import StudyStore, cell_key
from al_ray.report.cell_rows import ReadCell, planned_row, recorded_row
from al_ray.report.recorded_cell import read_cell
from al_ray.report.study_folder import open_study

__all__ = ["StudyRecords", "open_study", "read_study"]

QUERY_COLUMNS = ("cell", "round_index", "id", "label", "predicted", "confidence", "brier")
VERSIONS_OF = ("al_ray", "python", "torch", "transformers", "ray", "numpy", "platform")
_N_SHOWN = 10
_N_READERS = 16
_CELLS_AT_ONCE = 250
_ROUNDS_AT_ONCE = 5000


@dataclass(frozen=True, kw_only=True)
class StudyRecords:
    """A study as tables.

    Attributes:
        study: its name.
        address: of its folder.
        store: its folder, for arrays.
        cells: one row a cell, planned or recorded; the index is what ``cell`` means in the other tables. Columns
            ``key, slug, fingerprint, setting, dataset, model, variant, method, base_method, confidence, strategy,
            filters, clipping, role, seed, status, reason, n_rounds, n_rounds_planned, stop_reason, n_test,
            evaluation``.
        rounds: one row for every fine-tuned round: ``cell, round_index, n_labeled``, metrics, ``seconds.PHASE``.
        queries: one row for every queried example but those of passive cells: ``cell, round_index`` (0 = initial
            query), ``id, label`` (-1 = abstained), ``predicted, confidence, brier``.
        datasets: by name, as the plan notes them; class names alone where there is no plan.
        plan_known: whether the cells that wait are known.
        versions: program -> versions that the records name.
        skip_damaged: whether what cannot be read is left out instead of refused.
        notices: what was left out, one sentence each; grows while arrays are read.
    """

    study: str
    address: str
    store: StudyStore
    cells: pd.DataFrame
    rounds: pd.DataFrame
    queries: pd.DataFrame
    datasets: Mapping[str, Mapping[str, Any]]
    plan_known: bool
    versions: Mapping[str, str]
    skip_damaged: bool = False
    notices: list[str] = field(default_factory=list)

    def leave_out(self, what: str, error: AlRayError) -> None:
        """Note that something cannot be read.

        Raises:
            AlRayError: the error itself, where nothing is to be left out.
        """
        if not self.skip_damaged:
            raise error
        self.notices.append(f"{what} was left out: {error}")

    def cell_store(self, cell: int) -> CellStore:
        """Return the folder of a recorded cell."""
        return self.store.cell(str(self.cells.at[cell, "slug"]), str(self.cells.at[cell, "fingerprint"]))


def read_study(address: str, *, skip_damaged: bool = False, filesystem: fs.FileSystem | None = None) -> StudyRecords:
    """Read a whole study, arrays aside.

    Args:
        address: the study's own folder or URI.
        skip_damaged: leave cells out that cannot be read, as failed ones with the reason, instead of refusing.
        filesystem: an open pyarrow file system, on which ``address`` is then a path.

    Raises:
        StorageError: it is no study, holds no cell, or has cells that cannot be read; the message names them.
    """
    store = open_study(address, filesystem=filesystem)
    plan = store.plan()
    planned = {cell_key(cell["slug"], cell["fingerprint"]): cell for cell in plan["cells"]} if plan else {}
    folders = store.folder.names()[1]
    keys = [*(key for key in planned if key in set(folders)), *(name for name in folders if name not in planned)]
    tables = _Tables()
    problems: dict[str, str] = {}
    for key, found in zip(keys, _read_each(store, keys), strict=True):
        if isinstance(found, AlRayError):
            problems[key] = str(found)
        elif found is not None:
            tables.add(key, found)
    _check_problems(store, problems, len(tables.cells), skip_damaged)
    if not tables.cells and not planned:
        raise StorageError(f"{store.root} is a study without cells: nothing has run yet. Run it, then report.")
    cells = _cells(tables.cells, planned, problems)
    return StudyRecords(
        study=store.study,
        address=store.root,
        store=store,
        cells=cells,
        rounds=tables.rounds(),
        queries=tables.queries(),
        datasets={**tables.datasets(cells), **(plan["datasets"] if plan else {})},
        plan_known=plan is not None,
        versions={name: ", ".join(seen) for name, seen in tables.versions.items()},
        skip_damaged=skip_damaged,
        notices=[f"{key} was left out: {problem}" for key, problem in problems.items()],
    )


class _Tables:
    """Gathers cells as they are read, and packs them so that few Python objects are alive at a time."""

    def __init__(self) -> None:
        self.cells: dict[str, ReadCell] = {}
        self.versions: dict[str, dict[str, None]] = {}
        self._class_names: list[list[str]] = []
        self._rounds: list[pd.DataFrame] = []
        self._open_rounds: list[dict[str, float]] = []
        self._queries: list[Mapping[str, npt.NDArray[Any]]] = []

    def add(self, key: str, read: ReadCell) -> None:
        number, cell = len(self.cells), read.cell
        self._open_rounds += [{"cell": number, **row} for row in cell.rounds]
        if len(self._open_rounds) >= _ROUNDS_AT_ONCE:
            self._pack()
        if cell.queries:
            self._queries.append({"cell": np.full(len(cell.queries["id"]), number, dtype=np.int32), **cell.queries})
        for name in VERSIONS_OF:
            if name in cell.provenance:
                self.versions.setdefault(name, {})[str(cell.provenance[name])] = None
        self._class_names.append(list(cell.provenance.get("class_names", [])))
        self.cells[key] = replace(read, cell=replace(cell, rounds=(), queries={}, provenance={}))

    def datasets(self, cells: pd.DataFrame) -> dict[str, dict[str, Any]]:
        """Return what the records of cells say of their data sets, by name."""
        names = cells["dataset"].tolist()[: len(self._class_names)]
        return {name: {"class_names": of_cell} for name, of_cell in zip(names, self._class_names, strict=True)}

    def rounds(self) -> pd.DataFrame:
        self._pack()
        if not self._rounds:
            return pd.DataFrame({"cell": [], "round_index": [], "n_labeled": []}, dtype=np.int64)
        return pd.concat(self._rounds, ignore_index=True)

    def queries(self) -> pd.DataFrame:
        if not self._queries:
            return pd.DataFrame({name: [] for name in QUERY_COLUMNS}, dtype=np.float32)
        return pd.DataFrame({name: np.concatenate([part[name] for part in self._queries]) for name in QUERY_COLUMNS})

    def _pack(self) -> None:
        if self._open_rounds:
            self._rounds.append(pd.DataFrame(self._open_rounds))
            self._open_rounds = []


class _Specs:
    """Reads specs, those that differ in the seed alone only once: validation costs more than a round's record."""

    def __init__(self) -> None:
        self._known: dict[str, CellSpec] = {}

    def read(self, where: str, stored: Mapping[str, Any]) -> CellSpec:
        version = stored.get("spec_version")
        if version != SPEC_VERSION:
            raise StorageError(f"{where} has a spec of version {version!r}, this al_ray reads version {SPEC_VERSION}.")
        text = json.dumps({name: value for name, value in stored.items() if name != "seed"}, sort_keys=True)
        if text not in self._known:
            self._known[text] = read_spec(stored)
        return self._known[text].model_copy(update={"seed": stored["seed"]})


def _read_each(store: StudyStore, keys: Sequence[str]) -> Iterable[ReadCell | AlRayError | None]:
    """Yield what each folder holds, in order: a cell, why it cannot be read, or None for what is no cell."""
    specs = _Specs()

    def read(key: str) -> ReadCell | AlRayError | None:
        try:
            return _read_one(store, key, specs)
        except AlRayError as error:
            return error
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, IndexError) as error:
            # Rounds are read quickly here, without the checks that building each record would make.
            return StorageError(f"{store.folder.where(key)} holds a record that is none of al_ray's: {error!r}.")

    if store.folder.is_local:
        yield from map(read, keys)
        return
    with ThreadPoolExecutor(_N_READERS) as readers:
        for start in range(0, len(keys), _CELLS_AT_ONCE):
            yield from readers.map(read, keys[start : start + _CELLS_AT_ONCE])


def _read_one(store: StudyStore, key: str, specs: _Specs) -> ReadCell | None:
    cell = store.find(key)
    if cell is None:
        return None
    spec = specs.read(cell.folder.where("spec.json"), cell.spec())
    return ReadCell(cell, read_cell(cell, with_queries=not spec.strategy.labels_everything), spec)


def _cells(read: Mapping[str, ReadCell], planned: Mapping[str, Any], problems: Mapping[str, str]) -> pd.DataFrame:
    """Return one row a cell: the recorded ones in the order of their numbers, then those that wait."""
    names = _names(read, planned)
    rows = [recorded_row(key, found, planned.get(key), names[key]) for key, found in read.items()]
    rows += [planned_row(key, cell, problems.get(key, "")) for key, cell in planned.items() if key not in read]
    return pd.DataFrame(rows)


def _names(read: Mapping[str, ReadCell], planned: Mapping[str, Any]) -> dict[str, CellNames]:
    """Name the recorded cells among each other; data and models that the plan names keep the name from there."""
    names = dict(zip(read, name_cells([found.spec for found in read.values()]), strict=True))
    in_plan = [(found.spec, planned[key]) for key, found in read.items() if key in planned]
    datasets = {dataset_content(spec): entry["dataset"] for spec, entry in in_plan}
    models = {model_content(spec): entry["model"] for spec, entry in in_plan}
    return {
        key: replace(
            name,
            dataset=datasets.get(dataset_content(read[key].spec), name.dataset),
            model=models.get(model_content(read[key].spec), name.model),
        )
        for key, name in names.items()
    }


def _check_problems(store: StudyStore, problems: Mapping[str, str], n_read: int, skip_damaged: bool) -> None:
    """Refuse a study with cells that cannot be read, all of them named at once.

    Raises:
        StorageError: there are some, and they are not to be left out, or there are no others.
    """
    if not problems or (skip_damaged and n_read):
        return
    n = len(problems)
    shown = [f"  {problem}" for problem in list(problems.values())[:_N_SHOWN]]
    more = [f"  ... and {n - _N_SHOWN} more"] if n > _N_SHOWN else []
    leave = ", or leave these cells out with --skip-damaged" if n_read else ""
    raise StorageError(
        "\n".join(
            [
                f"{n} of {n + n_read} cells in {store.root} cannot be read:",
                *shown,
                *more,
                f"Put the files back, use the al_ray that wrote them, or move the cells' folders away{leave}.",
            ]
        )
    )
