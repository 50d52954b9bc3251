"""The cluster descriptions against the schemas and the code of those who will read them: Ray, AWS, Kubernetes, KubeRay.

Nothing here talks to a cloud. Every check has a broken variant that it must refuse.
"""

import copy
import re
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.cluster.kuberay_types import RAY_JOB as RAY_JOB_FIELDS
from tests.cluster.kuberay_types import misfits
from tests.cluster.manifests import (
    CLOUDS,
    CLUSTER,
    DOCKERFILE,
    RAY_JOB,
    ROOT,
    cluster_config,
    kubernetes_objects,
    page,
    text_of,
)

KUBERNETES = "1.37"
EVERYWHERE = {"BUCKET", "REGISTRY", "TAG"}
PLACEHOLDERS = {
    "aws": {"AMI_ID", "HEAD_INSTANCE_PROFILE_ARN", "WORKER_INSTANCE_PROFILE_ARN", "ROLE_ARN", *EVERYWHERE},
    "gcp": {"PROJECT_ID", "SOURCE_IMAGE", "WORKER_SERVICE_ACCOUNT", "GCP_SERVICE_ACCOUNT", *EVERYWHERE},
}
# Words in capitals that mean themselves.
WORDS = {"CPU", "GPU", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "PERSISTENT", "SPOT", "ON_DEMAND", "DELETE", "TERMINATE"}
WORDS |= {"HF_HUB_DISABLE_TELEMETRY", "MLFLOW_DISABLE_TELEMETRY", "RAY_JOB_STOP_WAIT_TIME_S"}


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    """Do what `ray up` does with its file before it talks to the cloud."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    full: dict[str, Any] = prepare_config(copy.deepcopy(config))
    validate_config(full)
    return full


@pytest.mark.parametrize("cloud", CLOUDS)
def test_ray_up_takes_the_cluster_and_fills_in_its_defaults(cloud: str) -> None:
    full = prepared(cluster_config(cloud))
    assert full["provider"]["type"] == cloud
    assert full["available_node_types"]["head"]["max_workers"] == 0
    assert full["worker_setup_commands"][:2] == full["head_setup_commands"][:2] == full["setup_commands"]
    assert any("ray start --head" in command for command in full["head_start_ray_commands"])


@pytest.mark.parametrize("cloud", CLOUDS)
def test_ray_up_refuses_a_misspelled_key(cloud: str) -> None:
    from jsonschema import ValidationError

    config = cluster_config(cloud)
    with pytest.raises(ValidationError, match="idle_timeout"):
        prepared({**config, "idle_timeout": 10})
    config["available_node_types"]["gpu_spot"]["max_worker"] = 8
    with pytest.raises(ValidationError, match="max_worker"):
        prepared(config)


def test_a_cluster_of_one_cloud_says_nothing_of_the_other() -> None:
    aws, gcp = (yaml.safe_dump(cluster_config(cloud)) for cloud in CLOUDS)
    assert not re.search(r"machineType|gcp|google", aws)
    assert not re.search(r"InstanceType|aws|boto|Arn", gcp)
    assert not re.search(r"eks|ARN", text_of(RAY_JOB, "gcp").split("apiVersion", 1)[1])


def ec2_request(node_config: dict[str, Any]) -> None:
    """Check a machine description against the API model that AWS publishes in botocore."""
    import botocore.session
    from botocore.validate import validate_parameters

    model = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances")
    validate_parameters({**node_config, "MinCount": 1, "MaxCount": 1}, model.input_shape)


def test_ec2_knows_every_field_of_the_machines() -> None:
    from botocore.exceptions import ParamValidationError

    nodes = cluster_config("aws")["available_node_types"]
    for node in nodes.values():
        ec2_request(node["node_config"])
    with pytest.raises(ParamValidationError, match="InstanceMarketOption"):
        ec2_request({**nodes["head"]["node_config"], "InstanceMarketOption": {"MarketType": "spot"}})


# The fields of a Compute Engine instance that are used here, as in the reference of instances.insert.
GCE_SCHEDULING = {
    "provisioningModel": ("STANDARD", "SPOT"),
    "instanceTerminationAction": ("DELETE", "STOP"),
    "onHostMaintenance": ("MIGRATE", "TERMINATE"),
    "automaticRestart": bool,
}
GCE_DISK = {
    "boot": bool,
    "autoDelete": bool,
    "type": ("PERSISTENT", "SCRATCH"),
    "initializeParams": {"diskSizeGb": int, "sourceImage": str},
}
GCE_INSTANCE = {
    "machineType": str,
    "disks": [GCE_DISK],
    "guestAccelerators": [{"acceleratorType": str, "acceleratorCount": int}],
    "scheduling": GCE_SCHEDULING,
    "serviceAccounts": [{"email": str, "scopes": [str]}],
    "metadata": {"items": [{"key": str, "value": str}]},
}


def test_compute_engine_knows_every_field_of_the_machines() -> None:
    nodes = cluster_config("gcp")["available_node_types"]
    for node in nodes.values():
        assert not list(misfits(node["node_config"], GCE_INSTANCE))
    as_a_list = {**nodes["gpu_spot"]["node_config"], "scheduling": [{"preemptible": True}]}
    assert list(misfits(as_a_list, GCE_INSTANCE)) == ["spec.scheduling is [{'preemptible': True}], not a mapping"]


def test_workers_are_spot_machines_and_the_head_is_not() -> None:
    aws, gcp = (cluster_config(cloud)["available_node_types"] for cloud in CLOUDS)
    assert aws["gpu_spot"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert gcp["gpu_spot"]["node_config"]["scheduling"]["provisioningModel"] == "SPOT"
    assert "InstanceMarketOptions" not in aws["head"]["node_config"]
    assert "scheduling" not in gcp["head"]["node_config"]


def valid(kubernetes_object: dict[str, Any]) -> None:
    """Check an object of Kubernetes' own against its published schema; unknown keys are refused."""
    import kubernetes_validate

    kubernetes_validate.validate(kubernetes_object, KUBERNETES, strict=True)


