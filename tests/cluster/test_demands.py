"""What our lanes ask for against what the described nodes offer, by Ray's own autoscaling code."""

import copy
import re
from typing import Any

import pytest

from al_ray.runtime.cluster.resources import LaneResources
from al_ray.runtime.grid import HEAD_SHARE
from tests.cluster.manifests import CLOUDS, CLUSTER, RAY_JOB, cluster_config, commands, kubernetes_objects, text_of

TRIAL = {"node:__internal_head__": HEAD_SHARE}
TOKENISING = {"CPU": 1.0}


def kuberay_config(cloud: str) -> dict[str, Any]:
    """Return the autoscaling configuration that Ray's KubeRay code derives from the job's cluster, checked by Ray."""
    from ray.autoscaler._private.kuberay import autoscaling_config as kuberay

    spec = kubernetes_objects(cloud)[1]["spec"]["rayClusterSpec"]
    cluster = {"metadata": {"name": "al-ray", "namespace": "default"}, "spec": spec}
    config: dict[str, Any] = kuberay._derive_autoscaling_config_from_ray_cr(cluster)
    return config


CONFIGS = [(kind, cloud) for kind in ("ray up", "kuberay") for cloud in CLOUDS]


def config_of(kind: str, cloud: str) -> dict[str, Any]:
    """Return one of the four descriptions."""
    return cluster_config(cloud) if kind == "ray up" else kuberay_config(cloud)


def accelerator(cloud: str) -> str:
    """Return Ray's name of the cloud's GPU."""
    return {"aws": "A10G", "gcp": "L4"}[cloud]


def bundles(workers: int, resources: LaneResources) -> list[dict[str, float]]:
    """Return what a lane's Ray Train workers ask for."""
    from al_ray.runtime.lane.trial import scaling

    bundle: dict[str, float] = scaling(workers, resources)._resources_per_worker_not_none
    return [bundle] * workers


def schedule(config: dict[str, Any], lanes: list[list[dict[str, float]]]) -> tuple[dict[str, int], int]:
    """Ask Ray's autoscaler for a cluster that has no node yet.

    Returns:
        nodes to launch by type, and how many demands no node can meet.
    """
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil
    from ray.core.generated.autoscaler_pb2 import GangResourceRequest, ResourceRequestByCount

    described = AutoscalingConfig(copy.deepcopy(config), skip_content_hash=True)
    make = ResourceRequestUtil.make
    gangs = [GangResourceRequest(requests=[make(bundle) for bundle in lane]) for lane in lanes]
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=described.get_node_type_configs(),
        max_num_nodes=config["max_workers"],
        resource_requests=[ResourceRequestByCount(request=make(TOKENISING), count=1)],
        gang_resource_requests=gangs,
    )
    reply = ResourceDemandScheduler().schedule(request)
    missing = len(reply.infeasible_resource_requests) + len(reply.infeasible_gang_resource_requests)
    return {launch.instance_type: launch.count for launch in reply.to_launch}, missing


@pytest.mark.parametrize(("kind", "cloud"), CONFIGS)
def test_eight_lanes_of_a_gpu_each_start_eight_workers_from_none(kind: str, cloud: str) -> None:
    lane = bundles(1, LaneResources(cpus_per_worker=6, gpus_per_worker=1, accelerator_type=accelerator(cloud)))
    launched, missing = schedule(config_of(kind, cloud), [lane] * 8)
    assert (sum(launched.values()), len(launched), missing) == (8, 1, 0)


def asked_for(words: str) -> tuple[int, LaneResources]:
    """Return the lanes that the ``--set`` options of a command ask for."""
    options = dict(word.split("=", 1) for word in words.split() if "=" in word)
    gpus, cpus = float(options.get("gpus_per_worker", 0)), int(options["cpus_per_worker"])
    return int(options["lanes"]), LaneResources(cpus_per_worker=cpus, gpus_per_worker=gpus)


def commented(text: str) -> list[str]:
    """Return the settings that the comments of a description name, such as ``lanes=8 cpus_per_worker=6``."""
    words = " ".join(line.strip().lstrip("# ") for line in text.splitlines() if line.strip().startswith("# "))
    return [found.group() for found in re.finditer(r"lanes=\d+(?: \w+=\d+(?:\.\d+)?)+", words)]


@pytest.mark.parametrize(("kind", "cloud"), CONFIGS)
def test_what_the_examples_ask_for_fits_on_the_nodes_that_they_describe(kind: str, cloud: str) -> None:
    """The commands, and the settings that comments name for other studies."""
    config = config_of(kind, cloud)
    described = text_of(CLUSTER if kind == "ray up" else RAY_JOB, cloud)
    commands_of = commands("ray job submit")[1:] if kind == "ray up" else [job_command(cloud)]
    examples = [*commands_of, *commented(described)]
    assert len(examples) >= 3
    shares = set()
    for words in examples:
        n_lanes, resources = asked_for(words)
        launched, missing = schedule(config, [bundles(1, resources)] * n_lanes)
        assert missing == 0, words
        assert sum(launched.values()) <= 8
        shares.add(resources.gpus_per_worker)
    assert shares == {0, 0.5, 1}


def job_command(cloud: str) -> str:
    """Return the command of the job on Kubernetes."""
    return str(kubernetes_objects(cloud)[1]["spec"]["entrypoint"])


@pytest.mark.parametrize(("kind", "cloud"), CONFIGS)
def test_two_half_gpus_share_a_worker_and_two_ranks_span_two(kind: str, cloud: str) -> None:
    config = config_of(kind, cloud)
    halves = [bundles(1, LaneResources(cpus_per_worker=3, gpus_per_worker=0.5))] * 4
    wide = bundles(2, LaneResources(cpus_per_worker=6, gpus_per_worker=1))
    assert (sum(schedule(config, halves)[0].values()), schedule(config, halves)[1]) == (2, 0)
    assert (sum(schedule(config, [wide])[0].values()), schedule(config, [wide])[1]) == (2, 0)


@pytest.mark.parametrize(("kind", "cloud"), CONFIGS)
def test_a_lane_that_no_node_can_hold_is_found(kind: str, cloud: str) -> None:
    config = config_of(kind, cloud)
    for impossible in (
        LaneResources(cpus_per_worker=16, gpus_per_worker=1),
        LaneResources(gpus_per_worker=2),
        LaneResources(gpus_per_worker=1, accelerator_type="H100"),
    ):
        assert schedule(config, [bundles(1, impossible)])[1] == 1
    nine = [bundles(1, LaneResources(cpus_per_worker=6, gpus_per_worker=1))] * 9
    assert schedule(config, nine)[1] == 1


@pytest.mark.parametrize(("kind", "cloud"), CONFIGS)
def test_the_head_holds_every_trial_and_no_worker(kind: str, cloud: str) -> None:
    from ray._common.constants import HEAD_NODE_RESOURCE_NAME
    from ray.autoscaler._private.resource_demand_scheduler import get_bin_pack_residual

    config = config_of(kind, cloud)
    nodes = config["available_node_types"]
    head = {**nodes[config["head_node_type"]]["resources"], HEAD_NODE_RESOURCE_NAME: 1.0}
    (worker,) = (node["resources"] for name, node in nodes.items() if name != config["head_node_type"])
    lane = bundles(1, LaneResources())
    assert get_bin_pack_residual([head], [TRIAL] * 100)[0] == []
    assert get_bin_pack_residual([head], lane)[0] == lane
    assert get_bin_pack_residual([worker], [TRIAL])[0] == [TRIAL]
    assert get_bin_pack_residual([worker], lane)[0] == []
