"""The answer in plain sentences: which method to use, what it saves, how sure that is, and what would change it.

Every sentence is made from a number of the content and none says more than the number does: a lead that can be
chance is called one, a p-value that the statistics refuse is never written, and what is missing is part of the answer.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from al_ray.report.content import Comparison, LevelReached, Ranking, ReportContent
from al_ray.report.leader import Case, Leader, find_leader
from al_ray.report.verdict_gaps import what_clipping_does, what_is_missing
from al_ray.report.verdict_reasons import how_sure, what_it_saves, what_would_change_it
from al_ray.report.wording import METRIC_WORDS, count, joined, plural, points, size_in_points, some

Tone = Literal["clear", "unclear", "nothing"]


@dataclass(frozen=True, kw_only=True)
class SettingVerdict:
    """What holds on one setting.

    Attributes:
        setting: its name.
        best: the method that is first there.
        versus: how it compares with random queries, None where it cannot or is random itself.
        level: what it saves at the first level, None where no level was computed.
        words: a few words on how sure that is.
    """

    setting: str
    best: str
    versus: Comparison | None
    level: LevelReached | None
    words: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the page says first.

    Attributes:
        headline: one or two sentences.
        tone: whether they recommend something (``clear``), leave it open, or have nothing to go by.
        preliminary: whether cells of the study are still to come.
        saves: sentences on labels and accuracy.
        sure: sentences on how sure that is.
        change: sentences on what would change it.
        clipping: sentences on what filters do.
        missing: sentences on what is not there.
        settings: one row a setting; empty where there is only one.
    """

    headline: str
    tone: Tone
    preliminary: bool = False
    saves: tuple[str, ...] = ()
    sure: tuple[str, ...] = ()
    change: tuple[str, ...] = ()
    clipping: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    settings: tuple[SettingVerdict, ...] = ()


def make_verdict(content: ReportContent) -> Verdict:
    """Return the verdict on a study, from whatever of it there is."""
    if not content.cells or not content.n("done"):
        return Verdict(headline=_nothing_done(content), tone="nothing", missing=tuple(what_is_missing(content)))
    if not content.rankings or not content.rankings[0].rows:
        return Verdict(headline=_nothing_ranked(content), tone="nothing", missing=tuple(what_is_missing(content)))
    leader = find_leader(content.rankings[0], content)
    return Verdict(
        headline=_headline(leader),
        tone="clear" if leader.case is Case.BEATS_RANDOM else "nothing" if leader.case is Case.ALONE else "unclear",
        preliminary=bool(content.n("running") + content.n("waiting")),
        saves=tuple(what_it_saves(leader, content)),
        sure=tuple(how_sure(leader, content)),
        change=tuple(what_would_change_it(leader, content)),
        clipping=tuple(what_clipping_does(content)),
        missing=tuple(what_is_missing(content)),
        settings=tuple(_settings(content)),
    )


def _nothing_done(content: ReportContent) -> str:
    n, failed = len(content.cells), content.n("failed")
    if not n:
        return "This study has no cells yet, so there is nothing to say."
    if failed == n:
        reason, often = Counter(cell.reason for cell in content.cells).most_common(1)[0]
        all_of = "The only cell" if n == 1 else f"All {count(n)} cells"
        times = "" if often == n else f" (of {plural(often, 'cell')})"
        return (
            f"{all_of} failed, so there is nothing to compare. The commonest reason{times}: {reason or 'not recorded'}"
        )
    parts = [f"{count(content.n(status))} {status}" for status in ("running", "waiting", "failed") if content.n(status)]
    return f"No cell is finished yet, so there is nothing to say: of {plural(n, 'cell')} {joined(parts)}."


def _nothing_ranked(content: ReportContent) -> str:
    done = {cell.method for cell in content.cells if cell.status == "done"}
    if all(content.role(method) == "passive" for method in done):
        return "Only the passive model is finished, so there is no query method to compare."
    return content.absence("ranking") or "No finished cell has a learning curve, so there is nothing to compare."


