"""CPUs, GPUs and memory that dead lanes still hold, given back.

What a Ray Train controller reserves for its workers outlives it when it is killed: Ray keeps a placement group that an
actor made until the whole job ends. Train's own cleaner needs Ray's dashboard, and where there is none it does nothing
and never ends. Without this, every killed controller takes its CPUs and 0.2 GiB along, and one day the next group of
workers waits for ever.
"""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

CLEANER = "PlacementGroupCleaner"
SWEEP_EVERY_S = 2.0
LOOK_TIMEOUT_S, LEAVING_TIMEOUT_S = 5.0, 20.0
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def sweeping() -> Iterator[None]:
    """Give back what dead lanes hold, again and again, and at the end wait a little for those that are just dying."""
    left = threading.Event()
    thread = threading.Thread(target=_sweep_for_ever, args=(left,), name="sweeping", daemon=True)
    thread.start()
    try:
        yield
    finally:
        left.set()
        thread.join(LOOK_TIMEOUT_S)
        deadline = time.monotonic() + LEAVING_TIMEOUT_S
        while _sweep() and time.monotonic() < deadline:
            time.sleep(0.1)


def _sweep_for_ever(left: threading.Event) -> None:
    while not left.wait(SWEEP_EVERY_S):
        _sweep()


def _sweep() -> int:
    """Remove the placement groups of dead actors of this job; return how many of living ones there are."""
    n_alive = 0
    try:
        for group in _groups_of_actors():
            if group.creator_actor_dead:
                _remove(group)
            else:
                n_alive += 1
        for pid in _orphaned_cleaners():
            os.kill(pid, signal.SIGTERM)
    except Exception:
        # Ray is ending, or busy beyond its own patience: what is not given back now is at the next look.
        _log.debug("no look at placement groups", exc_info=True)
    return n_alive


def _groups_of_actors() -> list[Any]:
    """Return the placement groups that actors of this job have made and that still hold something."""
    import ray
    from ray._private.state import state
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData

    job = ray.get_runtime_context().get_job_id()
    found = map(PlacementGroupTableData.FromString, state._connect_and_get_accessor().get_placement_group_table())
    return [
        group
        for group in found
        if group.creator_job_id.hex() == job
        and group.state != PlacementGroupTableData.REMOVED
        and group.creator_actor_id
        and not ray.ActorID(group.creator_actor_id).is_nil()
    ]


def _orphaned_cleaners() -> list[int]:
    """Return the processes of Train's cleaners here whose controllers are dead; Ray gives no handle of them."""
    import ray
    from ray._private.state import state
    from ray.core.generated.gcs_pb2 import ActorTableData

    context = ray.get_runtime_context()
    table = map(ActorTableData.FromString, state._connect_and_get_accessor().get_actor_table(None, None))
    alive = [
        actor for actor in table if actor.state == ActorTableData.ALIVE and actor.job_id.hex() == context.get_job_id()
    ]
    workers = {actor.address.worker_id for actor in alive}
    return [
        actor.pid
        for actor in alive
        if actor.class_name == CLEANER
        and actor.owner_address.worker_id not in workers
        and actor.address.node_id.hex() == context.get_node_id()
    ]


def _remove(group: Any) -> None:
    import ray
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
