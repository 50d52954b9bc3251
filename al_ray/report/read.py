"""Read a whole study: one row a cell, a round and a queried example."""

import hashlib
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
from al_ray.records.cell import CellStatus, CellStore, failure_words
from al_ray.records.json import FORMAT, check_shapes
from al_ray.records.round import decode_round, round_file, round_indices
from al_ray.records.study import StudyStore, cell_key, open_study
from al_ray.study.names import JOIN, CellNames, Method, dataset_content, model_content, name_cells
from al_ray.study.spec import SPEC_VERSION, CellSpec, read_spec

Columns = dict[str, npt.NDArray[Any]]

_BEFORE_RECORD, _AFTER_RECORD = b'"record":', b',"recorded_at":'


@dataclass(frozen=True, kw_only=True)
class RecordedCell:
    """What one cell's folder says, arrays aside.

    Attributes:
        spec: its identity, in JSON form.
        status: how far it is.
        reason: why it failed, empty otherwise.
        n_recorded: rounds recorded, the initial query included.
        stop_reason: why it ended, empty while it runs.
        rounds: one row for every fine-tuned round: ``round_index``, ``n_labeled``, every metric, ``seconds.PHASE``.
        queries: one row for every queried example, in order: ``round_index``, ``id``, ``label`` (-1 = abstained), and
            what the model believed of it: ``predicted``, ``confidence``, ``brier`` (NaN and -1 for an initial query).
        n_test: rows of the test predictions of the last round, 0 where there are none.
        provenance: of its last run.
    """

    spec: Mapping[str, Any]
    status: CellStatus
    reason: str = ""
    n_recorded: int = 0
    stop_reason: str = ""
    rounds: Sequence[Mapping[str, float]] = ()
    queries: Columns = field(default_factory=dict)
    n_test: int = 0
    provenance: Mapping[str, Any] = field(default_factory=dict)


def read_cell(store: CellStore, *, with_queries: bool = True) -> RecordedCell:
    """Read the records of one cell.

    Args:
        store: its folder.
        with_queries: false for cells whose query is the whole pool.

    Raises:
        StorageError: a file is truncated, changed or missing; the message names it.
    """
    status = store.status()
    indices = round_indices(store.folder.names()[0])
    names = [round_file(index) for index in range(len(indices))]
    texts = store.folder.read_all(names)
    if any(text is None for text in texts):
        store.recorded_rounds()  # says which round is missing
    contents = [
        read_round(store.folder.where(name), index, text or b"")
        for index, (name, text) in enumerate(zip(names, texts, strict=True))
    ]
    records = [content["record"] for content in contents]
    if not _is_a_story(records):
        store.recorded_rounds()  # says what cannot have happened
    return RecordedCell(
        spec=store.spec(),
        status=status,
        reason=_reason(store) if status == "failed" else "",
        n_recorded=len(records),
        stop_reason=(records[-1]["stop_reason"] or "") if records else "",
        rounds=[_fitted_round(record) for record in records if record["metrics"]],
        queries=_queries(records) if with_queries else {},
        n_test=int(contents[-1]["tables"].get("test", 0)) if contents else 0,
        provenance=(store.provenance() or [{}])[-1],
    )


def read_round(where: str, index: int, text: bytes) -> dict[str, Any]:
    """Return the content of a round's file, checked by its checksum.

    A record stands in its file as the very text that the checksum was made of, so hashing those bytes proves it without
    writing it out again; a file that was laid out anew takes the slow way.

    Raises:
        StorageError: it is truncated, was changed, or is the record of another round.
    """
    start, end = text.find(_BEFORE_RECORD) + len(_BEFORE_RECORD), text.rfind(_AFTER_RECORD)
    try:
        content = json.loads(text)
        digest = hashlib.sha256(text[start:end]).hexdigest()
        if content["format"] == FORMAT and content["sha256"] == digest and content["record"]["round_index"] == index:
            check_shapes(where, content)
            return dict(content)
    except StorageError:
        raise
    except (ValueError, KeyError, TypeError):
        pass
    entry = decode_round(where, index, text)
    return {"record": entry.record.to_json(), "tables": dict(entry.tables)}


