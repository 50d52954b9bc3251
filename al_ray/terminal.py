"""What is printed of a study: its plan, the live table while it runs, the closing tables, where everything is."""

import contextlib
import itertools
import logging
import math
import os
import re
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.measure import Measurement
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from al_ray.core.types import TextDataset
from al_ray.data import near_equal_notes
from al_ray.errors import without_secrets
from al_ray.records.cell import ADVICE, failure_words
from al_ray.records.study import StudyStore
from al_ray.runtime.tasks import CellEvent, CellFailed, CellFinished, CellStarted, RoundEnded
from al_ray.study.file import MOST_TRACKED, TrackedCells, tracks_cells
from al_ray.study.forecast import Forecast, has_fast_bf16, round_costs
from al_ray.study.names import JOIN
from al_ray.study.plan import Plan, dataset_key, plan_record
from al_ray.study.run import ReadyStudy, disk_bytes
from al_ray.study.spec import CellSpec, once_a_kind
from al_ray.tracking.mlflow_address import DATABASES, scheme_of, tracking_address

if TYPE_CHECKING:
    from al_ray.report.analysis.results import Estimate, MethodScore, StudyResults
    from al_ray.report.method_runs import LiveMethods

LINE_EVERY_S = 10.0
N_RUNNING_SHOWN, N_FAILURES_SHOWN = 20, 20
WIDTH_OF_A_LOG = 110
_ACTIVE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class PlainConsole(Console):
    """A console on which text from files stays text: names and messages may come from somebody else's study.

    Brackets are no markup, colons no emoji, and what a terminal would act on (control sequences, direction overrides)
    or could not write (lone surrogates) is shown as a replacement character.
    """

    def __init__(self, width: int | None = None) -> None:
        super().__init__(width=width, markup=False, emoji=False)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Lay something out, with every text in it made harmless."""
        for segment in super().render(renderable, options):
            if segment.control or not _ACTIVE.search(segment.text):
                yield segment
            else:
                yield Segment(_ACTIVE.sub("\ufffd", segment.text), segment.style)


def make_console() -> Console:
    """Return a console as wide as the terminal, and wide enough for every table where there is none."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDTH_OF_A_LOG
    return PlainConsole(width)


class ConsoleHandler(logging.Handler):
    """Prints what al_ray logs, as sentences."""

    def __init__(self, console: Console, level: int) -> None:
        super().__init__(level)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print one sentence; above the live table, where there is one."""
        try:
            self._console.print(without_secrets(record.getMessage()))
        except Exception:
            self.handleError(record)


@contextlib.contextmanager
def shown_log(console: Console, *, verbose: bool) -> Iterator[None]:
    """Print warnings of al_ray inside, and decisions with their numbers where that is asked for."""
    level = logging.INFO if verbose else logging.WARNING
    logger, handler = logging.getLogger("al_ray"), ConsoleHandler(console, level)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(min(level, logger.getEffectiveLevel()))  # a program's own handlers may ask for more
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)


def duration(seconds: float) -> str:
    """Write a duration the way people say it: ``48 s``, ``3 min 20 s``, ``7 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def plan_table(plan: Plan, n_shown: int = 40) -> Table:
    """Lay out the cells of a plan, the first ``n_shown`` of them."""
    table = Table(title=f"study {plan.study.name}: {len(plan.cells)} cells", title_justify="left")
    for name in ("cell", "rounds", "labels", "status"):
        table.add_column(name, justify="left" if name in ("cell", "status") else "right", overflow="fold")
    for cell in plan.cells[:n_shown]:
        everything = cell.spec.strategy.labels_everything
        labels = "all" if everything else str(cell.spec.initial_size + cell.spec.rounds * cell.spec.query_size)
        begun = f"{cell.status}, {cell.n_recorded} rounds recorded"
        state = {"waiting": "new", "done": "done"}.get(cell.status, begun)
        table.add_row(cell.key, "1" if everything else str(cell.spec.rounds + 1), labels, state)
    if len(plan.cells) > n_shown:
        table.add_row(f"... and {len(plan.cells) - n_shown} more", "", "", "")
    return table


