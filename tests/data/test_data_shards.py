"""Pools beyond memory: whatever their format, shards hold every row once, in order, as it is."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from al_ray.data import shards
from al_ray.data.shards import ShardedPool, shard_pool
from al_ray.errors import DataError

N = 25
TEXTS = [f'text {i}; with "quotes",\nlines and é' if i % 3 else f"plain {i}" for i in range(N)]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "GRAIN_ROWS", 4)


def rows(pool: ShardedPool) -> list[dict[str, Any]]:
    found = []
    for shard in pool.shards:
        table = pool.read(shard)
        assert table.num_rows == shard.n_rows
        found += table.to_pylist()
    return found


def write_csv(file: Path, separator: str = ",", end: str = "\n", encoding: str = "utf-8", first: str = "") -> Path:
    with file.open("w", encoding=encoding, newline="") as lines:
        lines.write(first)
        writer = csv.writer(lines, delimiter=separator, lineterminator=end)
        writer.writerows([("number", "body"), *enumerate(TEXTS)])
    return file


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"separator": ";", "end": "\r\n", "encoding": "utf-8-sig"},
        {"separator": "\t", "end": "\r"},
        {"separator": "|", "first": "sep=|\n"},
    ],
    ids=str,
)
def test_a_csv_of_any_habits_gives_its_rows_as_texts(tmp_path: Path, form: Any) -> None:
    pool = shard_pool(str(write_csv(tmp_path / "pool.csv", **form)))
    assert (pool.n_rows, len(pool.shards)) == (N, 7)
    assert rows(pool) == [{"number": str(i), "body": text} for i, text in enumerate(TEXTS)]


@pytest.mark.parametrize("group", [3, 4, 100])
def test_a_parquet_file_is_cut_across_its_row_groups(tmp_path: Path, group: int) -> None:
    table = pa.table({"id": range(N), "body": TEXTS, "tags": [[str(i)] for i in range(N)]})
    pq.write_table(table, tmp_path / "pool.parquet", row_group_size=group)
    pool = shard_pool(str(tmp_path / "pool.parquet"))
    assert [shard.n_rows for shard in pool.shards] == [4, 4, 4, 4, 4, 4, 1]
    assert rows(pool) == table.to_pylist()
    assert pool.read(pool.shards[3]).schema == table.schema


@pytest.mark.parametrize(("n", "sizes"), [(60, {4}), (1030, {16, 6}), (100_000, {64, 32})])
def test_a_larger_pool_has_larger_shards_up_to_a_limit(tmp_path: Path, n: int, sizes: set[int]) -> None:
    (tmp_path / "pool.csv").write_text("id\n" + "".join(f"{i}\n" for i in range(n)))
    pool = shard_pool(str(tmp_path / "pool.csv"))
    assert {shard.n_rows for shard in pool.shards} == sizes
    assert pool.n_rows == n
    for shard in (pool.shards[0], pool.shards[len(pool.shards) // 2], pool.shards[-1]):
        found = [int(row["id"]) for row in pool.read(shard).to_pylist()]
        assert found == list(range(shard.start, shard.start + shard.n_rows))


def test_json_keeps_its_kinds_and_one_kind_a_column_in_all_shards(tmp_path: Path) -> None:
    objects = [
        {"body": text, "n": i, "share": i if i % 2 else i / 4, "mixed": i if i < 9 else "x", "tags": [i], "no": None}
        for i, text in enumerate(TEXTS)
    ]
    objects[7].pop("n")
    objects[20]["late"] = True
    objects[3]["body"] = "half \ud800"
    (tmp_path / "pool.jsonl").write_text("\n".join(map(json.dumps, objects)), encoding="utf-8")
    pool = shard_pool(str(tmp_path / "pool.jsonl"))
    found = rows(pool)
    assert len({pool.read(shard).schema for shard in pool.shards}) == 1
    assert [row["n"] for row in found] == [None if i == 7 else i for i in range(N)]
    assert [row["share"] for row in found] == [each["share"] for each in objects]
    assert (found[2]["mixed"], found[9]["mixed"], found[2]["tags"]) == ("2", '"x"', "[2]")
    assert [row["late"] for row in found] == [True if i == 20 else None for i in range(N)]
    assert {row["no"] for row in found} == {None}
    assert found[3]["body"] == "half ?"


def test_a_folder_is_read_in_the_order_of_its_paths_without_what_is_hidden(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("b/two.parquet", "a.parquet", "_manifest.parquet", ".hidden.parquet", "empty.parquet"):
        ids = [] if "empty" in name else [len(name)]
        pq.write_table(pa.table({"id": pa.array(ids, pa.int64()), "where": pa.array([name] * len(ids), pa.string())}),
                       tmp_path / name)  # fmt: skip
    pool = shard_pool(f"file://{tmp_path}")
    assert [row["where"] for row in rows(pool)] == ["a.parquet", "b/two.parquet"]
    assert [shard.name for shard in pool.shards] == ["part-00000-00000", "part-00001-00000"]


def test_the_column_of_texts_is_guessed(tmp_path: Path) -> None:
    pool = shard_pool(str(write_csv(tmp_path / "pool.csv")))
    assert pool.guesses().texts == ("body",)
    pq.write_table(pa.table({"id": range(3), "tags": [["a"]] * 3, "text": ["one two", "three", "four"]}),
                   tmp_path / "pool.parquet")  # fmt: skip
    pool = shard_pool(str(tmp_path / "pool.parquet"))
    assert (pool.guesses().texts, pool.guesses().unusable) == (("text",), {"tags": "holds list<element: string>"})
    with pytest.raises(DataError, match=r"column 'id' holds int64 and no texts. Name another: --text COLUMN"):
        pool.check_text_column("id")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("pool.csv", b"a,b\n1,2\n3\n", "line 3 has 1 values, but the header names 2 columns"),
        ("pool.csv", b"a,a\n1,2\n", "column 'a' stands in the header more than once"),
        ("pool.csv", "a,b\nn\u00e4h,2\n".encode("latin-1"), "line 2 is not UTF-8"),
        ("pool.csv", "a,b\n1,2\n".encode("utf-16"), "is not UTF-8"),
        ("pool.csv", b"", "is empty. Its first line must name the columns"),
        ("pool.csv", b"a,b\n", "has no rows"),
        ("pool.jsonl", b'{"a": 1}\n[2]\n', "line 2 is .* not an object"),
        ("pool.jsonl", b'{"a": 1}\n{"a"\n', "line 2 is not JSON"),
        ("pool.parquet", b"PAR1", "cannot be read"),
        ("pool.xlsx", b"", "holds no file that ends in .parquet, .csv, .jsonl"),
    ],
)
def test_what_cannot_be_read_is_told_before_anything_is_scored(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        shard_pool(str(tmp_path / name))


def test_files_that_are_no_one_pool_are_refused(tmp_path: Path) -> None:
    write_csv(tmp_path / "pool.csv")
    with pytest.raises(DataError, match=r"poll.csv is not there.* Did you mean .*pool.csv"):
        shard_pool(str(tmp_path / "poll.csv"))
    (tmp_path / "zebra.csv").write_text("number,text\n1,a\n")
    with pytest.raises(DataError, match=r"zebra.csv has other columns than .*pool.csv: 'body', 'text'"):
        shard_pool(str(tmp_path))
    (tmp_path / "zebra.csv").rename(tmp_path / "zebra.jsonl")
    with pytest.raises(DataError, match=r"several formats: .csv, .jsonl"):
        shard_pool(str(tmp_path))
