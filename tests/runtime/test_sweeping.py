"""What dead actors leave behind is taken away, and nothing else; a head that is silent is told of."""

import gc
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from al_ray.runtime.cluster import ray_internals, sweeping
from al_ray.runtime.cluster.sweeping import Sweeper
from tests.processes import is_alive
from tests.runtime.made import sentences
from tests.waiting import wait_until

on_ray = pytest.mark.usefixtures("private_ray")


def test_a_silent_head_is_told_of_once_and_so_is_its_return(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "SILENT_AFTER_S", 0.0)
    left, sweeper = threading.Event(), Sweeper()
    n_said = 0

    def listen(sentence: str) -> None:
        nonlocal n_said
        n_said += 1
        sweeper.answered = time.monotonic() + 3600
        if n_said == 2:
            left.set()

    with sentences(listen) as said:
        sweeping.tell_of_silence(sweeper, left)
    assert said == [sweeping.SILENCE, "the head of Ray answers again."]
    assert "has not answered for 20 s" in sweeping.SILENCE


class Sitter:
    """An actor of somebody else in the same job."""

    def pid(self) -> int:
        return os.getpid()

    def hold_a_cpu(self) -> None:
        import ray

        self.group = ray.util.placement_group([{"CPU": 1}])
        ray.get(self.group.ready())


class TrainController(Sitter):
    """Called like Ray Train's: only what lanes start is swept."""


def start(kind: type) -> Any:
    import ray

    return ray.remote(num_cpus=0)(kind).remote()


def free_cpus() -> float:
    import ray

    return float(ray.available_resources().get("CPU", 0))


@pytest.fixture
def calm() -> Iterator[Any]:
    import ray

    actor = start(TrainController)
    yield actor
    ray.kill(actor)


@pytest.mark.ray
@on_ray
def test_a_process_that_hangs_after_the_end_of_its_actor_is_ended(calm: Any) -> None:
    import ray

    actors, sweeper = [start(TrainController), start(Sitter)], Sweeper()
    hanging, foreign, living = (psutil.Process(ray.get(actor.pid.remote())) for actor in (*actors, calm))
    assert sweeper.sweep() == 0
    # Ray calls an actor without handles dead at once, and waits half a minute for a process that does not answer.
    hanging.suspend()
    foreign.suspend()
    actors.clear()
    early = []

    def sweep_away() -> bool:
        early.append(sweeper.sweep())
        return not is_alive(hanging)

    wait_until(sweep_away, "the hanging process is ended")
    assert max(early) == 1, "it was not given time to leave by itself"
    assert sweeper.sweep() == 0
    assert is_alive(foreign)
    foreign.resume()
    assert ray.get(calm.pid.remote()) == living.pid


@pytest.mark.ray
@on_ray
def test_an_actor_that_leaves_by_itself_is_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    ended: list[int] = []
    monkeypatch.setattr(psutil.Process, "kill", lambda process: ended.append(process.pid))
    monkeypatch.setattr(sweeping, "HANGING_AFTER_S", 3600.0)  # a slow machine takes its time to leave
    actor, sweeper = start(TrainController), Sweeper()
    leaving = psutil.Process(ray.get(actor.pid.remote()))
    sweeper.sweep()
    del actor
    wait_until(lambda: sweeper.sweep() >= 0 and not is_alive(leaving), "the actor has left")
    assert sweeper.sweep() == 0
    assert not ended


@pytest.mark.ray
@on_ray
def test_what_a_killed_lane_held_is_given_back_and_what_others_hold_is_not(calm: Any) -> None:
    import ray

    n_cpus = ray.cluster_resources()["CPU"]
    wait_until(lambda: gc.collect() >= 0 and free_cpus() == n_cpus, "what earlier tests held is free")
    killed, foreign, sweeper = start(TrainController), start(Sitter), Sweeper()
    ray.get([actor.hold_a_cpu.remote() for actor in (killed, foreign, calm)])
    assert sweeper.sweep() == 2
    ray.kill(killed)
    ray.kill(foreign)
    wait_until(lambda: sweeper.sweep() == 1, "one lane is left")
    wait_until(lambda: free_cpus() == n_cpus - 2, "CPUs are given back")
    ray.kill(calm)
    wait_until(lambda: sweeper.sweep() == 0, "no lane is left")
    wait_until(lambda: free_cpus() == n_cpus - 1, "CPUs are given back")
    for group in ray_internals.placement_groups():
        ray_internals.remove_placement_group(group)
    wait_until(lambda: free_cpus() == n_cpus, "CPUs are given back")
