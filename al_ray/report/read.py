"""Reader of a whole study: its cells, rounds and queried examples as tables, its methods as values."""

import functools
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from al_ray.core.types import RoundRecord
from al_ray.errors import AlRayError, StorageError
from al_ray.records.cell import SPEC, CellStatus, CellStore, cell_key, failure_words
from al_ray.records.packed import PackedCell
from al_ray.records.study import StudyStore, open_study
from al_ray.report.queried import NOTHING, QueriedCell, QueriedExamples, queried_cell
from al_ray.report.quick import CellRounds, read_rounds
from al_ray.storage.memory import MemoryFolder
from al_ray.study.names import (
    JOIN,
    CellNames,
    Method,
    dataset_content,
    learner_content,
    learner_name,
    name_cells,
    setting_axes,
)
from al_ray.study.spec import SPEC_VERSION, CellSpec, read_spec

SHOWN_VERSIONS = ("al_ray", "python", "torch", "transformers", "ray", "numpy", "platform")
_N_SHOWN = 10
_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")

Columns = Mapping[str, npt.NDArray[Any]]

_NO_ROUNDS: Columns = {name: np.empty(0, np.int64) for name in ("cell", "round_index", "n_labeled")}


@dataclass(frozen=True, kw_only=True)
class StudyRecords:
    """A study as tables.

    Attributes:
        store: its folder, for arrays.
        cells: one row a cell, planned or recorded; the index is what ``cell`` means in the other tables. Columns: those
            of :attr:`al_ray.report.analysis.results.StudyResults.cells` that every cell has.
        rounds: one row for every fine-tuned round: ``cell, round_index, n_labeled``, metrics, ``seconds.PHASE``.
        queried: what every cell but the passive ones queried after its initial query, and what was believed of it.
        datasets: by name, as the plan notes them; class names alone where there is no plan.
        methods: of all cells, by the name that ``cells`` has for it.
        axes: setting -> its values on the axes of the study (:func:`al_ray.study.names.setting_axes`), of settings that
            have records of more than passive cells.
        plan_known: whether the cells that wait are known.
        versions: program -> versions that the records name.
        skip_damaged: whether what cannot be read is left out instead of refused.
        notices: what was left out, one sentence each; grows while arrays are read.
    """

    store: StudyStore
    cells: pd.DataFrame
    rounds: pd.DataFrame
    queried: QueriedExamples
    datasets: Mapping[str, Mapping[str, Any]]
    methods: Mapping[str, Method]
    axes: Mapping[str, Mapping[str, str]]
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


@dataclass(frozen=True, kw_only=True)
class RecordedCell:
    """What one cell's folder says, arrays aside.

    Attributes:
        spec: its identity.
        facts: its row in the table of cells, names and seed aside.
        rounds: columns of its fine-tuned rounds.
        queried: nothing for a cell that labels everything.
        provenance: of its last run.
    """

    spec: CellSpec
    facts: Mapping[str, Any]
    rounds: Columns
    queried: QueriedCell
    provenance: Mapping[str, Any]


