"""Process group of a cell: gather, broadcast, average gradients; here for one process, in ``runtime`` for many."""

import contextlib
import ctypes
import gc
import os
import platform
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from al_ray.errors import ExecutionError

if TYPE_CHECKING:
    import torch

    from al_ray.model.predict import Helpers

# What a process takes of a GPU beside its tensors, which torch does not count: its context, kernels, libraries. The
# shares of a GPU add up to all of it.
CUDA_CONTEXT_BYTES = 768 * 2**20


class Worker(Protocol):
    """One process among those of a cell; all of them make the same calls in the same order.

    Attributes:
        rank: 0 to ``world - 1``.
        world: how many processes the cell has.
        device: where this process computes.
        helpers: processes beside those of the cell that score with them; None: there are none.
    """

    rank: int
    world: int
    device: "torch.device"
    helpers: "Helpers | None"

    @property
    def place(self) -> Mapping[str, Any]:
        """The machine and what it computes on, for the provenance."""
        ...

    def wrap(self, module: "torch.nn.Module") -> "torch.nn.Module":
        """Return a module whose backward pass averages gradients over all processes; called once per fine-tune."""
        ...

    def all_gather(self, rows: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """Return every rank's array in rank order; first axes may differ in length."""
        ...

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's value on every rank."""
        ...


class Alone:
    """A process that works for itself: the only one of a cell, or one of many, on members that others lack."""

    rank = 0
    world = 1
    helpers: "Helpers | None" = None

    def __init__(self, device: "torch.device") -> None:
        self.device = device

    @property
    def place(self) -> Mapping[str, Any]:
        """The machine and what it computes on."""
        return place_of(self.device)

    def wrap(self, module: "torch.nn.Module") -> "torch.nn.Module":
        """Return the module itself: its gradients are the only ones."""
        return module

    def all_gather(self, rows: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """Return the one array there is."""
        return [np.asarray(rows)]

    def broadcast(self, value: Any) -> Any:
        """Return the value."""
        return value


class SingleProcess(Alone):
    """The only process of a cell.

    Raises:
        ExecutionError: a GPU is asked for and there is none.
    """

    def __init__(self, device: Literal["cpu", "cuda"] = "cpu") -> None:
        import torch

        if device == "cuda" and not torch.cuda.is_available():
            raise ExecutionError(
                "a GPU is asked for, but torch sees none here. Run on the CPU or install torch for CUDA."
            )
        super().__init__(torch.device(device))


def set_threads(n: int) -> None:
    """Set torch's threads on purpose: ``n`` within an operation, one between operations; best before torch is imported.

    Sums depend in the last bit on the number of threads, so it is a part of a run's provenance.
    """
    assert n >= 1
    os.environ["OMP_NUM_THREADS"] = str(n)
    # Texts without padding give ever new shapes: oneDNN's default of 1,024 kept kernels costs a process 0.2 GiB.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    import torch

    torch.set_num_threads(n)
    if torch.get_num_interop_threads() != 1:
        # torch allows this only before its first parallel work; later it stays as it is and changes no result.
        with contextlib.suppress(RuntimeError):
            torch.set_num_interop_threads(1)
    threadpool_limits(limits=n)  # of numpy and scipy, which may have been loaded with all cores


def place_of(device: "torch.device") -> dict[str, Any]:
    """Return what a record says of the machine that a round was computed on."""
    import torch

    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {"host": platform.node(), "platform": platform.platform(), "cpus": os.cpu_count(), "gpu": gpu}


def bound_memory(share: float, device: "torch.device") -> int:
    """Let this process take no more than its share of a GPU's memory, what CUDA itself takes for it included.

    Args:
        share: in (0, 1).
        device: a GPU; without a number the one that this process has.

    Returns:
        bytes that torch may allocate.

    Raises:
        ExecutionError: nothing would be left.
    """
    import torch

    index = torch.cuda.current_device() if device.index is None else device.index
    total = torch.cuda.get_device_properties(index).total_memory
    bound = int(share * total) - CUDA_CONTEXT_BYTES
    if bound <= 0:
        raise ExecutionError(
            f"gpus_per_worker is {share:g}, which is {share * total / 2**20:.0f} MiB of this GPU, and CUDA takes "
            f"about {CUDA_CONTEXT_BYTES / 2**20:.0f} MiB of its own in every process. Use a larger share."
        )
    torch.cuda.set_per_process_memory_fraction(bound / total, index)
    return bound


def free_memory(device: "torch.device") -> None:
    """Give memory that is not in use any more back, to the system too: else a long-lived process keeps growing."""
    gc.collect()
    trim_memory(device)


def trim_memory(device: "torch.device") -> None:
    """Give freed memory back to the system, without a look for what could be freed, which takes as long as lists do."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
    if device.type == "cuda":
        import torch

        torch.cuda.empty_cache()
