"""Methods as MLflow shows them: one run a method, data set and model, with the numbers that the analysis has for it."""

import colorsys
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from al_ray.core.metrics import aulc, plateau_aulc, ramp_up_aulc, ramp_up_end
from al_ray.errors import AlRayError
from al_ray.records.json import canonical_json
from al_ray.records.round import RecordedRound
from al_ray.report.analysis import reference_of
from al_ray.report.analysis.comparing import estimate
from al_ray.report.analysis.curves import CellCurve, CurveGroup, align_curves, mean_curve
from al_ray.report.analysis.results import Curve, Estimate, StudyResults
from al_ray.report.plots import RANDOM_COLOUR
from al_ray.study.names import JOIN, Method, learner_name
from al_ray.study.plan import Plan, PlannedCell
from al_ray.tracking.mlflow import MethodRun

# Turns of the colour circle from one method to the next: so no two of the first dozens come close.
_GOLDEN = 0.61803398875
AREAS = ("aulc", "ramp_up_aulc", "plateau_aulc")
"""Areas under the learning curve that the run of a method shows."""
_log = logging.getLogger(__name__)


def method_runs(results: StudyResults) -> list[MethodRun]:
    """Return every method of a study that has a finished cell, setting by setting, as its run in MLflow shows it."""
    settings = {setting.name: setting for setting in results.settings}
    curves = {(one.setting, one.method): one for one in results.learning_curves if one.finished}
    read = results.cells[results.cells["learner"] != ""]
    learners = read.groupby(["setting", "method"], sort=False)["learner"].first()
    colours = method_colours(results.methods.values())
    ranked = [(str(ranking.setting), row, True) for ranking in results.rankings[1:] for row in ranking.rows]
    passive = [(setting, row, False) for setting, rows in results.passive.items() for row in rows]
    bounds = [(setting, row, True) for setting, rows in results.bounds.items() for row in rows]
    return [
        _method_run(
            setting={name: getattr(settings[setting], name) for name in ("dataset", "model", "variant")},
            method=results.methods[row.method],
            learner=str(learners[setting, row.method]),
            colour=colours[row.method],
            curve=curves.get((setting, row.method)),
            final=row.final_accuracy,
            areas={name: getattr(row, name) for name in AREAS} if queries else {},
            is_only_setting=len(settings) == 1,
        )
        for setting, row, queries in [*ranked, *passive, *bounds]
    ]


def method_colours(methods: Iterable[Method]) -> dict[str, str]:
    """Return a colour for every method, by name, as ``#rrggbb``; plain random queries are grey, as in figures."""
    found: dict[str, str] = {}
    for number, method in enumerate(sorted(methods, key=lambda method: method.name)):
        rgb = colorsys.hls_to_rgb(number * _GOLDEN % 1, (0.35, 0.55)[number % 2], 0.65)
        found[method.name] = "#" + "".join(f"{round(255 * part):02x}" for part in rgb)
        if method.strategy == "random" and not method.filters and RANDOM_COLOUR not in found.values():
            found[method.name] = RANDOM_COLOUR
    return found


def _method_run(
    *,
    setting: Mapping[str, str],
    method: Method,
    learner: str,
    colour: str,
    curve: Curve | None,
    final: Estimate,
    areas: Mapping[str, Estimate | None],
    is_only_setting: bool,
) -> MethodRun:
    """Return the run of a method; without ``areas`` where it is trained on all labels, which is no learning curve."""
    where = " · ".join(filter(None, setting.values()))
    figures = {"final_accuracy": final, **{name: area for name, area in areas.items() if area is not None}}
    spreads = {f"{name}_std": one.std for name, one in figures.items() if one.std is not None}
    lines = {}
    if curve is not None and areas:
        lines = {"accuracy": curve.mean, "accuracy_low": curve.low, "accuracy_high": curve.high}
    return MethodRun(
        key=_key(where, method),
        name=method.name if is_only_setting else f"{method.name} · {where}",
        colour=colour,
        params={
            "method": method.name,
            "confidence": method.confidence,
            "strategy": method.strategy,
            "filters": JOIN.join(method.filters) or "none",
            "clipping": JOIN.join(method.clipping) or "none",
            "learner": learner,
            **{name: text for name, text in setting.items() if text},
        },
        figures={"n_seeds": float(final.n), **{name: one.mean for name, one in figures.items()}, **spreads},
        curves={
            name: dict(zip(curve.n_labeled, values, strict=True)) for name, values in lines.items() if curve and values
        },
    )


