"""Find the records that a person means: by study file, by name, or by folder."""

import os
from dataclasses import dataclass, field

from al_ray.errors import ConfigError
from al_ray.storage.address import above, below, check_address, is_uri, shown
from al_ray.study.file import Execution, load_study


@dataclass(frozen=True, kw_only=True)
class RecordedStudy:
    """Where a study's records are.

    Attributes:
        storage: folder or URI above the study; a key in it is used and not shown.
        name: of the study, and of its folder.
        description: one paragraph for people; empty where no study file was named.
        execution: of the study file, or the defaults.
    """

    storage: str = field(repr=False)
    name: str
    description: str
    execution: Execution

    @property
    def address(self) -> str:
        """What opens the study's own folder or URI; not to be shown."""
        return below(self.storage, self.name)


def find_study(study: str, storage: str | None) -> RecordedStudy:
    """Resolve the argument STUDY of a command.

    Args:
        study: a study file, the folder or URI of a recorded study, or the name of one inside the storage folder.
        storage: folder or URI of the records; None = the study file's, or ``results``.

    Raises:
        ConfigError: both a folder and a storage folder are named, a bucket is, or the study file is wrong.
    """
    if study.endswith((".yaml", ".yml")) and not os.path.isdir(study):
        loaded = load_study(study)
        folder = loaded.execution.storage if storage is None else storage
        _refuse_link(folder, loaded.name)
        return RecordedStudy(
            storage=folder, name=loaded.name, description=loaded.description, execution=loaded.execution
        )
    execution = Execution()
    check_address("STUDY", study)
    if "/" in study or (storage is None and os.path.isdir(study)):
        if storage is not None:
            raise ConfigError(
                f"{shown(study)!r} is a folder already, so --storage says it twice. Leave one of the two out."
            )
        holder, name = above(study if is_uri(study) else os.path.abspath(os.path.expanduser(study)))
        if not name:
            raise ConfigError(
                f"{shown(study)!r} has no folder. Name the study's own, such as s3://bucket/results/study."
            )
        return RecordedStudy(storage=holder, name=name, description="", execution=execution)
    folder = execution.storage if storage is None else storage
    _refuse_link(folder, study)
    return RecordedStudy(storage=folder, name=study, description="", execution=execution)


def _refuse_link(storage: str, name: str) -> None:
    """Follow no link inside a storage folder: reading and the report would leave it. What a person names may be one.

    Raises:
        ConfigError: the study's folder is a link.
    """
    folder = os.path.join(os.path.expanduser(storage), name)
    if not is_uri(storage) and os.path.islink(folder):
        raise ConfigError(
            f"{folder} is a link, and links inside a storage folder are not followed: they may leave it. "
            f"Name the folder that it leads to, {os.path.realpath(folder)}."
        )
