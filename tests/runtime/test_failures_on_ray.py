"""What becomes of cells that take their worker with them: tried again or not, and told with their reason."""

import pytest

from al_ray.runtime.cells import CellEvent, CellTask
from al_ray.runtime.grid import run_grid
from al_ray.runtime.plan import LaneResources
from al_ray.runtime.pool import PoolSource
from tests.runtime import lane_fakes as fakes

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600), pytest.mark.usefixtures("private_ray")]

Events = dict[str, list[CellEvent]]


@pytest.fixture(scope="module")
def events(private_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Events:
    folder = tmp_path_factory.mktemp("been_here")
    acts = {
        "complains": {"act": "complain"},
        "hungry-once": {"act": "run_out_of_memory", "been_here": str(folder / "once")},
        "hungry": {"act": "run_out_of_memory", "been_here": str(folder / "always"), "always": True},
        "deadly": {"act": "die"},
        "calm": {"act": "look"},
    }
    heard: Events = {key: [] for key in acts}
    tables = {"pool": fakes.texts(10), "test": fakes.texts(5)}
    run_grid(
        cells=[CellTask(key=key, payload=payload, pool_key="letters") for key, payload in acts.items()],
        pools={"letters": PoolSource(tables=tables, tokenize=fakes.tokenize)},
        run_cell=fakes.act,
        resources=LaneResources(lanes=2, retries=1),
        on_event=lambda event: heard[event.key].append(event),
    )
    return heard


def kinds(events: list[CellEvent]) -> list[str]:
    return [event.kind for event in events]


def test_a_cell_that_runs_out_of_memory_once_is_run_again_in_a_new_process(events: Events) -> None:
    assert kinds(events["hungry-once"]) == ["started", "started", "round", "finished"]
    first, second = (event.data["pid"] for event in events["hungry-once"][:2])
    assert first != second


def test_a_cell_that_always_runs_out_of_memory_fails_for_that_reason(events: Events) -> None:
    assert kinds(events["hungry"]) == ["started", "started", "failed"]
    failed = events["hungry"][-1].data
    assert (failed["kind"], failed["attempts"]) == ("memory", 2)
    assert "Unable to allocate 8.00 GiB" in failed["message"]


def test_a_cell_that_kills_its_workers_fails_with_what_ray_knows_of_their_end(events: Events) -> None:
    assert kinds(events["deadly"]) == ["started", "started", "failed"]
    failed = events["deadly"][-1].data
    assert (failed["kind"], failed["error"], failed["attempts"]) == ("lost", "WorkersDied", 2)
    assert "rank 0: " in failed["message"]
    assert "worker" in failed["message"]


def test_an_exception_is_not_tried_again_and_comes_with_the_log_of_its_worker(events: Events) -> None:
    assert kinds(events["complains"]) == ["started", "failed"]
    failed = events["complains"][-1].data
    assert (failed["kind"], failed["error"]) == ("error", "ZeroDivisionError")
    assert "the coffee machine is empty" in failed["log"]


def test_the_other_cells_go_on(events: Events) -> None:
    assert kinds(events["calm"]) == ["started", "round", "finished"]
