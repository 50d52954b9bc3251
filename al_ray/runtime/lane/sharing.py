"""Sharing of a lane's scorings with the cluster: a Ray Data pipeline of actors takes batches beside the lane's workers.

The rows of the pipeline are tickets. For each one an actor asks the lane's dispenser for a share of batches, and waits
where there is none: so one execution, whose processes are warm, serves all rounds of a lane. Nobody is ever waited for:
what is still out when the workers of the lane have nothing left to do, rank 0 computes itself, batch by batch, until it
arrives. A process that comes late, is slow or dies costs no more than its own share.
"""

import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from al_ray.errors import one_line
from al_ray.model.worker import Worker, bound_memory, free_memory, set_threads
from al_ray.runtime.cluster.ray_internals import end_execution
from al_ray.runtime.cluster.resources import LaneResources
from al_ray.runtime.cluster.session import node_sizes
from al_ray.runtime.failures import ExchangeLostError
from al_ray.runtime.lane.dispenser import Dismissed, Dispenser, Share
from al_ray.runtime.lane.exchange import Exchange, ExchangeState
from al_ray.runtime.pool import CellPool, data_errors

if TYPE_CHECKING:
    from al_ray.model.encoder import Network
    from al_ray.model.predict import Batches, NetworkRecipe, Part, ScoringJob
    from al_ray.model.tokens import TokenizedSplit

# Seconds of work that a lane must have left, alone, for processes to be started; and for those that are there already.
START_PAYS_S, SHARING_PAYS_S = 15.0, 1.0
# Fewer batches a worker than these are over before anything is known of them.
FEWEST_BATCHES = 16
# Of one execution, each about three milliseconds at its start; and how many of them a scoring may take.
TICKETS_AN_ACTOR, LEAST_TICKETS, MOST_TICKETS = 200, 400, 4000
TICKETS_A_SCORING = 32
# A trial waits four seconds for its workers' end. Ray ends no execution before its first result: it is tried often.
CLOSING_TIMEOUT_S, END_EVERY_S = 2.5, 0.1
# How long a call for a share waits: one of a process that is dead may take a share for nobody.
ASK_EVERY_S = 10.0
# What a scoring may be asked for, a cell of bytes each in what an actor returns.
COLUMNS = ("logits", "features", "logits_without_dropout")
BYTES = pa.large_binary()


@dataclass(frozen=True, kw_only=True)
class SharingPlan:
    """What every lane of a grid knows of sharing.

    Attributes:
        resources: of a worker, and the ``scoring`` asked for.
        kept_cpus: CPUs of each node that are neither for lanes nor for this.
    """

    resources: LaneResources
    kept_cpus: float


@dataclass(frozen=True)
class Room:
    """What is free for a lane beside all of them.

    Attributes:
        n_slots: workers that the nodes hold, those of lanes included.
        n_reserved: workers that the lanes have or will need.
        n_lanes: lanes among whom the rest is divided.
        lane: number of this one.
        is_preparing: pools are still tokenised or encoded, which needs what the lanes leave.
    """

    n_slots: int
    n_reserved: int
    n_lanes: int
    lane: int
    is_preparing: bool = False

    @property
    def n_actors(self) -> int:
        """Processes that this lane may have: those of all lanes are no more than are free."""
        idle = self.n_slots - self.n_reserved
        if self.is_preparing or idle <= 0 or self.n_lanes <= 0:
            return 0
        return idle // self.n_lanes + (self.lane < idle % self.n_lanes)


def pays(mode: Literal["lane", "cluster", "auto"], alone_s: float | None, *, is_open: bool) -> bool:
    """Decide whether processes beside a lane take part in a scoring from now on, where there is room for them.

    Args:
        mode: what was asked for.
        alone_s: seconds that the lane would still take alone, as measured; None: not measured yet.
        is_open: whether the processes are there.
    """
    if mode != "auto":
        return mode == "cluster"
    return alone_s is not None and alone_s >= (SHARING_PAYS_S if is_open else START_PAYS_S)


