"""Run a study: ``python -m al_ray.cli.run STUDY.yaml``, or ``al-ray run STUDY.yaml``."""

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.padding import Padding

from al_ray.cli.terminal import (
    Progress,
    bytes_left,
    dataset_lines,
    duration,
    failure_lines,
    forecast_lines,
    make_console,
    plan_table,
    result_tables,
    shown_log,
    slice_tables,
)
from al_ray.data import near_equal_notes
from al_ray.errors import AlRayError, ConfigError, without_secrets
from al_ray.records.study import StudyStore
from al_ray.study.file import Execution, load_study, set_options
from al_ray.study.forecast import Forecast, forecast, has_fast_bf16, round_costs
from al_ray.study.plan import Plan, dataset_key, plan_record, plan_study, require_complete
from al_ray.study.run import check_shared, check_space, disk_bytes, run_study
from al_ray.tracking.address import DATABASES, scheme_of, tracking_address

INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM
# A misspelt option, too, is input that cannot run; 2 says that cells failed, which the same command tries again.
_UsageError: Any = typer.BadParameter.__base__
_UsageError.exit_code = 1
_HERE = frozenset({"auto", "local", "localhost", "127.0.0.1", "[::1]"})


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
        execution = set_options(loaded.execution, typed)
        tracking = tracking_address(execution.tracking, execution.storage)
        if not local:
            check_shared(execution)
        planned = plan_study(loaded, execution.storage, only=cell)
        lanes = 1 if local else _lanes(execution, planned)
        cost = forecast(planned, lanes or 1)
        if plan:
            _print_plan(console, planned, cost, disk_bytes(cost, execution), lanes)
            raise typer.Exit(1 if planned.missing else 0)
        require_complete(planned)
        if not local and not any(assignment.startswith("address=") for assignment in typed):
            check_cluster(execution)
        check_space(planned, cost, execution)
        with shown_log(console, verbose=verbose):
            failures = _run(console, planned, execution, local, cost, lanes)
        print_results(console, planned)
        _print_addresses(console, planned.store, tracking)
        if failures:
            console.print("\n".join(failure_lines(failures)), style="red", soft_wrap=True)
            raise typer.Exit(2)


def check_cluster(execution: Execution) -> None:
    """Refuse a Ray on other machines that the study file alone names.

    Whoever runs a cluster runs code in every program that joins it, and a study file must not run code. So the person
    at the terminal names it, with ``--set address=`` or with ``RAY_ADDRESS``.

    Raises:
        ConfigError: the address is another machine's.
    """
    address = execution.address
    host = (address or "auto").rpartition("://")[2].rsplit(":", 1)[0]
    if host in _HERE or address == os.environ.get("RAY_ADDRESS"):
        return
    raise ConfigError(
        f"the study file names a Ray cluster on another machine, {address!r}, and joining it lets that cluster run "
        f"code here. If it is yours, name it yourself: --set address={address}, or RAY_ADDRESS={address}."
    )


