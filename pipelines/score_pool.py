"""Score a pool: ``python -m pipelines.score_pool POOL --model FOLDER --to OUT``, the same as ``al-ray score``."""

from al_ray.cli.app import run_alone
from al_ray.cli.score import score

if __name__ == "__main__":
    run_alone(score)
