"""``python -m al_ray``: the same as ``al-ray``."""

from al_ray.cli.app import app

app()
