"""The types that one round of active learning hands on, in the order in which the data meets them.

Ids are the data set's own, fixed for ever; nothing here is a position in a pool. Every type checks its own invariants
when it is made, because most of them are made at a border: a data file, a model, an oracle, a stored record.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from al_ray.errors import RoundError

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.floating[Any]]
Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Split = Literal["pool", "test"]
Embedded = Literal["pool", "test", "classes"]
"""What the pretrained encoder may embed: the texts of a split, or the names of the classes."""

NO_CLASS = -1
"""Label of a text that is of no class, or of none that anybody knows."""


@dataclass(frozen=True, kw_only=True)
class TextSplit:
    """One split of a data set.

    Attributes:
        ids: example ids ``[n_examples]``, unique.
        texts: the texts ``[n_examples]``, none empty.
        labels: class indices ``[n_examples]``; -1 where a pool to label has none, or where a text of an open set is of
            no class.
        groups: data slice of each example ``[n_examples]`` (for example its kind in ``tickets``), or None.
    """

    ids: IntArray
    texts: Sequence[str]
    labels: IntArray
    groups: Sequence[str] | None = None

    def __post_init__(self) -> None:
        assert len(self.ids) == len(self.texts) == len(self.labels)
        assert self.groups is None or len(self.groups) == len(self.ids)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, kw_only=True)
class TextDataset:
    """A text-classification data set, read and checked.

    Attributes:
        name: what the study calls it.
        class_names: in label order ``[n_classes]``.
        train: the pool, and the answers of the ground-truth oracle; of a pool to label those that are known.
        test: never queried; evaluated every round; empty where there is only a pool to label. All of it has a class.
        source: where the rows came from (path, generator or Hub id with revision); provenance.
        content_sha256: hash of classes, ids, texts, labels and slices of both splits; identity.
    """

    name: str
    class_names: tuple[str, ...]
    train: TextSplit
    test: TextSplit
    source: str
    content_sha256: str

    def __post_init__(self) -> None:
        assert np.all(self.test.labels != NO_CLASS), "a test example is of no class"

    @property
    def n_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    @property
    def n_no_class(self) -> int:
        """How many training examples have no class."""
        return int((self.train.labels == NO_CLASS).sum())


@dataclass(frozen=True, kw_only=True)
class LabeledSet:
    """The examples that have an answer, in the order in which they were answered.

    Attributes:
        ids: ``[n_labeled]``, unique.
        labels: class indices ``[n_labeled]``; -1 only in the truth of a pool that holds texts of no class.
    """

    ids: IntArray
    labels: IntArray

    def __post_init__(self) -> None:
        assert len(self.ids) == len(self.labels)
        assert len(np.unique(self.ids)) == len(self.ids), "an example is labelled twice"

    def __len__(self) -> int:
        return len(self.ids)

    def sorted(self) -> "LabeledSet":
        """Return the same answers, ids ascending."""
        order = np.argsort(self.ids)
        return LabeledSet(ids=self.ids[order], labels=self.labels[order])

    def of_a_class(self) -> "LabeledSet":
        """Return those that have a class, in the same order."""
        is_known = self.labels != NO_CLASS
        return self if is_known.all() else LabeledSet(ids=self.ids[is_known], labels=self.labels[is_known])


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the model's prediction is repeated or changed, which a confidence method declares.

    Attributes:
        n_members: models fine-tuned on the same answers with other seeds.
        n_passes: dropout passes through each of them; 1 without dropout.
        dropout: where dropout acts at prediction: in every layer (``network``), in the classifier on top of the
            encoder (``head``) or on the logits (``logits``). In ``head`` a pass has one mask for all examples, which
            makes it one model; elsewhere every example has its own.
        rate: share that is dropped, in (0, 1); None = as the model was trained.
        adaptive_attention: sharpen the encoder's attention by adaptive temperature (arXiv 2410.01104) at prediction.
    """

    n_members: int = 1
    n_passes: int = 1
    dropout: Literal["off", "network", "head", "logits"] = "off"
    rate: float | None = None
    adaptive_attention: bool = False

    def __post_init__(self) -> None:
        assert self.n_members >= 1
        assert self.n_passes >= 1
        assert self.rate is None or 0 < self.rate < 1
        assert self.n_passes == 1 or self.dropout != "off", "several passes without dropout are all alike"

    @property
    def n_draws(self) -> int:
        """Predictions per example."""
        return self.n_members * self.n_passes


