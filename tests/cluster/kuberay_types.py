"""The fields of KubeRay's resources (ray.io/v1, KubeRay 1.7), by name and type, and a check of a manifest against them.

Kubernetes refuses no unknown field of a custom resource, it drops it; so a misspelled one has to be found here. Written
from the Go types of ray-project/kuberay, ``ray-operator/apis/ray/v1``. What is not a KubeRay type (pod templates,
container resources) is of Kubernetes' own schemas and left to them: ``object``.
"""

from collections.abc import Iterator, Mapping
from typing import Any

Fields = dict[str, Any]

AUTOSCALER_OPTIONS: Fields = {
    "version": ("v1", "v2"),
    "upscalingMode": ("Default", "Aggressive", "Conservative"),
    "idleTimeoutSeconds": int,
    "image": str,
    "imagePullPolicy": ("Always", "IfNotPresent", "Never"),
    "resources": object,
    "securityContext": object,
    "env": object,
    "envFrom": object,
    "volumeMounts": object,
    "command": [str],
    "args": [str],
}
HEAD_GROUP: Fields = {
    "template": object,
    "headService": object,
    "enableIngress": bool,
    "ingressOptions": object,
    "resources": {str: str},
    "labels": {str: str},
    "rayStartParams": {str: str},
    "serviceType": ("ClusterIP", "NodePort", "LoadBalancer"),
}
WORKER_GROUP: Fields = {
    "groupName": str,
    "suspend": bool,
    "replicas": int,
    "minReplicas": int,
    "maxReplicas": int,
    "numOfHosts": int,
    "idleTimeoutSeconds": int,
    "priority": int,
    "resources": {str: str},
    "labels": {str: str},
    "rayStartParams": {str: str},
    "template": object,
    "scaleStrategy": {"workersToDelete": [str]},
}
RAY_CLUSTER: Fields = {
    "rayVersion": str,
    "suspend": bool,
    "managedBy": ("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"),
    "upgradeStrategy": {"type": ("Recreate", "None")},
    "authOptions": {"mode": ("disabled", "token"), "secretName": str, "enableK8sTokenAuth": bool},
    "autoscalerOptions": AUTOSCALER_OPTIONS,
    "enableInTreeAutoscaling": bool,
    "headServiceAnnotations": {str: str},
    "gcsFaultToleranceOptions": object,
    "historyServerOptions": object,
    "networkPolicy": object,
    "tlsOptions": {"enabled": bool},
    "headGroupSpec": HEAD_GROUP,
    "workerGroupSpecs": [WORKER_GROUP],
}
RAY_JOB: Fields = {
    "activeDeadlineSeconds": int,
    "backoffLimit": int,
    "rayClusterSpec": RAY_CLUSTER,
    "submitterPodTemplate": object,
    "metadata": {str: str},
    "clusterSelector": {str: str},
    "submitterConfig": {"backoffLimit": int},
    "managedBy": ("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"),
    "deletionStrategy": object,
    "entrypoint": str,
    "runtimeEnvYAML": str,
    "jobId": str,
    "submissionMode": ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
    "entrypointResources": str,
    "entrypointNumCpus": (int, float),
    "entrypointNumGpus": (int, float),
    "ttlSecondsAfterFinished": int,
    "shutdownAfterJobFinishes": bool,
    "suspend": bool,
}


def misfits(value: Any, wanted: Any, at: str = "spec") -> Iterator[str]:
    """Yield what does not fit, one sentence each.

    Args:
        value: part of a manifest.
        wanted: fields by name, ``{str: type}`` for a map, ``[type]`` for a list, a tuple of words or types, or a type.
        at: where the value stands.
    """
    if isinstance(wanted, dict):
        yield from _fields(value, wanted, at)
    elif isinstance(wanted, list):
        for number, item in enumerate(value if isinstance(value, list) else [value]):
            yield from misfits(item, wanted[0], f"{at}[{number}]")
    elif isinstance(wanted, tuple) and isinstance(wanted[0], str):
        if value not in wanted:
            yield f"{at} is {value!r}, one of {wanted} would be right"
    elif (wanted is int and isinstance(value, bool)) or not isinstance(value, wanted):
        yield f"{at} is {value!r}, not {wanted}"


def _fields(value: Any, wanted: Fields, at: str) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield f"{at} is {value!r}, not a mapping"
        return
    for name, part in value.items():
        kind = wanted.get(name, wanted.get(str))  # type: ignore[call-overload]
        if kind is None:
            yield f"{at} has no field {name!r}"
        else:
            yield from misfits(part, kind, f"{at}.{name}")
