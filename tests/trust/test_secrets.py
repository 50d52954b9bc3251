"""Secrets of the environment never reach records, reports, MLflow or the terminal."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from al_ray.errors import without_secrets
from tests.trust.conftest import PLANTED, Finished, refused


def readable(path: Path) -> bytes:
    """Return the bytes of a file and, where it is compressed, what it holds."""
    data = path.read_bytes()
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        data += repr((table.schema.metadata, table.to_pylist())).encode()
    return data


def test_no_file_and_no_line_holds_a_secret(finished: Finished) -> None:
    files = [path for path in finished.storage.rglob("*") if path.is_file()]
    kinds = {path.name for path in files}
    assert {"mlflow.db", "provenance.json", "failed.json", "done.json", "report.html"} <= kinds
    found = {(path.name, secret) for path in files for secret in PLANTED if secret.encode() in readable(path)}
    assert found == set()
    assert [secret for secret in PLANTED if secret in finished.printed] == []


def test_a_secret_that_was_planted_in_a_file_is_found(finished: Finished, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps({"token": PLANTED[0]}), encoding="utf-8")
    assert PLANTED[0].encode() in readable(tmp_path / "x.json")


def test_what_failed_is_still_told(finished: Finished) -> None:
    (failed,) = finished.folder.rglob("failed.json")
    text = failed.read_text(encoding="utf-8")
    assert "https://store.example/x" in text
    assert "with '...' or ..." in text
    assert "MLflow at http://127.0.0.1:9" in " ".join(finished.printed.split())


def test_provenance_records_no_environment(finished: Finished) -> None:
    for path in finished.folder.rglob("provenance.json"):
        for entry in json.loads(path.read_text(encoding="utf-8")):
            assert not {name for name in entry if "env" in name.lower() or name.isupper()}


LOGIN = "alice:PlantedLogin0009"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--storage", f"nosuch://{LOGIN}@host/x"),
        ("--storage", f"nosuch://host/x?secret_key={LOGIN}"),
        ("--set", f"lanes=http://{LOGIN}@host"),
        ("--set", f"retries=http://host/x?token={LOGIN}"),
        ("--set", f"address=ray://{LOGIN}@host:1", "--set", "storage=relative", "--set", "tracking=off"),
        ("--set", f"unknown=http://{LOGIN}@host"),
    ],
    ids=str,
)
def test_a_refusal_does_not_repeat_a_login(finished: Finished, arguments: tuple[str, ...]) -> None:
    said = refused("run", finished.file, *arguments)
    assert "PlantedLogin0009" not in said


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:pass@host/x", "http://host/x"),
        ("sqlite+x://user:pass@host", "sqlite+x://host"),
        ("s3://key:secret@bucket/x?endpoint_override=e", "s3://bucket/x?endpoint_override=e"),
        ("s3://b/x?secret_key=abc&region=r", "s3://b/x?secret_key=...&region=r"),
        ("https://h/x?X-Amz-Signature=abc&X=1", "https://h/x?X-Amz-Signature=...&X=1"),
        ("two http://a:b@c and ftp://d:e@f", "two http://c and ftp://f"),
        ("s3://KEY:SECRET@bucket/folder", "s3://bucket/folder"),
        ("postgresql://u:p/w@h/db", "postgresql://h/db"),
        ("http://u:p@ss@h/", "http://h/"),
        ("http://token@h/", "http://h/"),
        ("at 'http://a:b@c/' and http://d:e@f", "at 'http://c/' and http://f"),
        ("s3://b/f?region=eu&secret_key=abc&scheme=http", "s3://b/f?region=eu&secret_key=...&scheme=http"),
        ("write to me@example.org", "write to me@example.org"),
        ("http://127.0.0.1:5000/#/experiments/1", "http://127.0.0.1:5000/#/experiments/1"),
        ("no secret: a@b, //x, 5 tokens=7", "no secret: a@b, //x, 5 tokens=7"),
    ],
)
def test_addresses_lose_their_logins_and_keys(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_only_what_a_variable_named_like_a_secret_holds_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "SERVICE_TOKEN": "abcdefgh-longer",
        "OTHER_SECRET": "abcdefgh",
        "SHORT_PASSWORD": "true",
        "TOKENIZERS_PARALLELISM": "tokenizers",
        "RAY_AUTH_TOKEN_PATH": "/home/me/token",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    said = "abcdefgh-longer, abcdefgh, true, tokenizers, /home/me/token"
    assert without_secrets(said) == "..., ..., true, tokenizers, /home/me/token"
