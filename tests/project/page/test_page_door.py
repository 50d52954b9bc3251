"""An annotator who labels on the page, in a real browser and through kills, gets the rounds of the ground truth."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from al_ray.project.project import Project
from tests.browser import Browser
from tests.project.simulated import asked, ground_truth
from tests.project.trec import trec_pool, trec_project
from tests.waiting import wait_until

ROOT = Path(__file__).parents[3]
N_ROUNDS = 4


def started(project: Path) -> tuple["subprocess.Popen[str]", str]:
    """Start ``al-ray label`` as a person does, and return the address that it prints."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.project.page.one_thread", "label", str(project), "--no-browser"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    said: list[str] = []
    for line in process.stdout:
        said.append(line)
        if line.startswith("http://127.0.0.1:"):
            return process, line.strip()
    raise AssertionError("".join(said))


def look(browser: Browser) -> dict[str, Any]:
    """Return what the page shows and holds."""
    return json.loads(
        browser.evaluate(
            "JSON.stringify({id: document.getElementById('text').dataset.id ?? null, unsaved: state.outbox.length,"
            " round: state.status ? state.status.round_index : -1, text: document.getElementById('text').textContent})"
        )
        or '{"id": null, "unsaved": 0, "round": -1}'
    )


def test_trec_labelled_on_the_page_gives_the_rounds_of_the_ground_truth(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # as the server here: with other threads, the last bits are others
    rng = np.random.default_rng(11)
    pool = trec_pool(tmp_path, monkeypatch)
    values = trec_project(pool, tmp_path / "projects")
    project = tmp_path / "questions.yaml"
    project.write_text(yaml.safe_dump(values), encoding="utf-8")
    kill_at, reload_at = set(rng.choice(range(2, 40), 3, replace=False).tolist()), {7, 21}
    n_answers = n_kills = 0
    process, address = started(project)
    try:
        browser.open(address)
        browser.wait_for("document.getElementById('name-dialog').open")
        browser.type("ada")
        browser.press("Enter")
        while True:
            wait_until(lambda: look(browser)["id"] is not None or look(browser)["round"] >= N_ROUNDS, "a text", process)
            seen = look(browser)
            if seen["round"] >= N_ROUNDS:
                break
            key = "s" if rng.random() < 0.15 else str(pool.labels[int(seen["id"])] + 1)
            browser.press(key)
            n_answers += key != "s"
            if n_answers in kill_at:  # right after the key: confirmed or not
                kill_at.discard(n_answers)
                process.send_signal(signal.SIGKILL)
                process.wait()
                n_kills += 1
                process, address = started(project)
                browser.evaluate("state.outbox.length = 0")  # else the page asks whether to leave what is not saved
                browser.open(address)
                continue
            wait_until(lambda: look(browser)["unsaved"] == 0, "the confirmation", process)
            if n_answers in reload_at:
                reload_at.discard(n_answers)
                browser.open(address)
        browser.picture("page-trec")
        process.send_signal(signal.SIGINT)
        said = process.communicate()[0]
        assert process.returncode == 0, said
        assert "answers in all" in said
        assert f"go on with: al-ray label {project}" in said
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    with Project.open(values, write=False) as opened:
        rounds, answers = opened.rounds, opened.answers()
    assert n_kills == 3
    ids = [answer.id for answer in answers]
    assert len(ids) == len(set(ids)), "an answer is there twice"
    assert all(answer.source == "page" and answer.annotator == "ada" for answer in answers)
    truth = ground_truth(pool, values, tmp_path / "results", N_ROUNDS)
    assert [asked(record) for record in rounds[:N_ROUNDS]] == [asked(record) for record in truth[:N_ROUNDS]]
