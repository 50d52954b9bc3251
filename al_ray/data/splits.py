"""Splits from rows: check the columns, index the labels, draw a test split, hash the content."""

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from al_ray.core.seeding import stream, tie_keys
from al_ray.core.types import NO_CLASS, IntArray, TextSplit
from al_ray.data.rows import Rows
from al_ray.errors import DataError, unknown_name

_INTEGER = re.compile(r"0|-?[1-9][0-9]*")
_INT64 = np.iinfo(np.int64)
_PLAIN_YAML = re.compile(r"(?!(?:true|false|null)$)[A-Za-z/][\w./-]*(?: [\w-]+)*", re.IGNORECASE)
_MOST_CLASSES = 50  # that a message writes out
_SPLIT_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which column holds what.

    Attributes:
        text: the text.
        label: the class, by name or by index; None where a pool to label has none.
        id: a unique integer, or None where the row number is the id.
        group: the data slice, or None.
    """

    text: str = "text"
    label: str | None = "label"
    id: str | None = None
    group: str | None = None

    def wanted(self) -> dict[str, str]:
        """Return option -> column name, without the columns that are not asked for."""
        named = {"text": self.text, "label": self.label, "id": self.id, "group": self.group}
        return {option: name for option, name in named.items() if name is not None}


def make_splits(
    parts: Sequence[Rows],
    columns: Columns,
    classes: tuple[str, ...] | None,
    none_of_these: tuple[str, ...] = (),
) -> tuple[tuple[str, ...], list[TextSplit]]:
    """Check the rows of one or more splits, the training split first, and index their labels.

    Args:
        parts: the rows of each split.
        columns: which column holds what.
        classes: class names in label order, or None to take them from the files: from their metadata, else the sorted
            names, else the indices 0..n-1 of the training split.
        none_of_these: labels that stand for no class. Training rows with one get the label -1, others are left out.

    Returns:
        class names in label order, and one split for each of ``parts``.

    Raises:
        DataError: a rule is broken; the message names file, column and rows.
    """
    for rows in parts:
        if not len(rows):
            raise DataError(f"{rows.where} has no rows. A split needs at least one example.")
        _check_texts(rows, columns.text)
    assert columns.label is not None, "a study needs labels"
    labels = _label_values(parts, columns.label)
    if none_of_these:
        classes = _with_no_class(parts, columns.label, labels, classes, none_of_these)
    names = _class_names(parts, columns.label, labels, classes)
    indices = _index_labels(parts, columns.label, labels, names)
    if none_of_these:
        names, indices = _without(parts[0], names, indices, none_of_these)
    _check_variety(parts[0], columns.label, indices[0][indices[0] != NO_CLASS], names)
    splits = [_split(rows, columns, index) for rows, index in zip(parts, indices, strict=True)]
    return names, [splits[0], *map(_of_a_class, splits[1:])]


def _with_no_class(
    parts: Sequence[Rows],
    column: str,
    labels: list[list[Any]],
    classes: tuple[str, ...] | None,
    none_of_these: tuple[str, ...],
) -> tuple[str, ...] | None:
    """Return the names of all labels that may occur, those of no class last; None where the files' own are taken."""
    if classes is not None:
        return (*classes, *none_of_these)
    if isinstance(labels[0][0], str) or any(rows.class_names.get(column) for rows in parts):
        return None
    return tuple(map(str, sorted(set(labels[0]))))


def _without(
    train: Rows, names: tuple[str, ...], indices: list[IntArray], none_of_these: tuple[str, ...]
) -> tuple[tuple[str, ...], list[IntArray]]:
    """Take the labels of no class out of the classes, and give their rows the label -1."""
    for name in none_of_these:
        if name not in names:
            raise DataError(f"{train.where}: none_of_these names an {unknown_name('class', name, names)}")
    kept = tuple(name for name in names if name not in none_of_these)
    place = np.array([kept.index(name) if name in kept else NO_CLASS for name in names], dtype=np.int64)
    return kept, [place[index] for index in indices]


def _of_a_class(split: TextSplit) -> TextSplit:
    return _take(split, np.flatnonzero(split.labels != NO_CLASS)) if (split.labels == NO_CLASS).any() else split


def make_pool(rows: Rows, columns: Columns, classes: tuple[str, ...]) -> TextSplit:
    """Check the rows of a pool to label, and index those labels that are there.

    Args:
        rows: of the pool.
        columns: which column holds what.
        classes: names of all classes.

    Returns:
        the pool; label -1 where a row has none.

    Raises:
        DataError: a rule is broken; the message names file, column and rows.
    """
    if not len(rows):
        raise DataError(f"{rows.where} has no rows. A pool needs at least one text.")
    _check_texts(rows, columns.text)
    labels = np.full(len(rows), -1, dtype=np.int64) if columns.label is None else _known_labels(rows, columns, classes)
    return _split(rows, columns, labels)


