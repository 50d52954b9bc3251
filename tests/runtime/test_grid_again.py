"""How often a grid starts again that lost the process between its driver and its lanes, or its Ray; no Ray here."""

from collections.abc import Sequence
from typing import Any

import pytest

from al_ray.errors import ExecutionError
from al_ray.runtime.grid import GridWatch, run_until_ended
from al_ray.runtime.tasks import CellEvent, CellTask, ExchangeLostError, RayLostError

CELLS = [CellTask(key=key, payload={}, pool_key="p") for key in ("a", "b")]
Loss = type[ExecutionError]


class Grids:
    """Grids that are lost, one after the other, but for the last; the first cell of each gets on as the story says."""

    def __init__(self, story: list[list[Any]], loss: Loss) -> None:
        self.story, self.loss = story, loss
        self.starts: list[list[str]] = []
        self.told: list[str] = []
        self.said: list[str] = []
        self.watch = GridWatch(lambda event: self.told.append(event.kind))

    def run(self, cells: Sequence[CellTask]) -> None:
        self.starts.append([cell.key for cell in cells])
        for kind in self.story[len(self.starts) - 1]:
            self.watch.tell(CellEvent(kind, cells[0].key, {}))
        if len(self.starts) < len(self.story):
            raise self.loss("It died.")


def play(story: list[list[Any]], retries: int, loss: Loss) -> Grids:
    grids = Grids(story, loss)
    run_until_ended(grids.run, CELLS, grids.watch, retries, loss, grids.said.append)
    return grids


each_loss = pytest.mark.parametrize("loss", [ExchangeLostError, RayLostError])


@each_loss
def test_only_cells_that_have_not_ended_are_started_again(loss: Loss) -> None:
    grids = play([["started", "round", "finished"], ["started", "finished"]], 1, loss)
    assert grids.starts == [["a", "b"], ["b"]]
    assert grids.told == ["started", "round", "finished", "started", "finished"]
    assert grids.said == ["It died. Another one is started now, for 1 cell."]


@each_loss
def test_a_grid_that_gets_on_may_be_lost_any_number_of_times(loss: Loss) -> None:
    assert len(play([["started", "round"]] * 9, 1, loss).starts) == 9


@each_loss
def test_a_grid_that_gets_nowhere_is_given_up_after_its_retries(loss: Loss) -> None:
    grids = Grids([["started"]] * 9, loss)
    with pytest.raises(loss, match=r"It died\. It is given up: retries is 2\. The same command goes on\."):
        run_until_ended(grids.run, CELLS, grids.watch, 2, loss, grids.said.append)
    assert len(grids.starts) == 3


@each_loss
def test_what_was_not_the_loss_is_not_tried_again(loss: Loss) -> None:
    grids = Grids([["started"]] * 2, ExecutionError)
    with pytest.raises(ExecutionError, match="It died"):
        run_until_ended(grids.run, CELLS, grids.watch, 2, loss, grids.said.append)
    assert len(grids.starts) == 1


@each_loss
def test_a_grid_that_is_lost_when_all_its_cells_have_ended_is_not_started_again(loss: Loss) -> None:
    grids = Grids([["finished"], ["finished"], []], loss)
    run_until_ended(grids.run, CELLS, grids.watch, 2, loss, grids.said.append)
    assert grids.starts == [["a", "b"], ["b"]]
