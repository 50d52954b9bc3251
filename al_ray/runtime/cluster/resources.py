"""Resources of lanes, and how many lanes fit on the machines: arithmetic only, no ray here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from al_ray.errors import ExecutionError

GPU_ROUNDING = 1e-6
LEAST_GPU_SHARE = 0.0001


@dataclass(frozen=True, kw_only=True)
class LaneResources:
    """Where and how a grid runs; none of it changes what is computed.

    Attributes:
        lanes: worker groups that run side by side; None for as many as fit.
        cpus_per_worker: CPUs, and threads, of one worker.
        gpus_per_worker: GPUs of one worker: 0, a fraction of one, or whole ones.
        address: Ray cluster to join, such as ``auto``; None starts a private Ray unless ``RAY_ADDRESS`` is set.
        retries: how often a cell is tried again after its workers died.
        wait_for_nodes: accept more lanes than fit today, for a cluster that grows.
        accelerator_type: Ray's name of a GPU, such as ``A10G``; only nodes that have it are used.
        scoring: whether processes beside a lane score with it: never (``lane``), wherever there is room
            (``cluster``), or where it pays (``auto``).
    """

    lanes: int | None = None
    cpus_per_worker: int = 1
    gpus_per_worker: float = 0
    address: str | None = None
    retries: int = 2
    wait_for_nodes: bool = False
    accelerator_type: str | None = None
    scoring: Literal["lane", "cluster", "auto"] = "lane"

    def __post_init__(self) -> None:
        """Refuse what the type and bounds of each field alone let through."""
        share = self.gpus_per_worker
        if 0 < share < LEAST_GPU_SHARE:
            raise ExecutionError(f"gpus_per_worker is {share}. Ray's smallest share of a GPU is {LEAST_GPU_SHARE}.")
        if share > 1 and share != int(share):
            raise ExecutionError(
                f"gpus_per_worker is {share}. It takes 0, a fraction below 1 (workers share a GPU) or a whole number."
            )
        if self.wait_for_nodes and self.lanes is None:
            raise ExecutionError(
                "wait_for_nodes is on and lanes is not set, but how many lanes a growing cluster will hold cannot be "
                "seen from here. Set lanes to what its largest size holds."
            )


@dataclass(frozen=True)
class NodeSize:
    """What one machine offers, with Ray's names of its GPUs."""

    cpus: float
    gpus: float = 0
    accelerator_types: frozenset[str] = frozenset()

    def slots(self, resources: LaneResources) -> int:
        """Return how many workers fit; a fraction of a GPU never spans two GPUs."""
        if resources.accelerator_type is not None and resources.accelerator_type not in self.accelerator_types:
            return 0
        by_cpu, share = int(self.cpus // resources.cpus_per_worker), resources.gpus_per_worker
        if share == 0:
            return by_cpu
        if share < 1:
            return min(by_cpu, int(self.gpus) * int(1 / share + GPU_ROUNDING))
        return min(by_cpu, int(self.gpus // share))


def lanes_that_fit(nodes: Sequence[NodeSize], workers: int, resources: LaneResources) -> int:
    """Return how many lanes to run side by side; a lane's workers may sit on several nodes.

    Args:
        nodes: the machines that are there now.
        workers: workers of one lane.
        resources: size of a worker, lanes asked for, and whether lanes may wait for machines to come.

    Raises:
        ExecutionError: not one lane fits, or fewer than requested, or no node has the GPUs named.
    """
    fitting = sum(node.slots(resources) for node in nodes) // workers
    requested = resources.lanes
    if requested is not None and (requested <= fitting or resources.wait_for_nodes):
        return requested
    gpu, types = resources.accelerator_type, sorted(set().union(*(node.accelerator_types for node in nodes)))
    if gpu is not None and gpu not in types:
        raise ExecutionError(
            f"accelerator_type is {gpu!r}, and none of the {len(nodes)} node(s) has it; "
            f"they have: {', '.join(types) or 'none'}. Name one of these, leave accelerator_type out, "
            "or set wait_for_nodes where such nodes are still to come."
        )
    if requested is None and fitting > 0:
        return fitting
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    of_type = f" of type {gpu}" if gpu else ""
    raise ExecutionError(
        f"{requested or 1} lane(s) of {workers} worker(s) with {resources.cpus_per_worker} CPU and "
        f"{resources.gpus_per_worker:g} GPU{of_type} each do not fit: {len(nodes)} node(s) with {cpus:g} CPU and "
        f"{gpus:g} GPU hold {fitting} such lane(s). Ask for fewer lanes, smaller workers, or join a larger cluster."
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
