"""A group of workers as threads of this process: the fake of the distributed seam."""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from tests.waiting import PATIENCE_S

T = TypeVar("T")


class ThreadGroup:
    """Runs a function once per rank, each in its thread, with real rendezvous between them."""

    def __init__(self, world: int) -> None:
        self.world = world
        self.barrier = threading.Barrier(world, timeout=PATIENCE_S)
        self.slots: list[Any] = [None] * world

    def run(self, task: Callable[["ThreadWorker"], T]) -> list[T]:
        results: list[Any] = [None] * self.world
        errors: list[BaseException] = []

        def one(rank: int) -> None:
            try:
                results[rank] = task(ThreadWorker(self, rank))
            except BaseException as error:
                errors.append(error)
                self.barrier.abort()

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(self.world)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return results

    def exchange(self, rank: int, value: Any) -> list[Any]:
        self.slots[rank] = value
        self.barrier.wait()
        values = list(self.slots)
        self.barrier.wait()
        return values


class ThreadWorker:
    """One rank of a thread group; averages gradients as DDP does, and counts what goes through it."""

    def __init__(self, group: ThreadGroup, rank: int) -> None:
        self.rank = rank
        self.world = group.world
        self.device = torch.device("cpu")
        self.helpers = None
        self._group = group

    def wrap(self, module: nn.Module) -> nn.Module:
        for value in module.parameters():
            if value.requires_grad:
                value.register_post_accumulate_grad_hook(self._average)
        return module

    def all_gather(self, rows: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        return self._group.exchange(self.rank, rows)

    def broadcast(self, value: Any) -> Any:
        return self._group.exchange(self.rank, value)[0]

    def _average(self, value: torch.Tensor) -> None:
        assert value.grad is not None
        gradients = self._group.exchange(self.rank, value.grad.clone())
        value.grad.copy_(torch.stack(gradients).mean(dim=0))
