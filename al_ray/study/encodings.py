"""Encodings that a study reads: what each takes, what of it the storage has already, and where it will lie."""

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Literal

import psutil

from al_ray.core.types import TextDataset
from al_ray.errors import ExecutionError
from al_ray.model.encoding import Encoding
from al_ray.model.source import ResolvedModel
from al_ray.model.stored import CACHE, StoredEncoding, Texts
from al_ray.model.tokens import load_tokenizer
from al_ray.runtime.cluster.session import STORE_SHARE, private_store_bytes
from al_ray.storage.address import below, shown
from al_ray.storage.folder import Folder, size_text
from al_ray.study.cell import encodings_read, texts_read
from al_ray.study.plan import Plan, PlannedCell, by_pool, dataset_key

if TYPE_CHECKING:
    import pyarrow as pa

    from al_ray.study.file import Execution

N_COUNTED = 500
MEMORY = "the memory of this machine"
# While the parts on a disk become one file, both are there.
DISK_COPIES = 2

Way = Literal["object store", "memory", "disk", "cluster"]
"""Where workers read it: of a cluster only its nodes know what fits into their object stores."""


@dataclass(frozen=True, kw_only=True)
class EncodingCost:
    """One encoding that the rest of a study reads.

    Attributes:
        pool_key: of the cells that read it.
        whose: of which model and data set, in words.
        encoding: what it is.
        n_bytes: that it takes, about.
        n_texts: of pool and test split.
        n_stored: of them whose part lies in the storage already.
        way: where workers read it.
    """

    pool_key: str
    whose: str
    encoding: Encoding
    n_bytes: int
    n_texts: int
    n_stored: int
    way: Way = "cluster"

    @property
    def what(self) -> str:
        """What it is, in words."""
        output = self.encoding.output
        return f"the output of layer {output}" if isinstance(output, int) else "the embeddings"

    @property
    def is_stored(self) -> bool:
        """Whether all of it is in the storage already."""
        return self.n_stored == self.n_texts

    @property
    def missing_bytes(self) -> int:
        """What is still to be computed, about."""
        return round(self.n_bytes * (1 - self.n_stored / self.n_texts))