def _known_labels(rows: Rows, columns: Columns, classes: tuple[str, ...]) -> IntArray:
    """Return the class of every row that names one, -1 elsewhere: an empty field, or -1, names none."""
    assert columns.label is not None
    written = rows.class_names.get(columns.label)
    values = rows.columns[columns.label]
    index = {name: i for i, name in enumerate(classes)}
    names = [_label_name(value, written) for value in values]
    unknown = [name is not None and name not in index for name in names]
    if any(unknown):
        first = names[unknown.index(True)]
        raise DataError(
            f"{rows.where}: column {columns.label!r} has an {unknown_name('class', first, classes)} Found in "
            f"{_listed_rows(unknown)}. Add it to the project's classes, or mend the labels; a row without a label has "
            "an empty field."
        )
    return np.array([-1 if name is None else index[name] for name in names], dtype=np.int64)


def _label_name(value: Any, written: tuple[str, ...] | None) -> str | None:
    """Return the class that a value names, or None where it is missing; indices count in the file's own names."""
    if (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or (isinstance(value, str) and not value.strip())
    ):
        return None
    if isinstance(value, float) and value.is_integer():  # integers of a table with gaps
        value = int(value)
    if _is_integer(value):
        if value == -1:
            return None
        if written is not None and 0 <= value < len(written):
            return written[value]
    return str(value)


def split_off_test(whole: TextSplit, test_fraction: float, class_names: tuple[str, ...]) -> tuple[TextSplit, TextSplit]:
    """Draw a test split with the class shares of the whole, without texts of no class; the same rows, the same split.

    Raises:
        DataError: a class has a single example.
    """
    is_test = np.zeros(len(whole), dtype=np.bool_)
    for c in np.unique(whole.labels[whole.labels != NO_CLASS]).tolist():
        members = np.flatnonzero(whole.labels == c)
        if len(members) < 2:
            raise DataError(
                f"class {class_names[c]!r} has one example (id {whole.ids[members[0]]}), and test_fraction needs one "
                "for each split. Add examples, or name a test file: {path: ..., test: FILE}."
            )
        n_test = min(max(1, round(test_fraction * len(members))), len(members) - 1)
        is_test[stream(_SPLIT_SEED, "data", "test_fraction", c).permutation(members)[:n_test]] = True
    return _take(whole, np.flatnonzero(~is_test)), _take(whole, np.flatnonzero(is_test))


def keep_some(split: TextSplit, n: int | None) -> TextSplit:
    """Keep ``n`` examples, the same ones everywhere: those whose ids hash lowest; all where ``n`` is None or larger."""
    if n is None or n >= len(split):
        return split
    return _take(split, np.sort(np.argsort(tie_keys(split.ids, _SPLIT_SEED))[:n]))