@dataclass(frozen=True, kw_only=True)
class ModelOutputs:
    """What one pass of the model over some examples returned, rows sorted by id.

    Attributes:
        ids: ``[n]``, ascending.
        logits: ``[n, n_draws, n_classes]`` float32; draws are dropout passes and ensemble members alike, members first.
        features: ``[n, n_features]`` what the head reads of the encoder's output (mostly that at the first token),
            without dropout and of the first member, or None where no method asked for it.
        logits_without_dropout: ``[n, n_classes]``, of the first member, or None where nobody asked for them.
    """

    ids: IntArray
    logits: Float32Array
    features: Float32Array | None = None
    logits_without_dropout: Float32Array | None = None

    def __post_init__(self) -> None:
        assert self.logits.ndim == 3
        assert len(self.logits) == len(self.ids)
        assert self.features is None or len(self.features) == len(self.ids)
        assert self.logits_without_dropout is None or self.logits_without_dropout.shape == (
            len(self.ids),
            self.logits.shape[2],
        )
        assert np.all(np.diff(self.ids) > 0), "rows of ModelOutputs must be sorted by unique id"
        bad = ~np.asarray(np.isfinite(self.logits).all(axis=(1, 2)))
        if bad.any():
            raise RoundError(
                f"the model gave non-finite logits for {int(bad.sum())} of {len(bad)} examples "
                f"(ids {listed_ids(self.ids[bad])}). Lower learning_rate, raise warmup, or use precision float32."
            )

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class RowView:
    """Some rows of a large array, which may be mapped from a file: no more of it is in memory than is looked at.

    Attributes:
        array: ``[n_all, width]``; only read.
        rows: which of its rows ``[n]``.
    """

    array: FloatArray
    rows: IntArray

    BLOCK_ROWS: ClassVar[int] = 2**17

    @classmethod
    def of(cls, array: FloatArray) -> "RowView":
        """Return all rows of an array."""
        return cls(array, np.arange(len(array)))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: IntArray) -> "RowView":
        """Return only some of the rows, given by their places among these; nothing is read."""
        return RowView(self.array, self.rows[at])

    def read(self) -> FloatArray:
        """Return a copy of all of them ``[n, width]``."""
        return self.array[self.rows]

    def blocks(self) -> Iterator[tuple[slice, FloatArray]]:
        """Yield all rows in order, copied some 130,000 at a time, with their places among these."""
        for start in range(0, len(self), self.BLOCK_ROWS):
            places = slice(start, min(start + self.BLOCK_ROWS, len(self)))
            yield places, self.array[self.rows[places]]


@dataclass(frozen=True, kw_only=True)
class History:
    """What a strategy that chooses among others asked for in earlier rounds, in the order of asking.

    Attributes:
        ids: ``[n_asked]``.
        labels: class indices ``[n_asked]``, as last revised; -1 where nobody named a class.
        arms: which of the strategies chose each ``[n_asked]``.
        round_index: when ``[n_asked]``, never falling.
    """

    ids: IntArray
    labels: IntArray
    arms: IntArray
    round_index: IntArray

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, kw_only=True)
class Hindsight:
    """What nobody knows who asks: the test split, and how much will be asked for. For upper bounds alone.

    Attributes:
        test_features: of the test split ``[n_test, n_features]``, of the same model as ``PoolView.features``.
        test_labels: ``[n_test]``.
        query_size: examples in every query.
        n_queries: queries that are still to come, this one included.
    """

    test_features: FloatArray
    test_labels: IntArray
    query_size: int
    n_queries: int

    def __post_init__(self) -> None:
        assert len(self.test_features) == len(self.test_labels)


