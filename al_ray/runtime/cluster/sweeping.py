"""Sweeper of what dead lanes leave behind in Ray: CPUs and GPUs that they still hold, processes that never end.

What a Ray Train controller reserves for its workers outlives it when it is killed: Ray keeps a placement group that an
actor made until the whole job ends (https://github.com/ray-project/ray/pull/58515). Without this, every killed
controller takes its CPUs and 0.2 GiB along, and one day the next group of workers waits for ever.

An actor that leaves in order may hang in Ray's own last lines: it publishes to those who still listen to it through a
loop that it has destroyed just before (Ray 2.60, ``Publisher::~Publisher``, seen in controllers whose workers had
died). It has said good-bye by then, so that Ray forgets the process, and nothing ever ends it, not even Ray's own end.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil

from al_ray.runtime.cluster.ray_internals import (
    LANE_ACTORS,
    actors_of_this_job,
    placement_groups,
    remove_placement_group,
)

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
def sweeping() -> Iterator[None]:
    """Sweep again and again, warn when Ray's head is silent, and at the end wait a little for actors just dying."""
    left, sweeper = threading.Event(), Sweeper()
    threads = [
        threading.Thread(target=sweeper.sweep_until, args=(left,), name="sweeping", daemon=True),
        threading.Thread(target=tell_of_silence, args=(sweeper, left), name="silence", daemon=True),
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
        self._processes: dict[bytes, psutil.Process] = {}
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
        groups = [group for group in placement_groups() if group.creator_actor_id in is_dead]
        for group in groups:
            if is_dead[group.creator_actor_id]:
                remove_placement_group(group)
                _log.info("gave back the CPUs and GPUs that a dead lane held")
        return sum(not is_dead[group.creator_actor_id] for group in groups)

    def _end_processes(self, actors: list[Any]) -> int:
        """End the processes of actors that are dead for a while; return how many there are of others that are dead."""
        import ray

        here, n_dying = ray.get_runtime_context().get_node_id(), 0
        for actor in actors:
            name, is_dead = actor.actor_id, actor.state == actor.DEAD
            if is_dead and name in self._processes:
                n_dying += self._kill_if_hung(name)
            elif not is_dead and actor.pid and actor.address.node_id.hex() == here and name not in self._processes:
                # Noted while Ray says that it lives: a number alone may be another process's later.
                with contextlib.suppress(psutil.NoSuchProcess):
                    self._processes[name] = psutil.Process(actor.pid)
        return n_dying

    def _kill_if_hung(self, actor: bytes) -> bool:
        """Kill the process of a dead actor if it hangs; tell whether it is there and may still leave by itself."""
        process = self._processes[actor]
        since = self._dead_since.setdefault(actor, time.monotonic())
        with contextlib.suppress(psutil.Error):  # it has just ended, or is another user's
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                if time.monotonic() - since < HANGING_AFTER_S:
                    return True
                _log.info("killing process %d, which hangs since its actor ended", process.pid)
                process.kill()
        del self._processes[actor], self._dead_since[actor]
        return False


def tell_of_silence(sweeper: Sweeper, left: threading.Event) -> None:
    """Warn when Ray's head stops answering the sweeper: after a minute Ray ends this process without a word."""
    was_silent = False
    while not left.wait(1.0):
        is_silent = time.monotonic() - sweeper.answered > SILENT_AFTER_S
        if is_silent != was_silent:
            _log.warning(SILENCE if is_silent else "the head of Ray answers again.")
        was_silent = is_silent
