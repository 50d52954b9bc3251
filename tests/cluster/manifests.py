"""The cluster descriptions as a reader gets them: as they stand, for AWS, and with the GCP lines swapped in."""

import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster.yaml"
RAY_JOB = ROOT / "pipelines/cluster/rayjob.yaml"
RUNTIME_ENV = ROOT / "pipelines/cluster/runtime_env.yaml"
DOCKERFILE = ROOT / "pipelines/cluster/Dockerfile"
CLOUDS = ("aws", "gcp")


def page() -> str:
    """Return the page of the documentation that this folder is about."""
    return (ROOT / "docs/clusters.md").read_text(encoding="utf-8")


def commands(start: str) -> list[str]:
    """Return the page's commands that begin with these words, each in one line, without its comment."""
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", page(), flags=re.DOTALL))
    lines = blocks.replace("\\\n", " ").splitlines()
    return [re.split(r"\s{2,}#|\s#\s", line)[0].strip() for line in lines if line.startswith(start)]


def swap(text: str) -> str:
    """Swap the GCP lines in, by the very command that the file and the page name."""
    expressions = re.findall(r"-e '([^']+)'", commands("sed")[0])
    arguments = [word for expression in expressions for word in ("-e", expression)]
    return subprocess.run(["sed", *arguments], input=text, capture_output=True, text=True, check=True).stdout


def text_of(path: Path, cloud: str) -> str:
    """Return a manifest for a cloud."""
    text = path.read_text(encoding="utf-8")
    return text if cloud == "aws" else swap(text)


def cluster_config(cloud: str) -> dict[str, Any]:
    """Return what `ray up` reads."""
    config: dict[str, Any] = yaml.safe_load(text_of(CLUSTER, cloud))
    return config


def kubernetes_objects(cloud: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the service account and the RayJob."""
    account, job = yaml.safe_load_all(text_of(RAY_JOB, cloud))
    return account, job
