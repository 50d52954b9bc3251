"""Who may run a study: on one machine, from another one, after a death, and when the storage falls silent."""

import json
import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from al_ray.errors import StorageError
from al_ray.records import lease as lease_module
from al_ray.records.lease import Lease, LeaseLostError, LeaseTimes, living_drivers
from al_ray.records.study import StudyStore
from tests.runtime.made import sentences
from tests.waiting import PATIENCE_S, wait_until

QUICK = LeaseTimes(renew_every_s=0.02, dead_after_s=0.3, settle_s=0.05, look_every_s=0.02)
OTHER = "0" * 16
ELSEWHERE = {"host": "node7", "host_id": "node7 boot", "pid": 4711, "process_start": 1}


@pytest.fixture
def store(tmp_path: Path) -> StudyStore:
    store = StudyStore.open(str(tmp_path), "softmax")
    store.claim()
    return store


def lease(store: StudyStore, cell: str | None = None) -> Lease:
    return Lease(store.folder, "softmax", cell=cell, times=QUICK)


def file(store: StudyStore, name: str = "driver.json") -> Path:
    return Path(store.folder.path) / name


def write(store: StudyStore, name: str = "driver.json", **changes: Any) -> None:
    """Write a lease as another driver would."""
    with lease(store).held():
        content = json.loads(file(store).read_text())
    file(store, name).write_text(json.dumps({**content, "id": OTHER, **changes}))


def test_a_lease_is_there_while_it_is_held_and_gone_afterwards(store: StudyStore) -> None:
    with lease(store).held():
        first = json.loads(file(store).read_text())
        assert first["pid"] == os.getpid()
        assert str(os.getpid()) in str(living_drivers(store.folder))
        wait_until(lambda: json.loads(file(store).read_text())["renewed_at"] != first["renewed_at"])
    assert not file(store).exists()
    assert living_drivers(store.folder) == []


def test_a_living_process_of_this_machine_is_not_disturbed(store: StudyStore) -> None:
    with (
        lease(store).held(),
        pytest.raises(StorageError, match=rf"is being run by process {os.getpid()} on .* since .* \(al-ray watch /"),
        lease(store).held(),
    ):
        pass


def test_a_dead_process_of_this_machine_is_replaced_at_once_and_without_a_word(store: StudyStore) -> None:
    write(store, pid=os.getpid(), process_start=1)  # this number belonged to an older process
    with sentences() as said, lease(store).held():
        assert json.loads(file(store).read_text())["id"] != OTHER
    assert said == []


def test_a_driver_elsewhere_that_gives_no_sign_of_life_is_replaced_after_a_wait(store: StudyStore) -> None:
    write(store, **ELSEWHERE)
    assert "process 4711 on node7" in str(living_drivers(store.folder))
    with sentences() as said, lease(store).held():
        assert json.loads(file(store).read_text())["id"] != OTHER
    assert len(said) == 1
    assert "a driver on node7 (process 4711) had this study" in said[0]


def test_a_driver_elsewhere_that_lives_keeps_its_study_whatever_its_clock_says(store: StudyStore) -> None:
    write(store, **ELSEWHERE, renewed_at="1999-01-01T00:00:00.000+00:00")

    def live(sentence: str) -> None:
        assert "waiting" in sentence
        write_raw(store, renewed_at="1999-01-01T00:00:10.000+00:00")

    waiting = Lease(store.folder, "softmax", times=replace(QUICK, dead_after_s=2 * PATIENCE_S))
    refused = pytest.raises(StorageError, match="is being run by process 4711 on node7")
    with sentences(live), refused, waiting.held():
        pass


