"""Types, the total order of a round, and named random streams."""

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_ray.core.ranking import check_enough, rank
from al_ray.core.seeding import stream, stream_seed, tie_keys
from al_ray.core.types import Annotation, ModelOutputs, Query, Ranking, RoundRecord, asked_ids, labeled_after
from al_ray.errors import RoundError

finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=40, unique=True), st.data())
def test_permuting_the_candidates_does_not_change_the_ranking(ids: list[int], data) -> None:
    scores = data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=len(ids), max_size=len(ids)))
    order = data.draw(st.permutations(range(len(ids))))
    one = rank(np.array(ids), np.array(scores), seed=3)
    two = rank(np.array(ids)[order], np.array(scores)[order], seed=3)
    np.testing.assert_array_equal(one.ids, two.ids)
    assert np.all(np.diff(one.scores) <= 0)


def test_ties_fall_differently_with_another_seed() -> None:
    ids = np.arange(100)
    assert not np.array_equal(rank(ids, np.zeros(100), 1).ids, rank(ids, np.zeros(100), 2).ids)


@given(st.integers(0, 2**40))
def test_tie_keys_are_unique(seed: int) -> None:
    assert len(np.unique(tie_keys(np.arange(5000), seed))) == 5000


@pytest.mark.parametrize(("bad", "word"), [(np.nan, "NaN"), (np.inf, "infinite")])
def test_a_score_that_is_not_finite_is_refused_by_id(bad: float, word: str) -> None:
    with pytest.raises(RoundError, match=rf"gave a {word} score for 1 examples \(ids 8\)"):
        rank(np.array([7, 8]), np.array([0.0, bad]), seed=0)


def test_taking_more_than_there_is_says_what_to_do() -> None:
    ranking = Ranking(ids=np.arange(7), scores=np.zeros(7))
    message = (
        "pool exhausted in round 12: 7 candidates left after filters, query_size is 25. "
        "Lower query_size or stop at 307 labels."
    )
    with pytest.raises(RoundError, match=message):
        check_enough(ranking, 25, round_index=12, n_labeled=307)


def test_a_stream_is_named_and_does_not_depend_on_other_streams() -> None:
    first = stream(1, "round", 7, "finetune").integers(1000, size=5)
    stream(1, "initial").integers(1000, size=99)
    np.testing.assert_array_equal(first, stream(1, "round", 7, "finetune").integers(1000, size=5))
    assert stream_seed(1, "round", 7) != stream_seed(1, "round", 8) != stream_seed(2, "round", 8)
    assert stream_seed(1, "a", "bc") != stream_seed(1, "ab", "c")


def test_a_stream_is_the_same_on_every_machine() -> None:
    # Records of years ago hang on this: SHA-256 of the names, its first eight bytes, shifted into 63 bits, into PCG64.
    expected = int(hashlib.sha256(b"42\x1finitial").hexdigest()[:16], 16) // 2
    assert stream_seed(42, "initial") == expected
    draws = np.random.Generator(np.random.PCG64(expected)).integers(10**6, size=3)
    np.testing.assert_array_equal(stream(42, "initial").integers(10**6, size=3), draws)


def test_non_finite_logits_are_refused_by_id() -> None:
    logits = np.zeros((3, 1, 2), np.float32)
    logits[1, 0, 0] = np.nan
    with pytest.raises(RoundError, match=r"non-finite logits for 1 of 3 examples \(ids 20\)"):
        ModelOutputs(ids=np.array([10, 20, 30]), logits=logits)


records = st.builds(
    lambda ids, scores, value, reason: RoundRecord(
        round_index=3,
        n_labeled=25,
        query=Query(
            ids=np.array(ids, dtype=np.int64),
            scores=np.array(scores[: len(ids)]),
            probs=np.tile(np.array([value, 1 - value]), (len(ids), 1)),
        ),
        annotation=Annotation(
            ids=np.array(ids, dtype=np.int64),
            labels=np.zeros(len(ids), dtype=np.int64),
            abstained=np.arange(len(ids)) % 2 == 0,
        ),
        metrics={"accuracy": value},
        seconds={"finetune": abs(value)},
        stop_reason=reason,
    ),
    st.lists(st.integers(0, 2**62), max_size=10, unique=True),
    st.lists(finite, min_size=10, max_size=10),
    finite,
    st.none() | st.text(),
)


@given(records)
def test_the_json_of_a_round_reads_back_equal_bit_by_bit(record: RoundRecord) -> None:
    text = json.dumps(record.to_json())
    back = RoundRecord.from_json(json.loads(text))
    assert json.dumps(back.to_json()) == text
    np.testing.assert_array_equal(back.query.scores, record.query.scores)


def test_abstained_examples_are_asked_but_not_labelled() -> None:
    ids = np.array([5, 9])
    annotation = Annotation(ids=ids, labels=np.array([1, -1]), abstained=np.array([False, True]))
    record = RoundRecord(round_index=0, n_labeled=0, query=Query(ids=ids, scores=np.zeros(2)), annotation=annotation)
    assert asked_ids([record]).tolist() == [5, 9]
    assert labeled_after([record]).ids.tolist() == [5]