def read_study(address: str, *, grid: Mapping[str, Any] | None = None, skip_damaged: bool = False) -> StudyRecords:
    """Read a whole study, arrays aside.

    Args:
        address: the study's own folder or URI.
        grid: a plan whose cells are read, and no others; None = all that the folder holds, with the plan kept there.
        skip_damaged: leave cells out that cannot be read, as failed ones with the reason, instead of refusing.

    Raises:
        StorageError: it is no study, holds no cell, or has cells that cannot be read; the message names them.
    """
    store = open_study(address)
    found_plan = store.plan() if grid is None else grid
    plan = {"cells": [], "methods": {}, "datasets": {}, **(found_plan or {})}
    planned = {cell_key(each["slug"], each["fingerprint"]): each for each in plan["cells"]}
    folders = dict.fromkeys(name for name in store.recorded_keys() if grid is None or name in planned)
    keys = [*(key for key in planned if key in folders), *(name for name in folders if name not in planned)]
    found = _quickly_read(store, folders)
    left = [key for key in keys if key not in found]
    found |= zip(left, store.folder.each(functools.partial(_cell_or_error, store), left), strict=True)
    found = {key: found[key] for key in keys}
    read = {key: cell for key, cell in found.items() if isinstance(cell, RecordedCell)}
    bad_parts = {part: str(error) for part, error in store.packed.problems.items()}
    problems = {key: str(error) for key, error in found.items() if isinstance(error, AlRayError)}
    _check_problems(store, problems, bad_parts, len(read), skip_damaged)
    if not read and not planned:
        raise StorageError(f"{store.root} is a study without cells: nothing has run yet. Run it, then report.")
    names = _names(read, planned, plan["methods"])
    facts = {key: cell.facts for key, cell in read.items()}
    unread = f"if it was done, it lies in what cannot be read: {' '.join(bad_parts.values())}" if bad_parts else ""
    facts |= {key: _planned_facts(each, problems.get(key, unread)) for key, each in planned.items() if key not in read}
    class_names = {key: {"class_names": cell.provenance.get("class_names", [])} for key, cell in read.items()}
    of_records = {names[key].dataset: note for key, note in class_names.items()}
    return StudyRecords(
        store=store,
        cells=pd.DataFrame([_row(key, names[key], of_cell) for key, of_cell in facts.items()]),
        rounds=_stacked(_NO_ROUNDS, [cell.rounds for cell in read.values()]),
        queried=QueriedExamples.of([cell.queried for cell in read.values()]),
        datasets={**of_records, **plan["datasets"]},
        methods={names[key].method.name: names[key].method for key in facts},
        axes=setting_axes(
            (one.spec, names[key]) for key, one in read.items() if not one.spec.strategy.labels_everything
        ),
        plan_known=found_plan is not None,
        versions=_versions([cell.provenance for cell in read.values()]),
        skip_damaged=skip_damaged,
        notices=[f"{name} was left out: {problem}" for name, problem in {**bad_parts, **problems}.items()],
    )


def _cell_or_error(store: StudyStore, key: str) -> RecordedCell | AlRayError | None:
    """Return what a folder holds: a cell, why it cannot be read, or None for what is no cell."""
    try:
        cell = store.find(key)
        return None if cell is None else _read_cell(cell)
    except AlRayError as error:
        return error


def _quickly_read(store: StudyStore, keys: Collection[str]) -> dict[str, RecordedCell | AlRayError | None]:
    """Return what packed cells hold, part by part; those that are left out are to be read one by one."""
    parts = {
        part: wanted
        for part, cells in store.packed.parts().items()
        if (wanted := [cell for cell in cells if cell.key in keys])
    }
    found: dict[str, RecordedCell | AlRayError | None] = {}
    for of_part in store.folder.each(lambda part: _read_part(store, parts[part]), list(parts)):
        found |= of_part
    return found


def _read_part(store: StudyStore, cells: Sequence[PackedCell]) -> dict[str, RecordedCell]:
    try:
        texts, heads = store.packed.contents(cells[0].part, ["rounds", "heads"])
        rounds = read_rounds({cell.key: texts.get(cell.key, {}) for cell in cells})
        found = {}
        for cell in cells:
            if (of_cell := rounds.get(cell.key)) is not None and of_cell.n_rounds == cell.n_rounds:
                recorded = store.packed_cell(cell)
                head = MemoryFolder(recorded.folder.address, heads.get(cell.key, {}))
                found[cell.key] = _recorded(replace(recorded, folder=head), "done", of_cell)
        return found
    except AlRayError:
        return {}  # told of each cell by itself


