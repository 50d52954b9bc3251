"""What came with somebody's results decides nothing about where files are written."""

import os
import pickle
import shutil
import sqlite3
from pathlib import Path

import pytest

from al_ray.errors import StorageError
from al_ray.records.arrays import decode_tables
from al_ray.records.study import StudyStore
from al_ray.storage.folder import check_name
from tests.trust.conftest import Finished, Payload, al_ray, refused


@pytest.fixture
def with_mlflow(copied: Finished, finished: Finished) -> Finished:
    """Return a copy of the study that brings MLflow's file along, as it comes with a results folder."""
    shutil.copy(finished.storage / "mlflow.db", copied.storage / "mlflow.db")
    return copied


def point_artifacts(database: Path, place: str) -> None:
    with sqlite3.connect(database) as opened:
        opened.execute("UPDATE runs SET artifact_uri = ? || '/' || run_uuid", (place,))
        opened.execute("UPDATE experiments SET artifact_location = ?", (place,))
        opened.execute("DELETE FROM tags WHERE key = 'al_ray.complete'")


@pytest.mark.parametrize("kind", ["a path", "a URI", "a path that climbs", "a link"])
@pytest.mark.parametrize("command", ["report", "sync"])
def test_a_database_that_came_along_cannot_send_files_elsewhere(
    with_mlflow: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, command: str
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    target, storage = tmp_path / "victim", with_mlflow.storage
    target.mkdir()
    if kind == "a link":
        (storage / "mlartifacts").symlink_to(target)
    place = {
        "a path": str(target),
        "a URI": target.as_uri(),
        "a path that climbs": f"{storage}/mlartifacts/../../victim",
        "a link": f"{storage}/mlartifacts/tiny",
    }[kind]
    point_artifacts(storage / "mlflow.db", place)
    if command == "report":
        assert "outside that folder: it was copied or moved" in refused(command, with_mlflow.file, "--storage", storage)
    else:  # which sends no files at all
        assert al_ray(command, with_mlflow.file, "--storage", storage).code == 0
    assert list(target.rglob("*")) == []


def test_a_database_that_is_a_link_is_not_opened(
    copied: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (copied.storage / "mlflow.db").symlink_to(tmp_path / "victim.db")
    assert "mlflow.db is a link" in refused("sync", copied.file, "--storage", copied.storage)
    assert not (tmp_path / "victim.db").exists()


def test_arrays_that_are_a_pickle_are_refused(copied: Finished, canary: Path) -> None:
    (cell,) = (path.parent for path in copied.folder.rglob("done.json"))
    for path in cell.glob("round-*.parquet"):
        path.write_bytes(pickle.dumps(Payload(str(canary))) * 9)
    with pytest.raises(StorageError, match=r"round-001.parquet is damaged"):
        decode_tables((cell / "round-001.parquet").read_bytes(), "round-001.parquet")
    said = refused("report", copied.file, "--storage", copied.storage, "--tracking", "off")
    assert "not a parquet file" in said


def test_pickles_beside_the_records_are_not_opened(copied: Finished, canary: Path) -> None:
    for folder in (copied.storage, copied.folder, *copied.folder.iterdir()):
        if folder.is_dir():
            for name in ("checkpoint.pt", "state.pkl", "tuner.pkl", "experiment_state-1.json", "trainer.pkl"):
                (folder / name).write_bytes(pickle.dumps(Payload(str(canary))))
    for command in (("report", "--tracking", "off"), ("watch", "--once"), ("run", "--plan")):
        outcome = al_ray(command[0], copied.file, "--storage", copied.storage, *command[1:])
        assert outcome.code == 0, outcome.text


NAMES = ["..", ".", "../x", "a/b", "/x", "a\\b", "-x", ".x", "", "a" * 201, "x\n", "x\x00", "C:x", "a b"]


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_no_name_leaves_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(StorageError, match="cannot be a folder"):
        check_name("cell", name)
    with pytest.raises(StorageError, match="cannot be a folder"):
        StudyStore.open(str(tmp_path), "tiny").cell(name, "0" * 64)
    assert os.listdir(tmp_path) == []
