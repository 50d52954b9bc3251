"""Two ways to score texts by hand, without al_ray: the plainest correct loop, and the best one.

Each runs in processes of its own that keep their model and wait between calls, so that one run can take turns.
"""

import multiprocessing
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import numpy.typing as npt

TRIALS = tuple((batch_size, attention) for batch_size in (64, 128) for attention in ("sdpa", "eager"))


@dataclass(frozen=True, kw_only=True)
class Loop:
    """How a scorer works through its texts.

    Attributes:
        attention: implementation inside transformers.
        padded_to: tokens of every text, or None for those of the longest in the batch.
    """

    precision: str
    batch_size: int
    attention: str = "sdpa"
    padded_to: int | None = None


class Scorer:
    """A process that scores a fixed list of texts whenever it is told to."""

    def __init__(self, folder: str, texts: list[npt.NDArray[np.int32]], threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, folder, texts, threads), daemon=True)
        self._process.start()

    def ready(self) -> None:
        """Wait until the process has its imports done."""
        self._pipe.recv()

    def ask(self, loop: Loop) -> None:
        """Start one pass."""
        self._pipe.send(loop)

    def answer(self) -> tuple[npt.NDArray[np.float32], float]:
        """Wait for the logits of the pass ``[n_texts, n_classes]`` and its CPU time in seconds."""
        logits, cpu = self._pipe.recv()
        return logits, cpu

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(timeout=10)


@dataclass(frozen=True)
class Pass:
    """One pass of several scorers side by side: seconds until the last was done, CPU time of all, logits of each."""

    wall: float
    cpu: float
    logits: list[npt.NDArray[np.float32]]


def timed_pass(scorers: list[Scorer], loop: Loop) -> Pass:
    """Let scorers work side by side."""
    began = time.perf_counter()
    for scorer in scorers:
        scorer.ask(loop)
    answers = [scorer.answer() for scorer in scorers]
    wall = time.perf_counter() - began
    return Pass(wall, sum(cpu for _, cpu in answers), [logits for logits, _ in answers])


def _serve(pipe: Connection, folder: str, texts: list[npt.NDArray[np.int32]], threads: int) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    torch.set_num_threads(threads)
    logging.disable_progress_bar()
    models: dict[tuple[str, str], Any] = {}
    tensors = [torch.from_numpy(text.astype(np.int64)) for text in texts]
    pipe.send("ready")
    while (loop := _next(pipe)) is not None:
        kind = (loop.precision, loop.attention)
        if kind not in models:
            dtype = torch.bfloat16 if loop.precision == "bf16" else torch.float32
            models[kind] = AutoModelForSequenceClassification.from_pretrained(
                folder, dtype=dtype, attn_implementation=loop.attention, local_files_only=True
            ).eval()
        began = time.process_time()
        logits = _score(models[kind], tensors, loop)
        pipe.send((logits, time.process_time() - began))


def _next(pipe: Connection) -> Loop | None:
    try:
        loop: Loop = pipe.recv()
    except EOFError:
        return None
    return loop


def _score(model: Any, texts: list[Any], loop: Loop) -> npt.NDArray[np.float32]:
    import torch
    from torch.nn.utils.rnn import pad_sequence

    parts = []
    with torch.inference_mode():
        for start in range(0, len(texts), loop.batch_size):
            batch = pad_sequence(texts[start : start + loop.batch_size], batch_first=True)
            if loop.padded_to is not None:
                batch = torch.nn.functional.pad(batch, (0, loop.padded_to - batch.shape[1]))
            # Token 0 is MiniLM's padding and stands in no text.
            mask = (batch != 0).long()
            parts.append(model(input_ids=batch, attention_mask=mask).logits.float())
    return torch.cat(parts).numpy()
