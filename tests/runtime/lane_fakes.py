"""Fake cells for lanes: they do what their spec says; and a tokenizer that can be checked by hand."""

import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from al_ray.errors import ModelError, RoundError
from al_ray.model.worker import Worker
from al_ray.runtime.pool import CellPool
from al_ray.runtime.tasks import CellTask, ReportRound, RoundEnded
from tests.waiting import wait_until


def texts(n_rows: int) -> pa.Table:
    return pa.table(
        {"id": range(n_rows), "label": [i % 3 for i in range(n_rows)], "text": ["x" * (i % 7) for i in range(n_rows)]}
    )


def tokenize(table: pa.Table) -> pa.Table:
    """One token per character, its value the row's id."""
    rows = zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True)
    return table.append_column("input_ids", pa.array([[i] * len(text) for i, text in rows], pa.list_(pa.int32())))


def refuse_a_text(table: pa.Table) -> pa.Table:
    raise ModelError("the tokenizer gave text 7 no token")


def lose_a_row(table: pa.Table) -> pa.Table:
    return table.slice(1)


def act(task: CellTask, pool: CellPool, worker: Worker, report: ReportRound) -> None:
    """Run the action named by the spec for as many rounds as it says; what it found takes the place of metrics."""
    for round_index in range(task.spec.get("rounds", 1)):
        found = ACTIONS[task.spec["act"]](task.spec, pool.tables, worker)
        report(RoundEnded(task.key, round_index, 0, {"pid": os.getpid(), **found}))


def encode(device: Any) -> Callable[[pa.Table], Any]:
    """Three numbers for each token: its row's id, its row's label, and one."""

    def encoded(block: pa.Table) -> Any:
        lengths = block["tokens"].combine_chunks().value_lengths().to_numpy()
        ids, labels = (np.repeat(block[name].to_numpy(), lengths) for name in ("id", "label"))
        return np.stack([ids, labels, np.ones(len(ids))], axis=1).astype(np.float32)

    return encoded


def encode_texts(device: Any) -> Callable[[pa.Table], Any]:
    """Two numbers for each text: its id, and how many texts stand in its block."""
    return lambda block: np.stack([block["id"].to_numpy(), np.full(len(block), len(block))], axis=1).astype(np.float32)


def lack_the_model(device: Any) -> Callable[[pa.Table], Any]:
    raise ModelError("model 'x' has other weights on this machine")


def look(spec: dict[str, Any], tables: Mapping[str, pa.Table], worker: Worker) -> dict[str, Any]:
    import torch

    pool = tables["pool"]
    lengths = np.array([len(tokens) for tokens in pool["input_ids"].to_pylist()])
    return {
        "n_pool": pool.num_rows,
        "n_test": tables["test"].num_rows,
        "in_order": pool["id"].to_pylist() == list(range(pool.num_rows)),
        "tokens_fit": bool(np.array_equal(lengths, np.arange(pool.num_rows) % 7)),
        "token_sum": int(sum(map(sum, pool["input_ids"].to_pylist()))),
        "in_object_store": all(in_object_store(column.chunk(0)) for column in pool.columns),
        "threads": torch.get_num_threads(),
    }


def in_object_store(block: pa.Array) -> bool:
    """Tell whether all buffers of a block lie in the mapped object store; Ray sends blocks under 100 KB by message."""
    spans = object_store_spans()
    buffers = [buffer for buffer in block.buffers() if buffer is not None and buffer.size]
    return all(any(low <= buffer.address < high for low, high in spans) for buffer in buffers)


def object_store_spans() -> list[tuple[int, int]]:
    spans = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "plasma" in line:
            low, high = line.split()[0].split("-")
            spans.append((int(low, 16), int(high, 16)))
    return spans


def refuse(spec: dict[str, Any], tables: Mapping[str, pa.Table], worker: Worker) -> dict[str, Any]:
    raise RoundError("pool exhausted in round 12")


def die_once(spec: dict[str, Any], tables: Mapping[str, pa.Table], worker: Worker) -> dict[str, Any]:
    """Kill the last rank's process at its first visit, without a word."""
    been_here = Path(spec["been_here"])
    if worker.rank == worker.world - 1 and not been_here.exists():
        been_here.touch()
        os._exit(1)
    worker.all_gather(np.zeros(1))  # wait for all
    return {}


def run_out_of_memory(spec: dict[str, Any], tables: Mapping[str, pa.Table], worker: Worker) -> dict[str, Any]:
    """Ask for more memory than this process may have: at its first visit, or always."""
    been_here = Path(spec["been_here"])
    if spec.get("always") or not been_here.exists():
        been_here.touch()
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, resource.RLIM_INFINITY))
        np.ones(2**30)
    return {}


def die(spec: dict[str, Any], tables: Mapping[str, pa.Table], worker: Worker) -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def sign_in(spec: dict[str, Any], tables: Mapping[str, pa.Table], worker: Worker) -> dict[str, Any]:
    """Leave a file named by this process, and stand still until there are as many files as the spec says."""
    folder = Path(spec["folder"])
    (folder / str(os.getpid())).touch()
    wait_until(lambda: len(list(folder.iterdir())) >= spec["n_files"], "all have signed in")
    return {}


def complain(spec: dict[str, Any], tables: Mapping[str, pa.Table], worker: Worker) -> dict[str, Any]:
    print("the coffee machine is empty", file=sys.stderr)
    raise ZeroDivisionError("seven by zero")


def gather(spec: dict[str, Any], tables: Mapping[str, pa.Table], worker: Worker) -> dict[str, Any]:
    """Rank 0 holds 3 rows, rank 1 none of one array; 1 and 2 rows of the other."""
    uneven = worker.all_gather(np.full((3 * (1 - worker.rank), 2), worker.rank + 0.5, dtype=np.float32))
    ids = worker.all_gather(np.arange(worker.rank + 1, dtype=np.int64))
    return {
        "uneven": [part.tolist() for part in uneven],
        "type": str(uneven[1].dtype),
        "shape": list(uneven[1].shape),
        "ids": [part.tolist() for part in ids],
        "said": worker.broadcast({"rank": worker.rank}),
        "gradient": averaged_gradient(worker),
    }


def averaged_gradient(worker: Worker) -> float:
    """The gradient of w * (rank + 1) is rank + 1, so two ranks average to 1.5."""
    import torch

    module = torch.nn.Linear(1, 1, bias=False)
    wrapped = worker.wrap(module)
    wrapped(torch.tensor([[worker.rank + 1.0]])).sum().backward()
    gradient = module.weight.grad
    assert gradient is not None
    return float(gradient)


def cannot_warm_up() -> None:
    raise ImportError("no module named 'weights'")


ACTIONS: dict[str, Callable[[dict[str, Any], Mapping[str, pa.Table], Worker], dict[str, Any]]] = {
    "look": look,
    "refuse": refuse,
    "die_once": die_once,
    "die": die,
    "complain": complain,
    "run_out_of_memory": run_out_of_memory,
    "sign_in": sign_in,
    "gather": gather,
}
