"""The plan of a study: every cell resolved to its data and model, checked, and compared with what is recorded."""

import bisect
import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from al_ray.core.types import NO_CLASS, TextDataset
from al_ray.data import resolve_dataset
from al_ray.errors import AlRayError, ConfigError, DataError, ModelError, unknown_name
from al_ray.model.check import ModelFacts, examine_model
from al_ray.model.lora import check_room_for_adapters, lora_targets
from al_ray.model.source import ResolvedModel, resolve_model
from al_ray.records.cell import CellStatus, CellStore, cell_key
from al_ray.records.json import FORMAT, canonical_json
from al_ray.records.study import StudyStore
from al_ray.stopping import stopping_rules
from al_ray.study.file import Study
from al_ray.study.names import JOIN, CellNames
from al_ray.study.spec import CellSpec, fingerprints, once_a_kind

_N_SHOWN = 20
_EARLY_END = stopping_rules.build("pool_exhausted")


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedCell:
    """One cell, ready to run.

    Attributes:
        names: what people call it.
        fingerprint: SHA-256 of what decides what is computed, or None where its data or model is missing here.
        status: what the storage folder holds of it.
        n_recorded: rounds recorded so far.
    """

    slug: str
    spec: CellSpec
    names: CellNames
    fingerprint: str | None
    status: CellStatus = "waiting"
    n_recorded: int = 0

    @property
    def key(self) -> str:
        """Folder name of the cell."""
        return cell_key(self.slug, self.fingerprint)

    @property
    def pool_key(self) -> str:
        """What two cells share that read the same tokens."""
        spec = self.spec
        return f"{str(spec.dataset_sha256)[:16]}-{str(spec.model.settings_sha256)[:16]}-{spec.max_tokens}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A checked study.

    Attributes:
        datasets: by :func:`dataset_key`.
        models: by (name, revision), the revision as the study wrote it and as it was resolved.
        facts: what each of them can do.
        missing: what cannot be found on this machine, one sentence each; a study with any of them can be planned only.
    """

    study: Study
    store: StudyStore
    cells: tuple[PlannedCell, ...]
    datasets: Mapping[str, TextDataset]
    models: Mapping[tuple[str, str | None], ResolvedModel]
    facts: Mapping[ResolvedModel, ModelFacts]
    missing: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Whether it holds every cell of the study, not a chosen one."""
        return len(self.cells) == len(self.study.cells)

    @property
    def only(self) -> str | None:
        """The folder name of the one cell that was chosen, or None for the whole study."""
        return None if self.is_whole else self.cells[0].key

    def datasets_by_name(self) -> dict[str, TextDataset]:
        """Return the data sets that were found, by what the cells call them."""
        options = {cell.names.dataset: cell.spec.dataset for cell in self.cells}
        keys = {name: dataset_key(option) for name, option in options.items()}
        return {name: self.datasets[key] for name, key in keys.items() if key in self.datasets}

    def waiting(self) -> list[PlannedCell]:
        """Return the cells that are not finished."""
        return [cell for cell in self.cells if cell.status != "done"]