def look_alikes(names: Iterable[str]) -> list[list[str]]:
    """Return the groups of names that differ in case, white space, invisible characters or Unicode form alone."""
    groups: dict[str, list[str]] = {}
    for name in names:
        visible = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
        groups.setdefault(" ".join(unicodedata.normalize("NFKC", visible.casefold()).split()), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def _split(rows: Rows, columns: Columns, labels: IntArray) -> TextSplit:
    texts, groups = rows.columns[columns.text], _groups(rows, columns)
    return TextSplit(ids=_ids(rows, columns.id), texts=texts, labels=labels, groups=groups)


def _take(split: TextSplit, at: IntArray) -> TextSplit:
    return TextSplit(
        ids=split.ids[at],
        texts=[split.texts[i] for i in at],
        labels=split.labels[at],
        groups=None if split.groups is None else [split.groups[i] for i in at],
    )


def _check_texts(rows: Rows, column: str) -> None:
    texts = rows.columns[column]
    _refuse(rows, column, [value is None for value in texts], "is missing", "Give every example a text")
    _refuse(rows, column, [not isinstance(v, str) for v in texts], "is not text", "Write texts as strings", texts)
    _refuse(rows, column, [not v.strip() for v in texts], "is empty or only white space", "Give every example a text")
    _refuse(rows, column, [not is_unicode(v) for v in texts], "is not valid Unicode", "Mend the lone surrogates")


def _label_values(parts: Sequence[Rows], column: str) -> list[list[Any]]:
    """Return the labels of each split, all integers or all strings; CSV labels that are all integers are read so."""
    labels = [rows.columns[column] for rows in parts]
    for rows, values in zip(parts, labels, strict=True):
        bad = [value is None or (isinstance(value, str) and not value.strip()) for value in values]
        _refuse(rows, column, bad, "is missing", "Label every example, or take these rows out")
        bad = [not _is_integer(value) and not isinstance(value, str) for value in values]
        _refuse(rows, column, bad, "is neither an integer nor a string", "Write class names or indices", values)
        bad = [isinstance(value, str) and not is_unicode(value) for value in values]
        _refuse(rows, column, bad, "is not valid Unicode", "Mend the lone surrogates")
    if are_whole_numbers(parts, column):
        return [[int(value) for value in values] for values in labels]
    for rows, values in zip(parts, labels, strict=True):
        bad = [isinstance(value, str) is not isinstance(labels[0][0], str) for value in values]
        _refuse(rows, column, bad, "mixes class names and indices", "Write one or the other in all files", values)
    return labels


def are_whole_numbers(parts: Sequence[Rows], column: str) -> bool:
    """Say whether all labels are integers, or read as such where a file holds nothing but text."""
    return all(_reads_as_integer(value, rows) for rows in parts for value in rows.columns[column])


def _class_names(
    parts: Sequence[Rows], column: str, labels: list[list[Any]], classes: tuple[str, ...] | None
) -> tuple[str, ...]:
    named = classes
    for rows in parts:
        written = rows.class_names.get(column)
        if written and named and written != named:
            mend = (
                "Write the files of both splits with the same names."
                if classes is None
                else "The file's own names are taken where none are given: {path: ...}."
            )
            raise DataError(
                f"{rows.where}: its metadata names the classes of column {column!r} as {_listed(written)}, but "
                f"{_listed(named)} was expected, so labels would mean something else. {mend}"
            )
        named = named or written
    if named:
        return named
    found = sorted(set(labels[0]))
    if not isinstance(found[0], str) and found != list(range(len(found))):
        everything = sorted({value for values in labels for value in values})
        raise DataError(
            f"{parts[0].where}: column {column!r} holds the integers {_listed(found)}, but class indices run from 0 to "
            f"n - 1 without a gap. {_unlabeled(labels)}If each is a class, name them all: {_option(everything)}."
        )
    return tuple(str(value) for value in found)


def _index_labels(
    parts: Sequence[Rows], column: str, labels: list[list[Any]], names: tuple[str, ...]
) -> list[IntArray]:
    """Map names to positions; integers are positions already, unless the class names are integers themselves."""
    if isinstance(labels[0][0], int) and all(_INTEGER.fullmatch(name) for name in names):
        labels = [[str(value) for value in values] for values in labels]
    known: Sequence[Any] = names if isinstance(labels[0][0], str) else range(len(names))
    index = {value: i for i, value in enumerate(known)}
    for rows, values in zip(parts, labels, strict=True):
        unknown = [value not in index for value in values]
        if any(unknown):
            raise DataError(
                f"{rows.where}: column {column!r} has an {_unknown_class(values[unknown.index(True)], names)} Found in "
                f"{_listed_rows(unknown)}. {_mend_labels(parts, column, labels, names)}"
            )
    return [np.array([index[value] for value in values], dtype=np.int64) for values in labels]


def _unknown_class(value: Any, names: tuple[str, ...]) -> str:
    if isinstance(value, str) and not _INTEGER.fullmatch(value):
        return unknown_name("class", value, names)
    if isinstance(value, str):
        return f"unknown class {value!r}. Known: {', '.join(names)}."
    return (
        f"unknown class {str(value)!r}: integers are places in the list of classes, which run from 0 to "
        f"{len(names) - 1} here, {_listed(names)}."
    )


def _mend_labels(parts: Sequence[Rows], column: str, labels: list[list[Any]], names: tuple[str, ...]) -> str:
    """Say what to do about labels that are no known class; names that the files themselves hold cannot be replaced."""
    found = sorted({value for values in labels for value in values})
    hint = "" if "-1" in names else _unlabeled(labels)
    if any(rows.class_names.get(column) for rows in parts):
        return f"{hint}Mend the labels."
    kept = names if not isinstance(found[0], int) and {*found} & {*names} else ()
    return f"{hint}Mend the labels, or name all classes: {_option([*kept, *(v for v in found if v not in kept)])}."


def _unlabeled(labels: list[list[Any]]) -> str:
    """Say what a label of -1 mostly is, where there is one."""
    is_hidden = [not {-1, "-1"}.isdisjoint(values) for values in labels]
    if not any(is_hidden):
        return ""
    other = "" if is_hidden[0] else ", or take labelled ones for the test split: {path: TRAINING FILE, test: FILE}"
    return f"-1 often marks a row whose label is missing or hidden: leave such rows out{other}. "


def _option(classes: Sequence[Any]) -> str:
    """Write the option that names all classes as a study file has it."""
    if len(classes) > _MOST_CLASSES:
        return f"{{path: ..., classes: [...]}}, all {len(classes)} of them"
    are_integers = all(_INTEGER.fullmatch(str(value)) for value in classes)
    written = (str(value) if are_integers else yaml_text(value) for value in classes)
    return f"{{path: ..., classes: [{', '.join(written)}]}}"


def yaml_text(text: str) -> str:
    """Write a text as a study file has it, within brackets too: in quotes where it would be read as something else."""
    if _PLAIN_YAML.fullmatch(text):
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _check_variety(train: Rows, column: str, index: IntArray, names: tuple[str, ...]) -> None:
    if len(np.unique(index)) < 2:
        raise DataError(
            f"{train.where}: column {column!r} holds one class only, {names[index[0]]!r}. "
            "Classification needs at least two classes in the training split."
        )


def _ids(rows: Rows, column: str | None) -> IntArray:
    if column is None:
        return np.arange(len(rows), dtype=np.int64)
    values = rows.columns[column]
    if not rows.is_typed:
        values = [int(value) if _INTEGER.fullmatch(value) else value for value in values]
    fix = "Ids are 64-bit integers; number the rows, or leave the id option out and the row number is the id"
    bad = [not _is_integer(value) or not _INT64.min <= value <= _INT64.max for value in values]
    _refuse(rows, column, bad, "is no integer", fix, values)
    seen: set[int] = set()
    again = [value in seen or bool(seen.add(value)) for value in values]  # type: ignore[func-returns-value]
    _refuse(rows, column, again, "repeats an id", "Give every example an id of its own", values)
    return np.array(values, dtype=np.int64)


def _groups(rows: Rows, columns: Columns) -> list[str] | None:
    if columns.group is None:
        return None
    values = rows.columns[columns.group]
    bad = [value is None or (isinstance(value, str) and not value.strip()) for value in values]
    _refuse(rows, columns.group, bad, "is empty", "Name the group of every example")
    bad = [not isinstance(value, str) for value in values]
    _refuse(rows, columns.group, bad, "is not the name of a group", "Write the names of groups as strings", values)
    _refuse(
        rows, columns.group, [not is_unicode(v) for v in values], "is not valid Unicode", "Mend the lone surrogates"
    )
    return list(values)


def _refuse(rows: Rows, column: str, bad: list[bool], what: str, fix: str, values: list[Any] | None = None) -> None:
    if any(bad):
        shown = "" if values is None else f" ({_shortened(values[bad.index(True)])})"
        raise DataError(f"{rows.where}: column {column!r} {what} in {_listed_rows(bad)}{shown}. {fix}.")


def _listed_rows(bad: list[bool], n: int = 5) -> str:
    at = [str(i) for i, is_bad in enumerate(bad) if is_bad]
    more = f" and {len(at) - n} more" if len(at) > n else ""
    return f"row{'s' if len(at) > 1 else ''} {', '.join(at[:n])}{more} (counted from 0)"


def _listed(values: Sequence[Any], n: int = 10) -> str:
    return f"[{', '.join(str(value) for value in values[:n])}{', ...' if len(values) > n else ''}]"


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _reads_as_integer(value: Any, rows: Rows) -> bool:
    if isinstance(value, str):
        return not rows.is_typed and _INTEGER.fullmatch(value) is not None
    return _is_integer(value)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_unicode(text: str) -> bool:
    """Say whether a text can be written: half a character, as JSON may spell one out, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def content_sha256(class_names: tuple[str, ...], train: TextSplit, test: TextSplit) -> str:
    """Hash classes, ids, texts, labels and slices of both splits, in order.

    No method sees the slices, but records hold figures of each. Every list of strings is preceded by its lengths, so
    that no two contents share a byte sequence; data without slices start otherwise than data with them.

    Returns:
        64 hexadecimal digits.
    """
    has_slices = any(split.groups is not None for split in (train, test))
    digest = hashlib.sha256(b"al_ray text data set, version %d\n" % (2 if has_slices else 1))
    _add_strings(digest, class_names)
    for split in (train, test):
        digest.update(np.asarray(split.ids, dtype="<i8").tobytes())
        _add_strings(digest, split.texts)
        digest.update(np.asarray(split.labels, dtype="<i8").tobytes())
        if has_slices:
            _add_strings(digest, split.groups or ())
    return digest.hexdigest()


def _add_strings(digest: "hashlib._Hash", strings: Sequence[str]) -> None:
    encoded = [string.encode() for string in strings]
    digest.update(np.array([len(encoded), *map(len, encoded)], dtype="<i8").tobytes())
    digest.update(b"".join(encoded))
