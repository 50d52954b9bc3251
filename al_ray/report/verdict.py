"""The verdict: which method to use, how far the numbers carry that, and what is missing."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal

import pandas as pd

from al_ray.filtering import filters
from al_ray.records.cell import CellStatus
from al_ray.report.analysis.results import ClippingEffect, Gap, MethodRanking, MethodScore, StudyResults
from al_ray.report.analysis.survey import SEED, AxisSummary, summarise
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
from al_ray.study.names import Method

MOST_NOTICES = 3
MANY_SEEDS = 200
_NO_RIVALS = ("passive", "bound")


class Case(Enum):
    """What can be said of the first method of a ranking; the values are the words of a table."""

    BEATS_RANDOM = "better than random"
    """It is better than random queries by more than chance."""
    MAY_BE_CHANCE = "can be chance"
    """It is ahead of random queries, and tested, but the difference can be chance."""
    NOT_TESTABLE = "too few pairs to tell"
    """It is ahead of random queries, on too few pairs for a test."""
    NOT_AHEAD_IN_PAIRS = "not ahead of random in pairs"
    """Its mean is highest, but not on the cells that it shares with random queries."""
    NO_SHARED_PAIRS = "no pairs with random"
    """Random queries are there, but never on the same data set, model and seed."""
    RANDOM_FIRST = "random is first"
    """Random queries are first."""
    NO_RANDOM = "no random cells"
    """There are no finished random queries."""
    ALONE = "only one method"
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

    ranking: MethodRanking
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


def find_leader(ranking: MethodRanking, results: StudyResults) -> Leader:
    """Return who leads a ranking that has at least one row."""
    best = ranking.rows[0]
    random = next((row for row in ranking.rows if results.methods[row.method].role == "random"), None)
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


def _case(ranking: MethodRanking, random: MethodScore | None, versus: Comparison | None, alpha: float) -> Case:
    if len(ranking.rows) == 1:
        return Case.ALONE
    if random is None:
        return Case.NO_RANDOM
    if ranking.rows[0] is random:
        return Case.RANDOM_FIRST
    if versus is None:
        return Case.NO_SHARED_PAIRS
    if versus.difference <= 0:
        return Case.NOT_AHEAD_IN_PAIRS
    if versus.is_significant(alpha):
        return Case.BEATS_RANDOM
    return Case.NOT_TESTABLE if versus.p_holm is None else Case.MAY_BE_CHANCE


def _is_below(row: MethodScore, alpha: float) -> bool:
    versus = row.versus_best
    return versus is not None and versus.difference < 0 and versus.is_significant(alpha)


def what_clipping_does(results: StudyResults) -> list[str]:
    """Return one sentence for every filter of the study, over all settings."""
    by_filters: dict[str, list[ClippingEffect]] = {}
    for effect in results.clipping:
        if effect.setting is None:
            by_filters.setdefault(effect.filters, []).append(effect)
    return [_clipping_of(filters, effects, results.alpha) for filters, effects in by_filters.items()]


def _clipping_of(filters: str, effects: Sequence[ClippingEffect], alpha: float) -> str:
    of = plural(len(effects), "method")
    if all(effect.comparison.p_holm is None for effect in effects):
        return f"{filters}: too little data to say what it changes for {of}. {effects[0].comparison.refusal}"
    shown = [effect for effect in effects if effect.comparison.is_significant(alpha)]
    if not shown:
        return f"{filters}: no difference is shown for {of if len(effects) == 1 else f'any of {of}'}."
    helped = [effect.method for effect in shown if effect.comparison.difference > 0]
    hurt = [effect.method for effect in shown if effect.comparison.difference < 0]
    parts = [f"helps {some(helped, 'method')}"] if helped else []
    parts += [f"hurts {some(hurt, 'method')}"] if hurt else []
    rest = len(effects) - len(shown)
    left = f"; for {plural(rest, 'other')} no difference is shown" if rest else ""
    return f"{filters}: {joined(parts)} by more than chance{left}."


def what_survives(results: StudyResults) -> str:
    """Return what changes of the axes of the study do to the ranking, as one sentence; empty where nothing is known."""
    axes = summarise(results.agreements)
    changed = [one for one in axes if one.axis != SEED]
    told = [one for one in changed if one.survives is not None]
    parts = [
        f"the ranking {verb} {joined([_kept(one) for one in told if one.survives is survives])}"
        for survives, verb in ((True, "survives"), (False, "changes with"))
        if any(one.survives is survives for one in told)
    ]
    if blurred := [_kept(one) for one in changed if one.has_order is False]:
        parts.append(f"seeds alone leave no order of the methods that could survive {joined(blurred)}")
    if open_axes := [_kept(one) for one in changed if one.survives is None and one.has_order is not False]:
        parts.append(f"too few seeds tell whether it survives {joined(open_axes)}")
    seeds = [percent(_in_order(one.tau), 0) for one in axes if one.axis == SEED]
    parts += [f"from one seed to another {share} of pairs of methods keep their order" for share in seeds]
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _kept(one: AxisSummary) -> str:
    alone = "" if one.tau_same is None else f", {percent(_in_order(one.tau_same), 0)} with other seeds alone"
    across = one.tau if one.tau_halves is None else one.tau_halves
    return f"another {one.axis} ({percent(_in_order(across), 0)} of pairs of methods keep their order{alone})"


def _in_order(tau: float) -> float:
    """Return the share of pairs in the same order that a tau without ties stands for."""
    return (1 + tau) / 2


def what_was_possible(results: StudyResults) -> list[str]:
    """Return what each upper bound is, and how far the methods go from random queries to it, by setting."""
    ways: dict[str, dict[str, list[Gap]]] = {row.method: {} for rows in results.bounds.values() for row in rows}
    for gap in results.gaps:
        ways[gap.bound].setdefault(gap.setting, []).append(gap)
    texts = []
    for bound, by_setting in ways.items():
        parts = [_way(gaps, len(results.settings)) for gaps in list(by_setting.values())[:MOST_NOTICES]]
        if len(by_setting) > MOST_NOTICES:
            parts.append(f"The table gap holds {plural(len(by_setting) - MOST_NOTICES, 'more setting')}.")
        if not parts:
            parts = ["No method and random queries share a finished seed with it, so no way to it is measured."]
        texts.append(f"{bound} is no method but a bound: it saw all labels and the test split. {' '.join(parts)}")
    return texts


def _way(gaps: Sequence[Gap], n_settings: int) -> str:
    low, high = percent(gaps[0].random), percent(gaps[0].bound_accuracy)
    where = f" on {gaps[0].setting}" if n_settings > 1 else ""
    way = f"{METRIC_WORDS.capitalize()}{where}: {low} for random queries, {high} for the bound"
    said = [f"{gap.method} {percent(gap.share, 0)}" for gap in gaps if gap.share is not None]
    rest = f". Of that way go: {joined(said)}." if said else ", so there is no way to go."
    return f"{way}{rest}"


def what_is_missing(results: StudyResults) -> list[str]:
    """Return one sentence for everything that no number holds."""
    cells, n_done = results.cells, results.n("done")
    failed = cells.loc[cells["status"] == "failed", "method"]
    measured = set(_done(results)["method"])
    never = [method for method in results.methods if method not in measured]
    without = [setting.name for setting in results.settings if setting.passive is None]
    said = []
    if n_done and len(coming := _counts(results, "running", "waiting")):
        done = f"{count(n_done)} of {plural(len(cells), 'cell')} are done"
        said.append(f"The study is not finished: {done}, {joined(coming)}. The verdict may change.")
    if 0 < len(failed) < len(cells):
        verb = "is" if len(failed) == 1 else "are"
        methods = some(sorted(set(failed)), "method")
        said.append(f"{plural(len(failed), 'cell')} failed and {verb} in no number: {methods}.")
    if not results.plan_known:
        said.append(
            "The records do not say how many cells the study plans, so cells that were never begun are not counted."
        )
    if never and n_done:
        said.append(f"Without a finished cell, so in no ranking: {some(never, 'method')}.")
    if results.rankings and results.rankings[0].note:
        said.append(results.rankings[0].note)
    if without and n_done:
        said.append(f"No passive model is finished on {some(without, 'setting')}, so shares of it are not known there.")
    if len(results.notices) > MOST_NOTICES:
        n = plural(len(results.notices), "notice")
        return [*said, f"{n} on damaged or odd records: see the state of the study."]
    return [*said, *results.notices]


def _done(results: StudyResults) -> pd.DataFrame:
    return results.cells[results.cells["status"] == "done"]


def _counts(results: StudyResults, *statuses: CellStatus) -> list[str]:
    """Return how many cells have each status, in words, those without a cell left out."""
    return [f"{count(results.n(status))} {status}" for status in statuses if results.n(status)]


def what_it_saves(leader: Leader) -> list[str]:
    """Return sentences on the labels that the leader saves and the accuracy it reaches."""
    is_compared = leader.case not in (Case.ALONE, Case.RANDOM_FIRST)
    said = [_labels(leader.best)] if is_compared and leader.random is not None and leader.best.levels else []
    return [*said, _final(leader)]


def _labels(best: MethodScore) -> str:
    level = best.levels[0]
    needs_figure = level.level is not None and percent(level.level, 0) not in level.label
    goal = f"{level.label} ({percent(level.level)})" if needs_figure else level.label
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


def _final(leader: Leader) -> str:
    best, random = leader.best, leader.random
    text = f"Accuracy after the last round: {percent(best.final_accuracy.mean)}"
    share = "" if best.passive_share is None else f"; that is {percent(best.passive_share)} of the passive model's"
    if leader.case in (Case.ALONE, Case.RANDOM_FIRST):
        return f"{text} for {'random queries' if best is random else best.method}{share}."
    if random is None:
        return f"{text}{share}."
    n_best, n_random = plural(best.n_cells, "cell"), plural(random.n_cells, "cell")
    unlike = "" if n_best == n_random else f", over {n_best} and {n_random}"
    return f"{text} against {percent(random.final_accuracy.mean)} for random queries{unlike}{share}."


def how_sure(leader: Leader, results: StudyResults) -> list[str]:
    """Return sentences on the pairs, tests and seeds behind the headline."""
    said = [] if leader.versus is None else [_versus(leader.versus, leader.alpha)]
    said += _friedman(leader.ranking)
    said += _equal_rows(leader)
    done = [cell for cell in _done(results).itertuples() if results.methods[cell.method].role not in _NO_RIVALS]
    n_seeds = Counter(setting for setting, _ in {(cell.setting, cell.seed) for cell in done})
    if n_seeds and max(n_seeds.values()) == 1:
        said.append("Every setting has one seed only, so nobody knows how much of a difference is the seed's.")
    return said


def _versus(versus: Comparison, alpha: float) -> str:
    who = f"{versus.method} against random queries"
    result = f"{points(versus.difference)} of {METRIC_WORDS}"
    counts = f"better on {count(versus.wins)}, equal on {count(versus.ties)}, worse on {count(versus.losses)}"
    text = f"{who}: {result} over {plural(versus.n_pairs, 'pair')} ({counts})"
    if versus.interval is not None:
        text += f", {percent(versus.interval.level, 0)} interval {interval_points(versus.interval)}"
    if versus.p_holm is None:
        return f"{text}. No p-value: {versus.refusal}"
    text += f"; Wilcoxon signed-rank with Holm's correction: {p_words(versus.p_holm)}."
    if versus.interval is not None and versus.interval.excludes_zero and not versus.is_significant(alpha):
        text += " The interval is of this comparison alone, the p-value is corrected for all of them."
    return text


def _friedman(ranking: MethodRanking) -> list[str]:
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
    if versus.more_seeds > MANY_SEEDS:
        return f"To tell {apart} more than {MANY_SEEDS} further seeds on every setting would be needed."
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


def _is_below_random(ranking: MethodRanking, leader: Leader) -> bool:
    row = next((row for row in ranking.rows if row.method == leader.best.method), None)
    versus = row.versus_random if row else None
    return versus is not None and versus.difference < 0 and versus.is_significant(leader.alpha)


Tone = Literal["clear", "unclear", "nothing"]


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
        possible: sentences on how far methods go to an upper bound.
        clipping: sentences on what filters do.
        missing: sentences on what is not there.
        settings: who is first on each setting; empty where there is only one.
        method: the method that comes first, or None where none is ranked.
    """

    headline: str
    tone: Tone
    preliminary: bool = False
    saves: tuple[str, ...] = ()
    sure: tuple[str, ...] = ()
    change: tuple[str, ...] = ()
    possible: tuple[str, ...] = ()
    clipping: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    settings: tuple[Leader, ...] = ()
    method: str | None = None


