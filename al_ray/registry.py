"""Plug-in registries: one family, one package, one frozen dataclass a plug-in.

A plug-in is its own configuration: ``{name: uncertainty_clipping, fraction: 0.05}`` in a study file builds the frozen
dataclass registered under that name, and :func:`option_of` gives the same mapping back. A bare name means its defaults.

pydantic checks every option, strictly: the annotated fields of the dataclass become a model (:func:`options_model`),
the models of a family a union discriminated by ``name``, and that the JSON schema for editors. What pydantic finds is
worded here, and nowhere else.
"""

import dataclasses
import functools
import importlib
import inspect
import math
import operator
import pkgutil
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Generic, Literal, Protocol, TypeVar

import annotated_types
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    TypeAdapter,
    ValidationError,
    create_model,
)
from pydantic_core import ErrorDetails, core_schema

from al_ray.errors import AlRayError, ConfigError, in_yaml, unknown_name

T = TypeVar("T")
C = TypeVar("C", bound=type)

LARGEST = 2**63 - 1  # what tables of 64-bit integers hold
LATER = "added when records of the plug-in were there already"
"""Marks an option, as in ``Annotated[float, LATER] = 0.0``, whose default no record writes out.

So a spec that was stored before the option was there equals one that is made now.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Within(annotated_types.GroupedMetadata):
    """Bounds of a number, as in ``fraction: Annotated[float, Within(ge=0, lt=1, advice="0.05 clips 5 %.")] = 0.05``.

    Attributes:
        ge: the number is at least this.
        gt: the number is above this.
        le: the number is at most this.
        lt: the number is below this.
        finite: whether the message says that the number is finite; no number may be infinite or NaN in any case.
        right: the clause that says what would be right, where "it must be at least ..." is not enough.
        advice: ends the message: a usual value and what it does.
    """

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    finite: bool = False
    right: str = ""
    advice: str = ""

    def __iter__(self) -> Iterator[object]:
        """Yield what pydantic checks and writes into JSON schemas."""
        yield from annotated_types.Interval(ge=self.ge, gt=self.gt, le=self.le, lt=self.lt)

    def __str__(self) -> str:
        if self.ge is not None and self.le is not None:
            return f"between {self.ge} and {self.le}"
        parts = (("at least", self.ge), ("above", self.gt), ("at most", self.le), ("below", self.lt))
        words = [f"{word} {bound}" for word, bound in parts if bound is not None]
        return " and ".join([*words, *(["finite"] if self.finite else [])])

    def excludes(self, value: float) -> bool:
        """Say whether a number that is not finite breaks these bounds, rather than the rule that records hold none."""
        return self.finite or value != math.inf or self.le is not None or self.lt is not None


class Plugin(Protocol):
    """A frozen dataclass that is registered under a name; its fields are checked however it is made.

    Attributes:
        name: what a study file calls it.
    """

    name: ClassVar[str]

    def __post_init__(self) -> None:
        check_options(self)


class Registry(Generic[T]):
    """The plug-ins of one family, found by importing every module of its package once.

    As the annotation of a pydantic field, ``Annotated[QueryStrategy, strategies]``, it builds the field's value from an
    option, writes it back as one, and gives the JSON schema of all options of the family.

    A plug-in sees arrays and can be tried without a study. Here a strategy chooses two of four unlabelled examples:

    >>> import al_ray
    >>> import numpy as np
    >>> from al_ray.core.ranking import rank
    >>> from al_ray.core.seeding import stream
    >>> from al_ray.core.types import LabeledSet
    >>> probs = np.array([[0.9, 0.1], [0.6, 0.4], [0.55, 0.45], [0.2, 0.8]])
    >>> pool = al_ray.PoolView(
    ...     ids=np.array([3, 5, 8, 13]),
    ...     log_probs=np.log(probs)[:, None, :],  # [n_pool, n_draws, n_classes]
    ...     features=np.array([[1, 0], [1, 1], [1, 1], [0, 1]], dtype=np.float32),
    ...     labeled=LabeledSet(ids=np.array([1, 2]), labels=np.array([0, 1])),
    ... )
    >>> badge = al_ray.strategies.build("badge")
    >>> ranking = rank(pool.ids, badge.score(pool, stream(0, "score")), seed=0)  # high = query first
    >>> ranking.ids.tolist()
    [8, 5, 13, 3]
    >>> badge.pick(pool, ranking, 2, stream(0, "pick")).tolist()  # the top, and one that is unlike it
    [8, 3]

    Args:
        family: what one plug-in is called in messages, such as ``query strategy``.
        package: dotted name of the package whose modules hold the plug-ins.
    """

    def __init__(self, family: str, package: str) -> None:
        self.family = family
        self.package = package
        self._classes: dict[str, type[T]] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[C], C]:
        """Register the decorated frozen dataclass under ``name``."""

        def add(cls: C) -> C:
            assert dataclasses.is_dataclass(cls), f"{cls.__name__} must be a dataclass"
            assert name not in self._classes, f"{self.family} {name!r} is registered twice"
            assert cls.__doc__, f"{cls.__name__} needs a docstring with its source"
            cls.name = name  # type: ignore[attr-defined]
            self._classes[name] = cls  # type: ignore[assignment]
            return cls

        return add

    def names(self) -> list[str]:
        """Return all registered names in alphabetical order."""
        self._discover()
        return sorted(self._classes)

    def get(self, name: str) -> type[T]:
        """Return the class registered under ``name``.

        Raises:
            ConfigError: no plug-in of this family has that name.
        """
        self._discover()
        if name not in self._classes:
            raise ConfigError(unknown_name(self.family, name, self._classes))
        return self._classes[name]

    def build(self, option: "str | Mapping[str, Any]", **options: Any) -> T:
        """Build the plug-in of a name, with its options: ``filters.build("uncertainty_clipping", fraction=0.1)``.

        Args:
            option: a bare name, or a mapping with ``name`` and any of the plug-in's fields, as in a study file.
            options: fields of the plug-in; the others keep their defaults.

        Raises:
            ConfigError: unknown name or field, a value of the wrong type, or one that the plug-in refuses.
        """
        if isinstance(option, str):
            option = {"name": option}
        if not isinstance(option, Mapping) or not isinstance(option.get("name"), str):
            raise ConfigError(
                f"a {self.family} is a name or a mapping with a 'name', found {option!r}. "
                f"Write for example {{name: {self.names()[0]}}}."
            )
        cls = self.get(option["name"])
        return build_dataclass(cls, {**option, **options}, f"{self.family} {option['name']!r}")

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def build(option: Any) -> Any:
            return option if hasattr(option, "name") and not isinstance(option, Mapping) else self.build(option)

        written = core_schema.plain_serializer_function_ser_schema(option_of)
        return core_schema.no_info_plain_validator_function(build, serialization=written)

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Return the schema of a bare name or of a mapping, of the plug-in that its ``name`` tells."""
        models = [options_model(self.get(name)) for name in self.names()]  # type: ignore[arg-type]
        union: Any = functools.reduce(operator.or_, models)
        options: Any = Annotated[union, Field(discriminator="name")] if models[1:] else union
        bare = [
            {"const": name, "description": model.__doc__}
            for name, model in zip(self.names(), models, strict=True)
            if not any(field.is_required() for key, field in model.model_fields.items() if key != "name")
        ]
        return {"title": self.family, "anyOf": [*bare, handler(TypeAdapter(options).core_schema)]}

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        package = importlib.import_module(self.package)
        for module in pkgutil.walk_packages(package.__path__, f"{self.package}."):
            importlib.import_module(module.name)


