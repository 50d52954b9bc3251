"""Looking at files that nobody has described: which columns are guessed, which rows cannot be used, what is found."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from al_ray.core.types import TextDataset, TextSplit
from al_ray.data.files import PathSource
from al_ray.data.looking import (
    Findings,
    chosen_column,
    find_out,
    first_rows,
    guess_columns,
    missing_in_words,
    unusable_rows,
    without,
    write_rows,
)
from al_ray.data.rows import Rows, read_head, read_rows
from al_ray.errors import DataError

WORDS = "the parcel never came and nobody answers the phone about my refund"


def rows_of(texts: Sequence[Any], labels: Sequence[Any], *, is_typed: bool = True) -> Rows:
    return Rows(where="rows", columns={"text": list(texts), "label": list(labels)}, is_typed=is_typed)


def guessed(folder: Path, name: str, content: str) -> tuple[str, str]:
    (folder / name).write_text(content, encoding="utf-8")
    guesses = guess_columns(first_rows(folder / name))
    return chosen_column("text", None, guesses, folder / name), chosen_column("label", None, guesses, folder / name)


def table(header: str, row: str, n: int = 40) -> str:
    return "\n".join([header, *(row.format(i=i, c="abc"[i % 3]) for i in range(n)), ""])


@pytest.mark.parametrize(
    ("header", "row", "found"),
    [
        ("text,label", f"{WORDS} {{i}},{{c}}", ("text", "label")),
        ("id;mail body;team;day", f"{{i}};{WORDS} {{i}};{{c}};2026-01-{{i:02d}}", ("mail body", "team")),
        ("label\tdescription\ttitle", f"{{c}}\t{WORDS} {{i}}\tabout {{i}} this", ("description", "label")),
        ("score,priority,review", f"0.{{i:04d}},{{c}},{WORDS} {{i}}", ("review", "priority")),
        ("url,note,kind", f"https://a.example/{{i}},{WORDS} {{i}},{{c}}", ("note", "kind")),
        ("文本,类别", "我的包裹没有到达请退款{i},{c}", ("文本", "类别")),
    ],
)
def test_columns_are_guessed_by_names_and_values(tmp_path: Path, header: str, row: str, found: tuple[str, str]) -> None:
    assert guessed(tmp_path, "rows.csv", table(header, row)) == found


def test_a_label_column_of_a_sorted_file_is_found_by_its_name(tmp_path: Path) -> None:
    content = "\n".join(json.dumps({"text": f"{WORDS} {i}", "label": "first"}) for i in range(30))
    assert guessed(tmp_path, "rows.jsonl", content) == ("text", "label")


def test_of_several_columns_the_likeliest_comes_first(tmp_path: Path) -> None:
    content = table("subject,body,queue,language", f"about {{i}} it,{WORDS} {{i}},{{c}},en")
    (tmp_path / "rows.csv").write_text(content)
    guesses = guess_columns(first_rows(tmp_path / "rows.csv"))
    assert guesses.texts == ("body", "subject")
    assert guesses.labels == ("queue",)
    assert guesses.others == {"language": "always 'en'"}


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("a,b", "{i},{i}", r"no column looks like texts\. There are 'a' \(numbers, 40 different .* --text COLUMN"),
        ("text,x", f"{WORDS} {{i}},{{i}}.5", r"no column looks like classes.*'x' \(numbers, 40 .* --label COLUMN"),
        ("text", f"{WORDS} {{i}}", r"no column looks like classes.*A study needs the true class of every row"),
        ("text,text,label", f"{WORDS},{{i}},{{c}}", r"'text' \(stands in the header more than once: rename all but"),
    ],
)
def test_a_file_without_a_likely_column_is_refused_with_what_it_has(
    tmp_path: Path, header: str, row: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        guessed(tmp_path, "rows.csv", table(header, row))


def test_a_column_that_is_named_must_be_there_and_hold_single_values(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"{WORDS} {i}", "label": "ab"[i % 2], "tags": ["x"]}) for i in range(9)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    guesses = guess_columns(first_rows(tmp_path / "rows.jsonl"))
    assert chosen_column("label", "text", guesses, tmp_path) == "text"
    with pytest.raises(DataError, match=r"unknown column 'lable'\. Did you mean 'label'\?"):
        chosen_column("label", "lable", guesses, tmp_path)
    with pytest.raises(DataError, match=r"column 'tags' holds lists or objects\. A row has one text and one class"):
        chosen_column("label", "tags", guesses, tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.csv", "", r"is empty\. Its first line must name the columns"),
        ("rows.csv", "text,label\n", r"has no rows that can be used"),
        ("rows.jsonl", "", r"has no rows that can be used"),
        ("rows.jsonl", "text", r"line 1 is not JSON"),
        ("rows.txt", "text", r"ends in '\.txt', but al_ray reads \.parquet, \.csv, \.jsonl"),
        ("rows.parquet", "text", r"is not a whole Parquet file"),
    ],
)
def test_a_file_without_rows_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        first_rows(tmp_path / name)


def test_nothing_and_a_folder_without_splits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not there.* Give a CSV, Parquet or JSONL file, or a folder"):
        first_rows(tmp_path / "none.csv")
    with pytest.raises(DataError, match="has no training split"):
        first_rows(tmp_path)


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.parquet"])
def test_the_head_of_a_file_is_read_and_the_rest_is_not(tmp_path: Path, name: str) -> None:
    texts, labels = [f"text {i}" for i in range(50)], [i % 2 for i in range(50)]
    file = tmp_path / name
    if name.endswith(".parquet"):
        pq.write_table(pa.table({"text": texts, "label": labels, "vector": [[0.5]] * 50}), file)
    elif name.endswith(".csv"):
        file.write_text("text,label\n" + "".join(f"{t},{c}\n" for t, c in zip(texts, labels, strict=True)) + '"broken')
    else:
        rows = zip(texts, labels, strict=True)
        file.write_text(
            "".join(json.dumps({"text": t, "label": c, "vector": [0.5]}) + "\n" for t, c in rows) + "broken"
        )
    head = read_head(file, 10)
    assert head.columns["text"] == texts[:10]
    assert [int(value) for value in head.columns["label"]] == labels[:10]
    assert ("vector" in head.unusable) == (not name.endswith(".csv"))


def test_a_byte_order_mark_and_semicolons_are_read(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text;label\na b c;x\n", encoding="utf-8-sig")
    assert read_head(tmp_path / "rows.csv", 5).columns == {"text": ["a b c"], "label": ["x"]}


def test_rows_without_a_text_or_a_class_are_found_with_their_numbers() -> None:
    rows = rows_of(["a", "", None, " ", 5, "b"], ["x", "y", "x", None, "y", float("nan")])
    assert unusable_rows(rows, "text", "label") == {
        "no text in column 'text'": [1, 2, 3],
        "no string in column 'text'": [4],
        "no class in column 'label'": [3, 5],
    }
    assert without(rows, [1, 2, 3, 4, 5]).columns == {"text": ["a"], "label": ["x"]}
    halves = rows_of(["a", "b \ud800", "c"], ["x", "y", "\udfff"])
    assert unusable_rows(halves, "text", "label") == {"half a character, which is not valid Unicode": [1, 2]}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([True, False, None], r"column 'label' holds true and false \(True\)\. Write names in their place"),
        (
            [1.0, 2.0, float("nan")],
            r"column 'label' holds numbers with a point \(1\.0\)\. A class is a name or a whole",
        ),
    ],
)
def test_a_column_that_cannot_be_a_label_is_refused_as_a_whole(labels: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        unusable_rows(rows_of("abc", labels), "text", "label")


@pytest.mark.parametrize("is_typed", [True, False])
def test_rows_that_are_written_read_back_equal(tmp_path: Path, is_typed: bool) -> None:
    rows = rows_of(
        ['say "hello"', "two\nlines", "semi; and, comma", "ünïcode 🎈"], ["1", "0", "1", "0"], is_typed=is_typed
    )
    file = write_rows(tmp_path / "deeper" / "rows", rows, free=lambda file: file)
    assert file.suffix == (".jsonl" if is_typed else ".csv")
    assert read_rows([file], {"text": "text", "label": "label"}).columns == rows.columns


def test_names_that_say_that_there_is_no_class_are_counted() -> None:
    labels = ["NA", "bug", "n/a", "nan", "NA", " None ", "-1", "nancy", 0, -1, None, float("nan")]
    assert missing_in_words(labels) == {"NA": 2, "n/a": 1, "nan": 1, "None": 1, "-1": 2}


def split_of(texts: Sequence[str], labels: Sequence[int], first_id: int = 0) -> TextSplit:
    ids = np.arange(first_id, first_id + len(texts), dtype=np.int64)
    return TextSplit(ids=ids, texts=list(texts), labels=np.array(labels, dtype=np.int64))


def found_in(train: Sequence[str], labels: Sequence[int], test: Sequence[str]) -> Findings:
    dataset = TextDataset(
        name="made",
        class_names=("x", "y"),
        train=split_of(train, labels),
        test=split_of(test, [0] * len(test), len(train)),
        source="here",
        content_sha256="0" * 64,
    )
    return find_out(dataset, lambda texts: [len(text.split()) for text in texts])


def test_doubled_texts_are_counted_within_and_between_the_splits() -> None:
    found = found_in(["a", "a", "b", "c", "c"], [0, 0, 1, 0, 1], ["b", "d", "d"])
    assert found.n_doubled == 2 + 1 + 1  # a and c once more in training, b in the test split, d once more there
    assert found.n_contradicting == 2  # b and c
    assert found.n_in_both == 1


def test_lengths_are_given_by_shares_of_the_texts() -> None:
    found = found_in([" ".join("w" * n) for n in range(1, 101)], [0, 1] * 50, ["t"])
    assert (found.n_tokens_of(0.5), found.n_tokens_of(0.95), found.n_tokens[-1]) == (51, 96, 100)
    assert found.cut_by(90) == pytest.approx(0.1)
    assert found.cut_by(100) == 0


def test_letters_of_other_scripts_are_noticed() -> None:
    assert found_in(["straße déjà vu", "naïve"], [0, 1], ["t"]).foreign == 0
    assert found_in(["мой заказ", "где он"], [0, 1], ["t"]).foreign == 1


def test_a_large_file_keeps_only_what_was_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("id,text,label,more\n" + "".join(f"{i},text {i},{i % 2},{'z' * 50}\n" for i in range(100)))
    train, test = PathSource(path=str(file), test_fraction=0.2).read()
    assert test is None
    assert list(train.columns) == ["text", "label"]
