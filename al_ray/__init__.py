"""al_ray: active-learning experiments on text, from one laptop cell to a grid on a Ray cluster."""

__version__ = "0.1.0"
