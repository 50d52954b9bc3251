"""The commands of docs/clusters.md and what a job uploads: parsed and packed by Ray's own code; nothing starts."""

import itertools
import os
import re
import shlex
import zipfile
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from al_ray.errors import ConfigError
from al_ray.study.file import Execution, load_study, set_options
from tests.cluster.manifests import (
    CLUSTER,
    RAY_JOB,
    ROOT,
    RUNTIME_ENV,
    cluster_config,
    commands,
    kubernetes_objects,
    page,
)

MIB = 2**20


def parse(command: Any, words: list[str]) -> dict[str, Any]:
    """Parse a command line as its program would and return its parameters.

    Args:
        command: a group of commands, of click or of Typer, which brings a click of its own.
        words: the line without the program's name.
    """
    while hasattr(command, "commands"):
        name, *words = words
        command = command.get_command(None, name)
        assert command is not None, f"no command {name!r}"
    params: dict[str, Any] = command.make_context(command.name, words).params
    return params


def ray(line: str) -> dict[str, Any]:
    """Parse a line that begins with ``ray``."""
    from ray.scripts.scripts import cli

    words = shlex.split(line.partition(" > ")[0])
    assert words.pop(0) == "ray"
    return parse(cli, words)


def test_ray_knows_every_command_and_option_of_the_page() -> None:
    lines = commands("ray ")
    assert {line.split()[1] for line in lines} >= {"start", "up", "dashboard", "down", "job", "get-auth-token"}
    for line in lines:
        ray(line)
    with pytest.raises(click.NoSuchOption, match="working-folder"):
        ray("ray job submit --working-folder . -- python -m pipelines.run_study")


def test_al_ray_knows_its_commands_of_the_page() -> None:
    import typer

    from al_ray.cli.app import app

    (line,) = commands("al-ray ")
    assert parse(typer.main.get_command(app), shlex.split(line)[1:])["storage"] == "s3://BUCKET/results"


def runs() -> dict[str, list[str]]:
    """Return the command lines that start a study: two of the page, and those of the RayJob."""
    own, cloud = (list(ray(line)["entrypoint"]) for line in commands("ray job submit"))
    jobs = {cloud: kubernetes_objects(cloud)[1]["spec"]["entrypoint"].split() for cloud in ("aws", "gcp")}
    return {"own": own, "cloud": cloud, "eks": jobs["aws"], "gke": jobs["gcp"]}


def execution(words: list[str]) -> Execution:
    """Return the execution that a command line asks for."""
    pairs = list(itertools.pairwise(words))
    options = [value for option, value in pairs if option == "--set"]
    (storage,) = [value for option, value in pairs if option == "--storage"]
    return set_options(Execution(), [*options, f"storage={storage}"])


def test_every_study_is_started_by_the_same_module_with_options_that_exist() -> None:
    for words in runs().values():
        assert words[:3] == ["python", "-m", "pipelines.run_study"]
        execution(words)
    with pytest.raises(ConfigError, match="lane"):
        execution([*runs()["cloud"], "--set", "lane=8"])


def test_the_page_and_the_ray_job_ask_for_the_same() -> None:
    own, cloud, eks, gke = (execution(words) for words in runs().values())
    assert cloud == eks == gke.model_copy(update={"storage": eks.storage})
    assert gke.storage == eks.storage.replace("s3://", "gs://")
    assert cloud.lanes is not None
    assert cloud.wait_for_nodes
    assert cloud.lanes * cloud.gpus_per_worker == cluster_config("aws")["max_workers"]  # each has one GPU
    assert own == Execution(storage="$PWD/results")


def test_the_studies_exist_where_the_commands_look() -> None:
    in_checkout = [runs()[name][3] for name in ("own", "cloud")]
    for name in in_checkout:
        load_study(ROOT / name)
    (line,) = commands("kubectl create configmap")
    _, _, _, configmap, source = line.split()
    key, path = source.removeprefix("--from-file=").split("=")
    pod = kubernetes_objects("aws")[1]["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert {"name": "study", "configMap": {"name": configmap}} in pod["volumes"]
    (mount,) = (mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "study")
    assert runs()["eks"][3] == f"{mount['mountPath']}/{key}"
    assert path in in_checkout


def test_the_names_of_the_kubernetes_commands_are_those_of_the_manifest() -> None:
    job = kubernetes_objects("aws")[1]
    spec = job["spec"]["rayClusterSpec"]
    head = spec["headGroupSpec"]["template"]
    (image,) = {
        group["template"]["spec"]["containers"][0]["image"]
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])
    }
    assert commands("docker build") == [f"docker build -f pipelines/cluster/Dockerfile -t {image} ."]
    assert commands("docker push") == [f"docker push {image}"]
    assert commands("kubectl apply") == ["kubectl apply -f pipelines/cluster/rayjob.yaml"]
    assert commands("kubectl delete") == [f"kubectl delete rayjob {job['metadata']['name']}"]
    ((key, value),) = head["metadata"]["labels"].items()
    (line,) = commands("kubectl exec")
    assert f"-l {key}={value} " in line
    assert f"-c {head['spec']['containers'][0]['name']} " in line


