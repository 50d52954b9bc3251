"""Choose texts to label: ``python -m pipelines.choose_texts POOL --model FOLDER --n N --to FILE``."""

from al_ray.cli.app import run_alone
from al_ray.cli.choose import choose

if __name__ == "__main__":
    run_alone(choose)
