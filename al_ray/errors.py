"""Every error that a user of al_ray can meet.

The tree::

    AlRayError(ValueError)      something outside the program is wrong; the message says what to do
    ├── ConfigError             a study file, an option, a combination of methods
    ├── DataError               a data set: files, columns, labels, texts, ids
    ├── ModelError              a model that is not there, or is not what it should be
    ├── StorageError            records: unreadable, of another study, drifted, a full disk
    ├── RoundError              a round cannot go on: empty pool, non-finite score, bad annotation
    └── ExecutionError          Ray, lanes, devices, tracking

A message names what is wrong, the value found, what would be right, and what to do. Programmer errors are ``assert``.
"""

import difflib
import os
import re
from collections.abc import Iterable

# A password may hold a slash or an at sign that nobody quoted: all up to the last one goes.
_LOGIN = re.compile(r"//(?:[^\s'\"?]*:[^\s'\"?]*@|[^/@\s]+@)")
_SECRET_PARAMETER = re.compile(
    r"(?i)([?&;][^=&\s]*(?:key|secret|token|password|signature|credential)[^=&\s]*=)[^&\s'\"]+"
)
_SECRET_VARIABLE = re.compile(r"(?i)(?:^|_)(?:secret|token|password|passwd|passphrase|key)(?:_id)?$")
_N_KNOWN = 50  # names that a message lists: every method of a family, and not every cell of a large grid
_SHORTEST_SECRET = 8  # what is shorter would be found in innocent words


class AlRayError(ValueError):
    """Base of all errors that are the user's to mend; printed without a stack trace."""


class ConfigError(AlRayError):
    """A study file or an option says something that cannot be run."""


class DataError(AlRayError):
    """A data set cannot be read or breaks the rules of its family."""


class ModelError(AlRayError):
    """A pretrained model is missing, unreachable or not the file that was pinned."""


class StorageError(AlRayError):
    """The storage folder cannot be used, or holds records that this study does not explain."""


class RoundError(AlRayError):
    """A round of the active-learning loop cannot be completed."""


class ExecutionError(AlRayError):
    """The machine, the cluster or the tracking server cannot do what the execution asks."""


def unknown_name(kind: str, name: object, known: Iterable[str]) -> str:
    """Word the message for a name that no registry or schema knows, with the nearest known one."""
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.6)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    more = f", and {len(names) - _N_KNOWN:,} more" if len(names) > _N_KNOWN else ""
    return f"unknown {kind} {str(name)!r}.{hint} Known: {', '.join(names[:_N_KNOWN]) if names else 'none'}{more}."


def in_yaml(kind: str, value: object) -> str:
    """Say how a value is written in a study file that was read as something else; empty where that is not the trouble.

    Args:
        kind: of error, in pydantic's words.
        value: as it was read.
    """
    if value is None:
        return " Give it a value, or leave it out."
    if kind == "string_type" and isinstance(value, bool | int | float):
        return " To have it as a text, put it in quotes."
    return " Write true or false." if kind == "bool_type" else ""


def without_logins(address: str) -> str:
    """Return addresses, or a text with some, without user names, passwords, keys and tokens in them."""
    return _SECRET_PARAMETER.sub(r"\1...", _LOGIN.sub("//", address))


def without_secrets(text: str) -> str:
    """Return a text that may be shown and kept.

    Its addresses hold no logins, and nowhere does it hold what a variable of this process's environment has that is
    named like a secret (``HF_TOKEN``, ``AWS_SECRET_ACCESS_KEY``, ``..._PASSWORD``).
    """
    text = without_logins(text)
    for secret in _secrets_of_environment():
        text = text.replace(secret, "...")
    return text


def one_line(error: object, limit: int = 400) -> str:
    """Return what an error says in one line that may be shown: libraries tell pages of advice with some."""
    text = " ".join(without_secrets(str(error)).split())
    return text if len(text) <= limit else f"{text[:limit]}..."


def _secrets_of_environment() -> list[str]:
    """Return the values of variables that are named like a secret, the longest first: one may hold another."""
    values = {value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name)}
    return sorted((value for value in values if len(value) >= _SHORTEST_SECRET), key=len, reverse=True)