def dataset_lines(name: str, dataset: TextDataset, n_shown: int = 12) -> list[str]:
    """Say how large a data set is, where it is from and how many examples its classes have, the most common first."""
    train, test = (Counter(split.labels.tolist()) for split in (dataset.train, dataset.test))
    order = sorted(range(dataset.n_classes), key=lambda c: -train[c])
    classes = [f"{_class_name(dataset.class_names[c])} {train[c]:,}/{test[c]:,}" for c in order]
    if len(classes) > n_shown:
        classes[n_shown - 2 : -2] = [f"({len(classes) - n_shown} more)"]
    open_set = f" and {dataset.n_no_class:,} training examples of none" if dataset.n_no_class else ""
    return [
        f"data set {name}: {len(dataset.train):,} training and {len(dataset.test):,} test examples, "
        f"{dataset.n_classes} classes{open_set}, from {dataset.source}",
        f"classes, training/test examples: {', '.join(classes)}",
    ]


def _class_name(name: str, n: int = 30) -> str:
    short = name if len(name) <= n else f"{name[: n - 3]}..."
    return short if short.isprintable() and short == short.strip() else repr(short)


def forecast_lines(cost: Forecast, disk_bytes: int, lanes: int | None) -> str:
    """Say what the rest of a study costs, on one lane where it is not known how many there will be."""
    work = ", ".join(
        f"{n:,} {what}"
        for n, what in (
            (cost.n_heads, "heads to fit"),
            (cost.n_finetuned, "examples to fine-tune on"),
            (cost.n_scored, "texts to score"),
        )
        if n
    )
    needed = f"forecast: {work or 'nothing to compute'}, {disk_bytes / 2**20:.1f} MiB of disk"
    if cost.seconds is None:
        return f"{needed}; how long it takes cannot be measured here."
    return f"{needed}; about {duration(cost.seconds)} on {_lanes(lanes)}, as measured on this machine."


def _lanes(lanes: int | None) -> str:
    if lanes is None:
        return "1 lane, with as many lanes as fit on the cluster"
    return f"{lanes} lane{'s' if lanes > 1 else ''}"


def bytes_left(sizes: Mapping[str, int]) -> str:
    """Say how much disk the cells of a study have taken, in words behind its address."""
    if not sizes:
        return ""
    total = sum(sizes.values())
    return f" ({total / 2**20:.1f} MiB, {total / len(sizes) / 2**10:.0f} KiB a cell)"


