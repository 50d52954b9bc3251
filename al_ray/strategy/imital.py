"""ImitAL: a small network that learned on synthetic pools what an expert who knows all labels would ask for."""

import functools
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from al_ray.core.distances import distance_blocks, single
from al_ray.core.seeding import tie_keys
from al_ray.core.types import Float32Array, Float64Array, FloatArray, IntArray, PoolView, Ranking
from al_ray.core.uncertainty import entropy, least_confidence, margin, mean_log_probs
from al_ray.errors import ConfigError
from al_ray.registry import Within, check_options
from al_ray.strategy import QueryStrategy, strategies

SHIPPED = "v1"
SHIPPED_SHA256 = "73ec7cdabc50129788f575cf05b5864dd7a28427bb72eab939512c36dcef7bf3"
"""The weights that come with al_ray. Other bytes are another version, and by their hash another study."""

METADATA = "al_ray.imital"
"""Entry of a weights file's metadata: JSON with the format, and how the weights were made."""

FORMAT = 1
"""What the weights are made for: the inputs below, in this order, and the forward pass of :class:`Policy`."""

INPUTS = (
    "least_confidence", "margin", "entropy", "margin_rank",
    "mean_to_labeled", "nearest_labeled", "mean_to_pool", "sparsity",
    "class_labeled", "class_predicted", "labels_per_class", "pool_margin",
    "nearest_asked", "class_in_batch",
)  # fmt: skip
_NEAREST_ASKED, _CLASS_IN_BATCH = INPUTS.index("nearest_asked"), INPUTS.index("class_in_batch")

N_REFERENCE = 500
"""Pool examples that stand for the pool where distances are compared."""

N_NEIGHBORS = 10
ALIKE = 1e-5  # distances that differ by a smaller share are equal but for rounding
SHA256 = re.compile("[0-9a-f]{64}")
N_DIGITS = 6  # of an output; what differs less is equal but for rounding, and the ranking settles it


@strategies.register("imital")
@dataclass(frozen=True)
class ImitAL(QueryStrategy):
    """The example that a learned policy likes best beside the labelled and chosen ones, again and again.

    Gonsior, Thiele and Lehner 2022 (arXiv 2208.11636; first 2108.07670): active learning as learning to rank. On
    synthetic pools an expert who knows all labels fits the learner with each candidate added and measures what its
    accuracy gains; a network learns to order candidates as the expert does, from inputs that mean the same in every
    pool (:class:`Encoding`). Here it only reads: ``al-ray train-imital`` makes the weights.

    Deviation: the paper's batch variant scores whole batches drawn at random, of which 25 texts are hardly unlike one
    another; here the batch grows by one example at a time, and inputs say how far a candidate is from what was chosen
    and how many of those have its predicted class. The paper's single variant is the score without a batch.
    Deviation: candidates are ``max_candidates`` drawn at random; the paper keeps the 20 that lie farthest apart of some
    draws.
    Deviation: the network scores one candidate at a time with shared weights, and any number of them; the authors' code
    reads a fixed number of them at once.
    Deviation: distances become shares of the pool's pairs that are nearer, where the authors' code divides them by the
    largest possible one; the mean to the labelled and to the pool are theirs, the nearest ones are added.

    Attributes:
        weights: version that comes with al_ray, or the absolute path of a file that ``al-ray train-imital`` wrote.
        sha256: of the file's bytes, so that other weights are another study.
        max_candidates: pool examples at most that a batch is chosen from; a larger pool is subsampled in every round.
    """

    source: ClassVar[str] = "Gonsior et al. 2022, arXiv 2208.11636"
    needs_features: ClassVar[bool] = True
    needs_labeled: ClassVar[bool] = True
    weights: str = SHIPPED
    sha256: str = SHIPPED_SHA256
    max_candidates: Annotated[int, Within(ge=2, advice="2000 is the size of the pools that it was trained on.")] = 2000

    def __post_init__(self) -> None:
        check_options(self)
        if self.weights != SHIPPED and not Path(self.weights).is_absolute():
            raise ConfigError(
                f"weights is {self.weights!r}, it must be {SHIPPED!r} or the absolute path of a file. "
                "'al-ray train-imital --out FILE' writes one."
            )
        if (self.weights == SHIPPED) != (self.sha256 == SHIPPED_SHA256) or not SHA256.fullmatch(self.sha256):
            raise ConfigError(
                f"sha256 is {self.sha256!r} with weights {self.weights!r}. Leave it out with weights {SHIPPED!r}; with "
                "a file of your own it must be the file's SHA-256 in 64 lower-case hexadecimal digits, as "
                "'al-ray train-imital' prints it."
            )

    def score(self, pool: PoolView, stream: np.random.Generator) -> FloatArray:
        """Return what the policy says of every example beside the labelled ones alone ``[n_pool]``."""
        return self._policy().scores(Encoding(pool, np.arange(len(pool))).inputs)

    def pick(self, pool: PoolView, ranking: Ranking, n: int, stream: np.random.Generator) -> IntArray:
        """Return ``n`` ids, each the best beside what is labelled and chosen."""
        # In the order of the ranking, which settles ties.
        ids = ranking.ids
        n_candidates = max(self.max_candidates, n)
        if len(ids) > n_candidates:
            ids = ids[np.sort(stream.choice(len(ids), n_candidates, replace=False))]
        policy, encoding = self._policy(), Encoding(pool, np.searchsorted(pool.ids, ids))
        for _ in range(n):
            scores = policy.scores(encoding.inputs)
            scores[encoding.chosen] = -np.inf
            encoding.choose(int(scores.argmax()))
        return ids[encoding.chosen]

    def _policy(self) -> "Policy":
        return read_policy(self.weights, self.sha256)


