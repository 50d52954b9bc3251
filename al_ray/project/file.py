"""Project files: YAML in, the spec of the one cell that a project is out."""

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from al_ray.data.files import PathSource
from al_ray.errors import ConfigError, unknown_name
from al_ray.model.recipe import FinetuneRecipe
from al_ray.registry import LARGEST, describe, validation_words
from al_ray.study.file import SLUG, read_yaml_file
from al_ray.study.spec import CellSpec, make_spec

# What a project does where its file is silent. The learner is the one that keeps nobody waiting.
DEFAULTS: Mapping[str, Any] = {
    "model": "minilm",
    "max_tokens": 128,
    "finetune": {"frozen_layers": "all"},
    "strategy": "margin",
    "initial": "random",
    "initial_size": 20,
    "query_size": 20,
    "evaluation": "random_sample",
    "stopping": ["classification_change", "kappa_agreement", "overall_uncertainty"],
    "seed": 42,
}
_SPEC_KEYS = frozenset(CellSpec.model_fields) - {"dataset", "dataset_sha256", "oracle", "rounds", "workers"}
_DATA_KEYS = ("path", "text", "label", "id", "group")
_RECIPE_KEYS = frozenset(each.name for each in fields(FinetuneRecipe))


class ProjectFile(BaseModel):
    """A project: what its file holds. Keys beyond these are those of a cell: ``model``, ``strategy``, ``filters`` ...

    Attributes:
        project: its name, and that of its folder.
        description: one paragraph for people.
        data: path of the texts (Parquet, CSV or JSONL), or a mapping with ``path``, ``text`` (column, default
            ``text``), ``label`` (column of labels that are known already), ``id`` (column of unique integers) and
            ``group``.
        classes: names of all classes, in the order in which they are shown.
        answers: who answers: ``people``.
        storage: folder or URI of the records.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", json_schema_extra=describe)

    project: Annotated[str, Field(max_length=80, json_schema_extra={"pattern": f"^{SLUG.pattern[:-2]}$"})]
    description: str = ""
    data: str | dict[str, Any]
    classes: list[str | int]
    answers: Literal["people"] = "people"
    storage: str = "projects"
    _spec: CellSpec = PrivateAttr()

    def __init__(self, where: str = "project", /, **values: Any) -> None:
        own = {key: value for key, value in values.items() if key in type(self).model_fields}
        settings = {key: value for key, value in values.items() if key not in own}
        for key in settings:
            if key not in _SPEC_KEYS:
                raise ConfigError(f"{where}: {unknown_name('key', key, {*type(self).model_fields, *_SPEC_KEYS})}")
        try:
            super().__init__(**own)
        except ValidationError as error:
            raise ConfigError(validation_words(error, type(self), where)) from None
        if not SLUG.match(self.project):
            raise ConfigError(
                f"{where}: project is {self.project!r}; it names a folder, so use letters, digits, '.', '_' and '-', "
                "the first of them a letter or a digit."
            )
        self._spec = make_spec(
            {
                **DEFAULTS,
                **_with_learner(settings, where),
                "dataset": {**vars(self.source(where))},
                "oracle": self.answers,
                "rounds": LARGEST,
            },
            where,
        )
        problems = [*self._spec.conflicts(), *_misfits(self._spec)]
        if problems:
            raise ConfigError("\n".join(f"{where}: {problem}" for problem in problems))

    @property
    def name(self) -> str:
        """Name of the project."""
        return self.project

    @property
    def spec(self) -> CellSpec:
        """The cell that the project is, before its data and its model were looked at."""
        return self._spec

    def source(self, where: str = "project") -> PathSource:
        """Return where the texts are.

        Raises:
            ConfigError: an unknown option, a wrong type, or classes that are not two different ones at least.
        """
        option = {"path": self.data} if isinstance(self.data, str) else self.data
        for key in option:
            if key not in _DATA_KEYS:
                raise ConfigError(f"{where}: {unknown_name('option of data:', key, _DATA_KEYS)}")
        try:
            return PathSource.from_option({"label": None, **option, "classes": self.classes})
        except ConfigError as error:
            raise ConfigError(f"{where}: data: {error}") from None


def _with_learner(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Take the options of the learner out of ``model: {name: minilm, frozen_layers: all}``; null is no evaluation."""
    found = dict(settings)
    if "evaluation" in found and found["evaluation"] in (None, "none"):
        found["evaluation"] = "own"
    elif isinstance(found.get("evaluation"), str) and found["evaluation"] in ("own", "plain", "gonsior2022/plain"):
        raise ConfigError(
            f"{where}: evaluation is {found['evaluation']!r}, which measures on a test split, and a pool to label has "
            "none. Use 'random_sample' or 'active_testing', or 'none'."
        )
    model = found.get("model")
    if isinstance(model, Mapping):
        learner = {key: value for key, value in model.items() if key in _RECIPE_KEYS}
        if learner:
            found["model"] = {key: value for key, value in model.items() if key not in learner}
            found["finetune"] = {**found.get("finetune", {}), **learner}
    return found


def _misfits(spec: CellSpec) -> list[str]:
    """Say what of a spec only a simulation can do, which knows the labels beforehand."""
    found = []
    if spec.initial.needs_truth:
        found.append(
            f"initial {spec.initial.name!r} looks at labels that nobody has yet. Use 'initial: random', or 'typiclust'."
        )
    if spec.strategy.labels_everything:
        found.append(f"strategy {spec.strategy.name!r} labels everything. Use one that chooses, such as 'margin'.")
    if spec.strategy.needs_hindsight:
        found.append(
            f"strategy {spec.strategy.name!r} is an upper bound that looks at labels that nobody has yet. Use one that "
            "chooses, such as 'margin'."
        )
    found += [
        f"filter {each.name!r} asks a model that learned from labels that nobody has yet. Drop it."
        for each in spec.filters
        if each.needs_hardness
    ]
    found += [
        f"stopping rule {rule.name!r} needs {rule.n_validation} labels for validation. Drop it: the estimate of "
        "'evaluation' says as much."
        for rule in spec.stopping
        if rule.n_validation
    ]
    return found


def load_project(project: "str | os.PathLike[str] | Mapping[str, Any] | ProjectFile") -> ProjectFile:
    """Return a project, checked.

    Args:
        project: path of a project file, or what such a file holds as a mapping; a project is given back as it is.

    Raises:
        ConfigError: no file, no YAML, or settings that cannot be; with all the problems found.
    """
    if isinstance(project, ProjectFile):
        return project
    if isinstance(project, Mapping):
        return ProjectFile(**{str(key): value for key, value in project.items()})
    where = Path(os.fspath(project)).name
    values = read_yaml_file(os.fspath(project), "project")
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} holds no keys. A project file has 'project', 'data' and 'classes'.")
    if "study" in values and "project" not in values:
        raise ConfigError(f"{where} is a study file. Run it with 'al-ray run {os.fspath(project)}'.")
    return ProjectFile(where, **{str(key): value for key, value in values.items()})
