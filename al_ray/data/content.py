"""The identity of a data set's rows."""

import hashlib
from collections.abc import Sequence

import numpy as np

from al_ray.core.types import TextSplit


def content_sha256(class_names: tuple[str, ...], train: TextSplit, test: TextSplit) -> str:
    """Hash classes, ids, texts, labels and slices of both splits, in order.

    No method sees the slices, but records hold figures of each. Every list of strings is preceded by its lengths, so
    that no two contents share a byte sequence; data without slices start otherwise than data with them.

    Returns:
        64 hexadecimal digits.
    """
    has_slices = any(split.groups is not None for split in (train, test))
    digest = hashlib.sha256(b"al_ray text data set, version %d\n" % (2 if has_slices else 1))
    _add_strings(digest, class_names)
    for split in (train, test):
        digest.update(np.asarray(split.ids, dtype="<i8").tobytes())
        _add_strings(digest, split.texts)
        digest.update(np.asarray(split.labels, dtype="<i8").tobytes())
        if has_slices:
            _add_strings(digest, split.groups or ())
    return digest.hexdigest()


def _add_strings(digest: "hashlib._Hash", strings: Sequence[str]) -> None:
    encoded = [string.encode() for string in strings]
    digest.update(np.array([len(encoded), *map(len, encoded)], dtype="<i8").tobytes())
    digest.update(b"".join(encoded))
