"""An MLflow database that is ready to use, made once; and what the tracker says."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from al_ray.records.study import StudyStore
from al_ray.tracking.mlflow import sync
from tests.tracking.mlflow_view import warnings_heard


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an MLflow database with its tables; making them takes seconds, copying them does not."""
    folder = tmp_path_factory.mktemp("template")
    store = StudyStore.open(str(folder), "template")
    store.claim()
    sync(store, f"sqlite:///{folder}/mlflow.db")
    return folder / "mlflow.db"


@pytest.fixture
def said() -> Iterator[list[str]]:
    """Yield the tracker's warnings, which grow while it works."""
    with warnings_heard() as sentences:
        yield sentences
