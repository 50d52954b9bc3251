"""A small finished study of eight methods, written as its run would have written it."""

import itertools
from dataclasses import replace
from pathlib import Path

from al_ray.records.study import StudyStore
from al_ray.study.spec import CellSpec, make_spec
from tests.records.record_samples import make_story

CONFIDENCES = ("softmax", "temperature_scaling")
STRATEGIES = ("margin", "entropy")
FILTERS: tuple[list[str], ...] = ([], ["uncertainty_clipping"])
SEEDS = (1, 2, 3)
N_METHODS = len(CONFIDENCES) * len(STRATEGIES) * len(FILTERS)


def specs(dataset: str = "trec6") -> list[CellSpec]:
    """Return the cells, method by method."""
    grid = itertools.product(CONFIDENCES, STRATEGIES, FILTERS, SEEDS)
    names = ("confidence", "strategy", "filters", "seed")
    return [
        make_spec({"dataset": dataset, "rounds": 2, **dict(zip(names, chosen, strict=True))}, "test") for chosen in grid
    ]


def slug_of(spec: CellSpec) -> str:
    """Return a name for a cell."""
    filters = "clipped" if spec.filters else "whole"
    return f"{spec.dataset_name()}-{spec.confidence.name}-{spec.strategy.name}-{filters}-s{spec.seed}"


def write_study(storage: Path, cells: list[CellSpec], study: str = "methods") -> StudyStore:
    """Record cells as finished ones; no two of them have the same accuracy."""
    store = StudyStore.open(str(storage), study)
    store.claim()
    for number, spec in enumerate(cells):
        cell = store.cell(slug_of(spec), spec.fingerprint())
        cell.begin(spec.to_json(), {"al_ray": "0.1.0"})
        for record in make_story(3):
            metrics = {name: value - number / 200 for name, value in record.metrics.items()}
            cell.append(replace(record, metrics=metrics))
        cell.finish({"n_rounds": 4})
    return store
