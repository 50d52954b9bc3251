"""One local Ray for all tests that need one, and no test that is timed."""

import logging
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# Speed is measured in benchmarks; a deadline here, or a limit on making examples, would fail on a busy machine.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# Ray lets its workers give way to every other program (nice 15): beside two busy ones they would stand nearly still.
os.environ.setdefault("RAY_worker_niceness", "0")


@pytest.fixture(scope="session")
def private_ray() -> Iterator[None]:
    """Start a Ray of four logical CPUs, which lanes then use instead of starting their own."""
    import ray

    from al_ray.runtime.cluster.ray_internals import on_loopback
    from al_ray.runtime.cluster.session import quiet_ray

    with quiet_ray(), on_loopback():
        ray.init(
            address="local",
            num_cpus=4,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            object_store_memory=256 * 1024**2,
        )
    yield
    ray.shutdown()