def _read_cell(cell: CellStore) -> RecordedCell:
    status, rounds = cell.status(), cell.recorded_rounds()
    records = [each.record for each in rounds]
    of_rounds = CellRounds(
        n_rounds=len(rounds),
        stop_reason=(records[-1].stop_reason or "") if records else "",
        n_test=rounds[-1].tables.get("test", 0) if rounds else 0,
        fitted=_fitted_columns(records),
        queried=queried_cell(records),
    )
    return _recorded(cell, status, of_rounds)


def _recorded(cell: CellStore, status: CellStatus, rounds: CellRounds) -> RecordedCell:
    spec = _read_spec(cell.folder.where(SPEC), cell.spec())
    return RecordedCell(
        spec=spec,
        facts={
            "seed": spec.seed,
            "slug": cell.slug,
            "fingerprint": cell.fingerprint,
            "status": status,
            "reason": _reason(cell) if status == "failed" else "",
            "n_rounds": rounds.n_rounds,
            "n_rounds_planned": 2 if spec.strategy.labels_everything else spec.rounds + 2,
            "stop_reason": rounds.stop_reason,
            "n_test": rounds.n_test,
            "evaluation": spec.measured_model,
            "learner": learner_name(spec),
        },
        rounds=rounds.fitted,
        queried=NOTHING if spec.strategy.labels_everything else rounds.queried,
        provenance=(cell.provenance() or [{}])[-1],
    )


def _planned_facts(planned: Mapping[str, Any], problem: str) -> dict[str, Any]:
    """Return what is known of a cell without records, or with records that have a problem."""
    state = {"status": "failed" if problem else "waiting", "reason": problem}
    nothing = {"n_rounds": 0, "n_rounds_planned": 0, "stop_reason": "", "n_test": 0, "evaluation": "", "learner": ""}
    return {**{name: planned[name] for name in ("seed", "slug", "fingerprint")}, **state, **nothing}


def _read_spec(where: str, stored: Mapping[str, Any]) -> CellSpec:
    """Read a spec; those that differ in the seed alone are validated once, since that costs more than a record."""
    version = stored.get("spec_version")
    if version != SPEC_VERSION:
        raise StorageError(f"{where} has a spec of version {version!r}, this al_ray reads version {SPEC_VERSION}.")
    seedless = _seedless_spec(json.dumps({**stored, "seed": 0}, sort_keys=True))
    return seedless.changed(seed=stored["seed"])


@functools.lru_cache(maxsize=4096)
def _seedless_spec(text: str) -> CellSpec:
    return read_spec(json.loads(text))


def _reason(cell: CellStore) -> str:
    reason = cell.failure()
    return failure_words(reason).strip().splitlines()[0] if reason else "no reason was recorded"


def _fitted_columns(records: Sequence[RoundRecord]) -> Columns:
    rows = [
        {
            "round_index": record.round_index,
            "n_labeled": record.n_labeled,
            **record.metrics,
            **{f"seconds.{phase}": value for phase, value in record.seconds.items()},
        }
        for record in records
        if record.metrics
    ]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}


def _stacked(nothing: Columns, cells: Sequence[Columns]) -> pd.DataFrame:
    """Put the columns of all cells below each other, with the cell's number before them.

    Args:
        nothing: the columns that are always there, without rows.
        cells: columns of each cell; NaN fills those that others have.
    """
    parts = [nothing]
    for number, columns in enumerate(cells):
        if columns:
            cell = np.full(len(columns["round_index"]), number, dtype=nothing["cell"].dtype)
            parts.append({"cell": cell, **columns})
    names = dict.fromkeys(name for part in parts for name in part)
    return pd.DataFrame(
        {
            name: np.concatenate([part[name] if name in part else np.full(len(part["cell"]), np.nan) for part in parts])
            for name in names
        }
    )


