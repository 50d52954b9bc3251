"""Plug-in registries: one family, one package, one frozen dataclass a plug-in.

A plug-in is its own configuration: ``{name: uncertainty_clipping, fraction: 0.05}`` in a study file builds the frozen
dataclass registered under that name, and :func:`option_of` gives the same mapping back. A bare name means its defaults.
"""

import dataclasses
import functools
import importlib
import math
import pkgutil
import typing
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from al_ray.errors import ConfigError, in_yaml, unknown_name

T = TypeVar("T")
C = TypeVar("C", bound=type)

LARGEST = 2**63 - 1  # what tables of 64-bit integers hold


class Registry(Generic[T]):
    """The plug-ins of one family, found by importing every module of its package once.

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

    def build(self, option: "str | Mapping[str, Any]") -> T:
        """Build the plug-in that a study file names.

        Args:
            option: a bare name, or a mapping with ``name`` and any of the plug-in's fields.

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
        values = {key: value for key, value in option.items() if key != "name"}
        return build_dataclass(cls, values, f"{self.family} {option['name']!r}")

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        package = importlib.import_module(self.package)
        for module in pkgutil.walk_packages(package.__path__, f"{self.package}."):
            importlib.import_module(module.name)


def build_dataclass(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build a dataclass from untrusted values, strictly: no field is guessed, no type is converted.

    Raises:
        ConfigError: an unknown or missing field, a wrong type, or a value that ``__post_init__`` refuses.
    """
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise ConfigError(unknown_name(f"option of {where}:", key, fields))
    hints = _hints(cls)  # type: ignore[arg-type]
    checked: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, list) and typing.get_origin(hints[key]) is tuple:
            value = tuple(value)
        try:
            checked[key] = _recordable(_checker(cls, key).validate_python(value, strict=True))  # type: ignore[arg-type]
        except ValidationError as error:
            first = error.errors()[0]
            reason = first["msg"]
            raise ConfigError(
                f"option {key!r} of {where} is {shown_value(value)}: {reason[0].lower()}{reason[1:]}. "
                f"It takes {_type_words(hints[key])}.{in_yaml(first['type'], first['input'])}"
            ) from None
        except ValueError as error:
            raise ConfigError(f"option {key!r} of {where} {error}. It takes {_type_words(hints[key])}.") from None
    for key, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and key not in checked:
            raise ConfigError(f"{where} needs the option {key!r} ({_type_words(hints[key])}).")
    try:
        built = cls(**checked)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    for key, value in checked.items():  # after the class itself, which knows what would be right
        if not _is_finite(value):
            raise ConfigError(
                f"option {key!r} of {where} is {value}, which no record can hold. It takes {_type_words(hints[key])}."
            )
    return built


def shown_value(value: Any) -> str:
    """Write a value for a message, however large it is."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integers of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 200 else f"{text[:200]}..."


def _recordable(value: Any) -> Any:
    """Return a value that records give back as it was: no whole number beyond 64 bits, no -0.0.

    Raises:
        ValueError: with the end of a sentence that says why not.
    """
    if isinstance(value, tuple):
        return tuple(_recordable(each) for each in value)
    if isinstance(value, int) and not -LARGEST <= value <= LARGEST:
        raise ValueError(f"is {shown_value(value)}, and records hold whole numbers up to {LARGEST}")
    return value + 0.0 if isinstance(value, float) else value


def _is_finite(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def option_of(plugin: Any) -> dict[str, Any]:
    """Return the mapping that builds ``plugin`` again: its name and all of its fields."""
    return {"name": plugin.name, **dataclasses.asdict(plugin)}


def fields_of(cls: type) -> dict[str, tuple[str, Any]]:
    """Return the options of a plug-in class: field name -> (type in words, default or None when required)."""
    hints = _hints(cls)
    described: dict[str, tuple[str, Any]] = {}
    for field in dataclasses.fields(cls):
        default = None if field.default is dataclasses.MISSING else field.default
        described[field.name] = (_type_words(hints[field.name]), default)
    return described


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """Return the types of a class's fields; worked out once, not once a cell."""
    return typing.get_type_hints(cls)


@functools.cache
def _checker(cls: type, key: str) -> TypeAdapter[Any]:
    return TypeAdapter(_hints(cls)[key])


def _type_words(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(repr(value) for value in typing.get_args(hint))
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")
