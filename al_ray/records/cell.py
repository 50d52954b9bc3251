"""Cell folder: its spec, its rounds, how it ended."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import numpy.typing as npt

from al_ray.core.types import RoundRecord
from al_ray.errors import StorageError
from al_ray.records.arrays import Tables, decode_tables, encode_tables, n_rows
from al_ray.records.json import (
    FORMAT,
    canonical_json,
    changed_fields,
    identity_of,
    is_provenance,
    json_file,
    parse_json,
    read_json,
)
from al_ray.records.round import (
    RecordedRound,
    check_rounds,
    check_same,
    count_rounds,
    decode_round,
    encode_round,
    now,
    now_text,
    pending_file,
    round_file,
)
from al_ray.storage.memory import Files

SPEC, DONE, FAILED, PROVENANCE = "spec.json", "done.json", "failed.json", "provenance.json"
SPEC_KEYS = {"slug", "fingerprint", "created_at", "spec"}
_DONE_KEYS, _FAILED_KEYS = {"finished_at", "summary"}, {"failed_at", "reason"}

CellStatus = Literal["waiting", "running", "done", "failed"]

ADVICE: Mapping[str, str] = {
    "input": "The study, its data or its model do not allow it, so it was not tried again: mend them.",
    "storage": "The storage was away or full for longer than storage_patience_s: mend it and run again.",
    "memory": "A fresh process ran out of memory as well: run fewer lanes (--set lanes=1), or on machines with more.",
    "device": "The GPU failed in a fresh process as well: look at its driver and at the machine's log.",
    "lost": "Its workers died again and again without a recorded round between: killed, or their machine went away. "
    "Look at the machine's log.",
    "error": "It raised an exception, which it would raise again: the stack trace is in failed.json.",
}


def failure_words(reason: Mapping[str, Any]) -> str:
    """Return one line for a failed cell: kind, error and message.

    Args:
        reason: what ``failed.json`` holds.
    """
    words = f"{reason.get('error', 'failed')}: {reason.get('message', '')}"
    return f"{reason['kind']}: {words}" if reason.get("kind", "error") != "error" else words


def cell_key(slug: str, digest: str | None) -> str:
    """Return the name of a cell's folder.

    Args:
        slug: what people call the cell.
        digest: fingerprint of its spec, or None while its data or model is not known.
    """
    return f"{slug}--{(digest or 'unresolved')[:8]}"


@dataclass(frozen=True)
class CellStore:
    """Cell folder, ``{slug}--{first 8 digits of the fingerprint}``: on a storage, in memory, or packed with others.

    Attributes:
        folder: its files.
        slug: what people call the cell.
        fingerprint: SHA-256 of its spec's identity, 64 digits.
    """

    folder: Files
    slug: str
    fingerprint: str

    @property
    def key(self) -> str:
        """Return the name of the folder: the cell's name within its study."""
        return cell_key(self.slug, self.fingerprint)

    def begin(self, spec: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
        """Start the cell or take it up again: its spec is written once, its provenance grows by one entry a run.

        An earlier failure is cleared, and kept in the provenance.

        Args:
            spec: of the cell, in its JSON form; where data and model lie may differ from run to run.
            provenance: versions, host, data source: what does not change what is computed.

        Raises:
            StorageError: the folder holds another spec, or cannot be written.
        """
        self.folder.remove_leftovers()
        files = self.folder.names()[0]
        if SPEC in files:
            if changes := changed_fields(identity_of(self.spec()), identity_of(json.loads(canonical_json(spec)))):
                raise StorageError(f"{self.folder.address} holds the records of another spec: {'; '.join(changes)}.")
        elif count_rounds(files, self.folder.where):
            raise StorageError(f"{self.folder.where(SPEC)} is missing, but rounds are recorded. Move the folder away.")
        else:
            head = {"format": FORMAT, "slug": self.slug, "fingerprint": self.fingerprint, "created_at": now_text()}
            self._write(SPEC, {**head, "spec": spec}, "the spec")
        entry: dict[str, Any] = {"time": now_text(), **provenance}
        if FAILED in files and (failure := self._read(FAILED)) is not None:
            entry["after_failure"] = failure
        before = self.provenance() if PROVENANCE in files else []
        self._write(PROVENANCE, [*before, entry], "the provenance")
        if FAILED in files:
            self.folder.remove(FAILED)

    def spec(self) -> dict[str, Any]:
        """Return the spec that the records belong to.

        Raises:
            StorageError: the cell was never begun, or the file is damaged or another cell's.
        """
        where, stored = self.folder.where(SPEC), read_json(self.folder, SPEC, SPEC_KEYS)
        if stored is None:
            raise StorageError(f"{where} is missing: nothing says what the records are. Move the folder away.")
        if stored["fingerprint"] != self.fingerprint:
            raise StorageError(
                f"{where} has the fingerprint {stored['fingerprint']}, not {self.fingerprint}. "
                f"It was edited, or moved here from another cell. Move the folder away."
            )
        return dict(stored["spec"])

    def provenance(self) -> list[dict[str, Any]]:
        """Return one entry for every run of this cell so far, oldest first."""
        entries = self._read(PROVENANCE)
        if entries is not None and not is_provenance(entries):
            raise StorageError(
                f"{self.folder.where(PROVENANCE)} is no list of runs. Put the file back or move it away."
            )
        return entries or []

    def append(self, record: RoundRecord, arrays: Tables | None = None) -> datetime:
        """Record one round: all of it, or nothing.

        Recording a round again is no error where it says the same; wall times may differ, and the first ones stay.

        Args:
            record: the round after the last recorded one.
            arrays: table name -> column name -> ``[n]`` or ``[n, width]``.

        Returns:
            when the round was recorded.

        Raises:
            StorageError: the disk is full, the round before is missing, or the round is recorded with other content.
        """
        index = record.round_index
        what = f"round {index} of cell {self.key}"
        recorded = self.recorded_round(index)
        if recorded is not None:
            check_same(what, recorded.record, record)
            return recorded.recorded_at
        if index and not self.folder.exists(round_file(index - 1)):
            raise StorageError(f"{what} cannot be recorded: round {index - 1} is not. Record the rounds in order.")
        return self._write_rounds([(record, arrays or {})], what)

    def append_all(self, rounds: Sequence[tuple[RoundRecord, Tables]]) -> None:
        """Record rounds that follow each other, as :meth:`append` does one, with one look at the storage for all.

        Raises:
            StorageError: as :meth:`append`; the first of them may be recorded.
        """
        first = rounds[0][0].round_index
        if self.n_rounds() == first:
            self._write_rounds(rounds, f"round {first} of cell {self.key}")
        else:
            for record, arrays in rounds:
                self.append(record, arrays)

    def ask(self, record: RoundRecord, arrays: Tables) -> None:
        """Keep the round after the last recorded one, all but its answers: all of it, or nothing.

        Its arrays have their file from now on. With its answers it is recorded as any other, by :meth:`append`.

        Raises:
            StorageError: the disk is full, or the storage cannot be used.
        """
        index = record.round_index
        what = f"the query of round {index} of cell {self.key}"
        entry = RecordedRound(record=record, recorded_at=now(), tables=n_rows(arrays))
        if arrays:
            self.folder.write(round_file(index, "parquet"), encode_tables(arrays), what)
        self.folder.write(pending_file(index), encode_round(entry), what)
        if index:
            self.folder.remove(pending_file(index - 1))

    def pending(self) -> tuple[RoundRecord, Tables] | None:
        """Return the round that was asked for and is not recorded yet, with its arrays, or None.

        Raises:
            StorageError: a file is truncated, changed or missing; the message names it.
        """
        index = self.n_rounds()
        text = self.folder.read(pending_file(index))
        if text is None:
            return None
        entry = decode_round(self.folder.where(pending_file(index)), index, text)
        return entry.record, self._tables(index, entry.tables)

    def n_rounds(self) -> int:
        """Return how many rounds are recorded, without reading them."""
        return self.progress()[1]

    def rounds(self) -> list[RoundRecord]:
        """Return all recorded rounds, checked: in order, without a gap, and no example asked twice.

        Raises:
            StorageError: a file is truncated, changed or missing; the message names it.
        """
        return [entry.record for entry in self.recorded_rounds()]

    def recorded_rounds(self) -> list[RecordedRound]:
        """Return all recorded rounds with the time at which each was recorded; checked as in :meth:`rounds`."""
        names = [round_file(index) for index in range(self.n_rounds())]
        texts = self.folder.each(self.folder.read, names)
        entries = [
            decode_round(self.folder.where(name), index, self._still_there(name, text))
            for index, (name, text) in enumerate(zip(names, texts, strict=True))
        ]
        check_rounds([entry.record for entry in entries], lambda index: self.folder.where(round_file(index)))
        return entries

    def recorded_round(self, round_index: int) -> RecordedRound | None:
        """Return one recorded round, or None.

        Raises:
            StorageError: its file is truncated or was changed.
        """
        name = round_file(round_index)
        text = self.folder.read(name)
        return None if text is None else decode_round(self.folder.where(name), round_index, text)

    def arrays(self, round_index: int) -> dict[str, dict[str, npt.NDArray[Any]]]:
        """Return the arrays of a recorded round: table -> column -> array; empty where it has none.

        Raises:
            StorageError: the round is not recorded, or its file is missing or damaged.
        """
        entry = self.recorded_round(round_index)
        if entry is None:
            raise StorageError(f"round {round_index} of cell {self.key} is not recorded in {self.folder.address}.")
        return self._tables(round_index, entry.tables)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Mark the cell as done. A cell that is done stays as it was.

        Args:
            summary: final figures, in JSON form; a figure that does not exist is None, never NaN.

        Raises:
            StorageError: it cannot be written.
        """
        files = self.folder.names()[0]
        if DONE not in files or read_json(self.folder, DONE, _DONE_KEYS) is None:
            content = {"format": FORMAT, "finished_at": now_text(), "summary": summary}
            self._write(DONE, content, "the summary")
        if FAILED in files:
            self.folder.remove(FAILED)

    def fail(self, reason: Mapping[str, Any]) -> None:
        """Mark the cell as failed; the next :meth:`begin` takes it up after its last recorded round.

        Args:
            reason: what happened, in JSON form.
        """
        self._write(FAILED, {"format": FORMAT, "failed_at": now_text(), "reason": reason}, "the failure")

    def status(self) -> CellStatus:
        """Return how far the cell is: ``waiting`` has no records, ``running`` is also one whose run was killed."""
        return self._status(self.folder.names()[0])

    def progress(self) -> tuple[CellStatus, int]:
        """Return the status and how many rounds are recorded, from one listing of the folder."""
        files = self.folder.names()[0]
        return self._status(files), count_rounds(files, self.folder.where)

    def failure(self) -> dict[str, Any] | None:
        """Return why the cell failed, or None."""
        failed = read_json(self.folder, FAILED, _FAILED_KEYS)
        return None if failed is None else dict(failed["reason"])

    def done(self) -> tuple[datetime, dict[str, Any]] | None:
        """Return when the cell was done and its final figures, or None while it is not."""
        done = read_json(self.folder, DONE, _DONE_KEYS)
        return None if done is None else (datetime.fromisoformat(done["finished_at"]), dict(done["summary"]))

    def begun_at(self) -> datetime | None:
        """Return when the cell was first begun, or None where it never was."""
        head = read_json(self.folder, SPEC, SPEC_KEYS)
        return None if head is None else datetime.fromisoformat(head["created_at"])

    def ended_at(self) -> datetime | None:
        """Return when the cell was done or failed, or None while it is neither."""
        if done := self.done():
            return done[0]
        if failed := read_json(self.folder, FAILED, _FAILED_KEYS):
            return datetime.fromisoformat(failed["failed_at"])
        return None

    @staticmethod
    def _status(files: Sequence[str]) -> CellStatus:
        if DONE in files:
            return "done"
        if FAILED in files:
            return "failed"
        return "running" if SPEC in files else "waiting"

    def _write_rounds(self, rounds: Sequence[tuple[RoundRecord, Tables]], what: str) -> datetime:
        """Write the arrays of rounds, then the rounds in their order: one without its JSON did not happen."""
        recorded_at = now()
        texts = {
            round_file(record.round_index): encode_round(
                RecordedRound(record=record, recorded_at=recorded_at, tables=n_rows(arrays))
            )
            for record, arrays in rounds
        }
        files = {
            round_file(record.round_index, "parquet"): encode_tables(arrays) for record, arrays in rounds if arrays
        }
        if files:
            self.folder.write_all(files, what, in_order=False)
        self.folder.write_all(texts, what)
        return recorded_at

    def _tables(self, round_index: int, rows: Mapping[str, int]) -> dict[str, dict[str, npt.NDArray[Any]]]:
        """Return the arrays of a round, which have so many rows."""
        if not rows:
            return {}
        name = round_file(round_index, "parquet")
        where = self.folder.where(name)
        tables = decode_tables(self._still_there(name, self.folder.read(name)), where)
        if n_rows(tables) != rows:
            raise StorageError(
                f"{where} holds the rows {n_rows(tables)}, its record says {dict(rows)}. Put the right file back."
            )
        return tables

    def _still_there(self, name: str, data: bytes | None) -> bytes:
        if data is None:
            raise StorageError(f"{self.folder.where(name)} is missing. Put the file back, or move the folder away.")
        return data

    def _read(self, name: str) -> Any:
        text = self.folder.read(name)
        return None if text is None else parse_json(self.folder.where(name), text)

    def _write(self, name: str, content: Any, what: str) -> None:
        self.folder.write(name, json_file(content), f"{what} of cell {self.key}")
