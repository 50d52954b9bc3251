"""Active testing beside a random sample, on real data with known labels: bias, spread and intervals at equal labels.

A logistic regression on MiniLM's embeddings is fitted on 50, 200 or 800 labels; then each way draws 1,000 times so many
texts of a test pool of 1,000, and says what the error rate is.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from al_ray.core.intervals import wilson
from al_ray.core.logistic import logistic_regression
from al_ray.core.seeding import stream
from al_ray.core.types import Draws, Float64Array
from al_ray.core.uncertainty import log_softmax
from al_ray.data import resolve_dataset
from al_ray.errors import AlRayError
from al_ray.evaluation.active_testing import ActiveTesting
from al_ray.model.encoding import Encoding, encode_table
from al_ray.model.tokens import tokenize_table
from al_ray.runtime.pool import text_table
from benchmarks.inputs import MAX_TOKENS, minilm, trec6
from benchmarks.report import Report, SkipBenchmark, run_benchmark

N_DRAWS, N_TEST_POOL, SIZES, N_LABELS = 1000, 1000, (30, 100, 200), (50, 200, 800)
NOTHING = Draws(ids=np.empty(0, np.int64), proposals=np.empty(0))


def measure(report: Report) -> None:
    """Draw from the test pools of both data sets."""
    trec6()  # finds the folder of the data
    ratios = []
    for name, option in (("TREC-6", "trec6"), ("AG News", {"name": "ag_news", "keep_train": 8000})):
        features, labels = embedded(option)
        for n_labels in N_LABELS:
            draws = stream(0, "benchmark", name, n_labels)
            at = draws.permutation(len(labels))
            probs = predicted(features, labels, at[:n_labels], at[n_labels:])
            losses = (probs.argmax(axis=1) != labels[at[n_labels:]]).astype(np.float64)
            for size in SIZES:
                ratios.append(compare(report, f"{name}, {n_labels} labels, {size} answers", probs, losses, size, draws))
    report.add("LURE / random sample: spread, all", float(np.mean(ratios)), "x", at_most=1)


def compare(
    report: Report, what: str, probs: Float64Array, losses: Float64Array, size: int, draws: np.random.Generator
) -> float:
    """Draw 1,000 times in both ways; return LURE's spread as a share of the random sample's."""
    found: dict[str, list[float]] = {"lure": [], "plain": [], "random": []}
    held, held_by_wilson = [], []
    evaluation = ActiveTesting(n=size, test_pool=N_TEST_POOL)
    ids = np.arange(N_TEST_POOL)
    for _ in range(N_DRAWS):
        pool = draws.choice(len(losses), N_TEST_POOL, replace=False)
        truth = losses[pool].mean()
        drawn = evaluation.draw(ids, probs[pool], NOTHING, size, draws)
        estimate = evaluation.estimate(drawn, losses[pool][drawn.ids], N_TEST_POOL)
        assert estimate is not None
        sample = losses[pool][:size].mean()
        found["lure"].append(estimate.value - truth)
        found["plain"].append(losses[pool][drawn.ids].mean() - truth)
        found["random"].append(sample - truth)
        held.append(estimate.low <= losses.mean() <= estimate.high)
        low, high = wilson(sample, size)
        held_by_wilson.append(low <= losses.mean() <= high)
    errors = {name: np.array(values) for name, values in found.items()}
    z = errors["lure"].mean() / errors["lure"].std(ddof=1) * math.sqrt(N_DRAWS)
    ratio = float(errors["lure"].std() / errors["random"].std())
    note = (
        f"error {losses.mean():.3f}; LURE off by {errors['lure'].mean():+.4f} (z {z:+.1f}), plain mean "
        f"{errors['plain'].mean():+.3f}; intervals hold {np.mean(held):.3f}, random {np.mean(held_by_wilson):.3f}"
    )
    report.add(f"{what}: spread", ratio, "x random's", note=note)
    return ratio


def embedded(option: Any) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return MiniLM's embeddings of a training split, and its labels."""
    import torch

    try:
        split = resolve_dataset(option).train
    except AlRayError as error:
        raise SkipBenchmark(f"the data set {option} is not here: {error}") from None
    encoding = Encoding(model=minilm(), precision="float32", batch_size=64, output="mean")
    tokens = tokenize_table(text_table(split), minilm(), MAX_TOKENS)
    return encode_table(tokens, encoding.encoder(torch.device("cpu"))), split.labels[np.argsort(split.ids)]


def predicted(features: Any, labels: Any, fitted: Any, rest: Any) -> Float64Array:
    """Fit a logistic regression on some rows and return its probabilities for others."""
    weight, bias, _, _ = logistic_regression(features[fitted], labels[fitted], int(labels.max()) + 1, l2=0.1)
    probs: Float64Array = np.exp(log_softmax(features[rest] @ weight.T + bias))
    return probs


if __name__ == "__main__":
    run_benchmark("active_testing", "active testing beside a random sample", measure)
