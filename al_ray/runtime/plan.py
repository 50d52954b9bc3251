"""How many lanes fit on the machines: arithmetic only, no ray here."""

from collections.abc import Sequence
from dataclasses import dataclass

from al_ray.errors import ExecutionError

GPU_ROUNDING = 1e-6


@dataclass(frozen=True, kw_only=True)
class LaneResources:
    """Where and how a grid runs; none of it changes what is computed.

    Attributes:
        lanes: worker groups that run side by side; None for as many as fit.
        cpus_per_worker: CPUs, and threads, of one worker.
        gpus_per_worker: GPUs of one worker: 0, a fraction of one, or whole ones.
        address: Ray cluster to join, such as ``auto``; None starts a private Ray unless ``RAY_ADDRESS`` is set.
        retries: how often a cell is tried again after its workers died.
        cpus: CPUs of a private Ray; None for those of the machine.
        wait_for_nodes: accept more lanes than fit today, for a cluster that grows.
    """

    lanes: int | None = None
    cpus_per_worker: int = 1
    gpus_per_worker: float = 0
    address: str | None = None
    retries: int = 2
    cpus: int | None = None
    wait_for_nodes: bool = False

    def __post_init__(self) -> None:
        """Check each field on its own."""
        _at_least("lanes", self.lanes, 1)
        _at_least("cpus_per_worker", self.cpus_per_worker, 1)
        _at_least("retries", self.retries, 0)
        _at_least("cpus", self.cpus, 1)
        gpus = self.gpus_per_worker
        if gpus < 0 or (gpus > 1 and gpus != int(gpus)):
            raise ExecutionError(
                f"gpus_per_worker is {gpus}. It takes 0, a fraction below 1 (workers share a GPU) or a whole number."
            )


@dataclass(frozen=True)
class NodeSize:
    """What one machine offers."""

    cpus: float
    gpus: float = 0

    def slots(self, cpus_per_worker: int, gpus_per_worker: float) -> int:
        """Return how many workers fit; a fraction of a GPU never spans two GPUs."""
        by_cpu = int(self.cpus // cpus_per_worker)
        if gpus_per_worker == 0:
            return by_cpu
        if gpus_per_worker < 1:
            return min(by_cpu, int(self.gpus) * int(1 / gpus_per_worker + GPU_ROUNDING))
        return min(by_cpu, int(self.gpus // gpus_per_worker))


def lanes_that_fit(
    nodes: Sequence[NodeSize],
    workers: int,
    cpus_per_worker: int,
    gpus_per_worker: float,
    requested: int | None,
    wait_for_nodes: bool = False,
) -> int:
    """Return how many lanes to run side by side; a lane's workers may sit on several nodes.

    Args:
        nodes: the machines.
        workers: workers of one lane.
        cpus_per_worker: CPUs of one worker.
        gpus_per_worker: GPUs of one worker, whole or a fraction.
        requested: lanes asked for, or None for as many as fit.
        wait_for_nodes: accept a request beyond what fits today.

    Raises:
        ExecutionError: not one lane fits, or fewer than requested.
    """
    slots = sum(node.slots(cpus_per_worker, gpus_per_worker) for node in nodes)
    fitting = slots // workers
    if requested is not None and (requested <= fitting or wait_for_nodes):
        return requested
    if requested is None and fitting > 0:
        return fitting
    raise ExecutionError(
        f"{requested or 1} lane(s) of {workers} worker(s) with {cpus_per_worker} CPU and {gpus_per_worker:g} GPU each "
        f"do not fit: {_offer(nodes)} hold {fitting} such lane(s). "
        "Ask for fewer lanes, smaller workers, or join a larger cluster."
    )


def process_group_backend(gpus_per_worker: float) -> str:
    """Return the torch.distributed backend: NCCL only where every rank has a GPU to itself, gloo elsewhere."""
    return "cpu:gloo,cuda:nccl" if gpus_per_worker >= 1 else "gloo"


def object_store_bytes(memory_bytes: int, shared_bytes: int) -> int:
    """Return the object store size of a private Ray: a fifth of the memory, at most 2 GiB, within shared memory.

    A shared-memory file system below 256 MiB (a container's default is 64) is passed over: Ray then maps files.
    """
    wanted = min(memory_bytes // 5, 2 * 1024**3)
    usable = int(shared_bytes * 0.8)
    return min(wanted, usable) if usable >= 256 * 1024**2 else wanted


def _offer(nodes: Sequence[NodeSize]) -> str:
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    return f"{len(nodes)} node(s) with {cpus:g} CPU and {gpus:g} GPU"


def _at_least(name: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise ExecutionError(f"{name} is {value}. It takes a whole number from {least}.")
