"""``al-ray ask``, ``tell`` and ``status``: a project's query out, its answers in, and how far it is."""

import json
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from al_ray.cli.run import user_errors
from al_ray.errors import ConfigError, StorageError, unknown_name, without_logins
from al_ray.records.lease import InUseError
from al_ray.report.wording import joined, percent, plural, points, seconds_in_words, signed_points
from al_ray.terminal import make_console, plain_table

if TYPE_CHECKING:
    from al_ray.project.exchange import Asked, Format, Reading
    from al_ray.project.project import Project
    from al_ray.project.state import Batch, CurvePoint, Progress, Status

LABEL_STUDIO = "label-studio"
_SEPARATORS = {",": ",", ";": ";", "tab": "\t"}
_N_POINTS, _N_CLASSES, _N_IDS, _N_NAMED = 8, 12, 20, 30
_PLOT_WIDTH = 30

_Choice = TypeVar("_Choice")
_ProjectFile = Annotated[str, typer.Argument(help="Project file, YAML.", metavar="PROJECT.yaml")]
_Storage = Annotated[str | None, typer.Option("--storage", help="Folder or URI of the records.")]
_Url = Annotated[str | None, typer.Option("--url", help="Address of Label Studio; its key: LABEL_STUDIO_API_KEY.")]


def ask(
    project: _ProjectFile,
    to: Annotated[str, typer.Option("--to", help="File to write, or 'label-studio'.", metavar="FILE")],
    format_: Annotated[
        str | None, typer.Option("--format", help="csv, jsonl or label-studio; default: by the file's ending.")
    ] = None,
    separator: Annotated[str, typer.Option("--separator", help="Between cells of CSV: ',', ';' or 'tab'.")] = ",",
    hide: Annotated[bool, typer.Option("--hide-predictions", help="Do not show what the model believes.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that holds something else.")] = False,
    url: _Url = None,
    number: Annotated[
        str | None, typer.Option("--project", help="Number of a Label Studio project, or 'new'.", metavar="ID")
    ] = None,
    storage: _Storage = None,
) -> None:
    """Write the texts to label now; asked again, the same ones until they are answered."""
    from al_ray.project.exchange import is_told, n_cut, write_batch
    from al_ray.project.project import Project

    console = make_console()
    with user_errors(console):
        if to == LABEL_STUDIO:
            address, place = _server(url, number, may_be_new=True)
        else:
            file, format_of_file = Path(to).expanduser(), _format(to, format_)
            separator_ = _choice("--separator", separator, _SEPARATORS)
        with Project.open(project, storage=storage) as opened:
            batch = _computed(console, opened)
            if batch is None:
                _say(console, f"nothing is left to ask: {opened.end}")
                return
            _say(console, _batch_words(batch))
            if to == LABEL_STUDIO:
                place = _send(console, opened, batch, address, place, with_predictions=not hide)
                there = ["--from", LABEL_STUDIO, "--url", without_logins(address), "--project", str(place)]
                _next(console, "tell", project, *there, storage=storage)
                return
            content = write_batch(
                batch, format_of_file, project=opened.name, separator=separator_, with_predictions=not hide
            )
            written = _write(
                file, content, may_replace=lambda: force or is_told(file, _asked(opened), opened.answers())
            )
            _say(console, f"{written}: {file}")
            if format_of_file == "csv" and (n := n_cut(batch)):
                _say(
                    console,
                    f"{plural(n, 'text')} of more than 32,767 characters, which no cell of a spreadsheet holds, cut. "
                    "A .jsonl file has all of it.",
                )
            if format_of_file != LABEL_STUDIO:
                names = ", ".join(opened.class_names[:_N_NAMED]) + (
                    " ..." if len(opened.class_names) > _N_NAMED else ""
                )
                _say(console, f"fill in 'label' with: {names}; or ? where you are not sure")
            _next(console, "tell", project, str(file), storage=storage)


