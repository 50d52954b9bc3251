"""Labelled texts as a folder that Hugging Face ``datasets`` loads from the disk."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


def save_dataset(folder: Path, splits: "Mapping[str, pa.Table]", class_names: Sequence[str]) -> None:
    """Write splits as ``datasets.load_from_disk`` reads them, with the column ``label`` as ``ClassLabel``.

    Args:
        folder: new.
        splits: name -> table with the columns ``label`` (class name) and others; at least one has rows, and those
            without are left out.
        class_names: in label order.
    """
    import datasets

    label = datasets.ClassLabel(names=list(class_names))
    made = {}
    for name, table in splits.items():
        if table.num_rows:
            numbers = [class_names.index(each) for each in table["label"].to_pylist()]
            columns = {each: table[each].to_pylist() for each in table.column_names}
            features = datasets.Features.from_arrow_schema(table.schema) | {"label": label}
            made[name] = datasets.Dataset.from_dict({**columns, "label": numbers}, features=datasets.Features(features))
    shown = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        datasets.DatasetDict(made).save_to_disk(str(folder))
    finally:
        if not shown:
            datasets.enable_progress_bars()
