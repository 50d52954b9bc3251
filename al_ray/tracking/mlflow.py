"""MLflow as a view of the records, rebuilt from storage at any time; the only module that imports MLflow, late.

Runs are flat, since MLflow hides nested ones behind a collapsed parent. A tag tells three kinds apart: a ``cell``, of
which a round is one point of each metric; a ``method``, the mean of its cells on one data set and model; the ``study``,
with its report. The live view (tracker.py) projects the same records by the same code, and neither logs a thing twice:
what a live tracker could not write, :func:`sync` adds later.
"""

import hashlib
import json
import logging
import os
import re
import shlex
import tempfile
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from al_ray.core.metrics import aulc
from al_ray.errors import AlRayError, ExecutionError, one_line, without_secrets
from al_ray.identifiers import identifier, with_hash
from al_ray.records.cell import CellStore
from al_ray.records.json import canonical_json, cell_fingerprint
from al_ray.records.round import RecordedRound, now
from al_ray.records.study import MLFLOW_FILE, MLFLOW_FOLDER, StudyStore
from al_ray.storage.address import above, without_query
from al_ray.storage.folder import Folder
from al_ray.tracking.mlflow_address import DATABASES, scheme_of
from al_ray.tracking.views import KIND, STUDY_ID, saved_views

# Characters: MLflow 3 takes 6000 of a value, older servers 500.
_MAX_VALUE, _MAX_KEY, _MAX_TAG = 500, 250, 4000
_MAX_PARAMS, _MAX_ENTRIES, _PAGE = 100, 1000, 1000
_CELL, _FINGERPRINT, _METHOD, _CONTENT = "al_ray.cell", "al_ray.fingerprint", "al_ray.method", "al_ray.content"
_FAILURE, _VIEW_TAG, _COLOUR = "al_ray.failure", "al_ray.view", "mlflow.runColor"
_NESTED_BELOW, _OLD_COMPLETE = "mlflow.parentRunId", "al_ray.complete"  # what views before the third had
ENDED = {"done": "FINISHED", "failed": "FAILED"}
"""Status of a cell that has ended -> of its run."""
_OF_STATUS = {**ENDED, "waiting": "RUNNING", "running": "RUNNING", "killed": "KILLED"}
_VIEW = "3"  # one more wherever a cell is shown otherwise than before: runs that are complete are then looked at again
_NOTE = "mlflow.note.content"
# Databases cut what is long, and may take one Unicode form for another; MLflow takes a name for a path.
_TAKEN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_NOT_TAKEN = re.compile(r"[^\w.-]+")
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # Repeated inside MLflow, a call whose answer was lost would make a run twice; the tracker looks before it repeats.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
# (tracking URI, study folder) -> name and path of each view, where this process was in touch with that MLflow.
_view_paths: dict[tuple[str, str], dict[str, str]] = {}


class Point(NamedTuple):
    """One value of a metric; ``step`` is the number of labels, 0 for what is of the whole cell or method."""

    name: str
    step: int
    value: float
    at: datetime


@dataclass(frozen=True, kw_only=True)
class MethodRun:
    """A method on one data set and model, as plain values: what its run shows.

    Attributes:
        key: what stands for it in every program that shows the study.
        name: of the run.
        colour: of its line in charts, ``#rrggbb``; no part of what the run says.
        params: name -> text, data set, model and variant among them.
        figures: name -> value of the whole method: ``aulc``, ``final_accuracy``, ``n_seeds`` ...
        curves: name -> number of labels -> value: ``accuracy`` and the ends of its band.
    """

    key: str
    name: str
    colour: str
    params: Mapping[str, str]
    figures: Mapping[str, float]
    curves: Mapping[str, Mapping[int, float]]

    @property
    def content(self) -> str:
        """Return a digest of everything that the run says, and of how it is shown."""
        curves = {name: sorted(curve.items()) for name, curve in self.curves.items()}
        said = [_VIEW, self.key, self.name, self.params, self.figures, curves]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]

    def points(self, at: datetime) -> list[Point]:
        """Return its metrics, all of one time."""
        curves = [(name, n, value) for name, curve in self.curves.items() for n, value in curve.items()]
        return [Point(*point, at) for point in [*((name, 0, value) for name, value in self.figures.items()), *curves]]


