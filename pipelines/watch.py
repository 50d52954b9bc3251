"""Watch a study: ``python -m pipelines.watch STUDY``, the same as ``al-ray watch STUDY``."""

from al_ray.cli.app import run_alone
from al_ray.cli.watch import watch

if __name__ == "__main__":
    run_alone(watch)