def _is_a_story(records: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether labels add up and no example is asked twice."""
    n_answered = 0
    asked: list[int] = []
    for record in records:
        if record["n_labeled"] != n_answered:
            return False
        asked += record["query"]["ids"]
        n_answered += len(record["query"]["ids"]) - sum(record["annotation"]["abstained"])
    return len(set(asked)) == len(asked)


def _fitted_round(record: Mapping[str, Any]) -> dict[str, float]:
    seconds = {f"seconds.{phase}": value for phase, value in record["seconds"].items()}
    return {"round_index": record["round_index"], "n_labeled": record["n_labeled"], **record["metrics"], **seconds}


def _queries(records: Sequence[Mapping[str, Any]]) -> Columns:
    asked = [record for record in records if record["query"]["ids"]]
    sizes = [len(record["query"]["ids"]) for record in asked]
    labels = np.array([label for record in asked for label in record["annotation"]["labels"]], dtype=np.int32)
    beliefs = [row for record in asked for row in record["query"]["probs"] or ()]
    is_believed = np.repeat([record["query"]["probs"] is not None for record in asked], sizes).astype(np.bool_)
    found: Columns = {
        "round_index": np.repeat([record["round_index"] for record in asked], sizes).astype(np.int32),
        "id": np.array([i for record in asked for i in record["query"]["ids"]], dtype=np.int64),
        "label": labels,
        "predicted": np.full(len(labels), -1, dtype=np.int32),
        "confidence": np.full(len(labels), np.nan, dtype=np.float32),
        "brier": np.full(len(labels), np.nan, dtype=np.float32),
    }
    if beliefs:
        _add_beliefs(found, np.array(beliefs, dtype=np.float64), is_believed)
    return found


def _add_beliefs(found: Columns, probs: npt.NDArray[np.float64], at: npt.NDArray[np.bool_]) -> None:
    """Reduce what was believed to what a report needs of it; an abstained example has no Brier score."""
    labels = found["label"][at].astype(np.int64)
    predicted = probs.argmax(axis=1)
    rows = np.arange(len(probs))
    right = probs[rows, np.maximum(labels, 0)]
    brier = (probs**2).sum(axis=1) - 2 * right + 1
    found["predicted"][at] = predicted
    found["confidence"][at] = probs[rows, predicted]
    found["brier"][at] = np.where(labels < 0, np.nan, brier)


def _reason(store: CellStore) -> str:
    reason = store.failure() or {}
    return failure_words(reason).strip().splitlines()[0] if reason else "no reason was recorded"


@dataclass(frozen=True)
class ReadCell:
    """A cell that was read: its folder, its records and its validated spec."""

    store: CellStore
    cell: RecordedCell
    spec: CellSpec


def recorded_row(key: str, read: ReadCell, planned: Mapping[str, Any] | None, names: CellNames) -> dict[str, Any]:
    """Return the row of a recorded cell.

    Args:
        key: name of its folder.
        read: what was read.
        planned: its entry in the plan, which knows what the whole grid calls it; None where it is in none.
        names: what it is called among the recorded cells, used where the plan is silent.
    """
    spec, recorded = read.spec, read.cell
    place = names.dataset, names.model, JOIN.join(names.variant)
    if planned is not None:
        place = planned["dataset"], planned["model"], planned["variant"]
    return {
        **_identity(*place, names.method, spec.seed),
        "key": key,
        "slug": read.store.slug,
        "fingerprint": read.store.fingerprint,
        "status": recorded.status,
        "reason": recorded.reason,
        "n_rounds": recorded.n_recorded,
        "n_rounds_planned": 2 if spec.strategy.labels_everything else spec.rounds + 2,
        "stop_reason": recorded.stop_reason,
        "n_test": recorded.n_test,
        "evaluation": spec.evaluation,
    }


def planned_row(key: str, planned: Mapping[str, Any], method: Method, problem: str) -> dict[str, Any]:
    """Return the row of a cell that is planned and has no records, or none that can be read.

    Args:
        key: name of its folder.
        planned: its entry in the plan.
        method: of its entry.
        problem: why its records cannot be read; empty where it waits.
    """
    names = planned["dataset"], planned["model"], planned["variant"]
    return {
        **_identity(*names, method, planned["seed"]),
        "key": key,
        "slug": planned["slug"],
        "fingerprint": planned["fingerprint"],
        "status": "failed" if problem else "waiting",
        "reason": problem,
        "n_rounds": 0,
        "n_rounds_planned": 0,
        "stop_reason": "",
        "n_test": 0,
        "evaluation": "",
    }


def _identity(dataset: str, model: str, variant: str, method: Method, seed: int) -> dict[str, Any]:
    return {
        "setting": " · ".join(part for part in (dataset, model, variant) if part),
        "dataset": dataset,
        "model": model,
        "variant": variant,
        "method": method.name,
        "base_method": method.unclipped,
        "confidence": method.confidence,
        "strategy": method.strategy,
        "filters": JOIN.join(method.filters),
        "clipping": JOIN.join(method.clipping),
        "role": method.role,
        "seed": seed,
    }


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
        methods: of all cells, by the name that ``cells`` has for it.
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
    methods: Mapping[str, Method]
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


def read_study(
    address: str,
    *,
    grid: Mapping[str, Any] | None = None,
    skip_damaged: bool = False,
    filesystem: fs.FileSystem | None = None,
) -> StudyRecords:
    """Read a whole study, arrays aside.

    Args:
        address: the study's own folder or URI.
        grid: a plan whose cells are read, and no others; None = all that the folder holds, with the plan kept there.
        skip_damaged: leave cells out that cannot be read, as failed ones with the reason, instead of refusing.
        filesystem: an open pyarrow file system, on which ``address`` is then a path.

    Raises:
        StorageError: it is no study, holds no cell, or has cells that cannot be read; the message names them.
    """
    store = open_study(address, filesystem=filesystem)
    plan = store.plan() if grid is None else grid
    planned = {cell_key(cell["slug"], cell["fingerprint"]): cell for cell in plan["cells"]} if plan else {}
    folders = [name for name in store.folder.names()[1] if grid is None or name in planned]
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
    names = _names(tables.cells, planned)
    waiting = _planned_methods(plan or {}, {name.method.name: name.method for name in names.values()})
    cells = _cells(tables.cells, planned, problems, names, waiting)
    return StudyRecords(
        study=store.study,
        address=store.root,
        store=store,
        cells=cells,
        rounds=tables.rounds(),
        queries=tables.queries(),
        datasets={**tables.datasets(cells), **(plan["datasets"] if plan else {})},
        methods={each.name: each for each in (*waiting.values(), *(name.method for name in names.values()))},
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


def _planned_methods(plan: Mapping[str, Any], recorded: Mapping[str, Method]) -> dict[str, Method]:
    """Return the method behind each text that stands for one in a plan; an older plan knows its name alone."""
    methods = {text: Method.from_json(data) for text, data in plan.get("methods", {}).items()}
    for cell in plan.get("cells", ()):
        if cell["method"] not in methods:
            name = cell["method"].removesuffix(JOIN + cell["variant"]) if cell["variant"] else cell["method"]
            methods[cell["method"]] = recorded.get(name) or Method.of_name(name, cell["strategy"])
    return methods


def _cells(
    read: Mapping[str, ReadCell],
    planned: Mapping[str, Any],
    problems: Mapping[str, str],
    names: Mapping[str, CellNames],
    waiting: Mapping[str, Method],
) -> pd.DataFrame:
    """Return one row a cell: the recorded ones in the order of their numbers, then those that wait."""
    rows = [recorded_row(key, found, planned.get(key), names[key]) for key, found in read.items()]
    rows += [
        planned_row(key, cell, waiting[cell["method"]], problems.get(key, ""))
        for key, cell in planned.items()
        if key not in read
    ]
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
