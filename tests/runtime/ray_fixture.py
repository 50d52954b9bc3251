"""One private Ray for all tests that need it, with four logical CPUs."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def private_ray() -> Iterator[None]:
    import ray

    from al_ray.runtime.session import quiet_ray

    if ray.is_initialized():
        yield
        return
    with quiet_ray():
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
