"""Stored answers of a project: rows that are only added, in small files that are written whole."""

import hashlib
import re
import threading
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from al_ray.core.answers import Answer
from al_ray.core.types import listed_ids
from al_ray.errors import DataError, StorageError
from al_ray.records.json import FORMAT, fingerprint, json_file, read_json
from al_ray.records.round import now
from al_ray.storage.folder import Folder

ROWS_OF_A_FILE = 256
_FILE = re.compile(r"answers-(\d{5})\.json")
_KEYS = {"rows", "sha256"}
_ROW = {"id", "label", "annotator", "source", "seconds", "at", "note", "text_sha256"}


def text_digest(text: str) -> str:
    """Return what an answer keeps of the text that it was given for: 16 digits of its SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class AnswerStore:
    """All answers of a project, in the order in which they were given; safe to use from several threads.

    A file takes up to :data:`ROWS_OF_A_FILE` rows and is written anew, whole, whenever rows are added to it, so that a
    kill leaves what was confirmed and nothing else. A row holds the name of the class and a hash of the text: it
    survives another order of the classes, and it is noticed when an id has become another text.

    Args:
        folder: of the project.
        class_names: in label order.
        text_of: gives the text of an id; KeyError where the pool has no such id.

    Raises:
        StorageError: a file is damaged, or one between others is missing.
        DataError: an answer is for another text than the pool has under its id, or for a class that is gone.
    """

    def __init__(self, folder: Folder, class_names: Sequence[str], text_of: Callable[[int], str]) -> None:
        self._folder, self._names, self._text_of = folder, tuple(class_names), text_of
        self._lock = threading.Lock()
        self._rows: list[dict[str, Any]] = []
        names = sorted(name for name in folder.names()[0] if _FILE.fullmatch(name))
        for number, name in enumerate(names):
            if name != _file(number):
                raise StorageError(f"{folder.where(_file(number))} is missing, but {name} is there. Put it back.")
            self._rows += self._read(name)
        self._check_texts()
        self._answers = [self._answer(row) for row in self._rows]
        self._last = {(each.id, each.annotator): each for each in self._answers}
        self._said = {_said(each) for each in self._answers}

    def all(self) -> list[Answer]:
        """Return every answer, oldest first."""
        with self._lock:
            return list(self._answers)

    def ids(self) -> set[int]:
        """Return the ids that have an answer."""
        with self._lock:
            return {id_ for id_, _ in self._last}

    def add(self, answers: Sequence[Answer]) -> tuple[list[Answer], list[Answer]]:
        """Record answers; when this returns they are durable.

        Returns:
            those that were added, and those that were there already: the annotator's last answer to that text is the
            same class, with the same note or without one; or the same answer, of the same time, is among the earlier
            ones, as where all that a server has is fetched again.

        Raises:
            StorageError: they cannot be written; those of the files that were written before count, no others.
        """
        with self._lock:
            last, added, same = ChainMap({}, self._last), list[Answer](), list[Answer]()
            for answer in answers:
                key = (answer.id, answer.annotator)
                before = last.get(key)
                is_last = before is not None and before.label == answer.label and answer.note in ("", before.note)
                if is_last or (answer.at is not None and _said(answer) in self._said):
                    same.append(answer)
                else:
                    added.append(answer)
                    last[key] = answer
            start, end = len(self._rows), len(self._rows) + len(added)
            rows = [self._row(answer) for answer in added]
            everything = self._rows + rows
            for number in range(start // ROWS_OF_A_FILE, -(-end // ROWS_OF_A_FILE) if added else 0):
                part = everything[number * ROWS_OF_A_FILE : (number + 1) * ROWS_OF_A_FILE]
                content = {"format": FORMAT, "rows": part, "sha256": fingerprint(part)}
                self._folder.write(_file(number), json_file(content, indent=None), "the answers")
                written = slice(len(self._rows) - start, (number + 1) * ROWS_OF_A_FILE - start)
                self._keep(rows[written], added[written])
        return added, same

    def _keep(self, rows: Sequence[dict[str, Any]], answers: Sequence[Answer]) -> None:
        """Count what a file holds by now: where the next file fails, it stays, and is not written over."""
        self._rows += rows
        self._answers += answers
        self._last.update({(answer.id, answer.annotator): answer for answer in answers})
        self._said.update(map(_said, answers))

    def _read(self, name: str) -> list[dict[str, Any]]:
        where = self._folder.where(name)
        content = read_json(self._folder, name, _KEYS)
        if content is None:
            raise StorageError(f"{where} is missing. Put the file back.")
        rows = content["rows"]
        if not isinstance(rows, list) or fingerprint(rows) != content["sha256"]:
            raise StorageError(f"{where} was changed after it was recorded: its checksum differs. Put the file back.")
        if any(not isinstance(row, Mapping) or set(row) != _ROW for row in rows):
            raise StorageError(f"{where} holds rows of another version. Use the al_ray that wrote it.")
        return rows

    def _check_texts(self) -> None:
        moved, gone = list[int](), list[int]()
        for row in self._rows:
            try:
                if text_digest(self._text_of(row["id"])) != row["text_sha256"]:
                    moved.append(row["id"])
            except KeyError:
                gone.append(row["id"])
        for ids, what in (
            (moved, "are for other texts than the data now have under these ids"),
            (gone, "have no text"),
        ):
            if ids:
                shown = listed_ids(sorted(set(ids)))  # type: ignore[arg-type]
                raise DataError(
                    f"{len(ids)} answers {what}: {shown}. Row numbers are ids where the data have no column for them: "
                    "put the rows back as they were, add new ones at the end, or name a column with 'data: {id: ...}'."
                )

    def _row(self, answer: Answer) -> dict[str, Any]:
        return {
            "id": answer.id,
            "label": None if answer.label is None else self._names[answer.label],
            "annotator": answer.annotator,
            "source": answer.source,
            "seconds": answer.seconds,
            "at": (answer.at or now()).isoformat(timespec="milliseconds"),
            "note": answer.note,
            "text_sha256": text_digest(self._text_of(answer.id)),
        }

    def _answer(self, row: Mapping[str, Any]) -> Answer:
        name = row["label"]
        if name is not None and name not in self._names:
            raise DataError(
                f"the answer to text {row['id']} is the class {name!r}, which the project no longer has. Put it back "
                "into 'classes'."
            )
        return Answer(
            id=row["id"],
            label=None if name is None else self._names.index(name),
            annotator=row["annotator"],
            source=row["source"],
            seconds=row["seconds"],
            at=datetime.fromisoformat(row["at"]),
            note=row["note"],
        )


def _said(answer: Answer) -> tuple[Any, ...]:
    """Return what makes an answer the same one when it comes again."""
    return answer.id, answer.annotator, answer.label, answer.at, answer.source, answer.note


def _file(number: int) -> str:
    return f"answers-{number:05d}.json"
