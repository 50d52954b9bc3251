"""Scoring of pools beyond memory: shards of rows in, Parquet out, a Ray Data pool of model actors between.

A shard is read, scored and written by one actor, so that no more than one is in memory for each. It is written whole,
under a name that says which rows it has: a run that was ended goes on with the shards that are not there.
"""

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar, cast

import numpy as np

from al_ray.data.looking import is_missing
from al_ray.data.shards import Shard, ShardedPool
from al_ray.errors import ConfigError, ExecutionError, StorageError
from al_ray.model.score import ModelNote
from al_ray.model.source import ResolvedModel
from al_ray.runtime.cluster.apart import DriverProcess, Ended, ParentLine
from al_ray.runtime.cluster.resources import LaneResources, lanes_that_fit
from al_ray.runtime.cluster.scratch import scratch_folder
from al_ray.runtime.cluster.session import RaySession, ray_session
from al_ray.runtime.failures import RayStartError
from al_ray.storage.folder import Folder

if TYPE_CHECKING:
    import pyarrow as pa

    from al_ray.model.score import TextScorer

MANIFEST = "_al_ray_score.json"
FORMAT = 1
COLUMNS = ("prediction", "probabilities", "uncertainty")
_MOST_BLOCKS = 2000
T = TypeVar("T")
J = TypeVar("J", bound="PoolJob")


@dataclass(frozen=True, kw_only=True)
class PoolJob:
    """What a model reads.

    Attributes:
        pool: the rows.
        text: column of the texts.
        model: folder of a classifier, the same on every machine.
        note: what al_ray keeps beside the model; None: a model from elsewhere.
    """

    pool: ShardedPool
    text: str
    model: ResolvedModel
    note: ModelNote | None


@dataclass(frozen=True, kw_only=True)
class ScoringJob(PoolJob):
    """What is scored, by which model, and where the scores go.

    Attributes:
        out: folder of the scored shards.
        prefix: of the names of the new columns.
    """

    out: Folder
    prefix: str = ""

    @property
    def new_columns(self) -> tuple[str, str, str]:
        """Names of the columns that scoring adds: class name, probabilities in the order of classes, uncertainty."""
        first, second, third = (f"{self.prefix}{name}" for name in COLUMNS)
        return first, second, third

    def manifest(self) -> dict[str, Any]:
        """Return what decides the scores: runs that differ in any of it do not share a folder."""
        return {
            "format": FORMAT,
            "pool": {
                "address": self.pool.address,
                "files": [{"path": each.path, "size": each.size, "modified_ns": each.modified_ns}
                          for each in self.pool.files],
                "n_rows": self.pool.n_rows,
            },
            "shard_rows": max(shard.n_rows for shard in self.pool.shards),
            "text": self.text,
            "columns": list(self.new_columns),
            "model": {"sha256": self.model.sha256, "settings_sha256": self.model.settings_sha256},
            "note": None if self.note is None else {
                "max_tokens": self.note.max_tokens, "temperature": self.note.temperature
            },
        }  # fmt: skip


@dataclass(frozen=True)
class ShardScored:
    """A shard was written.

    Attributes:
        shard: which.
        n_without_text: rows of it that have no text, and so no prediction.
    """

    shard: Shard
    n_without_text: int


@dataclass(frozen=True, kw_only=True)
class ScoringActors:
    """Processes that score side by side, each with the model loaded.

    Attributes:
        n: how many; None: as many as fit.
        resources: of each, and the Ray that they run on.
    """

    n: int | None
    resources: LaneResources


Tell = Callable[[ShardScored], None]


def check_job(job: ScoringJob) -> list[Shard]:
    """Make sure that a job can be run in its folder, claim the folder for it, and return the shards that are left.

    Raises:
        ConfigError: the pool has columns of the names that are added, or the folder belongs to another job.
        DataError: the text column holds no texts.
        StorageError: the folder cannot be read or written.
    """
    clash = [name for name in job.new_columns if name in job.pool.columns]
    if clash:
        raise ConfigError(
            f"the pool has a column {clash[0]!r} already, which scoring would add. Name the new columns otherwise: "
            f"--prefix scored_ makes it {f'scored_{clash[0]}'!r}."
        )
    pool, out = job.pool, job.out
    if pool.filesystem.type_name == out.filesystem.type_name and pool.is_inside(out.path):
        raise ConfigError(
            f"{out.address} lies inside the pool, which would then hold its own scores. Name a folder beside it."
        )
    pool.check_text_column(job.text)
    files, folders = job.out.names()
    mine = job.manifest()
    stored = _stored_manifest(job.out) if MANIFEST in files else None
    if stored is None and (files or folders):
        raise ConfigError(
            f"{job.out.address} holds {len(files) + len(folders)} files or folders already, and none of them says what "
            "was scored there. Name a new or empty folder."
        )
    if stored is None:
        job.out.write(MANIFEST, json.dumps(mine, indent=1).encode(), "the manifest of the scores")
    elif stored != mine:
        raise ConfigError(
            f"{job.out.address} holds scores of something else: {'; '.join(_differences(stored, mine))}. Name a new or "
            "empty folder, or delete this one."
        )
    job.out.remove_leftovers(older_than_s=3600.0)
    there = {*files}
    return [shard for shard in job.pool.shards if _file_of(shard) not in there]