def test_the_command_that_swaps_the_clouds_is_the_one_in_the_files() -> None:
    (line,) = commands("sed")
    assert f"#   {line}\n" in CLUSTER.read_text(encoding="utf-8")
    swap = line.partition(" cluster.yaml")[0]
    assert f"#   {swap} pipelines/cluster/rayjob.yaml" in RAY_JOB.read_text(encoding="utf-8")


def test_the_token_is_where_the_machines_of_ray_up_look_for_it() -> None:
    (line,) = (line for line in commands("ray get-auth-token") if ".al-ray" in line)
    written = line.partition(" > ")[2]
    config = cluster_config("aws")
    (mounted,) = (remote for remote, local in config["file_mounts"].items() if local == os.path.dirname(written))
    options = config["docker"]["run_options"]
    assert f"--env RAY_AUTH_TOKEN_PATH={mounted}/{os.path.basename(written)}" in options
    assert "--env RAY_AUTH_MODE=token" in options
    assert all("RAY_AUTH_MODE=token" in line for line in commands("export RAY_AUTH_MODE"))
    assert len(commands("export RAY_AUTH_MODE")) == 2
    assert kubernetes_objects("aws")[1]["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}


def runtime_env() -> dict[str, Any]:
    """Return the runtime environment of a job."""
    values: dict[str, Any] = yaml.safe_load(RUNTIME_ENV.read_text(encoding="utf-8"))
    return values


def test_ray_takes_the_runtime_environment_and_refuses_a_broken_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.runtime_env import RuntimeEnv

    monkeypatch.chdir(ROOT)
    values = runtime_env()
    assert RuntimeEnv(**values).to_dict() == values
    assert set(values) <= RuntimeEnv.known_fields
    assert not {"pip", "uv", "conda"} & set(values)
    for broken, message in (({"excludes": "data"}, "excludes"), ({"env_vars": {"A": 1}}, "env_vars")):
        with pytest.raises(TypeError, match=message):
            RuntimeEnv(**{**values, **broken})


def test_both_jobs_have_the_same_environment() -> None:
    on_kubernetes = yaml.safe_load(kubernetes_objects("aws")[1]["spec"]["runtimeEnvYAML"])
    assert on_kubernetes == {"env_vars": runtime_env()["env_vars"]}
    for line in commands("ray job submit"):
        assert ray(line)["runtime_env"] == str(RUNTIME_ENV.relative_to(ROOT))


def test_the_two_lists_of_what_is_not_uploaded_are_one() -> None:
    lines = (ROOT / ".rayignore").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == runtime_env()["excludes"]


def packed(folder: Path, target: Path, excludes: list[str]) -> tuple[set[str], int]:
    """Pack a folder as `ray job submit` does; return the names and the size in bytes."""
    from ray._private.runtime_env.packaging import create_package

    create_package(str(folder), target, include_gitignore=True, excludes=list(excludes))
    with zipfile.ZipFile(target) as package:
        return set(package.namelist()), target.stat().st_size


def test_a_job_uploads_the_code_below_five_mib(tmp_path: Path) -> None:
    names, size = packed(ROOT, tmp_path / "code.zip", runtime_env()["excludes"])
    assert size < 5 * MIB
    assert {"al_ray/data/tickets.py", "al_ray/model/encoder.py", "pipelines/studies/quickstart.yaml"} <= names
    assert "al_ray/strategy/imital_v1.safetensors" in names, "a job could not use the strategy imital"
    assert not [name for name in names if re.match(r"\.git/|\.venv|tests/|docs/|data/|models/|results/", name)]


def test_data_models_and_results_stay_behind(tmp_path: Path) -> None:
    kept = ["al_ray/data/tickets.py", "pipelines/run_study.py"]
    left = ["data/trec6/train.parquet", "models/bert/model.safetensors", "results/a/spec.json", ".git/HEAD", "x/y.pt"]
    for name in (*kept, *left):
        (tmp_path / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "checkout" / name).write_text("x", encoding="utf-8")
    names, _ = packed(tmp_path / "checkout", tmp_path / "code.zip", runtime_env()["excludes"])
    assert {name for name in names if not name.endswith("/")} == set(kept)
    everything, _ = packed(tmp_path / "checkout", tmp_path / "all.zip", [])
    assert everything > set(left)


def test_the_page_says_what_was_never_run() -> None:
    assert "never been run on a cloud or on Kubernetes" in page()
