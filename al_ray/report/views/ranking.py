"""Rankings: one table over all settings and one a setting, with the tests against random queries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from al_ray.report.charts.ranks import ranks_chart
from al_ray.report.charts.styles import Look
from al_ray.report.content import Comparison, CriticalDifference, LevelReached, MethodScore, Ranking, ReportContent
from al_ray.report.wording import METRIC_WORDS, p_words, plural, some


@dataclass(frozen=True, kw_only=True)
class RankingRow:
    """One method, its levels that have a column, and whether it differs from random queries by more than chance."""

    look: Look
    score: MethodScore
    levels: tuple[LevelReached, ...]
    is_real: bool


@dataclass(frozen=True, kw_only=True)
class RankingView:
    """One ranking.

    Attributes:
        title: which settings.
        metric: what the rows are ordered by, in words.
        levels: names of the accuracy levels at which anything is known.
        rows: best first.
        has_random: whether there is anything to compare with random queries.
        has_last5, has_passive, has_ranks, has_spread: whether any row has that figure.
        interval_level: coverage of the intervals in it, None without any.
        effect_name: what the effect size is, empty without any.
        chart: critical-difference diagram, None where refused.
        remarks: what was refused or left out, one sentence each.
    """

    title: str
    metric: str
    levels: tuple[str, ...]
    rows: tuple[RankingRow, ...]
    has_random: bool
    has_last5: bool
    has_passive: bool
    has_ranks: bool
    has_spread: bool
    interval_level: float | None
    effect_name: str
    chart: Markup | None
    remarks: tuple[str, ...]


def ranking_views(content: ReportContent, looks: Mapping[str, Look]) -> list[RankingView]:
    """Return the rankings that have a row; with one setting only, the one over all of them stands for it."""
    rankings = [ranking for ranking in content.rankings if ranking.rows]
    per_setting = [ranking for ranking in rankings if ranking.setting is not None]
    kept = rankings if len(per_setting) > 1 else rankings[:1]
    only = per_setting[0].setting if len(per_setting) == 1 else None
    return [_view(ranking, ranking.setting or only or "All settings", content.alpha, looks) for ranking in kept]


def _view(ranking: Ranking, title: str, alpha: float, looks: Mapping[str, Look]) -> RankingView:
    rows = ranking.rows
    versus = [row.versus_random for row in rows if row.versus_random]
    covered = [one.interval.level for one in versus if one.interval]
    kept = _known_levels(rows)
    return RankingView(
        title=title,
        metric=METRIC_WORDS[ranking.metric],
        levels=tuple(rows[0].levels[at].label for at in kept),
        rows=tuple(_row(row, kept, alpha, looks) for row in rows),
        has_random=bool(versus),
        has_last5=any(row.aulc_last5 is not None for row in rows),
        has_passive=any(row.passive_share is not None for row in rows),
        has_ranks=any(row.mean_rank is not None for row in rows),
        has_spread=any(row.final.std is not None for row in rows),
        interval_level=covered[0] if covered else None,
        effect_name=next((one.effect_name for one in versus if one.effect_size is not None), ""),
        chart=ranks_chart(ranking.critical_difference, looks) if ranking.critical_difference else None,
        remarks=tuple(_remarks(ranking, versus)),
    )


def _row(row: MethodScore, kept: Sequence[int], alpha: float, looks: Mapping[str, Look]) -> RankingRow:
    real = row.versus_random is not None and row.versus_random.is_significant(alpha)
    return RankingRow(look=looks[row.method], score=row, levels=tuple(row.levels[at] for at in kept), is_real=real)


def _known_levels(rows: Sequence[MethodScore]) -> list[int]:
    places = range(len(rows[0].levels))
    return [at for at in places if any(row.levels[at].saved is not None for row in rows)]


def _remarks(ranking: Ranking, versus: Sequence[Comparison]) -> list[str]:
    said = [ranking.note, f"No critical-difference diagram: {ranking.refusal}" if ranking.refusal else ""]
    said += [*_remarks_on_levels(ranking.rows), *_remarks_on_ranks(ranking.critical_difference)]
    refused: dict[str, list[str]] = {}
    for comparison in versus:
        if comparison.refusal:
            refused.setdefault(comparison.refusal, []).append(comparison.method)
    said += [f"No p-value for {some(methods, 'method')}: {reason}" for reason, methods in refused.items()]
    return [text for text in said if text]


def _remarks_on_levels(rows: Sequence[MethodScore]) -> list[str]:
    kept = _known_levels(rows)
    unknown = [level.label for at, level in enumerate(rows[0].levels) if at not in kept]
    return [f"No column for {some(unknown, 'level')}: no method has labels saved there."] if unknown else []


def _remarks_on_ranks(test: CriticalDifference | None) -> list[str]:
    if test is None:
        return []
    result = f"chi-square {test.statistic:.1f}, {p_words(test.p_value)}"
    found = f"Friedman's test over {plural(test.n_blocks, test.unit)}: {result}."
    dropped = plural(test.n_blocks_dropped, "block")
    left_out = f"{dropped} left out, because a method has no finished cell there." if test.n_blocks_dropped else ""
    return [found, test.unit_note, left_out]
