"""Names, classes and messages from somebody else's records, shown on a page and in a terminal."""

import io
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from al_ray.terminal import PlainConsole, make_console
from tests.trust.conftest import Finished, al_ray, edit_json

EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script>\"'&{{7*7}}${7*7}"
CONTROL = "\x1b]0;title\x07\x1b[2J\x9b31m\u202egnp\r\b"
MARKUP = "[/x][link=file:///etc]:skull: [red]"
HOSTILE = f"{EVIL}{MARKUP}{CONTROL}"


class Page(HTMLParser):
    """Collects what a browser would act on."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.handlers: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src", "action")]


@pytest.fixture
def hostile(copied: Finished) -> Finished:
    """Return records whose every free text is hostile."""

    def plan(content: dict) -> dict:
        for cell in content["cells"]:
            cell |= {"dataset": HOSTILE, "model": HOSTILE, "method": f"softmax + {HOSTILE}", "variant": HOSTILE}
        note = next(iter(content["datasets"].values()))
        n_classes = len(note["class_names"])
        note |= {"class_names": [f"{HOSTILE}{i}" for i in range(n_classes)], "source": HOSTILE}
        note["group_counts"] = {f"{HOSTILE}{name}": n for name, n in (note["group_counts"] or {}).items()}
        return {**content, "datasets": {HOSTILE: note, **content["datasets"]}}

    edit_json(copied.folder / "plan.json", plan)
    for path in copied.folder.rglob("provenance.json"):
        edit_json(path, lambda runs: [{**run, "torch": HOSTILE, "data": HOSTILE, "host": HOSTILE} for run in runs])
    for path in copied.folder.rglob("failed.json"):
        edit_json(path, lambda failed: {**failed, "reason": {"error": HOSTILE, "message": HOSTILE, "log": HOSTILE}})
    return copied


def test_a_page_acts_on_nothing_that_the_records_say(hostile: Finished, tmp_path: Path) -> None:
    plain = hostile.file.read_text(encoding="utf-8")
    file = tmp_path / "tiny.yaml"
    file.write_text(plain + json.dumps({"description": HOSTILE})[1:-1] + "\n", encoding="utf-8")
    outcome = al_ray("report", file, "--storage", hostile.storage, "--tracking", "off")
    assert outcome.code == 0, outcome.text
    text = (hostile.folder / "report" / "report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert "img" not in page.tags
    assert page.tags.count("script") <= 1
    assert page.handlers == []
    assert [address for address in page.addresses if ":" in address] == []
    assert "<script>alert" not in text
    assert "{{7*7}}" in text
    assert "alert(1)" in text  # shown, as text
    assert not {"\x1b", "\x07", "\x08"} & set(text)


@pytest.mark.parametrize("command", ["report", "watch", "run"])
def test_a_terminal_acts_on_nothing_that_the_records_say(hostile: Finished, command: str) -> None:
    more = {"report": ("--tracking", "off"), "watch": ("--once",), "run": ("--plan",)}[command]
    outcome = al_ray(command, hostile.file, "--storage", hostile.storage, *more)
    assert outcome.code == 0, outcome.text
    assert not {"\x1b", "\x07", "\x08", "\x9b", "\u202e", "\r"} & set(outcome.text)


def test_a_failure_is_shown_as_it_was_written(hostile: Finished) -> None:
    outcome = al_ray("watch", hostile.file, "--storage", hostile.storage, "--once")
    assert MARKUP in outcome.text


def test_our_own_colours_still_reach_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    console = make_console()
    assert isinstance(console, PlainConsole)
    console.file = io.StringIO()
    table = Table("a")
    table.add_row(Text(f"good {CONTROL}", style="red"))
    console.print(table)
    written = console.file.getvalue()
    assert "\x1b[31m" in written
    assert "\x1b]0" not in written
    assert "\x1b[2J" not in written
    assert "\u202e" not in written


def test_a_lone_surrogate_can_be_printed() -> None:
    console = PlainConsole(80)
    console.file = io.StringIO()
    console.print("a\ud800b")
    assert console.file.getvalue() == "a\ufffdb\n"
