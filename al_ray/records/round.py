"""Round file: encode, decode, verify."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from al_ray.core.types import RoundRecord
from al_ray.errors import StorageError
from al_ray.records.json import FORMAT, canonical_json, changed_fields, check_format, fingerprint, parse_json

_FILE = re.compile(r"round-(\d{3,})\.json")
_KEYS = {"recorded_at", "tables", "sha256", "record"}
_BEFORE_RECORD, _AFTER_RECORD = f'{{"format":{FORMAT},"record":'.encode(), b',"recorded_at":'


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


def count_rounds(files: Sequence[str], where: Callable[[str], str]) -> int:
    """Return how many rounds have a record among these files.

    Args:
        files: in the cell's folder.
        where: gives the address of a file, for the message.

    Raises:
        StorageError: a round between others is missing.
    """
    indices = sorted(int(match[1]) for match in map(_FILE.fullmatch, files) if match)
    for expected, index in enumerate(indices):
        if index != expected:
            raise StorageError(
                f"{where(round_file(expected))} is missing, but round {index} is recorded. "
                f"Put the file back, or move the folder away: the cell is then run anew."
            )
    return len(indices)


def encode_round(entry: RecordedRound) -> bytes:
    """Write a round as JSON with a checksum of its record.

    Raises:
        StorageError: a value is NaN or infinite.
    """
    record = canonical_json(entry.record.to_json()).encode("ascii")
    rest = {
        "recorded_at": entry.recorded_at.isoformat(timespec="milliseconds"),
        "tables": dict(entry.tables),
        "sha256": hashlib.sha256(record).hexdigest(),
    }
    # The record is most of the file: its text is made once, and stands in the file as in its checksum.
    return b"%s%s,%s" % (_BEFORE_RECORD, record, canonical_json(rest).encode("ascii")[1:])


def hashed_text(text: bytes) -> bytes:
    """Return the part of a round's file that its checksum was made of, where the file is as it was written."""
    return text[len(_BEFORE_RECORD) : text.rfind(_AFTER_RECORD)]


def decode_round(where: str, index: int, text: bytes) -> RecordedRound:
    """Read a round's file, and prove that it is whole, unchanged, and the record of this round.

    The record stands in its file as the very text that the checksum was made of, so those bytes are hashed as they
    are; where a file was laid out anew, the record is written out once more.

    Raises:
        StorageError: it is truncated, was changed, or is no record of this round; the message names the file.
    """
    content = check_format(where, parse_json(where, text), _KEYS)
    digest = content["sha256"]
    if digest != hashlib.sha256(hashed_text(text)).hexdigest() and digest != fingerprint(content["record"]):
        raise StorageError(f"{where} was changed after it was recorded: its checksum differs. Put the file back.")
    try:
        record = RoundRecord.from_json(content["record"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, AssertionError) as error:
        raise StorageError(f"{where} is not a round record: {error!r}. Move the folder of its cell away.") from error
    if record.round_index != index or record.to_json() != content["record"]:
        raise StorageError(f"{where} is not the record of round {index}. Move the folder of its cell away.")
    recorded_at = datetime.fromisoformat(content["recorded_at"])
    return RecordedRound(record=record, recorded_at=recorded_at, tables=content["tables"])


def check_rounds(records: Sequence[RoundRecord], where: Callable[[int], str]) -> None:
    """Check that rounds follow from each other: labels add up, no example is asked for twice, classes stay the same.

    Args:
        records: rounds 0 to n, in order.
        where: gives the file of a round, for the message.

    Raises:
        StorageError: naming the first round that cannot have happened.
    """
    asked: set[int] = set()
    drawn: set[int] = set()
    labeled: set[int] = set()
    n_classes = None
    for index, record in enumerate(records):
        ids, annotation, why = record.query.ids.tolist(), record.annotation, None
        to_measure = [] if record.evaluation is None else record.evaluation.ids.tolist()
        revised = record.revised.ids.tolist()
        if record.n_labeled != len(labeled):
            why = f"was fine-tuned on {record.n_labeled} labels, but {len(labeled)} were answered before it"
        elif not asked.isdisjoint(ids):
            why = f"asks again for example {min(asked.intersection(ids))}"
        elif (
            not (drawn | {*ids}).isdisjoint(to_measure) or not drawn.isdisjoint(ids) or not asked.isdisjoint(to_measure)
        ):
            why = "asks again for an example, or measures the model by one that it is fitted on"
        elif not (asked | drawn).issuperset(revised):
            why = f"revises the label of example {min({*revised} - asked - drawn)}, which was not asked for before it"
        elif ((annotation.labels < 0) != annotation.abstained).any():
            why = "has a label where the oracle abstained, or none where it answered"
        elif ids and record.query.probs is not None:
            before, n_classes = n_classes, record.query.probs.shape[1]
            if before not in (None, n_classes):
                why = f"has beliefs in {n_classes} classes, but there were {before} before it"
            elif annotation.labels.max() >= n_classes:
                why = f"was answered with class {annotation.labels.max()}, but there are {n_classes}"
        if why is not None:
            raise StorageError(
                f"{where(index)}: round {index} {why}. Move the folder of its cell away: the cell is then run anew."
            )
        asked.update(ids)
        drawn.update(to_measure)
        labeled.update(annotation.ids[~annotation.abstained].tolist())
        for id_, label in zip(revised, record.revised.labels.tolist(), strict=True):
            (labeled.discard if label < 0 or id_ in drawn else labeled.add)(id_)


def pending_file(index: int) -> str:
    """Return the name of the file that a round has while its answers are missing."""
    return f"pending-{index:03d}.json"


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


def now_text() -> str:
    """Return the time as records hold it."""
    return now().isoformat(timespec="milliseconds")