@dataclass(frozen=True, kw_only=True)
class EncodingPlan:
    """All encodings that the rest of a study reads, and the room for them.

    Attributes:
        costs: of each.
        is_kept: whether what is missing is kept in the storage.
        may_be_kept: whether the study asks for it.
        cache: address of their folder in the storage, for people.
        room: what they lie in, unless on disk, in words; empty where only the cluster knows.
        room_bytes: that it has.
        written_bytes: that the storage takes for what is missing, at most.
        free_bytes: that the disk of the storage has; None where that has no meaning.
        fetched_bytes: that this machine takes from a bucket to its own disk.
    """

    costs: tuple[EncodingCost, ...] = ()
    is_kept: bool = False
    may_be_kept: bool = False
    cache: str = ""
    room: str = ""
    room_bytes: int = 0
    written_bytes: int = 0
    free_bytes: int | None = None
    fetched_bytes: int = 0

    def keeps(self, pool_key: str, encoding_key: str) -> bool:
        """Tell whether one is read from the storage, and written there as far as it is missing."""
        stored = ((cost.pool_key, cost.encoding.key) for cost in self.costs if cost.is_stored)
        return self.is_kept or (self.may_be_kept and (pool_key, encoding_key) in stored)

    def missing_share(self, pool_key: str) -> float:
        """Return the share of the encoding of one pool that is still to be done."""
        shares = [1 - cost.n_stored / cost.n_texts for cost in self.costs if cost.pool_key == pool_key]
        return sum(shares) / len(shares) if shares else 1.0

    def sentences(self) -> list[str]:
        """Say of each encoding what it takes and where it will lie."""
        said = [self._sentence(cost) for cost in self.costs]
        if self.may_be_kept and not self.is_kept and self.costs:
            said.append(
                f"what is computed is not kept: writing it takes up to {size_text(self.written_bytes)}, and the disk "
                f"of {self.cache} has {size_text(self.free_bytes or 0)} free"
            )
        return said

    def check(self, records_bytes: int) -> None:
        """Refuse encodings that fit neither where they are read from nor on the disk.

        On a cluster only its nodes know how much that is, and Ray writes to their disks what does not fit.

        Args:
            records_bytes: that the storage takes beside them.

        Raises:
            ExecutionError: what is the largest, and what would be smaller.
        """
        in_room = [cost for cost in self.costs if cost.way in ("object store", "memory")]
        needed = sum(cost.n_bytes for cost in in_room)
        if needed > self.room_bytes:
            first = [] if self.may_be_kept else ["'cache: true', which reads them from disk"]
            raise ExecutionError(self._too_large(in_room, needed, self.room, self.room_bytes, first))
        if self.is_kept and self.free_bytes is not None and self.free_bytes < self.written_bytes + records_bytes:
            needed, where = self.written_bytes, f"the disk of {self.cache}"
            raise ExecutionError(
                self._too_large(self.costs, needed, where, self.free_bytes, last="choose another folder with --storage")
            )
        if self.fetched_bytes and (free := shutil.disk_usage(tempfile.gettempdir()).free) < self.fetched_bytes:
            on_disk, where = [cost for cost in self.costs if cost.way == "disk"], f"the disk of {tempfile.gettempdir()}"
            last = "let TMPDIR name a folder on a larger disk: what is in a bucket is fetched there"
            raise ExecutionError(self._too_large(on_disk, self.fetched_bytes, where, free, last=last))

    def _sentence(self, cost: EncodingCost) -> str:
        had, kept = "computed first", f", kept in {self.cache}" if self.is_kept else ""
        if cost.is_stored:
            had, kept = f"in {self.cache} already", ""
        elif cost.n_stored:
            had = f"{cost.n_stored:,} of {cost.n_texts:,} texts in the cache already"
        since = f", since {self.room} has {size_text(self.room_bytes)}" if self.room != MEMORY else ""
        or_disk = ", or from disk where that is too small" if self.is_kept else ""
        where = {
            "object store": "the object store",
            "disk": f"disk{since}",
            "cluster": f"the object store{or_disk}",
        }.get(cost.way, cost.way)
        return f"{cost.what} {cost.whose}, {size_text(cost.n_bytes)}: {had}{kept}, read from {where}"

    def _too_large(
        self,
        costs: Sequence[EncodingCost],
        needed: int,
        where: str,
        free: int,
        first: Sequence[str] = (),
        last: str = "join a Ray with a larger object store",
    ) -> str:
        largest = max(costs, key=attrgetter("n_bytes"))
        smaller = ["a smaller part of the data"]
        if isinstance(largest.encoding.output, int):
            halved = ["precision bf16, which halves it"] if largest.encoding.precision == "float32" else []
            smaller = [*halved, "fewer max_tokens", "'frozen_layers: all', which keeps one row a text"]
        return (
            f"{largest.what} {largest.whose} takes {size_text(largest.n_bytes)} of the {size_text(needed)} that this "
            f"study keeps, and {where} has {size_text(free)}. Use {', '.join([*first, *smaller])}, or fewer data sets "
            f"in a study; or {last}."
        )


def stored_places(
    plan: Plan, cells: Sequence[PlannedCell], storage: Folder, tables: "Mapping[str, pa.Table]"
) -> dict[str, dict[str, StoredEncoding]]:
    """Return where encodings of one pool lie in a storage: key of the encoding -> split -> place.

    Args:
        plan: has their data and models.
        cells: that read one pool.
        storage: the folder above the study.
        tables: split -> its texts in the order of their ids.
    """
    spec, encodings = cells[0].spec, encodings_read(cell.spec for cell in cells)
    dataset = plan.datasets[dataset_key(spec.dataset)]
    texts = {split: Texts(table["text"]) for split, table in tables.items()}
    return {
        key: {
            split: StoredEncoding.of(
                storage, encoding, column, spec.max_tokens, data=f"{dataset.name} ({split})", user=plan.study.name
            )
            for split, column in texts.items()
        }
        for key, encoding in encodings.items()
    }