@dataclass(frozen=True, kw_only=True)
class PoolView:
    """All that a query strategy may see: arrays about the pool and the labelled examples, never a model.

    What a strategy does not declare as needed may be None. Rows are sorted by id, so that pool order cannot matter.

    Attributes:
        ids: candidates ``[n_pool]``, ascending.
        log_probs: ``[n_pool, n_draws, n_classes]``, natural logarithm; no draw where the strategy needs no scores.
        logits: as the model gave them, before the confidence method ``[n_pool, n_draws, n_classes]``.
        features: ``[n_pool, n_features]`` of the fine-tuned model.
        embeddings: of each candidate ``[n_embedding]``, unit length, of the pretrained encoder, the same always.
        predicted: class predicted without dropout ``[n_pool]``.
        uncertainty: the confidence method's own measure, high = unsure ``[n_pool]``.
        dynamics: log-probabilities after every epoch of fine-tuning ``[n_pool, n_epochs, n_classes]``.
        truth: class of each candidate ``[n_pool]``, for upper bounds alone.
        last_scores: score of each in the last round that had one ``[n_pool]``, NaN where none had; likewise.
        hindsight: what else only an upper bound may see.
        labeled: what has been answered so far, ids ascending; the arrays below have its rows.
        labeled_log_probs: ``[n_labeled, n_draws, n_classes]``.
        labeled_features: ``[n_labeled, n_features]``.
        labeled_embeddings: ``[n_labeled, n_embedding]``.
        labeled_uncertainty: ``[n_labeled]``.
        labeled_dynamics: ``[n_labeled, n_epochs, n_classes]``.
        history: what the strategies were, among which the cell's strategy chose in earlier rounds, and the answers.
        rejected: ids that were asked for and got no label, being of no class ``[n_rejected]``, ascending; the arrays
            below have its rows.
        rejected_features: ``[n_rejected, n_features]``.
        rejected_embeddings: ``[n_rejected, n_embedding]``.
    """

    ids: IntArray
    log_probs: FloatArray
    logits: FloatArray | None = None
    features: FloatArray | None = None
    embeddings: RowView | None = None
    predicted: IntArray | None = None
    uncertainty: FloatArray | None = None
    dynamics: FloatArray | None = None
    truth: IntArray | None = None
    last_scores: FloatArray | None = None
    hindsight: Hindsight | None = None
    labeled: LabeledSet
    labeled_log_probs: FloatArray | None = None
    labeled_features: FloatArray | None = None
    labeled_embeddings: FloatArray | None = None
    labeled_uncertainty: FloatArray | None = None
    labeled_dynamics: FloatArray | None = None
    history: History | None = None
    rejected: IntArray = field(default_factory=lambda: np.empty(0, np.int64))
    rejected_features: FloatArray | None = None
    rejected_embeddings: FloatArray | None = None

    def __post_init__(self) -> None:
        assert np.all(np.diff(self.ids) > 0), "rows of a PoolView must be sorted by unique id"
        assert np.all(np.diff(self.labeled.ids) > 0), "the labelled examples of a PoolView must be sorted by id"
        assert np.all(np.diff(self.rejected) > 0), "the rejected examples of a PoolView must be sorted by unique id"
        assert self.log_probs.ndim == 3
        parts = ((self.ids, POOL_ARRAYS), (self.labeled.ids, LABELED_ARRAYS), (self.rejected, REJECTED_ARRAYS))
        for rows, names in parts:
            for name in names:
                values = getattr(self, name)
                assert values is None or len(values) == len(rows), f"{name} has other rows than its ids"

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n_classes(self) -> int:
        """How many classes there are."""
        return int(self.log_probs.shape[2])

    def probs(self) -> Float64Array:
        """Return the probabilities averaged over the draws ``[n_pool, n_classes]``."""
        return np.exp(np.asarray(self.log_probs, dtype=np.float64)).mean(axis=1)

    def take(self, ids: IntArray) -> "PoolView":
        """Return the view of some candidates only, given in any order."""
        if len(ids) == len(self):
            return self
        return replace(self, **_rows_of(self, ids, POOL_ARRAYS))


