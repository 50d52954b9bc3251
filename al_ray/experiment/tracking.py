"""MLflow as a view of the records: live while a study runs, or rebuilt from storage at any time.

This is the only module that imports MLflow, and it does so late. Both ways use the same code and neither logs a thing
twice; what a live tracker could not write, :func:`sync` adds later.
"""

import logging
import os
import queue
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from al_ray.core.types import RoundRecord
from al_ray.errors import AlRayError, ConfigError, ExecutionError
from al_ray.experiment.recorded_rounds import RecordedRound, now
from al_ray.experiment.storage_path import Folder
from al_ray.experiment.store import MLFLOW_FILE, StudyStore

if TYPE_CHECKING:
    from al_ray.experiment.tracking_projection import Projection

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
WAITS_S = (1.0, 4.0, 15.0)
CLOSE_TIMEOUT_S = 60.0
# What MLflow answers where asking again cannot help, and where the next update may well succeed.
_REFUSALS = frozenset({"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE", "BAD_REQUEST"})
_log = logging.getLogger(__name__)


def default_tracking_uri(storage: str) -> str | None:
    """Return where MLflow is when nobody says: ``MLFLOW_TRACKING_URI``, else a SQLite file in a local storage folder.

    Returns:
        the address, or None for remote storage, where no file can be shared.

    Raises:
        ConfigError: the folder's name does not fit into an MLflow address.
        StorageError: the storage cannot be opened.
    """
    named = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if named:
        return named
    folder = Folder.open(storage)
    if not folder.is_local:
        return None
    if set("?%") & set(folder.path):
        raise ConfigError(
            f"storage {folder.address} has '?' or '%' in its name, which the address of an MLflow file cannot hold. "
            f"Name the folder otherwise, name an MLflow server, or turn tracking off."
        )
    return f"sqlite:///{folder.path}/{MLFLOW_FILE}"


def tracking_address(tracking: str | None, storage: str) -> str | None:
    """Return the MLflow address that an execution asks for.

    Args:
        tracking: an address, ``off``, or None for the default.
        storage: folder of the records.

    Returns:
        the address, or None where MLflow is not used.
    """
    if tracking == "off":
        return None
    return tracking or default_tracking_uri(storage)


