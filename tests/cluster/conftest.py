"""A Ray of two nodes on this machine: real processes, on loopback only, with a token, for the tests of this folder."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from al_ray.cli.app import app
from tests.cli.conftest import bert, computed
from tests.processes import LANE_TITLES
from tests.waiting import PATIENCE_S, wait_until

__all__ = ["bert"]

ROOT = Path(__file__).parents[2]


def command_lines() -> dict[int, str]:
    """Return the command line of every process of this machine that can be read."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return found


def children(pid: int) -> dict[int, str]:
    """Return the processes that were started by a process and by those, with their command lines."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found, fresh = set[int](), {pid}
    while fresh:
        fresh = {child for child, parent in parents.items() if parent in fresh} - found
        found |= fresh
    return {child: line for child, line in command_lines().items() if child in found}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Node:
    """A node's program, and the process of it that Ray's workers hang on."""

    program: "subprocess.Popen[str]"
    raylet: int
    node_id: str


@dataclass
class TwoNodes:
    """The head, with one CPU, and a second node, with one CPU and a resource that says it had an A10G."""

    folder: Path
    gcs: str
    dashboard: str
    environment: dict[str, str]
    started: "list[subprocess.Popen[str]]" = field(default_factory=list)
    second: Node | None = None

    def start(
        self, *command: str, cwd: Path = ROOT, environment: Mapping[str, str] = MappingProxyType({})
    ) -> "subprocess.Popen[str]":
        """Start a program beside the cluster, in a process group of its own; it is ended with the cluster at last."""
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def run_study(
        self,
        path: Path,
        storage: Path,
        *settings: str,
        program: str = "pipelines.run_study",
        words: Sequence[str] = (),
        **environment: str,
    ) -> "subprocess.Popen[str]":
        """Start a driver that joins the cluster."""
        address = [] if any(setting.startswith("address=") for setting in settings) else [f"address={self.gcs}"]
        options = [word for setting in ("tracking=off", *address, *settings) for word in ("--set", setting)]
        command = [sys.executable, "-m", program, str(path), "--storage", str(storage), *options, *words]
        return self.start(*command, environment=environment)

    def job(self, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Run a command of ``ray job`` to its end."""
        command = ray_command("job", words[0], "--address", self.dashboard, *words[1:])
        process = self.start(*command, environment=environment)
        output, _ = process.communicate(timeout=PATIENCE_S)
        return subprocess.CompletedProcess(process.args, process.returncode, output)

    def start_second_node(self) -> Node:
        """Return the second node, started anew if it is gone."""
        if self.second is None or self.second.program.poll() is not None:
            script, folder = Path(__file__).with_name("second_node.py"), self.folder / "b"
            program = self.start(sys.executable, str(script), self.gcs, str(folder))
            assert program.stdout is not None
            for line in program.stdout:
                if line.startswith("raylet "):
                    _, raylet, node_id = line.split()
                    self.second = Node(program, int(raylet), node_id)
                    return self.second
            raise AssertionError(f"the second node ended with {program.wait()}")
        return self.second

    def kill_second_node(self) -> None:
        """Kill the second node with all that runs on it, if there is one."""
        if self.second is not None:
            kill([self.second.raylet, *children(self.second.raylet), self.second.program.pid])
            self.second.program.wait()

    def processes(self) -> dict[int, str]:
        """Return what runs below the programs that were started here, with command lines."""
        return {
            pid: line
            for process in self.started
            if process.poll() is None
            for pid, line in children(process.pid).items()
        }

    def busy(self) -> list[str]:
        """Return the actors of studies that live on the two nodes."""
        return [line for line in self.processes().values() if line.startswith(LANE_TITLES)]

    def end(self) -> None:
        """End every process, the head last; a node is not asked, since it takes half a minute to leave in order."""
        for process in reversed(self.started):
            below = children(process.pid)
            if process.poll() is None:
                process.kill()
            left = command_lines()
            kill([pid for pid, line in below.items() if left.get(pid) == line])
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def ray_command(*words: str) -> Sequence[str]:
    return [sys.executable, "-m", "ray.scripts.scripts", *words]


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of head, nodes and drivers: loopback only, a token, and no other Ray or MLflow."""
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32), encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    return kept | {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_maximum_startup_concurrency": "32",
        "RAY_worker_niceness": "0",
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "300",
    }


@pytest.fixture(scope="package")
def cluster() -> Iterator[TwoNodes]:
    """Start the head; end it and all that was started beside it, and see that nothing is left."""
    # The path of a socket has 107 characters at most, and pytest's folders are long.
    folder = Path(tempfile.mkdtemp(prefix="al", dir="/tmp"))
    port, dashboard = free_port(), free_port()
    ray = TwoNodes(folder, f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}", environment(folder))
    try:
        start_head(ray, {"port": port, "dashboard-port": dashboard, "num-cpus": 1})
        yield ray
    finally:
        ray.end()
        wait_until(lambda: not processes_of(folder), "the processes of both nodes end")
        shutil.rmtree(folder)


def processes_of(folder: Path) -> dict[int, str]:
    return {pid: line for pid, line in command_lines().items() if str(folder) in line}


def start_head(ray: TwoNodes, options: dict[str, object]) -> None:
    options |= {
        "dashboard-host": "127.0.0.1",
        "dashboard-agent-listen-port": 0,
        "num-gpus": 0,
        "object-store-memory": 128 * 1024**2,
        "temp-dir": ray.folder / "a",
    }
    words = [f"--{name}={value}" for name, value in options.items()]
    head = ray.start(*ray_command("start", "--head", "--block", "--disable-usage-stats", *words))
    assert head.stdout is not None
    said = []
    for line in head.stdout:
        said.append(line)
        if "This command will now block" in line:
            return
    raise AssertionError("the head did not start:\n" + "".join(said))


def nodes_of(storage: Path) -> list[str]:
    """Return the nodes on which cells were started, in the order of their starts."""
    runs = [run for path in storage.rglob("provenance.json") for run in json.loads(path.read_text(encoding="utf-8"))]
    return [run["node"] for run in sorted(runs, key=lambda run: run["time"])]


@dataclass(frozen=True)
class LocalRun:
    """A study and what it computes in one process without Ray."""

    path: Path
    computed: dict[str, Any]


def write_study(folder: Path, model: Path, **defaults: Any) -> Path:
    """Write a study named ``tiny`` of small cells; pool and rounds are such that a cell takes some seconds."""
    base = {
        "dataset": {"name": "tickets", "n_train": 160, "n_test": 60},
        "model": str(model),
        "strategy": "margin",
        "initial_size": 20,
        "query_size": 10,
        "rounds": 14,
        "max_tokens": 32,
        "finetune": {"epochs": 2, "learning_rate": 1e-3},
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({"study": "tiny", "defaults": base | defaults, "grid": [{}]}), encoding="utf-8")
    return path


@pytest.fixture(scope="package")
def two_cells(tmp_path_factory: pytest.TempPathFactory, bert: Path) -> LocalRun:
    folder = tmp_path_factory.mktemp("two_cells")
    path = write_study(folder, bert, seed=[1, 2])
    words = ["run", str(path), "--local", "--storage", str(folder / "local"), "--set", "tracking=off"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    return LocalRun(path, computed(folder / "local"))


@pytest.fixture
def two_nodes(cluster: TwoNodes) -> TwoNodes:
    cluster.start_second_node()
    return cluster
