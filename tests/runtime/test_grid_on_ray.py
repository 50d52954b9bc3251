import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray

from al_ray.errors import ExecutionError
from al_ray.model.encoding import encode_table
from al_ray.runtime.cluster.ray_internals import actors_of_this_job
from al_ray.runtime.cluster.resources import LaneResources
from al_ray.runtime.driver import run_grid
from al_ray.runtime.pool import EncodedRefs, EncodingActors, PoolRefs, PoolSource, prepare_encoding, prepare_pool
from al_ray.runtime.tasks import CellEvent, CellTask
from tests.processes import LANE_TITLES, ray_processes
from tests.runtime import lane_fakes as fakes
from tests.runtime.made import kind_of_event, made_cell, sentences
from tests.waiting import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("private_ray")]

Events = dict[str, list[Any]]

N_POOL, N_TEST = 9001, 10


def pools() -> dict[str, PoolSource]:
    tables = {"pool": fakes.texts(N_POOL), "test": fakes.texts(N_TEST)}
    return {"letters": PoolSource(tables=tables, tokenize=fakes.tokenize)}


def cell(key: str, act: str, workers: int = 1, **spec: Any) -> CellTask:
    return made_cell(key, "letters", workers, act=act, **spec)


@pytest.fixture(scope="module")
def decisions() -> Iterator[list[str]]:
    """What is logged while the grids of this module run."""
    with sentences(level=logging.INFO) as said:
        yield said


@pytest.fixture(scope="module")
def grid(private_ray: None, decisions: list[str], tmp_path_factory: pytest.TempPathFactory) -> Events:
    """The events, by cell, of two lanes of one worker: the first two wait for each other, the last kill theirs."""
    folder, doors = tmp_path_factory.mktemp("been_here"), str(tmp_path_factory.mktemp("doors"))
    cells = [
        *[cell(f"signs-in-{i}", "sign_in", folder=doors, n_files=2) for i in range(2)],
        *[cell(f"looks-{i}", "look", rounds=2) for i in range(6)],
        cell("complains", "complain"),
        cell("looks-after", "look"),
        cell("hungry-once", "run_out_of_memory", been_here=str(folder / "once")),
        cell("hungry", "run_out_of_memory", been_here=str(folder / "always"), always=True),
        cell("deadly", "die"),
        cell("calm", "look"),
    ]
    return run(cells, LaneResources(lanes=2, retries=1))


