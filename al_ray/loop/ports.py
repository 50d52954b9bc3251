"""Ports of the active-learning loop: the classifier, the records, and the plan of a cell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from al_ray.confidence import ConfidenceMethod
from al_ray.core.types import Embedded, Float32Array, FloatArray, IntArray, LabeledSet, ModelOutputs, RoundRecord, Split
from al_ray.evaluation import Evaluation
from al_ray.filtering import CandidateFilter
from al_ray.initial import InitialQuery
from al_ray.oracle import Oracle
from al_ray.stopping import StoppingRule
from al_ray.strategy import QueryStrategy

Arrays = Mapping[str, Mapping[str, np.ndarray[Any, Any]]]


class Fit(Protocol):
    """Result of a fine-tune, apart from the weights."""

    @property
    def dynamics(self) -> FloatArray | None:
        """Logits of the watched examples after every epoch ``[n_watched, n_epochs, n_classes]``, by id."""
        ...


class Classifier(Protocol):
    """The model port: fine-tunes from fresh weights, predicts with the last fine-tune.

    It was built with the loss and the :class:`~al_ray.core.types.Sampling` (members, dropout passes, attention) of the
    cell's confidence method. ``plain`` asks for the model that the evaluation measures instead: cross-entropy, or the
    loss of the paper's code; one member, no dropout.
    """

    def finetune(
        self, labeled: LabeledSet, *, round_index: int, plain: bool = False, watched: IntArray | None = None
    ) -> Fit:
        """Fit fresh models on the answers so far.

        Args:
            labeled: the answers.
            round_index: names the random streams.
            plain: fit the model that the evaluation measures, with the streams of the first member.
            watched: pool examples, ids ascending, whose logits are recorded after every epoch of the first member.
        """
        ...

    def predict(
        self,
        split: Split,
        ids: IntArray,
        *,
        plain: bool = False,
        with_features: bool = False,
        with_logits_without_dropout: bool = False,
    ) -> ModelOutputs:
        """Return the outputs of exactly ``ids``, sorted by id."""
        ...

    def cross_predict(self, labeled: LabeledSet, *, n_folds: int, round_index: int) -> ModelOutputs:
        """Return out-of-fold outputs of labelled examples; one whose class would vanish with it is left out.

        It leaves the weights of the last fold behind, so it comes before :meth:`finetune`.
        """
        ...

    def embeddings(self, of: Embedded) -> Float32Array:
        """Return embeddings by the encoder before any fine-tune ``[n, n_embedding]``, unit length.

        Of all of a split by ascending id, or of the names of the classes in label order. They may be mapped from a
        file, and are only read.
        """
        ...


class Records(Protocol):
    """The records port: what has been recorded, and the place for one round more."""

    def rounds(self) -> list[RoundRecord]:
        """Return the recorded rounds, oldest first."""
        ...

    def arrays(self, round_index: int) -> Arrays:
        """Return the arrays of a recorded round."""
        ...

    def append(self, record: RoundRecord, arrays: Arrays) -> None:
        """Record one round for good; when this returns, the round has happened."""
        ...


class Outside(Protocol):
    """The port of answers that come from outside, in their own time: what is asked, and what came back so far."""

    def pending(self) -> tuple[RoundRecord, Arrays] | None:
        """Return the round whose query is out and has no answers yet, or None."""
        ...

    def ask(self, record: RoundRecord, arrays: Arrays) -> None:
        """Keep a round, all but its answers; when this returns, the query stays what it is and may be asked."""
        ...

    def answered(self, record: RoundRecord) -> RoundRecord | None:
        """Return a round that was asked with its answers, the same on every rank, or None while some are missing."""
        ...


@dataclass(frozen=True, kw_only=True)
class Loop:
    """What one cell does, with its plug-ins built.

    Attributes:
        truth: ids (ascending) and labels of the training split, -1 where nobody knows one; read by the oracle and by
            stratified starts alone.
        test: ids (ascending) and labels of the test split, which may be empty.
        given: ids of ``truth``, ascending, whose labels were there from the start: the initial query begins with them.
        groups: data slice of every example of ``truth`` and of ``test``, or None; metrics are given by slice.
        rounds: queries after the initial one, at most.
        evaluation: which model the learning curve measures: the cell's ``own``, a ``plain`` one on the same answers, or
            ``gonsior2022/plain``, that one with the loss and the early stopping of the paper's code.
        estimation: how the accuracy is estimated from answers that are paid for, or None.
    """

    seed: int
    n_classes: int
    truth: LabeledSet
    test: LabeledSet
    given: IntArray = field(default_factory=lambda: np.empty(0, np.int64))
    groups: tuple[Sequence[str], Sequence[str]] | None = None
    initial: InitialQuery
    initial_size: int
    query_size: int
    rounds: int
    confidence: ConfidenceMethod
    strategy: QueryStrategy
    filters: Sequence[CandidateFilter]
    oracle: Oracle
    stopping: Sequence[StoppingRule]
    evaluation: Literal["own", "plain", "gonsior2022/plain"] = "own"
    estimation: Evaluation | None = None