def _row(key: str, names: CellNames, facts: Mapping[str, Any]) -> dict[str, Any]:
    method, variant = names.method, JOIN.join(names.variant)
    # An error's message may hold half a character, which pandas refuses in a column of texts.
    sentences = {name: _LONE_SURROGATE.sub("\ufffd", facts[name]) for name in ("reason", "stop_reason")}
    return {
        "setting": names.setting,
        "dataset": names.dataset,
        "model": names.model,
        "variant": variant,
        "method": method.name,
        "base_method": method.unclipped,
        "confidence": method.confidence,
        "strategy": method.strategy,
        "filters": JOIN.join(method.filters),
        "clipping": JOIN.join(method.clipping),
        "role": method.role,
        "seed": facts["seed"],
        "key": key,
        **facts,
        **sentences,
    }


def _names(
    read: Mapping[str, RecordedCell], planned: Mapping[str, Any], methods: Mapping[str, Any]
) -> dict[str, CellNames]:
    """Name all cells by key: as the plan does, and those that it does not have among the recorded ones.

    Args:
        read: recorded cells.
        planned: entries of the plan.
        methods: JSON form of the method behind each text that stands for one in the plan; an older plan has none.
    """
    recorded = dict(zip(read, name_cells([cell.spec for cell in read.values()]), strict=True))
    in_plan = [(cell.spec, planned[key]) for key, cell in read.items() if key in planned]
    datasets = {dataset_content(spec): entry["dataset"] for spec, entry in in_plan}
    models = {learner_content(spec): entry["model"] for spec, entry in in_plan}
    names = {
        key: replace(
            name,
            dataset=datasets.get(dataset_content(read[key].spec), name.dataset),
            model=models.get(learner_content(read[key].spec), name.model),
        )
        for key, name in recorded.items()
    }
    known = {name.method.name: name.method for name in recorded.values()}
    for key, entry in planned.items():
        variant = (entry["variant"],) if entry["variant"] else ()
        if key in recorded:
            method = recorded[key].method
        elif entry["method"] in methods:
            method = Method.from_json(methods[entry["method"]])
        else:
            name = entry["method"].removesuffix(JOIN.join(["", *variant]))
            method = known.get(name) or Method.of_name(name, entry["strategy"])
        names[key] = CellNames(dataset=entry["dataset"], model=entry["model"], method=method, variant=variant)
    return names


def _versions(provenance: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    seen = {name: dict.fromkeys(str(each[name]) for each in provenance if name in each) for name in SHOWN_VERSIONS}
    return {name: ", ".join(versions) for name, versions in seen.items() if versions}


def _check_problems(
    store: StudyStore, cells: Mapping[str, str], parts: Mapping[str, str], n_read: int, skip_damaged: bool
) -> None:
    """Refuse a study with cells or parts that cannot be read, all of them named at once.

    Args:
        store: of the study.
        cells: key -> what is wrong.
        parts: name -> what is wrong.
        n_read: cells that can be read.
        skip_damaged: leave them out instead.

    Raises:
        StorageError: there are some, and they are not to be left out, or there are no others.
    """
    problems = [*parts.values(), *cells.values()]
    if not problems or (skip_damaged and n_read):
        return
    counts = [f"{len(cells)} of {len(cells) + n_read} cells"] if cells else []
    counts += [f"{len(parts)} part{'' if len(parts) == 1 else 's'} of packed cells"] if parts else []
    shown = [f"  {problem}" for problem in problems[:_N_SHOWN]]
    more = [f"  ... and {len(problems) - _N_SHOWN} more"] if len(problems) > _N_SHOWN else []
    away = ["the cells' folders"] if cells else []
    away += [", ".join(map(store.packed.where, list(parts)[:_N_SHOWN]))] if parts else []
    leave = ", or leave them out with --skip-damaged" if n_read else ""
    raise StorageError(
        "\n".join(
            [
                f"{' and '.join(counts)} in {store.root} cannot be read:",
                *shown,
                *more,
                f"Put the files back, use the al_ray that wrote them, or move {' and '.join(away)} away{leave}.",
            ]
        )
    )