def templates(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the pods of a RayJob as objects of Kubernetes' own."""
    spec = job["spec"]["rayClusterSpec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        meta = {"name": group.get("groupName", "head")}
        yield {"apiVersion": "v1", "kind": "PodTemplate", "metadata": meta, "template": group["template"]}


@pytest.mark.parametrize("cloud", CLOUDS)
def test_kubernetes_takes_the_account_the_metadata_and_every_pod(cloud: str) -> None:
    account, job = kubernetes_objects(cloud)
    valid(account)
    valid({"apiVersion": "v1", "kind": "ConfigMap", "metadata": job["metadata"]})
    assert [pod["metadata"]["name"] for pod in templates(job)] == ["head", "gpu-spot"]
    for pod in templates(job):
        valid(pod)
        assert pod["template"]["spec"]["serviceAccountName"] == account["metadata"]["name"]


def test_kubernetes_refuses_a_misspelled_key_of_a_pod() -> None:
    import kubernetes_validate

    head, worker = templates(kubernetes_objects("aws")[1])
    head["template"]["spec"]["serviceAccount_name"] = "al-ray"
    worker["template"]["spec"]["containers"][0]["volumeMount"] = []
    for pod, wrong in ((head, "serviceAccount_name"), (worker, "volumeMount")):
        with pytest.raises(kubernetes_validate.ValidationError, match=wrong):
            valid(pod)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_kuberay_knows_every_field_of_the_job(cloud: str) -> None:
    job = kubernetes_objects(cloud)[1]
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert not list(misfits(job["spec"], RAY_JOB_FIELDS))


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (["backoffLimits"], 2, "spec has no field 'backoffLimits'"),
        (["submissionMode"], "HttpMode", "spec.submissionMode is 'HttpMode'"),
        (["backoffLimit"], True, "spec.backoffLimit is True"),
        (["rayClusterSpec", "authOptions", "mode"], "on", "spec.rayClusterSpec.authOptions.mode is 'on'"),
        (["rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"], 0, "num-cpus is 0"),
        (["rayClusterSpec", "workerGroupSpecs", 0, "maxReplica"], 8, "has no field 'maxReplica'"),
    ],
)
def test_a_field_that_kuberay_does_not_know_is_found(path: list[Any], value: Any, sentence: str) -> None:
    spec = kubernetes_objects("aws")[1]["spec"]
    place: Any = spec
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    (found,) = misfits(spec, RAY_JOB_FIELDS)
    assert sentence in found


def unknown_options(group: dict[str, Any]) -> set[str]:
    """Return the start parameters of a group that are no options of `ray start`."""
    from ray.scripts.scripts import start

    return {name for name in group["rayStartParams"] if not any(f"--{name}" in option.opts for option in start.params)}


@pytest.mark.parametrize("cloud", CLOUDS)
def test_ray_start_knows_every_start_parameter(cloud: str) -> None:
    spec = kubernetes_objects(cloud)[1]["spec"]["rayClusterSpec"]
    head = spec["headGroupSpec"]
    for group in (head, *spec["workerGroupSpecs"]):
        assert unknown_options(group) == set()
    head["rayStartParams"]["num-cpu"] = "0"
    assert unknown_options(head) == {"num-cpu"}


def test_versions_agree() -> None:
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    (ray,) = re.findall(r"^ray==(\S+)$", constraints, flags=re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (asked,) = (text.partition("]")[2] for text in project["dependencies"] if text.startswith("ray["))
    (base,) = re.findall(r"^FROM (\S+)$", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert base == cluster_config("aws")["docker"]["image"] == f"rayproject/ray:{ray}-py311-gpu"
    assert kubernetes_objects("aws")[1]["spec"]["rayClusterSpec"]["rayVersion"] == ray
    assert asked.startswith(f">={ray.rpartition('.')[0]},")
    assert project["requires-python"].startswith(">=3.11,")


@pytest.mark.parametrize("cloud", CLOUDS)
def test_no_placeholder_is_left_unsaid(cloud: str) -> None:
    texts = [text_of(path, cloud) for path in (CLUSTER, RAY_JOB)]
    values = "\n".join(yaml.safe_dump_all(yaml.safe_load_all(text)) for text in texts)
    found = set(re.findall(r"\b[A-Z][A-Z_]{2,}\b", values))
    assert found - WORDS == PLACEHOLDERS[cloud]
    for name in PLACEHOLDERS[cloud]:
        assert f"`{name}`" in page()
