"""Data files from a stranger: rows are read, and nothing in or beside them is run."""

import json
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from al_ray.data import resolve_dataset
from al_ray.data.paper import PinnedDataset
from al_ray.errors import DataError
from tests.trust.conftest import Payload


def table(n: int = 40) -> pa.Table:
    return pa.table({"text": [f"text {i}" for i in range(n)], "label": [i % 2 for i in range(n)]})


def folder(tmp_path: Path, train: pa.Table | None = None) -> Path:
    where = tmp_path / "data"
    where.mkdir()
    pq.write_table(table() if train is None else train, where / "train.parquet")
    pq.write_table(table(), where / "test.parquet")
    return where


def payload(canary: Path) -> bytes:
    return pickle.dumps(Payload(str(canary)))


def extension(name: bytes, metadata: bytes) -> pa.Table:
    """Return a table whose text column claims to be of an extension type, which readers once unpickled."""
    marks = {b"ARROW:extension:name": name, b"ARROW:extension:metadata": metadata}
    schema = pa.schema([pa.field("text", pa.string(), metadata=marks), pa.field("label", pa.int64())])
    return table().cast(schema)


@pytest.mark.parametrize("name", [b"arrow.py_extension_type", b"evil"])
def test_an_extension_type_is_not_unpickled(tmp_path: Path, canary: Path, name: bytes) -> None:
    found = resolve_dataset({"path": str(folder(tmp_path, extension(name, payload(canary))))})
    assert found.train.texts[0] == "text 0"


def test_an_extension_type_that_pandas_knows_is_read_as_json_and_refused(tmp_path: Path, canary: Path) -> None:
    import pandas.core.arrays.arrow.extension_types  # registers the type, as any use of pandas with arrow does

    where = folder(tmp_path, extension(b"pandas.period", payload(canary)))
    with pytest.raises(DataError, match="its schema metadata is not readable"):
        resolve_dataset({"path": str(where)})
    assert pandas.core.arrays.arrow.extension_types


def test_pandas_metadata_are_not_believed(tmp_path: Path, canary: Path) -> None:
    column = {"name": "text", "pandas_type": "object", "numpy_type": "object", "metadata": {"pickle": "x"}}
    pandas = json.dumps({"columns": [column], "index_columns": ["text"], "creator": {"library": "pickle"}}).encode()
    marked = table().replace_schema_metadata({b"pandas": pandas, b"pickle": payload(canary)})
    assert len(resolve_dataset({"path": str(folder(tmp_path, marked))}).train) == 40


def test_a_pickle_that_is_called_parquet_is_refused(tmp_path: Path, canary: Path) -> None:
    where = folder(tmp_path)
    (where / "train.parquet").write_bytes(payload(canary) * 9)
    with pytest.raises(DataError, match="is not a whole Parquet file"):
        resolve_dataset({"path": str(where)})


def test_a_column_of_pickles_is_no_text(tmp_path: Path, canary: Path) -> None:
    spoiled = pa.table({"text": [payload(canary)] * 40, "label": [0, 1] * 20})
    with pytest.raises(DataError, match="column 'text' is not text"):
        resolve_dataset({"path": str(folder(tmp_path, spoiled))})


@pytest.mark.parametrize(
    "metadata",
    [
        {b"class_names": b"5"},
        {b"class_names": b'["a", 1]'},
        {b"class_names": b"[" * 5000},
        {b"huggingface": b"[]"},
        {b"huggingface": b'{"info": {"features": {"label": {"names": 7}}}}'},
    ],
    ids=str,
)
def test_metadata_that_are_nonsense_are_a_sentence(tmp_path: Path, metadata: dict[bytes, bytes]) -> None:
    with pytest.raises(DataError, match="its schema metadata"):
        resolve_dataset({"path": str(folder(tmp_path, table().replace_schema_metadata(metadata)))})


@pytest.mark.parametrize(
    "line",
    [b'{"text": "a", "label": ' + b"9" * 5000 + b"}", b'{"text": ' + b"[" * 50_000, b'{"text": "\xff"}', b'"x"'],
    ids=["thousands of digits", "without end", "no UTF-8", "no object"],
)
def test_a_line_that_is_no_row_is_a_sentence(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "train.jsonl").write_bytes(line + b"\n")
    with pytest.raises(DataError, match=r"train.jsonl"):
        resolve_dataset({"path": str(tmp_path / "train.jsonl"), "test_fraction": 0.5})


def test_a_formula_is_text(tmp_path: Path, canary: Path) -> None:
    formula = f"=cmd|'/c touch {canary}'!A1"
    rows = "".join(f'"{formula} {i}",{i % 2}\n' for i in range(40))
    (tmp_path / "train.csv").write_text(f"text,label\n{rows}", encoding="utf-8")
    found = resolve_dataset({"path": str(tmp_path / "train.csv"), "test_fraction": 0.5})
    assert all(text.startswith(formula) for text in found.train.texts)


def scripts(where: Path, canary: Path) -> None:
    """Put a script into a folder under every name by which a library might take it for a loader."""
    code = f"open({str(canary)!r}, 'w').write('run')\n"
    for name in (
        "data.py",
        "train.py",
        "dataset.py",
        "__init__.py",
        "conftest.py",
        "trec6.py",
        "parquet.py",
        "json.py",
    ):
        (where / name).write_text(code, encoding="utf-8")
    (where / "dataset_infos.json").write_text('{"default": {"builder_name": "evil"}}', encoding="utf-8")


def test_scripts_beside_the_rows_are_not_run(tmp_path: Path, canary: Path) -> None:
    where = folder(tmp_path)
    scripts(where, canary)
    assert len(resolve_dataset({"path": str(where)}).train) == 40


def test_scripts_below_the_data_folder_are_not_run(
    tmp_path: Path, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = pa.table({"text": [f"question {i}" for i in range(60)], "label": [i % 6 for i in range(60)]})
    where = folder(tmp_path, rows).rename(tmp_path / "trec6")
    pq.write_table(rows, where / "test.parquet")
    scripts(where, canary)
    scripts(tmp_path, canary)
    monkeypatch.setenv("AL_RAY_DATA", str(tmp_path))
    assert len(resolve_dataset("trec6").train) == 60


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_files_from_the_hub_are_decoded_without_a_script(
    tmp_path: Path, canary: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    # The reader is chosen by a name, and a folder of that name here must not take its place.
    for name in ("parquet", "json"):
        (tmp_path / "here" / name).mkdir(parents=True)
        scripts(tmp_path / "here" / name, canary)
    monkeypatch.chdir(tmp_path / "here")
    blob = tmp_path / f"blob.{ending}"
    if ending == "parquet":
        features = {"text": {"dtype": "string", "_type": "Value"}, "label": {"dtype": "int64", "_type": "Value"}}
        info = json.dumps({"info": {"features": features, "builder_name": "evil"}}).encode()
        pq.write_table(extension(b"arrow.py_extension_type", payload(canary)).replace_schema_metadata(
            {b"huggingface": info}
        ), blob)  # fmt: skip
    else:
        blob.write_text("".join(json.dumps(row) + "\n" for row in table().to_pylist()), encoding="utf-8")
    found = decode(blob, tmp_path / "cache", monkeypatch)
    assert found[:2] == ["text 0", "text 1"]


def decode(blob: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(cache))

    class Made(PinnedDataset):
        hub_id, revision = "a/b", "0" * 40

        def _fetch(self, name: str) -> Path:
            return blob

    return Made._read(object.__new__(Made), blob.name).columns["text"]
