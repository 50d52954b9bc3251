"""What was planned, kept beside the records, so that a report can tell a missing cell from one that never was."""

from collections import Counter
from typing import Any

import numpy as np

from al_ray.core.types import TextDataset
from al_ray.experiment.canonical import FORMAT
from al_ray.experiment.cell_names import JOIN
from al_ray.experiment.plan import Plan


def plan_record(plan: Plan) -> dict[str, Any]:
    """Return the grid of a study and its data sets in JSON form.

    Returns:
        ``cells``: slug, fingerprint, and by what a report groups them; ``datasets``: by the name that the cells have
        for it, class names, how many training examples each class and each slice has, sizes, and where the rows came
        from.
    """
    cells = [
        {
            "slug": cell.slug,
            "fingerprint": cell.fingerprint,
            "dataset": cell.names.dataset,
            "model": cell.names.model,
            "method": JOIN.join([*cell.names.method, *cell.names.variant]),
            "variant": JOIN.join(cell.names.variant),
            "strategy": cell.spec.strategy.name,
            "seed": cell.spec.seed,
        }
        for cell in plan.cells
    ]
    datasets = {name: _dataset_note(dataset) for name, dataset in plan.datasets_by_name().items()}
    return {"format": FORMAT, "study": plan.study.name, "cells": cells, "datasets": datasets}


def _dataset_note(dataset: TextDataset) -> dict[str, Any]:
    groups = dataset.train.groups
    return {
        "class_names": list(dataset.class_names),
        "class_counts": np.bincount(dataset.train.labels, minlength=dataset.n_classes).tolist(),
        "group_counts": None if groups is None else dict(sorted(Counter(map(str, groups)).items())),
        "n_train": len(dataset.train),
        "n_test": len(dataset.test),
        "source": dataset.source,
    }