def test_two_that_replace_a_dead_one_at_once_do_not_both_run(
    store: StudyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both see that the old one is dead before either writes, and both have written before either looks."""
    write(store, pid=os.getpid(), process_start=1)
    outcomes: list[str] = []
    together, other_has_ended = threading.Barrier(2, timeout=PATIENCE_S), threading.Event()
    look = Lease._wait_for_death

    def look_together(self: Lease, name: str) -> None:
        look(self, name)
        together.wait()

    settle_together = SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: together.wait())
    monkeypatch.setattr(Lease, "_wait_for_death", look_together)
    monkeypatch.setattr(lease_module, "time", settle_together)

    def run() -> None:
        try:
            with lease(store).held():
                outcomes.append("runs")
                assert other_has_ended.wait(PATIENCE_S)
        except StorageError as error:
            outcomes.append(str(error))
            other_has_ended.set()

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("runs") == 1
    assert any("is being run by process" in outcome for outcome in outcomes)


def test_one_that_was_taken_over_stops_and_leaves_the_new_one_its_lease(store: StudyStore) -> None:
    with lease(store).held() as held:
        held.check()
        write_raw(store, id=OTHER, host="node7", pid=4711)
        wait_until(lambda: held_is_lost(held))
        with pytest.raises(LeaseLostError, match=r"was taken over by process 4711 on node7.*Nothing was lost"):
            held.check()
    assert json.loads(file(store).read_text())["id"] == OTHER


def test_single_cells_run_beside_each_other_but_not_beside_the_whole_study(store: StudyStore) -> None:
    with lease(store, "a--00000000").held(), lease(store, "b--00000000").held():
        with pytest.raises(StorageError, match="is being run by process"), lease(store).held():
            pass
        with pytest.raises(StorageError, match="is being run by process"), lease(store, "a--00000000").held():
            pass
    with lease(store).held(), pytest.raises(StorageError, match="is being run"), lease(store, "a--00000000").held():
        pass


def test_what_a_killed_driver_of_one_cell_left_is_cleared_by_the_next_whole_run(store: StudyStore) -> None:
    write(store, "driver--a--00000000.json", pid=os.getpid(), process_start=1)
    with lease(store).held():
        assert not file(store, "driver--a--00000000.json").exists()


def test_a_silent_storage_is_told_once_and_so_is_its_return(store: StudyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    silences: list[StorageError] = []
    read = Lease._read

    def count_silences(self: Lease, name: str, id_: str | None = None) -> dict[str, Any] | None:
        try:
            return read(self, name, id_)
        except StorageError as error:
            silences.append(error)
            raise

    monkeypatch.setattr(Lease, "_read", count_silences)
    place, away = Path(store.folder.path), Path(store.folder.path).with_name("away")
    with sentences() as said, lease(store).held() as held:
        place.rename(away)
        place.write_text("what a broken mount may look like")
        wait_until(lambda: len(silences) == 3, "three attempts to renew the lease")
        assert len(said) == 1
        place.unlink()
        away.rename(place)
        wait_until(lambda: len(said) == 2, "the storage's return")
        held.check()
    assert said[0].startswith("the storage does not answer; cells wait for it.")
    assert said[1].startswith("the storage answers again, after")


def write_raw(store: StudyStore, **changes: Any) -> None:
    content = json.loads(file(store).read_text())
    beside = file(store, "beside")
    beside.write_text(json.dumps({**content, **changes}))
    beside.replace(file(store))


def held_is_lost(held: Lease) -> bool:
    try:
        held.check()
    except LeaseLostError:
        return True
    return False


@pytest.mark.parametrize("spoiled", [{"pid": "1"}, {"process_start": None}, {"renewed_at": "soon"}, {"host": ["a"]}])
def test_a_spoiled_lease_is_refused_by_name(store: StudyStore, spoiled: dict[str, Any]) -> None:
    write(store, **spoiled)
    with pytest.raises(StorageError, match=rf"driver\.json: {next(iter(spoiled))} is .* Move the file away"):
        living_drivers(store.folder)


def test_cells_that_run_alone_are_drivers_too(store: StudyStore) -> None:
    with lease(store, "a--00000000").held():
        assert [words.split(" on ")[0] for words in living_drivers(store.folder)] == [f"process {os.getpid()}"]
