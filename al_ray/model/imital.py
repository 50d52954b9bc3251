"""Training of ImitAL's policy: synthetic pools, the expert who knows all labels, and the ranking network.

The order of things: :func:`make_pool` draws a pool, :func:`demonstrate` plays active learning on it and asks the expert
what every candidate of some lists would gain, :func:`fit_policy` fits a network to rank the lists as the expert does,
:func:`train` does all of it and gives the bytes of a weights file. :func:`learning_curve` runs any query strategy on a
synthetic pool, to see what was learned.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Annotated

import numpy as np
import torch
from safetensors.torch import save
from torch import nn
from torch.nn import functional

from al_ray.core.logistic import logistic_regression
from al_ray.core.ranking import rank
from al_ray.core.seeding import stream, stream_seed
from al_ray.core.types import Float32Array, Float64Array, IntArray, LabeledSet, PoolView
from al_ray.core.uncertainty import log_softmax
from al_ray.model.encoder import fork_random
from al_ray.registry import Within, check_options
from al_ray.strategy import QueryStrategy
from al_ray.strategy.imital import FORMAT, INPUTS, METADATA, Encoding

QUERY_SIZE = 25
N_TEST = 1000
LEARNABLE = (0.6, 0.99)
BATCH_LISTS = 64
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 1e-3
VERSION = 1  # of pools, expert and fit: the same settings give the same weights


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """What a policy is trained on; the same settings give the same weights on the same machine.

    Attributes:
        n_pools: synthetic pools.
        seed: of everything that is drawn.
        n_rounds: queries of 25 that are played on each pool.
        n_lists: lists of candidates a round that the expert ranks.
        n_listed: candidates of a list, of which each is added in turn to see what test accuracy gains.
        n_hidden: units of each of the two hidden layers.
        n_epochs: passes over all lists.
    """

    n_pools: Annotated[int, Within(ge=1, advice="300 take some minutes.")]
    seed: int
    n_rounds: Annotated[int, Within(ge=1)] = 8
    n_lists: Annotated[int, Within(ge=1)] = 3
    n_listed: Annotated[int, Within(ge=2, advice="20 is the paper's value.")] = 20
    n_hidden: Annotated[int, Within(ge=1)] = 32
    n_epochs: Annotated[int, Within(ge=1)] = 40

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class SyntheticPool:
    """A made classification task, and the learner that it is learned by.

    Attributes:
        features: ``[n_pool, n_features]`` float32, mean 0 and variance 1 each.
        labels: ``[n_pool]``.
        test_features: ``[1000, n_features]``, of the same distribution.
        test_labels: ``[1000]``.
        n_classes: of the task; the pool may hold none of a rare one.
        l2: weight of the learner's penalty, as in :func:`logistic_regression`.
    """

    features: Float32Array
    labels: IntArray
    test_features: Float32Array
    test_labels: IntArray
    n_classes: int
    l2: float


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """Lists of candidates, as a policy sees them, and what the expert found.

    Attributes:
        inputs: ``[n_lists, n_listed, 14]``.
        gains: ``[n_lists, n_listed]``, in test accuracy.
    """

    inputs: Float64Array
    gains: Float64Array


def make_pool(seed: int) -> SyntheticPool:
    """Draw a task: 2 to 10 classes of 1 to 3 clusters each, 6 to 100 features of which a part is informative.

    Classes have unequal sizes, labels some noise, clusters more or less overlap (Guyon 2003, by scikit-learn). A task
    is drawn again where the learner that knows the whole pool is right about less than 60 % or more than 99 % of the
    test examples: it hardly matters what is asked there.
    """
    draws = stream(seed, "imital", "pool")
    while True:
        pool = _drawn_pool(draws)
        if LEARNABLE[0] <= _accuracy(pool, _fit(pool, np.arange(len(pool.labels)))) <= LEARNABLE[1]:
            return pool


def _drawn_pool(draws: np.random.Generator) -> SyntheticPool:
    from sklearn.datasets import make_classification

    n_classes = int(draws.integers(2, 11))
    n_clusters = int(draws.integers(1, 4))
    n_features = int(np.exp(draws.uniform(np.log(6), np.log(100))))
    # A cluster has a corner of a hypercube of its own.
    fewest = int(np.ceil(np.log2(n_classes * n_clusters)))
    n_informative = int(draws.integers(fewest, n_features + 1))
    n_pool = int(np.exp(draws.uniform(np.log(400), np.log(2000))))
    features, labels = make_classification(
        n_samples=n_pool + N_TEST,
        n_features=n_features,
        n_informative=n_informative,
        n_redundant=int(draws.integers(0, n_features - n_informative + 1)),
        n_classes=n_classes,
        n_clusters_per_class=n_clusters,
        weights=0.2 / n_classes + 0.8 * draws.dirichlet(np.full(n_classes, 3.0)),
        flip_y=float(draws.uniform(0, 0.1)),
        # Clusters widen with the root of the informative features, whose random combinations they are.
        class_sep=float(draws.uniform(0.7, 2.5) * np.sqrt(n_informative / 3)),
        hypercube=bool(draws.integers(2)),
        random_state=int(draws.integers(2**32)),
    )
    features -= features.mean(axis=0)
    features /= np.maximum(features.std(axis=0), 1e-12)
    return SyntheticPool(
        features=features[:n_pool].astype(np.float32),
        labels=labels[:n_pool].astype(np.int64),
        test_features=features[n_pool:].astype(np.float32),
        test_labels=labels[n_pool:].astype(np.int64),
        n_classes=n_classes,
        l2=float(np.exp(draws.uniform(np.log(0.1), np.log(3.0)))),
    )


def learning_curve(
    pool: SyntheticPool, strategy: QueryStrategy, seed: int, *, n_rounds: int = 8, query_size: int = QUERY_SIZE
) -> list[float]:
    """Return the test accuracy after a random start and after each query of a strategy ``[1 + n_rounds]``."""
    labeled = _start(pool, stream(seed, "imital", "start"))
    model = _fit(pool, labeled)
    curve = [_accuracy(pool, model)]
    for round_index in range(1, n_rounds + 1):
        view = _view(pool, labeled, model)
        ranking = rank(view.ids, strategy.score(view, stream(seed, "round", round_index, "strategy")), seed)
        labeled = np.append(labeled, strategy.pick(view, ranking, query_size, stream(seed, "round", round_index)))
        model = _fit(pool, labeled)
        curve.append(_accuracy(pool, model))
    return curve


def demonstrate(pool: SyntheticPool, settings: TrainingSettings, seed: int) -> Demonstration:
    """Play active learning on a pool; the expert ranks some lists of candidates while each batch grows.

    A batch is drawn at random, by margin or by both in turns, as the draw of the round says, and holds what the expert
    likes best of each list that it ranked.
    """
    draws = stream(seed, "imital", "play")
    labeled = _start(pool, draws)
    inputs, gains = [], []
    for _ in range(settings.n_rounds):
        view = _view(pool, labeled, _fit(pool, labeled))
        encoding = Encoding(view, np.arange(len(view)))
        order = _order(encoding, draws)
        asked_at = {0, *draws.integers(QUERY_SIZE, size=settings.n_lists - 1).tolist()}
        for place in range(QUERY_SIZE):
            row = next(each for each in order if each not in encoding.chosen)
            if place in asked_at:
                listed = _listed(encoding, settings.n_listed, draws)
                known = np.append(labeled, view.ids[encoding.chosen])
                found = _gains(pool, known, view.ids[listed])
                inputs.append(encoding.inputs[listed])
                gains.append(found)
                row = int(listed[found.argmax()])
            encoding.choose(row)
        labeled = np.append(labeled, view.ids[encoding.chosen])
    return Demonstration(inputs=np.stack(inputs), gains=np.stack(gains))


def fit_policy(shown: Demonstration, settings: TrainingSettings) -> dict[str, torch.Tensor]:
    """Fit a network of two hidden layers to rank lists as the expert does, and return its weights by name.

    ListNet's loss (Cao et al. 2007, doi 10.1145/1273496.1273513): cross-entropy of softmax(outputs) to softmax(gains),
    gains first standardised within their list; a list whose gains are all alike is left out.
    """
    spread = shown.gains.std(axis=1)
    usable = np.flatnonzero(spread > 1e-12)
    inputs = torch.from_numpy(shown.inputs[usable]).float()
    standard = (shown.gains[usable] - shown.gains[usable].mean(axis=1, keepdims=True)) / spread[usable, None]
    targets = functional.softmax(torch.from_numpy(2.0 * standard).float(), dim=1)
    draws = stream(settings.seed, "imital", "lists")
    with fork_random(torch.device("cpu"), stream_seed(settings.seed, "imital", "network")):
        widths = (len(INPUTS), settings.n_hidden, settings.n_hidden, 1)
        layers = [nn.Linear(n_in, n_out) for n_in, n_out in pairwise(widths)]
        network = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
        optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        n_steps = settings.n_epochs * -(-len(usable) // BATCH_LISTS)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(n_steps, 1))
        for _ in range(settings.n_epochs):
            order = torch.from_numpy(draws.permutation(len(usable)))
            for start in range(0, len(order), BATCH_LISTS):
                rows = order[start : start + BATCH_LISTS]
                loss = functional.cross_entropy(network(inputs[rows])[:, :, 0], targets[rows])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
    return {
        f"layers.{i}.{name}": tensor.detach().clone()
        for i, layer in enumerate(layers)
        for name, tensor in layer.named_parameters()
    }


def train(settings: TrainingSettings, after_pool: Callable[[int], None] = lambda n_done: None) -> bytes:
    """Train a policy and return the bytes of its weights file, which tell how it was made.

    Args:
        settings: the same give the same bytes on the same machine.
        after_pool: is told after each pool how many are done.
    """
    shown = []
    for number in range(settings.n_pools):
        shown.append(demonstrate(make_pool(pool_seed(settings.seed, number)), settings, settings.seed + number))
        after_pool(number + 1)
    return encode_policy(fit_policy(joined(shown), settings), settings)


def joined(shown: Sequence[Demonstration]) -> Demonstration:
    """Return all lists of some demonstrations as one."""
    return Demonstration(
        inputs=np.concatenate([each.inputs for each in shown]), gains=np.concatenate([each.gains for each in shown])
    )


def encode_policy(weights: dict[str, torch.Tensor], settings: TrainingSettings) -> bytes:
    """Return the bytes of a weights file: safetensors, its metadata saying what they are and how they were made."""
    told = {
        "format": FORMAT,
        "training": VERSION,
        "settings": asdict(settings),
        "command": f"al-ray train-imital --pools {settings.n_pools} --seed {settings.seed}",
        "license": "Apache-2.0",
    }
    # One entry, since safetensors writes several in an order of chance.
    return save(weights, {METADATA: json.dumps(told, sort_keys=True)})


def pool_seed(seed: int, number: int) -> int:
    """Return the seed of a training's pool; pools of another seed are other pools."""
    return stream_seed(seed, "imital", "pool", number)


