"""What ImitAL's policy learned: mean accuracy on synthetic pools that it was not trained on, beside other strategies.

``python -m benchmarks.imital``. Every strategy queries 25 examples eight times in each of 40 pools; a figure is the
mean test accuracy after the eight queries, over all pools, and the paired difference to random queries with its
standard error.
"""

import numpy as np

from al_ray.core.types import Float64Array
from al_ray.model.imital import learning_curve, make_pool, pool_seed
from al_ray.strategy import strategies
from benchmarks.report import Report, run_benchmark

N_POOLS = 40
NAMES = ("random", "margin", "badge", "core_set", "imital")
SEED = 99


def mean_accuracies(n_pools: int) -> dict[str, Float64Array]:
    """Return the mean accuracy of every strategy on each pool ``[n_pools]``."""
    pools = [make_pool(pool_seed(SEED, 1000 + number)) for number in range(n_pools)]
    return {
        name: np.array([np.mean(learning_curve(pool, strategies.build(name), i)[1:]) for i, pool in enumerate(pools)])
        for name in NAMES
    }


def measure(report: Report) -> None:
    """Let every strategy query all pools; the policy has to beat random queries by two standard errors."""
    found = mean_accuracies(N_POOLS)
    for name, means in found.items():
        gains = 100 * (means - found["random"])
        error = gains.std(ddof=1) / np.sqrt(N_POOLS)
        note = f"{gains.mean():+.1f} ± {error:.1f} points to random, better on {(gains > 0).sum()} of {N_POOLS} pools"
        report.add(f"{name}: mean accuracy", float(means.mean()), "", note=note)
    gains = found["imital"] - found["random"]
    report.add(
        "imital above random",
        float(100 * gains.mean()),
        "points",
        at_least=float(200 * gains.std(ddof=1) / np.sqrt(N_POOLS)),
        note="the target is two standard errors",
    )
    report.details = {name: means.tolist() for name, means in found.items()}


if __name__ == "__main__":
    run_benchmark("imital", "what the policy of imital learned", measure)