def tell(
    project: _ProjectFile,
    file: Annotated[str | None, typer.Argument(help="Answers: CSV, JSONL, Parquet, or Label Studio's JSON.")] = None,
    from_: Annotated[
        str | None, typer.Option("--from", help="'label-studio': fetch the answers there.", metavar="PLACE")
    ] = None,
    annotator: Annotated[str, typer.Option("--annotator", help="Who answered, where the file does not say.")] = "",
    close: Annotated[
        bool, typer.Option("--close", help="Close the round: what has no answer stays without one.")
    ] = False,
    url: _Url = None,
    number: Annotated[str | None, typer.Option("--project", help="Number of the Label Studio project.")] = None,
    storage: _Storage = None,
) -> None:
    """Record answers, in any order and in parts; all rows of a file or none."""
    from al_ray.project.exchange import read_answers
    from al_ray.project.project import Project

    console = make_console()
    with user_errors(console):
        if from_ is not None and from_ != LABEL_STUDIO:
            raise ConfigError(f"--from is {from_!r}; it can be {LABEL_STUDIO!r}. A file needs no option.")
        if (file is None) == (from_ is None) and not (close and file is None):
            raise ConfigError("give one file with answers, or '--from label-studio', or '--close'.")
        address, place = _server(url, number, may_be_new=False) if from_ else ("", None)
        with Project.open(project, storage=storage) as opened:
            reading = None
            if from_:
                reading = _fetched(address, place, _asked(opened))
            elif file is not None:
                reading = read_answers(Path(file).expanduser(), _asked(opened), annotator=annotator)
            if reading is not None:
                _record(console, opened, reading)
            if close:
                _close(console, opened)
            to = ["--to", "next.csv"]
            if from_:
                to = ["--to", LABEL_STUDIO, "--url", without_logins(address), "--project", str(place)]
            if _say_what_is_open(console, opened):
                _next(console, "ask", project, *to, storage=storage)


def status(
    project: _ProjectFile,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
    storage: _Storage = None,
) -> None:
    """Show how far a project is: labels, classes, how good the model is, and whether to go on."""
    from al_ray.project.project import Project

    console = make_console()
    with user_errors(console):
        with Project.open(project, storage=storage, write=False) as opened:
            found = opened.status()
        if as_json:
            typer.echo(json.dumps(asdict(found), indent=2))
        else:
            print_status(console, found, project, storage)


def export(
    project: _ProjectFile,
    to: Annotated[str, typer.Option("--to", help="Folder to write: new or empty.", metavar="FOLDER")],
    storage: _Storage = None,
) -> None:
    """Write the model, a card that says how good it is, and all labels; transformers opens the folder."""
    from al_ray.project.project import Project

    console = make_console()
    with user_errors(console):
        try:
            with Project.open(project, storage=storage) as opened, _shown_progress(console, opened):
                opened.batch()  # takes in a query that is answered
                _export(console, opened, to)
        except InUseError:
            with Project.open(project, storage=storage, write=False) as opened, _shown_progress(console, opened):
                _export(console, opened, to)
        _next(console, "score", "POOL", "--model", to, "--to", "scored", storage=None)


def _export(console: Console, project: "Project", to: str) -> None:
    written, found = project.export(Path(to).expanduser()), project.status()
    _say(console, f"model: {written.folder}, on {plural(written.n_learned, 'label')}")
    if found.curve:
        last = found.curve[-1]
        _say(console, f"accuracy: {percent(last.accuracy)}, between {percent(last.low)} and {percent(last.high)}")
    else:
        _say(console, f"accuracy: not known ({found.how_estimated})")
    _say(console, f"probabilities: {written.calibration}")
    _say(console, f"labels: {plural(written.n_labels, 'labelled text')} beside it, in {written.folder / 'labels'}")
    if found.n_asked > found.n_open > 0:
        n = found.n_asked - found.n_open
        _say(console, f"{plural(n, 'answer')} to the open query: among the labels, not in the model yet")


