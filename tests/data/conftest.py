"""Writers of small data files, and the folder of real rows where this machine has one."""

import csv
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.needs import lacks

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return ``write(name, columns)``, which writes a file in the format of its ending and returns its path."""

    def write_file(name: str, columns: dict[str, Sequence[Any]], metadata: dict[str, str] | None = None) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = list(zip(*columns.values(), strict=True))
        if path.suffix == ".parquet":
            pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)
        elif path.suffix == ".csv":
            with path.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([list(columns), *rows])
        else:
            path.write_text("".join(f"{json.dumps(dict(zip(columns, row, strict=True)))}\n" for row in rows), "utf-8")
        return path

    return write_file


@pytest.fixture
def real_data() -> Path:
    """Return the folder of real rows: ``AL_RAY_DATA``, or ``shared/data`` beside the repository."""
    repository = Path(__file__).parents[2]
    named = os.environ.get("AL_RAY_DATA")
    for folder in [Path(named)] if named else [repository / "shared" / "data", repository.parent / "shared" / "data"]:
        if folder.is_dir():
            return folder
    return lacks("data", "no real rows here: set AL_RAY_DATA to a folder with NAME/train.parquet")
