"""Worker side of a lane: a Ray Train worker group that runs cell after cell without starting anything.

Every rank runs :func:`serve`. Rank 0 takes the next cell from the lane's channel and hands it round; all ranks run it;
rank 0 reports. What a failed cell means for the group is settled here, at the boundary between two cells.
"""

import contextlib
import functools
import gc
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from al_ray.errors import ExecutionError
from al_ray.model.worker import bound_memory, free_memory, place_of, set_threads
from al_ray.runtime.failures import Failure, lane_survives
from al_ray.runtime.lane.channel import Assignment, Channel, RecordHeld
from al_ray.runtime.lane.exchange import ChannelClient, ExchangeState
from al_ray.runtime.lane.sharing import SharedScoring, SharingPlan
from al_ray.runtime.pool import CellPool
from al_ray.runtime.tasks import (
    LAST_EVENTS,
    CellEvent,
    CellFailed,
    CellFinished,
    CellSaid,
    HeldCell,
    HeldCells,
    RunCell,
)

if TYPE_CHECKING:
    import torch

    from al_ray.model.predict import Helpers

IDLE_TIMEOUT = timedelta(days=365)
AGREEMENT_TIMEOUT = timedelta(minutes=5)
LOG_BYTES = 4000
TELL_EVERY_S = 0.5
FREE_EVERY_S = 5.0


class CellAbandonedError(Exception):
    """The lane was closed while a cell ran; the cell stops at its next report."""


class TrainWorker:
    """One rank of a lane's worker group, inside a Ray Train worker.

    Attributes:
        rank: this worker's number in its group, from 0.
        world: number of workers in the group.
        device: the device that this worker computes on.
        helpers: the lane's sharing of scorings with the cluster; None: its workers score alone.
    """

    def __init__(self, rank: int, world: int, device: "torch.device") -> None:
        self.rank, self.world, self.device = rank, world, device
        self.helpers: Helpers | None = None
        self._idle_group: Any = None
        self._agreement_group: Any = None
        if world > 1:
            import torch.distributed as dist

            self._idle_group = dist.new_group(backend="gloo", timeout=IDLE_TIMEOUT)
            self._agreement_group = dist.new_group(backend="gloo", timeout=AGREEMENT_TIMEOUT)

    @classmethod
    def join(cls, threads: int, gpus: float) -> "TrainWorker":
        """Take this process's place in its Ray Train group, with its threads and its share of a GPU.

        Args:
            threads: CPU threads for torch and for OpenMP libraries loaded later.
            gpus: GPUs of this worker; a fraction also bounds the GPU memory it may take.

        Raises:
            ExecutionError: the fraction is too small to compute anything.
        """
        set_threads(threads)
        from ray import train
        from ray.train.torch import get_device

        device = get_device()
        if 0 < gpus < 1:
            bound_memory(gpus, device)
        context = train.get_context()
        return cls(context.get_world_rank(), context.get_world_size(), device)

    @property
    def place(self) -> Mapping[str, Any]:
        """The machine, what it computes on, and its Ray node."""
        import ray

        return {**place_of(self.device), "node": ray.get_runtime_context().get_node_id()}

    def wrap(self, module: "torch.nn.Module") -> "torch.nn.Module":
        """Return the module on this worker's device, its gradients averaged over the group when there are others."""
        module = module.to(self.device)
        if self.world == 1:
            return module
        from torch.nn.parallel import DistributedDataParallel

        device_ids = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=device_ids)

    def all_gather(self, rows: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """Return every rank's rows in rank order; ranks may hold different numbers of rows, also none.

        Args:
            rows: ``[n_rows, ...]``, same type and same shape after the first axis on all ranks.
        """
        if self.world == 1:
            return [rows]
        import torch

        row_bytes = rows.dtype.itemsize * int(np.prod(rows.shape[1:], dtype=np.int64))
        shapes = self._gather_tensors(torch.tensor([len(rows), row_bytes]))
        assert all(int(shape[1]) == row_bytes for shape in shapes), "ranks gather rows of different type or shape"
        counts = [int(shape[0]) for shape in shapes]
        padded = np.zeros((max(counts), row_bytes), dtype=np.uint8)
        padded[: len(rows)] = np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), row_bytes)
        gathered = self._gather_tensors(torch.from_numpy(padded))
        return [
            part.numpy()[:n].reshape(-1).view(rows.dtype).reshape(n, *rows.shape[1:])
            for part, n in zip(gathered, counts, strict=True)
        ]

    def broadcast(self, value: Any, *, between_cells: bool = False) -> Any:
        """Return rank 0's value on every rank; between cells it may come after hours, without that being an error."""
        if self.world == 1:
            return value
        import torch.distributed as dist

        box = [value if self.rank == 0 else None]
        dist.broadcast_object_list(box, src=0, group=self._idle_group if between_cells else None)
        return box[0]

    def all_agree(self, statement: bool) -> bool:
        """Tell whether every rank says the same; apart from the cell's own collectives, so that they cannot mix."""
        if self.world == 1:
            return True
        import torch
        import torch.distributed as dist

        votes = torch.tensor([int(statement)])
        dist.all_reduce(votes, group=self._agreement_group)
        return int(votes) in (0, self.world)

    def _gather_tensors(self, tensor: "torch.Tensor") -> "list[torch.Tensor]":
        import torch
        import torch.distributed as dist

        parts = [torch.empty_like(tensor) for _ in range(self.world)]
        dist.all_gather(parts, tensor)
        return parts