Model = tuple[Float64Array, Float64Array]


def _start(pool: SyntheticPool, draws: np.random.Generator) -> IntArray:
    return draws.permutation(len(pool.labels))[: max(5, 2 * pool.n_classes)]


def _fit(pool: SyntheticPool, labeled: IntArray) -> Model:
    return logistic_regression(pool.features[labeled], pool.labels[labeled], pool.n_classes, l2=pool.l2)[:2]


def _logits(features: Float32Array, model: Model) -> Float64Array:
    return features @ model[0].T + model[1]


def _accuracy(pool: SyntheticPool, model: Model) -> float:
    return float((_logits(pool.test_features, model).argmax(axis=1) == pool.test_labels).mean())


def _view(pool: SyntheticPool, labeled: IntArray, model: Model) -> PoolView:
    ids = np.setdiff1d(np.arange(len(pool.labels)), labeled)
    known = LabeledSet(ids=labeled, labels=pool.labels[labeled]).sorted()
    return PoolView(
        ids=ids,
        log_probs=log_softmax(_logits(pool.features[ids], model))[:, None],
        features=pool.features[ids],
        labeled=known,
        labeled_log_probs=log_softmax(_logits(pool.features[known.ids], model))[:, None],
        labeled_features=pool.features[known.ids],
    )