POOL_ARRAYS = (
    "log_probs", "logits", "features", "embeddings", "predicted", "uncertainty", "dynamics", "truth", "last_scores",
)  # fmt: skip
LABELED_ARRAYS = (
    "labeled_log_probs", "labeled_features", "labeled_embeddings", "labeled_uncertainty", "labeled_dynamics",
)  # fmt: skip
REJECTED_ARRAYS = ("rejected_features", "rejected_embeddings")


def _rows_of(view: "PoolView | UnscoredPool", ids: IntArray, names: Sequence[str]) -> dict[str, Any]:
    """Return the ids, ascending, and the rows that the named arrays have for them."""
    rows = np.searchsorted(view.ids, np.sort(ids))
    arrays = {name: getattr(view, name) for name in names}
    return {"ids": view.ids[rows], **{name: None if all_ is None else all_[rows] for name, all_ in arrays.items()}}


@dataclass(frozen=True, kw_only=True)
class StartPool:
    """What an initial query may see, before there is a model or, but in a simulation, any label.

    Attributes:
        truth: ids of what may be asked for, ascending, and labels that only simulations may look at.
        embeddings: of each ``[n, n_embedding]``, unit length; None where not asked for.
        class_embeddings: of the names of the classes by the same encoder ``[n_classes, n_embedding]``, unit length, in
            label order; None where not asked for.
    """

    truth: LabeledSet
    embeddings: FloatArray | None = None
    class_embeddings: FloatArray | None = None

    @property
    def ids(self) -> IntArray:
        """What may be asked for, ascending."""
        return self.truth.ids


