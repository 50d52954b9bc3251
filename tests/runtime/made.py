"""Cells made up for tests of the runtime, and a listener to what is logged."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

from al_ray.runtime.failures import Failure
from al_ray.runtime.tasks import CellEvent, CellFailed, CellFinished, CellStarted, CellTask, RoundEnded


def made_cell(key: str, pool_key: str = "p", workers: int = 1, **spec: Any) -> CellTask:
    """Return a cell that has nothing but what the runtime looks at, and a spec."""
    return CellTask(
        key=key,
        study="made",
        storage="nowhere",
        storage_patience_s=0.0,
        slug=key,
        fingerprint="0" * 64,
        spec=spec,
        n_classes=2,
        provenance={},
        pool_key=pool_key,
        workers=workers,
    )


def made_event(kind: str, key: str) -> CellEvent:
    """Return an event by what it tells."""
    events: dict[str, CellEvent] = {
        "started": CellStarted(key),
        "round": RoundEnded(key, 0, 0, {}),
        "finished": CellFinished(key),
        "failed": CellFailed(key, Failure("WorkersDied", "gone", kind="lost"), attempts=1),
    }
    return events[kind]


def kind_of_event(event: CellEvent) -> str:
    """Say what an event tells, in a word."""
    kinds = {CellStarted: "started", RoundEnded: "round", CellFinished: "finished", CellFailed: "failed"}
    return kinds[type(event)]


@contextlib.contextmanager
def sentences(on_sentence: Callable[[str], None] | None = None, level: int = logging.WARNING) -> Iterator[list[str]]:
    """Give a list to which all sentences are added that al_ray logs inside, in whatever thread.

    Args:
        on_sentence: called with each, where it is logged.
        level: of the least important ones.
    """
    heard: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record.getMessage())
            if on_sentence is not None:
                on_sentence(heard[-1])

    logger, listener = logging.getLogger("al_ray"), Listener(level)
    before = logger.level
    logger.addHandler(listener)
    logger.setLevel(level)
    try:
        yield heard
    finally:
        logger.setLevel(before)
        logger.removeHandler(listener)
