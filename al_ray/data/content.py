"""The identity of a data set's rows."""

import hashlib
from collections.abc import Sequence

import numpy as np

from al_ray.core.types import TextSplit


def content_sha256(class_names: tuple[str, ...], train: TextSplit, test: TextSplit) -> str:
    """Hash classes, ids, texts and labels of both splits, in order; groups are left out: no method sees them.

    Every list of strings is preceded by its lengths, so that no two contents share a byte sequence.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256(b"al_ray text data set, version 1\n")
    _add_strings(digest, class_names)
    for split in (train, test):
        digest.update(np.asarray(split.ids, dtype="<i8").tobytes())
        _add_strings(digest, split.texts)
        digest.update(np.asarray(split.labels, dtype="<i8").tobytes())
    return digest.hexdigest()


def _add_strings(digest: "hashlib._Hash", strings: Sequence[str]) -> None:
    encoded = [string.encode() for string in strings]
    digest.update(np.array([len(encoded), *map(len, encoded)], dtype="<i8").tobytes())
    digest.update(b"".join(encoded))
