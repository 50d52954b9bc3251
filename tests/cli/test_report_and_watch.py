"""``al-ray report`` and ``al-ray watch`` on a real study: finished, half finished, failed, damaged, and none at all."""

import html
import json
import os
import re
import shlex
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from al_ray.cli.app import app
from al_ray.cli.report import PROJECT
from al_ray.cli.watch import N_SHOWN, totals
from al_ray.errors import StorageError
from al_ray.records.cell import CellStore
from al_ray.records.lease import Lease
from al_ray.records.progress import CellView, Watcher, seconds_left
from al_ray.records.study import StudyStore
from al_ray.report.analysis import analyse
from al_ray.report.build import PAGE, TABLES
from al_ray.report.read import read_study
from al_ray.report.verdict import make_verdict
from tests.cli.conftest import Outcome

AlRay = Callable[..., Outcome]
STUDY = "two-methods"
N_CELLS, N_ROUNDS = 4, 4  # margin and random on two seeds; the initial query, the initial model and two queries


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, bert: Path) -> Path:
    """Run a small study once and return the folder with its file and its records."""
    folder = tmp_path_factory.mktemp("recorded")
    defaults = {
        "dataset": {"name": "tickets", "n_train": 160, "n_test": 60},
        "model": str(bert),
        "initial_size": 20,
        "query_size": 10,
        "rounds": 2,
        "max_tokens": 32,
        "finetune": {"epochs": 2, "learning_rate": 1e-3},
    }
    study = {
        "study": STUDY,
        "description": "Which of two methods finds the better tickets?",
        "defaults": defaults,
        "grid": [{"strategy": ["random", "margin"], "seed": [1, 2]}],
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study), encoding="utf-8")
    arguments = ["run", str(path), "--local", "--storage", str(folder / "records"), "--set", "tracking=off"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def here(recorded: Path, tmp_path: Path) -> Path:
    """Return a copy of the study: ``study.yaml`` and the storage folder ``records``."""
    return Path(shutil.copytree(recorded, tmp_path / "here"))


@pytest.fixture
def records(here: Path) -> Path:
    return here / "records"


def _store(records: Path) -> StudyStore:
    return StudyStore.open(str(records), STUDY)


def _cell(records: Path, method: str = "margin", seed: int = 1) -> CellStore:
    (found,) = (cell for cell in _store(records).cells() if cell.slug.endswith(f"-{method}-s{seed}"))
    return found


def _cut_short(records: Path, n_rounds: int = 3, **which: object) -> CellStore:
    """Leave a cell as it was after its first rounds."""
    cell = _cell(records, **which)  # type: ignore[arg-type]
    folder = Path(cell.folder.address)
    (folder / "done.json").unlink()
    for index in range(n_rounds, N_ROUNDS):
        for path in folder.glob(f"round-{index:03d}.*"):
            path.unlink()
    return cell


def _words(page: Path) -> str:
    text = re.sub(r"(?s)<(style|script)\b.*?</\1>", " ", page.read_text(encoding="utf-8"))
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def _without_time(page: Path) -> str:
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "", page.read_text(encoding="utf-8"))


# ----------------------------------------------------------------------------------------------------------- report


def test_a_report_by_study_file_writes_the_page_and_every_table_twice(here: Path, records: Path, al_ray: AlRay) -> None:
    outcome = al_ray("report", here / "study.yaml", "--storage", records, "--tracking", "off")
    assert outcome.code == 0, outcome.text
    folder = records / STUDY / "report"
    files = {PAGE, PROJECT, *(f"{name}.{kind}" for name in TABLES for kind in ("csv", "parquet"))}
    assert {path.name for path in folder.iterdir()} == files
    assert f"page: {folder / PAGE}" in outcome.text
    assert f"tables: {2 * len(TABLES)} files beside it" in outcome.text
    assert "Which of two methods finds the better tickets?" in _words(folder / PAGE)
    cells = pd.read_parquet(folder / "cells.parquet")
    assert list(cells["status"]) == ["done"] * N_CELLS
    assert len(pd.read_csv(folder / "cells.csv")) == N_CELLS


