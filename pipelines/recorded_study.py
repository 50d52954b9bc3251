"""Find the records that a person means: by study file, by name, or by folder."""

import os
from dataclasses import dataclass
from pathlib import Path

from al_ray.errors import ConfigError
from al_ray.experiment.study_file import Execution, load_study


@dataclass(frozen=True, kw_only=True)
class RecordedStudy:
    """Where a study's records are.

    Attributes:
        storage: folder or URI above the study.
        name: of the study, and of its folder.
        description: one paragraph for people; empty where no study file was named.
        execution: of the study file, or the defaults.
    """

    storage: str
    name: str
    description: str
    execution: Execution

    @property
    def address(self) -> str:
        """The study's own folder or URI."""
        return f"{self.storage.rstrip('/')}/{self.name}"


def find_study(study: str, storage: str | None) -> RecordedStudy:
    """Resolve the argument STUDY of a command.

    Args:
        study: a study file, the folder or URI of a recorded study, or the name of one inside the storage folder.
        storage: folder or URI of the records; None = the study file's, or ``results``.

    Raises:
        ConfigError: both a folder and a storage folder are named, or the study file is wrong.
    """
    if study.endswith((".yaml", ".yml")):
        loaded = load_study(Path(study))
        folder = storage or loaded.execution.storage
        return RecordedStudy(
            storage=folder, name=loaded.name, description=loaded.description, execution=loaded.execution
        )
    execution = Execution()
    if "/" in study or (storage is None and Path(study).is_dir()):
        if storage is not None:
            raise ConfigError(f"{study!r} is a folder already, so --storage says it twice. Leave one of the two out.")
        address = study if "://" in study else os.path.abspath(os.path.expanduser(study))
        above, _, name = address.rstrip("/").rpartition("/")
        return RecordedStudy(storage=above or "/", name=name, description="", execution=execution)
    return RecordedStudy(storage=storage or execution.storage, name=study, description="", execution=execution)
