"""An actor that dies once, at the fourth shard of the stream."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from al_ray.data.shards import Shard
from al_ray.runtime.choose import ChoosingJob, OfferActor


class DyingActor(OfferActor):
    """Reads shards as its parent does; where no file ``died`` lies beside the pool, it makes one and dies."""

    def __init__(self, job: ChoosingJob, shards: Sequence[Shard], threads: int, on_gpu: bool) -> None:
        super().__init__(job, shards, threads, on_gpu)
        self._mark = Path(job.pool.root).with_name("died")

    def __call__(self, places: Any) -> Iterator[Any]:
        """Read the shards of a block."""
        if 3 in places["place"].to_pylist() and not self._mark.exists():
            self._mark.touch()
            os._exit(1)
        yield from super().__call__(places)
