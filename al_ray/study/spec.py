"""The identity of a cell: everything that decides what is computed, and nothing that decides where.

Validated by pydantic, strictly: no value is converted and no key is guessed. A plug-in stands in a spec as the frozen
dataclass that its option builds.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    PlainValidator,
)

from al_ray.confidence import ConfidenceMethod, confidences, needs_plain_model
from al_ray.data import datasets, normalise_option
from al_ray.data.files import PathSource
from al_ray.errors import ConfigError, unknown_name
from al_ray.evaluation import Evaluation, evaluations
from al_ray.filtering import CandidateFilter, filters
from al_ray.initial import InitialQuery, initial_queries
from al_ray.model.recipe import FinetuneRecipe
from al_ray.oracle import Oracle, oracles
from al_ray.records.json import canonical_json, cell_fingerprint, identity_of
from al_ray.registry import LARGEST, describe, option_of, options_model, validate
from al_ray.stopping import StoppingRule, stopping_rules
from al_ray.strategy import QueryStrategy, strategies

SPEC_VERSION = 3
_CONSISTENT = "'ensemble', or {name: mc_dropout, where: head}"

T = TypeVar("T")
Precision = Literal["float32", "bf16"]
MeasuredModel = Literal["own", "plain", "gonsior2022/plain"]

_AS_TUPLE = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
Filters = Annotated[tuple[Annotated[CandidateFilter, filters], ...], _AS_TUPLE]
StoppingRules = Annotated[tuple[Annotated[StoppingRule, stopping_rules], ...], _AS_TUPLE]


class _FinetuneSchema:
    """JSON schema of ``finetune``."""

    @staticmethod
    def __get_pydantic_json_schema__(schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return handler(options_model(FinetuneRecipe).__pydantic_core_schema__)


class _DatasetSchema:
    """JSON schema of ``dataset``: a registered name with its options, a path, or a folder of ``AL_RAY_DATA``."""

    @staticmethod
    def __get_pydantic_json_schema__(schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        registered = datasets.__get_pydantic_json_schema__(schema, handler)
        by_path = options_model(PathSource)
        folder = by_path.model_json_schema()
        folder["properties"] |= {"name": {"type": "string", "not": {"enum": datasets.names()}}}
        folder["required"] = ["name"]
        del folder["properties"]["path"]
        return {"anyOf": [{"type": "string"}, *registered["anyOf"], handler(by_path.__pydantic_core_schema__), folder]}


def _evaluation(value: Any) -> Any:
    """Return the name of the model that is measured on the test split, or the plug-in that estimates without one."""
    if isinstance(value, str) and value in get_args(MeasuredModel):
        return value
    if hasattr(value, "n_held_out"):
        return value
    names = evaluations.names()
    if not isinstance(value, str | Mapping) or (isinstance(value, str) and value not in names):
        raise ConfigError(unknown_name("evaluation", value, [*get_args(MeasuredModel), *names]))
    return evaluations.build(value)


def _evaluation_option(value: Any) -> Any:
    return value if isinstance(value, str) else option_of(value)


class _EvaluationSchema:
    """JSON schema of ``evaluation``: the model that a test split measures, or a way to estimate without one."""

    @staticmethod
    def __get_pydantic_json_schema__(schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        plugins = evaluations.__get_pydantic_json_schema__(schema, handler)
        return {"anyOf": [{"enum": [*get_args(MeasuredModel)], "type": "string"}, *plugins["anyOf"]]}


def _recipe(value: Any) -> FinetuneRecipe:
    if isinstance(value, FinetuneRecipe):
        return value
    if not isinstance(value, Mapping):
        raise ConfigError(f"finetune is {value!r}, it must be a mapping of options such as {{learning_rate: 2e-5}}.")
    return FinetuneRecipe.of(value)


def _model(value: Any) -> Any:
    return value if isinstance(value, Mapping | ModelSpec) else {"name": value}


class Identity(BaseModel):
    """Base of the models that are hashed: frozen, strict, no unknown key."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", json_schema_extra=describe)


class ModelSpec(Identity):
    """Which transformer is fine-tuned.

    Attributes:
        name: ``minilm``, a Hub id, or a local folder; where it was found, once its content is known.
        revision: commit of a Hub id; None where the name is pinned by al_ray, or a folder; likewise.
        init: ``pretrained`` weights, or the same architecture with ``random`` ones.
        sha256: of the weights; filled in when the model is resolved.
        settings_sha256: of configuration and tokenizer; filled in likewise.
    """

    name: str
    revision: str | None = None
    init: Literal["pretrained", "random"] = "pretrained"
    sha256: str | None = None
    settings_sha256: str | None = None