class Parts(Registry[T]):
    """Some plug-ins of a family, as the options of another one: ``arms: tuple[Annotated[QueryStrategy, parts], ...]``.

    Args:
        whole: the family.
        fits: whether a class may be such an option; none may that has such options itself, or their JSON schema would
            have no end.
        reason: ends the message about one that may not: why, and what would be right.
    """

    def __init__(self, whole: Registry[T], fits: Callable[[type[T]], bool], reason: str) -> None:
        super().__init__(whole.family, whole.package)
        self._whole, self._fits, self._reason = whole, fits, reason

    def names(self) -> list[str]:
        """Return the names of those that may be options, in alphabetical order."""
        return [name for name in self._whole.names() if self._fits(self._whole.get(name))]

    def get(self, name: str) -> type[T]:
        """Return the class registered under ``name``.

        Raises:
            ConfigError: no plug-in of this family has that name, or it may not be an option of another.
        """
        found = self._whole.get(name)
        if not self._fits(found):
            raise ConfigError(f"{self.family} {name!r} {self._reason}")
        return found


class _Options(BaseModel):
    """Base of the models that check the options of a dataclass: no value is converted, no key is guessed."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


@functools.cache
def options_model(cls: Any) -> type[BaseModel]:
    """Return the pydantic model of a dataclass's options; that of a plug-in has its ``name``, too."""
    hints = typing.get_type_hints(cls, include_extras=True)
    texts = attribute_texts(cls)
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        written: Any
        default = ... if field.default is dataclasses.MISSING else field.default
        # pydantic would write a plug-in without its name.
        written = {} if _plain(default) == default else {"json_schema_extra": {"default": _plain(default)}}
        fields[field.name] = (hints[field.name], Field(default, description=texts.get(field.name), **written))
    if "name" not in fields and hasattr(cls, "name"):
        fields = {"name": (Literal[cls.name], Field(description=summary(cls))), **fields}
    return create_model(cls.__name__, __base__=_Options, __module__=cls.__module__, __doc__=summary(cls), **fields)


