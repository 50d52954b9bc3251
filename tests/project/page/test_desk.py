"""The desk: who gets which text, and what of an answer is there when anything goes wrong."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from al_ray.errors import DataError, StorageError
from al_ray.project.desk import Desk
from tests.project.page.fake_project import FakeProject
from tests.waiting import wait_until


class Clock:
    """A clock that only a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opened(clock: Clock) -> Callable[..., tuple[FakeProject, Desk]]:
    """Return a function that opens a desk, whose first query is there already."""

    def make(n: int = 12, **options: Any) -> tuple[FakeProject, Desk]:
        project = FakeProject([f"text {i}" for i in range(n)], **options)
        project.batch()
        return project, Desk(project, clock=clock, reserved_s=600.0, patience_s=1.5)

    return make


def ids(desk: Desk, annotator: str, n: int = 1) -> list[int]:
    return [task.id for task in desk.hand_out(annotator, n).tasks]


def say(desk: Desk, annotator: str, id_: int, name: str | None = "bug", submission: str | None = None) -> None:
    desk.answer(annotator, id_, name, submission=submission or f"{annotator}-{id_}-{name}")


def settled(desk: Desk) -> None:
    wait_until(lambda: not desk.is_computing, "the next query")


def test_two_annotators_get_different_texts_and_the_same_ones_when_they_ask_again(opened: Any) -> None:
    _, desk = opened()
    assert ids(desk, "ada", 2) == [0, 1]
    assert ids(desk, "bob", 2) == [2, 3]
    assert ids(desk, "ada", 2) == [0, 1]
    say(desk, "ada", 0)
    assert ids(desk, "ada", 2) == [1]
    assert desk.hand_out("eve", 1).state == "waiting"
    assert desk.hand_out("eve", 1).with_others == {"ada": 1, "bob": 2}


def test_a_reservation_ends_when_its_annotator_gives_no_sign_of_life(opened: Any, clock: Clock) -> None:
    _, desk = opened()
    ids(desk, "ada", 4)
    clock.now += 599
    assert ids(desk, "bob") == []
    clock.now += 2
    assert ids(desk, "bob", 2) == [0, 1]
    assert ids(desk, "ada", 4) == [2, 3]
    say(desk, "ada", 0)  # still on her screen; it counts beside what bob will say
    assert ids(desk, "bob") == [1]


def test_an_answer_renews_a_reservation(opened: Any, clock: Clock) -> None:
    _, desk = opened()
    ids(desk, "ada", 4)
    clock.now += 500
    say(desk, "ada", 0)
    clock.now += 500
    assert ids(desk, "bob", 4) == []


def test_a_skipped_text_comes_last_for_its_annotator_and_is_free_for_others(opened: Any) -> None:
    _, desk = opened()
    assert ids(desk, "ada", 1) == [0]
    desk.skip("ada", 0)
    assert ids(desk, "ada", 1) == [1]
    desk.skip("ada", 1)
    assert ids(desk, "bob", 1) == [0]
    for id_ in (2, 3):
        assert ids(desk, "ada", 1) == [id_]
        say(desk, "ada", id_)
    hand = desk.hand_out("ada", 2)
    assert [task.id for task in hand.tasks] == [1]
    assert hand.again == {1}
    desk.skip("ada", 1)
    assert ids(desk, "ada", 1) == [1]  # nothing else is left


def test_an_answer_that_is_sent_again_is_recorded_once(opened: Any) -> None:
    project, desk = opened()
    for _ in range(3):
        say(desk, "ada", 0, submission="one and the same")
    say(desk, "ada", 0, "other")
    assert [(a.id, a.label, a.annotator, a.source) for a in project.told] == [
        (0, 1, "ada", "page"),
        (0, 2, "ada", "page"),
    ]


def test_an_answer_that_cannot_be_written_stays_in_the_hand_and_can_be_sent_again(opened: Any) -> None:
    project, desk = opened()
    assert ids(desk, "ada") == [0]
    project.refuses = StorageError("the disk is full")
    with pytest.raises(StorageError, match="the disk is full"):
        say(desk, "ada", 0, submission="first")
    assert ids(desk, "ada") == [0]
    project.refuses = None
    say(desk, "ada", 0, submission="first")
    assert len(project.told) == 1
    assert ids(desk, "ada") == [1]