ModelOption = Annotated[ModelSpec, BeforeValidator(_model, json_schema_input_type=str | ModelSpec)]


class CellSpec(Identity):
    """One fully specified active-learning run (protocol defaults: Gonsior et al. 2022, arXiv 2210.03005).

    Attributes:
        dataset: option of the data family, by name or by path; where the rows were found, once their content is known.
        dataset_sha256: of the rows; filled in when the data set is resolved.
        model: which transformer is fine-tuned: ``minilm``, a Hub id, or a local folder, alone or with its options.
        max_tokens: texts are cut to so many tokens, special ones included.
        finetune: how the model is fine-tuned on the answers so far, from fresh weights every round.
        precision: of forward passes and gradients; master weights are always float32.
        scoring_batch_size: texts a forward pass; identity, because it decides the last bits of a logit.
        confidence: how sure the model is: the method that reads log-probabilities from its outputs.
        strategy: which examples are asked for next.
        filters: which examples a round may not ask for, whatever their score; applied in this order.
        oracle: who answers a query.
        stopping: rules that end the cell before its last round; the first that says so ends it.
        initial: which examples are labelled before there is a model.
        initial_size: examples in the initial query.
        query_size: examples in every later query.
        rounds: queries after the initial one, at most.
        seed: of every random stream of the cell.
        evaluation: whose test metrics the learning curve holds: the cell's ``own`` model's, read by its confidence
            method, or those of a ``plain`` one with cross-entropy and softmax on the same answers, as in the paper;
            ``gonsior2022/plain`` is that one as the paper's code fits it, with a yes-or-no loss on two classes. Or how
            the accuracy is estimated beside, from answers that are paid for: ``random_sample``, ``active_testing``.
        workers: processes that fine-tune one model together; identity, because dropout depends on it.
    """

    dataset: Annotated[dict[str, Any], BeforeValidator(normalise_option), _DatasetSchema]
    dataset_sha256: str | None = None
    model: ModelOption = ModelSpec(name="minilm")
    max_tokens: Annotated[int, Field(ge=3, le=LARGEST)] = 60
    finetune: Annotated[
        FinetuneRecipe, BeforeValidator(_recipe), PlainSerializer(FinetuneRecipe.to_json), _FinetuneSchema
    ] = FinetuneRecipe()
    precision: Precision = "float32"
    scoring_batch_size: Annotated[int, Field(ge=1, le=LARGEST)] = 64
    confidence: Annotated[ConfidenceMethod, confidences] = confidences.build("softmax")
    strategy: Annotated[QueryStrategy, strategies]
    filters: Filters = ()
    oracle: Annotated[Oracle, oracles] = oracles.build("ground_truth")
    stopping: StoppingRules = ()
    initial: Annotated[InitialQuery, initial_queries] = initial_queries.build("stratified")
    initial_size: Annotated[int, Field(ge=1, le=LARGEST)] = 25
    query_size: Annotated[int, Field(ge=1, le=LARGEST)] = 25
    rounds: Annotated[int, Field(ge=0, le=LARGEST)] = 20
    seed: Annotated[int, Field(ge=0, le=LARGEST)]
    evaluation: Annotated[
        MeasuredModel | Evaluation, PlainValidator(_evaluation), PlainSerializer(_evaluation_option), _EvaluationSchema
    ] = "own"
    workers: Annotated[int, Field(ge=1, le=LARGEST)] = 1

    @property
    def kind(self) -> tuple[int, ...]:
        """What two specs share, as long as both are held, that are one but for the seed: all other values, as objects.

        So what does not depend on the seed is worked out once for thousands of cells (:func:`once_a_kind`). Specs that
        were made apart may be equal and have other kinds.
        """
        return tuple(id(value) for name, value in self.__dict__.items() if name != "seed")

    def changed(self, **values: Any) -> "CellSpec":
        """Return the spec with other values, which are valid; it shares all others, so that many take little memory."""
        return CellSpec.model_construct(self.model_fields_set, **{**self.__dict__, **values})

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form that is stored; :func:`read_spec` reads it back equal."""
        return {"spec_version": SPEC_VERSION, **self.model_dump(mode="json")}

    def fingerprint(self) -> str:
        """Return the SHA-256 of what decides what is computed; paths count only while the content is not known."""
        return cell_fingerprint(self.to_json())

    def dataset_name(self) -> str:
        """Return the short name of the data set, for slugs and tables."""
        return str(self.dataset["name"])

    @property
    def measured_model(self) -> MeasuredModel:
        """Which model's metrics on the test split the learning curve holds."""
        return self.evaluation if isinstance(self.evaluation, str) else "own"

    @property
    def estimation(self) -> Evaluation | None:
        """How the accuracy is estimated without a test split, or None."""
        return None if isinstance(self.evaluation, str) else self.evaluation

    def n_held_out(self, n_train: int) -> int:
        """Return how many examples of a training split are never queried: for validation, and in the test pool."""
        n_validation = max((rule.n_validation for rule in self.stopping), default=0)
        if self.estimation is None:
            return n_validation
        return n_validation + self.estimation.n_held_out(max(n_train - n_validation, 0))

    def n_excluded(self, n_train: int, n_no_class: int = 0) -> int:
        """Return how many examples of a training split the filters leave out in every round, those of no class first.

        Args:
            n_train: examples in the split.
            n_no_class: how many of them are of no class, which are the hardest there are.
        """
        n_asked = max(n_train - self.n_held_out(n_train), 0)
        found = (each.n_excluded(n_asked) for each in self.filters)
        return max((max(n, min(n_no_class, n_asked)) for n in found if n), default=0)

    def n_left(self, n_pool: int) -> int:
        """Return how many examples of a pool are candidates for certain, when each filter has removed what it may."""
        for each in self.filters:
            n_pool -= each.n_removed(max(n_pool, 0), self.query_size)
        return n_pool

    def conflicts(self) -> list[str]:
        """Return why its parts do not fit together, one sentence each; empty when they do."""
        found = []
        name, draws = self.strategy.name, self.confidence.n_draws
        if draws < self.strategy.min_draws:
            usual = confidences.build(self.confidence.name).n_draws
            few = f"With its default options it gives {usual}" if usual >= self.strategy.min_draws else ""
            many = f"Use {_CONSISTENT}" if self.strategy.needs_consistent_draws else "Use 'mc_dropout' or 'ensemble'"
            found.append(
                f"strategy {name!r} needs at least {self.strategy.min_draws} draws per example, "
                f"but confidence {self.confidence.name!r} gives {draws}. {few or many}."
            )
        found += self._misfits_of_confidence() + self._misfits_of_filters() + self._misfits_of_learner()
        if self.strategy.labels_everything and self.filters:
            found.append(
                f"strategy {name!r} labels everything, so the filter {self.filters[0].name!r} has nothing to do. "
                "Put it in a grid block of its own with 'filters: []'."
            )
        for field in ("filters", "stopping"):
            names = [plugin.name for plugin in getattr(self, field)]
            doubled = sorted({n for n in names if names.count(n) > 1})
            found += [f"{field} names {n!r} twice. Name it once." for n in doubled]
        return found

    def _misfits_of_confidence(self) -> list[str]:
        found, strategy, confidence = [], self.strategy, self.confidence
        if strategy.needs_consistent_draws and not confidence.has_consistent_draws and confidence.n_draws > 1:
            found.append(
                f"strategy {strategy.name!r} needs draws that are one model for all examples, but those of confidence "
                f"{confidence.name!r} differ from example to example. Use {_CONSISTENT}."
            )
        if strategy.needs_uncertainty and not confidence.has_uncertainty:
            able = [name for name in confidences.names() if confidences.get(name).has_uncertainty]
            found.append(
                f"strategy {strategy.name!r} asks for the confidence method's own uncertainty, which "
                f"{confidence.name!r} does not have. These have one: {', '.join(able)}."
            )
        if 0 < strategy.n_watched < self.query_size:
            found.append(
                f"strategy {strategy.name!r} watches {strategy.n_watched} examples, fewer than query_size "
                f"({self.query_size}). Raise n_watched to {self.query_size}, or lower query_size to "
                f"{strategy.n_watched}."
            )
        return found

    def _misfits_of_learner(self) -> list[str]:
        """Say what would need of the encoder what frozen layers, computed once, do not give."""
        recipe, sampling, name = self.finetune, self.confidence.sampling, self.confidence.name
        if self.strategy.needs_hindsight and not recipe.is_frozen:
            return [
                f"strategy {self.strategy.name!r} fits some 100,000 models in one search, which only features that "
                "never change allow. Use 'finetune: {frozen_layers: all, solver: lbfgs}'."
            ]
        if recipe.frozen_layers == 0:
            return []
        found, frozen = [], f"with 'frozen_layers: {recipe.frozen_layers}' the output of the frozen layers"
        if sampling.adaptive_attention:
            found.append(
                f"{frozen} is computed once, as it was pretrained, so confidence {name!r} cannot change their "
                "attention. Use 'where: logits'."
            )
        if not recipe.is_frozen:
            if self.model.init == "random":
                found.append(
                    f"{frozen} is computed once, but 'init: random' draws all layers anew in every fit. Use "
                    "'init: pretrained', or 'frozen_layers: 0'."
                )
            return found
        if sampling.dropout == "network":
            found.append(
                f"{frozen} is computed once, without dropout, so confidence {name!r} has no network to drop from. "
                "Use 'where: head'."
            )
        if self.workers > 1:
            found.append(
                f"workers is {self.workers}, and the frozen learner fits in milliseconds, in one process. Use "
                "'workers: 1' and more lanes."
            )
        return found + (self._misfits_of_lbfgs() if recipe.solver == "lbfgs" else [])

    def _misfits_of_lbfgs(self) -> list[str]:
        found, confidence = [], self.confidence
        solver = "'solver: lbfgs' is logistic regression"
        adamw = "Use 'solver: adamw'."
        if confidence.new_loss() is not None:
            found.append(f"{solver}, and confidence {confidence.name!r} has a loss of its own. {adamw}")
        elif needs_plain_model(self.measured_model, confidence):
            found.append(f"{solver}, and evaluation {self.evaluation!r} has a loss of its own. {adamw}")
        if confidence.sampling.n_members > 1:
            found.append(f"{solver}, whose members of confidence {confidence.name!r} would all be one model. {adamw}")
        if self.strategy.n_watched or self.strategy.needs_labeled_dynamics:
            found.append(f"{solver}, without epochs for strategy {self.strategy.name!r} to watch. {adamw}")
        return found

    def _misfits_of_filters(self) -> list[str]:
        found, strategy = [], self.strategy
        for each in self.filters:
            if each.clips and not strategy.ranks:
                found.append(
                    f"filter {each.name!r} removes the top of the ranking, but strategy {strategy.name!r} has none: it "
                    "chooses the batch as a whole. Drop the filter."
                )
            if each.needs_last_scores and not strategy.needs_scores:
                found.append(
                    f"filter {each.name!r} goes by the last uncertainty, but strategy {strategy.name!r} does not score "
                    "the pool. Use 'random_subsample'."
                )
        return found