def make_verdict(results: StudyResults) -> Verdict:
    """Return the verdict on a study, from whatever of it there is."""
    missing = tuple(what_is_missing(results))
    if not results.n("done"):
        return Verdict(headline=_nothing_done(results), tone="nothing", missing=missing)
    if not results.rankings or not results.rankings[0].rows:
        return Verdict(headline=_nothing_ranked(results), tone="nothing", missing=missing)
    leader = find_leader(results.rankings[0], results)
    per_setting = [ranking for ranking in results.rankings[1:] if ranking.rows]
    return Verdict(
        headline=_headline(leader, is_usable=not is_ablation(results.methods[leader.best.method])),
        tone="clear"
        if leader.case is Case.BEATS_RANDOM and not is_ablation(results.methods[leader.best.method])
        else "nothing"
        if leader.case is Case.ALONE
        else "unclear",
        preliminary=bool(results.n("running") + results.n("waiting")),
        saves=tuple(what_it_saves(leader)),
        sure=tuple(how_sure(leader, results)),
        change=tuple(what_would_change_it(leader, results)),
        possible=tuple(what_was_possible(results)),
        clipping=tuple(what_clipping_does(results)),
        missing=missing,
        settings=tuple(find_leader(ranking, results) for ranking in per_setting) if len(per_setting) > 1 else (),
        method=leader.best.method,
    )


