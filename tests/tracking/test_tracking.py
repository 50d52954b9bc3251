"""MLflow shows what the records say: live, after an outage, after half a run, and as often as one likes."""

import contextlib
import io
import logging
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from al_ray.errors import ConfigError, ExecutionError
from al_ray.records.cell import CellStore
from al_ray.records.round import RecordedRound, now
from al_ray.records.study import StudyStore
from al_ray.storage.folder import Folder
from al_ray.terminal import print_mlflow
from al_ray.tracking import mlflow as tracking
from al_ray.tracking import tracker as tracker_module
from al_ray.tracking.mlflow import Projection, final_points, round_points, spec_params, sync, view_paths
from al_ray.tracking.mlflow_address import tracking_address
from al_ray.tracking.tracker import Backlog, News, Outage, Tracker
from tests.records.record_samples import SPEC, make_record, make_story, open_cell, run_cell
from tests.tracking import mlflow_view
from tests.tracking.mlflow_view import values
from tests.waiting import PATIENCE_S, wait_until

CLOSED_PORT = "http://127.0.0.1:9"
WAITS_S, LOOKS_S = (0.05, 0.05), (0.05, 0.2)


@pytest.fixture
def storage(tmp_path: Path, migrated: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a storage folder with a space in its name and a ready database; the working directory is elsewhere."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    folder = tmp_path / "my results"
    folder.mkdir()
    shutil.copy(migrated, folder / "mlflow.db")
    yield folder
    assert list((tmp_path / "elsewhere").iterdir()) == []


@dataclass
class SilentServer:
    """Takes connections and never answers; in the end it breaks them off."""

    listener: socket.socket
    lines: list[socket.socket] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.lines.append(self.listener.accept()[0])

    def break_off(self) -> None:
        for line in (self.listener, *self.lines):
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
            line.close()


@pytest.fixture
def silent_server() -> Iterator[SilentServer]:
    server = SilentServer(socket.create_server(("127.0.0.1", 0), backlog=64))
    threading.Thread(target=server.listen, daemon=True).start()
    yield server
    server.break_off()


def uri(storage: Path) -> str:
    return f"sqlite:///{storage}/mlflow.db"


def study(storage: Path) -> StudyStore:
    return StudyStore.open(str(storage), "softmax")


def shown(storage: Path) -> dict[str, dict[str, Any]]:
    return mlflow_view.shown(uri(storage))


def track(storage: Path, cell: CellStore, n_rounds: int = 3) -> None:
    """Run a cell under a live tracker, as a study does."""
    tracker = Tracker(study(storage), uri(storage), live_s=0)
    tracker.start()
    tracker.cell_started(cell.key, SPEC)
    for record in make_story(n_rounds):
        cell.append(record)
        tracker.round_recorded(cell.key)
    cell.finish({})
    tracker.cell_finished(cell.key, "done")
    assert tracker.close(PATIENCE_S)


# ---- what is shown


def test_a_spec_becomes_one_parameter_an_option() -> None:
    assert spec_params({**SPEC, "stopping": [], "oracle": {"name": "noisy", "rate": 0.1}, "on": True}) == {
        "dataset": "trec6",
        "model": "minilm",
        "model.revision": "null",
        "confidence": "softmax",
        "strategy": "margin",
        "filters": "uncertainty_clipping(fraction=0.05)",
        "finetune.learning_rate": "2e-05",
        "finetune.epochs": "5",
        "seed": "42",
        "stopping": "none",
        "oracle": "noisy",
        "oracle.rate": "0.1",
        "on": "true",
    }


def test_long_values_are_cut_and_stay_apart() -> None:
    first, second = (spec_params({"path": "x" * 600 + end})["path"] for end in "ab")
    assert len(first) == len(second) <= 500
    assert first != second
    assert first.startswith("xxx")


def test_the_initial_round_has_no_point_and_the_finals_are_mean_and_last() -> None:
    entries = [RecordedRound(record=record, recorded_at=now(), tables={}) for record in make_story(3)]
    assert round_points(entries[0]) == []
    assert {point.name: point.value for point in round_points(entries[2])} == {
        "accuracy": 0.7,
        "macro_f1": 0.6000000000000001,
        "loss": 0.5,
    }
    assert {point.step for point in round_points(entries[2])} == {6}
    assert {point.name: point.value for point in final_points(entries)} == {
        "final_accuracy": 0.8,
        "aulc": pytest.approx((0.6 + 0.7 + 0.8) / 3),
        "final_macro_f1": pytest.approx(0.7),
        "aulc_macro_f1": pytest.approx((0.5 + 0.6 + 0.7) / 3),
        "seconds_finetune": 3 * 0.25,
        "seconds_query": 0.5 + 3 * 0.125,
    }
    assert {point.step for point in final_points(entries)} == {0}
    assert final_points(entries[:1]) == []


def test_the_default_address_is_a_file_in_local_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_address(None, str(tmp_path)) == f"sqlite:///{tmp_path}/mlflow.db"
    assert tracking_address(None, f"file://{tmp_path}") == f"sqlite:///{tmp_path}/mlflow.db"
    assert tracking_address(None, "mock://bucket") is None
    with pytest.raises(ConfigError, match=r"has '\?' or '%' in its name"):
        tracking_address(None, str(tmp_path / "50%"))
    assert tracking_address("off", str(tmp_path)) is None
    assert tracking_address("http://server", str(tmp_path)) == "http://server"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://from-environment")
    assert tracking_address(None, str(tmp_path)) == "http://from-environment"


# ---- live and rebuilt


def test_live_tracking_shows_the_whole_study_and_a_sync_adds_nothing(storage: Path) -> None:
    cell = open_cell(storage)
    track(storage, cell)
    live = shown(storage)
    whole, child = live["softmax"], live[cell.slug]
    assert (whole["status"], child["status"]) == ("FINISHED", "FINISHED")
    assert [view["tags"]["al_ray.kind"] for view in (whole, child)] == ["study", "cell"]
    assert {view["tags"]["al_ray.study_id"] for view in (whole, child)} == {study(storage).id()}
    assert not [tag for view in (whole, child) for tag in view["tags"] if "parent" in tag]
    assert child["tags"]["al_ray.cell"] == cell.key
    assert child["tags"]["al_ray.fingerprint"] == cell.fingerprint
    assert child["params"] == spec_params(SPEC)
    accuracies = [(step, value) for key, step, value in values(child) if key == "accuracy"]
    assert accuracies == [(3, 0.6), (6, 0.7), (9, 0.8)]
    assert ("final_accuracy", 0, 0.8) in values(child)
    recorded = [round(entry.recorded_at.timestamp() * 1000) for entry in cell.recorded_rounds()]
    assert [at for key, _, _, at in child["points"] if key == "accuracy"] == recorded[1:]
    report = sync(study(storage), uri(storage))
    assert (report.n_cells, report.n_complete, report.n_runs, report.n_points) == (1, 1, 0, 0)
    assert shown(storage) == live


def test_a_run_starts_when_its_cell_does_however_late_mlflow_is(storage: Path) -> None:
    from mlflow import MlflowClient

    cell = open_cell(storage)
    tracker = Tracker(study(storage), uri(storage), live_s=0)
    told = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    with pytest.MonkeyPatch.context() as earlier:
        earlier.setattr(tracker_module, "now", lambda: told)
        tracker.cell_started(cell.key, SPEC)
    tracker.start()
    tracker.cell_finished(cell.key, "done")
    assert tracker.close(PATIENCE_S)
    client = MlflowClient(tracking_uri=uri(storage))
    experiment = client.get_experiment_by_name("softmax")
    (run,) = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{cell.slug}'")
    assert run.info.start_time == told.timestamp() * 1000


def test_rebuilding_from_records_gives_what_live_tracking_gives(storage: Path, migrated: Path) -> None:
    cell = open_cell(storage)
    track(storage, cell)
    live = shown(storage)
    shutil.copy(migrated, storage / "mlflow.db")
    first = sync(study(storage), uri(storage))
    assert (first.n_cells, first.n_complete, first.n_runs) == (1, 0, 2)
    rebuilt = shown(storage)
    assert first.n_points == len(rebuilt[cell.slug]["points"])
    for name, view in rebuilt.items():
        assert {**view, "id": 0} == {**live[name], "id": 0}
    assert sync(study(storage), uri(storage)).n_points == 0
    assert shown(storage) == rebuilt


def test_a_run_that_was_half_logged_is_completed_without_a_second_point(storage: Path) -> None:
    from mlflow.entities import Metric, Param

    cell = open_cell(storage)
    run_cell(cell)
    begun = Projection(study(storage), uri(storage))  # died between create_run and the first log
    run = begun._create(cell.slug, "cell", {"al_ray.cell": cell.key}, None)
    half = [Metric("accuracy", 0.6, 1, 3), Metric("loss", 1.0, 1, 3), Metric("accuracy", 0.7, 1, 6)]
    begun._client.log_batch(run.run_id, metrics=half, params=[Param("seed", "42")])
    report = sync(study(storage), uri(storage))
    child = shown(storage)[cell.slug]
    assert report.n_runs == 0
    assert child["status"] == "FINISHED"
    assert child["params"] == spec_params(SPEC)
    assert len(values(child)) == len(set(values(child))) == 3 * 3 + 6
    assert sync(study(storage), uri(storage)).n_complete == 1


def test_a_running_cell_costs_one_read_a_round(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = open_cell(storage)
    projection = Projection(study(storage), uri(storage))
    real, read = Folder.read, []

    def noting(self: Folder, name: str) -> bytes | None:
        read.append(name)
        return real(self, name)

    cell.append(make_record(0))
    projection.show_cell(cell.key, "running", SPEC, now())
    monkeypatch.setattr(Folder, "read", noting)
    for index in range(1, 9):
        cell.append(make_record(index))
        read.clear()
        projection.show_cell(cell.key, None)
        assert read == [f"round-{index:03d}.json"]
    for index in range(9, 12):
        cell.append(make_record(index))
    read.clear()
    projection.show_cell(cell.key, None)
    assert read == [f"round-{index:03d}.json" for index in range(9, 12)]
    accuracies = [step for name, step, _ in values(shown(storage)[cell.slug]) if name == "accuracy"]
    assert accuracies == [3 * index for index in range(1, 12)]


def test_runs_that_were_nested_are_flat_after_a_sync_and_keep_what_they_had(storage: Path) -> None:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    cells = [open_cell(storage, slug=f"trec6-s{seed}", seed=seed) for seed in range(3)]
    client = MlflowClient(tracking_uri=uri(storage))
    experiment = client.create_experiment("softmax")
    above = {"al_ray.kind": "study", "al_ray.study_id": study(storage).id()}
    parents = [client.create_run(experiment, start_time=at, run_name="softmax", tags=above).info for at in (1, 2)]
    for cell, parent in zip(cells, [parents[0], parents[0], parents[1]], strict=True):
        run_cell(cell)
        tags = {"al_ray.kind": "cell", "al_ray.cell": cell.key, "mlflow.parentRunId": parent.run_id}
        made = client.create_run(experiment, run_name=cell.slug, tags=tags | {"al_ray.complete": "view 2"}).info
        old = [Metric("accuracy", 0.6, 1, 3), Metric("aulc/accuracy", 0.7, 1, 9)]
        client.log_batch(made.run_id, metrics=old, params=[Param("seed", "7")])
        client.set_terminated(made.run_id, end_time=round((cell.ended_at() or now()).timestamp() * 1000))
    before = {cell.slug: client.search_runs([experiment], f"run_name = '{cell.slug}'")[0].info for cell in cells}
    report = sync(study(storage), uri(storage))
    assert (report.n_complete, report.n_runs, report.duplicates) == (0, 0, [parents[1].run_id])
    after = shown(storage)
    assert after.keys() == {"softmax", *before}
    for cell in cells:
        view = after[cell.slug]
        assert view["id"] == before[cell.slug].run_id
        assert not [tag for tag in view["tags"] if "parent" in tag or "complete" in tag]
        assert ("aulc/accuracy", 9, 0.7) in values(view)
        assert len(values(view)) == len(set(values(view))) == 3 * 3 + 6 + 1
    again = sync(study(storage), uri(storage))
    assert (again.n_complete, again.n_runs, again.n_points, again.duplicates) == (3, 0, 0, [])
    assert shown(storage) == after


def test_runs_that_two_programs_made_at_once_become_one(storage: Path) -> None:
    cell = open_cell(storage)
    run_cell(cell)
    one, other = Projection(study(storage), uri(storage)), Projection(study(storage), uri(storage))
    one.project_cell(cell)
    other.project_cell(cell)
    report = sync(study(storage), uri(storage))
    assert len(report.duplicates) == 1
    assert shown(storage).keys() == {"softmax", cell.slug}
    assert sync(study(storage), uri(storage)).duplicates == []


def test_a_cell_that_failed_and_was_taken_up_again_has_one_run(storage: Path) -> None:
    cell = open_cell(storage)
    cell.append(make_record(0))
    cell.append(make_record(1))
    cell.fail({"error": "out of memory"})
    sync(study(storage), uri(storage))
    failed = shown(storage)
    assert (failed["softmax"]["status"], failed[cell.slug]["status"]) == ("FAILED", "FAILED")
    assert "out of memory" in failed[cell.slug]["tags"]["al_ray.failure"]
    cell.begin(SPEC, {})
    track(storage, cell, 3)
    done = shown(storage)
    assert (done["softmax"]["status"], done[cell.slug]["status"]) == ("FINISHED", "FINISHED")
    assert done[cell.slug]["id"] == failed[cell.slug]["id"]
    assert "al_ray.failure" not in done[cell.slug]["tags"]
    assert len(values(done[cell.slug])) == len(set(values(done[cell.slug]))) == 3 * 3 + 6


def test_a_cell_that_still_runs_is_shown_as_running(storage: Path) -> None:
    cell = open_cell(storage)
    cell.append(make_record(0))
    cell.append(make_record(1))
    sync(study(storage), uri(storage))
    view = shown(storage)
    assert (view["softmax"]["status"], view[cell.slug]["status"]) == ("RUNNING", "RUNNING")
    assert not [key for key, _, _ in values(view[cell.slug]) if key.startswith(("final", "aulc", "seconds"))]


def test_cells_of_a_driver_that_leaves_are_shown_as_killed_until_they_are_taken_up(storage: Path) -> None:
    cell = open_cell(storage)

    def run(*rounds: int) -> Tracker:
        tracker = Tracker(study(storage), uri(storage), live_s=0)
        tracker.start()
        tracker.cell_started(cell.key, SPEC)
        for index in rounds:
            cell.append(make_record(index))
            tracker.round_recorded(cell.key)
        return tracker

    assert run(0, 1).close(60)
    left = shown(storage)
    assert (left["softmax"]["status"], left[cell.slug]["status"]) == ("KILLED", "KILLED")
    sync(study(storage), uri(storage))
    assert shown(storage)[cell.slug]["status"] == "KILLED"
    again = run(2)
    cell.finish({"final": {"accuracy": 0.5}})
    again.cell_finished(cell.key, "done")
    assert again.close(60)
    done = shown(storage)
    assert (done["softmax"]["status"], done[cell.slug]["status"]) == ("FINISHED", "FINISHED")
    assert done[cell.slug]["id"] == left[cell.slug]["id"]


def test_studies_of_one_name_in_two_storages_stay_apart(storage: Path, tmp_path: Path) -> None:
    first, second = open_cell(storage), open_cell(tmp_path / "other")
    run_cell(first)
    run_cell(second)
    reports = [sync(StudyStore.open(str(place), "softmax"), uri(storage)) for place in (storage, tmp_path / "other")]
    assert [report.n_runs for report in reports] == [2, 2]
    assert reports[0].n_points == reports[1].n_points


def test_a_run_deleted_while_the_study_runs_is_told_once_and_made_again(storage: Path, said: list[str]) -> None:
    cell = open_cell(storage)
    other = Projection(study(storage), uri(storage))
    tracker = Tracker(study(storage), uri(storage), live_s=0)
    tracker.start()
    tracker.cell_started(cell.key, SPEC)
    cell.append(make_record(0))
    wait_until(lambda: tracker._projection is not None and cell.key in tracker._projection._runs)
    wait_until(lambda: not tracker._backlog.behind())
    (run,) = other._own("cell")
    other._client.delete_run(run.run_id)
    for index in (1, 2):
        cell.append(make_record(index))
        tracker.round_recorded(cell.key)
    assert tracker.close(PATIENCE_S)
    assert len(said) == 1
    assert f"did not take an update of cell {cell.key}" in said[0]
    view = shown(storage)[cell.slug]
    assert view["id"] != run.run_id
    assert len(values(view)) == len(set(values(view))) == 2 * 3


def test_the_addresses_of_the_views_are_known_once_mlflow_was_reached(storage: Path) -> None:
    cell = open_cell(storage)
    assert view_paths(study(storage), uri(storage)) == {}
    track(storage, cell)
    paths = view_paths(study(storage), uri(storage))
    assert list(paths) == ["Learning curves", "Ranking", "What matters", "Cells"]
    own = study(storage).id()[:6]
    assert paths["Learning curves"].endswith(f"/runs?viewStateShareKey=curves-{own}&compareRunsMode=CHART")
    assert paths["Ranking"].endswith(f"/runs?viewStateShareKey=ranking-{own}")


def test_a_printed_address_opens_a_view_and_holds_no_login(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_cell(storage)
    server, file = "https://user:secret@mlflow.example/", uri(storage)
    assert printed(storage, server) == "MLflow UI: https://mlflow.example\n"
    monkeypatch.setattr(sys, "executable", "/my python/bin/python")
    typed = shlex.split(printed(storage, file).removeprefix("MLflow UI: "))
    assert typed == ["/my python/bin/mlflow", "ui", "--backend-store-uri", file]
    assert printed(storage, "databricks://profile") == "MLflow UI: databricks://profile\n"
    paths = {"Cells": "/#/c", "Ranking": "/#/r", "Learning curves": "/#/experiments/1/runs?" + 60 * "x"}
    for address in (server, file):
        monkeypatch.setitem(tracking._view_paths, (address, study(storage).root), paths)
    assert printed(storage, server).splitlines() == [
        "learning curves in MLflow:",
        f"https://mlflow.example{paths['Learning curves']}",
        "ranking in MLflow:",
        "https://mlflow.example/#/r",
    ]
    assert printed(storage, file).splitlines()[1:] == [
        "learning curves in MLflow:",
        f"http://127.0.0.1:5000{paths['Learning curves']}",
        "ranking in MLflow:",
        "http://127.0.0.1:5000/#/r",
    ]


def printed(storage: Path, address: str) -> str:
    text = io.StringIO()
    print_mlflow(Console(file=text, width=80), study(storage), address)
    return text.getvalue()


# ---- MLflow is not there


def test_an_outage_neither_raises_nor_delays_and_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    cell = open_cell(tmp_path)
    tracker = Tracker(study(tmp_path), "http://user:secret@127.0.0.1:9", live_s=0, waits_s=WAITS_S)
    everything_is_told = threading.Event()

    def connect_late(store: StudyStore, address: str) -> Projection:
        assert everything_is_told.wait(PATIENCE_S), "telling the tracker waited for MLflow"
        return Projection(store, address)

    monkeypatch.setattr(tracker_module, "Projection", connect_late)
    tracker.start()
    tracker.cell_started(cell.key, SPEC)
    for _ in range(300):
        tracker.round_recorded(cell.key)
    tracker.cell_finished(cell.key, "done")
    everything_is_told.set()
    wait_until(lambda: said)
    assert not tracker.close(PATIENCE_S)
    assert len(said) == 2
    assert "127.0.0.1:9 cannot be used" in said[0]
    assert f"127.0.0.1:9 lacks the last news of 1 cell ({cell.key}). It cannot be used: connection refused." in said[1]
    assert said[1].endswith(f"al-ray sync {study(tmp_path).root} --tracking http://127.0.0.1:9")
    assert not any("secret" in sentence for sentence in said)
    with pytest.raises(ExecutionError, match=r"MLflow at http://127\.0\.0\.1:9 does not do what it should"):
        sync(study(tmp_path), CLOSED_PORT)


def test_a_server_that_never_answers_holds_nothing_up_and_has_one_sentence_at_the_end(
    tmp_path: Path,
    silent_server: SilentServer,
    monkeypatch: pytest.MonkeyPatch,
    said: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", f"{2 * PATIENCE_S:.0f}")
    cell = open_cell(tmp_path)
    tracker = Tracker(study(tmp_path), silent_server.address, live_s=0, waits_s=())
    tracker.start()
    tracker.cell_started(cell.key, SPEC)
    tracker.round_recorded(cell.key)
    wait_until(lambda: silent_server.lines, "the first request")
    caplog.set_level(logging.INFO, "al_ray")
    # The answer never comes while this runs: whatever waited for it would wait longer than the test may take.
    assert not tracker.close(0.1)
    assert len(said) == 1
    assert f"lacks the last news of 1 cell ({cell.key}). It was too slow: after 0.1 s updates are still" in said[0]
    silent_server.break_off()
    tracker._thread.join(PATIENCE_S)
    assert not tracker._thread.is_alive()
    assert len(said) == 1, "an outage of an MLflow that was given up is nobody's news"
    assert [record.getMessage() for record in caplog.records if record.name.startswith("al_ray")] == said


def test_a_short_outage_loses_nothing_and_only_the_log_tells_of_it(
    storage: Path, monkeypatch: pytest.MonkeyPatch, said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "al_ray")
    cell = open_cell(storage)
    real, calls = Projection._log, iter(range(1000))

    def flaky(self: Projection, *told: Any) -> None:
        real(self, *told)
        if next(calls) < 2:
            raise ConnectionError("the answer was lost")

    monkeypatch.setattr(Projection, "_log", flaky)
    tracker = Tracker(study(storage), uri(storage), live_s=0, waits_s=WAITS_S)
    tracker.start()
    tracker.cell_started(cell.key, SPEC)
    for record in make_story(2):
        cell.append(record)
        tracker.round_recorded(cell.key)
    assert tracker.close(PATIENCE_S)
    assert said == []
    decisions = [record.getMessage() for record in caplog.records if record.name == "al_ray.tracking.tracker"]
    for number, decision in enumerate(decisions, 1):
        assert (
            f"attempt {number} in a row failed (the answer was lost); 1 cell behind; the next after 0.05 s" in decision
        )
    assert len(decisions) == 2
    assert len(values(shown(storage)[cell.slug])) == 2 * 3


def test_a_log_handler_that_fails_stops_neither_the_thread_nor_the_end_of_the_study(
    storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record.getMessage())
            raise RuntimeError(heard[-1])

    def reach(store: StudyStore, tracking_uri: str) -> Projection:
        if not heard:
            raise ConnectionError("nobody is there")
        return Projection(store, tracking_uri)

    heard: list[str] = []
    cell = open_cell(storage)
    monkeypatch.setattr(tracker_module, "Projection", reach)
    broken, logger = Broken(logging.WARNING), logging.getLogger("al_ray.tracking")
    logger.addHandler(broken)
    try:
        tracker = Tracker(study(storage), uri(storage), live_s=0, waits_s=(), looks_s=LOOKS_S)
        tracker.start()
        tracker.cell_started(cell.key, SPEC)
        wait_until(lambda: heard, "the first warning")
        assert tracker.close(PATIENCE_S)
    finally:
        logger.removeHandler(broken)
    assert "nobody is there" in heard[0]
    assert "is back: 1 cell was brought up" in heard[-1]


def test_an_update_that_cannot_be_taken_does_not_stop_those_of_other_cells(
    storage: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    poisoned, healthy = open_cell(storage), open_cell(storage, slug="other", seed=1)
    real = Projection.project_cell

    def project(self: Projection, cell: CellStore, *told: Any) -> Any:
        if cell.key == poisoned.key:
            raise KeyError("no sense in this cell")
        return real(self, cell, *told)

    monkeypatch.setattr(Projection, "project_cell", project)
    tracker = Tracker(study(storage), uri(storage), live_s=0, waits_s=(), looks_s=LOOKS_S)
    tracker.start()
    tracker.cell_finished(poisoned.key, "failed")
    wait_until(lambda: len(said) == 1)
    run_cell(healthy)
    tracker.cell_finished(healthy.key, "done")
    wait_until(lambda: len(said) == 3)
    assert not tracker.close(PATIENCE_S)
    assert len(said) == 4
    assert "cannot be used" in said[0]
    assert f"did not take an update of cell {poisoned.key}" in said[1]
    assert "is back: 1 cell was brought up" in said[2]
    assert f"lacks the last news of 1 cell ({poisoned.key})" in said[-1]
    assert "no sense in this cell" in said[-1]
    assert shown(storage)["other"]["status"] == "FINISHED"


def test_records_that_cannot_be_read_for_a_while_are_shown_later(storage: Path, said: list[str]) -> None:
    cell, other = open_cell(storage), open_cell(storage, slug="other", seed=1)
    spec = storage / "softmax" / cell.key / "spec.json"
    whole = spec.read_text()
    tracker = Tracker(study(storage), uri(storage), live_s=0, waits_s=WAITS_S, looks_s=LOOKS_S)
    tracker.start()
    for started in (cell, other):
        tracker.cell_started(started.key, SPEC)
        run_cell(started)
    spec.write_text(whole[:100])
    tracker.cell_finished(cell.key, "done")
    tracker.cell_finished(other.key, "done")
    wait_until(lambda: bool(said) and tracker._backlog.behind() == [cell.key])
    spec.write_text(whole)
    assert tracker.close(PATIENCE_S)
    assert len(said) == 1
    assert f"did not take an update of cell {cell.key}" in said[0]
    assert {view["status"] for view in shown(storage).values()} == {"FINISHED"}
    assert sync(study(storage), uri(storage)).n_complete == 2


def test_a_storage_that_is_away_when_mlflow_is_first_needed_is_an_outage(storage: Path, said: list[str]) -> None:
    cell = open_cell(storage)
    claim = storage / "softmax" / "study.json"
    whole = claim.read_text()
    claim.write_text("")
    tracker = Tracker(study(storage), uri(storage), live_s=0, waits_s=WAITS_S, looks_s=LOOKS_S)
    tracker.start()
    tracker.cell_started(cell.key, SPEC)
    wait_until(lambda: bool(said))
    claim.write_text(whole)
    wait_until(lambda: len(said) == 2)
    run_cell(cell)
    tracker.cell_finished(cell.key, "done")
    assert tracker.close(PATIENCE_S)
    assert "cannot be used" in said[0]
    assert "is back: 1 cell was brought up" in said[1]
    assert sync(study(storage), uri(storage)).n_complete == 1


# ---- how long, how much


def test_a_look_comes_after_30_seconds_and_then_at_intervals_that_double_up_to_5_minutes() -> None:
    outage = Outage(waits_s=(1.0, 4.0, 15.0), looks_s=(30.0, 300.0))
    assert [outage.failed() for _ in range(9)] == [1, 4, 15, 30, 60, 120, 240, 300, 300]
    assert outage.look_s(10**6) == 300


def test_a_week_of_rounds_takes_no_more_memory_than_an_hour() -> None:
    backlog = Backlog()
    for key in ("a", "b", "c") * 5000:
        backlog.add(key)
    assert backlog._news == dict.fromkeys("abc", News())


def test_a_cell_that_is_put_back_keeps_what_was_told_and_waits_behind_other_cells() -> None:
    backlog = Backlog()
    backlog.add("a", spec=SPEC, started_at=now(), status="running")
    taken = backlog.take()
    assert taken is not None
    backlog.add("b")
    backlog.add("a", status="done")
    assert backlog.behind() == ["a", "b"]
    backlog.put_back("a", n_failures=1, wait_s=300.0)
    assert backlog.due() == ["b"]
    backlog.add("a")
    assert backlog.due() == ["b"], "news do not shorten the wait of a cell that was refused"
    backlog.close()
    first = backlog.take()
    assert first == ("b", News())
    backlog.done(*first)
    second = backlog.take()
    assert second is not None
    assert (second[0], second[1].status, second[1].spec, second[1].n_failures) == ("a", "done", SPEC, 1)
    backlog.done(*second)
    assert backlog.take() is None
    assert backlog.behind() == []


def test_what_is_told_while_a_cell_is_shown_is_shown_next() -> None:
    backlog = Backlog()
    backlog.add("a", status="running")
    taken = backlog.take()
    assert taken is not None
    backlog.add("b")
    backlog.add("a")
    backlog.done(*taken)
    assert backlog.due() == ["b", "a"]


def test_tracking_off_does_nothing(tmp_path: Path) -> None:
    open_cell(tmp_path)
    tracker = Tracker(study(tmp_path), None)
    tracker.start()
    tracker.cell_started("x--00000000", SPEC)
    assert tracker.close(0.1)
    assert threading.active_count() < 50
    assert not (tmp_path / "mlflow.db").exists()


IN_THE_THREAD = """
import sys, threading
from al_ray.records.study import StudyStore
from al_ray.tracking.tracker import Tracker
store = StudyStore.open(sys.argv[1], "softmax")
tracker = Tracker(store, f"sqlite:///{sys.argv[1]}/mlflow.db")
assert "mlflow" not in sys.modules
tracker.start()
tracker.cell_started("x--00000000", {"seed": 1})
assert tracker.close(400), "not everything was written"
assert "mlflow" in sys.modules
"""


def test_a_fresh_database_is_made_in_the_thread_without_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    open_cell(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", IN_THE_THREAD, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