class Encoding:
    """What a policy sees of some candidates while a batch grows, whatever the pool's classes, features and size.

    Distances are Euclidean between features. A distance d becomes ``log1p(500 u) / log1p(500)``, u the share of pairs
    of the reference that are nearer than d (by more than 1e-5 of it): about how many examples a ball of that radius
    holds, in any dimension. The reference is at most 500 pool examples, by a hash of their ids. With nothing labelled
    every distance to it is the largest. A share s of a class of C becomes ``s C / (1 + s C)``, 1/2 for a class as
    frequent as all.

    Attributes:
        inputs: ``[n, 14]`` in [0, 1], columns as in :data:`INPUTS`: least confidence over its largest value, margin,
            entropy over its largest value, share of the pool with a lower margin; mean distance to the labelled, to
            the nearest labelled, mean to the reference, mean to the 10 nearest of it; share of the labels in the
            predicted class, of the pool's predictions in it, labels per class m as m / (m + 10), mean margin of the
            pool; distance to the nearest that is labelled or chosen, share of the chosen that have the predicted class
            (0 with none).
        chosen: which of the candidates were chosen, in order.
    """

    def __init__(self, pool: PoolView, rows: IntArray) -> None:
        assert pool.features is not None, "imital needs PoolView.features"
        assert pool.labeled_features is not None, "imital needs PoolView.labeled_features"
        self.chosen: list[int] = []
        self._reference = np.argsort(tie_keys(pool.ids, 0))[:N_REFERENCE]
        reference = single(pool.features[self._reference])
        centre = reference.mean(axis=0)  # float32 products tell distances apart where norms are no larger than these
        reference = reference - centre
        self._points = single(pool.features[rows]) - centre
        self._pairs = _sorted_pairs(reference)
        log_probs = mean_log_probs(pool.log_probs)
        self._classes = log_probs[rows].argmax(axis=1)
        self.inputs: Float64Array = np.zeros((len(rows), len(INPUTS)))
        self.inputs[:, :4] = _uncertainties(log_probs, rows)
        mean, self._nearest = self._to_labeled(single(pool.labeled_features) - centre)
        self.inputs[:, 4], self.inputs[:, 5] = self._shares(mean), self._shares(self._nearest)
        self.inputs[:, 6:8] = self._to_reference(reference, rows)
        self.inputs[:, 8:12] = self._counts(pool, log_probs)
        self.inputs[:, _NEAREST_ASKED] = self.inputs[:, 5]

    def choose(self, at: int) -> None:
        """Add a candidate to the batch."""
        self.chosen.append(at)
        for _, distances in distance_blocks(self._points[at : at + 1], self._points):
            np.minimum(self._nearest, distances[0], out=self._nearest)
        self.inputs[:, _NEAREST_ASKED] = self._shares(self._nearest)
        counts = np.bincount(self._classes[self.chosen], minlength=self._classes.max() + 1)
        self.inputs[:, _CLASS_IN_BATCH] = counts[self._classes] / len(self.chosen)

    def _shares(self, distances: Float64Array) -> Float64Array:
        if not len(self._pairs):
            return np.where(np.isinf(distances), 1.0, 0.0)
        nearer = np.searchsorted(self._pairs, (distances * (1 - ALIKE)).astype(np.float32)) / len(self._pairs)
        return np.log1p(N_REFERENCE * nearer) / np.log1p(N_REFERENCE)

    def _to_labeled(self, labeled: Float32Array) -> tuple[Float64Array, Float64Array]:
        """Return the mean distance to the labelled examples and that to the nearest, infinite where there is none."""
        mean, nearest = (np.full(len(self._points), np.inf) for _ in range(2))
        if len(labeled):
            for rows, distances in distance_blocks(self._points, labeled):
                mean[rows] = distances.mean(axis=1, dtype=np.float64)
                nearest[rows] = distances.min(axis=1)
        return mean, nearest

    def _to_reference(self, reference: Float32Array, rows: IntArray) -> Float64Array:
        """Encode the mean distance to the reference and that to its nearest examples, but for itself ``[n, 2]``."""
        place = np.full(int(max(rows.max(), self._reference.max())) + 1, -1)
        place[self._reference] = np.arange(len(self._reference))
        own = place[rows]
        k = min(N_NEIGHBORS, len(reference) - 1)
        mean, near = np.zeros(len(rows)), np.zeros(len(rows))
        for block, distances in distance_blocks(self._points, reference):
            mean[block] = distances.mean(axis=1, dtype=np.float64)
            if k:
                is_own = np.flatnonzero(own[block] >= 0)
                distances[is_own, own[block][is_own]] = np.inf
                near[block] = np.partition(distances, k - 1, axis=1)[:, :k].mean(axis=1, dtype=np.float64)
        return np.stack([self._shares(mean), self._shares(near)], axis=1)

    def _counts(self, pool: PoolView, log_probs: Float64Array) -> Float64Array:
        """Encode how frequent the predicted class is among labels and predictions, and where the round stands."""
        n_classes = log_probs.shape[1]
        labels = np.bincount(pool.labeled.labels, minlength=n_classes)
        predictions = np.bincount(log_probs.argmax(axis=1), minlength=n_classes)
        labeled, predicted = (n_classes * each / max(each.sum(), 1) for each in (labels, predictions))
        per_class = len(pool.labeled) / n_classes
        columns = np.empty((len(self._points), 4))
        columns[:, 0] = (labeled / (1 + labeled))[self._classes]
        columns[:, 1] = (predicted / (1 + predicted))[self._classes]
        columns[:, 2] = per_class / (per_class + 10)
        columns[:, 3] = margin(log_probs).mean()
        return columns