class SharedScoring:
    """One rank's side of its lane's sharing; what a cell knows as :class:`al_ray.model.predict.Helpers`.

    Rank 0 decides, drives the pipeline and takes in what it computed.

    Args:
        plan: of the grid.
        lane: number of the lane.
        exchange: of the grid.
        worker: this rank.
    """

    def __init__(self, plan: SharingPlan, lane: int, exchange: Exchange, worker: Worker) -> None:
        self._plan, self._lane, self._exchange, self._worker = plan, lane, exchange, worker
        self._mode = plan.resources.scoring
        self._name: str = worker.broadcast(uuid.uuid4().hex if worker.rank == 0 else "")
        self._scoring = self._next_ticket = 0
        self._pipeline: Pipeline | None = None
        self.begin_cell("", lambda words: None)
        if worker.rank == 0:
            exchange.call(ExchangeState.open_dispenser, self._name)

    def begin_cell(self, pool_key: str, say: Callable[[str], None]) -> None:
        """Forget what was found out for the last cell.

        Args:
            pool_key: the pool of the next one.
            say: takes sentences about its scorings, for the log.
        """
        self._pool_key, self._say = pool_key, say
        self._paces: dict[tuple[Any, ...], float] = {}  # seconds for a unit of cost, by what is computed
        self._has_failed = self._has_said = False

    def close(self) -> None:
        """End the processes beside the lane, for good."""
        self._end_pipeline()
        if self._worker.rank == 0:
            with contextlib.suppress(ExchangeLostError):
                self._exchange.call(ExchangeState.close_dispenser, self._name)

    def prepare(self) -> None:
        """Start the processes where they are asked for anyhow, so that they are warm when there is something to do."""
        if self._worker.rank == 0 and self._mode == "cluster":
            self._ready_pipeline(self._room())

    def score(self, batches: "Batches", make_job: "Callable[[], ScoringJob]") -> "list[Part] | None":
        """Compute batches together with all that helps; see :class:`al_ray.model.predict.Helpers`."""
        rank, world = self._worker.rank, self._worker.world
        scoring = self._worker.broadcast(self._begin(batches) if rank == 0 else None)
        if scoring is None:
            return None
        self._scoring = scoring
        by_cost = dearest_first(batches)
        left = np.append(np.cumsum(batches.costs[by_cost][::-1])[::-1], 0.0)
        what = tuple(batches.widths.items())
        parts: list[Part] = []
        own_cost, is_offered, began = 0.0, False, time.monotonic()
        try:
            share: Share | None = Share(scoring, 0, 0)
            while share is not None:
                if rank == 0 and not is_offered:
                    pace = self._paces.get(what)
                    alone_s = None if pace is None else pace * left[share.end] / world
                    is_offered = self._offer(scoring, alone_s, make_job)
                share = self._dispenser(Dispenser.take, scoring, f"rank {rank}")
                if share is not None:
                    numbers = by_cost[share.first : share.end].tolist()
                    parts.append((numbers, batches.compute(numbers)))
                    own_cost += left[share.first] - left[share.end]
                    self._paces[what] = (time.monotonic() - began) / own_cost
            if is_offered:
                parts += self._take_in(scoring, by_cost, batches, began)
            elif rank == 0:
                self._say_once(
                    f"its pool is scored by its lane alone, in {time.monotonic() - began:.1f} s: processes "
                    f"beside it are started where more than {START_PAYS_S:.0f} s are left (scoring: {self._mode})"
                )
        finally:
            if rank == 0:
                self._dispenser(Dispenser.end, scoring)
        return parts

    def _begin(self, batches: "Batches") -> int | None:
        """Lay the batches of a scoring out, where anybody might help; return its number, or None."""
        pace, world = self._paces.get(tuple(batches.widths.items())), self._worker.world
        alone_s = None if pace is None else pace * batches.costs.sum() / world
        is_short = len(batches.costs) < FEWEST_BATCHES * world if alone_s is None else alone_s < SHARING_PAYS_S
        if self._has_failed or len(batches.costs) <= world or (self._mode == "auto" and is_short):
            return None
        room = self._room()
        if room.n_actors == 0:
            self._end_pipeline()
            why = "pools are still prepared" if room.is_preparing else "nothing is free beside the lanes"
            self._say_once(f"its pool is scored by its lane alone: {why}")
            return None
        scoring = self._scoring + 1
        self._dispenser(Dispenser.begin, scoring, batches.costs[dearest_first(batches)].tolist(), world)
        return scoring

    def _offer(self, scoring: int, alone_s: float | None, make_job: "Callable[[], ScoringJob]") -> bool:
        """Let processes beside the lane take part in a scoring, where that pays; tell whether it did."""
        import ray

        if not pays(self._mode, alone_s, is_open=self._pipeline is not None):
            return False
        room = self._room()
        if not self._ready_pipeline(room, alone_s):
            return False
        ref = ray.put((self._pool_key, make_job()))
        # In a list, or Ray would hand over the value in the place of the reference.
        self._dispenser(Dispenser.open, scoring, [ref], room.n_actors)
        return True

    def _room(self) -> Room:
        resources = self._plan.resources
        n_slots = sum(node.slots(resources) for node in node_sizes(self._plan.kept_cpus))
        n_reserved, is_preparing = self._exchange.call(ExchangeState.reserved)
        return Room(n_slots, n_reserved, n_reserved // self._worker.world, self._lane, is_preparing)

    def _ready_pipeline(self, room: Room, alone_s: float | None = None) -> bool:
        """Make sure that there is a pipeline that fits the room, if there is any; tell whether there is."""
        pipeline = self._pipeline
        if pipeline is not None and pipeline.failure is not None:
            self._say(f"the processes beside its lane failed, which goes on alone: {pipeline.failure}")
            self._has_failed = True
        if pipeline is not None and (pipeline.failure is not None or not pipeline.serves(room)):
            self._end_pipeline()
        if self._has_failed or room.n_actors == 0:
            return False
        if self._pipeline is None:
            left = "" if alone_s is None else f"; the lane alone would take {alone_s:.0f} s more for this scoring"
            lanes = f"{room.n_slots} workers fit on the nodes, and lanes have {room.n_reserved} of them"
            count = f"{room.n_actors} process{'' if room.n_actors == 1 else 'es'}"
            self._say(f"its pool is scored with {count} beside its lane (scoring: {self._mode}): {lanes}{left}")
            n_tickets = min(max(TICKETS_AN_ACTOR * room.n_actors, LEAST_TICKETS), MOST_TICKETS)
            tickets = range(self._next_ticket, self._next_ticket + n_tickets)
            self._next_ticket = tickets.stop
            self._pipeline = Pipeline(self._plan.resources, room, self._exchange, self._name, tickets)
        return True

    def _end_pipeline(self) -> None:
        if self._pipeline is not None:
            self._pipeline.close()
            self._pipeline = None

    def _take_in(self, scoring: int, by_cost: Any, batches: "Batches", began: float) -> "list[Part]":
        """Take in what was computed beside the lane, and compute here what has not arrived, the newest share first."""
        assert self._pipeline is not None
        pipeline: Pipeline = self._pipeline
        parts: list[Part] = []
        n_here = n_beside = 0
        given = self._dispenser(Dispenser.given_beside, scoring)
        for share in sorted(given, key=lambda share: share.first, reverse=True):
            numbers = by_cost[share.first : share.end].tolist()
            computed: list[Part] = []
            while (arrived := pipeline.arrived(share)) is None and len(computed) < len(numbers):
                numbers_now = numbers[len(computed) : len(computed) + 1]
                computed.append((numbers_now, batches.compute(numbers_now)))
            n_here += len(computed)
            if arrived is None:
                parts += computed
            else:
                n_beside += len(numbers)
                parts.append(
                    (numbers, {name: arrived[name].reshape(-1, width) for name, width in batches.widths.items()})
                )
        self._say(
            f"{n_beside:,} of {len(by_cost):,} batches were scored beside its lane, on {pipeline.n_nodes(scoring)} "
            f"nodes, in {time.monotonic() - began:.1f} s; {n_here:,} that were late were scored in the lane"
        )
        pipeline.forget(scoring)
        return parts

    def _say_once(self, sentence: str) -> None:
        """Say why a lane scores alone, once a cell."""
        if not self._has_said:
            self._has_said = True
            self._say(sentence)

    def _dispenser(self, method: Callable[..., Any], *args: Any) -> Any:
        return self._exchange.call(ExchangeState.on_dispenser, self._name, method, *args)


def dearest_first(batches: "Batches") -> Any:
    """Return the numbers of batches by their cost, falling; shares are cut from this order ``[n_batches]``."""
    return np.argsort(-batches.costs, kind="stable")


class Pipeline:
    """One execution of Ray Data, followed by a thread of rank 0's process.

    Args:
        resources: of an actor.
        room: that there is for it.
        exchange: of the grid.
        name: of the lane's dispenser.
        tickets: the numbers of its tickets, which no other pipeline has.

    Attributes:
        failure: why it ended before its time, in a sentence.
    """

    def __init__(self, resources: LaneResources, room: Room, exchange: Exchange, name: str, tickets: range) -> None:
        self._resources, self._room = resources, room
        self._exchange, self._name, self._tickets = exchange, name, tickets
        self.failure: str | None = None
        self._n_used = 0
        self._arrived: dict[tuple[int, int], Mapping[str, npt.NDArray[np.float32]]] = {}
        self._nodes: dict[int, set[str]] = {}
        self._dataset: Any = None
        self._is_closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._follow, name="shared-scoring", daemon=True)
        self._thread.start()

    def serves(self, room: Room) -> bool:
        """Tell whether it is of the right size and has enough tickets left."""
        n_actors = self._room.n_actors
        grows = self._room.n_lanes == 1 and room.n_actors > n_actors  # by itself, see below
        fits = room.n_reserved == self._room.n_reserved and (grows or room.n_actors == n_actors)
        few = min(TICKETS_A_SCORING * n_actors, len(self._tickets) // 4)
        return fits and len(self._tickets) - self._n_used >= few

    def arrived(self, share: Share) -> Mapping[str, npt.NDArray[np.float32]] | None:
        """Return what was computed of a share, once it is here: name -> values of all its rows, flat."""
        with self._lock:
            return self._arrived.get((share.scoring, share.first))

    def n_nodes(self, scoring: int) -> int:
        """Return on how many nodes shares of a scoring were computed that are here."""
        with self._lock:
            return len(self._nodes.get(scoring, ()))

    def forget(self, scoring: int) -> None:
        """Let go what belongs to a scoring that is over, and what comes later of it."""
        with self._lock:
            self._arrived = {key: columns for key, columns in self._arrived.items() if key[0] > scoring}
            self._nodes = {number: nodes for number, nodes in self._nodes.items() if number > scoring}

    def close(self) -> None:
        """End the execution and its actors, whatever they do; one that takes longer to end is not waited for."""
        with self._lock:
            self._is_closed = True
        # Ray cannot end an execution that had no result yet: those who wait for a share return an empty one now.
        with contextlib.suppress(ExchangeLostError):
            self._exchange.call(ExchangeState.on_dispenser, self._name, Dispenser.dismiss, self._tickets.stop)
        threading.Thread(target=self._end, name="shared-scoring-end", daemon=True).start()
        self._thread.join(CLOSING_TIMEOUT_S)

    def _end(self) -> None:
        while self._thread.is_alive():
            if self._dataset is not None:
                end_execution(self._dataset)
            self._thread.join(END_EVERY_S)

    def _follow(self) -> None:
        try:
            dataset = self._computed()
            with self._lock:
                if self._is_closed:
                    return
                self._dataset = dataset
            with data_errors("batches cannot be computed there"):
                for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                    self._take(table)
        except Exception as error:  # it is told at the next scoring; the lane does not need this
            self.failure = one_line(error)

    def _computed(self) -> Any:
        import ray
        import ray.data

        resources, n_actors = self._resources, self._room.n_actors
        dataset = ray.data.from_arrow([pa.table({"ticket": [ticket]}) for ticket in self._tickets])
        context = dataset.context
        context.enable_progress_bars = False
        context.execution_no_progress_timeout_s = -1  # between two scorings actors wait, for hours where fits are long
        total = ray.cluster_resources()
        kept = {
            name.lower(): max(total.get(name, 0.0) - n_actors * each, 0.0)
            for name, each in (("CPU", resources.cpus_per_worker), ("GPU", resources.gpus_per_worker))
        }
        with contextlib.suppress(DeprecationWarning):
            context.execution_options.exclude_resources = ray.data.ExecutionResources(**kept)
        return dataset.map_batches(
            ScoringActor,
            fn_constructor_args=(self._exchange, self._name, resources.cpus_per_worker, resources.gpus_per_worker),
            batch_format="pyarrow",
            batch_size=None,
            # Of a single lane more than there is room for today: nodes that come later are used, and no others, by what
            # is kept above. Several lanes would all ask for the same ones, and for what a lane that restarts lets go.
            compute=ray.data.ActorPoolStrategy(
                min_size=n_actors, max_size=None if self._room.n_lanes == 1 else n_actors
            ),
            num_cpus=resources.cpus_per_worker,
            num_gpus=resources.gpus_per_worker,
            **({} if resources.accelerator_type is None else {"accelerator_type": resources.accelerator_type}),
        )

    def _take(self, table: pa.Table) -> None:
        """Keep what an actor computed for a ticket: a copy, or features of a large pool would fill the object store."""
        for row in range(table.num_rows):
            scoring, first, node = (table[name][row].as_py() for name in ("scoring", "first", "node"))
            buffers = {name: table[name][row].as_buffer() for name in COLUMNS if table[name][row].is_valid}
            with self._lock:
                self._n_used += 1
                self._arrived[scoring, first] = {
                    name: np.frombuffer(buffer, np.float32).copy() for name, buffer in buffers.items()
                }
                self._nodes.setdefault(scoring, set()).add(node)


class ScoringActor:
    """One process of a Ray Data pool, which computes a share of batches for each ticket.

    Args:
        exchange: of the grid, which has the pools and the dispenser.
        name: of the dispenser.
        threads: CPU threads to compute with, as many as a worker of a lane has.
        gpus: GPUs of it, likewise.
    """

    def __init__(self, exchange: Exchange, name: str, threads: int, gpus: float) -> None:
        set_threads(threads)
        import ray
        import torch

        from al_ray.model import import_model_code

        import_model_code()
        self._device = torch.device("cuda" if gpus > 0 else "cpu")
        if 0 < gpus < 1:
            bound_memory(gpus, self._device)
        self._exchange, self._name = exchange, name
        context = ray.get_runtime_context()
        self._node, self._actor = context.get_node_id(), context.get_actor_id()
        self._pool: tuple[str, CellPool] | None = None
        self._network: tuple[NetworkRecipe, Network] | None = None
        self._scoring: tuple[int, Batches, Any] | None = None

    def __call__(self, tickets: pa.Table) -> pa.Table:
        """Wait for a share and compute it; the table returned has no row where the lane needs none any more."""
        [ticket] = tickets["ticket"].to_pylist()
        share: Share | Dismissed | None = None
        while share is None:
            share = self._exchange.call(
                ExchangeState.on_dispenser, self._name, Dispenser.take_beside, ticket, self._actor, ASK_EVERY_S
            )
        found = {"scoring": pa.int64(), "first": pa.int64(), "node": pa.string(), **dict.fromkeys(COLUMNS, BYTES)}
        schema = pa.schema(list(found.items()))
        if isinstance(share, Dismissed):
            return schema.empty_table()
        batches, by_cost = self._batches(share)
        columns = batches.compute(by_cost[share.first : share.end].tolist())
        place = {"scoring": [share.scoring], "first": [share.first], "node": [self._node]}
        return pa.table({**place, **{name: _one_cell(columns.get(name)) for name in COLUMNS}}, schema=schema)

    def _batches(self, share: Share) -> "tuple[Batches, Any]":
        """Return the batches of a scoring and their order; its weights are loaded once."""
        import ray

        if self._scoring is None or self._scoring[0] != share.scoring:
            self._scoring = None
            free_memory(self._device)
            pool_key, job = ray.get(share.ref[0])
            job = replace(job, rows=job.rows.copy())  # a view would keep the weights in the object store, too
            network, texts = self._network_of(job), self._texts_of(pool_key, job)
            job.load_into(network)
            batches = job.batches(network, texts, self._device)
            self._scoring = share.scoring, batches, dearest_first(batches)
        return self._scoring[1:]

    def _network_of(self, job: "ScoringJob") -> "Network":
        if self._network is None or self._network[0] != job.network:
            self._network = None
            self._network = job.network, job.network.build(self._device)
        return self._network[1]

    def _texts_of(self, pool_key: str, job: "ScoringJob") -> "TokenizedSplit":
        from al_ray.model.tokens import TokenizedSplit

        if self._pool is None or self._pool[0] != pool_key:
            self._pool = None
            self._pool = pool_key, self._exchange.fetch_pool(pool_key)
        pool = self._pool[1]
        texts = TokenizedSplit.from_table(pool.tables[job.split])
        return texts if job.hidden is None else replace(texts, hidden=pool.encoded(job.hidden)[job.split])


def _one_cell(values: npt.NDArray[np.float32] | None) -> pa.Array:
    """Return an Arrow array of one cell with the bytes of some values, not copied; of None it is empty."""
    if values is None:
        return pa.nulls(1, BYTES)
    ends = pa.py_buffer(np.array([0, values.nbytes], np.int64))
    return pa.Array.from_buffers(BYTES, 1, [None, ends, pa.py_buffer(np.ascontiguousarray(values))])