def _order(encoding: Encoding, draws: np.random.Generator) -> list[int]:
    """Return the candidates in the order in which this round asks them, but for the expert's choices."""
    at_random = draws.permutation(len(encoding.inputs))
    by_margin = np.argsort(-encoding.inputs[:, INPUTS.index("margin")], kind="stable")
    in_turns = np.stack([at_random, by_margin], axis=1).ravel()
    return [at_random, by_margin, in_turns][int(draws.integers(3))][: 4 * QUERY_SIZE].tolist()


def _listed(encoding: Encoding, n: int, draws: np.random.Generator) -> IntArray:
    """Draw the candidates of a list: half at random, half from those of highest margin."""
    left = np.setdiff1d(np.arange(len(encoding.inputs)), encoding.chosen)
    at_random = draws.choice(left, n - n // 2, replace=False)
    unsure = np.setdiff1d(left[np.argsort(-encoding.inputs[left, 1], kind="stable")][: 10 * n], at_random)
    return np.append(at_random, draws.choice(unsure, n // 2, replace=False))


def _gains(pool: SyntheticPool, known: IntArray, candidates: IntArray) -> Float64Array:
    """Return the accuracy that the learner gains on the test examples with the label of each candidate."""
    before = _accuracy(pool, _fit(pool, known))
    return np.array([_accuracy(pool, _fit(pool, np.append(known, each))) - before for each in candidates])
