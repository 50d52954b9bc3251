import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from al_ray.core.types import TextDataset, TextSplit
from al_ray.data import resolve_dataset
from al_ray.data.ticket_phrases import CLASSES, SLOTS
from al_ray.data.tickets import CLASS_NAMES, Tickets, class_counts
from al_ray.errors import ConfigError


@pytest.fixture(scope="module")
def default() -> TextDataset:
    return resolve_dataset("tickets")


def kind_counts(split: TextSplit) -> dict[str, int]:
    assert split.groups is not None
    return {kind: list(split.groups).count(kind) for kind in set(split.groups)}


def test_the_default_tickets_never_change(default: TextDataset) -> None:
    """A recorded study names these bytes; a change of wording or of a stream is a new data set."""
    assert default.content_sha256 == "b775ad9596b9fe72f7e684b59f7d293611ec54ec492cb71ad0ae0e9b3542e093"


def test_the_shares_of_the_kinds_are_exact(default: TextDataset) -> None:
    assert kind_counts(default.train) == {"typical": 888, "ambiguous": 120, "rare": 96, "mislabeled": 48, "junk": 48}
    assert kind_counts(default.test) == {"typical": 410, "ambiguous": 50, "rare": 40}


def test_classes_shrink_by_the_imbalance(default: TextDataset) -> None:
    counts = np.bincount(default.test.labels)
    assert np.allclose(counts[1:] / counts[:-1], 0.7, atol=0.04)
    assert class_counts(600, 0.0) == [100] * 6


@given(st.integers(6, 3000), st.floats(0, 0.95))
def test_class_counts_sum_up_and_leave_no_class_empty(n: int, imbalance: float) -> None:
    counts = class_counts(n, imbalance)
    assert sum(counts) == n
    assert min(counts) >= 1
    assert counts == sorted(counts, reverse=True)


def test_no_text_occurs_twice(default: TextDataset) -> None:
    texts = [*default.train.texts, *default.test.texts]
    assert len(set(texts)) == 1700


def test_texts_are_of_the_length_of_a_short_ticket(default: TextDataset) -> None:
    words = [len(text.split()) for text in default.train.texts]
    assert 12 <= np.mean(words) <= 20
    assert all(text.strip() == text and "{" not in text and "[" not in text for text in default.train.texts)


def test_the_label_of_a_clean_ticket_is_the_class_it_was_written_for(default: TextDataset) -> None:
    """Decide the class by the clauses' own fixed words, and compare."""
    for c, wording in enumerate(CLASSES.values()):
        clean = [t for t, y, g in zip(*clean_part(default), strict=True) if y == c and g == "rare"]
        assert clean
        assert all(any(has_words(text, clause) for clause in wording.rare) for text in clean)


def clean_part(dataset: TextDataset) -> tuple[list[str], list[int], list[str]]:
    assert dataset.test.groups is not None
    return list(dataset.test.texts), dataset.test.labels.tolist(), list(dataset.test.groups)


def has_words(text: str, clause: str) -> bool:
    """Say whether every stretch of a clause between its choices and slots occurs in the text, in order."""
    at = 0
    for stretch in split_clause(clause):
        at = text.lower().find(stretch.lower(), at)
        if at < 0:
            return False
    return True


def split_clause(clause: str) -> list[str]:
    stretches, depth = [""], 0
    for character in clause:
        depth += character in "[{"
        if depth == 0:
            stretches[-1] += character
        elif character in "]}":
            depth -= 1
            stretches.append("")
    return [stretch.strip() for stretch in stretches if stretch.strip()]


def test_mislabeled_tickets_carry_another_class_than_their_wording(default: TextDataset) -> None:
    assert default.train.groups is not None
    wrong = [i for i, kind in enumerate(default.train.groups) if kind == "mislabeled"]
    for text, label in ((default.train.texts[i], default.train.labels[i]) for i in wrong):
        assert not any(has_words(text, clause) for clause in CLASSES[CLASS_NAMES[label]].common)


def test_the_same_options_give_the_same_tickets() -> None:
    option = {"name": "tickets", "n_train": 60, "n_test": 20, "seed": 3}
    assert resolve_dataset(option).content_sha256 == resolve_dataset(option).content_sha256
    assert resolve_dataset(option).content_sha256 != resolve_dataset(option | {"seed": 4}).content_sha256


def test_the_test_split_does_not_depend_on_the_size_of_the_pool() -> None:
    small, large = (resolve_dataset({"name": "tickets", "n_train": n}).test for n in (50, 900))
    assert small.texts == large.texts
    assert small.labels.tolist() == large.labels.tolist()


@settings(deadline=None, max_examples=20)
@given(
    n=st.integers(6, 300),
    seed=st.integers(0, 2**31),
    shares=st.lists(st.floats(0, 0.25), min_size=4, max_size=4),
    imbalance=st.floats(0, 0.9),
)
def test_any_options_give_a_sound_data_set(n: int, seed: int, shares: list[float], imbalance: float) -> None:
    a, r, m, j = shares
    dataset = Tickets(
        n_train=n,
        n_test=n,
        seed=seed,
        ambiguous_fraction=a,
        rare_fraction=r,
        mislabeled_fraction=m,
        junk_fraction=j,
        imbalance=imbalance,
    ).load()
    assert len(dataset.train) == len(dataset.test) == n
    assert len({*dataset.train.texts, *dataset.test.texts}) == 2 * n
    assert set(dataset.test.labels.tolist()) == set(range(6))
    assert set(kind_counts(dataset.test)) <= {"typical", "ambiguous", "rare"}


def test_all_junk_and_all_rare_can_be_written() -> None:
    for option in ({"junk_fraction": 1.0}, {"rare_fraction": 1.0}):
        zeros = {"ambiguous_fraction": 0.0, "rare_fraction": 0.0, "mislabeled_fraction": 0.0, "junk_fraction": 0.0}
        dataset = resolve_dataset({"name": "tickets", "n_train": 3000, **zeros, **option})
        assert len(set(dataset.train.texts)) == 3000


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"n_train": 5}, r"n_train is 5, it must lie in \[6, 1000000\]"),
        ({"n_test": 0}, "n_test is 0"),
        ({"junk_fraction": -0.1}, r"junk_fraction is -0\.1, it must lie in \[0, 1\]"),
        ({"junk_fraction": 0.9, "rare_fraction": 0.5}, "the four fractions sum to 1.54"),
        ({"imbalance": 1.0}, r"imbalance is 1\.0, it must lie in \[0, 1\)"),
        ({"sed": 1}, "Did you mean 'seed'"),
    ],
)
def test_a_wrong_option_is_refused(option: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_dataset({"name": "tickets", **option})


def test_every_slot_of_every_clause_is_known() -> None:
    clauses = [clause for wording in CLASSES.values() for clause in (*wording.common, *wording.rare)]
    slots = {part.split("}")[0] for clause in clauses for part in clause.split("{")[1:]}
    assert slots <= {*SLOTS, "number"}
    assert all(clause.count("[") == clause.count("]") for clause in clauses)
