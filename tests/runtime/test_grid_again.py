"""How often a grid starts again that lost the process between its driver and its lanes; no Ray here."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from al_ray.runtime import grid as grid_module
from al_ray.runtime.cells import CellEvent, CellTask, ExchangeLostError
from al_ray.runtime.grid import Grid, run_grid
from al_ray.runtime.plan import LaneResources

CELLS = [CellTask(key=key, payload={}, pool_key="p") for key in ("a", "b")]


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """The cells of every start; the first cell gets on as the test says, and then the exchange dies."""
    starts: list[list[str]] = []

    @contextlib.contextmanager
    def session(resources: LaneResources) -> Iterator[Any]:
        yield type("Session", (), {"scratch": tmp_path})

    def run(self: Grid, cells: Sequence[CellTask], pools: Mapping[str, Any]) -> None:
        starts.append([cell.key for cell in cells])
        for kind in STORY[len(starts) - 1]:
            self.watch.tell(CellEvent(kind, cells[0].key, {}))
        if len(starts) < len(STORY):
            raise ExchangeLostError("it died")

    monkeypatch.setattr(grid_module, "ray_session", session)
    monkeypatch.setattr(Grid, "run", run)
    return starts


STORY: list[list[Any]] = []


def play(story: list[list[Any]], retries: int) -> list[str]:
    STORY[:] = story
    told: list[str] = []
    run_grid(
        cells=CELLS,
        pools={"p": None},  # type: ignore[dict-item]
        run_cell=print,  # type: ignore[arg-type]
        resources=LaneResources(retries=retries),
        on_event=lambda event: told.append(event.kind),
    )
    return told


def test_only_cells_that_have_not_ended_are_started_again(starts: list[list[str]]) -> None:
    told = play([["started", "round", "finished"], ["started", "finished"]], retries=1)
    assert starts == [["a", "b"], ["b"]]
    assert told == ["started", "round", "finished", "started", "finished"]


def test_a_grid_that_gets_on_may_lose_its_exchange_any_number_of_times(starts: list[list[str]]) -> None:
    play([["started", "round"]] * 9, retries=1)
    assert len(starts) == 9


def test_a_grid_that_gets_nowhere_is_given_up_after_its_retries(starts: list[list[str]]) -> None:
    with pytest.raises(ExchangeLostError):
        play([["started"]] * 9, retries=2)
    assert len(starts) == 3
