"""One row for every cell of a study: what it is, and how far."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from al_ray.experiment.cell_names import JOIN, CellNames
from al_ray.experiment.cell_store import CellStore
from al_ray.experiment.spec import CellSpec
from al_ray.report.method_names import MethodName, parse_method, role_of
from al_ray.report.recorded_cell import RecordedCell


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
        **_identity(*place, parse_method(names.method), spec.strategy.name, spec.seed),
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


def planned_row(key: str, planned: Mapping[str, Any], problem: str) -> dict[str, Any]:
    """Return the row of a cell that is planned and has no records, or none that can be read.

    Args:
        key: name of its folder.
        planned: its entry in the plan.
        problem: why its records cannot be read; empty where it waits.
    """
    name, variant = planned["method"], planned["variant"]
    method = parse_method((name.removesuffix(JOIN + variant) if variant else name).split(JOIN))
    names = planned["dataset"], planned["model"], variant
    return {
        **_identity(*names, method, planned["strategy"], planned["seed"]),
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


def _identity(dataset: str, model: str, variant: str, method: MethodName, strategy: str, seed: int) -> dict[str, Any]:
    return {
        "setting": " · ".join(part for part in (dataset, model, variant) if part),
        "dataset": dataset,
        "model": model,
        "variant": variant,
        "method": method.name,
        "base_method": method.base,
        "confidence": method.confidence,
        "strategy": method.strategy,
        "filters": method.filters,
        "clipping": JOIN.join(method.clipping),
        "role": role_of(strategy, bool(method.filters)),
        "seed": seed,
    }
