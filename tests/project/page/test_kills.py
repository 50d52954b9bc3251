"""The server is killed at random while two people label: no confirmed answer is lost, none is there twice."""

import http.client
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from al_ray.project.project import Project
from tests.project.page.serving import Client
from tests.project.simulated import Pool, asked, ground_truth, ticket_pool
from tests.waiting import wait_until

ROOT = Path(__file__).parents[3]
N_KILLS = int(os.environ.get("AL_RAY_KILLS", "4"))
LONGEST_THOUGHT_S, LONGEST_REQUEST_S = 0.02, 0.03
MOST_TRIES = 6


class Lives:
    """A server that is started and killed, and where it is now."""

    def __init__(self, project: Path) -> None:
        self._project = project
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.project.page.lives"],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip
        self.now: tuple[int, str] | None = None
        self._pid = 0

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the server cannot be started"
        return line.strip()

    def begin(self) -> None:
        """Start a server, without waiting for its page."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{self._project}\n")
        self._process.stdin.flush()
        self._pid = int(self._line())

    def wait_for_page(self) -> str:
        """Wait for the page or the end of the server, and return what it said."""
        line = self._line()
        if line != "ended":
            port, token = line.split()
            self.now = int(port), token
        return line

    def kill(self) -> None:
        """End the server so that it notices nothing."""
        os.kill(self._pid, signal.SIGKILL)

    def close(self) -> None:
        """End everything."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


class Person(threading.Thread):
    """Labels by the hidden labels until told to stop, and sends again what was not confirmed.

    Attributes:
        confirmed: id, label and note of every answer that was confirmed.
        n_tries: answers that were sent.
        n_again: those of them that were sent again.
    """

    def __init__(self, name: str, lives: Lives, pool: Pool, seed: int) -> None:
        super().__init__(name=name, daemon=True)
        self._lives, self._pool, self._rng = lives, pool, np.random.default_rng(seed)
        self.stop = threading.Event()
        self.error: BaseException | None = None
        self.confirmed: list[tuple[int, int, str]] = []
        self.n_tries = self.n_again = 0

    def run(self) -> None:
        try:
            self._label()
        except BaseException as error:
            self.error = error

    def _label(self) -> None:
        pending: tuple[int, str, str] | None = None
        sent = 0
        while pending is not None or not self.stop.is_set():
            time.sleep(self._rng.uniform(0, LONGEST_THOUGHT_S))
            if self._lives.now is None:
                continue
            client = Client(*self._lives.now, annotator=self.name)
            try:
                if pending is None:
                    tasks = client.next()["tasks"]
                    if not tasks:
                        continue
                    id_ = int(self._rng.choice([task["id"] for task in tasks]))
                    note = f"note {len(self.confirmed)}" if self._rng.random() < 0.5 else ""
                    pending, sent = (id_, str(uuid.uuid4()), note), 0
                id_, submission, note = pending
                self.n_again += sent > 0
                self.n_tries += 1
                sent += 1
                label = self._pool.labels[id_]
                reply = client.answer(id_, self._pool.class_names[label], submission, note=note)
                assert reply.status == 200, reply.text
                self.confirmed.append((id_, label, note))
                pending = None
            except (OSError, http.client.HTTPException):
                continue  # killed; the next server is on its way


@pytest.fixture
def killed_project(tmp_path: Path, project: Callable[..., dict[str, Any]]) -> tuple[Pool, dict, Path]:
    (tmp_path / "pool").mkdir()
    pool = ticket_pool(tmp_path / "pool", max(160, 10 * N_KILLS))
    values = project(
        data=str(pool.folder / "pool.csv"),
        query_size=12,
        stopping=[],
        evaluation={"name": "random_sample", "n": max(30, 2 * N_KILLS)},
    )
    file = tmp_path / "tickets.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return pool, values, file


def test_a_server_killed_at_any_moment_loses_and_doubles_no_answer(
    killed_project: tuple[Pool, dict, Path], tmp_path: Path
) -> None:
    pool, values, file = killed_project
    lives, rng = Lives(file), np.random.default_rng(7)
    people = [Person(name, lives, pool, seed) for seed, name in enumerate(("ada", "bob"))]
    for person in people:
        person.start()
    n_before_page = 0
    for _ in range(N_KILLS):
        lives.begin()
        if rng.random() < 0.1:  # while it opens the project
            time.sleep(rng.uniform(0, 0.3))
            lives.kill()
            n_before_page += 1
        else:
            lives.wait_for_page()
            # After so many answers were sent, wherever the server then is with the last: reading, writing, computing.
            enough = sum(person.n_tries for person in people) + rng.integers(0, MOST_TRIES + 1)
            wait_until(lambda enough=enough: sum(person.n_tries for person in people) >= enough, "answers are sent")
            time.sleep(rng.uniform(0, LONGEST_REQUEST_S))
            lives.kill()
        while lives._line() != "ended":
            pass
    lives.begin()
    lives.wait_for_page()
    for person in people:
        person.stop.set()
        person.join()
        assert person.error is None, person.error
    lives.kill()
    lives.close()
    with Project.open(values, threads=1) as opened:
        stored, rounds = opened.answers(), list(opened.rounds)
    assert stored, "no answer was confirmed between the kills"
    for person in people:
        mine = [(a.id, a.label, a.note) for a in stored if a.annotator == person.name]
        assert mine == person.confirmed, "an answer was lost, doubled or put in another order"
    assert len(stored) == sum(len(person.confirmed) for person in people)
    truth = ground_truth(pool, values, tmp_path / "results", len(rounds))
    assert [asked(record) for record in rounds] == [asked(record) for record in truth[: len(rounds)]]
    n_again = sum(person.n_again for person in people)
    print(
        f"{N_KILLS} kills, {n_before_page} of them before the page was there; {len(stored)} answers confirmed, "
        f"{n_again} sent again; {len(rounds)} rounds, equal to those of the ground truth"
    )
