"""Exchange of a query and its answers as files: JSONL, CSV that survives a spreadsheet, and Label Studio's JSON.

A CSV cell that a spreadsheet would take for a formula begins with an apostrophe, in the file and in the spreadsheet;
:func:`read_answers` takes it off again. What a spreadsheet does to numbers, letters' case and white space is undone
where one class or one asked text alone can be meant; anything else is refused, row by row, and nothing is recorded.
"""

import csv
import io
import json
import math
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Context, Decimal
from pathlib import Path
from typing import Any, Literal, get_args

from al_ray.core.answers import Answer
from al_ray.data.rows import missing_file, read_sheet
from al_ray.errors import DataError, unknown_name
from al_ray.project.state import Batch, Task

Format = Literal["jsonl", "csv", "label-studio"]
FORMATS: tuple[Format, ...] = get_args(Format)
NOT_SURE = "?"
"""What stands in place of a class where the annotator abstains, unless a class has this name."""
LONGEST_CELL = 32_767
"""UTF-16 units that a cell of a spreadsheet holds; a longer one breaks the rows of the sheet."""

_COLUMNS = ("id", "text", "prediction", "confidence", "reason", "label", "note", "batch")
_READ = ("id", "label", "annotator", "seconds", "note", "batch")
_N_SHOWN = 20
_DIGITS_OF_A_SPREADSHEET = 15
# Where a cell begins, also for a program that splits lines at another separator, and what makes a formula of it.
_FORMULA = re.compile(r"(?:^|(?<=[,;|\t\r\n]))(?=[\"' ]*[=+\-@＝＋－＠\t\r])")
_DISARMED = re.compile(r"(?:^|(?<=[,;|\t\r\n]))'(?=[\"' ]*[=+\-@＝＋－＠\t\r])")
_NUMBER = re.compile(r"[+-]?\d{1,40}(?:[.,](\d{0,40}))?(?:[eE]([+-]?\d{1,3}))?")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:([.,'’ \u00a0\u202f])\d{3})(?:\1\d{3})*")
_DATE = re.compile(
    r"\d{1,4}\s?[./-]\s?\d{1,2}(?:[./-]\d{2,4})?"  # 1-2, 1/2/2026
    r"|\d{1,2}[.\- ]+[^\W\d]{3,9}\.?(?:[\- ]\d{2,4})?"  # 1-Feb, 01. Feb
    r"|[^\W\d]{3,9}\.?[\- ]\d{1,4}"  # Feb-26
)
_EARLIEST = datetime.min.replace(tzinfo=UTC)
_SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What answers are compared with when they come back.

    Attributes:
        project: name of the project.
        prefixes: what the ids of all its batches begin with.
        class_names: in label order.
        ids: of all texts that answers are taken for.
    """

    project: str
    prefixes: frozenset[str]
    class_names: tuple[str, ...]
    ids: Collection[int]

    def has_batch(self, batch_id: object) -> bool:
        """Tell whether a batch is one of this project."""
        return str(batch_id).partition("/")[0] in self.prefixes


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The answers that a file or a server holds.

    Attributes:
        answers: one a text and annotator, in the order of the file.
        n_open: rows without a label.
        n_others: tasks of other projects, or that the project asks for no more since its method changed; they were left
            alone.
    """

    answers: tuple[Answer, ...]
    n_open: int = 0
    n_others: int = 0


# ---- out ------------------------------------------------------------------------------------------------------------


def write_batch(
    batch: Batch, format_: Format, *, project: str, separator: str = ",", with_predictions: bool = True
) -> bytes:
    """Return a query as the content of a file; of the same query always the same bytes, whatever is answered of it.

    Args:
        batch: the query.
        format_: of the file.
        project: name of the project.
        separator: between the cells of a CSV file.
        with_predictions: let annotators see what the model believes.
    """
    if format_ == "label-studio":
        tasks = label_studio_tasks(batch.tasks, batch.id, project, with_predictions=with_predictions)
        return f"{json.dumps(tasks, ensure_ascii=False, indent=1)}\n".encode()
    rows = [_row(task, batch.id, with_predictions=with_predictions) for task in batch.tasks]
    if format_ == "jsonl":
        return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode()
    lines = io.StringIO(newline="")
    writer = csv.DictWriter(lines, _COLUMNS, delimiter=separator, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return lines.getvalue().encode("utf-8-sig")  # by the mark, spreadsheets know that it is UTF-8


def n_cut(batch: Batch) -> int:
    """Return how many texts of a query are longer than a cell of a spreadsheet, and so are cut in CSV."""
    return sum(_units(disarm(task.text)) > LONGEST_CELL for task in batch.tasks)


def label_studio_tasks(
    tasks: Iterable[Task], batch_id: str, project: str, *, with_predictions: bool = True
) -> list[dict[str, Any]]:
    """Return texts as tasks that Label Studio imports; ``data`` says which text of which project each is."""
    return [
        {
            "data": {
                "text": task.text,
                "al_id": task.id,
                "al_project": project,
                "al_batch": batch_id,
                "al_reason": task.reason,
            },
            "predictions": _predictions(task, f"{project}/{batch_id}") if with_predictions else [],
        }
        for task in tasks
    ]


def disarm(cell: str) -> str:
    """Put an apostrophe before what a spreadsheet would take for a formula; :func:`rearm` takes it off.

    It stands before ``= + - @`` (of any width), tab and carriage return, at the start of the cell and after each
    separator in it: a spreadsheet of another country splits the line there.
    """
    return _FORMULA.sub("'", cell)


def rearm(cell: str) -> str:
    """Return the text that :func:`disarm` was given."""
    return _DISARMED.sub("", cell)


def _row(task: Task, batch_id: str, *, with_predictions: bool) -> dict[str, Any]:
    """Return a task as a row; ``batch`` is last, since spreadsheets drop empty cells at the end of a line."""
    prediction, confidence = (task.prediction, _confidence(task)) if with_predictions else (None, None)
    found = dict.fromkeys(_COLUMNS) | {"id": task.id, "text": task.text, "reason": task.reason, "batch": batch_id}
    return found | {"prediction": prediction, "confidence": confidence}


def _confidence(task: Task) -> float | None:
    return None if task.confidence is None else round(task.confidence, 4)


def _cell(value: Any) -> str:
    if not isinstance(value, str):
        return "" if value is None else str(value)
    disarmed = disarm(value)
    if _units(disarmed) <= LONGEST_CELL:
        return disarmed
    mark = f"... [cut: {len(value):,} characters in all]"
    units = disarmed.encode("utf-16-le")[: 2 * (LONGEST_CELL - len(mark))]
    return units.decode("utf-16-le", "ignore") + mark


def _units(text: str) -> int:
    return len(text) + sum(character > "\uffff" for character in text)


def _predictions(task: Task, model_version: str) -> list[dict[str, Any]]:
    if task.prediction is None:
        return []
    choice = {
        "id": f"al{task.id}",
        "type": "choices",
        "from_name": "label",
        "to_name": "text",
        "value": {"choices": [task.prediction]},
    }
    return [{"model_version": model_version, "score": _confidence(task), "result": [choice]}]


# ---- in -------------------------------------------------------------------------------------------------------------


def read_answers(file: Path, asked: Asked, *, annotator: str = "") -> Reading:
    """Read the answers of a file: CSV, JSONL or Parquet with ``id`` and ``label``, or Label Studio's export (.json).

    ``annotator``, ``seconds``, ``note`` and ``batch`` are read where they are there, other columns are not. A row
    without a label is open; ``?`` says that the annotator is not sure.

    Args:
        file: as it came back.
        asked: what was asked.
        annotator: of rows that name none.

    Raises:
        DataError: the file cannot be read, or rows of it cannot be answers; with all such rows.
    """
    if file.suffix.lower() in _SPREADSHEETS:
        raise DataError(f"{file} is a workbook. Save its sheet as 'CSV UTF-8' and tell that file.")
    if file.suffix == ".json":
        return _read_export(file, asked)
    sheet = read_sheet(file, _READ)
    present = {name.strip().lower() for name in sheet.columns}
    for name in ("id", "label") if sheet.columns else ():
        if name not in present:
            raise DataError(f"{file}: {unknown_name('column', name, sheet.columns)} Its header must name it.")
    reader = _RowReader(asked=asked, annotator=annotator, is_typed=sheet.is_typed, is_unicode=sheet.is_unicode)
    found, problems, n_open = list[tuple[str, Answer]](), list[str](), 0
    for place, cells in sheet.rows:
        try:
            answer = reader.answer(cells)
        except _RowError as error:
            problems.append(f"{place}: {error}")
            continue
        if answer is None:
            n_open += 1
        else:
            found.append((place, answer))
    answers, contradictions = _once_each(found, asked.class_names)
    _refuse(str(file), [*problems, *contradictions])
    return Reading(answers=answers, n_open=n_open)


def read_label_studio(tasks: Sequence[Any], asked: Asked, annotators: Mapping[int, str], where: str) -> Reading:
    """Read the answers of tasks as Label Studio gives them: an annotation an answer, a skip an abstention.

    Of several annotations by one person the last counts.

    Args:
        tasks: each with ``data`` and ``annotations``.
        asked: what was asked.
        annotators: number of a user -> name; others are called ``user 3``.
        where: the file or the server, for messages.

    Raises:
        DataError: annotations cannot be answers; with all such tasks.
    """
    found, problems, n_open, n_others = list[Answer](), list[str](), 0, 0
    for number, task in enumerate(tasks, start=1):
        if not isinstance(task, Mapping) or not isinstance(task.get("data"), Mapping):
            raise DataError(f"{where}: task {number} has no 'data'. Export the project as JSON, with annotations.")
        data = task["data"]
        is_ours = data.get("al_project") == asked.project and asked.has_batch(data.get("al_batch"))
        if not is_ours or not ids_meant(data.get("al_id"), asked.ids):
            n_others += 1
            continue
        annotations = sorted(task.get("annotations") or [], key=lambda each: _said_at(each) or _EARLIEST)
        n_open += not annotations
        for annotation in annotations:
            try:
                found.append(_annotated(data, annotation, asked, annotators))
            except _RowError as error:
                problems.append(f"task {task.get('id', number)}: {error}")
    _refuse(where, problems)
    last = {(answer.id, answer.annotator): answer for answer in found}
    return Reading(answers=tuple(last.values()), n_open=n_open, n_others=n_others)


def index_of_class(value: object, class_names: Sequence[str]) -> int | None:
    """Return the class that a cell names, as a spreadsheet may have rewritten it; None where none or several fit.

    First its name as it is, then without regard to case, outer white space and Unicode form, then as the same number.
    """
    text = str(value)
    for fits in (text.__eq__, lambda name: _folded(name) == _folded(text), lambda name: _is_same_number(name, text)):
        fitting = [index for index, name in enumerate(class_names) if fits(name)]
        if fitting:
            return fitting[0] if len(fitting) == 1 else None
    return None


def ids_meant(value: object, asked: Collection[int]) -> list[int]:
    """Return the asked ids that a cell can stand for: 17, ``17.0``, ``1.234`` with a dot for thousands, ``1,7E+05``."""
    if isinstance(value, bool):
        return []
    if isinstance(value, int):
        return [value] if value in asked else []
    text = str(value).strip().strip("\u00a0")
    candidates = set[int]()
    if found := _NUMBER.fullmatch(text):
        if found[2] is not None:  # written in scientific notation, and maybe rounded
            return [id_ for id_ in asked if _is_same_number(str(id_), text)]
        number = _decimal(text)
        candidates |= {int(number)} if number == number.to_integral_value() else set()
    if found := _THOUSANDS.fullmatch(text):
        candidates.add(int(text.replace(found[1], "")))
    return [id_ for id_ in candidates if id_ in asked]


def is_told(file: Path, asked: Asked, told: Iterable[Answer]) -> bool:
    """Tell whether a file is a query of the project in which nothing stands that is not recorded, so that it may go.

    Args:
        file: one that is there.
        asked: what was asked.
        told: every answer that is recorded.
    """
    try:
        sheet = read_sheet(file, _READ)
        answers = read_answers(file, asked).answers
    except DataError:
        return False
    is_ours = sheet.columns == _COLUMNS and all(asked.has_batch(cells.get("batch")) for _, cells in sheet.rows)
    has_loose_notes = any("note" in cells and "label" not in cells for _, cells in sheet.rows)
    known = {(answer.id, answer.label, answer.note) for answer in told}
    return is_ours and not has_loose_notes and {(each.id, each.label, each.note) for each in answers} <= known


class _RowError(ValueError):
    """Why a row is no answer, without a full stop."""


@dataclass(frozen=True, kw_only=True)
class _RowReader:
    """Makes answers of rows.

    Attributes:
        asked: what was asked.
        annotator: of rows that name none.
        is_typed: whether numbers are numbers; in CSV they are text, and class names may be disarmed.
        is_unicode: whether letters beyond ASCII are sure.
    """

    asked: Asked
    annotator: str
    is_typed: bool
    is_unicode: bool

    def answer(self, cells: Mapping[str, Any]) -> Answer | None:
        """Return the answer of a row, or None where it has no label.

        Raises:
            _RowError: it cannot be an answer.
        """
        label = cells.get("label", "")
        if isinstance(label, str) and not label.strip() and label not in self.asked.class_names:
            return None
        if not self.is_unicode:
            _require_ascii(cells)
        if "batch" in cells and not self.asked.has_batch(cells["batch"]):
            raise _RowError(
                f"of batch {cells['batch']!r}, which is of another project: batches of this one begin with "
                f"{' or '.join(sorted(self.asked.prefixes))}"
            )
        return Answer(
            id=self._id(cells.get("id"), was_ours="batch" in cells),
            label=self._label(label),
            annotator=str(cells.get("annotator", self.annotator)).strip(),
            source="file",
            seconds=_seconds(cells.get("seconds")),
            note=str(cells.get("note", "")),
        )

    def _id(self, value: object, *, was_ours: bool) -> int:
        if value is None:
            raise _RowError("has a label and no id")
        meant = sorted(ids_meant(value, self.asked.ids))
        if len(meant) == 1:
            return meant[0]
        if meant:
            raise _RowError(
                f"id {value!r} may be {' or '.join(map(str, meant[:3]))}: a spreadsheet has rewritten it. Format the "
                "column as a number without decimals"
            )
        is_long = sum(character.isdigit() for character in str(value)) > _DIGITS_OF_A_SPREADSHEET
        if is_long:
            hint = "; a spreadsheet keeps 15 digits of a number, use .jsonl"
        else:
            hint = " by the method that the project has now; tell answers before you change it" if was_ours else ""
        raise _RowError(f"id {value!r} was not asked for{hint}")

    def _label(self, value: object) -> int | None:
        names = self.asked.class_names
        if not isinstance(value, str | int | float):
            raise _RowError(f"label is {str(value)[:40]!r}, not the name of one class")
        spellings = [value] if self.is_typed else [rearm(str(value)), value]
        for spelling in spellings:
            index = index_of_class(spelling, names)
            if index is not None:
                return index
        if str(value).strip() == NOT_SURE:
            self._require_not_lost()
            return None
        raise _RowError(_unknown_class(value, names))

    def _require_not_lost(self) -> None:
        """Refuse a question mark that may be what an encoding of 8 bits made of a class of one letter."""
        lost = [name for name in self.asked.class_names if len(name) == 1 and not name.isascii()]
        if lost and not self.is_unicode:
            raise _RowError(f"label is '?', which may have been {lost[0]!r}. Save the file as 'CSV UTF-8'")


def _unknown_class(value: object, class_names: Sequence[str]) -> str:
    words = unknown_name("class", value, class_names).rstrip(".")
    if _DATE.fullmatch(str(value).strip()) and any(_DATE.fullmatch(name) for name in class_names):
        return (
            f"{words}. A spreadsheet makes dates of such classes: enter them with an apostrophe before them, or use "
            ".jsonl"
        )
    return words


def _require_ascii(cells: Mapping[str, Any]) -> None:
    for column, value in cells.items():
        if not str(value).isascii():
            raise _RowError(
                f"{column} has letters in an encoding that cannot be told (as Windows-1252 it would be "
                f"{str(value).encode('latin-1').decode('windows-1252', 'replace')!r}). Save the file as 'CSV UTF-8'"
            )


def _seconds(value: object) -> float | None:
    if value is None:
        return None
    text = str(value).strip()
    seconds = float(_decimal(text)) if _NUMBER.fullmatch(text) else math.nan
    if not 0 <= seconds < math.inf:
        raise _RowError(f"seconds is {value!r}, not a number of 0 or more")
    return seconds


def _once_each(found: Iterable[tuple[str, Answer]], class_names: Sequence[str]) -> tuple[tuple[Answer, ...], list[str]]:
    """Return one answer a text and annotator, and what is wrong with rows that contradict an earlier one."""
    kept, problems = dict[tuple[int, str], tuple[str, Answer]](), list[str]()
    for place, answer in found:
        key = (answer.id, answer.annotator)
        before_place, before = kept.get(key, (place, answer))
        if before.label != answer.label:
            names = [NOT_SURE if each.label is None else class_names[each.label] for each in (answer, before)]
            problems.append(
                f"{place}: says {names[0]!r} of id {answer.id}, but {before_place} says {names[1]!r}. Keep one, or "
                "name their annotators"
            )
        elif key not in kept or answer.note:
            kept[key] = (place, answer)
    return tuple(answer for _, answer in kept.values()), problems


def _refuse(where: str, problems: Sequence[str]) -> None:
    """Raise what is wrong with the rows of a file, if anything is.

    Raises:
        DataError: with the first of them.
    """
    if problems:
        n = len(problems)
        more = [f"and {n - _N_SHOWN:,} more"] if n > _N_SHOWN else []
        lines = [*(f"  {problem}." for problem in problems[:_N_SHOWN]), *more]
        what = "1 row is no answer" if n == 1 else f"{n:,} rows are no answers"
        raise DataError("\n".join([f"{where}: {what}, and nothing of the file was recorded:", *lines]))


def _read_export(file: Path, asked: Asked) -> Reading:
    try:
        tasks = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise DataError(missing_file(file)) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not JSON: {error}. Export the Label Studio project as JSON.") from None
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from None
    if not isinstance(tasks, list):
        raise DataError(f"{file} is no export of Label Studio: it must hold a list of tasks. Export it as JSON.")
    return read_label_studio(tasks, asked, {}, str(file))


def _annotated(data: Mapping[str, Any], annotation: Any, asked: Asked, annotators: Mapping[int, str]) -> Answer:
    """Return the answer that one annotation is."""
    if not isinstance(annotation, Mapping):
        raise _RowError("an annotation is no object")
    return Answer(
        id=ids_meant(data["al_id"], asked.ids)[0],
        label=None if annotation.get("was_cancelled") else _chosen(annotation, asked.class_names),
        annotator=_annotator(annotation.get("completed_by"), annotators),
        source="label_studio",
        seconds=_seconds(annotation.get("lead_time")),
        at=_said_at(annotation),
    )


def _chosen(annotation: Mapping[str, Any], class_names: Sequence[str]) -> int | None:
    """Return the class that an annotation names; None where it was submitted without one."""
    values = [each.get("value", {}) for each in annotation.get("result") or [] if each.get("from_name") == "label"]
    choices = [choice for value in values for choice in value.get("choices", [])]
    if not choices:
        return None
    if len(choices) > 1:
        raise _RowError(f'names {len(choices)} classes, {choices}. Let the labels be choice="single"')
    index = index_of_class(choices[0], class_names)
    if index is None:
        raise _RowError(_unknown_class(choices[0], class_names))
    return index


def _annotator(completed_by: Any, annotators: Mapping[int, str]) -> str:
    if isinstance(completed_by, Mapping):  # as some exports have it
        return str(completed_by.get("email") or f"user {completed_by.get('id')}")
    if completed_by is None:
        return ""
    return annotators.get(completed_by, f"user {completed_by}")


def _said_at(annotation: Any) -> datetime | None:
    written = annotation.get("updated_at") or annotation.get("created_at") if isinstance(annotation, Mapping) else None
    try:
        at = datetime.fromisoformat(str(written))
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return at.astimezone(UTC).replace(microsecond=at.microsecond // 1000 * 1000)


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip().casefold()


def _is_same_number(name: str, written: str) -> bool:
    """Tell whether a text is the number that a name is, also where scientific notation has rounded it."""
    if not _NUMBER.fullmatch(name) or not (found := _NUMBER.fullmatch(written.strip())):
        return False
    value = _decimal(name)
    if found[2] is not None:
        digits = len(_decimal(written.strip()).as_tuple().digits)
        value = Context(prec=max(digits, 1), rounding=ROUND_HALF_UP).plus(value)
    return value == _decimal(written.strip())


def _decimal(text: str) -> Decimal:
    return Decimal(text.replace(",", "."))
