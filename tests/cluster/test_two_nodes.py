import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from al_ray.cli.app import app
from tests.cli.conftest import computed
from tests.cluster.conftest import (
    LocalRun,
    TwoNodes,
    children,
    kill,
    nodes_of,
    write_study,
)
from tests.cluster.dealt_driver import FASTER, N_SHARED
from tests.waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.ray


def workers_of(pid: int) -> list[int]:
    return [child for child, line in children(pid).items() if line.startswith("ray::RayTrainWorker")]


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
    storage, second, gates = tmp_path / "both", two_nodes.start_second_node(), tmp_path / "gates"
    gates.mkdir()
    driver = two_nodes.run_study(two_cells.path, storage, program="tests.cli.gated_driver")
    # Each cell stands still after its first round, until there is one on each node.
    wait_until(lambda: len(list(storage.rglob("round-000.json"))) == 2, "two cells have begun", driver)
    assert len(set(nodes_of(storage))) == 2
    (gates / "0").touch()  # the node dies anywhere in the next round, and no cell gets beyond
    kill([second.raylet, *children(second.raylet)])
    for index in range(1, 20):
        (gates / str(index)).touch()
    said, _ = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == 0, said
    assert computed(storage) == two_cells.computed
    where = nodes_of(storage)
    assert len(where) == 3
    assert where[-1] != second.node_id


def test_a_node_that_comes_later_scores_with_the_lane_and_one_that_goes_costs_its_share(
    cluster: TwoNodes, private_ray: None, bert: Path, tmp_path: Path
) -> None:
    path = write_study(tmp_path, bert, seed=1, rounds=3, scoring_batch_size=8)
    words = ["run", str(path), "--local", "--storage", str(tmp_path / "alone"), "--set", "tracking=off"]
    assert CliRunner().invoke(app, words).exit_code == 0
    cluster.kill_second_node()
    storage, gates = tmp_path / "shared", tmp_path / "gates"
    gates.mkdir()
    settings = ("lanes=1", "scoring=cluster")
    driver = cluster.run_study(path, storage, *settings, program="tests.cli.gated_driver", words=["--shared"])

    def wait_for_round(index: int) -> None:
        wait_until(lambda: list(storage.rglob(f"round-{index:03d}.json")), f"round {index}", driver)

    wait_for_round(0)  # on the head, since there is nothing else
    second = cluster.start_second_node()
    (gates / "0").touch()
    wait_for_round(1)  # of which the lane computed nothing before something came from the other node
    (gates / "hold").touch()
    (gates / "1").touch()
    wait_until(lambda: (gates / "holds").exists() and (gates / "holds").read_text(), "a share is held", driver)
    assert (gates / "holds").read_text() == second.node_id
    cluster.kill_second_node()
    for name in ("alone", "2", "3", "4"):
        (gates / name).touch()
    said, _ = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == 0, said
    assert computed(storage) == computed(tmp_path / "alone")
    assert nodes_of(storage) != [second.node_id]
    assert len(nodes_of(storage)) == 1  # the cell was never started again


def test_a_lane_whose_node_comes_late_holds_no_cell_before_and_then_shares_them_by_its_speed(
    cluster: TwoNodes, tmp_path: Path
) -> None:
    cluster.kill_second_node()
    driver = cluster.start(sys.executable, "-m", "tests.cluster.dealt_driver", cluster.gcs, str(tmp_path))
    assert driver.stdout is not None
    events: list[dict[str, Any]] = []
    for line in driver.stdout:
        events.append(json.loads(line))
        if (events[-1]["kind"], events[-1]["key"]) == ("started", "door-0"):
            cluster.start_second_node()  # without it that cell would wait for ever
    assert driver.wait(PATIENCE_S) == 0
    nodes = {event["key"]: event["node"] for event in events if event["kind"] == "started"}
    ended = [event["key"] for event in events if event["kind"] == "finished"]
    assert len(ended) == len(set(ended)) == len(nodes) == 4 + N_SHARED
    head, second = nodes["door-0"], nodes["door-1"]
    assert cluster.second is not None
    assert second == cluster.second.node_id
    assert [nodes[f"alone-{number}"] for number in range(2)] == [head, head]
    shares = [sum(nodes[f"shared-{n}"] == node for n in range(N_SHARED)) for node in (head, second)]
    assert min(shares) >= 1
    assert max(shares) >= FASTER * (min(shares) - 1)


@pytest.mark.parametrize(
    ("what", "environment", "sentence"),
    [
        ("no token", {"RAY_AUTH_MODE": "disabled"}, "it wants a token, and this process has none or another one"),
        ("another token", {"RAY_AUTH_TOKEN": "0" * 64}, "it wants a token, and this process has none or another one"),
    ],
)
def test_a_cluster_that_lets_nobody_in_is_told_with_what_is_missing(
    two_nodes: TwoNodes, two_cells: LocalRun, tmp_path: Path, what: str, environment: dict[str, str], sentence: str
) -> None:
    driver = two_nodes.run_study(two_cells.path, tmp_path / "out", **environment)
    said, _ = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == 1, said
    assert f"the Ray cluster at '{two_nodes.gcs}' cannot be joined: {sentence}. Set RAY_AUTH_MODE=token here" in said
    assert "gcs_client" not in said


def test_a_cluster_of_another_version_is_told_with_both_versions(
    two_nodes: TwoNodes, two_cells: LocalRun, tmp_path: Path
) -> None:
    driver = two_nodes.run_study(two_cells.path, tmp_path / "out", program="tests.cluster.other_version")
    said, _ = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == 1, said
    assert "Version mismatch" in said
    assert "Ray: 2.50.0" in said
    assert "Use the same versions of Ray and Python here and there." in said


def test_what_is_no_head_of_a_ray_is_told_from_one(two_nodes: TwoNodes, two_cells: LocalRun, tmp_path: Path) -> None:
    driver = two_nodes.run_study(
        two_cells.path, tmp_path / "out", f"address={two_nodes.dashboard.removeprefix('http://')}"
    )
    said, _ = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == 1, said
    assert "a web server, and not the head of a Ray, answers" in said
