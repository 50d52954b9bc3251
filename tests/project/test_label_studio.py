"""The Label Studio connector, against a server in memory; ``tests/label_studio`` has the real one."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from al_ray.cli.project import ask, tell
from al_ray.errors import ConfigError
from al_ray.project.label_studio import KEY_VARIABLE, check_config, labelling_config
from al_ray.project.project import Project
from tests.project.label_studio_fakes import Server
from tests.project.simulated import Pool

KEY = "sesame-open-0123456789"
URL = "http://127.0.0.1:8080"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    """Put a server in memory where the SDK would be."""
    server = Server(key=KEY)
    monkeypatch.setitem(sys.modules, "label_studio_sdk", server.sdk())
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    return server


@pytest.fixture
def values(project: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return project()


@pytest.fixture
def al_ray(
    tmp_path: Path, values: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Return a function that asks or tells by Label Studio and gives exit code and output."""
    file = tmp_path / "tickets.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")

    def invoke(command: Callable[..., None], number: str) -> tuple[int, str]:
        where = {"to": "label-studio"} if command is ask else {"from_": "label-studio"}
        code = 0
        try:
            command(str(file), url=URL, number=number, **where)
        except Exception as exit_:
            code = getattr(exit_, "exit_code", -1)
        return code, capsys.readouterr().out

    return invoke


def test_a_query_is_sent_once_and_its_annotations_come_back(
    server: Server, pool: Pool, values: dict[str, Any], al_ray: Callable[..., tuple[int, str]]
) -> None:
    code, said = al_ray(ask, "new")
    assert code == 0
    assert f"Label Studio: 10 tasks sent: {URL}/projects/1/\n" in said
    assert f"--from label-studio --url {URL} --project 1\n" in said
    assert "10 there already" in al_ray(ask, "1")[1]
    tasks = server.tasks[1]
    assert len(tasks) == 10
    assert {task["data"]["al_project"] for task in tasks} == {"tickets"}
    names = pool.class_names
    for task in tasks[:6]:
        server.annotate(task, names[pool.labels[task["data"]["al_id"]]])
    server.annotate(tasks[5], names[0], by=2, seconds=None)
    server.annotate(tasks[6], None)
    said = al_ray(tell, "1")[1]
    assert "recorded: 7 new answers, 1 changed or by another annotator, 3 without a label\n" in said
    assert "round 0: 3 of 10 texts to go\n" in said
    assert "recorded: 0 new answers, 8 known already, 3 without a label\n" in al_ray(tell, "1")[1]
    with Project.open(values, write=False) as opened:
        answers = {(each.id, each.annotator): each for each in opened.answers()}
    skipped = answers[tasks[6]["data"]["al_id"], "ada@example.org"]
    assert (skipped.label, skipped.source, skipped.seconds) == (None, "label_studio", 3.5)
    assert answers[tasks[5]["data"]["al_id"], "user 2"].label == 0
    for task in tasks[7:]:
        server.annotate(task, names[pool.labels[task["data"]["al_id"]]])
    said = al_ray(tell, "1")[1]
    assert "next:    al-ray ask" in said
    assert f"--to label-studio --url {URL} --project 1\n" in said
    assert "6 texts to learn from" in al_ray(ask, "1")[1]
    sent = server.tasks[1][10:]
    assert len(sent) == 8
    predictions = [task["predictions"][0] for task in sent if task["predictions"]]
    assert len(predictions) == 6  # what measures the model goes without what it believes
    assert predictions[0]["model_version"].startswith("tickets/")
    assert predictions[0]["model_version"].endswith("/1")
    assert 0 < predictions[0]["score"] <= 1
    assert predictions[0]["result"][0]["value"]["choices"][0] in names


def test_what_was_answered_elsewhere_is_not_sent(
    server: Server, pool: Pool, values: dict[str, Any], al_ray: Callable[..., tuple[int, str]]
) -> None:
    with Project.open(values) as opened:
        batch = opened.batch()
        assert batch is not None
        opened.tell(pool.answers(batch.tasks[:4]))
    al_ray(ask, "new")
    assert [task["data"]["al_id"] for task in server.tasks[1]] == [task.id for task in batch.tasks[4:]]


def test_tasks_of_others_are_left_alone(server: Server, al_ray: Callable[..., tuple[int, str]]) -> None:
    al_ray(ask, "new")
    server.tasks[1].append({"id": 99, "data": {"text": "theirs"}, "annotations": []})
    server.annotate(server.tasks[1][-1], "their class")
    assert "1 task of other projects or methods left alone" in al_ray(tell, "1")[1]
    assert "10 there already" in al_ray(ask, "1")[1]


@pytest.mark.parametrize(
    ("number", "key", "message"),
    [
        ("1", "wrong-key-0123456789", "Label Studio at http://127.0.0.1:8080 does not take the key."),
        ("7", KEY, "has no such project. Look at the number in its address"),
        ("1", "", "LABEL_STUDIO_API_KEY is not set. Put an access token"),
    ],
)
def test_what_the_server_refuses_is_said_without_secrets(
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    al_ray: Callable[..., tuple[int, str]],
    number: str,
    key: str,
    message: str,
) -> None:
    al_ray(ask, "new")
    monkeypatch.setenv(KEY_VARIABLE, key)
    for command in (ask, tell):
        code, said = al_ray(command, number)
        assert code == 1
        assert message in said
        assert "sesame" not in said
        assert "wrong-key" not in said


def test_a_missing_sdk_says_how_to_install_it(
    server: Server, monkeypatch: pytest.MonkeyPatch, al_ray: Callable[..., tuple[int, str]]
) -> None:
    monkeypatch.setitem(sys.modules, "label_studio_sdk", None)
    code, said = al_ray(ask, "new")
    assert code == 1
    assert "label-studio-sdk is not installed. Install it with: pip install 'al-ray[label-studio]'" in said


@pytest.mark.parametrize(
    "names",
    [("billing", "bug"), ("a\nb", "a b", "<&'\">"), tuple(f"class {place}" for place in range(30)), (" x ", "x\ty")],
)
def test_the_configuration_that_is_made_fits(names: tuple[str, ...]) -> None:
    check_config(labelling_config(names), names, "here")


def test_the_first_nine_classes_are_on_the_digits() -> None:
    config = labelling_config([f"class {place}" for place in range(12)])
    assert [f'value="class {place - 1}" hotkey="{place}"' in config for place in range(1, 10)] == [True] * 9
    assert config.count("hotkey") == 9


def test_a_class_that_xml_cannot_hold_is_named() -> None:
    with pytest.raises(ConfigError, match=r"class 'a\\x0bb' has the character '\\x0b', which Label Studio cannot hold"):
        labelling_config(["a\vb", "c"])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("<View>", "no labelling configuration that is XML"),
        ('<View><Text name="text" value="$body"/></View>', "has other labels than al_ray sends"),
        (labelling_config(["bug", "bill"]), r"lacks \['other'\] and has \['bill'\], which the project has not"),
    ],
)
def test_a_project_with_other_labels_is_refused(config: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_config(config, ["bug", "other"], "here")


def test_nothing_is_sent_to_a_project_with_other_labels(server: Server, al_ray: Callable[..., tuple[int, str]]) -> None:
    server.configs[1], server.tasks[1] = labelling_config(["other", "classes"]), []
    code, said = al_ray(ask, "1")
    assert code == 1
    assert "Give both the same classes, or use --project new." in said
    assert server.tasks[1] == []
