import hashlib
import struct
import time
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from al_ray.core.types import TextSplit
from al_ray.data.splits import content_sha256


def split(
    texts: list[str],
    ids: list[int] | None = None,
    labels: list[int] | None = None,
    groups: list[str] | None = None,
) -> TextSplit:
    n = len(texts)
    return TextSplit(
        ids=np.array(range(n) if ids is None else ids, dtype=np.int64),
        texts=texts,
        labels=np.array([0] * n if labels is None else labels, dtype=np.int64),
        groups=groups,
    )


BASE: dict[str, Any] = {"class_names": ("a", "b"), "train": split(["x", "yz"]), "test": split(["t"])}


def test_the_hash_covers_what_its_description_says() -> None:
    def strings(*values: str) -> bytes:
        return struct.pack(f"<{len(values) + 1}q", len(values), *map(len, values)) + "".join(values).encode()

    whole = b"al_ray text data set, version 1\n" + strings("a", "b")
    whole += struct.pack("<2q", 0, 1) + strings("x", "yz") + struct.pack("<2q", 0, 0)
    whole += struct.pack("<q", 0) + strings("t") + struct.pack("<q", 0)
    assert content_sha256(**BASE) == hashlib.sha256(whole).hexdigest()


def test_every_part_of_the_content_counts() -> None:
    changed: list[dict[str, Any]] = [
        {},
        {"class_names": ("b", "a")},
        {"class_names": ("ab",)},
        {"train": split(["xy", "z"])},
        {"train": split(["yz", "x"])},
        {"train": split(["x", "yz"], ids=[0, 2])},
        {"train": split(["x", "yz"], labels=[0, 1])},
        {"test": split(["T"])},
        {"test": split(["t"], groups=["<30"])},
        {"test": split(["t"], groups=[">30"])},
        {"train": split(["x", "yz"], groups=["ab", "c"]), "test": split(["t"], groups=["d"])},
        {"train": split(["x", "yz"], groups=["a", "bc"]), "test": split(["t"], groups=["d"])},
        {"train": split(["t"]), "test": split(["x", "yz"])},
    ]
    assert len({content_sha256(**(BASE | change)) for change in changed}) == len(changed)


@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
def test_two_lists_of_texts_share_a_hash_only_when_equal(one: list[str], other: list[str]) -> None:
    hashes = [
        content_sha256(("a", "b"), split([text or "-" for text in texts]), split(["t"])) for texts in (one, other)
    ]
    assert (hashes[0] == hashes[1]) is ([t or "-" for t in one] == [t or "-" for t in other])


def test_25_000_long_texts_are_hashed_in_well_under_a_second() -> None:
    long = split(["a review of some length " * 55] * 25_000)
    start = time.process_time()
    content_sha256(("neg", "pos"), long, split(["t"]))
    assert time.process_time() - start < 1.0
