from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_ray.core.types import TextSplit
from al_ray.data.rows import Rows
from al_ray.data.splits import Columns, look_alikes, make_splits, split_off_test
from al_ray.errors import DataError

COLUMNS = Columns(id="id", group="group")


def rows(
    where: str = "f.jsonl", *, is_typed: bool = True, names: tuple[str, ...] | None = None, **columns: Any
) -> Rows:
    n = len(columns.get("label") or columns["text"])
    defaults: dict[str, list[Any]] = {
        "text": [f"t{i}" for i in range(n)],
        "label": ["a", "b"] * n,
        "id": list(range(n)),
        "group": ["g"] * n,
    }
    whole = {key: list(columns.get(key, value[:n])) for key, value in defaults.items()}
    return Rows(where=where, columns=whole, is_typed=is_typed, class_names={"label": names} if names else {})


def labels_of(*parts: Rows, classes: tuple[str, ...] | None = None) -> tuple[tuple[str, ...], list[list[int]]]:
    names, splits = make_splits(parts, Columns(), classes)
    return names, [split.labels.tolist() for split in splits]


def test_class_names_without_an_order_are_sorted() -> None:
    assert labels_of(rows(label=["b", "c", "a", "b"])) == (("a", "b", "c"), [[1, 2, 0, 1]])


def test_given_classes_set_the_order() -> None:
    assert labels_of(rows(label=["b", "a"]), classes=("b", "a", "z")) == (("b", "a", "z"), [[0, 1]])


def test_integers_are_indices_of_the_given_classes() -> None:
    assert labels_of(rows(label=[1, 0, 1]), classes=("no", "yes")) == (("no", "yes"), [[1, 0, 1]])


def test_integers_are_indices_of_the_classes_in_the_metadata() -> None:
    assert labels_of(rows(label=[1, 0], names=("no", "yes"))) == (("no", "yes"), [[1, 0]])


def test_integers_without_names_are_named_by_themselves() -> None:
    assert labels_of(rows(label=[2, 0, 1, 2])) == (("0", "1", "2"), [[2, 0, 1, 2]])


def test_classes_that_are_integers_are_matched_by_name() -> None:
    assert labels_of(rows(label=[1, 5, 3]), classes=("1", "3", "5")) == (("1", "3", "5"), [[0, 2, 1]])


def test_csv_labels_that_are_all_integers_are_integers() -> None:
    train, test = rows(label=["0", "1", "10"], is_typed=False), rows(label=["1"], is_typed=False)
    classes = tuple(f"c{i}" for i in range(11))
    assert labels_of(train, test, classes=classes) == (classes, [[0, 1, 10], [1]])


def test_csv_labels_with_leading_zeros_are_names() -> None:
    assert labels_of(rows(label=["01", "02"], is_typed=False)) == (("01", "02"), [[0, 1]])


def test_strings_of_digits_in_a_typed_file_are_names() -> None:
    assert labels_of(rows(label=["10", "9", "10"])) == (("10", "9"), [[0, 1, 0]])


def test_csv_and_typed_rows_agree_on_integers() -> None:
    assert labels_of(rows(label=["0", "1"], is_typed=False), rows(label=[1, 0]))[1] == [[0, 1], [1, 0]]


def test_ids_groups_and_texts_stay_in_the_order_of_the_file() -> None:
    _, [split] = make_splits([rows(id=[7, -3, 5], group=["x", "y", "x"], label=["a", "b", "a"])], COLUMNS, None)
    assert split.ids.tolist() == [7, -3, 5]
    assert (split.texts, split.groups) == (["t0", "t1", "t2"], ["x", "y", "x"])


