"""The YAML of study files: safe, bounded in size however often it repeats itself, and read as people mean it."""

import math
import re
from typing import Any

import yaml

from al_ray.errors import ConfigError

MAX_VALUES = 100_000  # in a file, every alias written out
MAX_KEYS = 1000  # in one mapping, merged ones included


def read_yaml(where: str, text: str) -> Any:
    """Read YAML that a stranger may have written.

    Raises:
        ConfigError: it is no YAML, asks for Python objects, or is larger than it looks.
    """
    try:
        value = yaml.load(text, Loader=_StudyLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is not YAML: {' '.join(str(error).split())}") from None
    if _n_values(value, {}) > MAX_VALUES:
        raise ConfigError(
            f"{where} has more than {MAX_VALUES:,} values once its aliases are written out, or an alias inside itself. "
            "Write a count as {range: [first, one past the last]}."
        )
    return value


def read_scalar(text: str) -> Any:
    """Read a number, ``true``, ``false`` or ``null`` that was typed on a command line; anything else is a text."""
    loader = _StudyLoader("")
    tag = loader.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    try:
        return loader.construct_object(yaml.ScalarNode(tag, text))  # type: ignore[no-untyped-call]
    except (yaml.YAMLError, ValueError):  # "<<", or thousands of digits
        return text


def _n_values(value: Any, known: dict[int, float]) -> float:
    """Count the values of nested YAML without writing aliases out; a value inside itself has no end."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = math.inf
        parts = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_n_values(part, known) for part in parts)
    return known[id(value)]


class _StudyLoader(yaml.SafeLoader):
    """Safe YAML: ``2e-5`` is a number, ``off`` and a date are texts, a repeated key is an error, no merge explodes."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put merged keys into a mapping.

        Raises:
            ConstructorError: there are so many of them that a merge of merges is growing without end.
        """
        merged = [value for key, value in node.value if key.tag == "tag:yaml.org,2002:merge"]
        n_merged = sum(len(value.value) for value in merged if isinstance(value, yaml.SequenceNode))
        if n_merged <= MAX_KEYS:
            super().flatten_mapping(node)
        _check_n_keys(node, max(n_merged, len(node.value)))

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        _check_n_keys(node, len(node.value))
        # A merge ("<<: *block") fills in what the mapping leaves out, so its keys may come twice.
        own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        keys = [self.construct_object(key, deep=True) for key in own]  # type: ignore[no-untyped-call]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice in one mapping", node.start_mark
                )
        return super().construct_mapping(node, deep)


def _check_n_keys(node: yaml.MappingNode, n_keys: int) -> None:
    if n_keys > MAX_KEYS:
        raise yaml.constructor.ConstructorError(
            None, None, f"a mapping has more than {MAX_KEYS:,} keys", node.start_mark
        )


# YAML 1.1 reads off, on, no and yes as booleans, 2026-11-29 as a date, 010 as eight, 1:30 as ninety and 2e-5 as a text;
# people mean the text and the number.
_StudyLoader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"(?:true|false)\Z", "tf"),
    ("null", r"(?:~|null|Null|NULL|)\Z", ["~", "n", "N", ""]),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)\Z", "-+0123456789"),
    ("float", r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?\Z", "-+.0123456789"),
    ("float", r"(?:[-+]?\.inf|\.nan)\Z", "-+."),
    ("merge", r"<<\Z", "<"),
):
    _StudyLoader.add_implicit_resolver(  # type: ignore[no-untyped-call]
        f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first)
    )
