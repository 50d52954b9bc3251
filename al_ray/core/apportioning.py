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
        counts: examples of each class ``[n_classes]``, the last of which occurs.
        size: at most ``counts.sum()``.
        stream: draws the open seats.

    Returns:
        seats ``[n_classes]``, summing to ``size``, never above ``counts``; a class may have none.
    """
    # In floating point as there, where a share that is whole by rights may come out below.
    seats = np.floor(counts * (size / counts.sum())).astype(np.int64)
    if seats.min() == 0 and size > len(counts) and counts.min() > 0:
        seats += 1
        while seats.sum() > size:
            seats[np.flatnonzero(seats > 1)[0]] -= 1
    seats = np.minimum(seats, counts)
    while seats.sum() < size:
        left = counts - seats
        seats[stream.choice(len(counts), p=left / left.sum())] += 1
    return seats


def even_seats(counts: IntArray, size: int) -> IntArray:
    """Share ``size`` seats among classes as evenly as their examples allow.

    Args:
        counts: examples of each class ``[n_classes]``.
        size: at most ``counts.sum()``.

    Returns:
        seats ``[n_classes]``, summing to ``size``, never above ``counts``; what is left over goes to large classes, of
        equal ones to the first.
    """
    seats = np.zeros(len(counts), dtype=np.int64)
    order = np.argsort(-counts, kind="stable")
    while seats.sum() < size:
        open_ = order[seats[order] < counts[order]]
        fewest = open_[seats[open_] == seats[open_].min()]
        seats[fewest[: size - int(seats.sum())]] += 1
    return seats


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
