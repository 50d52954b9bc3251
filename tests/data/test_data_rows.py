import re
from collections.abc import Callable
from pathlib import Path

import pytest

from al_ray.data.rows import read_rows
from al_ray.errors import DataError

Write = Callable[..., Path]

WANTED = {"text": "text", "label": "label"}
COLUMNS = {
    "text": ["a, b", 'say "c"', "two\nlines", "ümlaut"],
    "label": ["x", "y", "x", "y"],
    "other": ["1", "2", "3", "4"],
}


@pytest.mark.parametrize("name", ["rows.parquet", "rows.csv", "rows.jsonl"])
def test_every_format_gives_the_same_values(write: Write, name: str) -> None:
    rows = read_rows([write(name, COLUMNS)], WANTED)
    assert rows.columns == {"text": COLUMNS["text"], "label": COLUMNS["label"]}
    assert len(rows) == 4


def test_parts_are_joined_in_order(write: Write) -> None:
    parts = [write(f"p{i}.jsonl", {"text": [f"t{i}"], "label": [i]}) for i in range(3)]
    rows = read_rows(parts, WANTED)
    assert rows.columns["text"] == ["t0", "t1", "t2"]
    assert rows.where.endswith("p0.jsonl and 2 more parts")


def test_parts_that_name_different_classes_are_refused(write: Write) -> None:
    parts = [
        write(f"p{name}.parquet", {"text": ["t"], "label": [0]}, {"class_names": f'["{name}", "b"]'}) for name in "xy"
    ]
    with pytest.raises(DataError, match="the parts of a split name different classes"):
        read_rows(parts, WANTED)


@pytest.mark.parametrize(
    "metadata",
    [
        {"class_names": '["no", "yes"]'},
        {"huggingface": '{"info": {"features": {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}}}}'},
    ],
)
def test_class_names_are_read_from_either_kind_of_metadata(write: Write, metadata: dict[str, str]) -> None:
    rows = read_rows([write("rows.parquet", {"text": ["t"], "label": [0]}, metadata)], WANTED)
    assert rows.class_names == {"label": ("no", "yes")}


def test_metadata_that_is_not_json_is_an_error(write: Write) -> None:
    file = write("rows.parquet", {"text": ["t"], "label": [0]}, {"class_names": "no, yes"})
    with pytest.raises(DataError, match="schema metadata is not readable"):
        read_rows([file], WANTED)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.csv is not there"):
        read_rows([tmp_path / "gone.csv"], WANTED)


def test_a_wrong_ending_names_the_right_ones(tmp_path: Path) -> None:
    file = tmp_path / "rows.tsv"
    file.write_text("text\tlabel\n")
    with pytest.raises(DataError, match=r"ends in '\.tsv', but al_ray reads \.parquet, \.csv, \.jsonl"):
        read_rows([file], WANTED)


@pytest.mark.parametrize("n_bytes", [0, 3, 200])
def test_a_truncated_parquet_file_is_called_so(write: Write, n_bytes: int) -> None:
    file = write("rows.parquet", {"text": ["some text"] * 50, "label": [1] * 50})
    assert file.stat().st_size > n_bytes
    file.write_bytes(file.read_bytes()[:n_bytes])
    with pytest.raises(DataError, match=rf"not a whole Parquet file \({n_bytes} bytes\).*copy it again"):
        read_rows([file], WANTED)


def test_a_parquet_file_whose_middle_was_overwritten_is_an_error(write: Write) -> None:
    file = write("rows.parquet", {"text": [f"text {i}" for i in range(2000)], "label": list(range(2000))})
    body = bytearray(file.read_bytes())
    body[4:400] = bytes(396)
    file.write_bytes(body)
    with pytest.raises(DataError, match="not a whole Parquet file"):
        read_rows([file], WANTED)


@pytest.mark.parametrize("name", ["rows.parquet", "rows.csv", "rows.jsonl"])
def test_a_missing_column_suggests_the_nearest(write: Write, name: str) -> None:
    file = write(name, {"texts": ["a"], "label": ["x"]})
    with pytest.raises(DataError, match=r"unknown column 'text'\. Did you mean 'texts'\?.*\{text: \.\.\.\}"):
        read_rows([file], WANTED)


def test_a_column_that_occurs_twice_is_ambiguous(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("text,label,text\na,x,b\n")
    with pytest.raises(DataError, match="2 columns called 'text'"):
        read_rows([file], WANTED)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.csv", "", r"is empty\. Its first line must name the columns"),
        ("r.csv", "text,label\na,x\nb\n", r"line 3 has 1 values, but the header names 2 columns"),
        ("r.csv", "text,label\na,x\n\nb,y\n", r"line 3 has 0 values"),
        ("r.csv", 'text,label\na,x\n"b,y\n', r"line 3 is not CSV: unexpected end of data"),
        ("r.csv", 'text,label\n"a"b,x\n', r"line 2 is not CSV"),
        ("r.jsonl", '{"text": "a", "label": 0}\n{"text": "b", \n', r"line 2 is not JSON"),
        ("r.jsonl", '{"text": "a", "label": 0}\n\n', r"line 2 is not JSON"),
        ("r.jsonl", '{"text": "a", "label": 0}\n["b", 1]\n', r"line 2 is '\[\"b\", 1\]', not an object"),
    ],
)
def test_a_malformed_line_is_named_by_its_number(tmp_path: Path, name: str, content: str, message: str) -> None:
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(DataError, match=message):
        read_rows([file], WANTED)


@pytest.mark.parametrize("name", ["r.csv", "r.jsonl"])
def test_a_file_in_another_encoding_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes("text,label\nfür,x\n".encode("latin-1"))
    with pytest.raises(DataError, match="is not UTF-8 at byte 12"):
        read_rows([tmp_path / name], WANTED)


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_bytes(b"\xef\xbb\xbftext,label\na,x\n")
    assert read_rows([tmp_path / "r.csv"], WANTED).columns == {"text": ["a"], "label": ["x"]}


def test_a_key_that_only_some_objects_have_is_missing_in_the_others(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text('{"text": "a", "label": 0}\n{"label": 1}\n')
    assert read_rows([tmp_path / "r.jsonl"], WANTED).columns["text"] == ["a", None]


def test_line_separators_inside_a_json_string_do_not_end_the_line(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text('{"text": "a\u2028b\u0085c", "label": 0}\r\n', "utf-8", newline="")
    assert read_rows([tmp_path / "r.jsonl"], WANTED).columns["text"] == ["a\u2028b\u0085c"]


def test_a_folder_in_place_of_a_file_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "r.csv").mkdir()
    with pytest.raises(DataError, match=re.escape("is not there")):
        read_rows([tmp_path / "r.csv"], WANTED)