def test_the_verdict_that_is_printed_is_the_one_on_the_page(here: Path, records: Path, al_ray: AlRay) -> None:
    outcome = al_ray("report", here / "study.yaml", "--storage", records, "--tracking", "off")
    shown = _words(records / STUDY / "report" / PAGE)
    verdict = make_verdict(analyse(read_study(str(records / STUDY))))
    sentences = [verdict.headline, *verdict.saves, *verdict.sure, *verdict.change, *verdict.missing]
    assert len(sentences) >= 5
    assert verdict.headline.startswith(("Too little data for a verdict.", "No method is shown to beat random"))
    assert outcome.text.startswith(verdict.headline)
    for sentence in sentences:
        assert sentence in outcome.text
        assert sentence in shown


def test_a_study_is_the_same_by_file_by_name_by_folder_and_under_another_folder_name(
    here: Path, records: Path, al_ray: AlRay, tmp_path: Path
) -> None:
    renamed = shutil.copytree(records / STUDY, tmp_path / "a copy")
    ways = {
        "file": (here / "study.yaml", "--storage", records),
        "name": (STUDY, "--storage", records),
        "folder": (records / STUDY,),
        "slash": (f"{records / STUDY}/",),
        "copy": (renamed,),
    }
    pages = {}
    for way, arguments in ways.items():
        outcome = al_ray("report", *arguments, "--tracking", "off", "--out", tmp_path / way)
        assert outcome.code == 0, outcome.text
        pages[way] = _without_time(tmp_path / way / PAGE)
    described = pages.pop("file")
    assert "Which of two methods" in described
    assert pages["name"] == pages["folder"] == pages["slash"]
    assert STUDY in pages["copy"]


def test_a_name_is_a_name_where_a_storage_folder_is_given(
    records: Path, al_ray: AlRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / STUDY).mkdir()  # of the same name, in the working directory, and something else
    monkeypatch.chdir(tmp_path)
    outcome = al_ray("watch", STUDY, "--storage", records, "--once")
    assert outcome.code == 0, outcome.text
    assert "4 cells, 4 done" in outcome.text


def test_a_report_goes_where_out_says_and_nowhere_else(records: Path, al_ray: AlRay, tmp_path: Path) -> None:
    before = sorted(records.rglob("*"))
    outcome = al_ray("report", records / STUDY, "--out", tmp_path / "elsewhere", "--tracking", "off")
    assert outcome.code == 0, outcome.text
    assert f"page: {tmp_path / 'elsewhere' / PAGE}" in outcome.text
    assert (tmp_path / "elsewhere" / PAGE).stat().st_size > 10_000
    assert "MLflow" not in outcome.text
    assert sorted(records.rglob("*")) == before


def test_a_half_finished_study_is_reported_and_says_what_is_missing(records: Path, al_ray: AlRay) -> None:
    cell = _cut_short(records)
    never = _cell(records, "random", 2)
    shutil.rmtree(never.folder.address)
    outcome = al_ray("report", records / STUDY, "--tracking", "off")
    assert outcome.code == 0, outcome.text
    assert "The study is not finished: 2 of 4 cells are done, 1 running and 1 waiting" in outcome.text
    states = pd.read_csv(records / STUDY / "report" / "cells.csv").set_index("key")["status"]
    assert (states[cell.key], states[never.key]) == ("running", "waiting")


def test_a_failed_cell_is_on_the_page_with_its_reason(records: Path, al_ray: AlRay) -> None:
    cell = _cut_short(records)
    cell.fail({"error": "OutOfMemory", "message": "the pool of 160 texts did not fit"})
    outcome = al_ray("report", records / STUDY, "--tracking", "off")
    assert outcome.code == 0, outcome.text
    assert "1 cell failed and is in no number" in outcome.text
    words = _words(records / STUDY / "report" / PAGE)
    where = "tickets · bert · softmax + margin · seed 1, after 3 rounds"
    assert f"the pool of 160 texts did not fit {where}" in words