def build_dataclass(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build a dataclass from untrusted values.

    Raises:
        ConfigError: an unknown or missing field, a wrong type, or a value that the class refuses.
    """
    checked = _checked(cls, values, where)
    try:
        return cls(**checked)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def check_options(built: Any, where: str = "") -> None:
    """Check the fields of a dataclass that was made in Python.

    Raises:
        ConfigError: a field of a wrong type, or out of its bounds.
    """
    named = {"name": built.name} if hasattr(built, "name") else {}
    _checked(type(built), {**named, **vars(built)}, where)


def _checked(cls: type, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return all fields of a dataclass, checked, the defaults filled in."""
    takes = _hints(cls)
    values = {
        str(key): tuple(value) if isinstance(value, list) and _takes_tuple(takes.get(key)) else value
        for key, value in values.items()
    }
    try:
        checked = vars(options_model(cls).model_validate(values))
    except ValidationError as error:
        details = sorted(error.errors(), key=lambda detail: _ORDER.get(detail["type"], 1))
        raise ConfigError(_option_words(details[0], cls, values, where)) from None
    return {key: _recordable(value, key, cls, where) for key, value in checked.items() if key in takes}


def _takes_tuple(hint: Any) -> bool:
    return any(typing.get_origin(each) is tuple for each in (hint, *typing.get_args(hint)))


def _recordable(value: Any, key: str, cls: type, where: str) -> Any:
    """Return a value that records give back as it was: no whole number beyond 64 bits, no -0.0."""
    for each in value if isinstance(value, tuple) else (value,):
        if isinstance(each, int) and not -LARGEST <= each <= LARGEST:
            raise ConfigError(
                f"option {key!r} of {where} is {shown_value(each)}, and records hold whole numbers up to {LARGEST}. "
                f"It takes {_type_words(_hints(cls)[key])}."
            )
    return value + 0.0 if isinstance(value, float) else value


_ORDER = {"extra_forbidden": 0, "missing": 2}  # a misspelt name before what is missing for it
_OUT_OF_BOUNDS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number")


def _option_words(detail: ErrorDetails, cls: type, values: Mapping[str, Any], where: str) -> str:
    """Word what pydantic found wrong with an option of a dataclass."""
    key, kind = str(detail["loc"][0]), detail["type"]
    if kind == "extra_forbidden":
        return unknown_name(f"option of {where}:", key, _hints(cls))
    takes = _type_words(_hints(cls)[key])
    if kind == "missing":
        return f"{where} needs the option {key!r} ({takes})."
    option = f"option {key!r}{f' of {where}' if where else ''}"
    value, is_plugin = values[key], hasattr(cls, "name")
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, AlRayError):
        return f"{option}: {cause}"
    if kind in _OUT_OF_BOUNDS:
        bounds = _bounds(typing.get_type_hints(cls, include_extras=True)[key])
        if bounds is None or (kind == "finite_number" and not bounds.excludes(detail["input"])):
            return f"{option} is {value}, which no record can hold. It takes {takes}."
        found = shown_value(list(value) if isinstance(value, tuple) else value)
        if not is_plugin:
            return f"{option} is {found}. It must be {'; '.join(filter(None, (str(bounds), bounds.advice)))}."
        said = f"{f'{where}: ' if where else ''}{key} is {found}, {bounds.right or f'it must be {bounds}'}."
        return f"{said} {bounds.advice}".rstrip()
    if kind == "literal_error" and not is_plugin:
        return f"{option} is {shown_value(value)}. It must be {takes}.{in_yaml(kind, value)}"
    reason = detail["msg"][0].lower() + detail["msg"][1:]
    return f"{option} is {shown_value(value)}: {reason}. It takes {takes}.{in_yaml(kind, detail['input'])}"


