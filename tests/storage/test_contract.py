"""Every kind of storage keeps the same promises: a local disk, a network disk, an object store."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from al_ray.errors import StorageError
from al_ray.records.json import fingerprint
from al_ray.records.lease import Lease
from al_ray.records.study import StudyStore
from al_ray.storage.folder import Folder
from al_ray.storage.remote_files import RemoteFiles
from tests.records.record_samples import SPEC, make_record, make_story, open_cell, run_cell, summary
from tests.storage.conftest import Bucket

ARRAYS = {"pool": {"id": np.arange(1000), "score": np.linspace(0, 1, 1000)}}


def test_a_cell_is_recorded_and_read_back(storage: str) -> None:
    store = StudyStore.open(storage, "softmax")
    assert (store.cells(), store.plan()) == ([], None)
    cell = open_cell(storage)
    for record in make_story(3):
        cell.append(record, ARRAYS)
    assert cell.progress() == ("running", 4)
    cell.finish({"accuracy": 0.5})
    store.write_plan({"format": 1, "study": "softmax", "cells": [], "datasets": {}})
    (again,) = StudyStore.open(storage, "softmax", claimed=True).cells()
    assert [record.to_json() for record in again.rounds()] == [record.to_json() for record in make_story(3)]
    assert (again.progress(), summary(again)) == (("done", 4), {"accuracy": 0.5})
    np.testing.assert_array_equal(again.arrays(2)["pool"]["score"], ARRAYS["pool"]["score"])
    assert store.plan() is not None


def test_a_failed_cell_is_taken_up_again(storage: str) -> None:
    cell = open_cell(storage)
    cell.append(make_record(0))
    cell.fail({"error": "out of memory"})
    assert (cell.status(), cell.failure()) == ("failed", {"error": "out of memory"})
    cell.begin(SPEC, {})
    assert (cell.progress(), cell.failure()) == (("running", 1), None)
    assert len(cell.provenance()) == 2


def test_a_recorded_round_is_never_overwritten(storage: str) -> None:
    cell = open_cell(storage)
    first = cell.append(make_record(0))
    assert cell.append(make_record(0)) == first
    with pytest.raises(StorageError, match="already recorded with other content"):
        cell.append(make_record(0, size=2))
    assert cell.recorded_rounds()[0].recorded_at == first


def test_a_file_is_created_once(storage: str) -> None:
    folder = Folder.open(storage)
    assert folder.create("driver.json", b"first", "the driver")
    assert not folder.create("driver.json", b"second", "the driver")
    assert folder.read("driver.json") == b"first"
    folder.remove("driver.json")
    folder.remove("driver.json")
    assert not folder.exists("driver.json")
    assert folder.create("driver.json", b"third", "the driver")
    assert folder.names() == (["driver.json"], [])


def test_names_that_are_hidden_stay_hidden(storage: str) -> None:
    folder = Folder.open(storage)
    folder.write("spec.json", b"{}", "the spec")
    folder.write(".nfs000000000123", b"deleted by somebody, open elsewhere", "a file")
    assert folder.names() == (["spec.json"], [])
    folder.remove_leftovers()
    assert folder.exists(".nfs000000000123")


def test_what_a_killed_driver_left_is_cleared_when_it_is_old(tmp_path: Path) -> None:
    store = StudyStore.open(str(tmp_path), "softmax")
    store.claim()
    old, new = (tmp_path / "softmax" / f".driver.json.{digits}.tmp" for digits in ("01234567", "89abcdef"))
    for leftover in (old, new):
        leftover.write_bytes(b'{"form')
    os.utime(old, (1e9, 1e9))
    store.claim()
    assert (old.exists(), new.exists()) == (False, True)


def test_claiming_again_changes_nothing_and_another_study_is_refused(storage: str) -> None:
    store = StudyStore.open(storage, "softmax")
    store.claim()
    first = store.id()
    store.claim()
    StudyStore.open(storage, "softmax", claimed=True).claim()
    assert store.id() == first
    store.folder.child("cats").write("cat.jpg", b"miaow", "a cat")
    above = Folder.open(storage).child("softmax")
    with pytest.raises(StorageError, match=r"cats.* is not empty and no study of al_ray: it holds cat\.jpg"):
        StudyStore(above.location, "cats", above.child("cats")).claim()


def test_many_cells_are_found(storage: str) -> None:
    for seed in range(5):
        run_cell(open_cell(storage, slug=f"trec6-s{seed}", seed=seed), n_rounds=1)
    cells = StudyStore.open(storage, "softmax").cells()
    assert [cell.slug for cell in cells] == [f"trec6-s{seed}" for seed in range(5)]
    assert [cell.progress() for cell in cells] == [("done", 2)] * 5


@pytest.mark.parametrize("like_nfs", [False, True])
def test_of_drivers_that_start_at_once_on_one_disk_one_creates_and_all_have_one_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, like_nfs: bool
) -> None:
    if like_nfs:
        from tests.storage.conftest import behave_like_nfs

        behave_like_nfs(monkeypatch)
    created, ids = [], []

    def drive(number: int) -> None:
        store = StudyStore.open(str(tmp_path), "softmax")
        store.claim()
        ids.append(store.id())
        created.append(store.folder.create("driver.json", f"driver {number}".encode(), "the driver"))

    at_once(drive, 8)
    assert len(ids) == 8
    assert len(set(ids)) == 1
    assert sorted(created) == [False] * 7 + [True]
    assert sorted(file.name for file in (tmp_path / "softmax").iterdir()) == ["driver.json", "study.json"]


def test_of_drivers_that_start_at_once_on_an_object_store_one_runs(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There each of them creates the lease, since none sees another's before it writes: reading it back decides."""
    folder, n = Folder.open(bucket.uri()), 4
    all_have_looked, all_have_tried = threading.Barrier(n), threading.Barrier(n)
    held, refused = [], []

    def see_none(files: RemoteFiles, name: str) -> bool:
        all_have_looked.wait()
        return False

    def drive(number: int) -> None:
        try:
            with Lease(folder, "softmax").held():
                held.append(number)
                all_have_tried.wait()
        except StorageError as error:
            refused.append(str(error))
            all_have_tried.wait()

    monkeypatch.setattr(RemoteFiles, "exists", see_none)
    at_once(drive, n)
    assert (len(held), len(refused)) == (1, n - 1)
    assert all("is being run by process" in text for text in refused)


def test_a_disk_without_links_still_creates_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("al_ray.storage.local_files.os.link", refuse)
    folder = Folder.open(str(tmp_path))
    assert folder.create("driver.json", b"first", "the driver")
    assert not folder.create("driver.json", b"second", "the driver")
    assert folder.read("driver.json") == b"first"


def test_more_names_than_one_listing_holds_are_all_found(bucket: Bucket) -> None:
    from moto.backends import get_backend

    backend = get_backend("s3")["123456789012"]["aws"]
    digest = fingerprint(SPEC)
    for number in range(1205):
        backend.put_object(bucket.name, f"records/softmax/cell-{number:04d}--{digest[:8]}/round-000.json", b"{}")
        backend.put_object(bucket.name, f"records/softmax/one/round-{number:04d}.json", b"{}")
    folder = Folder.open(bucket.uri()).child("softmax")
    assert len(folder.names()[1]) == 1206
    assert len(folder.child("one").names()[0]) == 1205


def at_once(action: Callable[[int], None], n: int) -> None:
    """Do something in many threads that start together."""
    gate = threading.Barrier(n)

    def wait_and_do(number: int) -> None:
        gate.wait()
        action(number)

    threads = [threading.Thread(target=wait_and_do, args=(number,)) for number in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
