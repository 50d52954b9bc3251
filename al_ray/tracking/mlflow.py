"""MLflow as a view of the records, rebuilt from storage at any time; the only module that imports MLflow, late.

A study is one parent run, a cell a child run, a round one point of each metric. The live view (tracker.py) projects the
same records by the same code, and neither logs a thing twice: what a live tracker could not write, :func:`sync` adds
later.
"""

import csv
import io
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

# Characters: MLflow 3 takes 6000 of a value, older servers 500.
_MAX_VALUE, _MAX_KEY, _MAX_TAG = 500, 250, 4000
_MAX_PARAMS, _MAX_METRICS, _PAGE = 100, 1000, 1000
_KIND, _STUDY_ID, _CELL, _FINGERPRINT = "al_ray.kind", "al_ray.study_id", "al_ray.cell", "al_ray.fingerprint"
_COMPLETE, _FAILURE, _PARENT = "al_ray.complete", "al_ray.failure", "mlflow.parentRunId"
_ENDED = {"done": "FINISHED", "failed": "FAILED"}
_VIEW = 2  # one more wherever a cell is shown otherwise than before: runs that are complete are then looked at again
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
_cells_paths: dict[tuple[str, str], str] = {}  # (tracking URI, study folder) -> where this process found the study


class Point(NamedTuple):
    """One value of a learning curve; ``step`` is the number of labels."""

    name: str
    step: int
    value: float
    at: datetime


def round_points(entry: RecordedRound) -> list[Point]:
    """Return what one round shows as metrics; nothing for the initial query, which has no model."""
    record = entry.record
    if not record.metrics:
        return []
    seconds = {f"seconds/{phase}": value for phase, value in record.seconds.items()}
    return _points(entry, {**record.metrics, **seconds, "round_index": float(record.round_index)})


def final_points(entries: Sequence[RecordedRound]) -> list[Point]:
    """Return the figures that compare cells: last value and mean of the learning curve, of accuracy and macro F1.

    A report calls them ``final_accuracy`` and ``aulc``; here a slash stands between figure and metric, since MLflow
    groups charts by what is before it.
    """
    fitted = [entry.record.metrics for entry in entries if entry.record.metrics]
    names = [name for name in ("accuracy", "macro_f1") if fitted and all(name in metrics for metrics in fitted)]
    finals = {f"final/{name}": fitted[-1][name] for name in names}
    means = {f"aulc/{name}": aulc([metrics[name] for metrics in fitted]) for name in names}
    return _points(entries[-1], {**finals, **means}) if entries else []


def _points(entry: RecordedRound, values: Mapping[str, float]) -> list[Point]:
    step, at = entry.record.n_labeled, entry.recorded_at
    return [Point(shown_name(name), step, float(value), at) for name, value in sorted(values.items())]


