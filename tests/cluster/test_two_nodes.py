import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from tests.cluster.conftest import (
    PATIENCE_S,
    LocalRun,
    TwoNodes,
    children,
    kill,
    nodes_of,
    wait_until,
    write_study,
)
from tests.pipelines.conftest import computed

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


def workers_of(pid: int) -> list[int]:
    return [child for child, line in children(pid).items() if line.startswith("ray::RayTrainWorker")]


@contextlib.contextmanager
def held(pids: list[int]) -> Iterator[None]:
    """Let processes stand still for a while."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    yield
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def test_a_group_of_two_spans_both_nodes_and_equals_a_group_on_one(
    two_nodes: TwoNodes, private_ray: None, bert: Path, tmp_path: Path
) -> None:
    path, storage = write_study(tmp_path, bert, workers=2, seed=1, rounds=3), tmp_path / "both"
    driver = two_nodes.run_study(path, storage)
    head, second = two_nodes.started[0].pid, two_nodes.start_second_node().program.pid
    wait_until(lambda: workers_of(head) and workers_of(second), "a worker on each node", driver)
    said, _ = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == 0, said
    on_one = CliRunner().invoke(app, ["run", str(path), "--storage", str(tmp_path / "one"), "--set", "tracking=off"])
    assert on_one.exit_code == 0, on_one.output
    assert computed(tmp_path / "both") == computed(tmp_path / "one")


def test_a_study_survives_the_death_of_a_node_while_cells_run_on_both(
    two_nodes: TwoNodes, two_cells: LocalRun, tmp_path: Path
) -> None:
    seed = random.SystemRandom().randrange(1000)
    print(f"random moment of seed {seed}")
    storage, second = tmp_path / "both", two_nodes.start_second_node()
    driver = two_nodes.run_study(two_cells.path, storage)
    wait_until(lambda: nodes_of(storage), "the start of a cell", driver)
    early = second.program.pid if nodes_of(storage) == [second.node_id] else two_nodes.started[0].pid
    with held(workers_of(early)):
        wait_until(lambda: len(set(nodes_of(storage))) == 2, "the start of a cell on the other node", driver)
    time.sleep(random.Random(seed).uniform(0, 1.5))
    assert not list(storage.rglob("done.json")), "the node was to die while both cells run"
    kill([second.raylet, *children(second.raylet)])
    said, _ = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == 0, said
    assert computed(storage) == two_cells.computed
    where = nodes_of(storage)
    assert len(where) == 3
    assert where[-1] != second.node_id