def by_pool(cells: Iterable[PlannedCell]) -> dict[str, list[PlannedCell]]:
    """Return the cells that read each pool, in the order of their use."""
    readers: dict[str, list[PlannedCell]] = {}
    for cell in cells:
        readers.setdefault(cell.pool_key, []).append(cell)
    return readers


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
        ConfigError: cells that their data or their model does not allow; all of them are named.
        StorageError: the storage holds records that this study does not explain, or something else in their place.
    """
    if only is not None and only not in study.cells:
        raise ConfigError(unknown_name("cell", only, study.cells))
    specs = study.cells if only is None else {only: study.cells[only]}
    datasets: dict[str, TextDataset] = {}
    models: dict[tuple[str, str | None], ResolvedModel] = {}
    missing: list[str] = []
    options = {id(spec.dataset): spec.dataset for spec in specs.values()}.values()
    for option in {dataset_key(option): option for option in options}.values():
        _collect(datasets, dataset_key(option), functools.partial(resolve_dataset, option), missing)
    for name, revision in dict.fromkeys((spec.model.name, spec.model.revision) for spec in specs.values()):
        _collect(models, (name, revision), functools.partial(resolve_model, name, revision), missing)
    models |= {(model.name, model.revision): model for model in models.values()}
    facts, problems = _examine(models.values())
    misfits = once_a_kind(lambda spec: _misfits(spec, datasets, models, facts))
    problems += [f"cell {slug}: {problem}" for slug, spec in specs.items() for problem in misfits(spec)]
    if problems:
        more = [f"... and {len(problems) - _N_SHOWN} more"] if len(problems) > _N_SHOWN else []
        raise ConfigError("\n".join([*problems[:_N_SHOWN], *more]))
    store = StudyStore.open(storage, study.name)
    store.check_free()
    found = store.cells()
    recorded = {cell.fingerprint: cell for cell in found}
    resolve = once_a_kind(lambda spec: _resolve(spec, datasets, models))
    resolved = {slug: _planned(slug, spec, study.names[slug], resolve(spec)) for slug, spec in specs.items()}
    _check_content(resolved.values())
    cells = store.folder.each(lambda slug: _with_status(store, resolved[slug], recorded), list(resolved))
    planned = {cell.slug: cell for cell in cells if cell.fingerprint}
    also_planned = [(cell, planned[cell.slug]) for cell in found if cell.slug in planned]
    store.check_drift((cell, now.spec.to_json()) for cell, now in also_planned if now.fingerprint != cell.fingerprint)
    return Plan(
        study=study,
        store=store,
        cells=tuple(cells),
        datasets=datasets,
        models=models,
        facts=facts,
        missing=tuple(missing),
    )


def _collect(found: dict[Any, Any], key: Any, resolve: Any, missing: list[str]) -> None:
    """Keep what resolves; an option that is wrong stops the plan, a thing that is not here is noted."""
    try:
        found[key] = resolve()
    except (DataError, ModelError) as error:
        missing.append(str(error))


def _examine(models: Iterable[ResolvedModel]) -> tuple[dict[ResolvedModel, ModelFacts], list[str]]:
    """Ask each model what it can do, and say why those cannot be used that are no encoders."""
    facts: dict[ResolvedModel, ModelFacts] = {}
    problems: list[str] = []
    for model in dict.fromkeys(models):
        try:
            facts[model] = examine_model(model)
        except ModelError as error:
            problems.append(str(error))
    return facts, problems


def _resolve(
    spec: CellSpec, datasets: Mapping[str, TextDataset], models: Mapping[Any, ResolvedModel]
) -> tuple[dict[str, Any], Callable[[int], str]] | None:
    """Return what a spec becomes with the content of its data and its model, and its fingerprint by its seed."""
    dataset = datasets.get(dataset_key(spec.dataset))
    model = models.get((spec.model.name, spec.model.revision))
    if dataset is None or model is None:
        return None
    content = {"revision": model.revision, "sha256": model.sha256, "settings_sha256": model.settings_sha256}
    pinned = {"dataset_sha256": dataset.content_sha256, "model": spec.model.model_copy(update=content)}
    return pinned, fingerprints(spec.changed(**pinned))


def _planned(
    slug: str, spec: CellSpec, names: CellNames, resolved: tuple[dict[str, Any], Callable[[int], str]] | None
) -> PlannedCell:
    if resolved is None:
        return PlannedCell(slug=slug, spec=spec, names=names, fingerprint=None)
    content, fingerprint = resolved
    return PlannedCell(slug=slug, spec=spec.changed(**content), names=names, fingerprint=fingerprint(spec.seed))


def _check_content(cells: Iterable[PlannedCell]) -> None:
    """Refuse cells that only their paths tell apart: they would write to one folder.

    Raises:
        ConfigError: two cells compute the same.
    """
    known: dict[str, PlannedCell] = {}
    for cell in cells:
        other = known.setdefault(cell.fingerprint, cell) if cell.fingerprint else cell
        if other is not cell:
            raise ConfigError(
                f"cells {other.slug} and {cell.slug} are the same: the rows and the models that they name hold the "
                "same content. Drop one of the two."
            )


def _with_status(store: StudyStore, cell: PlannedCell, recorded: Mapping[str, CellStore]) -> PlannedCell:
    """Look a cell up by its fingerprint: a slug names what varies in a grid, so it changes when the grid grows."""
    found = recorded.get(cell.fingerprint or "")
    if found is None:
        return cell
    status, n_recorded = store.progress(found)
    return replace(cell, slug=found.slug, status=status, n_recorded=n_recorded)


def _misfits(
    spec: CellSpec,
    datasets: Mapping[str, TextDataset],
    models: Mapping[Any, ResolvedModel],
    facts: Mapping[ResolvedModel, ModelFacts],
) -> list[str]:
    """Say why a cell cannot run on its data set and model."""
    found = []
    dataset = datasets.get(dataset_key(spec.dataset))
    if dataset is not None and spec.dataset_sha256 not in (None, dataset.content_sha256):
        found.append(
            f"dataset_sha256 is {str(spec.dataset_sha256)[:12]}..., but the rows found in {dataset.source} have "
            f"{dataset.content_sha256[:12]}... . Use the data that the study was written for, or drop the key."
        )
    if dataset is not None:
        found += _misfits_of_open_set(spec, dataset)
    if dataset is not None and spec.strategy.needs_hindsight and not len(dataset.test):
        found.append(
            f"strategy {spec.strategy.name!r} searches for the best learning curve on a test split, and "
            f"{dataset.name!r} has none. Add one, or drop the strategy."
        )
    n_components = spec.finetune.n_components
    if dataset is not None and n_components is not None and n_components > len(dataset.train):
        found.append(
            f"n_components is {n_components}, but {dataset.name!r} has {len(dataset.train)} training examples, which "
            f"have no more principal components than that. Use at most {len(dataset.train)}."
        )
    if dataset is not None and not spec.strategy.labels_everything:
        found += _misfits_of_sizes(spec, dataset)
    model = models.get((spec.model.name, spec.model.revision))
    if model is not None:
        found += misfits_of_files(spec, model)
    if model is not None and model in facts:
        found += misfits_of_model(spec, facts[model])
    return found


def _misfits_of_open_set(spec: CellSpec, dataset: TextDataset) -> list[str]:
    """Say what cannot cope with a pool that holds texts of no class, where it does."""
    n_no_class, name = dataset.n_no_class, dataset.name
    if not n_no_class:
        return []
    found, n_known = [], len(dataset.train) - n_no_class
    holds = f"{n_no_class} of the {len(dataset.train)} training examples of {name!r} are of no class"
    if not spec.oracle.may_abstain:
        found.append(
            f"{holds}, but oracle {spec.oracle.name!r} has an answer to everything. Use 'oracle: ground_truth', which "
            "says so, or data in which every text has a class."
        )
    n_validation = max((rule.n_validation for rule in spec.stopping), default=0)
    if n_validation > n_known:
        found.append(
            f"{holds}, and the stopping rules hold {n_validation} out that have one; {n_known} do. Lower their "
            "n_examples."
        )
    n_most = n_known - spec.n_held_out(len(dataset.train))
    if spec.initial.needs_truth and not spec.strategy.labels_everything and spec.initial_size > n_most > 0:
        found.append(
            f"{holds}, and initial {spec.initial.name!r} takes none of these: initial_size is {spec.initial_size}, and "
            f"{n_most} can be taken for certain. Lower initial_size to that, or use 'initial: random'."
        )
    return found


def _misfits_of_sizes(spec: CellSpec, dataset: TextDataset) -> list[str]:
    if spec.initial.name == "stratified" and spec.initial_size < dataset.n_classes:
        return [
            f"initial_size is {spec.initial_size}, but a stratified initial query takes at least one example of each "
            f"of the {dataset.n_classes} classes. Raise initial_size to {dataset.n_classes}, or use 'initial: random'."
        ]
    lack = _lack(spec, dataset)
    if lack is None:
        return []
    enough = {key: _largest(key, spec, dataset) for key in ("initial_size", "query_size", "rounds")}
    lower = [f"lower {key} to {value} at most" for key, value in enough.items() if value is not None]
    if not spec.stopping and _lack(spec.model_copy(update={"stopping": (_EARLY_END,)}), dataset) is None:
        lower.append("add 'stopping: [pool_exhausted]'")
    ways = ", or ".join(lower or ["lower more than one of the sizes", "take more data"])
    return [f"{lack} {ways[0].upper()}{ways[1:]}."]


def _lack(spec: CellSpec, dataset: TextDataset) -> str | None:
    """Say how many examples a cell asks for that its data set does not have, or return None."""
    n_train = len(dataset.train)
    if spec.initial_size > n_train:
        return f"initial_size is {spec.initial_size}, but {dataset.name!r} has {n_train} training examples."
    n_held_out = spec.n_held_out(n_train)
    n_pool = n_train - n_held_out - spec.initial_size
    if spec.rounds and spec.query_size > n_pool:
        return (
            f"query_size is {spec.query_size}, but the pool of {dataset.name!r} has {max(n_pool, 0)} examples after "
            f"the initial query{f' and {n_held_out} that are held out' if n_held_out else ''}."
        )
    n_excluded = spec.n_excluded(n_train, dataset.n_no_class)
    candidates = spec.n_left(n_pool - n_excluded - max(spec.rounds - 1, 0) * spec.query_size)
    if spec.rounds and candidates < spec.query_size and not spec.stopping:
        return (
            f"{spec.rounds} rounds of {spec.query_size} ask for more than {dataset.name!r} has: {max(candidates, 0)} "
            "candidates are left for the last one."
        )
    return None


def _largest(key: str, spec: CellSpec, dataset: TextDataset) -> int | None:
    """Return the largest lower value of a size with which a cell, else unchanged, has enough examples, or None."""

    def lacks(value: int) -> bool:
        return _lack(spec.model_copy(update={key: value}), dataset) is not None

    least = dataset.n_classes if key == "initial_size" and spec.initial.name == "stratified" else 1
    at = bisect.bisect_left(range(least, getattr(spec, key)), True, key=lacks)
    return least + at - 1 if at else None


def misfits_of_files(spec: CellSpec, model: ResolvedModel) -> list[str]:
    """Say which files are not those for which a study was written that names their hashes."""
    pinned = (
        ("sha256", "the weights", spec.model.sha256, model.sha256),
        ("settings_sha256", "configuration and tokenizer", spec.model.settings_sha256, model.settings_sha256),
    )
    return [
        f"model.{key} is {wanted[:12]}..., but {what} of {spec.model.name!r} have {found[:12]}... . Use the files that "
        "the study was written for, or drop the key."
        for key, what, wanted, found in pinned
        if wanted is not None and wanted != found
    ]


def misfits_of_model(spec: CellSpec, facts: ModelFacts) -> list[str]:
    """Say why a cell cannot run on a model, one sentence each."""
    found, name = [], spec.model.name
    if facts.longest_text is not None and spec.max_tokens > facts.longest_text:
        found.append(
            f"max_tokens is {spec.max_tokens}, but {name!r} reads {facts.longest_text} tokens at most. "
            f"Set max_tokens to {facts.longest_text} or less."
        )
    if spec.finetune.n_frozen > facts.n_layers:
        found.append(
            f"frozen_layers is {spec.finetune.n_frozen}, but {name!r} has {facts.n_layers} layers that can be "
            f"frozen one by one. Use at most {facts.n_layers}."
        )
    if spec.finetune.n_components is not None and spec.finetune.n_components > facts.n_features:
        found.append(
            f"n_components is {spec.finetune.n_components}, but the embeddings of {name!r} have {facts.n_features} "
            f"features. Use at most {facts.n_features}, or leave it out for all of them."
        )
    if spec.finetune.lora is not None:
        try:
            lora_targets(spec.finetune.lora, facts.family, facts.linear_layers)
            if spec.finetune.n_frozen:
                check_room_for_adapters(spec.finetune.n_frozen, facts.n_layers - spec.finetune.n_frozen)
        except ConfigError as error:
            found.append(str(error))
    if spec.confidence.sampling.adaptive_attention and not facts.adapts_attention:
        found.append(
            f"confidence {spec.confidence.name!r} changes the attention, which is written for encoders built like BERT "
            f"(RoBERTa, XLM-RoBERTa, ELECTRA, DistilBERT) and not for {name!r}. Use 'where: logits'."
        )
    if spec.precision == "bf16" and not facts.runs_in_bf16 and not spec.finetune.is_frozen:
        found.append(
            f"precision is bf16, in which transformers cannot compute {name!r} ({facts.family}). Use "
            "'precision: float32'."
        )
    found += _misfits_of_dropout(spec, facts)
    if spec.model.init == "pretrained" and facts.weights_lack is not None:
        found.append(
            f"the weights of {name!r} lack {facts.weights_lack} of the encoder that its config.json describes. Save "
            "both again from one model, or use 'init: random', which reads no weights."
        )
    return found


def _misfits_of_dropout(spec: CellSpec, facts: ModelFacts) -> list[str]:
    """Refuse dropout passes that would all be equal."""
    sampling, name = spec.confidence.sampling, spec.model.name
    if sampling.dropout not in ("network", "head") or spec.finetune.is_frozen:
        return []
    rate = facts.network_dropout if sampling.dropout == "network" else facts.head_dropout
    if rate is None:
        other = "'where: network' with a 'rate'" if facts.network_dropout is not None else "confidence 'ensemble'"
        return [
            f"confidence {spec.confidence.name!r} drops in the {sampling.dropout}, but {name!r} has no dropout "
            f"there. Use {other}."
        ]
    if rate == 0 and sampling.rate is None:
        return [
            f"confidence {spec.confidence.name!r} drops in the {sampling.dropout} as the model was trained, but "
            f"{name!r} was trained without dropout there, so all passes would be equal. Give a 'rate', such as 0.1."
        ]
    return []


def require_complete(plan: Plan) -> None:
    """Refuse to run a study whose data or models are missing here.

    Raises:
        AlRayError: naming everything that is missing.
    """
    if plan.missing:
        raise AlRayError("\n".join(plan.missing))


def plan_record(plan: Plan) -> dict[str, Any]:
    """Return the grid of a study and its data sets in JSON form.

    Returns:
        ``cells``: slug, fingerprint, and by what a report groups them; ``methods``: the method behind each text that
        stands for one in ``cells``; ``datasets``: by the name that the cells have for it, class names, how many
        training examples each class, no class (where any is of none) and each slice has, sizes, and where the rows
        came from.
    """
    cells = [
        {
            "slug": cell.slug,
            "fingerprint": cell.fingerprint,
            "dataset": cell.names.dataset,
            "model": cell.names.model,
            "method": cell.names.method_and_variant,
            "variant": JOIN.join(cell.names.variant),
            "strategy": cell.spec.strategy.name,
            "seed": cell.spec.seed,
        }
        for cell in plan.cells
    ]
    datasets = {name: _dataset_note(dataset) for name, dataset in plan.datasets_by_name().items()}
    methods = {cell.names.method_and_variant: cell.names.method for cell in plan.cells}
    return {
        "format": FORMAT,
        "study": plan.study.name,
        "cells": cells,
        "methods": {text: asdict(method) for text, method in methods.items()},
        "datasets": datasets,
    }


def _dataset_note(dataset: TextDataset) -> dict[str, Any]:
    groups, labels = dataset.train.groups, dataset.train.labels
    return {
        "class_names": list(dataset.class_names),
        "class_counts": np.bincount(labels[labels != NO_CLASS], minlength=dataset.n_classes).tolist(),
        **({"n_no_class": dataset.n_no_class} if dataset.n_no_class else {}),
        "group_counts": None if groups is None else dict(sorted(Counter(map(str, groups)).items())),
        "n_train": len(dataset.train),
        "n_test": len(dataset.test),
        "source": dataset.source,
    }
