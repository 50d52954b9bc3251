"""Trial side of a lane: a Tune actor that owns one warm worker group and feeds it cell after cell.

Tune reuses the actor (``reuse_actors``): the first trial starts the worker group, every later one only hands it its
cells: one that takes minutes, or many of a second.
"""

import functools
import os
import tempfile
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ray import tune
from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback

from al_ray.errors import one_line
from al_ray.runtime.cluster.ray_internals import TRAIN_ENVIRONMENT, cause_of_death, without_unused_actors
from al_ray.runtime.cluster.resources import LaneResources, process_group_backend
from al_ray.runtime.failures import Failure, RetryPolicy, kind_of
from al_ray.runtime.lane.channel import Channel
from al_ray.runtime.lane.exchange import ChannelClient, Exchange, ExchangeState
from al_ray.runtime.lane.sharing import SharingPlan
from al_ray.runtime.lane.worker import serve
from al_ray.runtime.tasks import CellTask

HEARTBEAT_S = 2.0
# A result costs Tune and the driver several milliseconds of CPU, so that those of quick cells go together.
GATHER_S = 0.5
CLOSING_TIMEOUT_S = 4.0


@dataclass(frozen=True)
class LanePlan:
    """What every lane of one resource class is given.

    Attributes:
        chunks: the cells of each trial; its configuration names them by their index.
        workers: size of the worker group.
        sharing: CPUs and GPUs of a worker, and how lanes share scorings.
        policy: what is tried again.
        functions: pickled ``(run_cell, warm_up)``.
        exchange: the grid's exchange.
    """

    chunks: Sequence[Sequence[CellTask]]
    workers: int
    sharing: SharingPlan
    policy: RetryPolicy
    functions: bytes
    exchange: Exchange


class LaneTrial(tune.Trainable):  # type: ignore[misc]
    """One lane. A step returns the events since the last one; the last event of its last cell ends the trial."""

    def setup(self, config: dict[str, Any], plan: LanePlan | None = None) -> None:
        """Open the channel, start the worker group and hand it its first cells.

        A lane that takes the place of a dead one leaves out the cells of which the driver saw the end.
        """
        assert plan is not None
        self._plan = plan
        self._channel = plan.exchange.open_channel(uuid.uuid4().hex, plan.policy)
        self._group = WorkerGroup(plan, self._channel, self.logdir)
        chunk = plan.chunks[config["chunk"]]
        left = frozenset(plan.exchange.call(ExchangeState.left_of, [cell.key for cell in chunk]))
        self._hand_out([cell for cell in chunk if cell.key in left])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Hand the next cells to the warm worker group."""
        self._hand_out(self._plan.chunks[new_config["chunk"]])
        return True

    def step(self) -> dict[str, Any]:
        """Return the next events; an empty list now and then, so that Tune can stop a lane in a long round."""
        update = self._channel.call(Channel.wait_for_update, HEARTBEAT_S, self._gather_s)
        if update.group_lost:
            self._group.close()
            self._group = WorkerGroup(self._plan, self._channel, self.logdir)
        return {"events": update.events, "done": update.is_idle}

    def cleanup(self) -> None:
        """Let the worker group leave and wait for it a little."""
        self._channel.call(Channel.close)
        self._group.close()

    def _hand_out(self, cells: Sequence[CellTask]) -> None:
        self._gather_s = GATHER_S if all(cell.is_quick for cell in cells) else 0.0
        self._channel.call(Channel.assign, cells)


class WorkerGroup:
    """A Ray Train worker group that serves the channel, watched by a thread of the trial's process."""

    def __init__(self, plan: LanePlan, channel: ChannelClient, folder: str) -> None:
        self._plan, self._channel = plan, channel
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
        self._channel.call(Channel.group_ended, failure)

    def _trainer(self) -> Any:
        os.environ.update(TRAIN_ENVIRONMENT)
        from ray.train.torch import TorchConfig, TorchTrainer

        resources = self._plan.sharing.resources
        return without_unused_actors(TorchTrainer)(
            functools.partial(serve, self._channel, self._plan.functions, self._plan.sharing),
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
