"""The file of one recorded round: how it is written, and the proofs it must give before it is believed."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from al_ray.core.types import RoundRecord
from al_ray.errors import StorageError
from al_ray.records.json import FORMAT, canonical_json, changed_fields, check_format, parse_json

_FILE = re.compile(r"round-(\d{3,})\.json")
_KEYS = {"recorded_at", "tables", "sha256", "record"}


@dataclass(frozen=True, kw_only=True)
class RecordedRound:
    """A round as it stands in storage.

    Attributes:
        record: what happened.
        recorded_at: when it was recorded, UTC, to the millisecond.
        tables: the arrays beside it, table -> rows.
    """

    record: RoundRecord
    recorded_at: datetime
    tables: Mapping[str, int]


def round_file(index: int, ending: str = "json") -> str:
    """Return the name of a round's file."""
    return f"round-{index:03d}.{ending}"


def round_indices(files: Sequence[str]) -> list[int]:
    """Return the rounds that have a record among these files, ascending."""
    return sorted(int(match[1]) for match in map(_FILE.fullmatch, files) if match)


def encode_round(entry: RecordedRound) -> bytes:
    """Write a round as JSON with a checksum of its record.

    Raises:
        StorageError: a value is NaN or infinite.
    """
    data = entry.record.to_json()
    content = {
        "format": FORMAT,
        "recorded_at": entry.recorded_at.isoformat(timespec="milliseconds"),
        "tables": dict(entry.tables),
        "sha256": _sha256(canonical_json(data)),
        "record": data,
    }
    return canonical_json(content).encode("ascii")


def decode_round(where: str, index: int, text: bytes) -> RecordedRound:
    """Read a round's file.

    Raises:
        StorageError: it is truncated, was changed, or is the record of another round; the message names the file.
    """
    content = check_format(where, parse_json(where, text), _KEYS)
    text_of_record = canonical_json(content["record"])
    if _sha256(text_of_record) != content["sha256"]:
        raise StorageError(f"{where} was changed after it was recorded: its checksum differs. Put the file back.")
    try:
        record = RoundRecord.from_json(content["record"])
        recorded_at = datetime.fromisoformat(content["recorded_at"])
        text_again = canonical_json(record.to_json())
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, AssertionError) as error:
        raise StorageError(f"{where} is not a round record: {error!r}. Move the folder of its cell away.") from error
    if record.round_index != index or text_again != text_of_record:
        raise StorageError(f"{where} is not the record of round {index}. Move the folder of its cell away.")
    return RecordedRound(record=record, recorded_at=recorded_at, tables=content["tables"])


def check_story(records: Sequence[RoundRecord], where: Callable[[int], str]) -> None:
    """Check that rounds follow from each other: labels add up and no example is asked twice.

    Args:
        records: rounds 0 to n, in order.
        where: gives the file of a round, for the message.

    Raises:
        StorageError: naming the first round that cannot have happened.
    """
    asked: set[int] = set()
    n_answered = 0
    for index, record in enumerate(records):
        if why := _impossible(record, asked, n_answered):
            raise StorageError(
                f"{where(index)}: round {index} {why}. Move the folder of its cell away: the cell is then run anew."
            )
        asked.update(record.query.ids.tolist())
        n_answered += len(record.annotation.answered())


def check_same(what: str, old: RoundRecord, new: RoundRecord) -> None:
    """Check that a round which is recorded already would be recorded the same again, wall times aside.

    Raises:
        StorageError: listing what differs.
    """
    before, after = ({**record.to_json(), "seconds": {}} for record in (old, new))
    changes = changed_fields(before, after)
    if changes:
        more = f"; and {len(changes) - 5} more" if len(changes) > 5 else ""
        raise StorageError(
            f"{what} is already recorded with other content: {'; '.join(changes[:5])}{more}. A recorded round is never "
            f"overwritten. If two runs write the same cell, stop one; else move the cell's folder away."
        )


def now() -> datetime:
    """Return the time in UTC, to the millisecond: as exactly as it is recorded."""
    time = datetime.now(UTC)
    return time.replace(microsecond=time.microsecond // 1000 * 1000)


def _impossible(record: RoundRecord, asked: set[int], n_answered: int) -> str | None:
    if record.n_labeled != n_answered:
        return f"was fine-tuned on {record.n_labeled} labels, but {n_answered} were answered before it"
    again = asked.intersection(record.query.ids.tolist())
    if again:
        return f"asks again for example {min(again)}"
    if not np.array_equal(record.annotation.labels < 0, record.annotation.abstained):
        return "has a label where the oracle abstained, or none where it answered"
    return None


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("ascii")).hexdigest()
