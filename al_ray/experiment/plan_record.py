"""What was planned, kept beside the records, so that a report can tell a missing cell from one that never was."""

from collections import Counter
from typing import Any

import numpy as np

from al_ray.core.types import TextDataset
from al_ray.experiment.canonical import FORMAT
from al_ray.experiment.plan import Plan
from al_ray.experiment.study_file import base_slug, variants


def plan_record(plan: Plan) -> dict[str, Any]:
    """Return the grid of a study and its data sets in JSON form.

    Returns:
        ``cells``: slug, fingerprint, and by what a report groups them; ``datasets``: by name, class names, how many
        training examples each class and each slice has, sizes, and where the rows came from.
    """
    extra = variants([cell.spec for cell in plan.cells])
    cells = []
    for cell, variant in zip(plan.cells, extra, strict=True):
        dataset, model, *method = base_slug(cell.spec)
        cells.append(
            {
                "slug": cell.slug,
                "fingerprint": cell.fingerprint,
                "dataset": dataset,
                "model": model,
                "method": " + ".join([*method, *variant]),
                "variant": " + ".join(variant),
                "strategy": cell.spec.strategy.name,
                "seed": cell.spec.seed,
            }
        )
    datasets = {dataset.name: _dataset_note(dataset) for dataset in plan.datasets.values()}
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
