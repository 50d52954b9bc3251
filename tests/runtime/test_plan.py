from types import SimpleNamespace
from typing import Any

import pytest
import torch

from al_ray.errors import ExecutionError
from al_ray.model import worker as model_worker
from al_ray.model.worker import CUDA_CONTEXT_BYTES, bound_memory
from al_ray.runtime.cluster.resources import (
    LaneResources,
    NodeSize,
    lanes_that_fit,
    object_store_bytes,
    process_group_backend,
)
from al_ray.runtime.pool import EncodingActor

GIB = 1024**3


T4, A10G = frozenset({"T4"}), frozenset({"A10G"})
MIXED = [NodeSize(8, 2, T4), NodeSize(16, 4, A10G), NodeSize(64)]


def fitting(nodes: list[NodeSize], workers: int, cpus: int, gpus: float, **more: Any) -> int:
    return lanes_that_fit(nodes, workers, LaneResources(cpus_per_worker=cpus, gpus_per_worker=gpus, **more))


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
        ([NodeSize(16, 2)], 1, 1, 0.3, 6),  # three a GPU
        ([NodeSize(16, 1)], 1, 1, 0.6, 1),  # more than half a GPU is shared with nobody
        ([NodeSize(2, 4)], 1, 1, 0.5, 2),  # CPUs are the limit
        ([NodeSize(16, 0), NodeSize(4, 2)], 1, 1, 1, 2),
        ([NodeSize(0), NodeSize(8, 1), NodeSize(32, 8)], 1, 4, 1, 9),  # a head of no CPU; 1 + 8 by GPU
        ([NodeSize(0), NodeSize(8, 1), NodeSize(32, 8)], 1, 8, 1, 5),  # 1 + 4 by CPU
        ([NodeSize(16, 3), NodeSize(16, 3)], 1, 1, 2, 2),  # the third GPUs of two nodes cannot be joined
        ([NodeSize(16, 1), NodeSize(16, 3)], 2, 1, 1, 2),  # a group of two takes a GPU here and one there
        ([NodeSize(4, 1), NodeSize(4, 1), NodeSize(4, 1)], 2, 1, 0.25, 6),  # 12 quarters, CPUs suffice
        ([NodeSize(3, 1), NodeSize(3, 1)], 4, 1, 0.25, 1),  # six workers, and a group of four spans nodes
        ([NodeSize(8)], 1, 1, 0.25, 0),
        ([NodeSize(0)], 1, 1, 0, 0),
    ],
)
def test_as_many_lanes_run_as_the_nodes_hold(
    nodes: list[NodeSize], workers: int, cpus: int, gpus: float, lanes: int
) -> None:
    if lanes == 0:
        with pytest.raises(ExecutionError, match=r"hold 0 such lane\(s\)"):
            fitting(nodes, workers, cpus, gpus)
    else:
        assert fitting(nodes, workers, cpus, gpus) == lanes


def test_fewer_lanes_than_fit_may_be_requested() -> None:
    assert fitting([NodeSize(8)], 1, 1, 0, lanes=3) == 3


def test_more_lanes_than_fit_are_refused_with_the_numbers() -> None:
    message = (
        r"5 lane\(s\) of 2 worker\(s\) with 1 CPU and 0.5 GPU each do not fit: 1 node\(s\) with 8 CPU and 2 GPU "
        r"hold 2 such lane\(s\). Ask for fewer lanes"
    )
    with pytest.raises(ExecutionError, match=message):
        fitting([NodeSize(8, 2)], 2, 1, 0.5, lanes=5)


def test_more_lanes_than_fit_are_accepted_where_the_cluster_grows() -> None:
    assert fitting([NodeSize(2)], 1, 1, 0, lanes=40, wait_for_nodes=True) == 40
    assert fitting([NodeSize(0)], 2, 8, 1, lanes=1, wait_for_nodes=True) == 1
    assert fitting([NodeSize(0)], 1, 8, 1, lanes=4, wait_for_nodes=True, accelerator_type="A10G") == 4


