"""Cells of benchmarks that run without a study."""

from typing import Any

from al_ray.runtime.tasks import CellTask


def benchmark_cell(key: str, pool_key: str, spec: dict[str, Any], n_classes: int, workers: int = 1) -> CellTask:
    """Return a cell without records, whose spec is the benchmark's own."""
    return CellTask(
        key=key,
        study="benchmark",
        storage="",
        storage_patience_s=0.0,
        slug=key,
        fingerprint="",
        spec=spec,
        n_classes=n_classes,
        provenance={},
        pool_key=pool_key,
        workers=workers,
    )