def test_a_study_of_failures_has_a_page_that_says_so(records: Path, al_ray: AlRay) -> None:
    for method in ("margin", "random"):
        for seed in (1, 2):
            cell = _cut_short(records, 0, method=method, seed=seed)
            cell.fail({"error": "ModelError", "message": "no weights"})
    outcome = al_ray("report", records / STUDY, "--tracking", "off")
    assert outcome.code == 0, outcome.text
    assert "failed, so there is nothing to compare" in outcome.text
    assert "no weights" in _words(records / STUDY / "report" / PAGE)


def test_a_damaged_record_is_refused_by_name_and_left_out_only_when_asked(records: Path, al_ray: AlRay) -> None:
    cell = _cell(records)
    damaged = Path(cell.folder.address) / "round-002.json"
    damaged.write_text(damaged.read_text()[:100])
    refused = al_ray("report", records / STUDY, "--tracking", "off")
    assert refused.code == 1
    assert "error: 1 of 4 cells" in refused.text
    assert str(damaged) in refused.text
    assert not (records / STUDY / "report").exists()
    outcome = al_ray("report", records / STUDY, "--tracking", "off", "--skip-damaged")
    assert outcome.code == 0, outcome.text
    assert f"{cell.key} was left out" in _words(records / STUDY / "report" / PAGE)
    states = pd.read_csv(records / STUDY / "report" / "cells.csv").set_index("key")["status"]
    assert states[cell.key] == "failed"


def test_a_report_without_a_plan_says_that_it_cannot_know_what_is_missing(records: Path, al_ray: AlRay) -> None:
    (records / STUDY / "plan.json").unlink()
    outcome = al_ray("report", records / STUDY, "--tracking", "off")
    assert outcome.code == 0, outcome.text
    assert "do not say how many cells the study plans" in outcome.text