def query_table(entries: Iterable[RecordedRound]) -> str:
    """Return everything that was asked and answered as CSV, one row an example, in the order of asking."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["round_index", "id", "score", "label", "abstained"])
    for entry in entries:
        query, annotation = entry.record.query, entry.record.annotation
        columns = (query.ids, query.scores, annotation.labels, annotation.abstained)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        table.writerows([entry.record.round_index, *row] for row in rows)
    return text.getvalue()


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
        run_id, status, tags: as MLflow has them.
        params, metrics: their names.
        artifacts: address of its files.
        points: name, step and value of each; None until they have been read.
        n_rounds: so many first rounds of the cell are known to be shown.
    """

    run_id: str
    status: str
    tags: dict[str, str]
    params: set[str]
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
        n_runs, n_points: runs made, the parent run included, and metric points added.
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
        self._store = store
        self._experiment_id = self._experiment(_artifact_location(store, tracking_uri))
        self._parent = self._parent_run()
        self._runs = self._cell_runs()
        best_cells_first = {
            "searchFilter": f"tags.`{_PARENT}` = '{self._parent.run_id}'",
            "orderByKey": "metrics.`final/accuracy`",
            "orderByAsc": "false",
        }
        query = urllib.parse.urlencode(best_cells_first, quote_via=urllib.parse.quote)
        _cells_paths[tracking_uri, store.root] = f"/#/experiments/{self._experiment_id}/runs?{query}"

    def show_cell(
        self, key: str, status: str | None, spec: Mapping[str, Any] | None = None, started_at: datetime | None = None
    ) -> None:
        """Bring the run of a cell up to its records, which may not have begun, and to what is known beyond them.

        Args:
            key: name of the cell's folder.
            status: of the cell, where the caller knows better than the storage yet shows.
            spec: its identity, where it has just started: its run is made, or goes on.
            started_at: when it did.
        """
        if spec is not None:
            run = self._run(key, spec, started_at)
            self._set_status(self._parent, "RUNNING")
            self._set_status(run, "RUNNING")
        cell = self._cells.get(key) or self._store.find(key)
        if cell is not None:
            self._cells[key] = cell
            self.project_cell(cell, status)
        elif status is not None and key in self._runs:
            self._set_status(self._runs[key], _ENDED.get(status, "RUNNING"))

    def project_cell(self, cell: CellStore, status: str | None = None) -> None:
        """Bring the run of a cell up to its records; while it runs, only rounds that are not shown yet are read.

        Args:
            cell: its records.
            status: of the cell, where the caller knows better than the storage yet shows.
        """
        recorded, n_rounds = cell.progress()
        status = status or recorded
        has_ended, run, before = status in _ENDED, self._runs.get(cell.key), (self.n_runs, self.n_points)
        ended_at = cell.ended_at() if has_ended else None
        complete = f"{status} with {n_rounds} rounds, {ended_at or 'not ended'}, view {_VIEW}"
        self.n_cells += 1
        if has_ended and run is not None and run.tags.get(_COMPLETE) == complete:
            self.n_complete += 1
            return
        if has_ended or run is None or run.n_rounds == 0:
            entries = cell.recorded_rounds()
            run = self._run(cell.key, cell.spec(), entries[0].recorded_at if entries else None)
        else:
            found = (cell.recorded_round(index) for index in range(run.n_rounds, n_rounds))
            entries = [entry for entry in found if entry is not None]
        self._add_points(run, [point for entry in entries for point in round_points(entry)])
        if entries:
            run.n_rounds = entries[-1].record.round_index + 1
        if has_ended:
            self._end(run, cell, status, entries, ended_at)
            self._set_tag(run, _COMPLETE, complete)
            return
        if run.status != "KILLED":  # a driver that left says better what its cells are
            self._set_status(run, "RUNNING")
        self.n_complete += (self.n_runs, self.n_points) == before

    def _end(
        self, run: _Run, cell: CellStore, status: str, entries: Sequence[RecordedRound], ended_at: datetime | None
    ) -> None:
        """Add to a run what is known once its cell is done or has failed."""
        if status == "done":
            self._add_points(run, final_points(entries))
        self._check_place(run)
        self._client.log_text(run.run_id, canonical_json(cell.spec(), indent=1), "spec.json")
        self._client.log_text(run.run_id, query_table(entries), "queries.csv")
        if status == "failed":
            self._set_tag(run, _FAILURE, _cut(without_secrets(canonical_json(cell.failure())), _MAX_TAG))
        elif _FAILURE in run.tags:
            self._client.delete_tag(run.run_id, _FAILURE)
            del run.tags[_FAILURE]
        self._set_status(run, _ENDED[status], ended_at)
        run.points = None  # frees their memory; they are read again should the cell go on
        self._cells.pop(cell.key, None)

    def add_report(self, files: Mapping[str, bytes]) -> None:
        """Log files below ``report`` in the parent run's artifacts."""
        self._check_place(self._parent)
        with tempfile.TemporaryDirectory() as folder:
            for name, data in files.items():
                (Path(folder) / name).write_bytes(data)
            self._client.log_artifacts(self._parent.run_id, folder, "report")
        if not self._runs:
            # A study that is not tracked gets its report alone, and nothing of it runs here.
            self._set_status(self._parent, "FINISHED")

    def interrupt(self, keys: Iterable[str]) -> None:
        """Show cells as killed whose driver leaves before they ended; they run again when they are taken up."""
        for key in keys:
            if key in self._runs and self._runs[key].status == "RUNNING":
                self._set_status(self._runs[key], "KILLED")

    def close_study(self) -> None:
        """Give the parent run the status that its cells add up to."""
        statuses = {run.status for run in self._runs.values()}
        found = next((status for status in ("RUNNING", "KILLED", "FAILED") if status in statuses), "FINISHED")
        self._set_status(self._parent, found if statuses else "RUNNING")

    def _experiment(self, artifact_location: str | None) -> str:
        found = self._client.get_experiment_by_name(self._store.study)
        if found is None:
            return str(self._client.create_experiment(self._store.study, artifact_location=artifact_location))
        if found.lifecycle_stage != "active":
            raise ExecutionError(
                f"the MLflow experiment {self._store.study!r} was deleted. Restore it ('mlflow experiments restore "
                f"--experiment-id {found.experiment_id}'), or rename the study."
            )
        return str(found.experiment_id)

    def _parent_run(self) -> _Run:
        study_id = self._store.id()
        tags = {_KIND: "study", _STUDY_ID: study_id, "al_ray.records": without_secrets(self._store.root)}
        found = self._search(f"tags.`{_KIND}` = 'study' and tags.`{_STUDY_ID}` = '{study_id}'")
        for child in [child for extra in found[1:] for child in self._children(extra)]:
            self._set_tag(child, _PARENT, found[0].run_id)
        return self._only(found) if found else self._create(self._store.study, tags, None)

    def _children(self, parent: _Run) -> list[_Run]:
        return self._search(f"tags.`{_PARENT}` = '{parent.run_id}'")

    def _cell_runs(self) -> dict[str, _Run]:
        by_key: dict[str, list[_Run]] = {}
        for run in self._children(self._parent):
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

    def _search(self, condition: str) -> list[_Run]:
        order = ["attributes.start_time ASC", "attributes.run_id ASC"]
        search = partial(self._client.search_runs, [self._experiment_id], condition, max_results=_PAGE, order_by=order)
        page = search()
        found = list(page)
        while page.token:
            page = search(page_token=page.token)
            found += page
        return [_known(run) for run in found]

    def _run(self, key: str, spec: Mapping[str, Any], started_at: datetime | None = None) -> _Run:
        if key not in self._runs:
            tags = {_KIND: "cell", _CELL: key, _FINGERPRINT: cell_fingerprint(spec), _PARENT: self._parent.run_id}
            self._runs[key] = self._create(key.rsplit("--", 1)[0], tags, started_at)
        run = self._runs[key]
        params = {name: text for name, text in spec_params(spec).items() if name not in run.params}
        new = [self._entities.Param(name, text) for name, text in params.items()]
        for start in range(0, len(new), _MAX_PARAMS):
            self._client.log_batch(run.run_id, params=new[start : start + _MAX_PARAMS])
        run.params.update(params)
        return run

    def _create(self, name: str, tags: dict[str, str], started_at: datetime | None) -> _Run:
        created = self._client.create_run(
            self._experiment_id, start_time=_milliseconds(started_at or now()), tags=tags, run_name=name
        )
        self.n_runs += 1
        run = _known(created)
        run.points = set()
        return run

    def _add_points(self, run: _Run, points: Sequence[Point]) -> None:
        """Log the points that are not there yet, by name, step and value: their times may be told otherwise."""
        if run.points is None:
            run.points = {
                (name, int(point.step), float(point.value))
                for name in run.metrics
                for point in self._client.get_metric_history(run.run_id, name)
            }
        missing = {point[:3]: point for point in points if point[:3] not in run.points}
        batch = [self._entities.Metric(p.name, p.value, _milliseconds(p.at), p.step) for p in missing.values()]
        for start in range(0, len(batch), _MAX_METRICS):
            self._client.log_batch(run.run_id, metrics=batch[start : start + _MAX_METRICS])
        run.points |= missing.keys()
        run.metrics |= {name for name, _, _ in missing}
        self.n_points += len(batch)

    def _check_place(self, run: _Run) -> None:
        """Refuse to write files where a database says that came with somebody's records, unless that is beside them."""
        if self._own_folder is not None and not _is_below(run.artifacts, self._own_folder):
            raise ExecutionError(
                f"{MLFLOW_FILE} in {self._own_folder} keeps artifacts in {run.artifacts}, outside that folder: it was "
                f"copied or moved. Name an MLflow server, or move {MLFLOW_FILE} away; it is made anew from the records "
                f"by: al-ray sync {shlex.quote(self._store.root)}"
            )

    def _set_status(self, run: _Run, status: str, at: datetime | None = None) -> None:
        if run.status == status:
            return
        if status == "RUNNING":
            self._client.update_run(run.run_id, status=status)
        else:
            self._client.set_terminated(run.run_id, status, end_time=_milliseconds(at or now()))
        run.status = status

    def _set_tag(self, run: _Run, name: str, text: str) -> None:
        if run.tags.get(name) != text:
            self._client.set_tag(run.run_id, name, text)
            run.tags[name] = text


