"""Scoring of pools beyond memory, outside an experiment: Parquet in, Parquet out, a Ray Data pool of model actors."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from al_ray.errors import ConfigError, DataError, ExecutionError

if TYPE_CHECKING:
    import pyarrow as pa

Scorer = Callable[["pa.Table"], "pa.Table"]


class ScoringActor:
    """One model in one process; Ray Data keeps it for the whole pool.

    Args:
        make_scorer: loads the model and returns table -> table.
    """

    def __init__(self, make_scorer: Callable[[], Scorer], threads: int) -> None:
        from al_ray.model.worker import set_threads

        set_threads(threads)
        self._score = make_scorer()

    def __call__(self, batch: "pa.Table") -> "pa.Table":
        """Score one batch; every row must come back."""
        scored = self._score(batch)
        if scored.num_rows != batch.num_rows:
            raise ExecutionError(
                f"the scorer returned {scored.num_rows} rows for a batch of {batch.num_rows}. "
                "It must return one row per row."
            )
        return scored


def score_parquet(
    source: str,
    destination: str,
    *,
    make_scorer: Callable[[], Scorer],
    n_actors: int,
    batch_size: int,
    cpus_per_actor: int = 1,
    gpus_per_actor: float = 0,
) -> int:
    """Score a pool of any size as a stream and return the number of rows.

    Needs a connected Ray (see :func:`al_ray.runtime.cluster.session.ray_session`).

    Args:
        source: a Parquet file or folder, local or remote, that every node can read.
        destination: folder for the scored Parquet files; missing or empty.
        make_scorer: called once in every actor; picklable.
        n_actors: actors, each with its own model.
        batch_size: rows of one call of the scorer.
        cpus_per_actor: CPUs, and threads, of one actor.
        gpus_per_actor: GPUs of one actor, whole or a fraction.

    Raises:
        ConfigError: the destination holds files.
        DataError: the source has no rows.
        ExecutionError: rows were lost or doubled.
    """
    import ray.data

    _refuse_filled(destination)
    n_source = _count_rows(source)
    if n_source == 0:
        raise DataError(f"{source!r} has no rows to score. Give a Parquet file or folder with at least one.")
    scored = _read(source).map_batches(
        ScoringActor,
        fn_constructor_args=(make_scorer, cpus_per_actor),
        batch_format="pyarrow",
        batch_size=batch_size,
        compute=ray.data.ActorPoolStrategy(size=n_actors),
        num_cpus=cpus_per_actor,
        num_gpus=gpus_per_actor,
    )
    scored.write_parquet(destination)
    n_scored = _count_rows(destination)
    if n_scored != n_source:
        raise ExecutionError(
            f"{n_source} rows went in, {n_scored} came out in {destination!r}. Delete the folder and score again."
        )
    return n_scored


def _read(source: str) -> Any:
    import ray.data

    context = ray.data.DataContext.get_current()
    before = context.use_datasource_v2, context.enable_progress_bars
    # The V2 reader starts 32 actors to read footers, for a single small file too.
    context.use_datasource_v2, context.enable_progress_bars = False, False
    try:
        return ray.data.read_parquet(source)
    finally:
        context.use_datasource_v2, context.enable_progress_bars = before


def _count_rows(location: str) -> int:
    """Count from the footers alone."""
    import pyarrow.dataset

    filesystem, path = _filesystem(location)
    try:
        return int(pyarrow.dataset.dataset(path, format="parquet", filesystem=filesystem).count_rows())
    except FileNotFoundError as error:
        raise DataError(f"there is no Parquet file or folder at {location!r}. Correct the path.") from error


def _refuse_filled(destination: str) -> None:
    import pyarrow.fs

    filesystem, path = _filesystem(destination)
    found = filesystem.get_file_info(pyarrow.fs.FileSelector(path, allow_not_found=True))
    if found:
        raise ConfigError(
            f"the destination {destination!r} holds {len(found)} file(s) already. Name a new or empty folder: "
            "old and new scores must not mix."
        )


def _filesystem(location: str) -> Any:
    import pyarrow.fs

    if "://" in location:
        return pyarrow.fs.FileSystem.from_uri(location)
    return pyarrow.fs.LocalFileSystem(), str(Path(location).absolute())
