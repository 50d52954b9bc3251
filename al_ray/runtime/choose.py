"""Choosing of texts to label from pools that never fit: model actors of Ray Data, and one selector that reads once.

Actors read a shard and turn its texts into gradient embeddings. The selector (VeSSAL, :mod:`al_ray.core.one_pass`)
takes one shard after the other, in an order that does not depend on who computed it, and keeps no more than the texts
that may be chosen: memory grows with their number, and not with the pool.

The order of the stream: shards by a hash of their numbers and the seed, and the rows of a shard by a hash of theirs, so
that files sorted by date or kind do not let the beginning decide. Shards are cut by the rows of the files alone. So the
same files, model and seed give the same texts on one process and on many; in other files the same texts are another
stream.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from al_ray.core.one_pass import GradientEmbedding, OnePassSelector
from al_ray.core.seeding import stream, tie_keys
from al_ray.core.types import Float32Array, IntArray
from al_ray.data.looking import is_missing
from al_ray.data.shards import Shard, ShardedPool
from al_ray.errors import ConfigError, DataError
from al_ray.model.score import check_features
from al_ray.runtime.cluster.session import ray_session
from al_ray.runtime.score import PoolJob, ScoringActors, ShardReader, ShardScored, Tell, over_shards, work_apart

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class ChoosingJob(PoolJob):
    """What is chosen from, by which model, and how many.

    Attributes:
        n: how many texts to choose.
        seed: of the order of the stream and of the draws.
        n_dimensions: width of the gradient embeddings at most.
        id: column that names a row; None: it is named by its file and its place there.
        label: column whose rows are labelled already where it is not empty; None: there is none.
        labeled: values of ``id``, as text, that are labelled already.
    """

    n: int
    seed: int = 0
    n_dimensions: int = 512
    id: str | None = None
    label: str | None = None
    labeled: frozenset[str] = field(default=frozenset(), repr=False)

    def stream_shards(self) -> tuple[Shard, ...]:
        """Return the shards in the order of the stream."""
        shards = self.pool.shards
        order = np.argsort(tie_keys(np.arange(len(shards)), self.seed))
        return tuple(shards[number] for number in order)

    def first_rows(self) -> dict[str, int]:
        """Return, by the name of each shard, how many rows of the pool are before it."""
        sizes = [shard.n_rows for shard in self.pool.shards]
        ends = accumulate(sizes)
        return {shard.name: end - shard.n_rows for shard, end in zip(self.pool.shards, ends, strict=True)}


@dataclass(frozen=True, kw_only=True)
class ShardOffer:
    """The candidates of one shard, as the selector sees them.

    Attributes:
        rows: their numbers in the shard ``[n]``, in the order of the stream.
        embeddings: ``[n, n_dimensions]``.
        named: their ids, or files and places, and texts ``[n]``.
        n_without_text: rows that have no text, or no id.
        n_labeled: rows that are labelled already.
    """

    rows: IntArray
    embeddings: Float32Array
    named: "pa.Table"
    n_without_text: int
    n_labeled: int

    def to_row(self, place: int) -> dict[str, Any]:
        """Return it as a row of Ray Data, with the place of its shard in the stream."""
        import pyarrow as pa

        written = pa.BufferOutputStream()
        with pa.ipc.new_stream(written, self.named.schema) as writer:
            writer.write_table(self.named)
        return {
            "place": place,
            "rows": self.rows.tobytes(),
            "embeddings": self.embeddings.tobytes(),
            "n_dimensions": self.embeddings.shape[1],
            "named": written.getvalue().to_pybytes(),
            "n_without_text": self.n_without_text,
            "n_labeled": self.n_labeled,
        }

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "ShardOffer":
        """Read the row back."""
        import pyarrow as pa

        rows = np.frombuffer(row["rows"], np.int64)
        return cls(
            rows=rows,
            embeddings=np.frombuffer(row["embeddings"], np.float32).reshape(len(rows), row["n_dimensions"]),
            named=pa.ipc.open_stream(row["named"]).read_all(),
            n_without_text=row["n_without_text"],
            n_labeled=row["n_labeled"],
        )


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What was chosen.

    Attributes:
        table: the id, or ``file`` and ``row``, and the text of each, those that were accepted first.
        n_accepted: how many the pass accepted; the others were drawn at random from those it had passed over.
        n_read: rows of the pool that were read; the pass ends once it has accepted all.
        n_without_text: rows of these that have no text, or no id.
        n_labeled: rows of these that were labelled already.
    """

    table: "pa.Table"
    n_accepted: int
    n_read: int
    n_without_text: int
    n_labeled: int