def _stored_manifest(out: Folder) -> Mapping[str, Any]:
    try:
        found = json.loads(out.read(MANIFEST) or b"")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise StorageError(f"{out.where(MANIFEST)} is not readable. Delete the folder and score again.")
    return found


def _differences(stored: Mapping[str, Any], mine: Mapping[str, Any], inside: str = "") -> Iterator[str]:
    """Say what differs between two manifests."""
    for key in dict.fromkeys([*stored, *mine]):
        before, now = stored.get(key), mine.get(key)
        if before == now:
            continue
        if isinstance(before, dict) and isinstance(now, dict):
            yield from _differences(before, now, f"{inside}{key} ")
        elif isinstance(before, list) and before and isinstance(before[0], dict) and now:
            changed = next((one for one in before if one not in now), before[-1])
            yield f"{inside}{key} changed ({changed.get('path')} among them)"
        else:
            yield f"{inside}{key} was {str(before)[:60]!r}, is {str(now)[:60]!r}"


def _file_of(shard: Shard) -> str:
    return f"{shard.name}.parquet"


def score_here(job: ScoringJob, shards: Sequence[Shard], threads: int, tell: Tell) -> None:
    """Score shards in this process, without Ray.

    Raises:
        AlRayError: the model or the rows cannot be read, or the scores not be written.
    """
    write = ShardWriter(job, threads, "cpu")
    for shard in shards:
        tell(write(shard))


def score_apart(job: ScoringJob, shards: Sequence[Shard], actors: ScoringActors, tell: Tell) -> None:
    """Score shards on Ray, from a process apart.

    Raises:
        ExecutionError: as :func:`score_on_ray`; or Ray was lost on the way.
    """
    kept = "Every shard that is written is kept; the same command goes on."
    work_apart(functools.partial(score_on_ray, job, tuple(shards), actors), tell, kept)


def work_apart(work: Callable[[Path, Tell], T], tell: Tell, after_loss: str) -> T:
    """Drive Ray from a process apart, so that a Ray that dies does not take this one along.

    Args:
        work: what to do there, given an empty folder for what Ray needs on this machine, and what to tell.
        tell: told here of each shard that is done.
        after_loss: what a user should know when Ray is lost.

    Returns:
        what the work returned.

    Raises:
        ExecutionError: Ray does not start, or was lost; or what the work raises.
    """
    ended: Ended | None = None
    with scratch_folder() as scratch, DriverProcess(functools.partial(_drive, work, scratch), scratch) as process:
        for message in process.messages():
            if isinstance(message, Ended):
                ended = message
                break
            assert isinstance(message, ShardScored)
            tell(message)
    if ended is None:
        raise ExecutionError(f"Ray was lost: {process.how_it_ended()}. {after_loss}")
    if isinstance(ended.outcome, RayStartError):
        raise ExecutionError(f"Ray does not start: {ended.outcome}. Work without it: --local.")
    if isinstance(ended.outcome, BaseException):
        raise ended.outcome
    return cast(T, ended.outcome)


def _drive(work: Callable[[Path, Tell], T], scratch: Path, line: ParentLine) -> T:
    return work(scratch, line.tell)


def score_on_ray(job: ScoringJob, shards: Sequence[Shard], actors: ScoringActors, scratch: Path, tell: Tell) -> None:
    """Score shards by a Ray Data pool of actors, driven by this process.

    An actor that is lost is replaced, and its shards are scored again.

    Args:
        job: what is scored.
        shards: what is left of it, at least one.
        actors: how many and how large.
        scratch: an empty folder for what Ray needs on this machine.
        tell: told of each shard once it is written, in any order.

    Raises:
        ExecutionError: no Ray, actors that do not fit, or a shard that cannot be scored.
    """
    from al_ray.runtime.pool import data_errors

    with ray_session(actors.resources, scratch) as session, data_errors(f"{job.pool.address} cannot be scored"):
        for row in over_shards(ShardActor, (job, tuple(shards)), len(shards), session, actors).iter_rows():
            tell(ShardScored(shards[row["place"]], row["n_without_text"]))