def test_a_report_is_logged_to_the_parent_run_and_made_again_replaces_itself(
    here: Path, records: Path, al_ray: AlRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for expected in (5, 5):
        assert al_ray("sync", here / "study.yaml", "--storage", records).code == 0
        outcome = al_ray("report", STUDY, "--storage", records)
        assert outcome.code == 0, outcome.text
        address = f"sqlite:///{records}/mlflow.db"
        assert f"logged to MLflow: {address}" in outcome.text
        client = MlflowClient(address)
        experiment = client.get_experiment_by_name(STUDY)
        runs = client.search_runs([experiment.experiment_id])
        kinds = [run.data.tags["al_ray.kind"] for run in runs]
        assert kinds.count("study") + kinds.count("cell") == expected
        assert "method" in kinds
        (whole,) = (run for run in runs if run.data.tags["al_ray.kind"] == "study")
        logged = {item.path for item in client.list_artifacts(whole.info.run_id, "report")}
        files = sorted((records / STUDY / "report").iterdir())
        assert logged == {f"report/{path.name}" for path in files}
        page = Path(client.download_artifacts(whole.info.run_id, f"report/{PAGE}"))
        assert page.read_bytes() == (records / STUDY / "report" / PAGE).read_bytes()


def test_a_report_that_mlflow_does_not_take_is_written_all_the_same(
    records: Path, al_ray: AlRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    outcome = al_ray("report", records / STUDY, "--tracking", "http://127.0.0.1:9")  # where nobody listens
    assert outcome.code == 1
    assert "does not take the report" in outcome.text
    assert "or use --tracking off" in outcome.text
    assert (records / STUDY / "report" / PAGE).exists()


# ------------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    "command", [("report", "--tracking", "off"), ("watch", "--once"), ("sync",)], ids=["report", "watch", "sync"]
)
class TestCommandsThatReadRecords:
    def test_refuse_a_folder_that_is_no_study(self, command: tuple[str, ...], al_ray: AlRay, tmp_path: Path) -> None:
        outcome = al_ray(command[0], tmp_path, *command[1:])
        assert outcome.code == 1
        assert f"error: {tmp_path} is no study of al_ray: it has no study.json." in outcome.text

    def test_name_the_studies_of_a_storage_folder(self, command: tuple[str, ...], al_ray: AlRay, records: Path) -> None:
        outcome = al_ray(command[0], records, *command[1:])
        assert outcome.code == 1
        assert f"It holds the study {STUDY}: name one of them." in outcome.text

    def test_refuse_a_name_that_is_not_there(self, command: tuple[str, ...], al_ray: AlRay, records: Path) -> None:
        outcome = al_ray(command[0], "two-method", "--storage", records, *command[1:])
        assert outcome.code == 1
        assert f"error: there is no folder {records}/two-method." in outcome.text
        assert sorted(path.name for path in records.iterdir()) == [STUDY]

    def test_refuse_a_folder_together_with_a_storage_folder(
        self, command: tuple[str, ...], al_ray: AlRay, records: Path
    ) -> None:
        outcome = al_ray(command[0], records / STUDY, "--storage", records, *command[1:])
        assert outcome.code == 1
        assert "is a folder already, so --storage says it twice. Leave one of the two out." in outcome.text

    def test_refuse_a_study_file_that_is_not_there(
        self, command: tuple[str, ...], al_ray: AlRay, tmp_path: Path
    ) -> None:
        outcome = al_ray(command[0], tmp_path / "none.yaml", *command[1:])
        assert outcome.code == 1
        assert "none.yaml" in outcome.text

    def test_refuse_half_an_address(self, command: tuple[str, ...], al_ray: AlRay) -> None:
        for study, said in (
            ("s3:/bucket/x", "Write s3://bucket/x."),
            ("s3:///x", "'s3:///x' names no bucket"),
            ("https://host/x.yaml", "'https://host/x.yaml' is an address, and a study file is read from a disk"),
            ("", "STUDY is ''. Name a folder"),
        ):
            outcome = al_ray(command[0], study, *command[1:])
            assert outcome.code == 1
            assert said in outcome.text


def test_sync_says_in_words_what_it_did_and_is_given_a_study_like_the_others(
    here: Path, records: Path, al_ray: AlRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    first = al_ray("sync", records / STUDY)
    assert first.code == 0, first.text
    n_runs = N_CELLS + 2 + 1  # of the cells, of the two methods, of the study
    assert f"{N_CELLS} cells recorded, 0 of them complete there already; {n_runs} runs made" in first.text
    assert "MLflow UI: " in first.text
    again = al_ray("sync", here / "study.yaml", "--storage", records)
    assert f"{N_CELLS} of them complete there already; 0 runs made, 0 metric points added." in again.text


def test_sync_without_an_mlflow_says_how_to_name_one(
    records: Path, al_ray: AlRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    outcome = al_ray("sync", records / STUDY, "--tracking", "off")
    assert outcome.code == 1
    advice = re.search(r"--tracking (sqlite:\S+)\.", outcome.text)
    assert advice is not None
    address = advice[1].replace("/FOLDER", str(tmp_path / "made here"))
    assert al_ray("sync", records / STUDY, "--tracking", address).code == 0


def test_watch_needs_a_plan(records: Path, al_ray: AlRay) -> None:
    (records / STUDY / "plan.json").unlink()
    outcome = al_ray("watch", records / STUDY, "--once")
    assert outcome.code == 1
    assert "holds no plan.json, so nobody knows which cells there should be" in outcome.text


def test_watch_names_a_damaged_record(records: Path, al_ray: AlRay) -> None:
    damaged = Path(_cell(records).folder.address) / "done.json"
    damaged.write_text("{")
    outcome = al_ray("watch", records / STUDY, "--once")
    assert outcome.code == 1
    assert f"error: {damaged}" in outcome.text


# ------------------------------------------------------------------------------------------------------------- watch


def test_watch_shows_a_finished_study(here: Path, records: Path, al_ray: AlRay) -> None:
    outcome = al_ray("watch", here / "study.yaml", "--storage", records, "--once")
    assert outcome.code == 0, outcome.text
    assert f"study {STUDY}: 4 cells, 4 done, 0 running, 0 failed, 0 waiting" in outcome.text
    assert re.search(r"softmax margin \S*2/2|margin\S* 2/2", outcome.text)
    assert "left" not in outcome.text


def test_watch_shows_what_runs_what_failed_and_what_waits(records: Path, al_ray: AlRay) -> None:
    running = _cut_short(records)
    failed = _cut_short(records, 2, method="random", seed=1)
    failed.fail({"error": "OutOfMemory", "message": "the pool [160 texts] did not fit"})
    shutil.rmtree(_cell(records, "random", 2).folder.address)
    outcome = al_ray("watch", records / STUDY, "--once")
    assert outcome.code == 0, outcome.text
    assert f"study {STUDY}: 4 cells, 1 done, 1 running, 1 failed, 1 waiting; about " in outcome.text
    assert "1/2 >1" in outcome.text
    assert "0/2 !1" in outcome.text
    assert f"failed: {failed.slug}: OutOfMemory: the pool [160 texts] did not fit" in outcome.text
    record = running.rounds()[-1]
    assert f"{running.slug} 3 {record.n_labeled} {record.metrics['accuracy']:.3f}" in outcome.text


def test_watch_leaves_at_once_where_there_is_no_terminal(records: Path, al_ray: AlRay) -> None:
    _cut_short(records)
    outcome = al_ray("watch", records / STUDY)
    assert outcome.code == 0
    assert outcome.text.count(f"study {STUDY}:") == 1


def test_one_cell_of_a_study_has_no_plan_and_a_report(here: Path, al_ray: AlRay, tmp_path: Path) -> None:
    slug = _cell(here / "records").slug
    run = (
        "run",
        here / "study.yaml",
        "--local",
        "--set",
        "tracking=off",
        "--storage",
        tmp_path / "one",
        "--cell",
        slug,
    )
    assert al_ray(*run).code == 0
    assert "holds no plan.json" in al_ray("watch", STUDY, "--storage", tmp_path / "one", "--once").text
    outcome = al_ray("report", STUDY, "--storage", tmp_path / "one", "--tracking", "off")
    assert outcome.code == 0, outcome.text
    assert "margin" in outcome.text


# ---------------------------------------------------------------------------------------------- the watcher, by itself


def test_a_running_cell_is_as_idle_as_the_clock_says(records: Path) -> None:
    cell = _cut_short(records)
    last = cell.recorded_rounds()[-1]
    later = last.recorded_at + timedelta(seconds=90)
    (view,) = (v for v in Watcher(_store(records), lambda: later).look() if v.status == "running")
    assert view == CellView(
        slug=cell.slug, dataset="tickets", model=view.model, method=view.method, status="running", n_rounds=3,
        n_labeled=30, accuracy=last.record.metrics["accuracy"], idle_s=90.0,
    )  # fmt: skip


def test_a_done_cell_took_from_its_beginning_to_its_end(records: Path) -> None:
    cell = _cell(records)
    done = Path(cell.folder.address) / "done.json"
    content = json.loads(done.read_text())
    began_at = cell.begun_at()
    assert began_at is not None
    content["finished_at"] = (began_at + timedelta(seconds=42)).isoformat()
    done.write_text(json.dumps(content))
    (view,) = (v for v in Watcher(_store(records), _never).look() if v.slug == cell.slug)
    assert (view.status, view.took_s, view.idle_s, view.n_labeled) == ("done", 42.0, None, 40)


def test_a_cell_that_waits_then_begins_and_has_no_model_yet(records: Path) -> None:
    cell = _cut_short(records, 1)
    hidden = Path(cell.folder.address).rename(records / "hidden")
    watcher = Watcher(_store(records), lambda: cell.recorded_rounds()[0].recorded_at)

    def seen() -> CellView:
        (view,) = (v for v in watcher.look() if v.slug == cell.slug)
        return view

    assert seen().status == "waiting"
    hidden.rename(cell.folder.address)
    assert (seen().status, seen().n_rounds, seen().n_labeled, seen().accuracy) == ("running", 1, 0, None)


def test_a_cell_that_is_done_is_not_read_again_and_one_that_failed_is(records: Path) -> None:
    done, failed = _cell(records, "random", 1), _cut_short(records)
    failed.fail({"error": "A", "message": "first"})
    watcher = Watcher(_store(records), _never)
    assert {v.reason for v in watcher.look()} == {None, "A: first"}
    Path(done.folder.where("done.json")).write_text("damaged after it was seen")
    failed.fail({"error": "B", "message": "second"})
    assert {v.reason for v in watcher.look()} == {None, "B: second"}
    with pytest.raises(StorageError, match=re.escape(done.folder.address)):
        Watcher(_store(records), _never).look()


def _never() -> datetime:
    raise AssertionError("no cell runs, so nobody needs to know what time it is")


def _views(**n: int) -> list[CellView]:
    place = {"slug": "a", "dataset": "tickets", "model": "bert", "method": "margin"}
    return [CellView(**place, status=status, took_s=100.0) for status, times in n.items() for _ in range(times)]


def test_time_left_is_the_mean_of_done_cells_times_the_rounds_of_running_them() -> None:
    # Two at a time; three wait and two are half through on average, so four cells of 100 s on two places.
    assert seconds_left(_views(done=2, running=2, waiting=3)) == 200.0
    one_slow = [*_views(done=1, running=1), CellView(**_place(), status="done", took_s=300.0)]
    assert seconds_left(one_slow) == 100.0  # half of the mean of 100 s and 300 s


def _place() -> dict[str, str]:
    return {"slug": "b", "dataset": "tickets", "model": "bert", "method": "random"}


def test_time_left_is_unknown_before_the_first_cell_is_done_and_when_nothing_runs() -> None:
    assert seconds_left(_views(running=2, waiting=3)) is None
    assert seconds_left(_views(done=2, waiting=3)) is None
    assert seconds_left(_views(failed=2, running=1)) is None  # how soon a cell fails says nothing
    assert seconds_left([]) is None


def test_a_sync_counts_the_cells_of_the_plan_as_a_run_does_and_says_why_none_is_shown(
    records: Path, al_ray: AlRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("al_ray.study.file.MOST_TRACKED", N_CELLS)
    assert (
        f"none of the {N_CELLS} cells, as asked; to have them"
        in al_ray("sync", records / STUDY, "--cells", "none").text
    )
    store = _store(records)
    plan = store.plan()
    assert plan is not None
    store.write_plan(plan | {"cells": [*plan["cells"], plan["cells"][0] | {"slug": "not-yet"}]})
    said = al_ray("sync", records / STUDY).text
    assert f"none of the {N_CELLS + 1} cells, above 1,000 they are logged only when asked" in said


def test_time_left_of_quick_cells_is_told_from_the_ends_since_the_driver_began() -> None:
    began = datetime(2026, 1, 2, tzinfo=UTC)
    ends = [began + timedelta(seconds=seconds) for seconds in (-9000, 20, 22, 24, 26)]
    done = [CellView(**_place(), status="done", took_s=5.0, ended_at=at) for at in ends]
    waiting = _views(waiting=50)
    assert seconds_left([*done, *waiting], began) == 100.0
    assert "about 1 min 40 s left" in totals("tiny", [*done, *waiting], began)
    assert seconds_left([*done, *waiting]) is None  # nobody runs it
    assert seconds_left([*done[:2], *waiting], began) is None  # one end tells no pace
    assert seconds_left(done, began) is None


def test_a_watch_tells_the_time_left_while_a_driver_lives(records: Path, al_ray: AlRay) -> None:
    store = _store(records)
    plan = store.plan()
    assert plan is not None
    plan["cells"].append({**plan["cells"][0], "slug": "another"})
    store.write_plan(plan)
    for number, cell in enumerate(store.cells(), start=1):
        path = Path(cell.folder.where("done.json"))
        content = json.loads(path.read_text())
        ended_at = datetime.now(UTC) + timedelta(minutes=number)
        path.write_text(json.dumps(content | {"finished_at": ended_at.isoformat()}))
    assert "1 waiting driver: none" in al_ray("watch", records / STUDY, "--once").text
    with Lease(store.folder, STUDY).held():
        assert "1 waiting; about 1 min" in al_ray("watch", records / STUDY, "--once").text


def test_the_totals_count_every_state_and_tell_the_time_left() -> None:
    text = totals("tiny", _views(done=2, running=2, failed=1, waiting=3))
    assert text == "study tiny: 8 cells, 2 done, 2 running, 1 failed, 3 waiting; about 3 min 20 s left"


def test_a_flood_of_failures_is_counted_and_not_printed_in_full(records: Path, al_ray: AlRay) -> None:
    plan = json.loads((records / STUDY / "plan.json").read_text())
    cell = _cut_short(records, 0)
    (entry,) = (c for c in plan["cells"] if c["slug"] == cell.slug)
    digests = [f"{number:064x}"[::-1] for number in range(1, N_SHOWN + 4)]
    store = _store(records)
    for digest in digests:
        twin = store.cell("twin", digest)
        twin.begin({"a": 1}, {})
        twin.fail({"error": "E", "message": "m"})
    plan["cells"] = [entry | {"slug": "twin", "fingerprint": digest} for digest in digests]
    store.write_plan(plan)
    outcome = al_ray("watch", records / STUDY, "--once")
    assert outcome.code == 0, outcome.text
    assert outcome.text.count("failed: twin: E: m") == N_SHOWN
    assert "... and 3 more failed" in outcome.text


def test_watching_an_unfinished_study_says_who_runs_it_or_that_nobody_does(records: Path, al_ray: AlRay) -> None:
    _cut_short(records, 0)
    assert "driver: none; the same al-ray run goes on with what is not done" in al_ray("watch", records / STUDY).text
    with Lease(_store(records).folder, STUDY).held():
        assert f"driver: process {os.getpid()} on " in al_ray("watch", records / STUDY, "--once").text


def test_a_second_driver_is_told_how_to_watch_the_first(here: Path, records: Path, al_ray: AlRay) -> None:
    _cut_short(records, 0)
    with Lease(_store(records).folder, STUDY).held():
        run = al_ray("run", here / "study.yaml", "--local", "--storage", records, "--set", "tracking=off")
        assert run.code == 1
        advice = re.search(r"Watch it \(al-ray (watch .+)\), or stop it and run again", run.text)
        assert advice is not None
        assert al_ray(*shlex.split(advice[1]), "--once").code == 0


def test_a_run_without_mlflow_says_how_to_fill_one_later(
    here: Path, records: Path, al_ray: AlRay, tmp_path: Path
) -> None:
    run = al_ray("run", here / "study.yaml", "--local", "--storage", records, "--set", "tracking=off")
    advice = re.search(r"MLflow: off\. Later: al-ray (sync \S+ --tracking) http://HOST:PORT", run.text)
    assert advice is not None
    assert al_ray(*shlex.split(advice[1]), f"sqlite:///{tmp_path}/mlflow.db").code == 0


def test_a_link_to_a_study_is_refused_and_what_it_leads_to_is_read(
    records: Path, al_ray: AlRay, tmp_path: Path
) -> None:
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / STUDY).symlink_to(records / STUDY)
    refused = al_ray("watch", STUDY, "--storage", tmp_path / "links", "--once")
    assert refused.code == 1
    advice = re.search(r"Name the folder that it leads to, (\S+)\.$", refused.text)
    assert advice is not None
    assert al_ray("watch", advice[1], "--once").code == 0
