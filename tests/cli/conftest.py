"""Small real studies: a tiny transformer, a few tickets, run through the command line in this process."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from al_ray.cli.app import app
from al_ray.records.study import open_study
from tests.model import tiny


@dataclass(frozen=True)
class Outcome:
    """What a command printed and returned, its lines joined so that wrapping does not matter."""

    code: int
    text: str


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_bert(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="session")
def classifier(bert: Path) -> Path:
    """A stock classifier of three classes that nobody has trained."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from al_ray.model.encoder import quiet

    folder = bert.with_name("classifier")
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForSequenceClassification.from_pretrained(bert, num_labels=3).save_pretrained(folder)
        AutoTokenizer.from_pretrained(bert).save_pretrained(folder)
    return folder


@pytest.fixture
def study(tmp_path: Path, bert: Path) -> Callable[..., Path]:
    """Return a function that writes a study of tiny cells and gives its path."""

    def write(*blocks: dict[str, Any], name: str = "tiny", **defaults: Any) -> Path:
        base = {
            "dataset": {"name": "tickets", "n_train": 160, "n_test": 60},
            "model": str(bert),
            "strategy": "margin",
            "seed": 1,
            "initial_size": 20,
            "query_size": 10,
            "rounds": 2,
            "max_tokens": 32,
            "finetune": {"epochs": 2, "learning_rate": 1e-3},
        }
        path = tmp_path / f"{name}.yaml"
        content = {"study": name, "defaults": base | defaults, "grid": list(blocks) or [{}]}
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    return write


@pytest.fixture
def al_ray() -> Callable[..., Outcome]:
    """Return a function that runs ``al-ray`` with the arguments given."""

    def invoke(*arguments: object) -> Outcome:
        result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "300"})
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(result.exit_code, " ".join(result.output.split()))

    return invoke


def computed(storage: Path, study: str = "tiny") -> dict[str, Any]:
    """Return everything that a study computed, without times: records by file, arrays by hash; packed or not."""
    found: dict[str, Any] = {}
    for cell in open_study(str(storage / study)).cells():
        for file in cell.folder.names()[0]:
            if not file.startswith("round-"):
                continue
            name, data = f"{cell.key}/{file}", cell.folder.read(file) or b""
            if file.endswith(".json"):
                record = json.loads(data)["record"]
                found[name] = {key: value for key, value in record.items() if key != "seconds"}
            else:
                found[name] = hashlib.sha256(data).hexdigest()
    return found
