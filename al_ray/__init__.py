"""al_ray: active-learning studies on text, from one laptop cell to a grid on a Ray cluster.

    import al_ray

    study = al_ray.load_study("study.yaml")        # or a mapping, or al_ray.Study(...)
    al_ray.run(study, storage="results", lanes=2)
    results = al_ray.results("results/my-study")
    results.curves, results.ranking, results.cells  # pandas frames
    results.plot_curves().savefig("curves.pdf")

What it decides on the way is logged under the name ``al_ray``. Everything here is imported when it is first used, so
that ``import al_ray`` costs nothing.
"""

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from al_ray.api import results as results
    from al_ray.api import run as run
    from al_ray.confidence import confidences as confidences
    from al_ray.core.answers import Answer as Answer
    from al_ray.core.types import PoolView as PoolView
    from al_ray.core.types import Ranking as Ranking
    from al_ray.data import datasets as datasets
    from al_ray.errors import AlRayError as AlRayError
    from al_ray.evaluation import evaluations as evaluations
    from al_ray.filtering import filters as filters
    from al_ray.initial import initial_queries as initial_queries
    from al_ray.oracle import oracles as oracles
    from al_ray.project.project import Project as Project
    from al_ray.report.analysis.results import StudyResults as StudyResults
    from al_ray.stopping import stopping_rules as stopping_rules
    from al_ray.strategy import strategies as strategies
    from al_ray.study.file import Study as Study
    from al_ray.study.file import load_study as load_study

__version__ = "0.1.0"

_WHERE = {
    "AlRayError": "al_ray.errors",
    "Answer": "al_ray.core.answers",
    "PoolView": "al_ray.core.types",
    "Project": "al_ray.project.project",
    "Ranking": "al_ray.core.types",
    "Study": "al_ray.study.file",
    "StudyResults": "al_ray.report.analysis.results",
    "confidences": "al_ray.confidence",
    "datasets": "al_ray.data",
    "evaluations": "al_ray.evaluation",
    "filters": "al_ray.filtering",
    "initial_queries": "al_ray.initial",
    "load_study": "al_ray.study.file",
    "oracles": "al_ray.oracle",
    "results": "al_ray.api",
    "run": "al_ray.api",
    "stopping_rules": "al_ray.stopping",
    "strategies": "al_ray.strategy",
}
__all__ = ["__version__", *_WHERE]

logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'al_ray' has no attribute {name!r}; it has {', '.join(sorted(_WHERE))}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