def test_a_growing_cluster_has_to_be_told_how_many_lanes() -> None:
    with pytest.raises(ExecutionError, match=r"wait_for_nodes is on and lanes is not set.* Set lanes to what"):
        LaneResources(wait_for_nodes=True)


@pytest.mark.parametrize(("gpus", "accelerator", "lanes"), [(1, "T4", 2), (1, "A10G", 4), (1, None, 6), (0.5, "T4", 4)])
def test_a_lane_goes_only_to_nodes_with_the_gpus_named(gpus: float, accelerator: str | None, lanes: int) -> None:
    assert fitting(MIXED, 1, 1, gpus, accelerator_type=accelerator) == lanes


def test_nodes_with_other_gpus_are_not_counted_for_lanes_on_cpus_either() -> None:
    assert fitting(MIXED, 1, 8, 0, accelerator_type="A10G") == 2


def test_gpus_that_no_node_has_are_refused_with_those_that_there_are() -> None:
    message = r"accelerator_type is 'H100', and none of the 3 node\(s\) has it; they have: A10G, T4. Name one of these"
    for lanes in (None, 2):
        with pytest.raises(ExecutionError, match=message):
            fitting(MIXED, 1, 1, 1, lanes=lanes, accelerator_type="H100")
    with pytest.raises(ExecutionError, match="they have: none"):
        fitting([NodeSize(4)], 1, 1, 0, accelerator_type="T4")


def test_too_many_lanes_on_the_gpus_named_are_refused_with_their_name() -> None:
    with pytest.raises(ExecutionError, match=r"with 1 CPU and 1 GPU of type T4 each do not fit: .*hold 2 such lane"):
        fitting(MIXED, 1, 1, 1, lanes=3, accelerator_type="T4")


@pytest.mark.parametrize(
    ("share", "message"),
    [
        (1.5, "gpus_per_worker is 1.5. It takes 0, a fraction below 1"),
        (0.00001, "Ray's smallest share of a GPU is 0.0001"),
    ],
)
def test_shares_of_gpus_that_make_no_sense_are_refused(share: float, message: str) -> None:
    with pytest.raises(ExecutionError, match=message):
        LaneResources(gpus_per_worker=share)


def test_nccl_is_used_only_where_every_rank_has_its_own_gpu() -> None:
    assert process_group_backend(0) == "gloo"
    assert process_group_backend(0.5) == "gloo"
    assert process_group_backend(1) == "cpu:gloo,cuda:nccl"


def test_a_share_of_a_gpu_bounds_the_memory_that_its_worker_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """What CUDA takes of its own comes out of the share, or the shares of a GPU would add up to more than it has."""
    set_to: list[float] = []
    sizes = SimpleNamespace(total_memory=16 * GIB)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: sizes)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, device: set_to.append(share))
    device = torch.device("cuda", 0)
    assert bound_memory(0.25, device) == 4 * GIB - CUDA_CONTEXT_BYTES
    assert set_to == [(4 * GIB - CUDA_CONTEXT_BYTES) / (16 * GIB)]
    with pytest.raises(ExecutionError, match=r"gpus_per_worker is 0.01, which is 164 MiB of this GPU, and CUDA takes"):
        bound_memory(0.01, device)


@pytest.mark.parametrize(("gpus", "device", "bounds"), [(0.25, "cuda", [0.25]), (1, "cuda", []), (0, "cpu", [])])
def test_a_process_that_encodes_keeps_to_its_share_of_a_gpu_too(
    gpus: float, device: str, bounds: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_to: list[float] = []
    monkeypatch.setattr(model_worker, "bound_memory", lambda share, device: set_to.append(share))
    devices: list[str] = []

    def make_encoder(device: torch.device) -> Any:
        devices.append(device.type)

    EncodingActor(torch.get_num_threads(), gpus, make_encoder)
    assert (set_to, devices) == (bounds, [device])


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