def check_choosing(job: ChoosingJob) -> None:
    """Make sure that a job can be done, before anything starts.

    Raises:
        ConfigError: more texts than there are, or ids of labelled rows without a column of ids.
        DataError: a column is not there, or that of the texts holds none.
        ModelError: the model has no features, or does not put each text into one class.
    """
    pool = job.pool
    for option, name in (("--id", job.id), ("--label", job.label)):
        if name is not None and name not in pool.columns:
            raise DataError(f"{pool.address} has no column {name!r} ({option}). Columns: {', '.join(pool.columns)}.")
    if job.id == job.text or job.label == job.text:
        raise ConfigError(f"column {job.text!r} is that of the texts; ids and labels stand in others.")
    if job.id is None and job.text in ("file", "row"):
        raise ConfigError(
            f"the texts stand in column {job.text!r}, as would the place of a row that has no id. Name the column of "
            "ids: --id COLUMN."
        )
    if job.labeled and job.id is None:
        raise ConfigError("which rows are labelled already is told by their ids: name the column of them, --id COLUMN.")
    pool.check_text_column(job.text)
    if job.n > pool.n_rows:
        raise ConfigError(
            f"{pool.address} has {pool.n_rows:,} rows, so {job.n:,} cannot be chosen. Lower --n, or label them all."
        )
    check_features(job.model)


def labeled_ids(location: str, column: str) -> frozenset[str]:
    """Read the ids of rows that are labelled already, from a file or folder of Parquet, CSV or JSONL.

    Args:
        location: path or URI.
        column: of the ids, named as in the pool; the only column, where there is only one.

    Raises:
        DataError: it cannot be read, or has no such column.
    """
    from al_ray.data.shards import shard_pool

    found = shard_pool(location)
    name = column if column in found.columns or len(found.columns) > 1 else found.columns[0]
    if name not in found.columns:
        raise DataError(f"{found.address} has no column {name!r} of ids (--id). Columns: {', '.join(found.columns)}.")
    values = (value for shard in found.shards for value in found.texts(found.read(shard), name))
    return frozenset(str(value) for value in values if not is_missing(value))


class ShardEmbedder(ShardReader[ChoosingJob]):
    """Reads a shard, and turns its texts into what the selector decides on; arguments as of :class:`ShardReader`."""

    advice: ClassVar[str] = "Choose again."

    def __init__(self, job: ChoosingJob, threads: int, device: Literal["cpu", "cuda"]) -> None:
        super().__init__(job, threads, device)
        widths = len(self._scorer.class_names), self._scorer.n_features
        self._embed = GradientEmbedding.draw(*widths, job.n_dimensions, stream(job.seed, "choose", "projection"))

    def __call__(self, shard: Shard) -> ShardOffer:
        """Read one shard."""
        import pyarrow as pa

        job, table = self._job, self.read(shard)
        texts = job.pool.texts(table, job.text)
        ids = texts if job.id is None else job.pool.texts(table, job.id)
        labels = [None] * len(texts) if job.label is None else job.pool.texts(table, job.label)
        has_both = [
            isinstance(text, str) and not is_missing(text) and not is_missing(id_)
            for text, id_ in zip(texts, ids, strict=True)
        ]
        is_open = [is_missing(label) and str(id_) not in job.labeled for label, id_ in zip(labels, ids, strict=True)]
        rows = np.flatnonzero(np.array(has_both) & np.array(is_open))
        rows = rows[np.argsort(tie_keys(rows, job.seed))]
        probs, features = self._scorer.probabilities_and_features([texts[row] for row in rows])
        kept = [job.text] if job.id is None else [job.id, job.text]
        named = table.select(kept).take(pa.array(rows)).replace_schema_metadata(None)
        if job.id is None:
            for name, values in _places(job.pool, shard, rows):
                named = named.add_column(0, name, values)
        return ShardOffer(
            rows=rows,
            embeddings=self._embed(probs, features),
            named=named,
            n_without_text=len(has_both) - sum(has_both),
            n_labeled=sum(has_both) - len(rows),
        )


def _places(pool: ShardedPool, shard: Shard, rows: IntArray) -> "tuple[tuple[str, pa.Array], ...]":
    """Return the columns that name rows without an id, the last first."""
    import pyarrow as pa

    path = pool.files[shard.file].path.removeprefix(pool.root).lstrip("/") or Path(pool.root).name
    return (("row", pa.array(shard.start + rows)), ("file", pa.array([path] * len(rows), pa.string())))


class OfferActor:
    """One process of a Ray Data pool, which reads shard after shard.

    Args:
        job: what is chosen from.
        shards: in the order of the stream; rows name them by their place here.
        threads: CPU threads to compute with.
        on_gpu: whether it has a GPU.
    """

    def __init__(self, job: ChoosingJob, shards: Sequence[Shard], threads: int, on_gpu: bool) -> None:
        self._shards, self._read = shards, ShardEmbedder(job, threads, "cuda" if on_gpu else "cpu")

    def __call__(self, places: "pa.Table") -> "Iterator[pa.Table]":
        """Yield one row for each shard of a block."""
        import pyarrow as pa

        for place in places["place"].to_pylist():
            yield pa.Table.from_pylist([self._read(self._shards[place]).to_row(place)])