def over_shards(
    actor: type,
    arguments: tuple[Any, ...],
    n_shards: int,
    session: RaySession,
    actors: ScoringActors,
    *,
    in_order: bool = False,
) -> Any:
    """Return a data set of Ray Data in which actors work on one shard after the other.

    Args:
        actor: called with tables of one column ``place``, numbers of shards; made of ``arguments``, the number of its
            threads and whether it has a GPU.
        arguments: the first of them.
        n_shards: how many.
        session: the Ray that they run on.
        actors: how many at most and how large.
        in_order: whether the rows come in the order of the shards; else as they are done.
    """
    import pyarrow as pa
    import ray.data

    resources, n_blocks = actors.resources, min(n_shards, _MOST_BLOCKS)
    n_actors = min(lanes_that_fit(session.nodes, 1, replace(resources, lanes=actors.n)), n_shards)
    numbers = np.array_split(np.arange(n_shards), n_blocks)
    places = ray.data.from_arrow([pa.table({"place": block}) for block in numbers])
    places.context.enable_progress_bars = False
    places.context.execution_options.preserve_order = in_order
    return places.map_batches(
        actor,
        fn_constructor_args=(*arguments, resources.cpus_per_worker, resources.gpus_per_worker > 0),
        batch_format="pyarrow",
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=n_actors),
        num_cpus=resources.cpus_per_worker,
        num_gpus=resources.gpus_per_worker,
        **({} if resources.accelerator_type is None else {"accelerator_type": resources.accelerator_type}),
    )


class ShardActor:
    """One process of a Ray Data pool, which scores shard after shard.

    Args:
        job: what is scored.
        shards: all of it that is left; rows name them by their place here.
        threads: CPU threads to compute with.
        on_gpu: whether it has a GPU.
    """

    def __init__(self, job: ScoringJob, shards: Sequence[Shard], threads: int, on_gpu: bool) -> None:
        self._shards, self._write = shards, ShardWriter(job, threads, "cuda" if on_gpu else "cpu")

    def __call__(self, places: "pa.Table") -> "pa.Table":
        """Score the shards of a block, and return how many of their rows have no text."""
        import pyarrow as pa

        scored = [self._write(self._shards[place]) for place in places["place"].to_pylist()]
        return places.append_column("n_without_text", pa.array([each.n_without_text for each in scored], pa.int64()))


class ShardReader(Generic[J]):
    """Reads a shard, beside the model that its texts are for.

    Args:
        job: what is read.
        threads: CPU threads to compute with.
        device: ``cpu`` or ``cuda``.

    Raises:
        ModelError: the model is not on this machine, or has other content here.
    """

    advice: ClassVar[str]
    """What to do where the pool was changed while it was read."""

    def __init__(self, job: J, threads: int, device: Literal["cpu", "cuda"]) -> None:
        from al_ray.model.worker import set_threads

        set_threads(threads)
        from al_ray.model.score import pinned_scorer

        self._job, self._scorer = job, pinned_scorer(job.model, job.note, device=device)

    def read(self, shard: Shard) -> "pa.Table":
        """Return the rows of a shard.

        Raises:
            ExecutionError: there are not as many as there were.
        """
        table = self._job.pool.read(shard)
        if table.num_rows != shard.n_rows:
            raise ExecutionError(
                f"{self._job.pool.address} gave {table.num_rows} rows in the place of {shard.n_rows}: it was changed "
                f"while it was read. {self.advice}"
            )
        return table


class ShardWriter(ShardReader[ScoringJob]):
    """Reads a shard, scores its texts and writes it with its scores; arguments as of :class:`ShardReader`."""

    advice: ClassVar[str] = "Delete the scores and score again."

    def __call__(self, shard: Shard) -> ShardScored:
        """Score one shard."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = self.read(shard)
        columns = score_columns(self._scorer, self._job.pool.texts(table, self._job.text))
        for name, column in zip(self._job.new_columns, columns, strict=True):
            table = table.append_column(name, column)
        written = pa.BufferOutputStream()
        pq.write_table(table, written)
        self._job.out.write(_file_of(shard), written.getvalue().to_pybytes(), f"shard {shard.name}")
        return ShardScored(shard, columns[0].null_count)


def score_columns(scorer: "TextScorer", texts: Sequence[Any]) -> "tuple[pa.Array, pa.Array, pa.Array]":
    """Return what is added to rows: class name, probabilities, and 1 minus the largest of them.

    A row without a text (none, empty or white space alone) has none of the three.
    """
    import pyarrow as pa

    rows = np.array([i for i, text in enumerate(texts) if isinstance(text, str) and not is_missing(text)], np.int64)
    probs = scorer.probabilities([texts[row] for row in rows])
    found: list[list[Any]] = [[None] * len(texts) for _ in COLUMNS]
    # The uncertainty is that of the written probabilities.
    rounded = probs.astype(np.float32)
    for row, of_classes in zip(rows.tolist(), rounded, strict=True):
        found[0][row] = scorer.class_names[int(of_classes.argmax())]
        found[1][row] = of_classes
        found[2][row] = 1 - of_classes.max()
    types = pa.string(), pa.list_(pa.float32()), pa.float32()
    first, second, third = (pa.array(values, type_) for values, type_ in zip(found, types, strict=True))
    return first, second, third
