"""Hugging Face Hub: data files at a pinned commit, from the local cache or downloaded once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from al_ray.data.rows import Rows
from al_ray.errors import DataError, unknown_name

_TIMEOUT_S = 10.0


@dataclass(frozen=True, kw_only=True)
class HubFiles:
    """Where a data set lies on the Hub.

    Attributes:
        hub_id: ``owner/name`` of the data set repository.
        revision: full commit, so that the rows can never change.
        train: file of the training split.
        test: file of the test split.
        text: column of the text.
        label: column of the label.
        label_text: column that spells out the label, or None.
    """

    hub_id: str
    revision: str
    train: str
    test: str
    text: str = "text"
    label: str = "label"
    label_text: str | None = None

    def read(self) -> tuple[Rows, Rows]:
        """Return both splits under the columns ``text`` and ``label`` (and ``label_text`` where it is declared).

        Raises:
            DataError: the Hub cannot be reached, or does not hold the files as pinned.
        """
        return self._read(self.train), self._read(self.test)

    def _read(self, name: str) -> Rows:
        return self._decode(self._fetch(name), f"{self.hub_id}@{self.revision}/{name}")

    def _fetch(self, name: str) -> Path:
        """Return the file from the local cache, or download it after one quick look whether the Hub answers."""
        from huggingface_hub import HfApi, hf_hub_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        def get(local_files_only: bool) -> Path:
            return Path(
                hf_hub_download(
                    self.hub_id,
                    name,
                    repo_type="dataset",
                    revision=self.revision,
                    local_files_only=local_files_only,
                    etag_timeout=_TIMEOUT_S,
                )
            )

        try:
            return get(local_files_only=True)
        except LocalEntryNotFoundError:
            pass
        try:
            HfApi().dataset_info(self.hub_id, revision=self.revision, timeout=_TIMEOUT_S)
            return get(local_files_only=False)
        except Exception as error:
            raise DataError(
                f"{self.hub_id} at revision {self.revision[:12]} could not be fetched from the Hugging Face Hub "
                f"({type(error).__name__}: {(str(error).splitlines() or [''])[0]}). Check the network, or set "
                "AL_RAY_DATA to a folder with NAME/train.parquet and NAME/test.parquet, or name a path in the study."
            ) from error

    def _decode(self, file: Path, where: str) -> Rows:
        import datasets

        kind = {".parquet": "parquet", ".jsonl": "json"}[file.suffix]
        try:
            split = datasets.load_dataset(kind, data_files={"rows": [str(file)]}, split="rows")
        except datasets.exceptions.DatasetGenerationError as error:
            raise DataError(
                f"{where} cannot be decoded: {error}. Delete {file.resolve()}, and it is fetched again."
            ) from error
        wanted = {"text": self.text, "label": self.label}
        if self.label_text is not None:
            wanted["label_text"] = self.label_text
        return Rows(
            where=where,
            columns={ours: _column(split, theirs, where) for ours, theirs in wanted.items()},
            class_names=_names(split.features, self.label),
        )


def _column(split: Any, name: str, where: str) -> list[Any]:
    if name not in split.column_names:
        message = unknown_name("column", name, split.column_names)
        raise DataError(f"{where}: {message} The pinned files are not as declared.")
    return list(split.with_format("arrow")[:].column(name).to_pylist())


def _names(features: Mapping[str, Any], label: str) -> dict[str, tuple[str, ...]]:
    names = getattr(features[label], "names", None)
    return {"label": tuple(names)} if names else {}
