"""What a benchmark reports: a table for people, a JSON file for machines, and the machine that it ran on."""

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")
MISSED = 1
QUIET_LOAD = 0.5
SHARED = (
    "The machine was shared: trust ratios rather than seconds, and mind that Ray's workers run at niceness 15, so that "
    "other programs go first. "
)


class SkipBenchmark(Exception):  # noqa: N818 - nothing went wrong
    """What the benchmark needs is not on this machine."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured value.

    Attributes:
        target: smallest or largest value that meets it, or None where there is no target.
        at_least: whether the target is a lower bound.
    """

    what: str
    value: float
    unit: str
    target: float | None = None
    at_least: bool = True
    note: str = ""

    @property
    def verdict(self) -> str:
        """``met``, ``missed``, or nothing where there is no target."""
        if self.target is None:
            return ""
        return "met" if (self.value >= self.target if self.at_least else self.value <= self.target) else "missed"


@dataclass
class Report:
    """The figures of one benchmark, in the order in which they were measured."""

    name: str
    title: str
    machine: dict[str, Any] = field(default_factory=lambda: machine_facts())
    figures: list[Figure] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    _started: float = field(default_factory=time.monotonic)

    def add(
        self,
        what: str,
        value: float,
        unit: str,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
        note: str = "",
    ) -> None:
        """Add a figure, with a target where it has one."""
        assert at_least is None or at_most is None, "a figure has one target"
        target = at_most if at_least is None else at_least
        figure = Figure(what=what, value=value, unit=unit, target=target, at_least=at_most is None, note=note)
        self.figures.append(figure)

    def remark(self, sentence: str) -> None:
        """Add a sentence below the table."""
        self.remarks.append(sentence)

    @property
    def missed(self) -> bool:
        """Whether a figure misses its target."""
        return any(figure.verdict == "missed" for figure in self.figures)

    def finish(self, console: Console) -> int:
        """Print the table, write the JSON file, return the exit code: 0, or 1 where a target is missed."""
        seconds = time.monotonic() - self._started
        console.print(self._table())
        for sentence in [*self.remarks, describe_machine(self.machine), f"The benchmark took {seconds:.0f} s."]:
            console.print(sentence, soft_wrap=True, highlight=False)
        self._write(seconds)
        return MISSED if self.missed else 0

    def _table(self) -> Table:
        table = Table(title=self.title, title_justify="left")
        for name in ("measured", "value", "target", "verdict", "how"):
            table.add_column(name, justify="right" if name in ("value", "target") else "left", overflow="fold")
        for figure in self.figures:
            style = {"met": "green", "missed": "red"}.get(figure.verdict)
            bound = "" if figure.target is None else f"{'>=' if figure.at_least else '<='} {figure.target:g}"
            value = f"{_short(figure.value)} {figure.unit}".rstrip()
            table.add_row(figure.what, value, bound, figure.verdict, figure.note, style=style)
        return table

    def _write(self, seconds: float) -> None:
        content = {
            "benchmark": self.name,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seconds": seconds,
            "machine": self.machine,
            "figures": [{**asdict(figure), "verdict": figure.verdict} for figure in self.figures],
            "remarks": self.remarks,
            "details": self.details,
        }
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{self.name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def run_benchmark(name: str, title: str, measure: Callable[[Report], None]) -> None:
    """Run one benchmark as a program: measure, print, write, exit.

    Args:
        name: of the JSON file.
        title: of the table.
        measure: fills the report; raises SkipBenchmark where it cannot.
    """
    console = Console(width=None if sys.stdout.isatty() else 150)
    report = Report(name, title)
    try:
        measure(report)
    except SkipBenchmark as reason:
        console.print(f"{name}: skipped. {reason}", soft_wrap=True, markup=False, highlight=False)
        sys.exit(0)
    sys.exit(report.finish(console))


def machine_facts() -> dict[str, Any]:
    """Say what the machine is, and how busy it was before the benchmark began."""
    return {
        "load_before": list(os.getloadavg()),
        "cpu": _cpu_model(),
        "n_cores": n_cores(),
        "bf16_units": bf16_units(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "platform": platform.platform(),
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in ("torch", "transformers", "ray")},
    }


def describe_machine(facts: dict[str, Any]) -> str:
    """Word the facts in one line."""
    bf16 = " and ".join(facts["bf16_units"]) or "none"
    loads = " ".join(f"{load:.1f}" for load in facts["load_before"])
    quiet = facts["load_before"][0] < QUIET_LOAD
    return (
        f"machine: {facts['cpu']}, {facts['n_cores']} cores, bf16 units: {bf16}; Python {facts['python']}, "
        f"torch {facts['torch']}, ray {facts['ray']}. Load average before (1, 5, 15 min): {loads}. "
        f"{'' if quiet else SHARED}"
    )


def n_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def bf16_units() -> list[str]:
    """Return the processor's bf16 instruction sets."""
    flags = _cpuinfo("flags") or _cpuinfo("Features")
    return [flag for flag in BF16_FLAGS if flag in flags.split()]


def _cpu_model() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")


def _short(value: float) -> str:
    if value != value or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
