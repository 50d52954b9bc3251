"""The page: one HTML file that needs nothing but a browser, made from a :class:`StudyResults`."""

import re
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from al_ray.report import wording
from al_ray.report.analysis.results import Section, StudyResults
from al_ray.report.page.charts import Look, assign_looks, swatch
from al_ray.report.page.sections import (
    calibration_views,
    clipping_views,
    cost_views,
    crossing_words,
    curves_views,
    over_words,
    queries_views,
    ranking_views,
    recorded_phases,
    state_view,
    survey_view,
)
from al_ray.report.stats.paired import Comparison
from al_ray.report.verdict import make_verdict

if TYPE_CHECKING:
    from jinja2 import Environment

MOST_OPEN = 3
_ABSENT: Mapping[Section, str] = {
    "state": "No cell is planned or recorded.",
    "curves": "No cell has a learning curve yet.",
    "ranking": "No query method has a finished cell, so there is no ranking.",
    "clipping": "No method has finished cells both with and without a filter, so there is nothing to compare.",
    "calibration": "No record holds calibration figures.",
    "queries": "No record says what was queried.",
    "survey": "Too few methods, seeds or settings are finished to compare rankings with each other.",
    "cost": "No finished cell has recorded how long it took.",
    "limits": "Nothing is noted on how the numbers were made.",
}
# Python's text may hold what no UTF-8 file can (lone surrogates) and what HTML forbids (controls).
_JOINTS = re.compile(r"(?<=[_=/-])")
_BOUND = re.compile(r"(?<=\d) (?=%|points?\b|labels?\b|pairs?\b|cells?\b|seeds?\b)|(?<=\bp) (?=[=<])|(?<=\bp [=<]) ")
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def render_page(results: StudyResults, *, made_at: str, tables: Mapping[str, str]) -> str:
    """Return the page as text, to be written as UTF-8.

    The file asks for nothing outside itself: no script, style, font or picture from elsewhere, and a policy in its
    head that lets a browser load none. Names from the study are escaped wherever they stand.

    Args:
        results: what it shows.
        made_at: when the report was made, as text for people.
        tables: name of a table beside the page -> what it holds.
    """
    looks = assign_looks(results)
    drawn = {curve.method for curve in results.learning_curves}
    page = (
        _environment()
        .get_template("page.html.j2")
        .render(
            results=results,
            made_at=made_at,
            tables=tables,
            metric=wording.METRIC_WORDS,
            effect_name=Comparison.EFFECT_NAME,
            looks=looks,
            verdict=make_verdict(results),
            legend=[look for name, look in looks.items() if name in drawn],
            passive=Look(method="passive", index=-1, css="passive"),
            absent={**_ABSENT, **results.absences},
            most_open=MOST_OPEN,
            state=state_view(results),
            curves=curves_views(results, looks),
            rankings=ranking_views(results, looks),
            clipping=clipping_views(results),
            calibration=calibration_views(results, looks),
            queries=queries_views(results, looks),
            survey=survey_view(results),
            costs=cost_views(results),
            phases=recorded_phases(results),
        )
    )
    return _UNPRINTABLE.sub("\ufffd", page)


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("al_ray.report.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({name: getattr(wording, name) for name in _FILTERS})
    environment.filters.update(swatch=swatch, breakable=breakable, unbroken=unbroken)
    environment.filters.update(crossing_words=crossing_words, over_words=over_words)
    return environment


def breakable(name: str) -> Markup:
    """Return a name that a narrow column may break where a person would, after ``_``, ``=``, ``-`` and ``/``."""
    return Markup("<wbr>").join(escape(part) for part in _JOINTS.split(name))


def unbroken(sentence: str) -> str:
    """Return a sentence whose numbers no line break parts from their unit or sign."""
    return _BOUND.sub("\u00a0", sentence)


_FILTERS = (
    "count",
    "seconds_in_words",
    "interval_count",
    "interval_points",
    "number",
    "p_value",
    "percent",
    "plural",
    "signed_points",
    "tally",
)