def connect(store: StudyStore, tracking_uri: str) -> "Projection":
    """Import MLflow (2 to 3 s) and find or make the runs of a study.

    Its telemetry, its chatter and its minutes of retries are turned off, unless the environment says otherwise.

    Raises:
        ExecutionError: the experiment of that name was deleted in MLflow.
        Exception: whatever MLflow raises when it cannot be reached.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow
    import mlflow.entities

    from al_ray.experiment.tracking_projection import Projection

    for logger in ("mlflow", "alembic"):
        logging.getLogger(logger).setLevel(logging.ERROR)  # a failure is raised as well, and said once by the tracker
    return Projection(store, tracking_uri, mlflow)


@dataclass(frozen=True, kw_only=True)
class SyncReport:
    """What a synchronisation found and did.

    Attributes:
        n_cells: recorded cells.
        n_complete: cells that MLflow already showed in full.
        n_runs: runs made, the parent run included.
        n_points: metric points added.
        duplicates: ids of runs that another program had made twice; deleted in MLflow, and restorable there.
    """

    n_cells: int
    n_complete: int
    n_runs: int
    n_points: int
    duplicates: tuple[str, ...]


def sync(store: StudyStore, tracking_uri: str) -> SyncReport:
    """Bring MLflow up to the records of a study; running it again changes nothing.

    Args:
        store: the study's records.
        tracking_uri: where MLflow is.

    Raises:
        StorageError: a record cannot be read.
        ExecutionError: MLflow cannot be reached or refuses.
    """
    try:
        projection = connect(store, tracking_uri)
        changed = [projection.project_cell(cell) for cell in store.cells()]
        projection.close_study()
    except AlRayError:
        raise
    except Exception as error:
        raise ExecutionError(
            f"MLflow at {_shown(tracking_uri)} does not do what it should: {_brief(error)}. The records are safe. "
            f"Mend the address or the server, then sync again."
        ) from error
    return SyncReport(
        n_cells=len(changed),
        n_complete=changed.count(False),
        n_runs=projection.written.runs,
        n_points=projection.written.points,
        duplicates=tuple(projection.written.duplicates),
    )


def log_report(store: StudyStore, tracking_uri: str, files: Sequence[str]) -> None:
    """Log a report's files to the study's parent run, in the place of older ones.

    Args:
        store: the study's records.
        tracking_uri: where MLflow is.
        files: addresses of the files, all in one folder.

    Raises:
        StorageError: a file cannot be read.
        ExecutionError: MLflow cannot be reached or refuses.
    """
    folder = Folder.open(files[0].rpartition("/")[0])
    contents = {name: folder.read(name) for name in (address.rpartition("/")[2] for address in files)}
    try:
        connect(store, tracking_uri).add_report({name: data for name, data in contents.items() if data is not None})
    except AlRayError:
        raise
    except Exception as error:
        raise ExecutionError(
            f"MLflow at {_shown(tracking_uri)} does not take the report: {_brief(error)}. Its files are written; "
            "mend the address or the server and make the report again, or use --tracking off."
        ) from error


class Tracker:
    """Shows a study in MLflow while it runs: one queue, one thread, and no way to hold the study up.

    Its methods only enqueue. MLflow is imported, its database made and every call done in the thread. Where MLflow
    fails, the thread tries again a few times, says so once, and then drops what comes: the records are the truth, and
    :func:`sync` repairs the view.

    Args:
        store: the study's records.
        tracking_uri: where MLflow is; None: nothing is tracked.
        say: takes the sentence about an outage; called from the thread. None: a warning is logged.
        waits_s: seconds between attempts.
    """

    def __init__(
        self,
        store: StudyStore,
        tracking_uri: str | None,
        *,
        say: Callable[[str], None] | None = None,
        waits_s: Sequence[float] = WAITS_S,
    ) -> None:
        self.n_dropped = 0
        self._store = store
        self._uri = tracking_uri
        self._say = say or _log.warning
        self._waits_s = waits_s
        self._updates: queue.SimpleQueue[Callable[[Projection], None] | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._off = False
        self._refused = False
        self._projection: Projection | None = None
        self._thread = threading.Thread(target=self._work, name="mlflow-tracker", daemon=True)

    def start(self) -> None:
        """Start the thread; returns at once."""
        if self._uri is not None:
            self._thread.start()

    def cell_started(self, key: str, spec: Mapping[str, Any]) -> None:
        """Show a cell as running, with its spec as parameters.

        Args:
            key: name of the cell's folder.
            spec: its identity, in JSON form.
        """
        started_at = now()  # not when the thread gets there: it may be importing MLflow for half a minute
        self._put(lambda projection: projection.start_cell(key, spec, started_at))

    def round_recorded(self, key: str, record: RoundRecord) -> None:
        """Show a round that has been recorded."""
        entry = RecordedRound(record=record, recorded_at=now(), tables={})
        self._put(lambda projection: projection.add_round(key, self._as_stored(key, entry)))

    def cell_finished(self, key: str, status: str, summary: Mapping[str, Any] | None = None) -> None:
        """Show a cell as done or failed, and add from its records whatever is missing.

        Args:
            key: name of the cell's folder.
            status: ``done`` or ``failed``.
            summary: not needed: the figures are those of the records.
        """
        del summary
        self._put(lambda projection: self._end(projection, key, status))

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> bool:
        """Write what is waiting, for at most so long.

        Returns:
            whether MLflow now shows everything that this tracker was told.
        """
        if not self._thread.is_alive():
            return not self.n_dropped
        self._put(lambda projection: projection.close_study())
        self._updates.put(None)
        self._closing.set()
        self._thread.join(timeout_s)
        if self._thread.is_alive() and not self._off:
            self._off = True
            self._tell(f"MLflow at {_shown(self._uri)} was too slow: after {timeout_s:g} s updates are still waiting.")
        return not (self._off or self.n_dropped)

    def _put(self, update: "Callable[[Projection], None]") -> None:
        if self._uri is not None:
            self._updates.put(update)

    def _work(self) -> None:
        while (update := self._updates.get()) is not None:
            if self._off or not self._done(update):
                self.n_dropped += 1

    def _done(self, update: "Callable[[Projection], None]") -> bool:
        for wait_s in (*self._waits_s, None):
            try:
                update(self._connected())
                return True
            except Exception as error:
                self._projection = None  # what it knew of MLflow may be out of date: the next attempt looks again
                if _is_refusal(error):
                    self._tell_refusal(error)
                    return False
                if wait_s is None:
                    self._give_up(error)
                else:
                    self._closing.wait(wait_s)
        return False

    def _connected(self) -> "Projection":
        if self._projection is None:
            assert self._uri is not None
            self._projection = connect(self._store, self._uri)
        return self._projection

    def _as_stored(self, key: str, entry: RecordedRound) -> RecordedRound:
        """Return the round with the time that its record has, where the storage shows it already."""
        cell = self._store.find(key)
        stored = None if cell is None else cell.recorded_round(entry.record.round_index)
        return stored or entry

    def _end(self, projection: "Projection", key: str, status: str) -> None:
        cell = self._store.find(key)
        if cell is None:
            projection.end_cell(key, status)
        else:
            projection.project_cell(cell, status)

    def _give_up(self, error: Exception) -> None:
        if not self._off:
            self._off = True
            self._tell(f"MLflow at {_shown(self._uri)} cannot be used: {_brief(error)}.")

    def _tell_refusal(self, error: Exception) -> None:
        if not self._refused:
            self._refused = True
            self._tell(f"MLflow at {_shown(self._uri)} did not take an update: {_brief(error)}.")

    def _tell(self, what: str) -> None:
        try:
            self._say(f"{what} The study goes on and its records are complete; 'al-ray sync' brings MLflow up to them.")
        except Exception:
            _log.exception("the listener for tracking problems failed")


def _is_refusal(error: Exception) -> bool:
    return isinstance(error, AlRayError) or getattr(error, "error_code", None) in _REFUSALS


def _brief(error: Exception, limit: int = 300) -> str:
    text = _shown(" ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= limit else f"{text[:limit]}..."


def _shown(text: str | None) -> str:
    """Return a text without the user name and password that an address in it may hold."""
    return re.sub(r"//[^/@\s]+@", "//", text or "")