class StreamChooser:
    """The selector, and the texts that it may still choose; it takes the shards of the stream one after the other.

    Args:
        job: what is chosen from.
    """

    def __init__(self, job: ChoosingJob) -> None:
        self._job, self._first = job, job.first_rows()
        self._selector: OnePassSelector | None = None
        self._held: dict[int, dict[str, Any]] = {}
        self._schema: Any = None
        self._n_read = self._n_without_text = self._n_labeled = 0

    @property
    def is_full(self) -> bool:
        """Whether what is still to come changes nothing."""
        return self._selector is not None and self._selector.is_full

    def take(self, shard: Shard, offer: ShardOffer) -> None:
        """Decide on the rows of the next shard."""
        job, first = self._job, self._first[shard.name]
        if self._selector is None:
            width = offer.embeddings.shape[1]
            self._selector = OnePassSelector(job.n, job.pool.n_rows, width, stream(job.seed, "choose", "draws"))
            self._schema = offer.named.schema
        self._schema = _common(self._schema, offer.named.schema)
        self._selector.skip(shard.n_rows - len(offer.rows))
        self._selector.offer(offer.embeddings, first + offer.rows)
        query = self._selector.query
        mine = query[(query >= first) & (query < first + shard.n_rows)]
        places = np.flatnonzero(np.isin(first + offer.rows, mine))
        numbers = (first + offer.rows[places]).tolist()
        self._held.update(zip(numbers, offer.named.take(places).to_pylist(), strict=True))
        if len(self._held) > 2 * job.n + 1000:
            self._held = {number: self._held[number] for number in query.tolist()}
        self._n_read += shard.n_rows
        self._n_without_text += offer.n_without_text
        self._n_labeled += offer.n_labeled

    def chosen(self) -> Chosen:
        """Return what is chosen where the stream ends now."""
        import pyarrow as pa

        assert self._selector is not None, "the stream had no shard"
        rows = [self._held[number] for number in self._selector.query.tolist()]
        texts = [name for name in self._schema.names if pa.types.is_string(self._schema.field(name).type)]
        return Chosen(
            table=pa.Table.from_pylist(
                [{**row, **{name: str(row[name]) for name in texts}} for row in rows], schema=self._schema
            ),
            n_accepted=len(self._selector.accepted),
            n_read=self._n_read,
            n_without_text=self._n_without_text,
            n_labeled=self._n_labeled,
        )


def _common(first: "pa.Schema", second: "pa.Schema") -> "pa.Schema":
    """Return the types that hold the values of two files; texts where nothing else does."""
    import pyarrow as pa

    if first.equals(second):
        return first
    try:
        return pa.unify_schemas([first, second], promote_options="permissive")
    except pa.ArrowException:
        pairs = zip(first, second, strict=True)
        return pa.schema([one if one.type == other.type else pa.field(one.name, pa.string()) for one, other in pairs])


def choose_here(job: ChoosingJob, threads: int, tell: Tell) -> Chosen:
    """Choose in this process, without Ray.

    Raises:
        AlRayError: the model or the rows cannot be read.
    """
    read, chooser = ShardEmbedder(job, threads, "cpu"), StreamChooser(job)
    for shard in job.stream_shards():
        offer = read(shard)
        chooser.take(shard, offer)
        tell(ShardScored(shard, offer.n_without_text))
        if chooser.is_full:
            break
    return chooser.chosen()


def choose_apart(job: ChoosingJob, actors: ScoringActors, tell: Tell) -> Chosen:
    """Choose on Ray, from a process apart.

    Raises:
        ExecutionError: as :func:`choose_on_ray`; or Ray was lost on the way.
    """
    lost = "Nothing is kept of a pass that did not end: run the same command again."
    return work_apart(functools.partial(choose_on_ray, job, actors), tell, lost)


def choose_on_ray(job: ChoosingJob, actors: ScoringActors, scratch: Path, tell: Tell) -> Chosen:
    """Choose by a Ray Data pool of actors, driven by this process, which is the selector's as well.

    An actor that is lost is replaced, and its shards are read again.

    Args:
        job: what is chosen from.
        actors: how many and how large.
        scratch: an empty folder for what Ray needs on this machine.
        tell: told of each shard once the selector has it.

    Raises:
        ExecutionError: no Ray, actors that do not fit, or a shard that cannot be read.
    """
    from al_ray.runtime.pool import data_errors

    shards, chooser = job.stream_shards(), StreamChooser(job)
    with ray_session(actors.resources, scratch) as session, data_errors(f"{job.pool.address} cannot be read"):
        offers = over_shards(OfferActor, (job, shards), len(shards), session, actors, in_order=True)
        for place, row in enumerate(offers.iter_rows()):
            assert row["place"] == place, "the shards came in another order than the stream's"
            offer = ShardOffer.from_row(row)
            chooser.take(shards[place], offer)
            tell(ShardScored(shards[place], offer.n_without_text))
            if chooser.is_full:
                break
    return chooser.chosen()
