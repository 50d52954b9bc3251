"""``python -m pipelines``: the same as ``al-ray``."""

from pipelines.cli import app

app()
