"""Report a study: ``python -m pipelines.report STUDY``, the same as ``al-ray report STUDY``."""

from al_ray.cli.app import run_alone
from al_ray.cli.report import report

if __name__ == "__main__":
    run_alone(report)