@dataclass(frozen=True, kw_only=True)
class UnscoredPool:
    """What a filter may see before the model of the round exists.

    Attributes:
        ids: unlabelled examples ``[n_pool]``, ascending.
        embeddings: of each ``[n_embedding]``, unit length, of the pretrained encoder; None where not asked for.
        last_scores: the last known acquisition value of each ``[n_pool]``, NaN where it never had one; None where not
            asked for.
        hardness: share of the training split that is no harder to learn than each, itself included ``[n_pool]``, in
            (0, 1], as a model says that was trained on every answer; None where not asked for.
        labeled: what has been answered so far, ids ascending.
        labeled_embeddings: ``[n_labeled, n_embedding]``; None where not asked for.
        n_classes: of the data set.
        round_index: of the round, from 1.
        query_size: how many the round will ask for.
    """

    ids: IntArray
    embeddings: RowView | None = None
    last_scores: FloatArray | None = None
    hardness: FloatArray | None = None
    labeled: LabeledSet
    labeled_embeddings: FloatArray | None = None
    n_classes: int
    round_index: int
    query_size: int

    def __post_init__(self) -> None:
        assert np.all(np.diff(self.ids) > 0), "rows of an UnscoredPool must be sorted by unique id"

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, ids: IntArray) -> "UnscoredPool":
        """Return the pool of some examples only, given in any order."""
        return replace(self, **_rows_of(self, ids, ("embeddings", "last_scores", "hardness")))


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The candidates in total order: the first is queried first.

    Attributes:
        ids: ``[n_candidates]``, unique.
        scores: acquisition values ``[n_candidates]``, never rising along the order; high = query first.
    """

    ids: IntArray
    scores: Float64Array

    def __post_init__(self) -> None:
        assert len(self.ids) == len(self.scores)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, kw_only=True)
class Query:
    """The examples whose labels one round asks for.

    Attributes:
        ids: ``[query_size]``, unique, a subset of the pool.
        scores: acquisition values ``[query_size]``; zeros for an initial query.
        probs: what the model believed when it asked ``[query_size, n_classes]``, or None for an initial query.
        arms: of a strategy that chooses among others, which of them chose each ``[query_size]``; else None.
    """

    ids: IntArray
    scores: Float64Array
    probs: Float64Array | None = None
    arms: IntArray | None = None

    def __post_init__(self) -> None:
        assert len(self.ids) == len(self.scores)
        assert self.probs is None or len(self.probs) == len(self.ids)
        assert self.arms is None or len(self.arms) == len(self.ids)
        assert self.probs is None or self.probs.size >= len(self.ids), "beliefs in no class"
        assert len(set(self.ids.tolist())) == len(self.ids), "an example is queried twice"

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """What the oracle answered: the same ids as the query, in the same order.

    Attributes:
        ids: ``[query_size]``.
        labels: class indices ``[query_size]``; -1 where abstained.
        abstained: ``[query_size]``, true where the oracle gave no answer.
    """

    ids: IntArray
    labels: IntArray
    abstained: BoolArray

    def __post_init__(self) -> None:
        assert len(self.ids) == len(self.labels) == len(self.abstained)

    def answered(self) -> LabeledSet:
        """Return only the examples that got an answer."""
        return LabeledSet(ids=self.ids[~self.abstained], labels=self.labels[~self.abstained])


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Texts drawn from the test pool, in the order in which they were drawn.

    Attributes:
        ids: ``[n_drawn]``, unique.
        proposals: probability with which each was drawn among those not drawn before it ``[n_drawn]``, in (0, 1].
    """

    ids: IntArray
    proposals: Float64Array

    def __post_init__(self) -> None:
        assert len(self.ids) == len(self.proposals)
        assert len(set(self.ids.tolist())) == len(self.ids), "a text is drawn twice"
        assert ((self.proposals > 0) & (self.proposals <= 1)).all(), "a proposal is no probability"

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, kw_only=True)
class EvaluationQuery(Draws):
    """The texts of the test pool that one round asks for, to measure models by, and what was answered.

    Attributes:
        labels: class indices ``[n_drawn]``; -1 where nobody named a class.
    """

    labels: IntArray

    def __post_init__(self) -> None:
        super().__post_init__()
        assert len(self.labels) == len(self.ids)