@pytest.fixture(scope="module")
def pairs(private_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Events:
    """The events, by cell, of one lane of two workers, one of which dies twice."""
    folder = tmp_path_factory.mktemp("cells")
    cells = [
        cell("gathers", "gather", workers=2),
        cell("refuses", "refuse", workers=2),
        cell("gathers-again", "gather", workers=2),
        cell("dies-once", "die_once", workers=2, been_here=str(folder / "first")),
        cell("dies-beyond-the-group", "die_once", workers=2, been_here=str(folder / "second")),
    ]
    return run(cells, LaneResources(lanes=1, retries=1))


def run(cells: list[CellTask], resources: LaneResources) -> Events:
    events: Events = {task.key: [] for task in cells}
    run_grid(
        cells=cells,
        pools=pools(),
        run_cell=fakes.act,
        resources=resources,
        on_event=lambda event: events[event.key].append(event),
    )
    return events


def kinds(events: list[CellEvent]) -> list[str]:
    return [kind_of_event(event) for event in events]


def test_every_cell_tells_its_rounds_in_order_and_ends_once(grid: Events) -> None:
    for i in range(6):
        events = grid[f"looks-{i}"]
        assert kinds(events) == ["started", "round", "round", "finished"]
        assert [event.round_index for event in events[1:3]] == [0, 1]


def test_two_worker_processes_serve_all_cells_of_two_lanes(grid: Events) -> None:
    of_lanes = [grid[f"signs-in-{i}"][1].metrics["pid"] for i in range(2)]
    assert len(set(of_lanes)) == 2
    pids = [grid[f"looks-{i}"][1].metrics["pid"] for i in range(6)]
    assert set(pids) <= set(of_lanes)
    assert grid["looks-0"][0].where["pid"] == pids[0]


def test_pools_arrive_tokenised_complete_in_order_and_without_a_copy(grid: Events) -> None:
    seen = grid["looks-5"][1].metrics
    assert (seen["n_pool"], seen["n_test"]) == (N_POOL, N_TEST)
    assert seen["in_order"]
    assert seen["tokens_fit"]
    assert seen["token_sum"] == sum(i * (i % 7) for i in range(N_POOL))
    assert seen["in_object_store"]


def test_threads_of_a_worker_are_set_to_its_cpus(grid: Events) -> None:
    assert grid["looks-0"][1].metrics["threads"] == 1


def test_a_cell_that_raises_is_told_with_the_log_of_its_worker_and_its_lane_goes_on(grid: Events) -> None:
    assert kinds(grid["complains"]) == ["started", "failed"]
    failed = grid["complains"][1].reason()
    assert (failed["kind"], failed["error"], failed["attempts"]) == ("error", "ZeroDivisionError", 1)
    assert failed["message"] == "seven by zero"
    assert "in complain" in failed["traceback"]
    assert "the coffee machine is empty" in failed["log"]
    warm = {grid[f"looks-{i}"][1].metrics["pid"] for i in range(6)}
    assert grid["looks-after"][1].metrics["pid"] in warm
    assert kinds(grid["looks-after"]) == ["started", "round", "finished"]


def test_a_cell_that_runs_out_of_memory_once_is_run_again_in_a_new_process(grid: Events) -> None:
    assert kinds(grid["hungry-once"]) == ["started", "started", "round", "finished"]
    first, second = (event.where["pid"] for event in grid["hungry-once"][:2])
    assert first != second


def test_a_cell_that_always_runs_out_of_memory_fails_for_that_reason(grid: Events) -> None:
    assert kinds(grid["hungry"]) == ["started", "started", "failed"]
    failed = grid["hungry"][-1].reason()
    assert (failed["kind"], failed["attempts"]) == ("memory", 2)
    assert "Unable to allocate 8.00 GiB" in failed["message"]


def test_a_cell_that_kills_its_workers_fails_with_what_ray_knows_of_their_end(grid: Events) -> None:
    assert kinds(grid["deadly"]) == ["started", "started", "failed"]
    failed = grid["deadly"][-1].reason()
    assert (failed["kind"], failed["error"], failed["attempts"]) == ("lost", "WorkersDied", 2)
    assert "rank 0: " in failed["message"]
    assert "worker" in failed["message"]


def test_decisions_are_logged_with_their_numbers(grid: Events, decisions: list[str]) -> None:
    said = "\n".join(decisions)
    assert "14 cells wait for 2 lanes of 1 workers, each with 1 CPUs and 0 GPUs, on 1 nodes" in said
    assert f"pool letters: {N_POOL + N_TEST} texts tokenised in " in said
    again = "cell hungry is tried again: attempt 2, after 1 of at most 1 failures since its last recorded round; "
    assert f"{again}the last one: " in said
    assert "Unable to allocate 8.00 GiB" in said.partition(again)[2].partition("\n")[0]
    assert "cell deadly is given up after 2 attempts (lost): WorkersDied: rank 0: " in said
    assert "cell complains is given up after 1 attempts (error): ZeroDivisionError: seven by zero" in said


def test_the_other_cells_go_on(grid: Events) -> None:
    assert kinds(grid["calm"]) == ["started", "round", "finished"]


@pytest.mark.parametrize("key", ["dies-once", "dies-beyond-the-group"])
def test_a_cell_whose_worker_died_is_run_again_by_a_fresh_group(pairs: Events, key: str) -> None:
    """With one retry the first death makes Ray Train restart the group, the second makes the lane open a new one."""
    assert kinds(pairs[key]) == ["started", "started", "round", "finished"]
    first, second = pairs[key][:2]
    assert (first.attempt, second.attempt) == (1, 2)
    assert first.where["pid"] != second.where["pid"]


@pytest.mark.parametrize("key", ["gathers", "gathers-again"])
def test_two_workers_gather_rows_of_different_lengths_and_broadcast(pairs: Events, key: str) -> None:
    found = pairs[key][1].metrics
    assert found["uneven"] == [[[0.5, 0.5]] * 3, []]
    assert (found["type"], found["shape"]) == ("float32", [0, 2])
    assert found["ids"] == [[0], [0, 1]]
    assert found["said"] == {"rank": 0}


def test_two_workers_average_their_gradients(pairs: Events) -> None:
    assert pairs["gathers"][1].metrics["gradient"] == pytest.approx(1.5)


def test_an_error_on_all_ranks_alike_fails_the_cell_and_keeps_the_pair_warm(pairs: Events) -> None:
    assert kinds(pairs["refuses"]) == ["started", "failed"]
    assert pairs["refuses"][1].failure.message == "pool exhausted in round 12"
    assert pairs["gathers-again"][0].where["pid"] == pairs["gathers"][0].where["pid"]


def test_nothing_of_a_grid_is_left_running(grid: Events, pairs: Events) -> None:
    import ray

    wait_until(lambda: not ray_processes(*LANE_TITLES), "all actors are gone")
    wait_until(lambda: ray.available_resources()["CPU"] == ray.cluster_resources()["CPU"], "all CPUs are free")


def test_lanes_start_no_actor_that_they_do_not_use(grid: Events) -> None:
    started = {actor.class_name for actor in actors_of_this_job()}
    assert "TrainController" in started
    assert not started & {"PlacementGroupCleaner", "DatasetManager"}


def test_lanes_that_cannot_start_stop_the_grid_with_the_reason() -> None:
    events: list[CellEvent] = []
    with pytest.raises(ExecutionError, match="no lane could start: ImportError: no module named 'weights'"):
        run_grid(
            cells=[cell("a", "look"), cell("b", "look")],
            pools=pools(),
            run_cell=fakes.act,
            resources=LaneResources(lanes=1),
            on_event=events.append,
            warm_up=fakes.cannot_warm_up,
        )
    assert events == []


def test_a_grid_that_does_not_fit_is_refused_before_anything_starts() -> None:
    with pytest.raises(ExecutionError, match=r"9 lane\(s\) of 1 worker\(s\) .* hold 4 such lane\(s\)"):
        run_grid(
            cells=[cell("a", "look")],
            pools=pools(),
            run_cell=fakes.act,
            resources=LaneResources(lanes=9),
            on_event=lambda event: None,
        )


def test_a_tokenizer_that_loses_a_row_is_refused() -> None:
    source = PoolSource(tables={"pool": fakes.texts(20)}, tokenize=fakes.lose_a_row)
    with pytest.raises(ExecutionError, match="'pool' has 19 rows after tokenising, 20 went in"):
        prepare_pool(source)


def test_a_tokenizer_that_fails_is_told_in_its_own_words() -> None:
    source = PoolSource(tables={"pool": fakes.texts(20)}, tokenize=fakes.refuse_a_text)
    with pytest.raises(
        ExecutionError, match=r"'pool' cannot be tokenised: .*ModelError: the tokenizer gave text 7 no tok"
    ):
        prepare_pool(source)


def token_table(n_rows: int) -> pa.Table:
    texts = fakes.tokenize(fakes.texts(n_rows)).rename_columns({"input_ids": "tokens"})
    return texts.drop_columns("text")


def prepared(tables: dict[str, pa.Table], encoder: Any) -> EncodedRefs:
    refs = PoolRefs({split: [ray.put(table)] for split, table in tables.items()})
    return prepare_encoding(refs.tables, encoder, EncodingActors(n=2, cpus=0.4, gpus=0, threads=1))


def test_a_pool_is_encoded_in_blocks_by_several_processes_as_one_process_does() -> None:
    tables = {"pool": token_table(2500), "test": token_table(5)}
    for encoder in (fakes.encode, fakes.encode_texts):
        found = prepared(tables, encoder).load()
        for split, table in tables.items():
            np.testing.assert_array_equal(found[split], encode_table(table, encoder(None)))
            assert not found[split].flags.writeable
    assert found["pool"][:, 1].tolist() == [1024] * 2048 + [452] * 452


def test_a_model_that_a_machine_lacks_is_told_in_its_own_words() -> None:
    with pytest.raises(ExecutionError, match=r"the texts cannot be encoded: .*model 'x' has other weights on this"):
        prepared({"pool": token_table(9)}, fakes.lack_the_model)
