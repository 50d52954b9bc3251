"""An MLflow address that cannot work is refused with one that can; an MLflow that is only down is not."""

import re
import sys
from pathlib import Path

import pytest

from al_ray.errors import ConfigError
from al_ray.tracking.mlflow_address import tracking_address

CANNOT_WORK = [
    ("file://{here}/runs", r"MLflow keeps no runs in a folder any more"),
    ("file:runs", r"MLflow keeps no runs in a folder any more"),
    ("{here}/runs", r"MLflow keeps no runs in a folder any more"),
    ("mlruns", r"MLflow keeps no runs in a folder any more"),
    ("none", r"MLflow keeps no runs in a folder any more"),
    ("http:/host", r"that is no server's address"),
    ("http://", r"that is no server's address"),
    ("https:///x", r"that is no server's address"),
    ("http:host:5000", r"that is no server's address"),
    ("http://host:port", r"that is no server's address"),
    ("http://host:99999", r"that is no server's address"),
    ("http://ho st", r"that is no server's address"),
    ("localhost:5000", r"a server's address begins with its scheme"),
    ("127.0.0.1:5000/mlflow", r"a server's address begins with its scheme"),
    ("htp://host", r"MLflow knows no scheme 'htp'\. Did you mean 'http'\?"),
    ("postgres://host/x", r"MLflow knows no scheme 'postgres'\. Did you mean 'postgresql'\?"),
    ("s3://bucket/x", r"MLflow knows no scheme 's3'\. Use http://HOST:PORT"),
    ("sqlite:x.db", r"it names no file"),
    ("sqlite://host/x.db", r"it names no file"),
    ("sqlite:////{here}/text.txt", r"that file is no SQLite database"),
    ("sqlite:////{here}/text.txt/x.db", r"text\.txt is a file"),
    ("sqlite+no_such_driver:////{here}/x.db", r"that is no database's address"),
    ("postgresql+no_such_driver://host/x", r"that is no database's address"),
]
ONLY_HERE = [
    ("sqlite://", r"it names no file"),  # MLflow would keep it in memory, each connection its own
    ("sqlite:///:memory:", r"it names no file"),
    ("sqlite:////{here}", r"that is a folder"),  # MLflow tries for minutes
    (f"sqlite:////{{here}}/{'a' * 300}.db", r"cannot be looked at \(File name too long\)\. Name another place"),
    ("postgresql+psycopg://user:hidden-1@host/x", r"its database driver is not here \(.*psycopg"),
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "text.txt").write_text("no database, and long enough for a header")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    return tmp_path


def refusal(address: str, here: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        tracking_address(address.format(here=here), str(here))
    return str(caught.value)


@pytest.mark.parametrize(("address", "message"), CANNOT_WORK + ONLY_HERE)
def test_an_address_that_cannot_work_is_refused_with_one_that_can(address: str, message: str, here: Path) -> None:
    said = refusal(address, here)
    assert re.search(message, said), said
    assert "\n" not in said
    assert "hidden-1" not in said
    advice = re.findall(r"(?:Write|Use|or|in it,|a server,) ((?:sqlite|https?|postgresql):\S+?)[,.]?(?= |$)", said)
    for each in advice:
        better = each.replace("/FOLDER", f"{here}/made").replace(":PORT", ":5000")
        if "postgresql" not in better:
            assert tracking_address(better, str(here)) == better
    assert advice or "Name another" in said


@pytest.mark.parametrize("address", [address for address, _ in CANNOT_WORK])
def test_what_is_refused_mlflow_refuses_too(address: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    from mlflow import MlflowClient

    with pytest.raises(Exception, match=r"\S"):
        MlflowClient(address.format(here=here)).get_experiment_by_name("x")
    assert sorted(path.name for path in here.iterdir()) == ["text.txt"]


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:9",
        "HTTPS://user:password@mlflow.example/path/",
        "http://[::1]:5000",
        "sqlite:///new folder/mlflow.db",
        "sqlite:////{here}/a #1/mlflow.db",
        "sqlite+pysqlite:////{here}/mlflow.db",
    ],
)
def test_an_address_that_may_work_is_asked_for_nothing(address: str, here: Path) -> None:
    assert tracking_address(address.format(here=here), "s3:///never opened") == address.format(here=here)
    assert sorted(path.name for path in here.iterdir()) == ["text.txt"]


def test_the_variable_is_named_where_it_is_wrong_and_off_turns_it_off(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", " file:///x ")
    with pytest.raises(ConfigError, match=r"MLFLOW_TRACKING_URI is 'file:///x': .* --set tracking=off for a run"):
        tracking_address(None, str(here))
    assert tracking_address("off", str(here)) is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    assert tracking_address(None, str(here)) is None


def test_a_folder_is_taken_where_mlflow_was_told_to_take_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    assert tracking_address("file:///x", str(here)) == "file:///x"


def test_databricks_needs_its_package(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("al_ray.tracking.mlflow_address.distributions", lambda name: [])
    assert "it needs a package" in refusal("databricks://profile", here)
    monkeypatch.setattr("al_ray.tracking.mlflow_address.distributions", lambda name: [name])
    assert tracking_address("databricks", str(here)) == "databricks"