class LaneClient:
    """One rank's side of its lane's channel, of which rank 0 alone gives events.

    Rounds of a quick cell within :data:`TELL_EVERY_S` are told together, but for the first of an attempt, which shows
    that the cell gets on. What is not told yet is recorded all the same. A cell that is computed and not recorded is
    held, and recorded with others: then its rounds and its end are told.
    """

    def __init__(self, channel: ChannelClient, worker: TrainWorker) -> None:
        self._channel, self._worker = channel, worker
        self._generation = channel.call(Channel.enter) if worker.rank == 0 else 0
        self._untold: list[CellEvent] = []
        self._held, self._is_computed = HeldCells(), False
        self._tell_every_s = self._told_at = 0.0

    def next_cell(self) -> Assignment | None:
        """Wait for a cell, the same on every rank; None when the lane is closed."""
        mine: Assignment | None = None
        if self._worker.rank == 0:
            mine = self._take()
            self._told_at = -math.inf
            self._tell_every_s = TELL_EVERY_S if mine is not None and mine.task.is_quick else 0.0
        assignment: Assignment | None = self._worker.broadcast(mine, between_cells=True)
        return assignment

    def push(self, event: CellEvent) -> None:
        """Tell an event of the cell in hand.

        Raises:
            CellAbandonedError: the cell should stop.
        """
        if self._worker.rank != 0:
            return
        self._untold.append(event)
        if self._held.is_due:
            self.record_held()
        elif isinstance(event, LAST_EVENTS) or time.monotonic() - self._told_at >= self._tell_every_s:
            self._tell()

    def hold(self, key: str, cell: HeldCell) -> None:
        """Hold the cell in hand, which is computed: its end is told once it is recorded.

        Raises:
            CellAbandonedError: the lane is closed.
        """
        self._held.add(key, cell)
        self._is_computed = True
        if self._held.is_due:
            self.record_held()

    def record_held(self) -> None:
        """Record the cells that are held, and tell it.

        Raises:
            CellAbandonedError: the lane is closed; they are recorded all the same.
        """
        self._is_computed = False  # its end says so
        self._untold += self._held.record()
        self._tell()

    def close(self) -> None:
        """Record the cells that are held, whether or not anybody hears of it."""
        self._held.record()

    def say(self, key: str, words: str) -> None:
        """Tell something about a cell, for the log.

        Raises:
            CellAbandonedError: the cell should stop.
        """
        self.push(CellSaid(key, words))

    def note(self, error: Exception) -> None:
        """Tell why this process is about to leave.

        Raises:
            CellAbandonedError: the lane is closed.
        """
        self.record_held()
        self._channel.call(Channel.note, Failure.of(error, _log_tail()))

    def refuse(self, error: Exception) -> None:
        """Tell why this process cannot start."""
        self._channel.call(Channel.refuse, Failure.of(error, _log_tail()))

    def _take(self) -> Assignment | None:
        where = {"pid": os.getpid(), **self._worker.place}
        while True:
            is_computed, self._is_computed = self._is_computed, False
            found = self._channel.call(Channel.take, self._generation, where, is_computed=is_computed)
            if not isinstance(found, RecordHeld):
                return found
            self.record_held()

    def _tell(self) -> None:
        events, self._untold = self._untold, []
        if events and not self._channel.call(Channel.push, self._generation, events):
            raise CellAbandonedError("the lane was closed")
        self._told_at = time.monotonic()


