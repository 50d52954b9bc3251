"""Queries to a real Label Studio and annotations back, by the hands of simulated annotators."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from al_ray.cli.app import app
from al_ray.errors import ConfigError, ExecutionError
from al_ray.project.exchange import Asked
from al_ray.project.label_studio import KEY_VARIABLE, LabelStudio
from al_ray.project.project import Project
from al_ray.project.state import Batch, Task
from tests.label_studio.conftest import RealServer
from tests.project.simulated import Pool, asked, ground_truth
from tests.project.trec import trec_pool, trec_project

N_ROUNDS = 4
CLASSES = ("a & b", "<x>", 'say "q"', "=cmd()", "Größe 好", "1", "NA", "a,b;c", "it's", "tab\there", "ten")


def al_ray(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(each) for each in arguments], env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def choice(label: str) -> list[dict[str, Any]]:
    return [{"type": "choices", "from_name": "label", "to_name": "text", "value": {"choices": [label]}}]


def batch_of(n: int, round_index: int = 0) -> Batch:
    tasks = [
        Task(id=7 * place, text=f"text {place} <b>&", prediction=CLASSES[place % len(CLASSES)], confidence=0.25,
             reason="r") for place in range(n)
    ]  # fmt: skip
    return Batch(id=f"1a2b3c4d/{round_index}", round_index=round_index, tasks=tuple(tasks))


def asked_of(batch: Batch, project: str) -> Asked:
    ids = {task.id for task in batch.tasks}
    return Asked(project=project, prefixes=frozenset({"1a2b3c4d"}), class_names=CLASSES, ids=ids)


def label_some(
    server: RealServer, number: int, pool: Pool, rng: np.random.Generator, skipped: set[int], n_left: int
) -> None:
    """Label some of the open tasks in any order, some after a skip; ``n_left`` stay without an answer."""
    client = server.client()
    tasks = list(client.tasks.list(project=number, fields="all"))
    open_ = [task for task in tasks if not task.annotations]
    chosen = [open_[place] for place in rng.permutation(len(open_))[: len(open_) - n_left]]
    for task in [task for task in tasks if task.id in skipped]:
        label = pool.class_names[pool.labels[task.data["al_id"]]]
        client.annotations.create(task.id, result=choice(label), lead_time=9.0)
    skipped.clear()
    for place, task in enumerate(chosen):
        if n_left and place % 4 == 0:
            client.annotations.create(task.id, result=[], was_cancelled=True, lead_time=1.5)
            skipped.add(task.id)
        else:
            label = pool.class_names[pool.labels[task.data["al_id"]]]
            client.annotations.create(task.id, result=choice(label), lead_time=float(rng.integers(1, 30)))


def test_trec_labelled_in_label_studio_gives_the_rounds_of_the_ground_truth(
    server: RealServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # as the study: with other threads, the last bits are others
    rng, skipped = np.random.default_rng(3), set[int]()
    pool = trec_pool(tmp_path, monkeypatch)
    values = trec_project(pool, tmp_path / "projects")
    project = tmp_path / "questions.yaml"
    project.write_text(yaml.safe_dump(values), encoding="utf-8")
    said = al_ray("ask", project, "--to", "label-studio", "--url", server.url, "--project", "new")
    number = int(re.search(r"/projects/(\d+)/", said)[1])  # type: ignore[index]
    place = ["--url", server.url, "--project", str(number)]
    for _ in range(N_ROUNDS):
        assert "0 tasks sent" in al_ray("ask", project, "--to", "label-studio", *place)
        for n_left in (3, 0):
            label_some(server, number, pool, rng, skipped, n_left)
            said = al_ray("tell", project, "--from", "label-studio", *place)
            again = al_ray("tell", project, "--from", "label-studio", *place)
            assert "recorded: 0 new answers" in again
            assert "changed" not in again
        assert "the round is answered" in said
        al_ray("ask", project, "--to", "label-studio", *place)
    with Project.open(values, write=False) as opened:
        rounds, answers = opened.rounds, opened.answers()
    assert {answer.annotator for answer in answers} == {server.mail}
    assert any(answer.label is None for answer in answers)
    assert all(answer.seconds for answer in answers)
    truth = ground_truth(pool, values, tmp_path / "results", N_ROUNDS)
    assert [asked(record) for record in rounds] == [asked(record) for record in truth[:N_ROUNDS]]


def test_classes_of_any_letters_are_made_annotated_and_fetched(server: RealServer) -> None:
    batch, client = batch_of(len(CLASSES)), server.client()
    studio = LabelStudio.connect(server.url)
    sent = studio.send(batch, None, project="letters", class_names=CLASSES)
    tasks = list(client.tasks.list(project=sent.project_id, fields="all"))
    assert {task.data["al_id"]: task.data["text"] for task in tasks} == {task.id: task.text for task in batch.tasks}
    for task in tasks:
        prediction = task.predictions[0]
        assert (prediction.model_version, prediction.score) == ("letters/1a2b3c4d/0", 0.25)
        client.annotations.create(task.id, result=prediction.result, lead_time=2.5)
    reading = studio.fetch(sent.project_id, asked_of(batch, "letters"))
    assert {answer.id: answer.label for answer in reading.answers} == {
        7 * place: place for place in range(len(CLASSES))
    }
    assert {answer.annotator for answer in reading.answers} == {server.mail}


def test_a_query_of_many_pages_is_sent_whole_and_once_also_after_a_send_that_broke_off(server: RealServer) -> None:
    batch, studio = batch_of(450), LabelStudio.connect(server.url)
    begun = Batch(id=batch.id, round_index=0, tasks=batch.tasks[:130])
    number = studio.send(begun, None, project="pages", class_names=CLASSES).project_id
    sent = studio.send(batch, number, project="pages", class_names=CLASSES)
    assert (sent.n_sent, sent.n_there) == (320, 130)
    assert studio.send(batch, number, project="pages", class_names=CLASSES).n_sent == 0
    client = server.client()
    ids = [task.data["al_id"] for task in client.tasks.list(project=number)]
    assert sorted(ids) == [task.id for task in batch.tasks]
    last = next(task for task in client.tasks.list(project=number) if task.data["al_id"] == 7 * 449)
    client.annotations.create(last.id, result=choice("ten"), lead_time=1.0)
    reading = studio.fetch(number, asked_of(batch, "pages"))
    assert [(answer.id, answer.label) for answer in reading.answers] == [(7 * 449, CLASSES.index("ten"))]
    assert reading.n_open == 449


def test_a_changed_annotation_is_fetched_as_it_is_now(server: RealServer) -> None:
    batch, studio, client = batch_of(1), LabelStudio.connect(server.url), server.client()
    number = studio.send(batch, None, project="minds", class_names=CLASSES).project_id
    (task,) = client.tasks.list(project=number)
    annotation = client.annotations.create(task.id, result=choice("NA"), lead_time=1.0)
    client.annotations.update(annotation.id, result=choice("1"))
    (answer,) = studio.fetch(number, asked_of(batch, "minds")).answers
    assert answer.label == CLASSES.index("1")


def test_what_the_real_server_refuses_is_said_without_secrets(
    server: RealServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = batch_of(1)
    studio = LabelStudio.connect(server.url)
    with pytest.raises(ExecutionError, match="has no such project") as caught:
        studio.send(batch, 999_999, project="none", class_names=CLASSES)
    assert server.key not in str(caught.value)
    number = studio.send(batch, None, project="own", class_names=CLASSES).project_id
    with pytest.raises(ConfigError, match=r"lacks \['other'\] and has"):
        studio.send(batch, number, project="own", class_names=["1", "other"])
    monkeypatch.setenv(KEY_VARIABLE, "0123456789abcdef" * 2 + "01234567")
    with pytest.raises(ExecutionError, match="does not take the key") as caught:
        LabelStudio.connect(server.url).fetch(number, asked_of(batch, "own"))
    assert "0123456789abcdef" not in str(caught.value)
    with pytest.raises(ExecutionError, match=r"cannot be reached: .*refused.* Start it, or mend --url"):
        LabelStudio.connect("http://127.0.0.1:1").fetch(number, asked_of(batch, "own"))
    with pytest.raises(ExecutionError, match=r"does not answer as|has no such project"):
        LabelStudio.connect(f"{server.url}/static").fetch(number, asked_of(batch, "own"))
