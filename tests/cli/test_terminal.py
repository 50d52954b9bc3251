"""What a person sees while a study runs."""

import io
import logging
import re
import time
from typing import get_args

import numpy as np
import pytest
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from al_ray.core.types import TextDataset, TextSplit
from al_ray.records.cell import ADVICE
from al_ray.runtime.failures import Failure, FailureKind
from al_ray.runtime.tasks import CellFailed, CellFinished, CellStarted, RoundEnded
from al_ray.terminal import (
    LINE_EVERY_S,
    N_FAILURES_SHOWN,
    N_RUNNING_SHOWN,
    Progress,
    WideTable,
    bytes_left,
    dataset_lines,
    duration,
    failure_lines,
    shown_log,
)


def round_of(key: str, index: int, n_labeled: int, accuracy: float | None) -> RoundEnded:
    metrics = {} if accuracy is None else {"accuracy": accuracy}
    return RoundEnded(key, index, n_labeled, metrics)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.4, "59 s"), (60, "1 min 00 s"), (3599, "59 min 59 s"), (25500, "7 h 05 min")],
)
def test_durations_are_said_the_way_people_say_them(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_the_live_table_shows_cell_round_labels_accuracy_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    console = Console(file=io.StringIO(), width=100)
    progress = Progress(console, {"a--1": [1.0, 3.0], "b--2": [4.0]}, n_before=1)
    progress(CellStarted("a--1"))
    progress(round_of("a--1", 0, 0, None))
    clock[0] = 110.0
    progress(round_of("a--1", 1, 25, 0.5))
    console.print(progress._render())
    shown = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    # a tenth of a minute for one of four parts of the cell, and for one of eight of all
    assert "a │ 1/2 │ 25 │ 0.500 │ 30 s" in shown
    assert "1 of 3 cells done, 10 s gone, about 1 min 10 s left" in shown


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_table_of_many_columns_loses_none_on_a_narrow_terminal(width: int) -> None:
    table = Table(title="shares", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("method", overflow="fold", min_width=20)
    slices = [f"slice-{number}" for number in range(14)]
    for name in slices:
        table.add_column(name, justify="right")
    table.add_row("random", *(f"{number}.25" for number in range(14)))
    table.add_row("margin", *(f"{number}.75" for number in range(14)), style="dim")
    console = Console(file=io.StringIO(), width=width)
    console.print(WideTable(table))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= width
    assert text.split().count("random") == text.split().count("margin") == text.count("shares")
    assert [word for word in text.split() if word.startswith("slice-")] == slices
    assert {f"{number}.{part}" for number in range(14) for part in ("25", "75")} <= set(text.split())


def test_a_screen_holds_the_live_table_of_five_thousand_cells_however_many_run() -> None:
    keys = [f"trec6-temperature_scaling-least_confidence-uncertainty_clipping-s{n}--{n:08x}" for n in range(5000)]
    console = Console(file=io.StringIO(), width=80)
    progress = Progress(console, {key: [1.0] * 20 for key in keys}, n_before=0)
    for key in keys[:4000]:
        progress(CellStarted(key))
    for key in keys[:1234]:
        progress(CellFinished(key))
    console.file.seek(0)
    console.file.truncate()  # type: ignore[attr-defined]
    console.print(progress._render())
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= 80
    assert len(text.splitlines()) < 3 * N_RUNNING_SHOWN
    assert f"... and {4000 - 1234 - N_RUNNING_SHOWN} more" in text
    assert "1,234 of 5,000 cells done" in text


def test_a_log_has_a_line_for_each_slow_cell_and_one_in_a_while_for_quick_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    console = Console(file=io.StringIO(), width=200)
    keys = [f"quick{n}--{n}" for n in range(100)]
    progress = Progress(console, {key: [1.0] for key in ["slow--0", *keys]}, n_before=0)
    progress(CellStarted("slow--0"))
    clock[0] += LINE_EVERY_S / 2
    for key in keys:  # one a second
        progress(CellStarted(key))
        clock[0] += 1.0
        progress(CellFinished(key))
    progress(CellFinished("slow--0"))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 100 / LINE_EVERY_S + 1
    assert lines[0].startswith("quick0 done; 1 of 101 cells done")
    assert lines[-1].startswith("slow done; 101 of 101 cells done")


def test_failures_are_shown_at_once_and_counted() -> None:
    console = Console(file=io.StringIO(), width=100)
    progress = Progress(console, {"a--1": [1.0], "b--2": [1.0]}, n_before=0)
    progress(CellStarted("a--1"))
    progress(CellFailed("a--1", Failure("RoundError", "pool exhausted", kind="input"), attempts=1))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "failed: a--1: input: RoundError: pool exhausted" in text
    assert list(progress.failures) == ["a--1"]


def test_of_a_great_many_failures_the_first_are_shown() -> None:
    console = Console(file=io.StringIO(), width=100)
    keys = [f"a{n}--{n}" for n in range(1000)]
    progress = Progress(console, {key: [1.0] for key in keys}, n_before=0)
    for key in keys:
        progress(CellFailed(key, Failure("RoundError", "pool exhausted", kind="input"), attempts=1))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == N_FAILURES_SHOWN + 1
    assert lines[-1] == f"more than {N_FAILURES_SHOWN} cells failed: others are counted"
    assert list(progress.failures) == keys


@pytest.mark.parametrize("verbose", [False, True])
def test_warnings_are_printed_and_decisions_where_they_are_asked_for_and_no_login_ever(verbose: bool) -> None:
    console, log = Console(file=io.StringIO(), width=100), logging.getLogger("al_ray.runtime.grid")
    with shown_log(console, verbose=verbose):
        log.info("pool %s: %d texts", "letters", 7)
        log.warning("no answer from %s", "http://me:hush@host/")
    log.warning("nobody listens any more")
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.splitlines() == [*(["pool letters: 7 texts"] if verbose else []), "no answer from http://host/"]


def test_a_program_s_own_log_of_decisions_goes_on_while_warnings_are_printed(caplog: pytest.LogCaptureFixture) -> None:
    console, log = Console(file=io.StringIO(), width=100), logging.getLogger("al_ray.runtime.grid")
    with caplog.at_level(logging.INFO, logger="al_ray"), shown_log(console, verbose=False):
        log.info("pool letters: 7 texts")
    assert caplog.messages == ["pool letters: 7 texts"]
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]


def test_failures_are_summed_up_by_kind_with_what_to_do() -> None:
    kinds = {"a": "memory", "b": "lost", "c": "memory"}
    first, memory, lost = failure_lines({key: {"kind": kind, "error": "E"} for key, kind in kinds.items()})
    assert first.startswith("3 cells failed; the reason and the log are in failed.json of each.")
    assert memory.startswith("  2 x memory. A fresh process ran out of memory as well: run fewer lanes")
    assert lost.startswith("  1 x lost. Its workers died again and again")


def test_every_kind_of_failure_has_its_advice() -> None:
    assert set(ADVICE) == set(get_args(FailureKind))


@pytest.mark.parametrize(("n_classes", "n_more"), [(2, 0), (12, 0), (13, 1), (300, 288)])
def test_the_classes_of_a_data_set_are_listed_with_their_counts_and_many_are_cut(n_classes: int, n_more: int) -> None:
    labels = np.repeat(np.arange(n_classes), np.arange(n_classes) + 1)
    split = TextSplit(ids=np.arange(len(labels)), texts=["t"] * len(labels), labels=labels)
    test = TextSplit(ids=np.array([0]), texts=["t"], labels=np.array([n_classes - 1]))
    names = tuple(f"class {c} {'long ' * 9}" for c in range(n_classes))
    dataset = TextDataset(name="d", class_names=names, train=split, test=test, source="here", content_sha256="0" * 64)
    _, classes = dataset_lines("d", dataset)
    listed = classes.removeprefix("classes, training/test examples: ").split(", ")
    assert re.fullmatch(rf"class {n_classes - 1} [ long.]+ {n_classes}/1", listed[0])
    assert re.fullmatch(r"class 0 [ long.]+ 1/0", listed[-1])
    assert [each for each in listed if "more" in each] == ([f"({n_more} more)"] if n_more else [])
    assert len(listed) == n_classes - n_more + (n_more > 0)
    assert len(classes) < 700


def test_the_bytes_that_cells_leave_are_told_in_all_and_a_cell() -> None:
    assert bytes_left({"a--1": 3 * 2**20, "b--2": 2**20}) == " (4.0 MiB, 2048 KiB a cell)"


def test_rounds_recorded_before_cost_nothing_in_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    progress = Progress(Console(file=io.StringIO()), {"a--1": [0.0, 0.0, 2.0, 2.0]}, n_before=0)
    progress(CellStarted("a--1"))
    clock[0] = 5.0
    progress(round_of("a--1", 3, 75, 0.7))
    assert progress._seconds_left() == pytest.approx(5.0)
