"""``al-ray run``: run a study, or go on with it."""

import signal
import threading
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console

from al_ray.errors import AlRayError, without_secrets
from al_ray.study.file import load_study, set_options
from al_ray.study.run import prepare, require_ready
from al_ray.terminal import make_console, print_plan, run_shown

INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM
# A misspelt option, too, is input that cannot run; 2 says that cells failed, which the same command tries again.
_UsageError: Any = typer.BadParameter.__base__
_UsageError.exit_code = 1


def run(
    study: Annotated[str, typer.Argument(help="Study file, YAML.", metavar="STUDY.yaml")],
    plan: Annotated[bool, typer.Option("--plan", help="Print cells, checks and cost; start nothing.")] = False,
    cell: Annotated[str | None, typer.Option("--cell", help="Run this one cell.", metavar="SLUG")] = None,
    local: Annotated[bool, typer.Option("--local", help="Run in this process, without Ray.")] = False,
    storage: Annotated[str | None, typer.Option("--storage", help="Folder or URI of the records.")] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Print decisions as well: what waits, what is tried again, and why.")
    ] = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Execution option, such as lanes=2.", metavar="KEY=VALUE")
    ] = None,
) -> None:
    """Run a study, or go on with it: what is recorded is not done again."""
    console = make_console()
    with user_errors(console):
        loaded = load_study(study)
        typed = [*(set_ or []), *([] if storage is None else [f"storage={storage}"])]
        ready = prepare(loaded, set_options(loaded.execution, typed), local=local, cell=cell, measure=plan)
        if plan:
            print_plan(console, ready)
            raise typer.Exit(1 if ready.plan.missing else 0)
        require_ready(ready, trusts_address=any(assignment.startswith("address=") for assignment in typed))
        if run_shown(ready, console, verbose=verbose):
            raise typer.Exit(2)


class user_errors:  # noqa: N801 - reads as a statement
    """Print errors that are the user's to mend as sentences, and leave with exit code 1; 130 or 143 when interrupted.

    SIGTERM, which ``ray job stop`` and batch systems send, is taken like Ctrl-C: the command leaves in order.
    """

    def __init__(self, console: Console, *, kept: str = "Every recorded round is kept") -> None:
        self._console = console
        self._kept = kept
        self._code = INTERRUPTED
        self._before: Any = None

    def __enter__(self) -> None:
        """Start watching."""
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._terminate)

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        """Do what Ctrl-C would do now; not by raising that signal, since Ray blocks it in its jobs."""
        self._code = TERMINATED
        on_interrupt = signal.getsignal(signal.SIGINT)
        if not callable(on_interrupt):
            raise KeyboardInterrupt
        on_interrupt(signal.SIGINT, frame)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: object) -> None:
        """Turn what was raised into a sentence and an exit code."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
        if isinstance(error, AlRayError):
            lines = without_secrets(str(error)).split("\n")
            self._console.print("\n".join(f"error: {line}" for line in lines), style="red", highlight=False,
                                markup=False, soft_wrap=True)  # fmt: skip
            raise typer.Exit(1) from None
        if isinstance(error, KeyboardInterrupt):
            self._console.print(f"interrupted. {self._kept}; the same command goes on from there.")
            raise typer.Exit(self._code) from None