def print_status(console: Console, found: "Status", project: str, storage: str | None = None) -> None:
    """Print how far a project is, in 80 columns, and the command that goes on.

    Args:
        console: where to print.
        found: what to print.
        project: its file, as it was typed.
        storage: of the records, where it was typed.
    """
    for line in (_counts_line(found), _people_line(found), f"quality: {found.how_estimated}"):
        if line:
            _say(console, line)
    if found.curve:
        for line in curve_lines(found.curve, ascii_only=not console.encoding.startswith("utf")):
            console.print(line, soft_wrap=True, highlight=False)
    elif not found.how_estimated.startswith("not estimated"):
        _say(console, "no estimate yet: it comes with the first model whose evaluation texts have answers")
    if found.outlook is not None:
        more = found.outlook
        _say(
            console,
            f"outlook: {plural(more.n_more, 'more label')} are likely to bring {points(more.gain)} of accuracy "
            f"({signed_points(more.low)} to {signed_points(more.high)} nine times of ten)",
        )
    _print_classes(console, found.class_counts)
    for rule, reason in found.advice.items():
        _say(console, f"stopping rule {rule}: {'go on' if reason is None else f'enough, {reason}'}")
    if found.end is not None:
        _say(console, f"ended: {found.end}")
    elif found.n_open:
        _say(console, f"round {found.round_index}: {found.n_open} of {plural(found.n_asked, 'text')} without an answer")
        _next(console, "ask", project, "--to", "query.csv", storage=storage)
    else:
        _say(console, f"round {found.round_index}: to be computed, by the next 'al-ray ask'")
        _next(console, "ask", project, "--to", "query.csv", storage=storage)


def curve_lines(curve: "Sequence[CurvePoint]", *, ascii_only: bool = False) -> list[str]:
    """Draw an estimated learning curve: a line a point, each with its interval on one scale.

    Args:
        curve: oldest first, at least one point; of a long one some points are shown, the first and the last among them.
        ascii_only: draw with characters that every terminal has.
    """
    bar, dot = ("-", "o") if ascii_only else ("─", "●")
    shown = _some(curve, _N_POINTS)
    low = int(min(point.low for point in shown) * 10) / 10
    high = min(int(max(point.high for point in shown) * 10) / 10 + 0.1, 1.0)

    def column(value: float) -> int:
        return round((value - low) / max(high - low, 0.1) * (_PLOT_WIDTH - 1))

    scale = f"{percent(low, 0):<{_PLOT_WIDTH - 5}}{percent(high, 0):>5}"
    lines = [f"{'labels':>8}  {'accuracy':>8}  {'95 % interval':<17}{scale}"]
    for point in shown:
        start, at, end = column(point.low), column(point.accuracy), column(point.high)
        plot = [bar if start <= place <= end else " " for place in range(_PLOT_WIDTH)]
        plot[at] = dot
        interval = f"{percent(point.low).removesuffix(' %')} to {percent(point.high)}"
        lines.append(f"{point.n_labeled:>8,}  {percent(point.accuracy):>8}  {interval:<17}{''.join(plot)}".rstrip())
    last = curve[-1]
    lines.append(f"{'':8}  the last from {plural(last.n_evaluated, 'answer')}")
    return lines


def _some(curve: "Sequence[CurvePoint]", n: int) -> "list[CurvePoint]":
    """Return a few points of a curve, evenly spaced."""
    if len(curve) <= n:
        return list(curve)
    return [curve[round(place * (len(curve) - 1) / (n - 1))] for place in range(n)]


def _counts_line(found: "Status") -> str:
    given = f" ({found.n_given:,} of them from the data)" if found.n_given else ""
    more = [f"{found.n_evaluation:,} to measure by"] if found.n_evaluation else []
    more += [f"{found.n_abstained:,} not sure"] if found.n_abstained else []
    return f"project {found.name}: {found.n_labeled:,} of {plural(found.n_pool, 'text')} labelled{given}" + "".join(
        f", {words}" for words in more
    )