def test_without_an_id_column_the_row_number_is_the_id() -> None:
    _, [split] = make_splits([rows(label=["a", "b", "a"])], Columns(), None)
    assert split.ids.tolist() == [0, 1, 2]
    assert split.groups is None


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["a", None, "c", None]}, r"column 'text' is missing in rows 1, 3 \(counted from 0\)"),
        ({"text": ["a", "", "c", " \n\t"]}, "column 'text' is empty or only white space in rows 1, 3"),
        ({"text": ["a", "b", 7, "d"]}, r"column 'text' is not text in row 2 \(counted from 0\) \(7\)"),
        ({"text": ["a", "b", "c", "\ud800"]}, "column 'text' is not valid Unicode in row 3"),
        ({"label": ["a", "b", "a", "\ud800"]}, "column 'label' is not valid Unicode in row 3"),
        ({"label": ["a", "b", None, "a"]}, "column 'label' is missing in row 2"),
        ({"label": ["a", "b", " ", "a"]}, "column 'label' is missing in row 2"),
        ({"label": [0, 1, 1.0, 0]}, r"column 'label' is neither an integer nor a string in row 2 .*\(1\.0\)"),
        ({"label": [0, True, 1, 0]}, r"neither an integer nor a string in row 1"),
        ({"label": ["a", "b", 1, "a"]}, r"column 'label' mixes class names and indices in row 2"),
        ({"label": ["a", "a", "a", "a"]}, "column 'label' holds one class only, 'a'"),
        (
            {"label": [1, 2, 3, 1]},
            r"holds the integers \[1, 2, 3\], but class indices run from 0.*classes: \[1, 2, 3\]\}",
        ),
        ({"label": [0, 2, 0, 2]}, r"holds the integers \[0, 2\]"),
        ({"id": [4, 5, 4, 5]}, r"column 'id' repeats an id in rows 2, 3 .*\(4\)"),
        ({"id": ["x1", "x2", "x3", "x4"]}, "column 'id' is no integer in rows 0, 1, 2, 3 .*Ids are 64-bit integers"),
        ({"id": [1, None, 3, 4]}, "column 'id' is no integer in row 1"),
        ({"id": [1, 2**63, 3, 4]}, "column 'id' is no integer in row 1"),
        ({"group": ["g", "", "g", "g"]}, "column 'group' is empty in row 1"),
        ({"group": ["g", "g", "\ud800", "g"]}, "column 'group' is not valid Unicode in row 2"),
    ],
)
def test_a_bad_value_is_named_with_file_column_and_row(columns: dict[str, list[Any]], message: str) -> None:
    whole: dict[str, Any] = {"label": ["a", "b", "a", "b"]} | columns
    with pytest.raises(DataError, match=rf"f\.jsonl: .*{message}"):
        make_splits([rows(**whole)], COLUMNS, None)


def test_many_bad_rows_are_counted() -> None:
    with pytest.raises(DataError, match=r"rows 0, 1, 2, 3, 4 and 3 more"):
        make_splits([rows(text=[None] * 8)], Columns(), None)


def test_an_empty_split_is_refused() -> None:
    empty = Rows(where="test.csv", columns={"text": [], "label": []})
    with pytest.raises(DataError, match=r"test\.csv has no rows"):
        make_splits([rows(label=["a", "b"]), empty], Columns(), None)