@dataclass(frozen=True)
class Policy:
    """A network of dense layers with rectifiers between them: inputs ``[n, 14]`` -> one score each, high = ask first.

    Attributes:
        layers: weight ``[n_out, n_in]`` and bias ``[n_out]`` of each, in order; the last has one output.
    """

    layers: tuple[tuple[Float64Array, Float64Array], ...]

    def scores(self, inputs: Float64Array) -> Float64Array:
        """Return the output for each row ``[n]``, rounded to 6 digits."""
        hidden = inputs
        for weight, bias in self.layers[:-1]:
            hidden = np.maximum(hidden @ weight.T + bias, 0.0)
        weight, bias = self.layers[-1]
        return np.round((hidden @ weight.T + bias)[:, 0], N_DIGITS) + 0.0


@functools.lru_cache(maxsize=8)
def read_policy(weights: str, sha256: str) -> Policy:
    """Read weights, of al_ray by their version or others by path, and make sure that they are those that were named.

    Raises:
        ConfigError: no such file, other bytes, or weights that were made for other inputs.
    """
    path = Path(__file__).with_name(f"imital_{weights}.safetensors") if weights == SHIPPED else Path(weights)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"the weights {path} of imital cannot be read ({error.strerror}). Put the file there on every machine that "
            "runs cells, or leave weights out to use those of al_ray."
        ) from None
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise ConfigError(
            f"the weights {path} of imital have the SHA-256 {found}, but {sha256} was named. "
            + ("Install al_ray again." if weights == SHIPPED else "Name the file's own, which makes it another study.")
        )
    return decode_policy(data, str(path))


def decode_policy(data: bytes, where: str) -> Policy:
    """Read a policy from the bytes of a safetensors file.

    Raises:
        ConfigError: no such file format, or weights that were made for other inputs.
    """
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise ConfigError(f"{where} is not safetensors ({error}). 'al-ray train-imital' writes such a file.") from None
    if (told := told_by(data)).get("format") != FORMAT:
        raise ConfigError(
            f"{where} holds weights for imital of the format {told.get('format')}, this al_ray reads {FORMAT}. Train "
            "them again with 'al-ray train-imital'."
        )
    layers = tuple(
        (tensors[f"layers.{i}.weight"].astype(np.float64), tensors[f"layers.{i}.bias"].astype(np.float64))
        for i in range(len(tensors) // 2)
    )
    return Policy(layers)


def told_by(data: bytes) -> dict[str, Any]:
    """Return what the bytes of a weights file tell of how they were made; nothing where another program wrote them."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    told: dict[str, Any] = json.loads(header.get("__metadata__", {}).get(METADATA, "{}"))
    return told


def _sorted_pairs(points: Float32Array) -> Float32Array:
    """Return the distances of all pairs of some points, ascending."""
    pairs = [distances[i, rows.start + i + 1 :] for rows, distances in distance_blocks(points, points)
             for i in range(len(distances))]  # fmt: skip
    return np.sort(np.concatenate(pairs))


def _uncertainties(log_probs: Float64Array, rows: IntArray) -> Float64Array:
    n_classes = log_probs.shape[1]
    margins = margin(log_probs)
    lower = np.searchsorted(np.sort(margins), margins[rows]) / len(margins)
    # Not every confidence method's probabilities sum to one: they may all be small.
    unsure = np.minimum(least_confidence(log_probs[rows]) * n_classes / (n_classes - 1), 1.0)
    return np.stack([unsure, margins[rows], entropy(log_probs[rows]) / np.log(n_classes), lower], axis=1)