def round_points(entry: RecordedRound) -> list[Point]:
    """Return what one round shows as metrics; nothing for the initial query, which has no model."""
    return _points(entry, entry.record.metrics, entry.record.n_labeled)


def final_points(entries: Sequence[RecordedRound]) -> list[Point]:
    """Return the figures that compare cells, named as in a report: last value and mean of the curve, and seconds.

    ``final_accuracy``, ``aulc``; the same of macro F1, with its name behind; ``seconds_PHASE``, summed over the rounds.
    No slash stands in a name: MLflow's page would open with sections of charts that most runs have no line for.
    """
    fitted = [entry.record.metrics for entry in entries if entry.record.metrics]
    figures: dict[str, float] = {}
    for name, area in (("accuracy", "aulc"), ("macro_f1", "aulc_macro_f1")):
        values = [metrics[name] for metrics in fitted if name in metrics]
        if values and len(values) == len(fitted):
            figures |= {f"final_{name}": values[-1], area: aulc(values)}
    seconds: dict[str, float] = {}
    for entry in entries:
        for phase, value in entry.record.seconds.items():
            seconds[f"seconds_{phase}"] = seconds.get(f"seconds_{phase}", 0.0) + value
    return _points(entries[-1], {**figures, **seconds}, 0) if fitted else []


def _points(entry: RecordedRound, values: Mapping[str, float], step: int) -> list[Point]:
    return [Point(shown_name(name), step, float(value), entry.recorded_at) for name, value in sorted(values.items())]


def spec_params(spec: Mapping[str, Any]) -> dict[str, str]:
    """Flatten a spec for MLflow's tables: an option shows under its family's name, its fields under dotted names.

    ``{strategy: {name: badge, seed: 1}}`` gives ``strategy = badge`` and ``strategy.seed = 1``; a list of options is
    one text. A text that MLflow would refuse as too long is cut.
    """
    params = dict(pair for name, value in spec.items() for pair in _params(name, value))
    return {shown_name(name): _cut(text, _MAX_VALUE) for name, text in params.items()}


def shown_name(name: str) -> str:
    """Return a metric's or parameter's name as MLflow has it: two names never become one.

    A slice such as ``C++`` shows as ``accuracy.C_.`` and a short hash.
    """
    return identifier(name, _TAKEN, _NOT_TAKEN, _MAX_KEY)