def _headline(leader: Leader) -> str:
    best, ranking, versus = leader.best.method, leader.ranking, leader.versus
    metric = METRIC_WORDS[ranking.metric]
    if leader.case is Case.BEATS_RANDOM:
        return _recommendation(leader)
    if leader.case is Case.MAY_BE_CHANCE and versus is not None:
        return (
            f"No method is shown to beat random queries. {best} is first, {size_in_points(versus.difference)} ahead of "
            f"random, which can be chance."
        )
    if leader.case is Case.NOT_TESTABLE and versus is not None:
        return (
            f"Too little data for a verdict. {best} is first, {size_in_points(versus.difference)} ahead of random "
            f"queries on {plural(versus.n_pairs, 'pair')}; that is too few to tell it from chance."
        )
    if leader.case is Case.NOT_AHEAD_IN_PAIRS and versus is not None:
        return (
            f"No method is shown to beat random queries. {best} has the highest {metric}, but over the "
            f"{plural(versus.n_pairs, 'pair')} that it shares with random queries it is {points(versus.difference)}."
        )
    if leader.case is Case.RANDOM_FIRST:
        n = len(ranking.rows) - 1
        none = "no method" if n == 1 else f"none of the {count(n)} methods"
        return f"Random queries come first: {none} has a higher {metric}."
    return _without_random(leader)


def _recommendation(leader: Leader) -> str:
    best, close = leader.best.method, [row.method for row in leader.other_close]
    if not close:
        n_others = len(leader.ranking.rows) - 2
        others = f" and {plural(n_others, 'other method')}" if n_others else ""
        return f"Use {best}. It beats random queries{others} by more than chance."
    return f"Use {best}. It beats random queries by more than chance; {_cannot_be_told(close, best)}."


def _cannot_be_told(close: Sequence[str], best: str) -> str:
    return f"{some(close, 'other method')} cannot be told apart from it"


def _without_random(leader: Leader) -> str:
    best, rows = leader.best.method, leader.ranking.rows
    metric = METRIC_WORDS[leader.ranking.metric]
    if leader.case is Case.ALONE and leader.random is not None:
        return "Only random queries have finished cells, so there is nothing to compare them with."
    if leader.case is Case.ALONE:
        return f"Only {best} has finished cells, so there is nothing to compare it with."
    if leader.case is Case.NO_SHARED_PAIRS:
        return (
            f"{best} has the highest {metric}, but it shares no data set, model and seed with a finished random cell, "
            f"so the two cannot be compared."
        )
    told = f"{_cannot_be_told([row.method for row in leader.close], best)}" if leader.close else "the lead is clear"
    return (
        f"{best} has the highest {metric} of {plural(len(rows), 'method')} ({told}), but without finished random "
        f"queries nobody can say whether it is worth its effort."
    )


def _settings(content: ReportContent) -> list[SettingVerdict]:
    rankings = [ranking for ranking in content.rankings[1:] if ranking.rows]
    return [_setting(ranking, content) for ranking in rankings] if len(rankings) > 1 else []


def _setting(ranking: Ranking, content: ReportContent) -> SettingVerdict:
    leader = find_leader(ranking, content)
    is_random = leader.best is leader.random
    return SettingVerdict(
        setting=ranking.setting or "",
        best=leader.best.method,
        versus=None if is_random else leader.versus,
        level=leader.best.levels[0] if leader.best.levels and not is_random else None,
        words=_SETTING_WORDS[leader.case],
    )


_SETTING_WORDS = {
    Case.BEATS_RANDOM: "better than random",
    Case.MAY_BE_CHANCE: "can be chance",
    Case.NOT_TESTABLE: "too few pairs to tell",
    Case.NOT_AHEAD_IN_PAIRS: "not ahead of random in pairs",
    Case.NO_SHARED_PAIRS: "no pairs with random",
    Case.RANDOM_FIRST: "random is first",
    Case.NO_RANDOM: "no random cells",
    Case.ALONE: "only one method",
}