def test_an_unknown_class_and_a_text_that_was_never_asked_for_are_refused(opened: Any) -> None:
    project, desk = opened()
    with pytest.raises(DataError, match=r"unknown class 'bugs'\. Did you mean 'bug'\?"):
        say(desk, "ada", 0, "bugs")
    with pytest.raises(DataError, match="not asked for"):
        say(desk, "ada", 9)
    assert project.told == []


def test_the_next_query_is_computed_behind_and_texts_to_measure_by_fill_a_long_wait(opened: Any, clock: Clock) -> None:
    project, desk = opened(n_ahead=4)
    ids(desk, "ada", 4)
    project.gate.clear()
    for id_ in range(4):
        say(desk, "ada", id_)
    hand = desk.hand_out("ada", 2)
    assert (hand.state, hand.tasks) == ("computing", ())
    clock.now += 1.5
    assert ids(desk, "ada", 2) == [8, 9]
    assert ids(desk, "bob", 1) == [10]
    say(desk, "ada", 8)
    project.gate.set()
    settled(desk)
    assert project.n_computed == 2
    assert ids(desk, "ada", 3) == [9, 4, 5]
    assert ids(desk, "bob", 3) == [10, 6, 7]


def test_who_has_nothing_left_measures_while_others_end_the_batch(opened: Any) -> None:
    _, desk = opened(n_ahead=2)
    ids(desk, "ada", 4)
    assert ids(desk, "bob", 1) == [10]


def test_a_query_that_fails_is_told_and_tried_again_when_somebody_asks(opened: Any) -> None:
    project, desk = opened()
    project.failure = StorageError("the disk is full")
    for id_ in range(4):
        say(desk, "ada", id_)
    settled(desk)
    hand = desk.hand_out("ada", 1)
    assert (hand.state, hand.message) == ("failed", "the disk is full")
    assert project.n_computed == 1
    project.failure = None
    desk.try_again()
    settled(desk)
    assert ids(desk, "ada") == [4]


def test_an_error_of_al_ray_itself_is_shown_too(opened: Any) -> None:
    project, desk = opened()
    project.failure = KeyError("x")
    for id_ in range(4):
        say(desk, "ada", id_)
    settled(desk)
    assert desk.hand_out("ada", 1).message == "KeyError: 'x'. The terminal has the whole message."


def test_the_end_is_told(opened: Any) -> None:
    project, desk = opened(n=4)
    for id_ in range(4):
        say(desk, "ada", id_)
    settled(desk)
    assert desk.hand_out("ada", 1).state == "done"
    assert desk.hand_out("ada", 1).message == project.end


def test_earlier_answers_are_there_newest_first_also_at_a_desk_opened_anew(opened: Any) -> None:
    project, desk = opened()
    say(desk, "ada", 0)
    say(desk, "bob", 2, "other")
    say(desk, "ada", 1, None)
    say(desk, "ada", 0, "billing")
    for each in (desk, Desk(project)):
        newest, oldest = each.earlier("ada", 1), each.earlier("ada", 2)
        assert newest is not None
        assert oldest is not None
        assert (newest.answer.id, newest.answer.label, newest.text, newest.n) == (0, 0, "text 0", 2)
        assert (oldest.answer.id, oldest.answer.label) == (1, None)
        assert each.earlier("ada", 3) is None
        assert each.earlier("eve", 1) is None


def test_a_desk_opened_anew_asks_for_what_is_open(opened: Any) -> None:
    project, desk = opened()
    ids(desk, "ada", 4)
    say(desk, "ada", 1)
    assert ids(Desk(project), "bob", 4) == [0, 2, 3]


def test_many_annotators_at_once_never_have_the_same_text(opened: Any) -> None:
    project, desk = opened(n=120, query_size=12)

    def label(annotator: str) -> None:
        while True:
            hand = desk.hand_out(annotator, 3)
            if hand.state == "done":
                return
            for task in hand.tasks[:2]:
                say(desk, annotator, task.id)

    people = [threading.Thread(target=label, args=(name,)) for name in ("ada", "bob", "eve", "joe")]
    for person in people:
        person.start()
    for person in people:
        person.join()
    answered = [answer.id for answer in project.told]
    assert sorted(answered) == list(range(120))
