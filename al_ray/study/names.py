"""Names of a study's cells: data set, model, method, and whatever else tells two of them apart.

One way for slugs, tables, MLflow and reports. Names are made of what a study file says, never of hashes of content.
"""

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from al_ray.identifiers import with_hash
from al_ray.model.recipe import FinetuneRecipe, Lora
from al_ray.records.json import canonical_json, flatten
from al_ray.registry import later_options
from al_ray.study.spec import CellSpec, once_a_kind

MAX_SLUG = 150  # with the fingerprint behind it, a folder on any file system
JOIN = " + "
_ILLEGAL = re.compile(r"[^A-Za-z0-9._=]+")
_NAMED_OTHERWISE = ("spec_version", "dataset", "dataset_sha256", "seed")
_PATHS = ("path", "test")
_RECIPE = "finetune."
_OF_RECIPE = {*(each.name for each in (*fields(FinetuneRecipe), *fields(Lora))), "frozen_dropout"}

Role = Literal["query", "random", "passive", "bound"]


@dataclass(frozen=True, kw_only=True)
class Method:
    """What a report compares: a confidence method, a query strategy and candidate filters, with their options.

    Attributes:
        name: all labels, joined by ``+``; what else varies in a study is no part of it.
        confidence: label of the confidence method: its name, and the values of options that are not the default.
        strategy: label of the query strategy, likewise.
        filters: labels of the filters, in order.
        clipping: those of them that clip the ranking.
        role: ``random`` for unfiltered random queries, ``passive`` where everything is labelled, ``bound`` for an
            upper bound that saw all labels, else ``query``.
    """

    name: str
    confidence: str
    strategy: str
    filters: tuple[str, ...]
    clipping: tuple[str, ...]
    role: Role

    @classmethod
    def of(cls, spec: CellSpec) -> "Method":
        """Return the method of a cell."""
        labels = [plugin_label(plugin) for plugin in (spec.confidence, spec.strategy, *spec.filters)]
        return cls(
            name=JOIN.join(labels),
            confidence=labels[0],
            strategy=labels[1],
            filters=tuple(labels[2:]),
            clipping=tuple(label for label, each in zip(labels[2:], spec.filters, strict=True) if each.clips),
            role=_role(spec),
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Method":
        """Read the JSON form of :func:`dataclasses.asdict` back."""
        lists = {name: tuple(data[name]) for name in ("filters", "clipping")}
        return cls(**{each.name: data[each.name] for each in fields(cls)} | lists)

    @classmethod
    def of_name(cls, name: str, strategy: str) -> "Method":
        """Return a method of which nothing is known but its name and the plug-in of its strategy."""
        roles: Mapping[str, Role] = {"passive": "passive", "random": "random", "optimal": "bound"}
        role = roles.get(strategy, "query")
        return cls(name=name, confidence="", strategy=strategy, filters=(), clipping=(), role=role)

    @property
    def labels(self) -> tuple[str, ...]:
        """Return what the name is joined of."""
        return (self.confidence, self.strategy, *self.filters)

    @property
    def unclipped(self) -> str:
        """Return the name of the same method without filters that clip."""
        kept = (label for label in self.filters if label not in self.clipping)
        return JOIN.join([self.confidence, self.strategy, *kept]) if self.clipping else self.name


@dataclass(frozen=True, kw_only=True)
class CellNames:
    """How a study calls one of its cells, the seed aside.

    Attributes:
        dataset: the data set's name, and in brackets what tells it from others of that name.
        model: last part of the model's name, likewise, and what of it is learned where that differs.
        method: confidence, strategy and filters.
        variant: ``key=value`` of what else differs between cells of one data set, model and method; mostly nothing.
    """

    dataset: str
    model: str
    method: Method
    variant: tuple[str, ...] = ()

    @property
    def method_and_variant(self) -> str:
        """Return the method's name with the variant behind it, as one text."""
        return JOIN.join([self.method.name, *self.variant])

    @property
    def setting(self) -> str:
        """Return what stands beside the method: data set, model and variant, as one text."""
        return " · ".join(filter(None, (self.dataset, self.model, JOIN.join(self.variant))))


def _role(spec: CellSpec) -> Role:
    if spec.strategy.labels_everything:
        return "passive"
    if spec.strategy.needs_hindsight:
        return "bound"
    return "random" if spec.strategy.name == "random" and not spec.filters else "query"


def name_cells(specs: Sequence[CellSpec]) -> list[CellNames]:
    """Name the cells of a study so that two of one seed never have one name.

    Two of different seeds have one name where nothing else but ``rounds`` differs: a longer run is no other method.
    """
    text_of = once_a_kind(lambda spec: spec.model_dump_json(exclude={"seed"}))
    texts = [text_of(spec) for spec in specs]
    distinct = dict(zip(texts, specs, strict=True))
    datasets = _labels((spec.dataset_name(), dataset_content(spec), spec.dataset) for spec in distinct.values())
    models = _labels((_last_part(spec.model.name), learner_content(spec), _learner(spec)) for spec in distinct.values())
    plain = {
        text: CellNames(
            dataset=datasets[dataset_content(spec)],
            model=models[learner_content(spec)],
            method=Method.of(spec),
        )
        for text, spec in distinct.items()
    }
    seeds: dict[str, set[int]] = {}
    for text, spec in zip(texts, specs, strict=True):
        seeds.setdefault(text, set()).add(spec.seed)
    named = _with_variants(plain, distinct, seeds)
    return [named[text] for text in texts]


def plugin_label(plugin: Any) -> str:
    """Return a plug-in's name with the values of its options that are not the default."""
    values = [(getattr(plugin, option.name), option.default) for option in fields(plugin)]
    return "_".join([plugin.name, *(option_label(value) for value, default in values if value != default)])


def option_label(value: Any) -> str:
    """Write the value of an option, of which others may be plug-ins."""
    if isinstance(value, tuple) and any(hasattr(each, "name") for each in value):
        return f"({', '.join(map(option_label, value))})"
    return plugin_label(value) if hasattr(value, "name") else f"{value}"


def slugs_of(specs: Sequence[CellSpec], names: Sequence[CellNames]) -> list[str]:
    """Write the name of every cell for a folder; equal ones are the same cell.

    Where characters that a folder cannot have leave two cells with one name, or a name is too long, a hash follows.
    """
    ends = [f"-s{spec.seed}" for spec in specs]
    distinct = {id(name): name for name in names}  # cells that differ in the seed have one name
    texts = {
        key: "-".join(map(_squeezed, (n.dataset, n.model, *n.method.labels, *n.variant))) for key, n in distinct.items()
    }
    readable = [texts[id(name)] for name in names]
    meant: dict[str, set[CellNames]] = {}
    for key, name in distinct.items():
        meant.setdefault(texts[key], set()).add(name)
    return [
        text + end
        if len(meant[text]) == 1 and len(text + end) <= MAX_SLUG
        else with_hash(text, _hashed(name), MAX_SLUG - len(end)) + end
        for text, name, end in zip(readable, names, ends, strict=True)
    ]


def _hashed(n: CellNames) -> str:
    """Return the text behind the hash in a slug; another one would rename cells of studies that are laid out again."""
    return f"CellNames(dataset={n.dataset!r}, model={n.model!r}, method={n.method.labels!r}, variant={n.variant!r})"


def _squeezed(part: str) -> str:
    return _ILLEGAL.sub("_", part).strip("_") or "_"


def _last_part(name: str) -> str:
    return name.rstrip("/").rsplit("/", 1)[-1] or name


def dataset_content(spec: CellSpec) -> str:
    """Return what two cells share that read the same rows, or, while the rows are not known, name them alike."""
    places = {key: os.path.abspath(os.path.expanduser(spec.dataset[key])) for key in _PATHS if spec.dataset.get(key)}
    return spec.dataset_sha256 or canonical_json({**spec.dataset, **places})


def model_content(spec: CellSpec) -> str:
    """Return what two cells share that start from the same model, likewise."""
    model = spec.model
    folder = os.path.abspath(os.path.expanduser(model.name))
    place = [folder if os.path.isdir(folder) else model.name, model.revision]
    return canonical_json([model.sha256, model.settings_sha256] if model.sha256 else place)


def learner_name(spec: CellSpec) -> str:
    """Return what is learned: ``full``, ``frozen``, ``lora_8`` by its rank, ``frozen_4`` or ``frozen_4_lora_8``."""
    return learner_name_of(spec.finetune)


def learner_name_of(recipe: FinetuneRecipe) -> str:
    """Return :func:`learner_name` of a recipe."""
    if recipe.is_frozen:
        return "frozen"
    parts = [f"frozen_{recipe.n_frozen}"] if recipe.n_frozen else []
    parts += [f"lora_{recipe.lora.rank}"] if recipe.lora else []
    return "_".join(parts) or "full"


def learner_content(spec: CellSpec) -> str:
    """Return what two cells share that learn the same part of the same model."""
    return canonical_json([model_content(spec), learner_name(spec)])


def setting_axes(cells: Iterable[tuple[CellSpec, CellNames]]) -> dict[str, dict[str, str]]:
    """Return the values of every setting on the axes of its study, in words: what it has in common with others.

    ``data set``, ``model``, ``learner`` (what is learned, and how where two differ) and ``n_components`` (``all``
    without a projection), then what else tells settings apart, by the word that their names have for it.

    Args:
        cells: a cell of each setting; of several the first counts.
    """
    firsts: dict[str, tuple[CellSpec, CellNames]] = {}
    for spec, names in cells:
        firsts.setdefault(names.setting, (spec, names))
    specs = [spec for spec, _ in firsts.values()]
    models = _labels((_last_part(one.model.name), model_content(one), _model_options(one)) for one in specs)
    learners = _labels((_learner_kind(one.finetune), _recipe_content(one), _recipe_options(one)) for one in specs)
    return {
        setting: {
            "data set": names.dataset,
            "model": models[model_content(spec)],
            "learner": learners[_recipe_content(spec)],
            "n_components": str(spec.finetune.n_components or "all"),
            # A plan keeps a variant as one text.
            **dict(word.split("=", 1) for word in JOIN.join(names.variant).split(JOIN) if _is_axis(word)),
        }
        for setting, (spec, names) in firsts.items()
    }


def _learner_kind(recipe: FinetuneRecipe) -> str:
    """Return the kind of learner as a survey tells them apart: what is learned, and by which solver."""
    return f"frozen_{recipe.solver}" if recipe.is_frozen else learner_name_of(recipe)


def _recipe_options(spec: CellSpec) -> dict[str, Any]:
    return {key: value for key, value in flatten(spec.finetune.to_json()) if key != "n_components"}


def _recipe_content(spec: CellSpec) -> str:
    return canonical_json(_recipe_options(spec))


def _is_axis(word: str) -> bool:
    """Say whether a word of a variant is an axis of its own: of a recipe they tell which learner it is."""
    key, is_value, _ = word.partition("=")
    return bool(is_value) and key.removeprefix(_RECIPE).rsplit(".", 1)[-1] not in _OF_RECIPE


def _model_options(spec: CellSpec) -> dict[str, Any]:
    return {"path": spec.model.name, "revision": (spec.model.revision or "")[:12]}


def _learner(spec: CellSpec) -> dict[str, Any]:
    return {**_model_options(spec), "learner": learner_name(spec)}


def _labels(things: Iterable[tuple[str, str, Mapping[str, Any]]]) -> dict[str, str]:
    """Name data sets, or models, so that two have one name only where they are the same.

    Args:
        things: name, what two share that are the same, and the options that tell people which one it is.

    Returns:
        what they share -> the name; with what differs in brackets where several have one name.
    """
    named: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name, key, options in things:
        named.setdefault(name, {}).setdefault(key, options)
    labels: dict[str, str] = {}
    for name, known in named.items():
        apart = _what_differs(list(known.values())) if len(known) > 1 else [""]
        for key, words in zip(known, apart, strict=True):
            if apart.count(words) > 1:  # the same words in a study file, and other content since
                words = with_hash(words, key, len(words) + 9).lstrip(".")
            labels[key] = f"{name} ({words})" if words else name
    taken = Counter(labels.values())  # a thing may be called what was made up here for another one
    return {key: label if taken[label] == 1 else with_hash(label, key, len(label) + 9) for key, label in labels.items()}


def _what_differs(options: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say in a few words how options differ from each other: by a part of their paths where that is enough."""
    said = [""] * len(options)
    for key in sorted(_keys_that_differ(options), key=lambda key: (key not in _PATHS, key)):
        if key in _PATHS:
            words = _parts_that_differ([each.get(key) or "" for each in options])
        else:
            words = [f"{key}={each[key]}" if each.get(key) not in (None, "") else "" for each in options]
        said = [", ".join(filter(None, pair)) for pair in zip(said, words, strict=True)]
        if len(set(said)) == len(said):
            break
    return said


def _keys_that_differ(values: Collection[Mapping[str, Any]]) -> set[str]:
    keys = {key for each in values for key in each}
    return {key for key in keys if len({repr(each.get(key)) for each in values}) > 1}


def _parts_that_differ(paths: Sequence[str]) -> list[str]:
    """Return of each path the one folder that tells it from the others, or all between what they share."""
    split = [os.path.normpath(path).split("/") if path else [] for path in paths]
    n_end = _n_shared([parts[::-1] for parts in split])
    split = [parts[: len(parts) - n_end] for parts in split]
    n_start = _n_shared(split)
    split = [parts[n_start:] for parts in split]
    for column in zip(*split, strict=False):
        if len(set(column)) == len(column):
            return list(column)
    return ["/".join(parts) or ("." if path else "") for parts, path in zip(split, paths, strict=True)]


def _n_shared(lists: Sequence[Sequence[str]]) -> int:
    n_values = [len(set(column)) for column in zip(*lists, strict=False)]
    return next((n for n, several in enumerate(n_values) if several > 1), len(n_values))


def _with_variants(
    plain: Mapping[str, CellNames], specs: Mapping[str, CellSpec], seeds: Mapping[str, set[int]]
) -> dict[str, CellNames]:
    groups: dict[CellNames, list[str]] = {}
    for text, name in plain.items():
        groups.setdefault(name, []).append(text)
    several = [group for group in groups.values() if len(group) > 1]
    flat = {text: _named_nowhere(specs[text]) for group in several for text in group}
    varied = sorted({key for group in several for key in _differing({text: flat[text] for text in group}, seeds)})
    if not varied:
        return dict(plain)
    # Of a plug-in the family says more than that it is a name.
    short = [key.removesuffix(".name").rsplit(".", 1)[-1] for key in varied]
    words = [last if short.count(last) == 1 else key for key, last in zip(varied, short, strict=True)]
    named = {}
    for text, name in plain.items():
        values = flat.get(text) or _named_nowhere(specs[text])
        said = zip(varied, words, strict=True)
        # A recipe lacks what has no meaning in it, so that there is nothing to say of it.
        kept = [(key, word) for key, word in said if key in values or not key.startswith(_RECIPE)]
        variant = tuple(f"{word}={values.get(key)}" for key, word in kept)
        named[text] = replace(name, variant=variant)
    return named


def _named_nowhere(spec: CellSpec) -> dict[str, Any]:
    """Return what decides what is computed and is no part of a cell's other names."""
    values = {key: value for key, value in spec.to_json().items() if key not in _NAMED_OTHERWISE}
    return dict(flatten({**values, "model": {"init": spec.model.init}}))


def _differing(group: Mapping[str, Mapping[str, Any]], seeds: Mapping[str, set[int]]) -> set[str]:
    found = {key for key in _keys_that_differ(group.values()) if _tells_apart(key, group.values())}
    of_seed = [(seed, values["rounds"]) for text, values in group.items() for seed in seeds[text]]
    rounds_vary = len(set(of_seed)) > len({seed for seed, _ in of_seed})
    return found if rounds_vary else found - {"rounds"}


def _tells_apart(key: str, values: Collection[Mapping[str, Any]]) -> bool:
    """Say whether a key that differs has to be named: what a recipe lacks mostly follows from what else it says."""
    if key.removeprefix(_RECIPE) in later_options(FinetuneRecipe):
        return True
    return not key.startswith(_RECIPE) or len({repr(each[key]) for each in values if key in each}) > 1
