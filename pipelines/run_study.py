"""Run a study: ``python -m pipelines.run_study STUDY.yaml``, the same as ``al-ray run STUDY.yaml``."""

from al_ray.cli.app import run_alone
from al_ray.cli.run import run

if __name__ == "__main__":
    run_alone(run)
