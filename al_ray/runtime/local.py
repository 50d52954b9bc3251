"""Cells one after the other in this process: no Ray, the same records."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from al_ray.model.worker import SingleProcess, set_threads
from al_ray.runtime.failures import Failure
from al_ray.runtime.pool import PoolSource
from al_ray.runtime.tasks import CellEvent, CellFailed, CellFinished, CellStarted, CellTask, RunCell


def run_local(
    *,
    cells: Sequence[CellTask],
    pools: Mapping[str, PoolSource],
    run_cell: RunCell,
    threads: int,
    use_gpu: bool,
    on_event: Callable[[CellEvent], None],
) -> None:
    """Run every cell here; one that fails does not stop the others.

    Args:
        cells: what to run, in this order.
        pools: the texts and how to tokenise them, by pool key.
        run_cell: the function that runs a cell.
        threads: torch threads; equal to a lane's ``cpus_per_worker`` for records equal to the last bit.
        use_gpu: whether the model goes to the GPU of this machine.
        on_event: told of every start, round, end and failure.
    """
    set_threads(threads)
    worker = SingleProcess(device="cuda" if use_gpu else "cpu")
    tokenized: dict[str, dict[str, Any]] = {}
    for cell in cells:
        if cell.pool_key not in tokenized:
            source = pools[cell.pool_key]
            tokenized[cell.pool_key] = {name: source.tokenize(table) for name, table in source.tables.items()}
        on_event(CellStarted(cell.key))
        try:
            run_cell(cell, tokenized[cell.pool_key], worker, on_event)
        except Exception as error:
            on_event(CellFailed(cell.key, Failure.of(error), attempts=1))
        else:
            on_event(CellFinished(cell.key))
