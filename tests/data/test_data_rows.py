import csv
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
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
    with pytest.raises(
        DataError, match=r"unknown column 'text'\. Did you mean 'texts'\?.*\{path: \.\.\., text: \.\.\.\}"
    ):
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
        ("r.csv", 'text,"label\na,x\n', r"line 1 is not CSV"),
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


@pytest.mark.parametrize(
    ("name", "row"), [("r.csv", "text number {},x{}"), ("r.jsonl", '{{"text": "text number {}", "label": "x{}"}}')]
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_byte_that_is_not_utf8_is_named_by_its_line_and_its_place_in_the_file(
    tmp_path: Path, name: str, row: str, end: str
) -> None:
    first = "text,label" if name.endswith(".csv") else row.format("first", 0)
    lines = [first, *(row.format(i, i % 2) for i in range(900)), row.format("für Öl", 1), row.format("last", 0)]
    content = end.join([*lines, ""]).encode("windows-1252")
    (tmp_path / name).write_bytes(content)
    at = content.index(0xFC)
    assert at > 2 * 8192  # beyond the blocks that a reader may take it by
    with pytest.raises(DataError, match=rf"{name}, line 902 is not UTF-8, at byte {at} of the file .*für Öl"):
        read_rows([tmp_path / name], WANTED)


@pytest.mark.parametrize("name", ["r.csv", "r.jsonl"])
@pytest.mark.parametrize(
    ("encoding", "called"),
    [
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16LE"),
        ("utf-16-be", "UTF-16BE"),
        ("utf-32", "UTF-32"),
        ("utf-32-le", "UTF-32LE"),
        ("utf-32-be", "UTF-32BE"),
    ],
)
def test_other_unicode_is_recognised_with_and_without_a_mark(
    tmp_path: Path, name: str, encoding: str, called: str
) -> None:
    (tmp_path / name).write_bytes("text,label\nfür,x\n".encode(encoding))
    with pytest.raises(DataError, match=rf"line 1 is not UTF-8, at byte \d+ .*it looks like {called}\."):
        read_rows([tmp_path / name], WANTED)


def test_one_odd_character_in_a_file_of_utf8_is_to_be_mended_alone(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_bytes("text,label\nfür,x\n".encode() + b"f\xfcr,y\n")
    with pytest.raises(DataError, match=r"line 3 is not UTF-8.*'für,y' stands there\. All before it is UTF-8: mend"):
        read_rows([tmp_path / "r.csv"], WANTED)


def test_a_text_in_a_parquet_file_that_is_not_utf8_is_named_by_its_row(tmp_path: Path) -> None:
    texts = pa.array([b"good", b"f\xfcr"]).view(pa.string())
    pq.write_table(pa.table({"text": texts, "label": ["x", "y"]}), tmp_path / "r.parquet")
    with pytest.raises(DataError, match=r"column 'text' is not UTF-8 in row 1 .*at byte 1 of the value.*'für' stands"):
        read_rows([tmp_path / "r.parquet"], WANTED)


@pytest.mark.parametrize("name", ["r.parquet", "r.csv", "r.jsonl"])
def test_a_text_of_any_length_is_read_whole_and_leaves_no_setting_behind(write: Write, name: str) -> None:
    before = csv.field_size_limit()
    long = 'a long text, with "quotes"\n' * 40_000
    rows = read_rows([write(name, {"text": [long, "b"], "label": ["x", "y"]})], WANTED)
    assert rows.columns["text"] == [long, "b"]
    with pytest.raises(DataError, match="is not there"):
        read_rows([Path("gone.csv")], WANTED)
    assert csv.field_size_limit() == before


def test_readers_side_by_side_leave_the_limit_of_the_process_as_it_was(write: Write) -> None:
    before = csv.field_size_limit()
    files = [write(f"{i}.csv", {"text": ["x" * (200_000 + i)] * 20, "label": ["x"] * 20}) for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        lengths = [len(rows.columns["text"][-1]) for rows in pool.map(lambda f: read_rows([f], WANTED), files * 2)]
    assert lengths == [200_000 + i for i in range(8)] * 2
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    "texts",
    [
        pa.array(["a", "b", "a"], pa.large_string()),
        pa.array(["a", "b", "a"]).dictionary_encode(),
        pa.array(["a", "b", "a"], pa.string_view()),
    ],
    ids=lambda texts: str(texts.type),
)
def test_every_kind_of_parquet_text_gives_the_same_values(tmp_path: Path, texts: pa.Array) -> None:
    pq.write_table(pa.table({"text": texts, "label": texts}), tmp_path / "r.parquet")
    assert read_rows([tmp_path / "r.parquet"], WANTED).columns == {"text": ["a", "b", "a"], "label": ["a", "b", "a"]}


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("quote", ["", '"'])
@pytest.mark.parametrize("named", [False, True])
def test_the_separator_is_the_one_under_which_the_header_names_the_columns(
    tmp_path: Path, separator: str, end: str, mark: str, quote: str, named: bool
) -> None:
    texts = ["plain", "a, b; c | d\te", 'say "it"', "two\nlines"]
    quoted = ['"' + text.replace('"', '""') + '"' for text in texts]
    lines = [separator.join(f"{quote}{name}{quote}" for name in ("key", "text", "label"))]
    lines += [separator.join([str(i), text, "xy"[i % 2]]) for i, text in enumerate(quoted)]
    first = [f"sep={separator}"] if named else []
    (tmp_path / "r.csv").write_bytes((mark + end.join([*first, *lines, ""])).encode())
    assert read_rows([tmp_path / "r.csv"], WANTED).columns == {"text": texts, "label": ["x", "y", "x", "y"]}


def test_a_header_that_names_the_columns_under_two_separators_is_not_guessed_at(tmp_path: Path) -> None:
    header, row = "text,label,a;text;label;b", "1,2,3;4;5;6"
    (tmp_path / "r.csv").write_text(f"{header}\n{row}\n")
    with pytest.raises(DataError, match=r"with ',' and with ';' between them\. .*: sep=,$"):
        read_rows([tmp_path / "r.csv"], WANTED)
    (tmp_path / "r.csv").write_text(f"sep=,\n{header.replace(';label;b', '')}\n1,2,3;4\n")
    assert read_rows([tmp_path / "r.csv"], WANTED).columns == {"text": ["1"], "label": ["2"]}


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_a_column_that_is_missing_is_looked_for_among_the_columns_of_the_right_separator(
    tmp_path: Path, separator: str
) -> None:
    (tmp_path / "r.csv").write_text(separator.join(["body", "label", "c"]) + "\n" + separator.join("axy") + "\n")
    with pytest.raises(DataError, match=r"unknown column 'text'\. Known: body, c, label\."):
        read_rows([tmp_path / "r.csv"], WANTED)


def test_lines_are_counted_from_the_first_line_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text('sep=;\ntext;label\n"a\nb";x\nc\n')
    with pytest.raises(DataError, match=r"line 5 has 1 values, but .* Quote values that hold a semicolon"):
        read_rows([tmp_path / "r.csv"], WANTED)
    (tmp_path / "r.csv").write_text('text,label\na,x\n"b,y\nc,x\nd,y\n')
    with pytest.raises(DataError, match=r"line 3 is not CSV \(read to line 5\): unexpected end of data"):
        read_rows([tmp_path / "r.csv"], WANTED)


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
