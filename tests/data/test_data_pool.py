"""Pools to label: labels that are missing in part or altogether."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from al_ray.data.files import PathSource
from al_ray.data.rows import Rows
from al_ray.data.splits import Columns, make_pool
from al_ray.errors import ConfigError, DataError

CLASSES = ("billing", "bug", "1")


def labels_of(values: list[Any], names: tuple[str, ...] | None = None) -> list[int]:
    texts = [f"t{i}" for i in range(len(values))]
    rows = Rows(where="f", columns={"text": texts, "team": values}, class_names={"team": names} if names else {})
    return make_pool(rows, Columns(label="team"), CLASSES).labels.tolist()


def test_a_pool_without_a_label_column_has_no_label() -> None:
    rows = Rows(where="f", columns={"text": ["a", "b"]})
    pool = make_pool(rows, Columns(label=None), CLASSES)
    assert pool.labels.tolist() == [-1, -1]
    assert pool.ids.tolist() == [0, 1]


def test_labels_that_are_there_are_kept_and_empty_fields_are_none() -> None:
    assert labels_of(["bug", None, "", "  ", "billing", float("nan")]) == [1, -1, -1, -1, 0, -1]


def test_numbers_name_classes_and_minus_one_names_none() -> None:
    assert labels_of([1, None, -1, 1.0]) == [2, -1, -1, 2]


def test_indices_count_in_the_names_that_the_file_itself_has() -> None:
    assert labels_of([0, 1, -1], names=("bug", "billing")) == [1, 0, -1]


def test_an_unknown_class_is_refused_with_its_row_and_the_nearest_name() -> None:
    with pytest.raises(DataError, match=r"'biling'. Did you mean 'billing'\?.*row 1 .*Add it to the project's classes"):
        labels_of(["bug", "biling"])


def test_a_pool_is_read_from_a_file_with_an_empty_test_split(tmp_path: Path) -> None:
    file = tmp_path / "pool.csv"
    file.write_text("nr,body,team\n7,first,bug\n9,second,\n")
    source = PathSource.from_option(
        {"path": str(file), "text": "body", "label": "team", "id": "nr", "classes": ["billing", "bug"]}
    )
    dataset = source.load_pool()
    assert dataset.train.ids.tolist() == [7, 9]
    assert dataset.train.labels.tolist() == [1, -1]
    assert len(dataset.test) == 0
    assert dataset.class_names == ("billing", "bug")


def test_the_label_column_of_a_parquet_file_may_be_missing(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a", "b"]}), tmp_path / "pool.parquet")
    source = PathSource.from_option({"path": str(tmp_path / "pool.parquet"), "label": None, "classes": ["x", "y"]})
    assert source.load_pool().train.labels.tolist() == [-1, -1]
    with pytest.raises(ConfigError, match="label is null, and a study needs labels"):
        source.load()


def test_a_folder_with_a_test_split_is_no_pool(tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_text("text\na\n")
    source = PathSource.from_option({"path": str(tmp_path), "label": None, "classes": ["x", "y"]})
    with pytest.raises(ConfigError, match="has a test split, and a pool to label is one file"):
        source.load_pool()