def plan_encodings(plan: Plan, execution: "Execution", *, is_local: bool) -> EncodingPlan:
    """Find out what the rest of a study reads, as far as its data and models are here, and where it will lie.

    Args:
        plan: the checked study.
        execution: where it runs, and whether encodings are kept.
        is_local: whether it runs in this process, without Ray.

    Raises:
        StorageError: the storage cannot be read.
    """
    storage, costs = Folder.at(plan.store.storage), list[EncodingCost]()
    for cells in by_pool(cell for cell in plan.waiting() if cell.fingerprint is not None).values():
        costs += _costs(plan, cells, storage, may_be_kept=execution.cache)
    if not costs:
        return EncodingPlan()
    room, room_bytes = MEMORY, int(psutil.virtual_memory().available)
    if not is_local:
        room, room_bytes = "the object store of a private Ray on this machine", private_store_bytes()
    on_cluster = not is_local and (execution.address or os.environ.get("RAY_ADDRESS", "local")) != "local"
    written, free = DISK_COPIES * sum(cost.missing_bytes for cost in costs), storage.free_bytes()
    fits = on_cluster or sum(cost.n_bytes for cost in costs) <= room_bytes
    is_kept = execution.cache and not (fits and free is not None and free < written)
    placed, store_bytes = list[EncodingCost](), 0
    for cost in costs:
        way: Way = "cluster" if on_cluster else "object store"
        is_read = is_kept or (execution.cache and cost.is_stored)
        if is_local:
            way = "disk" if is_read and storage.is_local else "memory"
        elif not on_cluster and is_read and store_bytes + cost.n_bytes > STORE_SHARE * room_bytes:
            way = "disk"
        store_bytes += cost.n_bytes if way == "object store" else 0
        placed.append(replace(cost, way=way))
    return EncodingPlan(
        costs=tuple(placed),
        is_kept=is_kept,
        may_be_kept=execution.cache,
        cache=shown(below(plan.store.storage, CACHE)),
        room=room,
        room_bytes=room_bytes,
        written_bytes=written if execution.cache else 0,
        free_bytes=free,
        fetched_bytes=0 if storage.is_local else sum(cost.n_bytes for cost in placed if cost.way == "disk"),
    )


def _costs(plan: Plan, cells: Sequence[PlannedCell], storage: Folder, *, may_be_kept: bool) -> list[EncodingCost]:
    spec, costs = cells[0].spec, list[EncodingCost]()
    dataset, model = plan.datasets[dataset_key(spec.dataset)], plan.models[spec.model.name, spec.model.revision]
    encodings, places = encodings_read(cell.spec for cell in cells), dict[str, dict[str, StoredEncoding]]()
    if not encodings:
        return costs
    tables = texts_read(dataset, (cell.spec for cell in cells))
    if may_be_kept:
        places = stored_places(plan, cells, storage, tables)
    for key, encoding in encodings.items():
        stored = places.get(key, {}).values()
        costs.append(
            EncodingCost(
                pool_key=cells[0].pool_key,
                whose=f"of model {spec.model.name!r} for data set {dataset.name!r}",
                encoding=encoding,
                n_bytes=encoding_bytes(encoding, dataset, model, spec.max_tokens, plan.facts[model].n_features),
                n_texts=sum(table.num_rows for table in tables.values()),
                n_stored=sum(each.n_stored() for each in stored),
            )
        )
    return costs


def encoding_bytes(encoding: Encoding, dataset: TextDataset, model: ResolvedModel, max_tokens: int, width: int) -> int:
    """Estimate what an encoding of a data set takes: a row a text, or, of the output of a layer, a row a token.

    Args:
        encoding: of the texts.
        dataset: holds them.
        model: whose tokens are counted, on some of the texts.
        max_tokens: that texts are cut to.
        width: of the encoder's output.
    """
    n_rows, texts = len(dataset.train) + len(dataset.test), dataset.train.texts
    if not isinstance(encoding.output, int):
        return n_rows * width * 4
    sample = [texts[row] for row in range(0, len(texts), max(len(texts) // N_COUNTED, 1))]
    n_tokens = sum(len(row) for row in load_tokenizer(model, max_tokens).encode_batch_fast(sample)) / len(sample)
    return round(n_rows * n_tokens * width * (2 if encoding.precision == "bf16" else 4))
