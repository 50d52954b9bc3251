"""Names as identifiers: what people call things, in the characters and the length that a border allows.

Records hold true names. Where a border takes less than any text, the name is changed there and nowhere else.
"""

import hashlib
import re

_N_DIGITS = 8
_ENDS_IN_A_HASH = re.compile(rf".*\.[0-9a-f]{{{_N_DIGITS}}}", re.DOTALL)


def identifier(name: str, allowed: re.Pattern[str], illegal: re.Pattern[str], limit: int) -> str:
    """Return a name in the characters of a border, such that two names never become one.

    A name that is allowed stays as it is. Any other, and one that looks as if it had been changed here, is written
    without what is illegal and ends in a dot and a hash of itself.

    Args:
        name: any text.
        allowed: matches the whole of a name that may stay.
        illegal: what is replaced by ``_`` elsewhere.
        limit: characters at most.
    """
    if allowed.fullmatch(name) and len(name) <= limit and not _ENDS_IN_A_HASH.fullmatch(name):
        return name
    return with_hash(illegal.sub("_", name), name, limit)


def with_hash(readable: str, whole: str, limit: int) -> str:
    """Return a text that is cut to fit and ends in a dot and a hash of what it stands for."""
    digest = hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()[:_N_DIGITS]
    return f"{readable[: limit - _N_DIGITS - 1]}.{digest}"
