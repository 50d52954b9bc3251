"""How often a grid starts again that lost the process between its driver and its lanes, or its Ray; no Ray here."""

import logging
from collections.abc import Sequence
from typing import Any

import pytest

from al_ray.errors import ExecutionError
from al_ray.runtime.driver import run_until_ended
from al_ray.runtime.failures import ExchangeLostError, RayLostError, RetryPolicy
from al_ray.runtime.monitor import GridMonitor
from al_ray.runtime.tasks import CellTask
from tests.runtime.made import kind_of_event, made_cell, made_event, sentences

CELLS = [made_cell(key) for key in ("a", "b")]
LOSSES: dict[str, type[ExecutionError]] = {"exchange": ExchangeLostError, "Ray": RayLostError}


class Grids:
    """Grids that are lost, one after the other, but for the last; the first cell of each gets on as the story says."""

    def __init__(self, story: list[list[Any]], loss: type[ExecutionError]) -> None:
        self.story, self.loss = story, loss
        self.starts: list[list[str]] = []
        self.told: list[str] = []
        self.monitor = GridMonitor(lambda event: self.told.append(kind_of_event(event)))

    def run(self, cells: Sequence[CellTask]) -> None:
        self.starts.append([cell.key for cell in cells])
        for kind in self.story[len(self.starts) - 1]:
            self.monitor.tell(made_event(kind, cells[0].key))
        if len(self.starts) < len(self.story):
            raise self.loss("It died.")


def run(grids: Grids, retries: int, what: Any) -> None:
    run_until_ended(grids.run, CELLS, grids.monitor, RetryPolicy(retries), what)


def play(story: list[list[Any]], retries: int, what: str) -> Grids:
    grids = Grids(story, LOSSES[what])
    run(grids, retries, what)
    return grids


each_loss = pytest.mark.parametrize("what", LOSSES)


@each_loss
def test_only_cells_that_have_not_ended_are_started_again(what: str) -> None:
    with sentences(level=logging.INFO) as said:
        grids = play([["started", "round", "finished"], ["started", "finished"]], 1, what)
    assert grids.starts == [["a", "b"], ["b"]]
    assert grids.told == ["started", "round", "finished", "started", "finished"]
    assert said == [
        "It died. Another one is started now, for 1 cell.",
        "this was failure 1 of at most 1 in a row without a recorded round between",
    ]


@pytest.mark.parametrize(("what", "n_said"), [("exchange", 0), ("Ray", 1)])
def test_the_loss_of_a_ray_is_a_warning_and_that_of_an_exchange_is_not(what: str, n_said: int) -> None:
    with sentences() as said:
        play([["started"], ["finished"]], 1, what)
    assert len(said) == n_said


@each_loss
def test_a_grid_that_gets_on_may_be_lost_any_number_of_times(what: str) -> None:
    assert len(play([["started", "round"]] * 9, 1, what).starts) == 9


@each_loss
def test_a_grid_that_gets_nowhere_is_given_up_after_its_retries(what: str) -> None:
    grids = Grids([["started"]] * 9, LOSSES[what])
    with pytest.raises(LOSSES[what], match=r"It died\. It is given up: retries is 2\. The same command goes on\."):
        run(grids, 2, what)
    assert len(grids.starts) == 3


@each_loss
def test_what_was_not_the_loss_is_not_tried_again(what: str) -> None:
    grids = Grids([["started"]] * 2, ExecutionError)
    with pytest.raises(ExecutionError, match="It died"):
        run(grids, 2, what)
    assert len(grids.starts) == 1


@each_loss
def test_a_grid_that_is_lost_when_all_its_cells_have_ended_is_not_started_again(what: str) -> None:
    grids = play([["finished"], ["finished"], []], 2, what)
    assert grids.starts == [["a", "b"], ["b"]]
