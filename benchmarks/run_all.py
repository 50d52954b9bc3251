"""Run the benchmarks one after the other, each in a process of its own; the long one with the peer only when asked.

``python -m benchmarks.run_all`` or ``python -m benchmarks.run_all --peer``.
"""

import argparse
import json
import subprocess
import sys

from rich.console import Console
from rich.table import Table

from benchmarks.report import MISSED, RESULTS

SHORT = (
    "orchestration",
    "scoring",
    "cluster_scoring",
    "finetuning",
    "frozen",
    "grid",
    "quick_cells",
    "encoding_cache",
    "grid_size",
    "pool_size",
    "stream_size",
    "s3_records",
    "batch_strategies",
    "imital",
    "report_size",
    "tracking",
    "load",
    "active_testing",
    "curve_forecast",
    "gpu",
)


def main() -> int:
    """Run them, then print all targets; return 1 where one is missed or a benchmark broke."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run_all", description="Run all benchmarks.")
    parser.add_argument("--peer", action="store_true", help="also against small-text, which takes about ten minutes")
    names = [*SHORT, *(["peer"] if parser.parse_args().peer else [])]
    for name in names:
        (RESULTS / f"{name}.json").unlink(missing_ok=True)
    codes = {name: subprocess.run([sys.executable, "-m", f"benchmarks.{name}"]).returncode for name in names}
    Console(width=None if sys.stdout.isatty() else 150).print(_summary(codes))
    return MISSED if any(codes.values()) else 0


def _summary(codes: dict[str, int]) -> Table:
    table = Table(title="all targets", title_justify="left")
    for column in ("benchmark", "measured", "value", "target", "verdict"):
        table.add_column(column, justify="right" if column in ("value", "target") else "left")
    for name, code in codes.items():
        file = RESULTS / f"{name}.json"
        if not file.exists():
            table.add_row(name, "", "", "", "skipped" if code == 0 else f"broke, exit code {code}")
            continue
        for figure in json.loads(file.read_text(encoding="utf-8"))["figures"]:
            if figure["target"] is not None:
                bound = f"{'>=' if figure['at_least'] else '<='} {figure['target']:g}"
                table.add_row(name, figure["what"], f"{figure['value']:.3g} {figure['unit']}", bound, figure["verdict"])
    return table


if __name__ == "__main__":
    sys.exit(main())
