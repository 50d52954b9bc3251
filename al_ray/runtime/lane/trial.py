"""Trial side of a lane: a Tune actor that owns one warm worker group and hands it cells as long as some are left.

A trial is a lane's whole life: it asks the exchange for its next cells itself, so that Tune has no more trials than
there are lanes, however many the cells.
"""

import functools
import os
import tempfile
import threading
from dataclasses import dataclass, replace
from typing import Any

from ray import tune
from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback

from al_ray.errors import one_line
from al_ray.runtime.cluster.ray_internals import TRAIN_ENVIRONMENT, cause_of_death, without_unused_actors
from al_ray.runtime.cluster.resources import LaneResources, process_group_backend
from al_ray.runtime.failures import Failure, RetryPolicy, kind_of
from al_ray.runtime.lane.channel import Channel
from al_ray.runtime.lane.exchange import ChannelClient, Exchange, ExchangeState, Lot
from al_ray.runtime.lane.sharing import SharingPlan
from al_ray.runtime.lane.worker import serve
from al_ray.runtime.tasks import LAST_EVENTS

HEARTBEAT_S = 2.0
# A result costs Tune and the driver several milliseconds of CPU, so that those of quick cells go together.
GATHER_S = 0.5
CLOSING_TIMEOUT_S = 4.0


@dataclass(frozen=True)
class LanePlan:
    """What every lane of one resource class is given.

    Attributes:
        workers: size of the worker group.
        sharing: CPUs and GPUs of a worker, and how lanes share scorings.
        policy: what is tried again.
        functions: pickled ``(run_cell, warm_up)``.
        exchange: the grid's exchange.
    """

    workers: int
    sharing: SharingPlan
    policy: RetryPolicy
    functions: bytes
    exchange: Exchange


class LaneTrial(tune.Trainable):  # type: ignore[misc]
    """One lane. A step returns the events since the last one; where no cell is left for the lane, the trial ends."""

    def setup(self, config: dict[str, Any], plan: LanePlan | None = None) -> None:
        """Open the channel and start the worker group.

        A lane that takes the place of a dead one goes on with its cells, but for those of which the driver saw the end.
        """
        assert plan is not None
        self._plan, self._number = plan, config["lane"]
        self._channel = plan.exchange.open_lane(self._number, plan.policy)
        self._group = WorkerGroup(plan, self._number, self._channel, self.logdir)
        self._lot: Lot | None = None
        self._ended: set[str] = set()

    def step(self) -> dict[str, Any]:
        """Return the next events; an empty list now and then, so that Tune can stop a lane in a long round."""
        if self._lot is None and self._has_none_left(HEARTBEAT_S):
            return {"events": (), "done": True}
        lot = self._lot
        gather_s = GATHER_S if lot is not None and lot.are_quick else 0.0
        update = self._channel.call(Channel.wait_for_update, HEARTBEAT_S if lot else 0.0, gather_s)
        if update.group_lost:
            self._group.close()
            self._group = WorkerGroup(self._plan, self._number, self._channel, self.logdir)
        self._ended |= {event.key for event in update.events if isinstance(event, LAST_EVENTS)}
        is_over = lot is not None and update.is_idle and self._is_over(lot)
        return {"events": update.events, "done": is_over}

    def cleanup(self) -> None:
        """Let the worker group leave and wait for it a little."""
        self._channel.call(Channel.close)
        self._group.close()

    def _is_over(self, lot: Lot) -> bool:
        """Ask for the next cells before the driver is told of the last ones, so that the workers need not wait."""
        if len(self._ended) < lot.n_cells:
            self._plan.exchange.call(ExchangeState.give_back, self._channel.lane, self._ended)
            return True
        return self._has_none_left(0.0)

    def _has_none_left(self, timeout_s: float) -> bool:
        self._lot, self._ended = self._plan.exchange.call(ExchangeState.deal, self._channel.lane, timeout_s), set()
        return self._lot is not None and self._lot.n_cells == 0


class WorkerGroup:
    """A Ray Train worker group that serves the channel, watched by a thread of the trial's process."""

    def __init__(self, plan: LanePlan, number: int, channel: ChannelClient, folder: str) -> None:
        self._plan, self._number, self._channel = plan, number, channel
        self._scratch = tempfile.mkdtemp(prefix="train_", dir=folder)
        self._thread = threading.Thread(target=self._fit, name="worker-group", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Wait for the group's end, for a few seconds at most."""
        self._thread.join(CLOSING_TIMEOUT_S)

    def _fit(self) -> None:
        failure = Failure("WorkersDied", "the worker group ended", kind="lost")
        try:
            self._trainer().fit()
        except Exception as error:
            failure = replace(Failure.of(error), kind="lost")
        self._plan.exchange.call(ExchangeState.end_group, self._channel.lane, failure)

    def _trainer(self) -> Any:
        os.environ.update(TRAIN_ENVIRONMENT)
        from ray.train.torch import TorchConfig, TorchTrainer

        resources = self._plan.sharing.resources
        return without_unused_actors(TorchTrainer)(
            functools.partial(serve, self._channel, self._number, self._plan.functions, self._plan.sharing),
            torch_config=TorchConfig(backend=process_group_backend(resources.gpus_per_worker)),
            scaling_config=scaling(self._plan.workers, resources),
            run_config=RunConfig(
                name="lane",
                storage_path=self._scratch,
                failure_config=FailureConfig(max_failures=self._plan.policy.restarts("workers")),
                callbacks=[LossListener(self._channel)],
            ),
        )


class LossListener(UserCallback):  # type: ignore[misc]
    """Notes what Ray knows of workers that died without a word; runs in the controller of the group."""

    def __init__(self, channel: ChannelClient) -> None:
        self._channel = channel

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Tell the channel why each rank is gone."""
        causes = {rank: cause_of_death(error) for rank, error in sorted(worker_exceptions.items())}
        words = "; ".join(f"rank {rank}: {one_line(cause)}" for rank, cause in causes.items())
        out_of_memory = any(kind_of(cause) == "memory" for cause in causes.values())
        failure = Failure("WorkersDied", words, kind="memory" if out_of_memory else "lost")
        self._channel.call(Channel.note_loss, failure)


def scaling(workers: int, resources: LaneResources) -> Any:
    """Return the Ray Train scaling of one lane: its workers hold all CPUs and GPUs, the trial none."""
    per_worker: dict[str, float] = {"CPU": resources.cpus_per_worker}
    if resources.gpus_per_worker > 0:
        per_worker["GPU"] = resources.gpus_per_worker
    return ScalingConfig(
        num_workers=workers,
        use_gpu="GPU" in per_worker,
        resources_per_worker=per_worker,
        accelerator_type=resources.accelerator_type,
    )