def failure_lines(failures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say how many cells failed, of which kind, and what to do about each kind.

    Args:
        failures: cell -> what its ``failed.json`` says.
    """
    kinds = Counter(str(failure.get("kind", "error")) for failure in failures.values())
    n = sum(kinds.values())
    each = [f"  {count} x {kind}. {ADVICE.get(kind, '')}" for kind, count in kinds.most_common()]
    return [
        f"{n} cell{'s' if n > 1 else ''} failed; the reason and the log are in failed.json of each. "
        "Run the same command to try them again.",
        *each,
    ]


@dataclass(frozen=True)
class WideTable:
    """A table that is broken into several, one below the other, where the terminal is too narrow for its columns.

    Attributes:
        table: its first column stands before each of the others, and is all that is folded.
    """

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the table, or its parts."""
        taken: list[int] = []
        for column in range(1, len(self.table.columns)):
            if taken and self._width(console, options, [*taken, column]) > options.max_width:
                yield self._part(taken)
                taken = []
            taken.append(column)
        yield self._part(taken)

    def _width(self, console: Console, options: ConsoleOptions, columns: Sequence[int]) -> int:
        return Measurement.get(console, options.update(max_width=10_000), self._part(columns)).minimum

    def _part(self, columns: Sequence[int]) -> Table:
        whole = self.table
        chosen = [whole.columns[column] for column in (0, *columns)]
        part = Table(*(column.copy() for column in chosen), box=whole.box, pad_edge=whole.pad_edge)
        part.title, part.title_justify = whole.title, whole.title_justify
        for row, cells in zip(whole.rows, zip(*(column.cells for column in chosen), strict=True), strict=True):
            part.add_row(*cells, style=row.style)
        for column in part.columns[1:]:
            column.min_width = max(cell_len(line) for text in column.cells for line in str(text).splitlines() or [""])
        return part


def result_tables(results: "StudyResults") -> list[WideTable]:
    """Lay out the closing tables, one a data set and model: final accuracy, area under the curve, labels saved."""
    tables = []
    for place, rows in _by_place(results).items():
        columns = ["seeds", "labels", "final\naccuracy", "aulc", "labels saved\nvs random"]
        table = plain_table("method", columns, f"{place}: test accuracy, mean ± standard deviation over seeds")
        for words, _, row in rows:
            labels = " to ".join(map(str, dict.fromkeys(row.n_labeled)))
            table.add_row(words, str(row.n_cells), labels, _mean(row.final_accuracy), _mean(row.aulc), _saved(row))
        tables.append(WideTable(table))
    return tables


def slice_tables(results: "StudyResults") -> list[WideTable]:
    """Lay out which share of its queries each method spent on texts of no class, and on each data slice.

    One table a data set and model.
    """
    from al_ray.report.analysis.results import POOL

    found = {(of.setting, one.method): one for of in results.queries for one in of.acquired}
    acquired = {
        key: {**({} if one.rejected is None else {"(of no class)": one.rejected}), **one.kinds}
        for key, one in found.items()
        if one.kinds or one.rejected is not None
    }
    tables = []
    for place, rows in _by_place(results).items():
        shown = [
            (words, acquired[setting, row.method]) for words, setting, row in rows if (setting, row.method) in acquired
        ]
        if not shown:
            continue
        names = list(dict.fromkeys(name for _, shares in shown for name in shares))
        table = plain_table("method", names, f"{place}: % of all queries after the initial one, by slice of the data")
        pool = acquired.get((rows[0][1], POOL))
        for words, shares in (*([("(the pool)", pool)] if pool else []), *shown):
            style = "dim" if shares is pool else None
            table.add_row(words, *(f"{100 * shares.get(name, 0.0):.1f}" for name in names), style=style)
        tables.append(WideTable(table))
    return tables


def _by_place(results: "StudyResults") -> "dict[str, list[tuple[str, str, MethodScore]]]":
    """Return, for every data set and model, the finished methods: name, setting and score, the largest area first.

    A name says what else varies, and leaves the confidence out where all methods share it.
    """
    rows = {ranking.setting: ranking.rows for ranking in results.rankings}
    found = [
        (setting, row)
        for setting in results.settings
        for row in (*rows.get(setting.name, ()), *_of_no_ranking(results, setting.name))
    ]
    is_shared = len({results.methods[row.method].confidence for _, row in found}) == 1
    places: dict[str, list[tuple[str, str, MethodScore]]] = {}
    for setting, row in sorted(found, key=lambda each: (each[0].dataset, each[0].model, -each[1].aulc.mean)):
        labels = [*results.methods[row.method].labels[is_shared:], *([setting.variant] if setting.variant else [])]
        place = places.setdefault(f"{setting.dataset}, {setting.model}", [])
        place.append((JOIN.join(labels), setting.name, row))
    return places


def _of_no_ranking(results: "StudyResults", setting: str) -> "tuple[MethodScore, ...]":
    return (*results.passive.get(setting, ()), *results.bounds.get(setting, ()))


def plain_table(first: str, others: Iterable[str], title: str | None = None) -> Table:
    """Return an empty table without a frame: names in its first column, figures in the others."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, overflow="fold", min_width=20)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _mean(estimate: "Estimate") -> str:
    return f"{estimate.mean:.3f}" if estimate.std is None else f"{estimate.mean:.3f} ± {estimate.std:.3f}"


def _saved(row: "MethodScore") -> str:
    level = row.levels[0] if row.levels else None
    if level is None or level.saved_of is None:
        return "-"
    if level.labels_saved is None:
        return "never there"
    return f"{level.labels_saved:+.0f} of {level.saved_of:.0f}"


@dataclass
class _Running:
    costs: Sequence[float]
    round_index: int = 0
    n_labeled: int = 0
    accuracy: float = float("nan")
    since: float = field(default_factory=lambda: time.monotonic())
    done: float = 0.0

    def words(self, slug: str) -> str:
        if not self.round_index:
            return f"{slug} has its initial labels"
        return (
            f"{slug} round {self.round_index}/{len(self.costs)}, {self.n_labeled} labels, accuracy {self.accuracy:.3f}"
        )

    def seconds_left(self) -> float:
        spent = time.monotonic() - self.since
        return spent * (sum(self.costs) - self.done) / self.done if self.done else float("nan")


class Progress:
    """One live table of a running study; on a terminal that cannot redraw, a line every few seconds.

    Args:
        console: where to draw.
        costs: relative cost of each round of every cell that is to run, by cell key; 0 for rounds recorded before.
        n_before: cells that were finished already.

    Attributes:
        failures: the cells that failed, each with what its record says.
    """

    def __init__(self, console: Console, costs: Mapping[str, Sequence[float]], n_before: int) -> None:
        self._console = console
        self._costs = dict(costs)
        self._cost_of_all = sum(sum(each) for each in costs.values())
        self._n_before = n_before
        self._running: dict[str, _Running] = {}
        self._ended: set[str] = set()
        self.failures: dict[str, Mapping[str, Any]] = {}
        self._cost_done = 0.0
        self._started = time.monotonic()
        self._first_work: float | None = None
        self._last_line = 0.0
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=2, transient=True)

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._live.start()
        else:
            self._console.print(f"starting: {len(self._costs)} cells to run")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def __call__(self, event: CellEvent) -> None:
        """Take in one event of a cell."""
        cell = self._running.get(event.key)
        match event:
            case CellStarted():
                self._first_work = self._first_work or time.monotonic()
                self._running.setdefault(event.key, _Running(self._costs[event.key]))
            case RoundEnded():
                self._round(event)
            case CellFinished() | CellFailed():
                self._end(event)
        if not self._console.is_terminal:
            self._print_line(event, cell if event.key in self._ended else None)

    def _round(self, event: RoundEnded) -> None:
        cell = self._running[event.key]
        cell.round_index, cell.n_labeled = event.round_index, event.n_labeled
        cell.accuracy = event.metrics.get("accuracy", float("nan"))
        if cell.round_index:
            cost = cell.costs[min(cell.round_index, len(cell.costs)) - 1]
            cell.done += cost
            self._cost_done += cost

    def _end(self, event: CellFinished | CellFailed) -> None:
        cell = self._running.pop(event.key, None)
        if cell is not None:
            self._cost_done += sum(cell.costs) - cell.done
        self._ended.add(event.key)
        if isinstance(event, CellFailed):
            self.failures[event.key] = event.reason()
            self._print_failure(event)

    def _print_failure(self, event: CellFailed) -> None:
        n = len(self.failures)
        if n <= N_FAILURES_SHOWN:
            self._console.print(Text(f"failed: {event.key}: {failure_words(event.reason())}", style="red"))
        elif n == N_FAILURES_SHOWN + 1:
            self._console.print(Text(f"more than {N_FAILURES_SHOWN} cells failed: others are counted", style="red"))

    def _seconds_left(self) -> float:
        if self._first_work is None or not self._cost_done:
            return float("nan")
        left = self._cost_of_all - self._cost_done
        return (time.monotonic() - self._first_work) * left / self._cost_done

    def _totals(self) -> str:
        failed = len(self.failures)
        left = self._seconds_left()
        return (
            f"{len(self._ended) - failed + self._n_before:,} of {len(self._costs) + self._n_before:,} cells done"
            + (f", {failed:,} failed" if failed else "")
            + f", {duration(time.monotonic() - self._started)} gone"
            + (", lanes are starting" if self._first_work is None else "")
            + (f", about {duration(left)} left" if not math.isnan(left) else "")
        )

    def _render(self) -> RenderableType:
        table = Table(title_justify="left")
        table.add_column("cell", overflow="fold")
        for name in ("round", "labels", "accuracy", "time left"):
            table.add_column(name, justify="right")
        for key, cell in itertools.islice(self._running.items(), N_RUNNING_SHOWN):
            left = cell.seconds_left()
            table.add_row(
                key.rsplit("--", 1)[0],
                f"{cell.round_index}/{len(cell.costs)}",
                str(cell.n_labeled),
                "" if math.isnan(cell.accuracy) else f"{cell.accuracy:.3f}",
                "" if math.isnan(left) else duration(left),
            )
        if len(self._running) > N_RUNNING_SHOWN:
            table.add_row(f"... and {len(self._running) - N_RUNNING_SHOWN} more", "", "", "", "")
        return Group(table, Text(self._totals()))

    def _print_line(self, event: CellEvent, ended: _Running | None) -> None:
        """Print what became of a cell: the end of one that took its time, else one line in a while."""
        if not isinstance(event, RoundEnded | CellFinished):
            return
        now = time.monotonic()
        took_long = ended is not None and now - ended.since >= LINE_EVERY_S
        is_last = len(self._ended) == len(self._costs)
        if now - self._last_line < LINE_EVERY_S and not took_long and not is_last:
            return
        self._last_line = now
        slug = event.key.rsplit("--", 1)[0]
        cell = self._running.get(event.key)
        what = f"{slug} done" if cell is None else cell.words(slug)
        self._console.print(f"{what}; {self._totals()}", soft_wrap=True)


def print_plan(console: Console, ready: ReadyStudy) -> None:
    """Print the cells of a study, its data, what is missing here and what it will cost."""
    plan, cost = ready.plan, ready.cost
    console.print(plan_table(plan))
    for name, dataset in plan.datasets_by_name().items():
        whole, classes = dataset_lines(name, dataset)
        console.print(whole, soft_wrap=True, highlight=False)
        console.print(Padding(classes, (0, 0, 0, 2)), highlight=False)
    _warn_near_equal(console, plan)
    for sentence in plan.missing:
        console.print(f"cannot be used here: {sentence}", style="yellow", markup=False, soft_wrap=True)
    _warn_bf16(console, ready)
    for sentence in ready.encodings.sentences():
        console.print(sentence, markup=False, soft_wrap=True, highlight=False)
    console.print(forecast_lines(cost, disk_bytes(cost, ready.execution), ready.lanes), soft_wrap=True)
    console.print("nothing was started.")


def run_shown(ready: ReadyStudy, console: Console, *, verbose: bool = False) -> Mapping[str, Mapping[str, Any]]:
    """Run what waits of a study, with a live table of it, then print its closing tables and where everything is.

    Args:
        ready: what to run.
        console: where to print.
        verbose: print decisions as well: what waits, what is tried again, and why.

    Returns:
        the cells that failed, with what their records say.
    """
    plan = ready.plan
    waiting = plan.waiting()
    _announce(console, ready)

    def costs_of(spec: CellSpec) -> list[float]:
        dataset = plan.datasets[dataset_key(spec.dataset)]
        return round_costs(spec, len(dataset.train), len(dataset.test))

    usual, costs = once_a_kind(costs_of), dict[str, list[float]]()
    for cell in waiting:
        costs[cell.key], n_done = usual(cell.spec), max(cell.n_recorded - 1, 0)
        if n_done:
            costs[cell.key] = [*[0.0] * n_done, *costs[cell.key][n_done:]]
    progress = Progress(console, costs, n_before=len(plan.cells) - len(waiting))
    if waiting:
        with shown_log(console, verbose=verbose), progress:
            ready.run(progress, live_methods(plan))
    _print_results(console, plan)
    address = tracking_address(ready.execution.tracking, ready.execution.storage)
    _print_addresses(console, plan.store, address)
    if address is not None and not tracks_cells(ready.execution.tracked_cells, len(plan.study.cells)):
        console.print(
            f"MLflow: {methods_alone(len(plan.study.cells), ready.execution.tracked_cells)}",
            soft_wrap=True,
            highlight=False,
        )
    if progress.failures:
        console.print("\n".join(failure_lines(progress.failures)), style="red", soft_wrap=True)
    return progress.failures


def live_methods(plan: Plan) -> "LiveMethods | None":
    """Return what MLflow is to show of the methods of a study that runs; None where one cell of it runs alone."""
    from al_ray.report.method_runs import LiveMethods

    return LiveMethods(plan) if plan.is_whole else None


def _announce(console: Console, ready: ReadyStudy) -> None:
    plan, lanes = ready.plan, ready.lanes
    waiting = plan.waiting()
    if not waiting:
        console.print(f"study {plan.study.name}: all {len(plan.cells)} cells are finished; nothing to do.")
        return
    begun = sum(cell.n_recorded > 0 for cell in waiting)
    again = f", {begun} of them go on after their last recorded round" if begun else ""
    at_a_time = f"{lanes} at a time" if lanes else "as many at a time as fit on the cluster"
    console.print(
        f"study {plan.study.name}: {len(waiting)} of {len(plan.cells)} cells to run{again}; {at_a_time}.",
        soft_wrap=True,
    )
    _warn_near_equal(console, plan)
    _warn_bf16(console, ready)


def _warn_near_equal(console: Console, plan: Plan) -> None:
    for name, dataset in plan.datasets_by_name().items():
        for note in near_equal_notes(dataset):
            console.print(f"data set {name}: {note}", style="yellow", soft_wrap=True, highlight=False)


def _warn_bf16(console: Console, ready: ReadyStudy) -> None:
    on_cores = ready.execution.device == "cpu" and has_fast_bf16() is False
    if on_cores and any(cell.spec.precision == "bf16" for cell in ready.plan.cells):
        console.print(
            "this processor has no bf16 instructions, so precision bf16 is emulated and several times slower than "
            "float32. Write 'precision: {cpu: float32, cuda: bf16}' in the study file."
        )


def _print_results(console: Console, plan: Plan) -> None:
    """Print the closing table of all cells of the plan that are finished."""
    from al_ray.report.analysis import analyse
    from al_ray.report.read import read_study

    store = plan.store
    store.packed.look()
    recorded = frozenset(store.recorded_keys())
    planned = {c.key: store.cell(c.slug, c.fingerprint) for c in plan.cells if c.fingerprint and c.key in recorded}
    progress = store.folder.each(lambda key: store.progress(planned[key]), list(planned))
    done = {key for key, (status, _) in zip(planned, progress, strict=True) if status == "done"}
    if finished := tuple(cell for cell in plan.cells if cell.key in done):
        grid = plan_record(replace(plan, cells=finished))
        records = read_study(store.folder.location, grid=grid)
        results = analyse(records, with_arrays=False)
        for table in (*result_tables(results), *slice_tables(results)):
            console.print(table)
        print_verdict(console, results)


def print_verdict(console: Console, results: "StudyResults") -> None:
    """Print which method to use, and how far the numbers carry that."""
    from al_ray.report.verdict import make_verdict

    found = make_verdict(results)
    sentences = (found.headline, *found.saves, *found.sure, *found.change, *found.clipping, *found.missing)
    for sentence in sentences:
        console.print(sentence, soft_wrap=True, highlight=False, markup=False)


def _print_addresses(console: Console, store: StudyStore, address: str | None) -> None:
    left = f"records: {store.root}{bytes_left(store.sizes())}"
    console.print(left, soft_wrap=True, highlight=False)
    if address is None:
        later = f"al-ray sync {shlex.quote(store.root)} --tracking http://HOST:PORT"
        console.print(f"MLflow: off. Later: {later}", soft_wrap=True, highlight=False)
    else:
        print_mlflow(console, store, address)


def methods_alone(n_cells: int, tracked: TrackedCells) -> str:
    """Say that MLflow has no runs of cells, why, and what gives it some."""
    why = "as asked" if tracked == "none" else f"above {MOST_TRACKED:,} they are logged only when asked"
    how = "with 'tracked_cells: all', or later with 'al-ray sync --cells all'."
    return f"runs of methods, and none of the {n_cells:,} cells, {why}; to have them, {how}"


def print_mlflow(console: Console, store: StudyStore, address: str) -> None:
    """Print the addresses that open a study's learning curves and ranking in MLflow; for a database, what serves it.

    Each stands on a line of its own, so that a narrow terminal breaks none that fits. The addresses are known only
    where this process has been in touch with MLflow; no login is printed.
    """
    from al_ray.tracking.mlflow import view_paths

    paths, shown = view_paths(store, address), without_secrets(address)
    lines = []
    if scheme_of(address) in DATABASES:
        command = shlex.join([f"{Path(sys.executable).parent}/mlflow", "ui", "--backend-store-uri", shown])
        lines.append(f"MLflow UI: {command}")
        shown = "http://127.0.0.1:5000"
    elif not paths:
        lines.append(f"MLflow UI: {shown.rstrip('/')}")
    for name in ("Learning curves", "Ranking"):
        if name in paths:
            lines += [f"{name.lower()} in MLflow:", f"{shown.rstrip('/')}{paths[name]}"]
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