def once_a_kind(work: Callable[[CellSpec], T]) -> Callable[[CellSpec], T]:
    """Return a function of a spec that is worked out once for all specs of a kind; it does not depend on the seed."""
    known: dict[tuple[int, ...], tuple[T, CellSpec]] = {}

    def of(spec: CellSpec) -> T:
        kind = spec.kind
        if kind not in known:
            known[kind] = work(spec), spec  # held, so that no other object gets the identity of one of its values
        return known[kind][0]

    return of


def fingerprints(spec: CellSpec) -> Callable[[int], str]:
    """Return what gives the fingerprint of a spec with another seed; the text of all else is written once."""
    parts = {name: canonical_json({name: value})[1:-1] for name, value in identity_of(spec.to_json()).items()}
    names = sorted(parts)
    at = names.index("seed")
    before = "".join(f"{parts[name]}," for name in names[:at])
    after = "".join(f",{parts[name]}" for name in names[at + 1 :])

    def of(seed: int) -> str:
        return hashlib.sha256(f'{{{before}"seed":{seed}{after}}}'.encode("ascii")).hexdigest()

    assert of(spec.seed) == spec.fingerprint(), "a fingerprint is that of the canonical JSON"
    return of


def make_spec(values: Mapping[str, Any], where: str) -> CellSpec:
    """Validate one cell's values.

    Args:
        values: field -> value, as a study file gives them.
        where: what the message calls them, such as ``grid block 2``.

    Raises:
        ConfigError: with one line for every value that is wrong.
    """
    spec: CellSpec = validate(CellSpec, values, where, missing="Name it in the block or in 'defaults'")
    return spec


def read_spec(stored: Mapping[str, Any]) -> CellSpec:
    """Read :meth:`CellSpec.to_json` back.

    Raises:
        ConfigError: another version, or no spec.
    """
    values = dict(stored)
    version = values.pop("spec_version", None)
    if version != SPEC_VERSION:
        raise ConfigError(
            f"the stored spec has version {version!r}, this al_ray reads version {SPEC_VERSION}. "
            "Use the al_ray that wrote it."
        )
    return make_spec(values, "stored spec")
