"""A whole study whose records are on an object store: equal to one on a disk, and every command works on it."""

import hashlib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from al_ray.api import results, run
from al_ray.records.study import StudyStore
from tests.cli.conftest import Outcome, computed
from tests.proxy import Proxy
from tests.storage.conftest import SECRET, Bucket

HIDDEN = (SECRET, "KEYxNOBODYxSEES")


def computed_there(bucket: Bucket) -> dict[str, Any]:
    """Return everything that the study in a bucket computed, as ``computed`` does for a folder."""
    found: dict[str, Any] = {}
    for key, data in bucket.contents().items():
        name = key.removeprefix("records/tiny/")
        if "/round-" in name and name.endswith(".json"):
            record = json.loads(data)["record"]
            found[name] = {field: value for field, value in record.items() if field != "seconds"}
        elif "/round-" in name:
            found[name] = hashlib.sha256(data).hexdigest()
    return found


def test_a_study_on_an_object_store_equals_one_on_a_disk_and_every_command_takes_its_address(
    study: Callable[..., Path], al_ray: Callable[..., Outcome], tmp_path: Path, bucket: Bucket
) -> None:
    path, storage = study({"strategy": ["margin", "random"]}), bucket.uri()
    said = [al_ray("run", path, "--local", "--storage", tmp_path / "disk", "--set", "tracking=off")]
    said.append(al_ray("run", path, "--plan", "--storage", storage))
    said.append(al_ray("run", path, "--local", "--storage", storage, "--set", "tracking=off"))
    assert computed_there(bucket) == computed(tmp_path / "disk")
    assert sum(name.endswith("round-002.json") for name in computed_there(bucket)) == 2
    said.append(al_ray("run", path, "--local", "--storage", storage, "--set", "tracking=off"))
    said.append(al_ray("watch", bucket.uri("records/tiny"), "--once"))
    assert "2 cells, 2 done" in said[-1].text
    database = f"sqlite:///{tmp_path}/mlflow.db"
    said.append(al_ray("sync", path, "--storage", storage, "--tracking", database))
    said.append(al_ray("report", path, "--storage", storage, "--tracking", database))
    assert "records/tiny/report/report.html" in bucket.objects()
    assert list((tmp_path / "mlartifacts").rglob("report.html"))
    said.append(al_ray("report", bucket.uri("records/tiny"), "--out", tmp_path / "page", "--tracking", "off"))
    assert [outcome.code for outcome in said] == [0] * len(said), said
    found = [run(path, storage=storage, local=True, progress=False), results(bucket.uri("records/tiny"))]
    assert [each.cells["status"].tolist() for each in found] == [["done", "done"]] * 2
    written = [*bucket.contents().values(), *(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())]
    for secret in HIDDEN:
        assert not [outcome for outcome in said if secret in outcome.text]
        assert not [data for data in written if secret.encode() in data]
    assert bucket.uploads() == []


def test_a_study_goes_on_when_its_object_store_comes_back(
    study: Callable[..., Path], al_ray: Callable[..., Outcome], tmp_path: Path, bucket: Bucket, proxy: Proxy
) -> None:
    path, off = study(), ("--set", "tracking=off")
    assert al_ray("run", path, "--local", "--storage", tmp_path / "disk", *off).code == 0

    def cut_once(data: bytes) -> None:
        if data.startswith(b"PUT") and b"round-001.json" in data:
            proxy.on_bytes = lambda data: None
            proxy.cut()
            threading.Timer(1.0, proxy.mend).start()

    proxy.on_bytes = cut_once
    outcome = al_ray("run", path, "--local", "--storage", bucket.uri(port=proxy.port), *off)
    assert outcome.code == 0, outcome.text
    assert proxy.on_bytes is not cut_once
    assert computed_there(bucket) == computed(tmp_path / "disk")
    (cell,) = StudyStore.open(bucket.uri(), "tiny").cells()
    assert len(cell.provenance()) == 1  # it waited; it was not begun anew


def test_a_storage_that_is_no_bucket_is_refused_by_every_command(
    study: Callable[..., Path], al_ray: Callable[..., Outcome], bucket: Bucket
) -> None:
    path, storage = study(), bucket.uri().replace(bucket.name, "no-such-bucket")
    for command in (
        ["run", path, "--local"],
        ["run", path, "--plan"],
        ["report", path],
        ["watch", path],
        ["sync", path],
    ):
        outcome = al_ray(*command, "--storage", storage)
        assert outcome.code != 0
        assert "there is no bucket 'no-such-bucket'" in outcome.text
        assert SECRET not in outcome.text