@dataclass
class _Group:
    """What is known of one method on one setting while its study runs.

    Attributes:
        cells: all of its cells.
        left: keys of those that have not ended.
        done: keys of those that are finished.
        curves: of the finished ones that were read, by key.
        changed_at_s: when a cell finished that its run does not show, on the monotonic clock; None without one.
    """

    cells: list[PlannedCell] = field(default_factory=list)
    left: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    curves: dict[str, CellCurve] = field(default_factory=dict)
    changed_at_s: float | None = None

    def finished(self) -> list[PlannedCell]:
        """Return its finished cells by seed."""
        return sorted((cell for cell in self.cells if cell.key in self.done), key=lambda cell: cell.spec.seed)


class LiveMethods:
    """The methods of a study that runs, as its finished cells so far have them; used by one thread.

    MLflow cannot change a point, so a method that changed is shown by a new run in the place of the old one. That is
    done when it has 1, 2, 5, 10, 20 ... finished cells or no cell left, and a while after: quick ones are shown once.
    Ramp-up and plateau come with the last cell of random queries, whose curve tells them apart.

    Args:
        plan: of the whole study. Cells that it says are done are read from their records when their method changes.
        wait_s: from a change until it is shown.
    """

    def __init__(self, plan: Plan, *, wait_s: float = 30.0) -> None:
        self._store = plan.store
        self._wait_s = wait_s
        self._groups: dict[str, _Group] = {}
        self._of_cell = {cell.key: _key(cell.names.setting, cell.names.method) for cell in plan.cells}
        for cell in plan.cells:
            group = self._groups.setdefault(self._of_cell[cell.key], _Group())
            group.cells.append(cell)
            (group.done if cell.status == "done" else group.left).add(cell.key)
        methods = {cell.names.method.name: cell.names.method for cell in plan.cells}
        self._colours = method_colours(methods.values())
        self._reference = reference_of(methods.values())
        self._of_setting: dict[str, set[str]] = {}
        for cell in plan.cells:
            self._of_setting.setdefault(cell.names.setting, set()).add(self._of_cell[cell.key])
        self._is_only_setting = len(self._of_setting) == 1
        self._changed: set[str] = set()
        self._is_ending = False

    def cell_ended(self, key: str, rounds: Sequence[RecordedRound], *, is_done: bool) -> None:
        """Take in that a cell has ended, with its recorded rounds; without them they are read when they are needed."""
        group = self._groups[self._of_cell[key]]
        group.left.discard(key)
        if is_done and key not in group.done:
            group.done.add(key)
            if rounds:
                group.curves[key] = _cell_curve(rounds)
            group.changed_at_s = group.changed_at_s or time.monotonic()
            self._changed.add(self._of_cell[key])
        if not group.left and group.done and group.cells[0].names.method.name == self._reference:
            self._show_again(group.cells[0].names.setting)

    def due(self, *, is_last: bool = False) -> list[MethodRun]:
        """Return the runs of the methods that are to be shown now; in the end all that changed."""
        if is_last and not self._is_ending:
            self._is_ending = True
            for setting in self._of_setting:
                random = self._random(setting)
                if random is not None and random.left:  # the cells that it has are those that there will be
                    self._show_again(setting)
        due = []
        for key in [key for key in sorted(self._changed) if is_last or self._is_due(key)]:
            try:
                due.append(self._run(self._groups[key], is_last=is_last))
            except AlRayError as error:  # a report, or a sync, names what it cannot read
                self._changed.discard(key)
                _log.info("the method %s is not shown in MLflow: %s", key, error)
        return due

    def shown(self, run: MethodRun) -> None:
        """Note that MLflow shows a method as it was returned."""
        self._changed.discard(run.key)
        self._groups[run.key].changed_at_s = None

    def _is_due(self, key: str) -> bool:
        group = self._groups[key]
        if group.changed_at_s is None or time.monotonic() - group.changed_at_s < self._wait_s:
            return False
        digits = str(len(group.finished()))
        return not group.left or (digits[0] in "125" and not digits[1:].strip("0"))

    def _show_again(self, setting: str) -> None:
        """Note that the methods of a setting have another ramp-up than they were shown with."""
        for key in self._of_setting[setting]:
            if self._groups[key].done:
                self._groups[key].changed_at_s = self._groups[key].changed_at_s or time.monotonic()
                self._changed.add(key)

    def _random(self, setting: str) -> _Group | None:
        """Return the random queries of a setting that have a finished cell, or None."""
        for key in self._of_setting[setting]:
            group = self._groups[key]
            if group.done and group.cells[0].names.method.name == self._reference:
                return group
        return None

    def _curves(self, group: _Group) -> list[CellCurve]:
        """Return the curves of the finished cells by seed; what is not held is read."""
        cells = group.finished()
        unread = [cell.key for cell in cells if cell.key not in group.curves]
        if unread and not self._store.packed.readable().keys() >= set(unread):
            self._store.packed.look()
        for cell in cells:
            if cell.key not in group.curves:
                assert cell.fingerprint is not None
                records = self._store.cell(cell.slug, cell.fingerprint)
                group.curves[cell.key] = _cell_curve(records.recorded_rounds())
        return [group.curves[cell.key] for cell in cells]

    def _aligned(self, group: _Group) -> CurveGroup | None:
        cells = group.finished()
        names, seeds = cells[0].names, [cell.spec.seed for cell in cells]
        return align_curves(names.setting, names.method.name, seeds, self._curves(group), finished=True)

    def _ramp_up_end(self, setting: str, *, is_last: bool) -> int | None:
        random = self._random(setting)
        if random is None or (random.left and not is_last):
            return None
        aligned = self._aligned(random)
        return None if aligned is None else ramp_up_end(aligned.n_labeled, aligned.mean)

    def _run(self, group: _Group, *, is_last: bool) -> MethodRun:
        cells, curves = group.finished(), self._curves(group)
        names = cells[0].names
        queries = names.method.role != "passive"
        aligned = self._aligned(group) if queries else None
        final = estimate(pd.Series([accuracy[-1] for _, accuracy in curves]), None)
        assert final is not None
        areas = {"aulc": [aulc(accuracy) for _, accuracy in curves]} if queries else {}
        end = self._ramp_up_end(names.setting, is_last=is_last) if queries else None
        if end is not None:
            areas["ramp_up_aulc"] = [ramp_up_aulc(*curve, end) for curve in curves]
            areas["plateau_aulc"] = [plateau_aulc(*curve, end) for curve in curves]
        return _method_run(
            setting={"dataset": names.dataset, "model": names.model, "variant": JOIN.join(names.variant)},
            method=names.method,
            learner=learner_name(cells[0].spec),
            colour=self._colours[names.method.name],
            curve=None if aligned is None else mean_curve(aligned),
            final=final,
            areas={name: estimate(pd.Series(values), None) for name, values in areas.items()},
            is_only_setting=self._is_only_setting,
        )


def _key(setting: str, method: Method) -> str:
    return canonical_json([setting, method.name])


def _cell_curve(rounds: Sequence[RecordedRound]) -> CellCurve:
    """Return what :func:`al_ray.report.analysis.curves.cell_curves` has for a cell."""
    fitted = [each.record for each in rounds if each.record.metrics]
    spent = [record.n_labeled + int(record.metrics.get("n_rejected", 0)) for record in fitted]
    n_labeled = np.array(spent, dtype=np.int64)
    return n_labeled, np.array([record.metrics["accuracy"] for record in fitted], dtype=np.float64)
