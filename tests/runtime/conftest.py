from tests.runtime.ray_fixture import private_ray

__all__ = ["private_ray"]