def _people_line(found: "Status") -> str:
    people = [f"{name} {n:,}" for name, n in found.annotators.items()]
    if not people:
        return ""
    pace = f"; {seconds_in_words(found.seconds_per_answer)} an answer" if found.seconds_per_answer is not None else ""
    return f"answers: {', '.join(people)}{pace}"


def _print_classes(console: Console, counts: Mapping[str, int]) -> None:
    """Print how many labels each class has, the largest first; of many classes the largest and the smallest."""
    total = sum(counts.values())
    if not total:
        return
    table = plain_table("class", ("labels", "share"))
    ordered = sorted(counts.items(), key=lambda each: -each[1])
    n_hidden = max(len(ordered) - _N_CLASSES, 0)
    for place, (name, n) in enumerate(ordered):
        if n_hidden and place == _N_CLASSES - 3:
            table.add_row(f"({n_hidden} more)", "", "")
        if not n_hidden or place < _N_CLASSES - 3 or place >= len(ordered) - 3:
            table.add_row(name, f"{n:,}", percent(n / total, 0))
    console.print(table)


@contextmanager
def _shown_progress(console: Console, project: "Project") -> Iterator[None]:
    """Show what a project computes, on a terminal that can redraw."""

    def words(progress: "Progress | None") -> Text:
        doing = "computing the next query" if progress is None else progress.doing
        share = None if progress is None else progress.share
        return Text(f"{doing} ..." if share is None else f"{doing}, {percent(share, 0)}")

    if not console.is_terminal:
        yield
        return
    with Live(get_renderable=lambda: words(project.progress), console=console, refresh_per_second=4, transient=True):
        yield


def _computed(console: Console, project: "Project") -> "Batch | None":
    with _shown_progress(console, project):
        return project.batch()


def _batch_words(batch: "Batch") -> str:
    n_evaluation = sum(task.role == "evaluation" for task in batch.tasks)
    n_train, n_open = len(batch.tasks) - n_evaluation, len(batch.open)
    measure = f" and {n_evaluation} to measure the model by" if n_evaluation else ""
    answered = "" if n_open == len(batch.tasks) else f"; {n_open} have no answer yet"
    return f"round {batch.round_index}: {plural(n_train, 'text')} to learn from{measure}{answered}"


def _format(to: str, format_: str | None) -> "Format":
    """Return the format of a file to write.

    Raises:
        ConfigError: it is not known.
    """
    from al_ray.project.exchange import FORMATS

    endings: dict[str, Format] = {".csv": "csv", ".jsonl": "jsonl", ".json": "label-studio"}
    if format_ is not None:
        return _choice("--format", format_, {name: name for name in FORMATS})
    suffix = Path(to).suffix.lower()
    if suffix not in endings:
        hint = f" or {LABEL_STUDIO!r}" if not suffix else ""
        raise ConfigError(f"--to is {to!r}; give a file that ends in {joined([*endings], 'or')}{hint}, or --format.")
    return endings[suffix]


def _choice(option: str, value: str, choices: Mapping[str, _Choice]) -> _Choice:
    if value not in choices:
        raise ConfigError(unknown_name(f"value of {option}", value, choices))
    return choices[value]


def _write(file: Path, content: bytes, *, may_replace: Callable[[], bool]) -> str:
    """Write a file whole, and say what was done.

    Raises:
        ConfigError: another content is there.
        StorageError: it cannot be written.
    """
    try:
        if file.exists():
            if file.read_bytes() == content:
                return "there already"
            if not may_replace():
                raise ConfigError(
                    f"{file} is there and holds something else, maybe answers that were not told yet. Tell them first, "
                    "or give another name, or --force."
                )
        new = file.with_name(f".{file.name}.{os.getpid()}")
        new.write_bytes(content)
        new.replace(file)
    except OSError as error:
        raise StorageError(f"{file} cannot be written: {error.strerror}. Name another file with --to.") from None
    return "written"