def validate(
    model: type[BaseModel], values: Mapping[str, Any], where: str, missing: str = "Add it at the top of the file"
) -> Any:
    """Build a pydantic model from untrusted values, wording its errors in the project's style.

    Args:
        model: the class to build.
        values: field -> value.
        where: what messages call them.
        missing: what to do about a key that is missing.

    Raises:
        ConfigError: with one line for every value that is wrong.
    """
    try:
        return model(**{str(key): value for key, value in values.items()})
    except ValidationError as error:
        raise ConfigError(validation_words(error, model, where, missing)) from None


def validation_words(
    error: ValidationError, model: type[BaseModel], where: str, missing: str = "Add it at the top of the file"
) -> str:
    """Word what pydantic found wrong with a model's values, a line each; arguments as for :func:`validate`."""
    return "\n".join(_key_words(detail, model, where, missing) for detail in error.errors())


def _key_words(detail: ErrorDetails, model: type[BaseModel], where: str, missing: str) -> str:
    """Word what pydantic found wrong with a key of a study file or a spec."""
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, AlRayError):
        return f"{where}: {cause}"
    path = ".".join(str(part) for part in detail["loc"])
    if detail["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        holder: Any = model if len(detail["loc"]) == 1 else model.model_fields[str(detail["loc"][0])].annotation
        return f"{where}: {unknown_name('key', path.rsplit('.', 1)[-1], holder.model_fields)}"
    if detail["type"] == "missing":
        return f"{where}: the key {path!r} is missing. {missing}."
    reason = detail["msg"][0].lower() + detail["msg"][1:]
    return f"{where}: {path} is {shown_value(detail['input'])}: {reason}.{in_yaml(detail['type'], detail['input'])}"


def shown_value(value: Any) -> str:
    """Write a value for a message, however large it is."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integers of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 200 else f"{text[:200]}..."


def option_of(plugin: Any) -> dict[str, Any]:
    """Return the mapping that builds ``plugin`` again: its name and fields; of :data:`LATER` ones no default.

    Plug-ins among the values are written likewise.
    """
    later = later_options(plugin.__class__)
    values = {field.name: getattr(plugin, field.name) for field in dataclasses.fields(plugin)}
    kept = {key: value for key, value in values.items() if key not in later or value != later[key]}
    return {"name": plugin.name, **{key: _plain(value) for key, value in kept.items()}}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return option_of(value) if dataclasses.is_dataclass(value) else value


@functools.cache
def later_options(cls: Any) -> dict[str, Any]:
    """Return the defaults of the options that were added later."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {
        field.name: field.default
        for field in dataclasses.fields(cls)
        if LATER in getattr(hints[field.name], "__metadata__", ())
    }


def fields_of(cls: type) -> dict[str, tuple[str, Any]]:
    """Return the options of a plug-in class: field name -> (type in words, default or None when required)."""
    defaults = {field.name: field.default for field in dataclasses.fields(cls)}
    return {
        key: (_type_words(hint), None if defaults[key] is dataclasses.MISSING else defaults[key])
        for key, hint in _hints(cls).items()
    }


def attribute_texts(cls: type) -> dict[str, str]:
    """Return what the ``Attributes`` of a class's docstring, and of its bases', say: attribute -> text on one line."""
    texts: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        section = inspect.cleandoc(vars(each).get("__doc__") or "").partition("\nAttributes:\n")[2]
        for entry in re.split(r"\n(?=    \S)", section.partition("\n\n")[0]):
            key, colon, text = entry.partition(":")
            if colon:
                texts[key.strip()] = " ".join(text.split())
    return texts


def describe(schema: dict[str, Any], cls: type) -> None:
    """Write into a pydantic model's JSON schema what its docstring says of its fields (``json_schema_extra``)."""
    schema["description"] = summary(cls)
    for key, text in attribute_texts(cls).items():
        if key in schema.get("properties", {}):
            schema["properties"][key]["description"] = text


def summary(cls: type) -> str:
    """Return the first line of a class's docstring."""
    return (cls.__doc__ or "").strip().split("\n")[0]


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """Return the types of a dataclass's fields; worked out once, not once a cell."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _bounds(hint: Any) -> Within | None:
    """Return the bounds that stand anywhere within an annotation."""
    if isinstance(hint, Within):
        return hint
    inner = (*typing.get_args(hint), *getattr(hint, "__metadata__", ()))
    return next(filter(None, map(_bounds, inner)), None)


def _type_words(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(repr(value) for value in typing.get_args(hint))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " | ".join("None" if each is type(None) else _type_words(each) for each in typing.get_args(hint))
    plain = isinstance(hint, type) and not typing.get_args(hint)
    return hint.__name__ if plain else re.sub(r"\b(\w+\.)+(?=\w)", "", str(hint))  # without modules
