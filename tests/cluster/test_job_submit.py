import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

import pytest
import typer
from rich.console import Console

from al_ray.cli.run import user_errors
from tests.cli.conftest import computed
from tests.cluster.conftest import ROOT, LocalRun, TwoNodes, nodes_of, ray_command
from tests.waiting import PATIENCE_S, wait_until

# 127.0.0.1, the same written as IPv6, and ::1, in hexadecimal as in /proc/net.
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
RUN_STUDY = "pipelines.run_study"
EXCLUDED = ("__pycache__", ".git", "results", "node_modules", ".*_cache")


Process: TypeAlias = "subprocess.Popen[str]"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Copy what a job ships, so that nobody changes it while it is being sent."""
    folder = tmp_path / "checkout"
    for name in ("al_ray", "pipelines"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns(*EXCLUDED))
    return folder


def submit(
    ray: TwoNodes, checkout: Path, name: str, study: Path, storage: Path, *settings: str, program: str = RUN_STUDY
) -> Process:
    """Submit a study as docs/clusters.md does, and follow its log."""
    options = [word for setting in ("tracking=off", *settings) for word in ("--set", setting)]
    entrypoint = [sys.executable, "-m", program, str(study), "--storage", str(storage), *options]
    job = ["--submission-id", name, "--runtime-env", "pipelines/cluster/runtime_env.yaml", "--", *entrypoint]
    return ray.start(*ray_command("job", "submit", "--address", ray.dashboard, *job), cwd=checkout)


@pytest.mark.ray
def test_a_job_that_was_stopped_and_submitted_again_equals_a_local_run(
    two_nodes: TwoNodes, two_cells: LocalRun, checkout: Path, tmp_path: Path
) -> None:
    storage, gates = tmp_path / "shared", tmp_path / "gates"
    gates.mkdir()
    (gates / "0").touch()  # the first cell stands still after its second round
    settings = ("lanes=1", "accelerator_type=A10G")
    gated = "tests.cli.gated_driver"
    first = submit(two_nodes, checkout, "first", two_cells.path, storage, *settings, program=gated)
    wait_until(lambda: any(storage.rglob("round-001.json")), "a first round", first)
    stopped = two_nodes.job("stop", "first")
    log, _ = first.communicate(timeout=PATIENCE_S)
    assert "Job 'first' was stopped" in stopped.stdout
    assert "study tiny: 2 of 2 cells to run; 1 at a time" in log
    assert "interrupted. Every recorded round is kept; the same command goes on from there." in log
    wait_until(lambda: not two_nodes.busy(), "the end of the actors of a stopped job")
    kept = computed(storage)
    assert {name.split("/")[1] for name in kept} == {"round-000.json", "round-001.json", "round-001.parquet"}
    assert not unfinished(storage)
    assert two_nodes.second is not None
    assert set(nodes_of(storage)) == {two_nodes.second.node_id}, "cells went to a node without the GPUs named"

    second = submit(two_nodes, checkout, "second", two_cells.path, storage)
    log, _ = second.communicate(timeout=PATIENCE_S)
    assert second.returncode == 0, log
    assert re.search(r"study tiny: [12] of 2 cells to run.*; as many at a time as fit on the cluster", log)
    assert "Job 'second' succeeded" in log
    finished = computed(storage)
    assert kept.items() <= finished.items()
    assert finished == two_cells.computed
    assert not unfinished(storage)


def unfinished(storage: Path) -> list[Path]:
    """Return what a writer left half written: such files begin with a dot until they are whole."""
    return [path for path in storage.rglob(".*") if path.is_file()]


@pytest.mark.ray
def test_a_job_without_the_token_is_refused(cluster: TwoNodes) -> None:
    refused = cluster.job("list", RAY_AUTH_MODE="disabled")
    assert refused.returncode == 1
    assert "Unauthorized: Missing authentication token" in refused.stdout
    token = Path(cluster.environment["RAY_AUTH_TOKEN_PATH"]).read_text(encoding="utf-8")
    assert [status(cluster, sent) for sent in (None, token[::-1], token)] == [401, 403, 200]


def status(cluster: TwoNodes, token: str | None) -> int:
    """Return what the head answers to a question about its jobs."""
    sent = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{cluster.dashboard}/api/jobs/", headers=sent)) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.ray
def test_head_and_second_node_listen_on_loopback_only(two_nodes: TwoNodes) -> None:
    addresses = listening(two_nodes.processes())
    assert len(addresses) >= 5
    assert set(addresses) <= LOOPBACK


def listening(pids: Iterable[int]) -> list[str]:
    """Return the addresses, as the kernel writes them, on which some processes accept connections."""
    sockets = set()
    for pid in pids:
        with contextlib.suppress(FileNotFoundError):  # a process or a file that is gone by now
            sockets |= {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
    found = []
    for table in ("tcp", "tcp6"):
        rows = [line.split() for line in Path("/proc/net", table).read_text(encoding="ascii").splitlines()[1:]]
        found += [row[1].split(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets]
    return found


def test_sigterm_leaves_in_order_even_where_ctrl_c_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    on_sigterm = signal.getsignal(signal.SIGTERM)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    console = Console(file=io.StringIO(), record=True, width=200)
    try:
        with pytest.raises(typer.Exit) as left, user_errors(console):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGINT, before)
    assert left.value.exit_code == 143
    assert "interrupted. Every recorded round is kept" in console.export_text()
    assert signal.getsignal(signal.SIGTERM) is on_sigterm