def _nothing_done(results: StudyResults) -> str:
    n, failed = len(results.cells), results.n("failed")
    if not n:
        return "This study has no cells yet, so there is nothing to say."
    if failed == n:
        reason, often = Counter(results.cells["reason"]).most_common(1)[0]
        all_of = "The only cell" if n == 1 else f"All {count(n)} cells"
        times = "" if often == n else f" (of {plural(often, 'cell')})"
        return f"{all_of} failed, so there is nothing to compare. The commonest reason{times}: {reason}"
    parts = _counts(results, "running", "waiting", "failed")
    return f"No cell is finished yet, so there is nothing to say: of {plural(n, 'cell')} {joined(parts)}."


def _nothing_ranked(results: StudyResults) -> str:
    roles = {results.methods[method].role for method in _done(results)["method"]}
    if roles == {"passive"}:
        return "Only the passive model is finished, so there is no query method to compare."
    if roles.issubset(_NO_RIVALS):
        return "Only references are finished, which saw all labels, so there is no query method to compare."
    return results.absences.get("ranking", "No finished cell has a learning curve, so there is nothing to compare.")


def is_ablation(method: Method) -> bool:
    """Return whether a method has a filter that reads every answer, so that nobody can use it."""
    reading = [name for name in filters.names() if filters.get(name).needs_hardness]
    return any(label == name or label.startswith(f"{name}_") for name in reading for label in method.filters)


