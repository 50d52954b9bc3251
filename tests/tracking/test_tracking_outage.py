"""A real MLflow server that is down, slow and back: the study goes on, and MLflow shows it whole and once."""

import itertools
import random
import shlex
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from al_ray.cli.app import app
from al_ray.records.cell import CellStore
from al_ray.records.study import StudyStore
from al_ray.tracking.mlflow import sync
from al_ray.tracking.tracker import Tracker
from tests.proxy import Proxy
from tests.records.record_samples import make_story, open_cell
from tests.tracking.mlflow_server import mlflow_server
from tests.tracking.mlflow_view import shown, values, warnings_heard, without_ids
from tests.waiting import PATIENCE_S, wait_until

WAITS_S, LOOKS_S = (0.02, 0.02), (0.05, 0.2)
# So many attempts that a line which is mended at once is back before they end, however slow the machine.
MANY_WAITS_S = (0.02,) * 1000
N_ROUNDS = 4
# Requests of a first connection: the experiment is looked for, made and read; the study's run is looked for and made;
# cells and methods are looked for; four views, a note and what was written of them; the first cell is made and filled.
MAKES = {2: "experiment", 5: "study's run", 14: "cell"}
FILLS_A_CELL = 15
_names = (f"outage-{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[int]:
    """Serve an empty MLflow to all tests of this file; yields its port."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(migrated, folder / "mlflow.db")
    with mlflow_server(folder) as port:
        yield port


@dataclass
class Requests:
    """Counts the requests of one client, and cuts the line at one of them.

    Attributes:
        cut_at: number of the request, from 1; 0 cuts none.
        is_served: whether the server gets it, and only its answer is lost.
        mends: whether the line is there again at once.
        goes_on: the first bytes wait for it.
        n: how many there were.
        proxy: whose requests these are.
    """

    cut_at: int = 0
    is_served: bool = False
    mends: bool = False
    goes_on: threading.Event = field(default_factory=threading.Event)
    n: int = 0
    proxy: Proxy | None = None
    _buffer: bytes = b""

    def __call__(self, data: bytes) -> None:
        assert self.goes_on.wait(PATIENCE_S)
        self._buffer += data
        if not _is_whole(self._buffer):
            return
        request, self._buffer = self._buffer, b""
        self.n += 1
        if self.n == self.cut_at:
            assert self.proxy is not None
            if self.is_served:
                _serve(self.proxy.target, request)
            self.proxy.cut()
            if self.mends:
                self.proxy.mend()


def _is_whole(request: bytes) -> bool:
    head, end, body = request.partition(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return bool(end) and len(body) >= int(lengths[0] if lengths else 0)


def _serve(port: int, request: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port)) as line:
        line.sendall(request)
        assert line.recv(65536)


@dataclass
class Study:
    """A study whose rounds are recorded and told at once, as the real one does it."""

    storage: Path
    proxy: Proxy
    said: list[str]
    name: str = field(default_factory=lambda: next(_names))

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.proxy.port}"

    @property
    def store(self) -> StudyStore:
        return StudyStore.open(str(self.storage), self.name)

    def cell(self, slug: str) -> CellStore:
        return open_cell(self.storage, self.name, slug, part=slug)

    def tracker(self, **options: Any) -> Tracker:
        times = {"live_s": 0.0, "waits_s": WAITS_S, "looks_s": LOOKS_S}
        return Tracker(self.store, self.address, **(times | options))

    def wait_until_said(self, words: str) -> None:
        wait_until(lambda: any(words in sentence for sentence in self.said), f"saying {words!r}")

    def assert_shown_whole(self, migrated: Path) -> None:
        """Compare with what a rebuild of an empty MLflow from the records gives."""
        shutil.copy(migrated, self.storage / "fresh.db")
        fresh = f"sqlite:///{self.storage}/fresh.db"
        sync(self.store, fresh)
        view = shown(f"http://127.0.0.1:{self.proxy.target}", self.name)
        assert without_ids(view) == without_ids(shown(fresh, self.name))
        for run in view.values():
            points = [(name, step) for name, step, _, _ in run["points"]]
            assert len(points) == len(set(points))


@contextmanager
def begun(storage: Path, server: int, requests: Requests | None = None) -> Iterator[Study]:
    """Yield a study behind a proxy of its own."""
    if requests is None:
        requests = Requests()
        requests.goes_on.set()
    with warnings_heard() as said, Proxy(server, on_bytes=requests) as proxy:
        requests.proxy = proxy
        yield Study(storage, proxy, said)


def tell(tracker: Tracker, cell: CellStore, rounds: range, n_rounds: int = N_ROUNDS) -> None:
    """Record and tell some rounds of a cell, with its start and its end where they belong to them."""
    if 0 in rounds:
        tracker.cell_started(cell.key, cell.spec())
    for record in make_story(n_rounds)[rounds.start : rounds.stop]:
        cell.append(record)
        tracker.round_recorded(cell.key)
    if n_rounds in rounds:
        cell.finish({})
        tracker.cell_finished(cell.key, "done")


def losses() -> list[tuple[int, bool]]:
    """Return which request is lost, and whether only its answer is: the one that makes a cell, and one by chance."""
    other = random.Random(5).choice([number for number in range(1, 17) if number not in MAKES])
    return [(14, True), (other, False)]


@pytest.mark.parametrize(("cut_at", "is_served"), losses())
def test_a_cut_at_any_request_loses_no_round_and_doubles_none(
    tmp_path: Path, server: int, migrated: Path, cut_at: int, is_served: bool
) -> None:
    requests = Requests(cut_at, is_served)
    requests.goes_on.set()
    with begun(tmp_path, server, requests) as study:
        tracker = study.tracker()
        tracker.start()
        first, second, third = (study.cell(slug) for slug in ("first", "second", "third"))
        for index in range(3):
            tell(tracker, first, range(index, index + 1))
            _wait_until_told(tracker)
        study.proxy.cut()
        tell(tracker, first, range(3, 5))
        tell(tracker, second, range(2))
        study.wait_until_said("cannot be used")
        tell(tracker, second, range(2, 3))
        tell(tracker, third, range(5))
        study.proxy.mend()
        study.wait_until_said("is back: 3 cells were brought up")
        tell(tracker, second, range(3, 5))
        assert tracker.close(PATIENCE_S), study.said
        assert requests.n > cut_at
        assert len(study.said) == 2
        study.assert_shown_whole(migrated)


@pytest.mark.parametrize("cut_at", [*MAKES, FILLS_A_CELL])
def test_a_short_break_is_not_worth_a_word_and_neither_doubles_nor_loses_anything(
    tmp_path: Path, server: int, migrated: Path, cut_at: int
) -> None:
    requests = Requests(cut_at, is_served=cut_at in MAKES, mends=True)
    requests.goes_on.set()
    with begun(tmp_path, server, requests) as study:
        tracker = study.tracker(waits_s=MANY_WAITS_S)
        tracker.start()
        cell = study.cell("first")
        tell(tracker, cell, range(2))
        _wait_until_told(tracker)
        assert not _made_twice(study)
        live = shown(f"http://127.0.0.1:{server}", study.name)["first"]
        assert [(step, value) for name, step, value in values(live) if name == "accuracy"] == [(3, 0.6)]
        tell(tracker, cell, range(2, 5))
        assert tracker.close(PATIENCE_S), study.said
        assert study.said == []
        study.assert_shown_whole(migrated)


def _made_twice(study: Study) -> set[str]:
    from mlflow import MlflowClient

    client = MlflowClient(f"http://127.0.0.1:{study.proxy.target}")
    runs = client.search_runs([client.get_experiment_by_name(study.name).experiment_id])
    names = [run.info.run_name for run in runs]
    return {name for name in names if names.count(name) > 1}


def _wait_until_told(tracker: Tracker) -> None:
    wait_until(lambda: not tracker._backlog.behind() or tracker._outage.is_down, "the news reaching MLflow")


def test_a_run_that_a_late_answer_made_twice_is_one_in_the_end(tmp_path: Path, server: int, migrated: Path) -> None:
    with begun(tmp_path, server) as study:
        tracker = study.tracker()
        tracker.start()
        cells = [study.cell("first"), study.cell("second")]
        for cell in cells:
            tell(tracker, cell, range(3))
        _wait_until_told(tracker)
        study.proxy.cut()
        for cell in cells:
            tell(tracker, cell, range(3, 5))
        study.wait_until_said("cannot be used")
        _make_again(study, "first")
        study.proxy.mend()
        study.wait_until_said("is back")
        # What the server had kept waiting comes only now, after MLflow was looked through.
        _make_again(study, "second")
        assert tracker.close(PATIENCE_S), study.said
        study.assert_shown_whole(migrated)


def test_a_run_of_the_study_made_twice_is_one_after_a_sync(tmp_path: Path, server: int, migrated: Path) -> None:
    with begun(tmp_path, server) as study:
        tracker = study.tracker()
        tracker.start()
        cell = study.cell("first")
        tell(tracker, cell, range(5))
        assert tracker.close(PATIENCE_S), study.said
        _make_again(study, study.name)
        assert sync(study.store, study.address).duplicates
        study.assert_shown_whole(migrated)


def _make_again(study: Study, name: str) -> None:
    """Make a second, older and empty run with the tags of one that is there, as a repeated request does."""
    from mlflow import MlflowClient

    client = MlflowClient(f"http://127.0.0.1:{study.proxy.target}")
    experiment = client.get_experiment_by_name(study.name).experiment_id
    (run,) = client.search_runs([experiment], f"attributes.run_name = '{name}'")
    tags = {key: text for key, text in run.data.tags.items() if key.startswith("al_ray.")}
    client.create_run(experiment, start_time=1, tags=tags, run_name=name)


def test_a_server_that_is_down_from_the_start_shows_everything_once_it_is_up(
    tmp_path: Path, server: int, migrated: Path
) -> None:
    with begun(tmp_path, server) as study:
        study.proxy.cut()
        tracker = study.tracker()
        tracker.start()
        done, running = study.cell("done"), study.cell("running")
        tell(tracker, done, range(5))
        tell(tracker, running, range(2))
        study.wait_until_said("cannot be used")
        study.proxy.mend()
        study.wait_until_said("is back: 2 cells were brought up")
        assert shown(f"http://127.0.0.1:{server}", study.name)["running"]["status"] == "RUNNING"
        tell(tracker, running, range(2, 5))
        assert tracker.close(PATIENCE_S), study.said
        study.assert_shown_whole(migrated)


def test_a_server_that_is_down_in_the_end_is_named_with_what_it_lacks_and_a_sync_adds_it(
    tmp_path: Path, server: int, migrated: Path
) -> None:
    with begun(tmp_path, server) as study:
        tracker = study.tracker(looks_s=(300.0, 300.0))
        tracker.start()
        first, second = study.cell("first"), study.cell("second")
        tell(tracker, first, range(5))
        tell(tracker, second, range(2))
        _wait_until_told(tracker)
        study.proxy.cut()
        tell(tracker, second, range(2, 5))
        study.wait_until_said("cannot be used")
        assert not tracker.close(PATIENCE_S)
        assert len(study.said) == 2
        assert f"lacks the last news of 1 cell ({second.key})" in study.said[1]
        advice = study.said[1].rpartition("this adds it: al-ray ")[2]
        study.proxy.mend()
        done = CliRunner().invoke(app, shlex.split(advice))
        assert done.exit_code == 0, done.output
        study.assert_shown_whole(migrated)


def test_a_server_that_comes_back_just_before_the_end_is_still_filled(
    tmp_path: Path, server: int, migrated: Path
) -> None:
    with begun(tmp_path, server) as study:
        study.proxy.cut()
        tracker = study.tracker(looks_s=(300.0, 300.0))
        tracker.start()
        for slug in ("first", "second"):
            tell(tracker, study.cell(slug), range(5))
        study.wait_until_said("cannot be used")
        study.proxy.mend()
        assert tracker.close(PATIENCE_S), study.said
        assert "is back: 2 cells were brought up" in study.said[-1]
        study.assert_shown_whole(migrated)


def test_a_slow_server_gets_many_rounds_at_once_and_the_study_does_not_wait(
    tmp_path: Path, server: int, migrated: Path
) -> None:
    requests = Requests()
    with begun(tmp_path, server, requests) as study:
        tracker = study.tracker()
        tracker.start()
        cells = [study.cell(slug) for slug in ("first", "second", "third")]
        for index in range(16):
            for cell in cells:
                tell(tracker, cell, range(index, index + 1), n_rounds=15)
        assert requests.n == 0  # everything is told, and the first call is still under way
        requests.goes_on.set()
        assert tracker.close(PATIENCE_S), study.said
        assert study.said == []
        assert requests.n < 45  # one a round would be as many, before anything else
        study.assert_shown_whole(migrated)
