"""The front door in Python: load a study, run it, read its results."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from al_ray.errors import ConfigError
from al_ray.storage.address import above, below, check_address, is_uri, shown
from al_ray.study.file import Execution, Study, load_study, with_options
from al_ray.study.run import prepare, require_ready

if TYPE_CHECKING:
    from al_ray.report.analysis.results import StudyResults


def run(
    study: "str | os.PathLike[str] | Mapping[str, Any] | Study",
    *,
    storage: "str | os.PathLike[str] | None" = None,
    lanes: int | None = None,
    local: bool = False,
    cell: str | None = None,
    progress: bool = True,
    **execution: Any,
) -> "StudyResults":
    """Run a study, or go on with it: what is recorded is not done again.

    Args:
        study: path of a study file, a mapping, or a :class:`Study`.
        storage: folder or URI of the records; None = as the study says, ``results`` unless it says.
        lanes: cells that run side by side; None = as the study says, else as many as fit.
        local: run in this process, one cell after the other, without Ray.
        cell: run this one cell, by its name in the plan.
        progress: print how far it is, in a terminal or a notebook, and the closing tables.
        **execution: any other field of :class:`al_ray.study.file.Execution`, such as ``gpus_per_worker=1`` or
            ``tracking="off"``.

    Returns:
        the results of all cells that are finished by now; cells that failed are in its ``cells`` with the reason.

    Raises:
        AlRayError: bad input, before anything starts; or when the lanes themselves cannot be had.
        KeyboardInterrupt: every recorded round is kept; the same call goes on from there.
    """
    from al_ray import terminal

    given = {"storage": None if storage is None else os.fspath(storage), "lanes": lanes, **execution}
    named = {name: value for name, value in given.items() if value is not None}
    loaded = load_study(study)
    ready = prepare(loaded, with_options(loaded.execution, named), local=local, cell=cell)
    require_ready(ready, trusts_address="address" in named)
    if progress:
        terminal.run_shown(ready, terminal.make_console())
    else:
        ready.run(lambda event: None, terminal.live_methods(ready.plan))
    return _analysed(ready.plan.store.folder.location, loaded.description)


def results(
    study: "str | os.PathLike[str]", *, storage: "str | os.PathLike[str] | None" = None, skip_damaged: bool = False
) -> "StudyResults":
    """Read what a study has found so far; it may still be running, or be a copy on another machine.

    Args:
        study: folder or URI of a recorded study, its study file, or its name inside ``storage``.
        storage: folder or URI of the records, where ``study`` is a study file or a name.
        skip_damaged: leave cells out whose records cannot be read, with a notice, instead of refusing.

    Raises:
        StorageError: no study, no cell, or records that cannot be read; the message names the files.
    """
    found = find_study(os.fspath(study), None if storage is None else os.fspath(storage))
    return _analysed(found.address, found.description, skip_damaged=skip_damaged)


def _analysed(address: str, description: str, *, skip_damaged: bool = False) -> "StudyResults":
    from al_ray.report.analysis import analyse
    from al_ray.report.read import read_study

    return analyse(read_study(address, skip_damaged=skip_damaged), description=description)


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
        ConfigError: both a folder and a storage folder are named, a bucket is, the study's folder in the storage
            folder is a link, or the study file is wrong.
    """
    name, description, execution = study, "", Execution()
    if study.endswith((".yaml", ".yml")) and not os.path.isdir(study):
        loaded = load_study(study)
        name, description, execution = loaded.name, loaded.description, loaded.execution
    else:
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
    holder = execution.storage if storage is None else storage
    folder = os.path.join(os.path.expanduser(holder), name)
    # Reading and the report would leave the storage folder. What a person names may itself be a link.
    if not is_uri(holder) and os.path.islink(folder):
        raise ConfigError(
            f"{folder} is a link, and links inside a storage folder are not followed: they may leave it. "
            f"Name the folder that it leads to, {os.path.realpath(folder)}."
        )
    return RecordedStudy(storage=holder, name=name, description=description, execution=execution)
