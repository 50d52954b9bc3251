import pytest

from al_ray.errors import ExecutionError
from al_ray.runtime.plan import LaneResources, NodeSize, lanes_that_fit, object_store_bytes, process_group_backend

GIB = 1024**3


@pytest.mark.parametrize(
    ("nodes", "workers", "cpus", "gpus", "lanes"),
    [
        ([NodeSize(2)], 1, 1, 0, 2),
        ([NodeSize(8)], 1, 3, 0, 2),
        ([NodeSize(8)], 3, 1, 0, 2),
        ([NodeSize(3), NodeSize(3)], 3, 2, 0, 0),  # one worker a node, a group of three does not form
        ([NodeSize(4), NodeSize(4)], 2, 2, 0, 2),
        ([NodeSize(1), NodeSize(1)], 2, 1, 0, 1),  # a lane may span nodes
        ([NodeSize(16, 4)], 1, 1, 1, 4),
        ([NodeSize(16, 4)], 2, 1, 2, 1),
        ([NodeSize(16, 1)], 1, 1, 0.25, 4),
        ([NodeSize(16, 1)], 1, 1, 0.1, 10),  # 1 / 0.1 must not round down to 9
        ([NodeSize(16, 2)], 1, 1, 0.4, 4),  # two a GPU: 0.2 left on each cannot be joined
        ([NodeSize(2, 4)], 1, 1, 0.5, 2),  # CPUs are the limit
        ([NodeSize(16, 0), NodeSize(4, 2)], 1, 1, 1, 2),
    ],
)
def test_as_many_lanes_run_as_the_nodes_hold(
    nodes: list[NodeSize], workers: int, cpus: int, gpus: float, lanes: int
) -> None:
    if lanes == 0:
        with pytest.raises(ExecutionError, match=r"hold 0 such lane\(s\)"):
            lanes_that_fit(nodes, workers, cpus, gpus, None)
    else:
        assert lanes_that_fit(nodes, workers, cpus, gpus, None) == lanes


def test_fewer_lanes_than_fit_may_be_requested() -> None:
    assert lanes_that_fit([NodeSize(8)], 1, 1, 0, 3) == 3


def test_more_lanes_than_fit_are_refused_with_the_numbers() -> None:
    message = (
        r"5 lane\(s\) of 2 worker\(s\) with 1 CPU and 0.5 GPU each do not fit: 1 node\(s\) with 8 CPU and 2 GPU "
        r"hold 2 such lane\(s\). Ask for fewer lanes"
    )
    with pytest.raises(ExecutionError, match=message):
        lanes_that_fit([NodeSize(8, 2)], 2, 1, 0.5, 5)


def test_more_lanes_than_fit_are_accepted_where_the_cluster_grows() -> None:
    assert lanes_that_fit([NodeSize(2)], 1, 1, 0, 40, wait_for_nodes=True) == 40


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("lanes", 0, "lanes is 0. It takes a whole number from 1"),
        ("cpus_per_worker", 0, "cpus_per_worker is 0"),
        ("retries", -1, "retries is -1. It takes a whole number from 0"),
        ("cpus", 0, "cpus is 0"),
        ("gpus_per_worker", 1.5, "gpus_per_worker is 1.5. It takes 0, a fraction below 1"),
        ("gpus_per_worker", -0.5, "gpus_per_worker is -0.5"),
    ],
)
def test_resources_that_make_no_sense_are_refused(field: str, value: float, message: str) -> None:
    with pytest.raises(ExecutionError, match=message):
        LaneResources(**{field: value})  # type: ignore[arg-type]


def test_nccl_is_used_only_where_every_rank_has_its_own_gpu() -> None:
    assert process_group_backend(0) == "gloo"
    assert process_group_backend(0.5) == "gloo"
    assert process_group_backend(1) == "cpu:gloo,cuda:nccl"


@pytest.mark.parametrize(
    ("memory", "shared", "expected"),
    [
        (5 * GIB, 24 * GIB, GIB),
        (64 * GIB, 24 * GIB, 2 * GIB),
        (64 * GIB, GIB, int(0.8 * GIB)),
        (5 * GIB, 64 * 1024**2, GIB),  # a container's default shared memory is too small to be of use
    ],
)
def test_the_object_store_stays_modest_and_within_shared_memory(memory: int, shared: int, expected: int) -> None:
    assert object_store_bytes(memory, shared) == expected
