"""The page in a real browser: by keyboard, by screen reader, on a telephone, in the dark, and when things go wrong."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from al_ray.errors import StorageError
from al_ray.project.desk import Desk
from al_ray.project.page.server import PageServer
from tests.browser import Browser
from tests.project.page.fake_project import FakeProject
from tests.project.page.serving import client_of, serving
from tests.waiting import wait_until

EVIL = "<script>document.title='hit'</script><img src=x onerror=\"document.title='hit'\">\x1b[2J\u202egnp.exe"
HEBREW = "שלום עולם, this is (mixed)"


def ticket(i: int) -> str:
    return f"Ticket {i}: the invoice of Monday charges us twice for the same seats. Whom do we have to ask?"


@contextmanager
def labelling(browser: Browser, project: FakeProject, annotator: str = "Ada") -> Iterator[PageServer]:
    """Open the page of a project, and say who one is."""
    with serving(Desk(project)) as server:
        browser.open(server.address)
        browser.wait_for("document.getElementById('name-dialog').open")
        browser.type(annotator)
        browser.press("Enter")
        browser.wait_for("!document.getElementById('reading').hidden")
        yield server


def shows(browser: Browser, text: str) -> None:
    browser.wait_for(f"document.getElementById('text').textContent.startsWith({json.dumps(text)})")


def says(browser: Browser, element: str, text: str) -> None:
    browser.wait_for(f"document.getElementById({json.dumps(element)}).textContent.includes({json.dumps(text)})")


def confirmed(project: FakeProject, n: int) -> None:
    wait_until(lambda: len(project.told) == n, f"{n} answers")


def test_a_batch_is_labelled_by_keyboard_alone(browser: Browser) -> None:
    project = FakeProject([ticket(i) for i in range(12)])
    with labelling(browser, project):
        assert browser.evaluate("location.search") == ""  # the token has left the address
        shows(browser, "Ticket 0:")
        says(browser, "place", "Text 1 of 4")
        browser.picture("page-first-text")
        browser.press("2")
        shows(browser, "Ticket 1:")
        browser.press("s")
        shows(browser, "Ticket 2:")
        browser.press("u")
        shows(browser, "Ticket 3:")
        browser.press("n")
        browser.type("who 123 knows")
        browser.press("Enter", "1")
        shows(browser, "Ticket 1:")
        says(browser, "place", "Skipped before")
        browser.press("/")
        browser.type("oth")
        browser.press("Enter")
        shows(browser, "Ticket 4:")
        confirmed(project, 4)
        assert [(a.id, a.label, a.note) for a in project.told] == [
            (0, 1, ""),
            (2, None, ""),
            (3, 0, "who 123 knows"),
            (1, 2, ""),
        ]
        assert all(a.annotator == "Ada" and a.source == "page" and a.seconds is not None for a in project.told)
        says(browser, "accuracy", "79 %")
        browser.picture("page-second-batch")


def test_an_earlier_answer_is_looked_at_and_changed(browser: Browser) -> None:
    project = FakeProject([ticket(i) for i in range(12)])
    with labelling(browser, project):
        for i in range(2):
            browser.press("1")
            shows(browser, f"Ticket {i + 1}:")
        confirmed(project, 2)
        browser.wait_for("document.getElementById('saved').textContent.startsWith('Saved')")
        browser.press("b")
        shows(browser, "Ticket 1:")
        says(browser, "suggestion", "You said: billing")
        assert browser.evaluate(
            "document.querySelector('#classes button[aria-pressed=true]').innerText.includes('billing')"
        )
        browser.picture("page-back")
        browser.press("Backspace")
        shows(browser, "Ticket 0:")
        browser.press("Backspace")
        says(browser, "saved", "That was your first answer")
        browser.press("3")
        shows(browser, "Ticket 2:")
        confirmed(project, 3)
        assert [(a.id, a.label) for a in project.told] == [(0, 0), (1, 0), (0, 2)]
        browser.wait_for("document.getElementById('saved').textContent.startsWith('Saved')")
        browser.press("b")
        shows(browser, "Ticket 0:")
        browser.press("Escape")
        shows(browser, "Ticket 2:")
        assert len(project.told) == 3


def test_the_suggestion_is_hidden_until_it_is_asked_for_and_stays_as_it_was_left(browser: Browser) -> None:
    project = FakeProject([ticket(i) for i in range(12)])
    with labelling(browser, project) as server:
        for i in range(4):
            browser.press("1")
            shows(browser, f"Ticket {i + 1}:")
        browser.wait_for("!document.getElementById('hint').hidden")
        assert "suggests" not in browser.evaluate("document.body.innerText")
        assert "near call" not in browser.evaluate("document.body.innerText")  # the reason tells it as well
        browser.press("h")
        says(browser, "suggestion", "The model suggests bug (60 %)")
        says(browser, "reason", "near call")
        browser.open(server.address)
        says(browser, "suggestion", "The model suggests bug (60 %)")
        browser.press("h")
        browser.wait_for("document.getElementById('suggestion').textContent === ''")


def test_harmful_texts_are_shown_and_not_obeyed(browser: Browser) -> None:
    project = FakeProject([EVIL, HEBREW, "x" * 100_000, "a\r\n\tb\x00\ufeff\ud800c"], class_names=(EVIL, "=cmd()", "c"))
    with labelling(browser, project, "<b>Eve</b>"):
        shows(browser, "<script>document.title='hit'</script><img src=x")
        assert "⟦U+001B⟧[2J⟦U+202E⟧gnp.exe" in browser.evaluate("document.getElementById('text').textContent")
        assert browser.evaluate("document.title") == "Label: fake"
        assert browser.evaluate("document.querySelectorAll('main img, main script, header b').length") == 0
        assert browser.evaluate("document.getElementById('who').textContent") == "<b>Eve</b>"
        browser.picture("page-harmful")
        browser.press("2")
        shows(browser, HEBREW)
        assert browser.evaluate("getComputedStyle(document.getElementById('text')).direction") == "rtl"
        assert browser.evaluate("getComputedStyle(document.getElementById('text')).unicodeBidi") == "isolate"
        assert browser.evaluate("getComputedStyle(document.body).direction") == "ltr"
        browser.press("2")
        shows(browser, "xxxx")
        box = browser.evaluate("(e => [e.scrollHeight, e.clientHeight, innerHeight])(document.getElementById('text'))")
        assert box[0] > 3 * box[1]
        assert box[1] < box[2]
        browser.press(" ")
        browser.wait_for("document.getElementById('text').scrollTop > 100")
        browser.press("2")
        shows(browser, "a\n\tb⟦U+0000⟧⟦U+FEFF⟧⟦U+D800⟧c")
        browser.press("1")
        confirmed(project, 4)
        assert browser.evaluate("document.title") == "Label: fake"


def test_what_is_not_saved_is_said_and_sent_again(browser: Browser) -> None:
    project = FakeProject([ticket(i) for i in range(12)])
    with labelling(browser, project):
        project.refuses = StorageError("the disk is full")
        browser.press("1")
        shows(browser, "Ticket 1:")  # it goes on with what is here
        says(browser, "saved", "1 answer not saved yet")
        says(browser, "trouble", "the disk is full")
        browser.press("2")
        shows(browser, "Ticket 2:")
        says(browser, "saved", "2 answers not saved yet")
        browser.picture("page-not-saved")
        assert project.told == []
        project.refuses = None
        confirmed(project, 2)
        says(browser, "saved", "Saved: bug")
        assert [(a.id, a.label) for a in project.told] == [(0, 0), (1, 1)]


def test_a_lost_connection_loses_and_doubles_nothing(browser: Browser) -> None:
    project = FakeProject([ticket(i) for i in range(12)])
    with labelling(browser, project):
        browser.offline(True)
        try:
            browser.press("1")
            shows(browser, "Ticket 1:")
            browser.press("3")
            says(browser, "saved", "2 answers not saved yet")
            assert project.told == []
        finally:
            browser.offline(False)
        confirmed(project, 2)
        says(browser, "saved", "Saved: other")
        assert [(a.id, a.label) for a in project.told] == [(0, 0), (1, 2)]


def test_two_people_label_different_texts(browser: Browser) -> None:
    project = FakeProject([ticket(i) for i in range(12)])
    with labelling(browser, project) as server:
        shows(browser, "Ticket 0:")
        other = client_of(server, "bob")
        assert [task["id"] for task in other.next()["tasks"]] == [3]
        for key, text in (("1", "Ticket 1:"), ("1", "Ticket 2:")):
            browser.press(key)
            shows(browser, text)
        browser.press("1")
        says(browser, "pause-title", "The rest of this batch is with others")
        says(browser, "pause-text", "bob: 1")
        browser.picture("page-waiting")
        assert other.answer(3, "bug").status == 200
        browser.wait_for("/^Ticket [4-7]:/.test(document.getElementById('text').textContent)")


def test_while_the_next_texts_are_chosen_it_says_so_and_texts_to_measure_by_come(browser: Browser) -> None:
    project = FakeProject([ticket(i) for i in range(12)], n_ahead=4)
    with labelling(browser, project):
        project.gate.clear()
        for _ in range(4):
            browser.wait_for("!document.getElementById('reading').hidden")
            browser.press("1")
        says(browser, "pause-title", "The next texts are being chosen")
        says(browser, "pause-text", "Fitting the model")
        browser.picture("page-computing")
        shows(browser, "Ticket 8:")
        says(browser, "reason", "to measure the model")
        project.gate.set()
        browser.press("2")
        browser.wait_for("/Ticket (9|4):/.test(document.getElementById('text').textContent)")


def test_a_failure_to_choose_is_said_and_tried_again(browser: Browser) -> None:
    project = FakeProject([ticket(i) for i in range(12)])
    with labelling(browser, project):
        project.failure = StorageError("the disk is full. Make room")
        for _ in range(4):
            browser.wait_for("!document.getElementById('reading').hidden")
            browser.press("1")
        says(browser, "pause-text", "the disk is full. Make room Your answers are saved.")
        project.failure = None
        browser.evaluate("document.getElementById('again').click()")
        shows(browser, "Ticket 4:")


def test_many_classes_are_found_by_typing(browser: Browser) -> None:
    names = [f"class {i:02d}" for i in range(60)]
    project = FakeProject([ticket(i) for i in range(12)], class_names=names)
    with labelling(browser, project):
        assert browser.evaluate("document.querySelectorAll('#classes button').length") == 9
        browser.press("/")
        browser.type("4")
        assert browser.evaluate("document.getElementById('find').getAttribute('aria-expanded')") == "true"
        active = (
            "document.getElementById(document.getElementById('find').getAttribute('aria-activedescendant')).textContent"
        )
        assert browser.evaluate(active) == "class 04"
        browser.press("ArrowDown", "ArrowDown", "ArrowDown")
        assert browser.evaluate(active) == "class 34"
        browser.picture("page-find")
        browser.press("ArrowUp", "Enter")
        shows(browser, "Ticket 1:")
        confirmed(project, 1)
        assert names[project.told[0].label or 0] == "class 24"
        browser.press("/")
        browser.type("zz")
        browser.press("Enter")
        says(browser, "found", "No class has that in its name")
        browser.press("Escape", "3")
        confirmed(project, 2)
        assert project.told[1].label == 2


def test_keys_do_nothing_behind_a_dialog_and_can_be_turned_off(browser: Browser) -> None:
    project = FakeProject([ticket(i) for i in range(12)])
    with labelling(browser, project) as server:
        browser.press("?")
        browser.wait_for("document.getElementById('help-dialog').open")
        browser.picture("page-keys")
        browser.press("1", "s", "u")
        browser.evaluate("document.getElementById('keys-on').click()")
        browser.press("Escape")
        browser.wait_for("!document.getElementById('help-dialog').open")
        browser.press("1", "u")
        shows(browser, "Ticket 0:")
        browser.evaluate("document.querySelector('#classes button').click()")
        shows(browser, "Ticket 1:")
        confirmed(project, 1)
        assert client_of(server).get("/api/status").json["n_open"] == 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_telephone(browser: Browser, scheme: str) -> None:
    long = "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichen" * 5
    project = FakeProject([long, *(ticket(i) for i in range(11))], class_names=("billing", long, "other", *"abcdefgh"))
    browser.resize(360, 740)
    browser.prefer(color_scheme=scheme)
    with labelling(browser, project, "Ada with quite a long name of hers"):
        for _ in range(4):
            browser.wait_for("!document.getElementById('reading').hidden")
            assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
            browser.press("1")
        says(browser, "accuracy", "79 %")
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
        small = (
            "[...document.querySelectorAll('#classes button, .actions button')]"
            ".filter(b => b.offsetParent && (b.offsetHeight < 44 || b.offsetWidth < 44)).length"
        )
        assert browser.evaluate(small) == 0
        browser.picture(f"page-telephone-{scheme}")


def test_a_screen_reader_finds_a_name_for_everything(browser: Browser) -> None:
    project = FakeProject([ticket(i) for i in range(12)], class_names=("billing", "bug", "other", *"abcdefgh"))
    with labelling(browser, project):
        for _ in range(4):
            browser.wait_for("!document.getElementById('reading').hidden")
            browser.press("1")
        shows(browser, "Ticket 4:")
        says(browser, "accuracy", "79 %")
        browser.press("n")
        told = browser.accessible()
        controls = {
            "button",
            "textbox",
            "combobox",
            "checkbox",
            "link",
            "progressbar",
            "progressIndicator",
            "region",
            "image",
            "listbox",
        }
        assert [role for role, name in told if role in controls and not name.strip()] == []
        roles = {role for role, _ in told}
        assert {"main", "complementary", "heading", "button", "combobox", "textbox", "table", "status"} <= roles
        assert ("region", "Text to label") in told
        assert any(name.startswith("Learning curve: from 52 % at 8 labels to 79 % at 28") for _, name in told)
        assert browser.evaluate("document.getElementById('text').getAttribute('aria-live')") == "polite"
        levels = browser.evaluate("[...document.querySelectorAll('h1,h2')].map(h => h.tagName).join()")
        assert levels.startswith("H1,H2")
        assert browser.evaluate("document.documentElement.lang") == "en"
        browser.press("Escape")


def test_every_control_is_reached_by_tab_and_shows_the_focus(browser: Browser) -> None:
    project = FakeProject([ticket(i) for i in range(12)])
    with labelling(browser, project):
        seen: list[str] = []
        for _ in range(30):
            browser.press("Tab")
            seen.append(browser.evaluate("document.activeElement.id || document.activeElement.textContent"))
            shown = browser.evaluate("(s => s.outlineStyle + s.outlineWidth)(getComputedStyle(document.activeElement))")
            if seen[-1] and browser.evaluate("document.activeElement !== document.body"):
                assert shown == "solid3px", seen[-1]
        assert {"who", "help", "text", "unsure", "skip", "back", "add-note"} <= set(seen)
        assert {"1billing", "2bug", "3other"} <= set(seen)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_can_be_told_apart(browser: Browser, scheme: str) -> None:
    browser.prefer(color_scheme=scheme)
    with labelling(browser, FakeProject([ticket(0)])):
        colours = {name: _luminance(browser, name) for name in _TEXTS | _EDGES for name in name}
    for text, ground in _TEXTS:
        assert _contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for edge, ground in _EDGES:
        assert _contrast(colours[edge], colours[ground]) >= 3, (edge, ground)


_TEXTS = {
    ("ink", "bg"), ("ink", "card"), ("ink", "chosen"), ("quiet", "bg"), ("quiet", "card"), ("accent", "bg"),
    ("quiet", "chosen"), ("accent", "chosen"), ("on-accent", "accent"), ("good", "bg"), ("bad", "bg"),
    ("bad", "bad-bg"),
}  # fmt: skip
_EDGES = {("edge", "bg"), ("edge", "card"), ("bar", "bg"), ("bar", "line"), ("accent", "bg")}


def _luminance(browser: Browser, name: str) -> float:
    value: Any = browser.evaluate(f"getComputedStyle(document.documentElement).getPropertyValue('--{name}')")
    assert re.fullmatch(r"#[0-9a-f]{6}", value.strip()), (name, value)
    channels = [int(value.strip()[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


def test_who_prefers_it_gets_no_motion(browser: Browser) -> None:
    browser.prefer(reduced_motion="reduce")
    with labelling(browser, FakeProject([ticket(0)])):
        assert browser.evaluate("getComputedStyle(document.getElementById('batch-bar')).transitionDuration") in (
            "0s",
            "",
        )
        assert browser.evaluate("getComputedStyle(document.getElementById('pause-bar')).animationName") == "none"