def _params(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        if "name" in value:
            yield path, _words(value["name"])
        for key, inner in value.items():
            if key != "name":
                yield from _params(f"{path}.{key}", inner)
    elif isinstance(value, list | tuple):
        yield path, ", ".join(map(_words, value)) or "none"
    else:
        yield path, _words(value)


def _words(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping) and "name" in value:
        fields = ", ".join(f"{key}={_words(inner)}" for key, inner in sorted(value.items()) if key != "name")
        return f"{value['name']}({fields})" if fields else str(value["name"])
    return canonical_json(value)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else with_hash(text, text, limit)  # the hash keeps two of them apart


@dataclass
class _Run:
    """What is known of a run in MLflow.

    Attributes:
        run_id, status, ended_at, tags, params: as MLflow has them; the end in milliseconds, 0 without one.
        artifacts: address of its files.
        metrics: their names.
        points: name, step and value of each; None until they have been read.
        n_rounds: so many first rounds of the cell are known to be shown.
    """

    run_id: str
    status: str
    ended_at: int
    tags: dict[str, str]
    params: dict[str, str]
    artifacts: str
    metrics: set[str]
    points: set[tuple[str, int, float]] | None = None
    n_rounds: int = 0


class Projection:
    """One study in MLflow, whose runs it finds or makes; used by one thread.

    MLflow is imported by the first one (2 to 3 s), its telemetry, its chatter and its minutes of retries turned off,
    unless the environment says otherwise.

    Args:
        store: the study's records.
        tracking_uri: where MLflow is.

    Attributes:
        n_cells, n_complete: how often cells were looked at, and how often MLflow already showed all of one.
        n_runs, n_points: runs made, that of the study included, and metric points added.
        duplicates: ids of runs that another program had made twice; deleted in MLflow, and restorable there.
        doubled: keys of cells that had two runs, of which the one that was kept may lack something.

    Raises:
        ExecutionError: the experiment of that name was deleted in MLflow.
        Exception: whatever MLflow raises when it cannot be reached.
    """

    def __init__(self, store: StudyStore, tracking_uri: str) -> None:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        import mlflow
        import mlflow.entities

        for logger in ("mlflow", "alembic"):
            logging.getLogger(logger).setLevel(logging.ERROR)  # a failure is raised, and said once by the tracker
        self.n_cells = self.n_complete = self.n_runs = self.n_points = 0
        self.duplicates: list[str] = []
        self.doubled: set[str] = set()
        self._cells: dict[str, CellStore] = {}
        self._entities: Any = mlflow.entities
        self._own_folder = _own_folder(store, tracking_uri)
        self._client: Any = mlflow.MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
        self._store, self._address = store, tracking_uri
        self._study_id = store.id()
        self._experiment = self._find_experiment(_artifact_location(store, tracking_uri))
        self._study = self._study_run()
        self._runs = self._cell_runs()
        self._methods: dict[str, list[_Run]] = {}
        for run in self._own("method"):
            self._methods.setdefault(run.tags.get(_METHOD, ""), []).append(run)
        self._write_views()

    def show_cell(
        self, key: str, status: str | None, spec: Mapping[str, Any] | None = None, started_at: datetime | None = None
    ) -> list[RecordedRound]:
        """Bring the run of a cell up to its records, which may not have begun, and to what is known beyond them.

        Args:
            key: name of the cell's folder.
            status: of the cell, where the caller knows better than the storage yet shows.
            spec: its identity, where it has just started: its run is made, or goes on.
            started_at: when it did.

        Returns:
            the recorded rounds that were read for it.
        """
        self._set_status(self._study, "RUNNING")
        if status in ENDED and key not in self._store.packed.readable():
            self._store.packed.look()
        cell = self._cells.get(key) or self._store.find(key)
        if cell is not None:
            self._cells[key] = cell
            return self.project_cell(cell, status, started_at)
        if spec is not None:
            self._log(self._run(key, spec, started_at), spec_params(spec), ())
        if status is not None and key in self._runs:
            self._set_status(self._runs[key], ENDED.get(status, "RUNNING"))
        return []

    def project_cell(
        self, cell: CellStore, status: str | None = None, started_at: datetime | None = None
    ) -> list[RecordedRound]:
        """Bring the run of a cell up to its records; while it runs, only rounds that are not shown yet are read.

        Args:
            cell: its records.
            status: of the cell, where the caller knows better than the storage yet shows.
            started_at: when it started, where that is known.

        Returns:
            the recorded rounds that were read for it; none where MLflow already showed all.
        """
        recorded, n_rounds = cell.progress()
        told, status = status, status or recorded
        has_ended, run, before = status in ENDED, self._runs.get(cell.key), (self.n_runs, self.n_points)
        ended_at = cell.ended_at() if has_ended else None
        self.n_cells += 1
        if run is not None and has_ended and ended_at is not None and _is_complete(run, ENDED[status], ended_at):
            self.n_complete += 1
            return []
        if has_ended or run is None or run.n_rounds == 0:
            spec, entries = cell.spec(), cell.recorded_rounds()
            run = self._run(cell.key, spec, started_at or (entries[0].recorded_at if entries else None))
            params = spec_params(spec)
        else:
            found = (cell.recorded_round(index) for index in range(run.n_rounds, n_rounds))
            entries, params = [entry for entry in found if entry is not None], {}
        finals = final_points(entries) if status == "done" else []
        self._log(run, params, [*(point for entry in entries for point in round_points(entry)), *finals])
        if entries:
            run.n_rounds = entries[-1].record.round_index + 1
        if has_ended:
            self._end(run, cell, status, ended_at)
        elif told is not None or run.status != "KILLED":  # a driver that left says better what its cells are
            self._set_status(run, "RUNNING")
        self.n_complete += not has_ended and (self.n_runs, self.n_points) == before
        return entries

    def _end(self, run: _Run, cell: CellStore, status: str, ended_at: datetime | None) -> None:
        """Say of a run whose metrics are all there how its cell ended: what makes it complete comes last."""
        if status == "failed":
            self._set_tag(run, _FAILURE, _cut(without_secrets(canonical_json(cell.failure())), _MAX_TAG))
        for outdated in (_OLD_COMPLETE, *([_FAILURE] if status == "done" else [])):
            self._delete_tag(run, outdated)
        self._set_tag(run, _VIEW_TAG, _VIEW)
        self._set_status(run, ENDED[status], ended_at)
        run.points = None  # frees their memory; they are read again should the cell go on
        self._cells.pop(cell.key, None)

    def show_methods(self, methods: Iterable[MethodRun]) -> None:
        """Bring the runs of methods up to their values.

        A point cannot be changed in MLflow, so what changed is a new run, and the one before is deleted (and can be
        restored there). The best is made last, since MLflow's page opens with the youngest run.
        """
        for method in sorted(methods, key=lambda method: method.figures.get("aulc", 0.0)):
            tag = _cut(method.key, _MAX_TAG)
            known = self._methods.get(tag, [])
            run = next((run for run in known if run.tags.get(_CONTENT) == method.content), None)
            run = run or self._make_method(method, tag)
            self._set_status(run, "FINISHED")
            for other in known:
                if other is not run:
                    self._client.delete_run(other.run_id)
            self._methods[tag] = [run]
        self._write_views()

    def _make_method(self, method: MethodRun, tag: str) -> _Run:
        run = self._create(method.name, "method", {_METHOD: tag, _COLOUR: method.colour}, None)
        content = self._entities.RunTag(_CONTENT, method.content)  # logged after the metrics, which it vouches for
        params = {name: _cut(text, _MAX_VALUE) for name, text in method.params.items()}
        self._log(run, params, method.points(now()), tags=[content])
        return run

    def keep_methods(self, methods: Iterable[MethodRun]) -> None:
        """Show these methods and delete the runs of all others: of settings that the study no longer has."""
        methods = list(methods)
        kept = {_cut(method.key, _MAX_TAG) for method in methods}
        for key in self._methods.keys() - kept:
            for run in self._methods.pop(key):
                self._client.delete_run(run.run_id)
        self.show_methods(methods)

    def add_report(self, files: Mapping[str, bytes]) -> None:
        """Log files below ``report`` in the artifacts of the study's run."""
        self._check_place(self._study)
        with tempfile.TemporaryDirectory() as folder:
            for name, data in files.items():
                (Path(folder) / name).write_bytes(data)
            self._client.log_artifacts(self._study.run_id, folder, "report")
        if not self._runs and not self._methods:
            # A study that is not tracked gets its report alone, and nothing of it runs here.
            self._set_status(self._study, "FINISHED")

    def interrupt(self, keys: Iterable[str]) -> None:
        """Show cells as killed whose driver leaves before they ended; they run again when they are taken up."""
        for key in keys:
            if key in self._runs and self._runs[key].status == "RUNNING":
                self._set_status(self._runs[key], "KILLED")

    def close_study(self, untracked: Iterable[str] = ()) -> None:
        """Give the study's run the status that its cells add up to.

        Args:
            untracked: statuses of cells that have no run of their own: ``done``, ``failed``, ``running``, ``killed``.
        """
        statuses = {run.status for run in self._runs.values()} | {_OF_STATUS[status] for status in untracked}
        found = next((status for status in ("RUNNING", "KILLED", "FAILED") if status in statuses), "FINISHED")
        self._set_status(self._study, found if statuses else "RUNNING")

    def _find_experiment(self, artifact_location: str | None) -> Any:
        name = self._store.study
        found = self._client.get_experiment_by_name(name)
        if found is None:
            made = self._client.create_experiment(name, artifact_location=artifact_location)
            found = self._client.get_experiment(made)
        if found.lifecycle_stage != "active":
            raise ExecutionError(
                f"the MLflow experiment {name!r} was deleted. Restore it ('mlflow experiments restore "
                f"--experiment-id {found.experiment_id}'), or rename the study."
            )
        return found

    def _study_run(self) -> _Run:
        found = self._own("study")
        if not found:
            return self._create(self._store.study, "study", {"al_ray.records": without_secrets(self._store.root)}, None)
        for run in found:
            if run.tags.get(_VIEW_TAG) != _VIEW:
                self._unnest(run)
        return self._only(found)

    def _unnest(self, study: _Run) -> None:
        """Take the runs out from below the study's, where they were shown before."""
        for run in self._search(f"tags.`{_NESTED_BELOW}` = '{study.run_id}'"):
            self._set_tag(run, STUDY_ID, self._study_id)
            self._delete_tag(run, _NESTED_BELOW)
        self._set_tag(study, _VIEW_TAG, _VIEW)

    def _cell_runs(self) -> dict[str, _Run]:
        by_key: dict[str, list[_Run]] = {}
        for run in self._own("cell"):
            if _CELL in run.tags:
                by_key.setdefault(run.tags[_CELL], []).append(run)
        self.doubled = {key for key, runs in by_key.items() if len(runs) > 1}
        return {key: self._only(runs) for key, runs in by_key.items()}

    def _only(self, runs: Sequence[_Run]) -> _Run:
        """Keep the oldest of several runs for the same thing; two programs that wrote at once may have made them."""
        for extra in runs[1:]:
            self._client.delete_run(extra.run_id)
            self.duplicates.append(extra.run_id)
        return runs[0]

    def _own(self, kind: str) -> list[_Run]:
        """Return the study's runs of a kind, the oldest first."""
        return self._search(f"tags.`{KIND}` = '{kind}' and tags.`{STUDY_ID}` = '{self._study_id}'")

    def _search(self, condition: str) -> list[_Run]:
        order = ["attributes.start_time ASC", "attributes.run_id ASC"]
        experiments = [self._experiment.experiment_id]
        search = partial(self._client.search_runs, experiments, condition, max_results=_PAGE, order_by=order)
        page = search()
        found = list(page)
        while page.token:
            page = search(page_token=page.token)
            found += page
        return [_known(run) for run in found]

    def _run(self, key: str, spec: Mapping[str, Any], started_at: datetime | None = None) -> _Run:
        if key not in self._runs:
            tags = {_CELL: key, _FINGERPRINT: cell_fingerprint(spec)}
            self._runs[key] = self._create(key.rsplit("--", 1)[0], "cell", tags, started_at)
        return self._runs[key]

    def _create(self, name: str, kind: str, tags: Mapping[str, str], started_at: datetime | None) -> _Run:
        created = self._client.create_run(
            self._experiment.experiment_id,
            start_time=_milliseconds(started_at or now()),
            tags={KIND: kind, STUDY_ID: self._study_id, _VIEW_TAG: _VIEW, **tags},
            run_name=name,
        )
        self.n_runs += 1
        run = _known(created)
        run.points = set()
        return run

    def _log(self, run: _Run, params: Mapping[str, str], points: Sequence[Point], tags: Sequence[Any] = ()) -> None:
        """Log the parameters and points that are not there yet, in one call where MLflow takes that.

        A point is known by name, step and value: its time may be told otherwise.
        """
        if points and run.points is None:
            run.points = {
                (name, int(point.step), float(point.value))
                for name in run.metrics
                for point in self._client.get_metric_history(run.run_id, name)
            }
        known = run.points or set()
        missing = {point[:3]: point for point in points if point[:3] not in known}
        new = {name: text for name, text in params.items() if name not in run.params}
        texts = [self._entities.Param(name, text) for name, text in new.items()]
        values = [self._entities.Metric(p.name, p.value, _milliseconds(p.at), p.step) for p in missing.values()]
        while texts or values:
            n_texts = min(len(texts), _MAX_PARAMS)
            n_values = min(len(values), _MAX_ENTRIES - n_texts - len(tags))
            is_last = (n_texts, n_values) == (len(texts), len(values))
            self._client.log_batch(
                run.run_id, params=texts[:n_texts], metrics=values[:n_values], tags=tags if is_last else ()
            )
            texts, values = texts[n_texts:], values[n_values:]
        run.params.update(new)
        run.points = known | missing.keys() if run.points is not None else None
        run.metrics |= {name for name, _, _ in missing}
        self.n_points += len(missing)

    def _write_views(self) -> None:
        """Write the saved views, and a note with links to them, into the experiment; what a person changed stays."""
        settings = [run.params for runs in self._methods.values() for run in runs]
        views = saved_views(self._study_id, settings)
        made_at = int(self._experiment.creation_time or 0)
        wanted = {view.tag: view.value(made_at) for view in views}
        paths = {view.name: view.path(self._experiment.experiment_id) for view in views}
        wanted[_NOTE] = _note(self._store.study, paths)
        tags = self._experiment.tags
        ledger = f"al_ray.views.{self._study_id[:6]}"
        written = dict(json.loads(tags.get(ledger, "{}")))
        before = dict(written)
        for name, value in wanted.items():
            there = tags.get(name)
            is_own = there is not None and written.get(name) == _digest(there)
            if there != value and (is_own or (there is None and name not in written)):
                self._set_experiment_tag(name, value)
            if tags.get(name) == value:
                written[name] = _digest(value)
        if written != before:
            self._set_experiment_tag(ledger, canonical_json(written))
        there = {view.name: paths[view.name] for view in views if view.tag in tags}
        _view_paths[self._address, self._store.root] = there

    def _set_experiment_tag(self, name: str, value: str) -> None:
        self._client.set_experiment_tag(self._experiment.experiment_id, name, value)
        self._experiment.tags[name] = value

    def _check_place(self, run: _Run) -> None:
        """Refuse to write files where a database says that came with somebody's records, unless that is beside them."""
        if self._own_folder is not None and not _is_below(run.artifacts, self._own_folder):
            raise ExecutionError(
                f"{MLFLOW_FILE} in {self._own_folder} keeps artifacts in {run.artifacts}, outside that folder: it was "
                f"copied or moved. Name an MLflow server, or move {MLFLOW_FILE} away; it is made anew from the records "
                f"by: al-ray sync {shlex.quote(self._store.root)}"
            )

    def _set_status(self, run: _Run, status: str, at: datetime | None = None) -> None:
        if status == "RUNNING":
            if run.status != status:
                self._client.update_run(run.run_id, status=status)
        elif run.status != status or (at is not None and run.ended_at != _milliseconds(at)):
            at = at or now()
            self._client.set_terminated(run.run_id, status, end_time=_milliseconds(at))
            run.ended_at = _milliseconds(at)
        run.status = status

    def _set_tag(self, run: _Run, name: str, text: str) -> None:
        if run.tags.get(name) != text:
            self._client.set_tag(run.run_id, name, text)
            run.tags[name] = text

    def _delete_tag(self, run: _Run, name: str) -> None:
        if name in run.tags:
            self._client.delete_tag(run.run_id, name)
            del run.tags[name]


def _is_complete(run: _Run, status: str, ended_at: datetime) -> bool:
    """Tell whether a run shows all of a cell that ended then: its status is what is written last."""
    return (run.tags.get(_VIEW_TAG), run.status, run.ended_at) == (_VIEW, status, _milliseconds(ended_at))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _note(study: str, paths: Mapping[str, str]) -> str:
    """Return the text above the page's runs, in Markdown: links inside the page, which hold on every server."""
    links = " · ".join(f"[{name}]({path.removeprefix('/')})" for name, path in paths.items() if "Setting" not in name)
    return f"Study **{study}**: {links}"


def _known(run: Any) -> _Run:
    info, data = run.info, run.data
    return _Run(
        run_id=info.run_id,
        status=info.status,
        ended_at=int(info.end_time or 0),
        tags=dict(data.tags),
        params=dict(data.params),
        artifacts=info.artifact_uri,
        metrics=set(data.metrics),
    )


def _own_folder(store: StudyStore, tracking_uri: str) -> str | None:
    """Return the storage folder where MLflow is the file in it, and None where it is a server or a chosen database."""
    storage = os.path.dirname(store.folder.path)
    if not store.folder.is_local or tracking_uri != f"sqlite:///{storage}/{MLFLOW_FILE}":
        return None
    if os.path.islink(f"{storage}/{MLFLOW_FILE}"):
        raise ExecutionError(f"{storage}/{MLFLOW_FILE} is a link, which may leave the storage folder. Move it away.")
    return storage


def _is_below(address: str, folder: str) -> bool:
    """Tell whether an artifact address is a place on this disk in a folder, links resolved."""
    parts = urllib.parse.urlsplit(address)
    if parts.scheme not in ("", "file") or parts.netloc not in ("", "localhost"):
        return False
    path = os.path.realpath(urllib.parse.unquote(parts.path) if parts.scheme else address)
    return path.startswith(f"{os.path.realpath(folder)}/")


def _milliseconds(time: datetime) -> int:
    return round(time.timestamp() * 1000)


def _artifact_location(store: StudyStore, tracking_uri: str) -> str | None:
    """Say where artifacts go when no server decides: without this MLflow writes them below the working directory."""
    if scheme_of(tracking_uri) not in DATABASES:
        return None
    file = tracking_uri.partition("sqlite:///")[2].partition("?")[0]
    if not store.folder.is_local and file:
        # Beside the file: MLflow would need its own login to the records' object store.
        return (Path(file).absolute().parent / MLFLOW_FOLDER / store.study).as_uri()
    place = f"{without_query(store.storage)}/{MLFLOW_FOLDER}/{store.study}"
    return Path(place).as_uri() if place.startswith("/") else place


def view_paths(store: StudyStore, tracking_uri: str) -> Mapping[str, str]:
    """Return, by the names of the saved views, what follows an MLflow server's address to open them.

    Nothing where this process has not been in touch with that MLflow, which is not asked here.
    """
    return _view_paths.get((tracking_uri, store.root), {})


def sync(
    store: StudyStore, tracking_uri: str, methods: Sequence[MethodRun] | None = None, *, tracks_cells: bool = True
) -> Projection:
    """Bring MLflow up to the records of a study; running it again changes nothing.

    Args:
        store: the study's records.
        tracking_uri: where MLflow is.
        methods: what the analysis has for the methods; None: their runs stay as they are.
        tracks_cells: whether each cell has a run of its own; else cells that have one keep it as it is.

    Returns:
        the study in MLflow, with what was found and done.

    Raises:
        StorageError: a record cannot be read.
        ExecutionError: MLflow cannot be reached or refuses.
    """
    advice = "The records are safe. Mend the address or the server, then sync again."
    with _worded(tracking_uri, "does not do what it should", advice):
        projection = Projection(store, tracking_uri)
        cells = store.cells()
        for cell in cells if tracks_cells else ():
            projection.project_cell(cell)
        if methods is not None:
            projection.keep_methods(methods)
        projection.close_study(() if tracks_cells else {store.progress(cell)[0] for cell in cells})
    return projection


def log_report(store: StudyStore, tracking_uri: str, files: Sequence[str], methods: Sequence[MethodRun]) -> None:
    """Log a report's files to the study's run, in the place of older ones, and its methods to theirs.

    Args:
        store: the study's records.
        tracking_uri: where MLflow is.
        files: their locations in one folder; a key in a location is used and not shown.
        methods: what the analysis has for the methods.

    Raises:
        StorageError: a file cannot be read.
        ExecutionError: MLflow cannot be reached or refuses.
    """
    folder = Folder.open(above(files[0])[0])
    contents = {name: folder.read(name) for _, name in map(above, files)}
    advice = "Its files are written; mend the address or the server and make the report again, or use --tracking off."
    with _worded(tracking_uri, "does not take the report", advice):
        projection = Projection(store, tracking_uri)
        projection.keep_methods(methods)
        projection.add_report({name: data for name, data in contents.items() if data is not None})


@contextmanager
def _worded(tracking_uri: str, what: str, advice: str) -> Iterator[None]:
    """Raise what MLflow raises as an error that says what to do."""
    try:
        yield
    except AlRayError:
        raise
    except Exception as error:
        address = without_secrets(tracking_uri)
        raise ExecutionError(f"MLflow at {address} {what}: {error_words(error)}. {advice}") from error


def error_words(error: Exception) -> str:
    """Return an error of MLflow in one line: where the network failed, in the system's words.

    The client's libraries wrap those in pages of their own. The outermost error is left out of the search: a file that
    cannot be read says which one.
    """
    seen, inner = {id(error)}, error.__cause__ or error.__context__
    while inner is not None and id(inner) not in seen:
        seen.add(id(inner))
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror[0].lower() + inner.strerror[1:]
        if type(inner).__name__.endswith(("ReadTimeout", "ReadTimeoutError", "ConnectTimeout")):
            return "no answer in time"
        inner = inner.__cause__ or inner.__context__
    return one_line(error, limit=300) or type(error).__name__
