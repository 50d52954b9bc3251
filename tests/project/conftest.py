"""A small pool to label, its hidden answers, and a tiny encoder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.model import tiny
from tests.project.simulated import Pool, ticket_pool


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_bert(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Write 160 tickets without labels, and the same ones with labels beside a test split, for a study of them."""
    return ticket_pool(tmp_path_factory.mktemp("pool"), 160)


@pytest.fixture
def project(tmp_path: Path, pool: Pool, encoder: Path) -> Callable[..., dict[str, Any]]:
    """Return a function that gives what a project file of the pool holds, with changes."""

    def make(**changes: Any) -> dict[str, Any]:
        values: dict[str, Any] = {
            "project": "tickets",
            "data": str(pool.folder / "pool.csv"),
            "classes": list(pool.class_names),
            "model": str(encoder),
            "max_tokens": 16,
            "initial_size": 8,
            "query_size": 6,
            "evaluation": {"name": "random_sample", "n": 30},
            "storage": str(tmp_path / "projects"),
        }
        return values | changes

    return make