def _headline(leader: Leader, *, is_usable: bool) -> str:
    best, case, n_rows, versus = leader.best.method, leader.case, len(leader.ranking.rows), leader.versus
    if case is Case.BEATS_RANDOM:
        close = [row.method for row in leader.other_close]
        use = f"Use {best}." if is_usable else f"{best} comes first, but nobody can use it: it reads every answer."
        if close:
            told = f"{some(close, 'other method')} cannot be told apart from it"
            return f"{use} It beats random queries by more than chance; {told}."
        others = f" and {plural(n_rows - 2, 'other method')}" if n_rows > 2 else ""
        return f"{use} It beats random queries{others} by more than chance."
    if case is Case.ALONE and leader.random is not None:
        return "Only random queries have finished cells, so there is nothing to compare them with."
    if case is Case.ALONE:
        return f"Only {best} has finished cells, so there is nothing to compare it with."
    if case is Case.RANDOM_FIRST:
        none = "no method" if n_rows == 2 else f"none of the {count(n_rows - 1)} methods"
        return f"Random queries come first: {none} has a higher {METRIC_WORDS}."
    if case is Case.NO_RANDOM:
        close = [row.method for row in leader.close]
        told = f"{some(close, 'other method')} cannot be told apart from it" if close else "the lead is clear"
        return (
            f"{best} has the highest {METRIC_WORDS} of {plural(n_rows, 'method')} ({told}), but without finished "
            f"random queries nobody can say whether it is worth its effort."
        )
    if versus is None:
        return (
            f"{best} has the highest {METRIC_WORDS}, but it shares no data set, model and seed with a finished random "
            f"cell, so the two cannot be compared."
        )
    if case is Case.MAY_BE_CHANCE:
        return (
            f"No method is shown to beat random queries. {best} is first, {size_in_points(versus.difference)} ahead of "
            f"random, which can be chance."
        )
    if case is Case.NOT_TESTABLE:
        return (
            f"Too little data for a verdict. {best} is first, {size_in_points(versus.difference)} ahead of random "
            f"queries on {plural(versus.n_pairs, 'pair')}; that is too few to tell it from chance."
        )
    return (
        f"No method is shown to beat random queries. {best} has the highest {METRIC_WORDS}, but over the "
        f"{plural(versus.n_pairs, 'pair')} that it shares with random queries it is {points(versus.difference)}."
    )