def _log_tail() -> str:
    """Return the end of what this process wrote to its standard error, which Ray keeps in a file; Linux only."""
    sys.stderr.flush()
    with contextlib.suppress(OSError, ValueError), open(f"/proc/self/fd/{sys.stderr.fileno()}", "rb") as log:
        log.seek(max(log.seek(0, os.SEEK_END) - LOG_BYTES, 0))
        return log.read().decode("utf-8", errors="replace")
    return ""


def serve(channel: ChannelClient, lane: int, functions: bytes, sharing: SharingPlan) -> None:
    """Run cells until the lane is closed: the train function of a lane's worker group.

    Args:
        channel: of the lane.
        lane: its number.
        functions: pickled ``(run_cell, warm_up)``; opened by the workers only, since it may import a lot.
        sharing: what workers have, and how they share scorings.
    """
    worker = TrainWorker.join(sharing.resources.cpus_per_worker, sharing.resources.gpus_per_worker)
    client = LaneClient(channel, worker)
    if worker.rank == 0:
        channel.exchange.call(ExchangeState.tell_ready, channel.lane)
    try:
        run_cell = _open_functions(functions)
    except Exception as error:
        client.refuse(error)
        return

    pools: dict[str, CellPool] = {}

    def pool_of(key: str) -> CellPool:
        if key not in pools:
            pools.clear()  # before the next one is fetched: a machine may not hold two
            pools[key] = channel.exchange.fetch_pool(key)
        return pools[key]

    freed_at, shared = -math.inf, None
    # What is held is recorded before anything else, since what comes after may take longer than the trial waits.
    with contextlib.suppress(CellAbandonedError), contextlib.ExitStack() as stack, contextlib.closing(client):
        while (assignment := client.next_cell()) is not None:
            task = assignment.task
            if shared is None and sharing.resources.scoring != "lane" and not task.is_quick:
                shared = SharedScoring(sharing, lane, channel.exchange, worker)
                stack.callback(shared.close)
            worker.helpers = None if task.is_quick else shared
            if shared is not None:
                shared.begin_cell(task.pool_key, functools.partial(client.say, task.key))
            _serve_cell(run_cell, assignment, pool_of, worker, client)
            if time.monotonic() - freed_at >= FREE_EVERY_S:  # it takes longer than what is around a quick cell
                free_memory(worker.device)
                freed_at = time.monotonic()


def _open_functions(functions: bytes) -> RunCell:
    """Import what cells need, warm up, and take it all out of the garbage collector's sight."""
    import ray.cloudpickle

    run_cell, warm_up = ray.cloudpickle.loads(functions)
    if warm_up is not None:
        warm_up()
    gc.collect()
    gc.freeze()
    loaded: RunCell = run_cell
    return loaded


def _serve_cell(
    run_cell: RunCell,
    assignment: Assignment,
    pool_of: Callable[[str], CellPool],
    worker: TrainWorker,
    client: LaneClient,
) -> None:
    """Run a cell and tell its end; raise where the group has to leave or to restart."""
    task = replace(assignment.task, attempt=assignment.attempt)
    end: CellEvent = CellFinished(task.key)
    computed: HeldCell | None = None
    try:
        computed = run_cell(task, pool_of(task.pool_key), worker, client.push)
    except CellAbandonedError:
        raise
    except Exception as error:
        if not lane_survives(error, worker.world):
            client.note(error)
            raise
        end = CellFailed(task.key, Failure.of(error, _log_tail()), assignment.attempt)
    if not worker.all_agree(isinstance(end, CellFinished)):
        raise ExecutionError(f"the ranks disagree on whether cell {task.key!r} failed; the group restarts.")
    if computed is None:
        client.push(end)
    else:
        client.hold(task.key, computed)
