"""What dead lanes leave behind in Ray, taken away: CPUs and GPUs that they still hold, processes that never end.

What a Ray Train controller reserves for its workers outlives it when it is killed: Ray keeps a placement group that an
actor made until the whole job ends. Without this, every killed controller takes its CPUs and 0.2 GiB along, and one day
the next group of workers waits for ever.

An actor that leaves in order may hang in Ray's own last lines: it publishes to those who still listen to it through a
loop that it has destroyed just before (Ray 2.60, ``Publisher::~Publisher``, seen in controllers whose workers had
died). It has said good-bye by then, so that Ray forgets the process, and nothing ever ends it, not even Ray's own end.
"""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from al_ray import process

# What a lane starts, and the exchange. A program that runs a study in its own Ray job may have actors of its own.
LANE_ACTORS = ("ResourceTrainable", "TrainController", "RayTrainWorker", "SynchronizationActor", "ExchangeState")
SWEEP_EVERY_S = 2.0
HANGING_AFTER_S = 3.0
SILENT_AFTER_S = 20.0
SILENCE = (
    f"the head of Ray has not answered for {SILENT_AFTER_S:.0f} s. If it stays away for a minute, Ray gives it up. "
    "Every recorded round is kept."
)
LOOK_TIMEOUT_S, LEAVING_TIMEOUT_S = 5.0, 20.0
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def sweeping(say: Callable[[str], None]) -> Iterator[None]:
    """Sweep again and again, and at the end wait a little for actors that are just dying.

    Args:
        say: takes a sentence when Ray's head no longer answers, and one when it does again.
    """
    left, sweeper = threading.Event(), Sweeper()
    threads = [
        threading.Thread(target=sweeper.sweep_until, args=(left,), name="sweeping", daemon=True),
        threading.Thread(target=tell_of_silence, args=(sweeper, say, left), name="silence", daemon=True),
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        left.set()
        for thread in threads:
            thread.join(LOOK_TIMEOUT_S)
        deadline = time.monotonic() + LEAVING_TIMEOUT_S
        while sweeper.sweep() and time.monotonic() < deadline:
            time.sleep(0.1)


class Sweeper:
    """Looks at the lanes' actors and placement groups, and remembers the processes of those on this node."""

    def __init__(self) -> None:
        self._processes: dict[bytes, tuple[int, int]] = {}  # actor -> number and start of its process
        self._dead_since: dict[bytes, float] = {}
        self.answered = time.monotonic()

    def sweep_until(self, left: threading.Event) -> None:
        """Sweep every now and then until told to leave."""
        while not left.wait(SWEEP_EVERY_S):
            self.sweep()

    def sweep(self) -> int:
        """Take away what dead actors left; return for how many dying ones it is too early."""
        try:
            actors = [actor for actor in actors_of_this_job() if actor.class_name.rpartition(".")[2] in LANE_ACTORS]
            self.answered = time.monotonic()
            return self._free_groups(actors) + self._end_processes(actors)
        except Exception:
            # Ray is ending, or busy beyond its own patience: what is not taken away now is at the next look.
            _log.debug("no look at Ray's tables", exc_info=True)
            return 0

    def _free_groups(self, actors: list[Any]) -> int:
        """Remove the placement groups of dead actors; return how many of living ones there are."""
        # The actor itself is asked: a group may come into being as its maker dies, and not be marked as a dead one's.
        is_dead = {actor.actor_id: actor.state == actor.DEAD for actor in actors}
        groups = [group for group in _groups() if group.creator_actor_id in is_dead]
        for group in groups:
            if is_dead[group.creator_actor_id]:
                _remove(group)
        return sum(not is_dead[group.creator_actor_id] for group in groups)

    def _end_processes(self, actors: list[Any]) -> int:
        """End the processes of actors that are dead for a while; return how many there are of others that are dead."""
        import ray

        here, n_dying = ray.get_runtime_context().get_node_id(), 0
        for actor in actors:
            name, is_dead = actor.actor_id, actor.state == actor.DEAD
            if is_dead and name in self._processes:
                n_dying += self._bury(name)
            elif not is_dead and actor.pid and actor.address.node_id.hex() == here and name not in self._processes:
                # Noted while Ray says that it lives: a number alone may be another process's later.
                self._processes[name] = actor.pid, process.start_of(actor.pid)
        return n_dying

    def _bury(self, actor: bytes) -> bool:
        """End the process of a dead actor if it hangs; tell whether it is there and may still leave by itself."""
        pid, start = self._processes[actor]
        since = self._dead_since.setdefault(actor, time.monotonic())
        if process.life_of(pid, start) == "alive":
            if time.monotonic() - since < HANGING_AFTER_S:
                return True
            end(pid)
        del self._processes[actor], self._dead_since[actor]
        return False


def tell_of_silence(sweeper: Sweeper, say: Callable[[str], None], left: threading.Event) -> None:
    """Say when Ray's head stops answering the sweeper: after a minute Ray ends this process without a word."""
    was_silent = False
    while not left.wait(1.0):
        is_silent = time.monotonic() - sweeper.answered > SILENT_AFTER_S
        if is_silent != was_silent:
            say(SILENCE if is_silent else "the head of Ray answers again.")
        was_silent = is_silent


def end(pid: int) -> None:
    """End a process of this user at once."""
    with contextlib.suppress(OSError):  # it has just ended, or is another user's
        os.kill(pid, signal.SIGKILL)


def _groups() -> list[Any]:
    """Return the placement groups that still hold something."""
    from ray._private.state import state
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData

    found = map(PlacementGroupTableData.FromString, state._connect_and_get_accessor().get_placement_group_table())
    return [group for group in found if group.state != PlacementGroupTableData.REMOVED]


def actors_of_this_job() -> list[Any]:
    """Return the actors of this job, with those that are dead."""
    import ray
    from ray._private.state import state
    from ray.core.generated.gcs_pb2 import ActorTableData

    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
    return list(map(ActorTableData.FromString, state._connect_and_get_accessor().get_actor_table(job, None)))


def _remove(group: Any) -> None:
    import ray
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
