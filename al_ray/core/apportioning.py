"""Apportionment: how many examples each class gives to a sample of a fixed size, and their draw."""

import numpy as np

from al_ray.core.seeding import tie_keys
from al_ray.core.types import IntArray, LabeledSet


def gonsior2022_seats(counts: IntArray, size: int, stream: np.random.Generator) -> IntArray:
    """Share ``size`` seats among classes as the code of Gonsior et al. 2022 (arXiv 2210.03005) does.

    Every class gets the whole part of its share. Where that leaves one without a seat, and there are more seats than
    classes and examples of each, every class gets one more, and what is then too much comes from the first class that
    has a second seat. Seats still open are drawn one by one, by the examples that a class has left.

    Args:
        counts: examples of each class ``[n_classes]``; classes behind the last that occurs are not known to that code.
        size: at most ``counts.sum()``.
        stream: draws the open seats.

    Returns:
        seats ``[n_classes]``, summing to ``size``, never above ``counts``; a class may have none.
    """
    known = np.trim_zeros(counts, "b")
    # In floating point as there, where a share that is whole by rights may come out below.
    seats = np.floor(known * (size / known.sum())).astype(np.int64)
    if seats.min() == 0 and size > len(known) and known.min() > 0:
        seats += 1
        while seats.sum() > size:
            seats[np.flatnonzero(seats > 1)[0]] -= 1
    seats = np.minimum(seats, known)
    while seats.sum() < size:
        left = known - seats
        seats[stream.choice(len(known), p=left / left.sum())] += 1
    return np.pad(seats, (0, len(counts) - len(known)))


def draw_seats(truth: LabeledSet, seats: IntArray, stream: np.random.Generator) -> IntArray:
    """Return ids with so many examples of each class, drawn at random within it.

    Args:
        truth: ids and labels to draw from.
        seats: examples of each class ``[n_classes]``, at most as many as there are.
        stream: draws them.
    """
    order = np.argsort(tie_keys(truth.ids, int(stream.integers(2**62))))
    ids, labels = truth.ids[order], truth.labels[order]
    chosen = np.concatenate([np.flatnonzero(labels == c)[:n_seats] for c, n_seats in enumerate(seats)])
    return ids[np.sort(chosen)]