def _known(run: Any) -> _Run:
    info, data = run.info, run.data
    return _Run(info.run_id, info.status, dict(data.tags), set(data.params), info.artifact_uri, set(data.metrics))


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


def cells_path(store: StudyStore, tracking_uri: str) -> str | None:
    """Return what follows an MLflow server's address to show the table of this study's cells.

    None where this process has not been in touch with that MLflow, which is not asked here.
    """
    return _cells_paths.get((tracking_uri, store.root))


def sync(store: StudyStore, tracking_uri: str) -> Projection:
    """Bring MLflow up to the records of a study; running it again changes nothing.

    Returns:
        the study in MLflow, with what was found and done.

    Raises:
        StorageError: a record cannot be read.
        ExecutionError: MLflow cannot be reached or refuses.
    """
    advice = "The records are safe. Mend the address or the server, then sync again."
    with _worded(tracking_uri, "does not do what it should", advice):
        projection = Projection(store, tracking_uri)
        for cell in store.cells():
            projection.project_cell(cell)
        projection.close_study()
    return projection


def log_report(store: StudyStore, tracking_uri: str, files: Sequence[str]) -> None:
    """Log a report's files, by their locations in one folder, to the study's parent run, in the place of older ones.

    A key in a location is used and not shown.

    Raises:
        StorageError: a file cannot be read.
        ExecutionError: MLflow cannot be reached or refuses.
    """
    folder = Folder.open(above(files[0])[0])
    contents = {name: folder.read(name) for _, name in map(above, files)}
    advice = "Its files are written; mend the address or the server and make the report again, or use --tracking off."
    with _worded(tracking_uri, "does not take the report", advice):
        Projection(store, tracking_uri).add_report({name: data for name, data in contents.items() if data is not None})


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