def _server(url: str | None, number: str | None, *, may_be_new: bool) -> tuple[str, int | None]:
    """Return the address of Label Studio and the number of the project there; None for a new one.

    Raises:
        ConfigError: one of them is missing or is none.
    """
    kinds = "NUMBER or --project new" if may_be_new else "NUMBER"
    if url is None or number is None:
        raise ConfigError(f"Label Studio needs --url http://HOST:PORT and --project {kinds}.")
    if number == "new" and may_be_new:
        return url, None
    if not number.isdecimal():
        raise ConfigError(f"--project is {number!r}; give --project {kinds}, as in the address /projects/NUMBER/.")
    return url, int(number)


def _send(
    console: Console, project: "Project", batch: "Batch", url: str, place: int | None, *, with_predictions: bool
) -> int:
    """Send a query to Label Studio, and return the number of the project there."""
    from al_ray.project.label_studio import LabelStudio

    sent = LabelStudio.connect(url).send(
        batch, place, project=project.name, class_names=project.class_names, with_predictions=with_predictions
    )
    there = f", {sent.n_there} there already" if sent.n_there else ""
    _say(console, f"Label Studio: {plural(sent.n_sent, 'task')} sent{there}: {sent.address}")
    return sent.project_id


def _fetched(url: str, place: int | None, asked: "Asked") -> "Reading":
    from al_ray.project.label_studio import LabelStudio

    assert place is not None
    return LabelStudio.connect(url).fetch(place, asked)


def _asked(project: "Project") -> "Asked":
    from al_ray.project.exchange import Asked

    return Asked(
        project=project.name,
        prefixes=frozenset(fingerprint[:8] for fingerprint in project.fingerprints),
        class_names=project.class_names,
        ids=project.asked(),
    )


def _record(console: Console, project: "Project", reading: "Reading") -> None:
    told = project.tell(reading.answers)
    counts = [plural(told.n_new, "new answer")]
    counts += [f"{told.n_changed:,} changed or by another annotator"] if told.n_changed else []
    counts += [f"{told.n_same:,} known already"] if told.n_same else []
    counts += [f"{reading.n_open:,} without a label"] if reading.n_open else []
    counts += (
        [f"{plural(reading.n_others, 'task')} of other projects or methods left alone"] if reading.n_others else []
    )
    _say(console, f"recorded: {', '.join(counts)}")


def _close(console: Console, project: "Project") -> None:
    ids = project.close_round()
    if not ids:
        _say(console, "no text of a query was without an answer; nothing had to be closed")
        return
    more = f", and {len(ids) - _N_IDS:,} more" if len(ids) > _N_IDS else ""
    listed = ", ".join(map(str, ids[:_N_IDS]))
    _say(
        console, f"closed: {plural(len(ids), 'text')} stay without an answer, until somebody tells one: {listed}{more}"
    )


def _say_what_is_open(console: Console, project: "Project") -> bool:
    """Say what is still to be answered; return whether the next query has to be asked for."""
    batch = project.batch_if_ready()
    if batch is not None:
        _say(console, f"round {batch.round_index}: {len(batch.open)} of {plural(len(batch.tasks), 'text')} to go")
    elif project.end is not None:
        _say(console, f"nothing more will be asked: {project.end}")
    else:
        _say(console, "the round is answered; the next one is computed when it is asked for")
        return True
    return False


def _next(console: Console, *words: str, storage: str | None = None) -> None:
    place = [] if storage is None else ["--storage", storage]
    _say(console, f"next:    al-ray {shlex.join([*words, *place])}")


def _say(console: Console, sentence: str) -> None:
    console.print(sentence, soft_wrap=True, highlight=False, markup=False)
