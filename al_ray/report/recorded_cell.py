"""One cell as a report reads it: proved whole like everywhere else, but quickly, because there are thousands."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from al_ray.errors import StorageError
from al_ray.experiment.canonical import FORMAT
from al_ray.experiment.cell_store import CellStore, Status
from al_ray.experiment.failed_cells import failure_words
from al_ray.experiment.recorded_rounds import decode_round, round_file, round_indices
from al_ray.experiment.stored_shapes import check_shapes

Columns = dict[str, npt.NDArray[Any]]

_BEFORE_RECORD, _AFTER_RECORD = b'"record":', b',"recorded_at":'


@dataclass(frozen=True, kw_only=True)
class RecordedCell:
    """What one cell's folder says, arrays aside.

    Attributes:
        spec: its identity, in JSON form.
        status: how far it is.
        reason: why it failed, empty otherwise.
        n_recorded: rounds recorded, the initial query included.
        stop_reason: why it ended, empty while it runs.
        rounds: one row for every fine-tuned round: ``round_index``, ``n_labeled``, every metric, ``seconds.PHASE``.
        queries: one row for every queried example, in order: ``round_index``, ``id``, ``label`` (-1 = abstained), and
            what the model believed of it: ``predicted``, ``confidence``, ``brier`` (NaN and -1 for an initial query).
        n_test: rows of the test predictions of the last round, 0 where there are none.
        provenance: of its last run.
    """

    spec: Mapping[str, Any]
    status: Status
    reason: str = ""
    n_recorded: int = 0
    stop_reason: str = ""
    rounds: Sequence[Mapping[str, float]] = ()
    queries: Columns = field(default_factory=dict)
    n_test: int = 0
    provenance: Mapping[str, Any] = field(default_factory=dict)


def read_cell(store: CellStore, *, with_queries: bool = True) -> RecordedCell:
    """Read the records of one cell.

    Args:
        store: its folder.
        with_queries: false for cells whose query is the whole pool.

    Raises:
        StorageError: a file is truncated, changed or missing; the message names it.
    """
    status = store.status()
    indices = round_indices(store.folder.names()[0])
    names = [round_file(index) for index in range(len(indices))]
    texts = store.folder.read_all(names)
    if any(text is None for text in texts):
        store.recorded_rounds()  # says which round is missing
    contents = [
        read_round(store.folder.where(name), index, text or b"")
        for index, (name, text) in enumerate(zip(names, texts, strict=True))
    ]
    records = [content["record"] for content in contents]
    if not _is_a_story(records):
        store.recorded_rounds()  # says what cannot have happened
    return RecordedCell(
        spec=store.spec(),
        status=status,
        reason=_reason(store) if status == "failed" else "",
        n_recorded=len(records),
        stop_reason=(records[-1]["stop_reason"] or "") if records else "",
        rounds=[_fitted_round(record) for record in records if record["metrics"]],
        queries=_queries(records) if with_queries else {},
        n_test=int(contents[-1]["tables"].get("test", 0)) if contents else 0,
        provenance=(store.provenance() or [{}])[-1],
    )


def read_round(where: str, index: int, text: bytes) -> dict[str, Any]:
    """Return the content of a round's file, checked by its checksum.

    A record stands in its file as the very text that the checksum was made of, so hashing those bytes proves it without
    writing it out again; a file that was laid out anew takes the slow way.

    Raises:
        StorageError: it is truncated, was changed, or is the record of another round.
    """
    start, end = text.find(_BEFORE_RECORD) + len(_BEFORE_RECORD), text.rfind(_AFTER_RECORD)
    try:
        content = json.loads(text)
        digest = hashlib.sha256(text[start:end]).hexdigest()
        if content["format"] == FORMAT and content["sha256"] == digest and content["record"]["round_index"] == index:
            check_shapes(where, content)
            return dict(content)
    except StorageError:
        raise
    except (ValueError, KeyError, TypeError):
        pass
    entry = decode_round(where, index, text)
    return {"record": entry.record.to_json(), "tables": dict(entry.tables)}


def _is_a_story(records: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether labels add up and no example is asked twice."""
    n_answered = 0
    asked: list[int] = []
    for record in records:
        if record["n_labeled"] != n_answered:
            return False
        asked += record["query"]["ids"]
        n_answered += len(record["query"]["ids"]) - sum(record["annotation"]["abstained"])
    return len(set(asked)) == len(asked)


def _fitted_round(record: Mapping[str, Any]) -> dict[str, float]:
    seconds = {f"seconds.{phase}": value for phase, value in record["seconds"].items()}
    return {"round_index": record["round_index"], "n_labeled": record["n_labeled"], **record["metrics"], **seconds}


def _queries(records: Sequence[Mapping[str, Any]]) -> Columns:
    asked = [record for record in records if record["query"]["ids"]]
    sizes = [len(record["query"]["ids"]) for record in asked]
    labels = np.array([label for record in asked for label in record["annotation"]["labels"]], dtype=np.int32)
    beliefs = [row for record in asked for row in record["query"]["probs"] or ()]
    is_believed = np.repeat([record["query"]["probs"] is not None for record in asked], sizes).astype(np.bool_)
    found: Columns = {
        "round_index": np.repeat([record["round_index"] for record in asked], sizes).astype(np.int32),
        "id": np.array([i for record in asked for i in record["query"]["ids"]], dtype=np.int64),
        "label": labels,
        "predicted": np.full(len(labels), -1, dtype=np.int32),
        "confidence": np.full(len(labels), np.nan, dtype=np.float32),
        "brier": np.full(len(labels), np.nan, dtype=np.float32),
    }
    if beliefs:
        _add_beliefs(found, np.array(beliefs, dtype=np.float64), is_believed)
    return found


def _add_beliefs(found: Columns, probs: npt.NDArray[np.float64], at: npt.NDArray[np.bool_]) -> None:
    """Reduce what was believed to what a report needs of it; an abstained example has no Brier score."""
    labels = found["label"][at].astype(np.int64)
    predicted = probs.argmax(axis=1)
    rows = np.arange(len(probs))
    right = probs[rows, np.maximum(labels, 0)]
    brier = (probs**2).sum(axis=1) - 2 * right + 1
    found["predicted"][at] = predicted
    found["confidence"][at] = probs[rows, predicted]
    found["brier"][at] = np.where(labels < 0, np.nan, brier)


def _reason(store: CellStore) -> str:
    reason = store.failure() or {}
    return failure_words(reason).strip().splitlines()[0] if reason else "no reason was recorded"
