"""The plan of a study: every cell resolved to its data and model, checked, and compared with what is recorded."""

import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from al_ray.core.types import TextDataset
from al_ray.data import resolve_dataset
from al_ray.errors import AlRayError, ConfigError, DataError, ModelError, unknown_name
from al_ray.experiment.canonical import canonical_json, fingerprint
from al_ray.experiment.spec import CellSpec
from al_ray.experiment.store import CellStore, StudyStore
from al_ray.experiment.study_file import Study
from al_ray.model.source import ResolvedModel, resolve_model

Status = Literal["new", "running", "done", "failed"]


@dataclass(frozen=True, kw_only=True)
class PlannedCell:
    """One cell, ready to run.

    Attributes:
        fingerprint: SHA-256 of the resolved spec, or None where its data or model is missing here.
        status: what the storage folder holds of it.
        n_recorded: rounds recorded so far.
    """

    slug: str
    spec: CellSpec
    fingerprint: str | None
    status: Status = "new"
    n_recorded: int = 0

    @property
    def key(self) -> str:
        """Folder name of the cell."""
        return f"{self.slug}--{(self.fingerprint or 'unresolved')[:8]}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A checked study.

    Attributes:
        datasets: by :func:`dataset_key`.
        models: by (name, revision), the revision as the study wrote it and as it was resolved.
        missing: what cannot be found on this machine, one sentence each; a study with any of them can be planned only.
    """

    study: Study
    store: StudyStore
    cells: tuple[PlannedCell, ...]
    datasets: Mapping[str, TextDataset]
    models: Mapping[tuple[str, str | None], ResolvedModel]
    missing: tuple[str, ...] = field(default=())

    @property
    def is_whole(self) -> bool:
        """Whether it holds every cell of the study, not a chosen one."""
        return len(self.cells) == len(self.study.cells)

    @property
    def only(self) -> str | None:
        """The folder name of the one cell that was chosen, or None for the whole study."""
        return None if self.is_whole else self.cells[0].key

    def waiting(self) -> list[PlannedCell]:
        """Return the cells that are not finished."""
        return [cell for cell in self.cells if cell.status != "done"]


def dataset_key(option: Mapping[str, Any]) -> str:
    """Return what two cells share when they read the same data set."""
    return canonical_json(dict(option))


def plan_study(study: Study, storage: str, only: str | None = None) -> Plan:
    """Resolve data and models once each, check every cell against them, and look up what is recorded.

    Args:
        study: the laid-out study.
        storage: folder or URI of the records; nothing is written.
        only: slug of the one cell to plan.

    Raises:
        ConfigError: cells that their data does not allow; all of them are named.
        StorageError: the storage holds records that this study does not explain, or something else in their place.
    """
    specs = _selected(study, only)
    datasets: dict[str, TextDataset] = {}
    models: dict[tuple[str, str | None], ResolvedModel] = {}
    missing: list[str] = []
    for option in {dataset_key(spec.dataset): spec.dataset for spec in specs.values()}.values():
        _collect(datasets, dataset_key(option), functools.partial(resolve_dataset, option), missing)
    for name, revision in dict.fromkeys((spec.model.name, spec.model.revision) for spec in specs.values()):
        _collect(models, (name, revision), functools.partial(resolve_model, name, revision), missing)
    models |= {(model.name, model.revision): model for model in models.values()}
    configs = {key: _config(model) for key, model in models.items()}
    problems = [problem for slug, spec in specs.items() for problem in _misfits(slug, spec, datasets, models, configs)]
    if problems:
        raise ConfigError(_several(problems))
    store = StudyStore.open(storage, study.name)
    store.check_free()
    found = store.cells()
    recorded = {cell.fingerprint: cell for cell in found}
    resolved = {slug: _resolve(slug, spec, datasets, models) for slug, spec in specs.items()}
    cells = store.folder.each(lambda slug: _with_status(resolved[slug], recorded), list(resolved))
    _check_drift(store, cells, found)
    return Plan(
        study=study,
        store=store,
        cells=tuple(cells),
        datasets=datasets,
        models=models,
        missing=tuple(missing),
    )


def _selected(study: Study, only: str | None) -> dict[str, CellSpec]:
    if only is None:
        return study.cells
    if only not in study.cells:
        raise ConfigError(unknown_name("cell", only, study.cells))
    return {only: study.cells[only]}


def _collect(found: dict[Any, Any], key: Any, resolve: Any, missing: list[str]) -> None:
    """Keep what resolves; an option that is wrong stops the plan, a thing that is not here is noted."""
    try:
        found[key] = resolve()
    except (DataError, ModelError) as error:
        missing.append(str(error))


def _resolve(
    slug: str, spec: CellSpec, datasets: Mapping[str, TextDataset], models: Mapping[Any, ResolvedModel]
) -> PlannedCell:
    dataset = datasets.get(dataset_key(spec.dataset))
    model = models.get((spec.model.name, spec.model.revision))
    if dataset is None or model is None:
        return PlannedCell(slug=slug, spec=spec, fingerprint=None)
    pinned = spec.model.model_copy(update={"revision": model.revision, "sha256": model.sha256})
    resolved = spec.model_copy(update={"dataset_sha256": dataset.content_sha256, "model": pinned})
    return PlannedCell(slug=slug, spec=resolved, fingerprint=fingerprint(resolved.to_json()))


def _with_status(cell: PlannedCell, recorded: Mapping[str, CellStore]) -> PlannedCell:
    """Look a cell up by its fingerprint: a slug names what varies in a grid, so it changes when the grid grows."""
    found = recorded.get(cell.fingerprint or "")
    if found is None:
        return cell
    return replace(cell, slug=found.slug, status=found.status(), n_recorded=found.n_rounds())


def _check_drift(store: StudyStore, cells: Iterable[PlannedCell], recorded: Iterable[CellStore]) -> None:
    """Refuse recorded cells that the study no longer explains; specs are compared only where fingerprints differ.

    Raises:
        StorageError: listing every changed field.
    """
    planned = {cell.slug: cell for cell in cells if cell.fingerprint}
    drifted = {
        found.slug: planned[found.slug]
        for found in recorded
        if found.slug in planned and planned[found.slug].fingerprint != found.fingerprint
    }
    if drifted:
        store.check_drift({slug: (str(cell.fingerprint), cell.spec.to_json()) for slug, cell in drifted.items()})


def _misfits(
    slug: str,
    spec: CellSpec,
    datasets: Mapping[str, TextDataset],
    models: Mapping[Any, ResolvedModel],
    configs: Mapping[Any, Mapping[str, Any]],
) -> list[str]:
    """Say why a cell cannot run on its data set and model."""
    found = []
    dataset = datasets.get(dataset_key(spec.dataset))
    if dataset is not None and spec.dataset_sha256 not in (None, dataset.content_sha256):
        found.append(
            f"dataset_sha256 is {str(spec.dataset_sha256)[:12]}..., but the rows found in {dataset.source} have "
            f"{dataset.content_sha256[:12]}... . Use the data that the study was written for, or drop the key."
        )
    if dataset is not None and not spec.strategy.labels_everything:
        found += _misfits_of_sizes(spec, dataset)
    key = spec.model.name, spec.model.revision
    if key in models:
        found += _misfits_of_model(spec, models[key], configs[key])
    return [f"cell {slug}: {problem}" for problem in found]


def _misfits_of_sizes(spec: CellSpec, dataset: TextDataset) -> list[str]:
    n_train = len(dataset.train)
    if spec.initial_size > n_train:
        return [
            f"initial_size is {spec.initial_size}, but {dataset.name!r} has {n_train} training examples. "
            f"Lower initial_size to {n_train} at most."
        ]
    if spec.initial.name == "stratified" and spec.initial_size < dataset.n_classes:
        return [
            f"initial_size is {spec.initial_size}, but a stratified initial query takes at least one example of each "
            f"of the {dataset.n_classes} classes. Raise initial_size, or use 'initial: random'."
        ]
    n_train -= max((rule.n_validation for rule in spec.stopping), default=0)
    candidates = n_train - spec.initial_size - max(spec.rounds - 1, 0) * spec.query_size
    for each in spec.filters:
        candidates -= each.n_removed(max(candidates, 0), spec.query_size)
    may_end_early = bool(spec.stopping)
    if spec.query_size > n_train - spec.initial_size and spec.rounds:
        return [
            f"query_size is {spec.query_size}, but the pool of {dataset.name!r} has "
            f"{n_train - spec.initial_size} examples after the initial query. Lower query_size."
        ]
    if spec.rounds and candidates < spec.query_size and not may_end_early:
        return [
            f"{spec.rounds} rounds of {spec.query_size} ask for more than {dataset.name!r} has: {max(candidates, 0)} "
            f"candidates are left for the last one. Lower rounds or query_size, or add 'stopping: [pool_exhausted]'."
        ]
    return []


def _config(model: ResolvedModel) -> dict[str, Any]:
    with open(f"{model.path}/config.json", encoding="utf-8") as file:
        return dict(json.load(file))


def _misfits_of_model(spec: CellSpec, model: ResolvedModel, config: Mapping[str, Any]) -> list[str]:
    found = []
    if spec.model.sha256 not in (None, model.sha256):
        found.append(
            f"model.sha256 is {str(spec.model.sha256)[:12]}..., but the weights of {model.name!r} have "
            f"{model.sha256[:12]}... . Use the weights that the study was written for, or drop the key."
        )
    limit, layers = config.get("max_position_embeddings"), config.get("num_hidden_layers")
    if limit is not None and config.get("model_type") in ("roberta", "xlm-roberta", "camembert"):
        limit -= config.get("pad_token_id", 1) + 1  # these models count positions from behind the padding id
    if limit is not None and spec.max_tokens > limit:
        found.append(f"max_tokens is {spec.max_tokens}, but {spec.model.name!r} reads {limit} tokens at most.")
    if layers is not None and spec.finetune.frozen_layers > layers:
        found.append(f"frozen_layers is {spec.finetune.frozen_layers}, but {spec.model.name!r} has {layers} layers.")
    return found


def _several(problems: list[str], n: int = 20) -> str:
    more = [f"... and {len(problems) - n} more"] if len(problems) > n else []
    return "\n".join([*problems[:n], *more])


def require_complete(plan: Plan) -> None:
    """Refuse to run a study whose data or models are missing here.

    Raises:
        AlRayError: naming everything that is missing.
    """
    if plan.missing:
        raise AlRayError("\n".join(plan.missing))