class user_errors:  # noqa: N801 - reads as a statement
    """Print errors that are the user's to mend as sentences, and leave with exit code 1; 130 or 143 when interrupted.

    SIGTERM, which ``ray job stop`` and batch systems send, is taken like Ctrl-C: the command leaves in order.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
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
            self._console.print("interrupted. Every recorded round is kept; the same command goes on from there.")
            raise typer.Exit(self._code) from None


def _lanes(execution: Execution, plan: Plan) -> int | None:
    """Return how many cells will run side by side; None where only the cluster knows."""
    if execution.lanes is not None:
        return execution.lanes
    if (execution.address or os.environ.get("RAY_ADDRESS", "local")) != "local":
        return None
    workers = max((cell.spec.workers for cell in plan.cells), default=1)
    return max((os.cpu_count() or 1) // (execution.cpus_per_worker * workers), 1)


def _print_plan(console: Console, plan: Plan, cost: Forecast, n_bytes: int, lanes: int | None) -> None:
    console.print(plan_table(plan))
    for name, dataset in plan.datasets_by_name().items():
        whole, classes = dataset_lines(name, dataset)
        console.print(whole, soft_wrap=True, highlight=False)
        console.print(Padding(classes, (0, 0, 0, 2)), highlight=False)
    _warn_near_equal(console.print, plan)
    for sentence in plan.missing:
        console.print(f"cannot be used here: {sentence}", style="yellow", markup=False, soft_wrap=True)
    _warn_bf16(console.print, plan)
    console.print(forecast_lines(cost, n_bytes, lanes), soft_wrap=True)
    console.print("nothing was started.")


def _warn_near_equal(say: Callable[..., None], plan: Plan) -> None:
    for name, dataset in plan.datasets_by_name().items():
        for note in near_equal_notes(dataset):
            say(f"data set {name}: {note}", style="yellow", soft_wrap=True, highlight=False)


def _warn_bf16(say: Callable[[str], None], plan: Plan) -> None:
    if has_fast_bf16() is False and any(cell.spec.precision == "bf16" for cell in plan.cells):
        say(
            "this processor has no bf16 instructions, so precision bf16 is emulated and several times slower than "
            "float32. Without a GPU, write 'precision: float32' in the study file."
        )


def _run(
    console: Console, plan: Plan, execution: Execution, local: bool, cost: Forecast, lanes: int | None
) -> Mapping[str, Mapping[str, Any]]:
    """Run what waits, and return the cells that failed with what their records say."""
    waiting = plan.waiting()
    _announce(console, plan, cost, lanes)
    costs = {}
    for cell in waiting:
        dataset = plan.datasets[dataset_key(cell.spec.dataset)]
        costs[cell.key] = round_costs(cell.spec, len(dataset.train), len(dataset.test))
        n_done = max(cell.n_recorded - 1, 0)
        costs[cell.key][:n_done] = [0.0] * n_done
    progress = Progress(console, costs, n_before=len(plan.cells) - len(waiting))
    if waiting:
        with progress:
            run_study(plan, execution, local=local, listener=progress)
    return progress.failures()


def _announce(console: Console, plan: Plan, cost: Forecast, lanes: int | None) -> None:
    waiting = plan.waiting()
    if not waiting:
        console.print(f"study {plan.study.name}: all {len(plan.cells)} cells are finished; nothing to do.")
        return
    begun = sum(cell.n_recorded > 0 for cell in waiting)
    again = f", {begun} of them go on after their last recorded round" if begun else ""
    seconds = f", about {duration(cost.seconds)}" if cost.seconds and lanes else ""
    at_a_time = f"{lanes} at a time" if lanes else "as many at a time as fit on the cluster"
    console.print(
        f"study {plan.study.name}: {len(waiting)} of {len(plan.cells)} cells to run{again}; {at_a_time}{seconds}.",
        soft_wrap=True,
    )
    _warn_near_equal(console.print, plan)
    _warn_bf16(console.print, plan)


def print_results(console: Console, plan: Plan) -> None:
    """Print the closing table of all cells of the plan that are finished."""
    from al_ray.report.analysis import analyse
    from al_ray.report.read import read_study

    finished = [
        cell
        for cell in plan.cells
        if cell.fingerprint and plan.store.cell(cell.slug, cell.fingerprint).status() == "done"
    ]
    if finished:
        grid = plan_record(replace(plan, cells=tuple(finished)))
        records = read_study(plan.store.folder.location, grid=grid)
        results = analyse(records, with_arrays=False)
        for table in (*result_tables(results), *slice_tables(results)):
            console.print(table)


def _print_addresses(console: Console, store: StudyStore, address: str | None) -> None:
    left = f"records: {store.root}{bytes_left(store.sizes())}"
    console.print(left, soft_wrap=True, highlight=False)
    if address is None:
        later = f"al-ray sync {shlex.quote(store.root)} --tracking http://HOST:PORT"
        console.print(f"MLflow: off. Later: {later}", soft_wrap=True, highlight=False)
    else:
        print_mlflow(console, store, address)


def print_mlflow(console: Console, store: StudyStore, address: str) -> None:
    """Print where the table of a study's cells is, as a link where MLflow is a server; for a database, what opens it.

    MLflow's own page of an experiment shows the parent run and hides its cells behind a small arrow. The link is known
    only where this process has been in touch with MLflow; no login is printed.
    """
    from al_ray.tracking.mlflow import cells_path

    path, shown = cells_path(store, address) or "", without_secrets(address)
    if scheme_of(address) in DATABASES:
        command = shlex.join([f"{Path(sys.executable).parent}/mlflow", "ui", "--backend-store-uri", shown])
        console.print(f"MLflow UI: {command}", soft_wrap=True, highlight=False, markup=False)
        shown = "http://127.0.0.1:5000"
        if not path:
            return
    page = "table of cells" if path else "MLflow UI"
    console.print(f"{page}: {shown.rstrip('/')}{path}", soft_wrap=True, highlight=False, markup=False)
