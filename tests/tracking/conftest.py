"""An MLflow database that is ready to use, made once."""

from pathlib import Path

import pytest

from al_ray.records.study import StudyStore
from al_ray.tracking.mlflow import sync


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an MLflow database with its tables; making them takes seconds, copying them does not."""
    folder = tmp_path_factory.mktemp("template")
    store = StudyStore.open(str(folder), "template")
    store.claim()
    sync(store, f"sqlite:///{folder}/mlflow.db")
    return folder / "mlflow.db"