@pytest.mark.parametrize(
    ("train", "test", "classes", "message"),
    [
        (["spam", "ham"], ["spam", "hams"], None, r"unknown class 'hams'\. Did you mean 'ham'\? .*Found in row 1"),
        ([0, 1], [1, 2], None, r"unknown class '2'.*Known: 0, 1\. Found in row 1"),
        ([0, 1], [0, -1], ("no", "yes"), r"unknown class '-1'"),
        (["no", "yes"], ["maybe"], ("no", "yes"), r"unknown class 'maybe'"),
    ],
)
def test_a_test_label_that_training_does_not_know_is_refused(
    train: list[Any], test: list[Any], classes: tuple[str, ...] | None, message: str
) -> None:
    with pytest.raises(DataError, match=rf"test\.csv: column 'label' has an {message}"):
        make_splits([rows(label=train), rows("test.csv", label=test)], Columns(), classes)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (["no", "yes", -1], ["no"], "mixes class names and indices"),
        ([0, 1, -1], [0], r"\[-1, 0, 1\], .* -1 often marks a row .* leave such rows out\. If each is a class, name"),
        (
            [0, 1],
            [-1, -1],
            r"unknown class '-1'\. Known: 0, 1\. .* or take labelled ones .*Mend the labels, or name all",
        ),
        (["a", "b"], ["-1", "-1"], r"unknown class '-1'\. Known: a, b\. .* -1 often marks a row .* take labelled ones"),
    ],
)
def test_a_label_of_minus_one_is_said_to_be_none(train: list[Any], test: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as refused:
        make_splits([rows(label=train), rows("test.csv", label=test)], Columns(), None)
    assert "Did you mean" not in str(refused.value)


def test_minus_one_is_a_class_where_it_is_named() -> None:
    assert labels_of(rows(label=[-1, 1, -1]), classes=("-1", "1")) == (("-1", "1"), [[0, 1, 0]])


def test_integers_beyond_the_named_classes_are_called_places_in_their_list() -> None:
    message = r"unknown class '3': integers are places in the list .* from 0 to 2 here, \[one, two, three\]\."
    with pytest.raises(DataError, match=message):
        labels_of(rows(label=[1, 2, 3]), classes=("one", "two", "three"))


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (["billing", "billing ", "post"], [["billing", "billing "]]),
        (["a b", "a  b", "a\u00a0b", "ab"], [["a b", "a  b", "a\u00a0b"]]),
        (["café", "cafe\u0301", "cafe"], [["café", "cafe\u0301"]]),
        (["Ham", "ham", "HAM", "Straße", "STRASSE"], [["Ham", "ham", "HAM"], ["Straße", "STRASSE"]]),
        (["x\u200b", "x", "\ufeffx"], [["x\u200b", "x", "\ufeffx"]]),
        (["C", "C++", "C#", "<30", ">30", "投诉", "咨询"], []),
    ],
)
def test_names_that_a_reader_takes_for_one_are_found(names: list[str], groups: list[list[str]]) -> None:
    assert look_alikes(names) == groups


def test_metadata_that_orders_the_classes_otherwise_is_refused() -> None:
    with pytest.raises(DataError, match=r"as \[yes, no\], but \[no, yes\] was expected, so labels would mean"):
        make_splits([rows(label=[0, 1], names=("yes", "no"))], Columns(), ("no", "yes"))
    parts = [rows(label=[0, 1], names=("no", "yes")), rows("test.parquet", label=[0, 1], names=("yes", "no"))]
    with pytest.raises(DataError, match=r"test\.parquet: its metadata"):
        make_splits(parts, Columns(), None)


@given(st.lists(st.sampled_from(["red", "green", "blue"]), min_size=2).filter(lambda labels: len(set(labels)) > 1))
def test_every_index_stands_for_the_label_of_its_row(labels: list[str]) -> None:
    names, [split] = make_splits([rows(label=labels)], Columns(), None)
    assert [names[i] for i in split.labels] == labels


def whole(labels: list[int]) -> TextSplit:
    n = len(labels)
    return TextSplit(ids=np.arange(n) * 3, texts=[f"t{i}" for i in range(n)], labels=np.array(labels), groups=["g"] * n)


@given(
    st.lists(st.integers(2, 30), min_size=2, max_size=4),
    st.floats(0.01, 0.99),
    st.randoms(use_true_random=False),
)
def test_a_drawn_test_split_is_a_stratified_partition(counts: list[int], fraction: float, random: Any) -> None:
    labels = [c for c, n in enumerate(counts) for _ in range(n)]
    random.shuffle(labels)
    data = whole(labels)
    train, test = split_off_test(data, fraction, tuple("abcd"))
    assert sorted([*train.ids, *test.ids]) == data.ids.tolist()
    assert np.all(np.diff(train.ids) > 0)
    assert np.all(np.diff(test.ids) > 0)
    assert [train.texts[i] == f"t{row_id // 3}" for i, row_id in enumerate(train.ids)].count(False) == 0
    for c, n in enumerate(counts):
        n_test = int((test.labels == c).sum())
        assert 1 <= n_test <= n - 1
        assert abs(n_test - fraction * n) <= 1


def test_a_drawn_test_split_is_the_same_every_time() -> None:
    first, again = (split_off_test(whole([0, 1, 1, 0, 1, 0] * 5), 0.3, ("a", "b"))[1] for _ in range(2))
    assert first.ids.tolist() == again.ids.tolist()


def test_a_class_of_one_example_cannot_be_split() -> None:
    with pytest.raises(DataError, match=r"class 'b' has one example \(id 6\)"):
        split_off_test(whole([0, 0, 1]), 0.5, ("a", "b"))
