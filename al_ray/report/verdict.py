"""The verdict: which method to use, how far the numbers carry that, and what is missing."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal

from al_ray.report.analysis.results import LabelsSaved, MethodScore, Ranking, Setting, StudyResults
from al_ray.report.stats.paired import POWER, Comparison
from al_ray.report.wording import (
    METRIC_WORDS,
    count,
    interval_count,
    interval_points,
    joined,
    p_words,
    percent,
    plural,
    points,
    size_in_points,
    some,
)


class Case(Enum):
    """What can be said of the first method of a ranking."""

    BEATS_RANDOM = auto()
    """It is better than random queries by more than chance."""
    MAY_BE_CHANCE = auto()
    """It is ahead of random queries, and tested, but the difference can be chance."""
    NOT_TESTABLE = auto()
    """It is ahead of random queries, on too few pairs for a test."""
    NOT_AHEAD_IN_PAIRS = auto()
    """Its mean is highest, but not on the cells that it shares with random queries."""
    NO_SHARED_PAIRS = auto()
    """Random queries are there, but never on the same data set, model and seed."""
    RANDOM_FIRST = auto()
    """Random queries are first."""
    NO_RANDOM = auto()
    """There are no finished random queries."""
    ALONE = auto()
    """There is one method only."""


@dataclass(frozen=True, kw_only=True)
class Leader:
    """The first method of a ranking.

    Attributes:
        ranking: where it leads.
        case: what can be said of it.
        best: the first row.
        random: the row of random queries, None where there is none.
        versus: how it compares with random queries; where random is first, how the second row does.
        close: rows that cannot be told apart from the first, best first; random among them.
        alpha: level of the tests.
    """

    ranking: Ranking
    case: Case
    best: MethodScore
    random: MethodScore | None
    versus: Comparison | None
    close: tuple[MethodScore, ...]
    alpha: float

    @property
    def other_close(self) -> tuple[MethodScore, ...]:
        """Return the rows that cannot be told apart from the first, without random."""
        return tuple(row for row in self.close if row is not self.random)


def find_leader(ranking: Ranking, results: StudyResults) -> Leader:
    """Return who leads a ranking that has at least one row."""
    best = ranking.rows[0]
    random = next((row for row in ranking.rows if results.role(row.method) == "random"), None)
    second = ranking.rows[1] if len(ranking.rows) > 1 else None
    versus = second.versus_random if best is random and second is not None else best.versus_random
    return Leader(
        ranking=ranking,
        case=_case(ranking, random, versus, results.alpha),
        best=best,
        random=random,
        versus=versus,
        close=tuple(row for row in ranking.rows[1:] if not _is_below(row, results.alpha)),
        alpha=results.alpha,
    )


def _case(ranking: Ranking, random: MethodScore | None, versus: Comparison | None, alpha: float) -> Case:
    if len(ranking.rows) == 1:
        return Case.ALONE
    if random is None:
        return Case.NO_RANDOM
    if ranking.rows[0] is random:
        return Case.RANDOM_FIRST
    if versus is None:
        return Case.NO_SHARED_PAIRS
    return _case_of_pairs(versus, alpha)


def _case_of_pairs(versus: Comparison, alpha: float) -> Case:
    if versus.difference <= 0:
        return Case.NOT_AHEAD_IN_PAIRS
    if versus.is_significant(alpha):
        return Case.BEATS_RANDOM
    return Case.NOT_TESTABLE if versus.p_holm is None else Case.MAY_BE_CHANCE


def _is_below(row: MethodScore, alpha: float) -> bool:
    versus = row.versus_best
    return versus is not None and versus.difference < 0 and versus.is_significant(alpha)


_MOST_NOTICES = 3


def what_clipping_does(results: StudyResults) -> list[str]:
    """Return one sentence for every filter of the study, over all settings."""
    effects = [effect for effect in results.clipping if effect.setting is None]
    return [_clipping_of(filters, results) for filters in dict.fromkeys(effect.filters for effect in effects)]


def _clipping_of(filters: str, results: StudyResults) -> str:
    effects = [effect for effect in results.clipping if effect.setting is None and effect.filters == filters]
    tested = [effect for effect in effects if effect.comparison.p_holm is not None]
    of = plural(len(effects), "method")
    if not tested:
        return f"{filters}: too little data to say what it changes for {of}. {effects[0].comparison.refusal}"
    shown = [effect for effect in tested if effect.comparison.is_significant(results.alpha)]
    helped = [effect.method for effect in shown if effect.comparison.difference > 0]
    hurt = [effect.method for effect in shown if effect.comparison.difference < 0]
    if not shown:
        return f"{filters}: no difference is shown for {of if len(effects) == 1 else f'any of {of}'}."
    parts = [f"helps {some(helped, 'method')}"] if helped else []
    parts += [f"hurts {some(hurt, 'method')}"] if hurt else []
    rest = len(effects) - len(shown)
    left = f"; for {plural(rest, 'other')} no difference is shown" if rest else ""
    return f"{filters}: {joined(parts)} by more than chance{left}."


def what_is_missing(results: StudyResults) -> list[str]:
    """Return one sentence for everything that no number holds."""
    said = [text for text in (_unfinished(results), _failed(results)) if text]
    if not results.plan_known:
        said.append(
            "The records do not say how many cells the study plans, so cells that were never begun are not counted."
        )
    said += [f"{_unmeasured(results)}"] if _unmeasured(results) else []
    if results.rankings and results.rankings[0].note:
        said.append(results.rankings[0].note)
    without = [setting.name for setting in results.settings if _lacks_passive(setting, results)]
    if without and results.n("done"):
        said.append(f"No passive model is finished on {some(without, 'setting')}, so shares of it are not known there.")
    return [*said, *_notices(results)]


def _notices(results: StudyResults) -> list[str]:
    if len(results.notices) <= _MOST_NOTICES:
        return list(results.notices)
    return [f"{plural(len(results.notices), 'notice')} on damaged or odd records: see the state of the study."]


def _lacks_passive(setting: Setting, results: StudyResults) -> bool:
    return setting.passive is None and any(cell.setting == setting.name for cell in results.cell_states)


def _unfinished(results: StudyResults) -> str:
    running, waiting = results.n("running"), results.n("waiting")
    if not running + waiting or not results.n("done"):
        return ""
    parts = [f"{count(n)} {word}" for n, word in ((running, "running"), (waiting, "waiting")) if n]
    done = f"{count(results.n('done'))} of {plural(len(results.cell_states), 'cell')} are done"
    return f"The study is not finished: {done}, {joined(parts)}. The verdict may change."


def _failed(results: StudyResults) -> str:
    failed = [cell for cell in results.cell_states if cell.status == "failed"]
    if not failed or len(failed) == len(results.cell_states):
        return ""
    methods = sorted({cell.method for cell in failed})
    verb = "is" if len(failed) == 1 else "are"
    return f"{plural(len(failed), 'cell')} failed and {verb} in no number: {some(methods, 'method')}."


def _unmeasured(results: StudyResults) -> str:
    done = {cell.method for cell in results.cell_states if cell.status == "done"}
    never = [method for method in results.methods if method not in done]
    if not never or not done:
        return ""
    return f"Without a finished cell, so in no ranking: {some(never, 'method')}."


_MANY_SEEDS = 200


def what_it_saves(leader: Leader, results: StudyResults) -> list[str]:
    """Return sentences on the labels that the leader saves and the accuracy it reaches."""
    if leader.case in (Case.ALONE, Case.RANDOM_FIRST):
        return [_final_alone(leader.best, results)]
    said = [_labels(leader.best)] if leader.random is not None and leader.best.levels else []
    return [*said, _final(leader)]


def _labels(best: MethodScore) -> str:
    level = best.levels[0]
    goal = f"{level.label} ({percent(level.level)})" if _needs_figure(level) else level.label
    if level.labels_saved is None or level.saved_of is None:
        return f"{best.method} does not reach {goal}, so it saves no labels there."
    between = f", interval {interval_count(level.interval)}" if level.interval else ""
    share = percent(abs(level.labels_saved) / level.saved_of, 0)
    if round(level.labels_saved) == 0:
        return f"Labels: to reach {goal} it needs as many as random queries ({count(level.saved_of)})."
    if level.labels_saved < 0:
        needs = f"{plural(-level.labels_saved, 'label')} more than the {count(level.saved_of)} of random queries"
        return f"Labels: to reach {goal} it needs {needs} ({share}{between})."
    saves = f"{count(level.labels_saved)} of the {plural(level.saved_of, 'label')} that random queries need"
    return f"Labels: to reach {goal} it saves {saves} ({share}{between})."


def _needs_figure(level: LabelsSaved) -> bool:
    return level.level is not None and percent(level.level, 0) not in level.label


def _final(leader: Leader) -> str:
    best, random = leader.best, leader.random
    text = f"Accuracy after the last round: {percent(best.final_accuracy.mean)}"
    if random is None:
        return f"{text}{_of_passive(best)}."
    unlike = (
        ""
        if random.n_cells == best.n_cells
        else (f", over {plural(best.n_cells, 'cell')} and {plural(random.n_cells, 'cell')}")
    )
    return f"{text} against {percent(random.final_accuracy.mean)} for random queries{unlike}{_of_passive(best)}."


def _final_alone(best: MethodScore, results: StudyResults) -> str:
    who = "random queries" if results.role(best.method) == "random" else best.method
    return f"Accuracy after the last round: {percent(best.final_accuracy.mean)} for {who}{_of_passive(best)}."


def _of_passive(best: MethodScore) -> str:
    return "" if best.passive_share is None else f"; that is {percent(best.passive_share)} of the passive model's"


def how_sure(leader: Leader, results: StudyResults) -> list[str]:
    """Return sentences on the pairs, tests and seeds behind the headline."""
    said = [_versus(leader)] if leader.versus is not None else []
    said += _friedman(leader.ranking)
    said += _equal_rows(leader)
    seeds = _seeds(results)
    if seeds and max(seeds.values()) == 1:
        said.append("Every setting has one seed only, so nobody knows how much of a difference is the seed's.")
    return said


def _versus(leader: Leader) -> str:
    versus = leader.versus
    assert versus is not None
    who = f"{versus.method} against random queries"
    result = f"{points(versus.difference)} of {METRIC_WORDS}"
    counts = f"better on {count(versus.wins)}, equal on {count(versus.ties)}, worse on {count(versus.losses)}"
    text = f"{who}: {result} over {plural(versus.n_pairs, 'pair')} ({counts})"
    if versus.interval is not None:
        text += f", {percent(versus.interval.level, 0)} interval {interval_points(versus.interval)}"
    if versus.p_holm is None:
        return f"{text}. No p-value: {versus.refusal}"
    text += f"; Wilcoxon signed-rank with Holm's correction: {p_words(versus.p_holm)}."
    if versus.interval is not None and versus.interval.excludes_zero and not versus.is_significant(leader.alpha):
        text += " The interval is of this comparison alone, the p-value is corrected for all of them."
    return text


def _friedman(ranking: Ranking) -> list[str]:
    test = ranking.critical_difference
    if test is None:
        return []
    found = "finds a difference" if test.p_value < test.alpha else "finds no difference"
    methods, blocks = plural(len(test.mean_ranks), "method"), plural(test.n_units, test.unit)
    return [f"Friedman's test {found} between {methods} over {blocks} ({p_words(test.p_value)})."]


def _equal_rows(leader: Leader) -> list[str]:
    versus = [(row.method, row.versus_best) for row in leader.close]
    equal = [method for method, pairs in versus if pairs is not None and pairs.n_pairs and pairs.ties == pairs.n_pairs]
    if not equal:
        return []
    verb = "is" if len(equal) == 1 else "are"
    return [f"{some(equal, 'method')} {verb} equal to {leader.best.method} in every pair."]


def what_would_change_it(leader: Leader, results: StudyResults) -> list[str]:
    """Return sentences on how many more seeds, or which other cells, would settle what is open."""
    said = []
    if leader.case in (Case.MAY_BE_CHANCE, Case.NOT_TESTABLE) and leader.versus is not None:
        said.append(_more_seeds(leader.versus, "random queries", leader.alpha))
    if leader.case is Case.BEATS_RANDOM and leader.other_close:
        rival = leader.other_close[0].versus_best
        if rival is not None and rival.difference != 0:
            said.append(_more_seeds(rival, leader.best.method, leader.alpha))
    if leader.case is Case.NO_RANDOM:
        said.append(_add_random(results))
    if len(results.rankings) > 2:
        said += _elsewhere(leader, results)
    elif leader.case is not Case.ALONE:
        said.append("All of this is one data set with one model; on others the order may be another.")
    return said


def _more_seeds(versus: Comparison, against: str, alpha: float) -> str:
    apart = f"{versus.method} from {against} ({size_in_points(versus.difference)} apart)"
    if versus.more_seeds is None:
        return f"How many more seeds would tell {apart} cannot be estimated from {plural(versus.n_pairs, 'pair')}."
    if versus.more_seeds > _MANY_SEEDS:
        return f"To tell {apart} more than {_MANY_SEEDS} further seeds on every setting would be needed."
    if versus.more_seeds > 0:
        seeds = plural(versus.more_seeds, "further seed")
        return f"To tell {apart} about {seeds} on every setting would be needed ({percent(POWER, 0)} power)."
    if versus.p_value is not None and versus.p_holm is not None and versus.p_value < alpha <= versus.p_holm:
        return f"Taken alone the seeds would tell {apart}; corrected for the other comparisons they do not."
    return f"The seeds would usually be enough to tell {apart}, yet the test does not; more seeds would settle it."


def _add_random(results: StudyResults) -> str:
    if any(method.role == "random" for method in results.methods.values()):
        return "The random cells of this study are not finished; with them the question can be answered."
    return "The study has no random queries: add strategy: random to its grid, with the same seeds."


def _elsewhere(leader: Leader, results: StudyResults) -> list[str]:
    per_setting = [ranking for ranking in results.rankings[1:] if ranking.rows]
    first = [ranking for ranking in per_setting if ranking.rows[0].method == leader.best.method]
    often = count(len(first)) if first else "none"
    said = [f"{leader.best.method} is first on {often} of {plural(len(per_setting), 'setting')}."]
    below = [str(ranking.setting) for ranking in per_setting if _is_below_random(ranking, leader)]
    if below:
        said.append(f"It is below random queries by more than chance on {some(below, 'setting')}.")
    return said


def _is_below_random(ranking: Ranking, leader: Leader) -> bool:
    row = next((row for row in ranking.rows if row.method == leader.best.method), None)
    versus = row.versus_random if row else None
    return versus is not None and versus.difference < 0 and versus.is_significant(leader.alpha)


def _seeds(results: StudyResults) -> dict[str, int]:
    done = [cell for cell in results.cell_states if cell.status == "done" and results.role(cell.method) != "passive"]
    return {name: len({cell.seed for cell in done if cell.setting == name}) for name in {cell.setting for cell in done}}


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
    level: LabelsSaved | None
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


def make_verdict(results: StudyResults) -> Verdict:
    """Return the verdict on a study, from whatever of it there is."""
    if not results.cell_states or not results.n("done"):
        return Verdict(headline=_nothing_done(results), tone="nothing", missing=tuple(what_is_missing(results)))
    if not results.rankings or not results.rankings[0].rows:
        return Verdict(headline=_nothing_ranked(results), tone="nothing", missing=tuple(what_is_missing(results)))
    leader = find_leader(results.rankings[0], results)
    return Verdict(
        headline=_headline(leader),
        tone="clear" if leader.case is Case.BEATS_RANDOM else "nothing" if leader.case is Case.ALONE else "unclear",
        preliminary=bool(results.n("running") + results.n("waiting")),
        saves=tuple(what_it_saves(leader, results)),
        sure=tuple(how_sure(leader, results)),
        change=tuple(what_would_change_it(leader, results)),
        clipping=tuple(what_clipping_does(results)),
        missing=tuple(what_is_missing(results)),
        settings=tuple(_settings(results)),
    )


def _nothing_done(results: StudyResults) -> str:
    n, failed = len(results.cell_states), results.n("failed")
    if not n:
        return "This study has no cells yet, so there is nothing to say."
    if failed == n:
        reason, often = Counter(cell.reason for cell in results.cell_states).most_common(1)[0]
        all_of = "The only cell" if n == 1 else f"All {count(n)} cells"
        times = "" if often == n else f" (of {plural(often, 'cell')})"
        return (
            f"{all_of} failed, so there is nothing to compare. The commonest reason{times}: {reason or 'not recorded'}"
        )
    parts = [f"{count(results.n(status))} {status}" for status in ("running", "waiting", "failed") if results.n(status)]
    return f"No cell is finished yet, so there is nothing to say: of {plural(n, 'cell')} {joined(parts)}."


def _nothing_ranked(results: StudyResults) -> str:
    done = {cell.method for cell in results.cell_states if cell.status == "done"}
    if all(results.role(method) == "passive" for method in done):
        return "Only the passive model is finished, so there is no query method to compare."
    return results.absence("ranking") or "No finished cell has a learning curve, so there is nothing to compare."


def _headline(leader: Leader) -> str:
    best, ranking, versus = leader.best.method, leader.ranking, leader.versus
    metric = METRIC_WORDS
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
    metric = METRIC_WORDS
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


def _settings(results: StudyResults) -> list[SettingVerdict]:
    rankings = [ranking for ranking in results.rankings[1:] if ranking.rows]
    return [_setting(ranking, results) for ranking in rankings] if len(rankings) > 1 else []


def _setting(ranking: Ranking, results: StudyResults) -> SettingVerdict:
    leader = find_leader(ranking, results)
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
