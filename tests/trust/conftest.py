"""One small study, run among planted secrets, that the tests copy, spoil and open again."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from al_ray.cli.app import app
from al_ray.study import cell as cell_module
from tests.model import tiny

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "Planted/aws+secret0001",
    "AWS_SESSION_TOKEN": "PlantedAwsSession0002",
    "HF_TOKEN": "hf_PlantedToken0003",
    "MLFLOW_TRACKING_PASSWORD": "PlantedTracking0004",
    "WANDB_API_KEY": "PlantedWandb0005",
    "MY_DATABASE_URL": "postgresql://me:PlantedDatabase0006@127.0.0.1/x",
}
TRACKING_PASSWORD = "PlantedLogin0007"
IN_MESSAGE = "PlantedMessage0008"
PLANTED = (*SECRETS.values(), "PlantedDatabase0006", TRACKING_PASSWORD, IN_MESSAGE)
FAILURE = (
    f"cannot reach https://bob:{IN_MESSAGE}@store.example/x nor s3://bucket/x?access_key=a&secret_key={IN_MESSAGE}"
    f" nor https://store.example/x?X-Amz-Signature={IN_MESSAGE}&X-Amz-Date=1"
    f" with {SECRETS['HF_TOKEN']!r} or {SECRETS['AWS_SECRET_ACCESS_KEY']}"
)
FAILING_SEED = 2


@dataclass(frozen=True)
class Outcome:
    """What a command printed on both streams, and returned."""

    code: int
    text: str

    @property
    def flat(self) -> str:
        """The text with its lines joined, so that wrapping does not matter."""
        return " ".join(self.text.split())


def al_ray(*arguments: object, stdin: str = "") -> Outcome:
    """Run ``al-ray`` in this process; an error that it does not word itself is raised here."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], input=stdin, env={"COLUMNS": "300"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(result.exit_code, result.output)


def refused(*arguments: object, stdin: str = "") -> str:
    """Run a command that must be refused with a sentence, and return what it said."""
    outcome = al_ray(*arguments, stdin=stdin)
    assert outcome.code in (1, 2), outcome.text
    assert "Traceback" not in outcome.text
    return outcome.flat


def write_study(path: Path, model: Path, **changes: Any) -> Path:
    """Write a study of tiny cells; a change of None takes a key away."""
    content: dict[str, Any] = {
        "study": "tiny",
        "defaults": {
            "dataset": {"name": "tickets", "n_train": 120, "n_test": 40},
            "model": str(model),
            "strategy": "margin",
            "seed": 1,
            "initial_size": 12,
            "query_size": 6,
            "rounds": 1,
            "max_tokens": 24,
            "finetune": {"epochs": 1, "learning_rate": 1e-3},
        },
        "grid": [{}],
    }
    for key, value in changes.items():
        place = content if key in ("study", "description", "grid", "execution") else content["defaults"]
        place[key] = value
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_bert(tmp_path_factory.mktemp("models") / "bert")


@dataclass(frozen=True)
class Finished:
    """A study of two cells, one done and one failed, as ``al-ray run`` and ``al-ray report`` left it.

    Attributes:
        storage: folder of the records, MLflow's file and its artifacts among them.
        file: the study file.
        printed: everything that the commands wrote to the terminal.
    """

    storage: Path
    file: Path
    printed: str

    @property
    def folder(self) -> Path:
        return self.storage / "tiny"


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, bert: Path) -> Finished:
    """Run a study and report on it with secrets in the environment; one cell fails with a secret in its message."""
    place = tmp_path_factory.mktemp("study")
    storage, file = place / "out", write_study(place / "tiny.yaml", bert, seed=[1, FAILING_SEED])
    printed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        patch.setattr(cell_module.learner, "run", _failing(cell_module.learner.run))
        run = ("run", file, "--local", "--storage", storage.as_uri())
        printed.append(al_ray(*run).text)
        printed.append(al_ray("report", file, "--storage", storage.as_uri()).text)
        # Nobody answers there, and the login must not be shown in saying so.
        patch.setenv("MLFLOW_TRACKING_URI", f"http://alice:{TRACKING_PASSWORD}@127.0.0.1:9")
        printed.append(al_ray(*run, "--cell", "tickets-bert-softmax-margin-s1").text)
        printed.append(al_ray("report", file, "--storage", storage.as_uri()).text)
        printed.append(al_ray("sync", file, "--storage", storage.as_uri()).text)
    return Finished(storage, file, "\n".join(printed))


def _failing(run: Callable[..., Any]) -> Callable[..., Any]:
    def fail_one(loop: Any, *arguments: Any) -> Any:
        if loop.seed == FAILING_SEED:
            raise RuntimeError(FAILURE)
        return run(loop, *arguments)

    return fail_one


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> Finished:
    """Return a copy of the study's records alone, with nothing of MLflow."""
    storage = tmp_path / "out"
    shutil.copytree(finished.folder, storage / "tiny")
    return Finished(storage, finished.file, "")


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """Return a file that only a payload writes; the test fails where it exists in the end."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "code of a stranger was run"


@dataclass(frozen=True)
class Payload:
    """What writes the canary when it is unpickled."""

    canary: str

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.canary}'",)


def edit_json(path: Path, change: Callable[[Any], Any] | Mapping[str, Any]) -> None:
    """Change a JSON file: by a function, or by values of its top level."""
    content = json.loads(path.read_text(encoding="utf-8"))
    content = change(content) if callable(change) else {**content, **change}
    path.write_text(json.dumps(content), encoding="utf-8")


def snapshot(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
