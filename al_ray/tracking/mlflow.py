"""MLflow as a view of the records, rebuilt from storage at any time; the only module that imports MLflow, late.

The live view (tracker.py) projects the same records by the same code, and neither logs a thing twice: what a live
tracker could not write, :func:`sync` adds later.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from al_ray.errors import AlRayError, ExecutionError, one_line, without_secrets
from al_ray.records.study import StudyStore
from al_ray.storage.address import above
from al_ray.storage.folder import Folder
from al_ray.tracking.projection import Projection

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # Repeated inside MLflow, a call whose answer was lost would make a run twice; the tracker looks before it repeats.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
_cells_paths: dict[tuple[str, str], str] = {}  # (tracking URI, study folder) -> where this process found the study


def connect(store: StudyStore, tracking_uri: str) -> Projection:
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

    for logger in ("mlflow", "alembic"):
        logging.getLogger(logger).setLevel(logging.ERROR)  # a failure is raised as well, and said once by the tracker
    projection = Projection(store, tracking_uri, mlflow)
    _cells_paths[tracking_uri, store.root] = projection.cells_path
    return projection


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
        projection = connect(store, tracking_uri)
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
        connect(store, tracking_uri).add_report({name: data for name, data in contents.items() if data is not None})


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