NO_LABELS = LabeledSet(ids=np.empty(0, np.int64), labels=np.empty(0, np.int64))


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """One recorded round; its JSON form is exact, and a round without a record did not happen.

    Round 0 holds the initial query and no model. Every later round fine-tunes on the ``n_labeled`` answers so far,
    evaluates, and queries; the last one evaluates only, and its query is empty.

    Attributes:
        round_index: 0 = initial query.
        n_labeled: answers that this round's model was fine-tuned on; 0 in round 0.
        query: what was asked at the end of the round.
        annotation: what the oracle answered.
        metrics: of this round's model on the test split; empty in round 0.
        seconds: wall time by phase (``finetune``, ``evaluate``, ``score``, ``query``).
        stop_reason: why the loop ended after this round, or None.
        evaluation: what was asked to measure models by, or None.
        revised: examples of earlier queries whose label is another one since the last round, -1 where none is left:
            people change their minds, or others answer as well.
    """

    round_index: int
    n_labeled: int
    query: Query
    annotation: Annotation
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    stop_reason: str | None = None
    evaluation: EvaluationQuery | None = None
    revised: LabeledSet = NO_LABELS

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form; floats keep every bit (Python writes the shortest text that reads back equal)."""
        content: dict[str, Any] = {
            "round_index": self.round_index,
            "n_labeled": self.n_labeled,
            "query": {
                "ids": self.query.ids.tolist(),
                "scores": self.query.scores.tolist(),
                "probs": None if self.query.probs is None else self.query.probs.tolist(),
            },
            "annotation": {
                "labels": self.annotation.labels.tolist(),
                "abstained": self.annotation.abstained.tolist(),
            },
            "metrics": {name: float(value) for name, value in self.metrics.items()},
            "seconds": {name: float(value) for name, value in self.seconds.items()},
            "stop_reason": self.stop_reason,
            "checkpoint": None,  # format 1 has this key, and its checksums hold it
        }
        if self.query.arms is not None:
            content["query"]["arms"] = self.query.arms.tolist()
        if self.evaluation is not None:
            content["evaluation"] = {
                "ids": self.evaluation.ids.tolist(),
                "proposals": self.evaluation.proposals.tolist(),
                "labels": self.evaluation.labels.tolist(),
            }
        if len(self.revised):
            content["revised"] = {"ids": self.revised.ids.tolist(), "labels": self.revised.labels.tolist()}
        return content

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "RoundRecord":
        """Read the JSON form back; numbers have to be of their own type, and finite.

        Raises:
            KeyError, TypeError, ValueError, OverflowError: the mapping is not a round record.
        """
        query, annotation = data["query"], data["annotation"]
        ids, probs, arms = query["ids"], query["probs"], query.get("arms")
        metrics, seconds = dict(data["metrics"]), dict(data["seconds"])
        believed = list(chain.from_iterable(probs or ()))
        floats = [*query["scores"], *believed, *metrics.values(), *seconds.values()]
        _check_leaves(floats, float)
        _check_leaves([data["round_index"], data["n_labeled"], *ids, *annotation["labels"], *(arms or ())], int)
        _check_leaves(annotation["abstained"], bool)
        _check_leaves([data["stop_reason"] or ""], str)
        asked = np.array(ids, dtype=np.int64)
        evaluation, revised = data.get("evaluation"), data.get("revised")
        return cls(
            round_index=data["round_index"],
            n_labeled=data["n_labeled"],
            query=Query(
                ids=asked,
                scores=np.array(query["scores"], dtype=np.float64),
                probs=None if probs is None else np.array(probs, dtype=np.float64),
                arms=None if arms is None else np.array(arms, dtype=np.int64),
            ),
            annotation=Annotation(
                ids=asked,
                labels=np.array(annotation["labels"], dtype=np.int64),
                abstained=np.array(annotation["abstained"], dtype=np.bool_),
            ),
            metrics=metrics,
            seconds=seconds,
            stop_reason=data["stop_reason"],
            evaluation=None if evaluation is None else _evaluation_from_json(evaluation),
            revised=NO_LABELS if revised is None else LabeledSet(**_integer_arrays(revised, "ids", "labels")),
        )


def _evaluation_from_json(data: Mapping[str, Any]) -> EvaluationQuery:
    _check_leaves(data["proposals"], float)
    proposals = np.array(data["proposals"], dtype=np.float64)
    return EvaluationQuery(proposals=proposals, **_integer_arrays(data, "ids", "labels"))


def _integer_arrays(data: Mapping[str, Any], *names: str) -> dict[str, IntArray]:
    _check_leaves([value for name in names for value in data[name]], int)
    return {name: np.array(data[name], dtype=np.int64) for name in names}


def _check_leaves(values: Sequence[Any], kind: type) -> None:
    if not {kind}.issuperset(map(type, values)):
        raise TypeError(f"expected {kind.__name__} only, found {str(values)[:60]}")
    if kind is float and not all(map(math.isfinite, values)):
        raise ValueError("a number is infinite or NaN")


def labeled_after(rounds: Sequence[RoundRecord]) -> LabeledSet:
    """Return every label recorded so far, in the order in which it was asked for; of one that was revised, the last."""
    if any(len(record.revised) for record in rounds):
        labels = _asked_labels(rounds)
        known = {id_: label for id_, label in labels.items() if label >= 0}
        return LabeledSet(ids=np.array([*known], dtype=np.int64), labels=np.array([*known.values()], dtype=np.int64))
    answered = [record.annotation.answered() for record in rounds]
    return LabeledSet(
        ids=np.concatenate([np.empty(0, np.int64), *(part.ids for part in answered)]),
        labels=np.concatenate([np.empty(0, np.int64), *(part.labels for part in answered)]),
    )


def rejected_after(rounds: Sequence[RoundRecord]) -> IntArray:
    """Return the ids that were asked for to learn from and that have no label, ascending: of no class, or skipped."""
    return np.sort(np.array([id_ for id_, label in _asked_labels(rounds).items() if label < 0], dtype=np.int64))


def evaluated_after(rounds: Sequence[RoundRecord]) -> EvaluationQuery:
    """Return everything drawn so far to measure models by, in the order of the draws, with its labels as revised."""
    queries = [record.evaluation for record in rounds if record.evaluation is not None]
    labels = _evaluation_labels(rounds)
    return EvaluationQuery(
        ids=np.array([*labels], dtype=np.int64),
        proposals=np.concatenate([np.empty(0), *(query.proposals for query in queries)]),
        labels=np.array([*labels.values()], dtype=np.int64),
    )


def history_after(rounds: Sequence[RoundRecord]) -> History:
    """Return what was asked for so far by strategies that another one chose among."""
    chosen = [(record.round_index, record.query.ids, record.query.arms) for record in rounds]
    kept = [(index, ids, arms) for index, ids, arms in chosen if arms is not None]
    labels, none = _asked_labels(rounds), np.empty(0, np.int64)
    ids = np.concatenate([none, *(ids for _, ids, _ in kept)])
    return History(
        ids=ids,
        labels=np.array([labels[id_] for id_ in ids.tolist()], dtype=np.int64),
        arms=np.concatenate([none, *(arms for _, _, arms in kept)]),
        round_index=np.repeat(
            np.array([index for index, _, _ in kept], dtype=np.int64), [len(ids) for _, ids, _ in kept]
        ),
    )


def last_labels(rounds: Sequence[RoundRecord]) -> dict[int, int]:
    """Return the last label of everything that was ever asked for, to learn from or to measure; -1 where none is."""
    return _asked_labels(rounds) | _evaluation_labels(rounds)


def _asked_labels(rounds: Sequence[RoundRecord]) -> dict[int, int]:
    return _with_revisions(rounds, [(record.query.ids, record.annotation.labels) for record in rounds])


def _evaluation_labels(rounds: Sequence[RoundRecord]) -> dict[int, int]:
    queries = [record.evaluation for record in rounds if record.evaluation is not None]
    return _with_revisions(rounds, [(query.ids, query.labels) for query in queries])


def _with_revisions(rounds: Sequence[RoundRecord], asked: Sequence[tuple[IntArray, IntArray]]) -> dict[int, int]:
    """Return the last label of every id that was asked for, in the order of asking; -1 where it has none."""
    labels = {id_: label for ids, found in asked for id_, label in zip(ids.tolist(), found.tolist(), strict=True)}
    for record in rounds:
        for id_, label in zip(record.revised.ids.tolist(), record.revised.labels.tolist(), strict=True):
            if id_ in labels:
                labels[id_] = label
    return labels


def asked_ids(rounds: Sequence[RoundRecord]) -> IntArray:
    """Return every id that was ever queried, answered or not: an abstained example is not asked again."""
    return np.concatenate([np.empty(0, np.int64), *(record.query.ids for record in rounds)])


def listed_ids(ids: IntArray, n: int = 5) -> str:
    """Write the first few of some ids for a message, and how many more there are."""
    shown = ", ".join(str(i) for i in ids[:n])
    return shown if len(ids) <= n else f"{shown}, ... and {len(ids) - n} more"
