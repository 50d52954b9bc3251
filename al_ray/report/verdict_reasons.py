"""The sentences behind the headline of a verdict: what the leader saves, how sure that is, what would change it."""

from al_ray.report.content import Comparison, LevelReached, MethodScore, Ranking, ReportContent
from al_ray.report.leader import Case, Leader
from al_ray.report.wording import (
    METRIC_WORDS,
    count,
    interval_count,
    interval_points,
    p_words,
    percent,
    plural,
    points,
    size_in_points,
    some,
)

_MANY_SEEDS = 200


def what_it_saves(leader: Leader, content: ReportContent) -> list[str]:
    """Return sentences on the labels that the leader saves and the accuracy it reaches."""
    if leader.case in (Case.ALONE, Case.RANDOM_FIRST):
        return [_final_alone(leader.best, content)]
    said = [_labels(leader.best)] if leader.random is not None and leader.best.levels else []
    return [*said, _final(leader)]


def _labels(best: MethodScore) -> str:
    level = best.levels[0]
    goal = f"{level.label} ({percent(level.level)})" if _needs_figure(level) else level.label
    if level.saved is None or level.saved_of is None:
        return f"{best.method} does not reach {goal}, so it saves no labels there."
    between = f", interval {interval_count(level.saved_interval)}" if level.saved_interval else ""
    share = percent(abs(level.saved) / level.saved_of, 0)
    if round(level.saved) == 0:
        return f"Labels: to reach {goal} it needs as many as random queries ({count(level.saved_of)})."
    if level.saved < 0:
        needs = f"{plural(-level.saved, 'label')} more than the {count(level.saved_of)} of random queries"
        return f"Labels: to reach {goal} it needs {needs} ({share}{between})."
    saves = f"{count(level.saved)} of the {plural(level.saved_of, 'label')} that random queries need"
    return f"Labels: to reach {goal} it saves {saves} ({share}{between})."


def _needs_figure(level: LevelReached) -> bool:
    return level.level is not None and percent(level.level, 0) not in level.label


def _final(leader: Leader) -> str:
    best, random = leader.best, leader.random
    text = f"Accuracy after the last round: {percent(best.final.mean)}"
    if random is None:
        return f"{text}{_of_passive(best)}."
    unlike = (
        ""
        if random.n_cells == best.n_cells
        else (f", over {plural(best.n_cells, 'cell')} and {plural(random.n_cells, 'cell')}")
    )
    return f"{text} against {percent(random.final.mean)} for random queries{unlike}{_of_passive(best)}."


def _final_alone(best: MethodScore, content: ReportContent) -> str:
    who = "random queries" if content.role(best.method) == "random" else best.method
    return f"Accuracy after the last round: {percent(best.final.mean)} for {who}{_of_passive(best)}."


def _of_passive(best: MethodScore) -> str:
    return "" if best.passive_share is None else f"; that is {percent(best.passive_share)} of the passive model's"


def how_sure(leader: Leader, content: ReportContent) -> list[str]:
    """Return sentences on the pairs, tests and seeds behind the headline."""
    said = [_versus(leader)] if leader.versus is not None else []
    said += _friedman(leader.ranking)
    said += _equal_rows(leader)
    seeds = _seeds(content)
    if seeds and max(seeds.values()) == 1:
        said.append("Every setting has one seed only, so nobody knows how much of a difference is the seed's.")
    return said


def _versus(leader: Leader) -> str:
    versus = leader.versus
    assert versus is not None
    who = f"{versus.method} against random queries"
    result = f"{points(versus.difference)} of {METRIC_WORDS[versus.metric]}"
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
    methods, blocks = plural(len(test.mean_ranks), "method"), plural(test.n_blocks, test.unit)
    return [f"Friedman's test {found} between {methods} over {blocks} ({p_words(test.p_value)})."]


def _equal_rows(leader: Leader) -> list[str]:
    versus = [(row.method, row.versus_best) for row in leader.close]
    equal = [method for method, pairs in versus if pairs is not None and pairs.n_pairs and pairs.ties == pairs.n_pairs]
    if not equal:
        return []
    verb = "is" if len(equal) == 1 else "are"
    return [f"{some(equal, 'method')} {verb} equal to {leader.best.method} in every pair."]


def what_would_change_it(leader: Leader, content: ReportContent) -> list[str]:
    """Return sentences on how many more seeds, or which other cells, would settle what is open."""
    said = []
    if leader.case in (Case.MAY_BE_CHANCE, Case.NOT_TESTABLE) and leader.versus is not None:
        said.append(_more_seeds(leader.versus, "random queries", leader.alpha))
    if leader.case is Case.BEATS_RANDOM and leader.other_close:
        rival = leader.other_close[0].versus_best
        if rival is not None and rival.difference != 0:
            said.append(_more_seeds(rival, leader.best.method, leader.alpha))
    if leader.case is Case.NO_RANDOM:
        said.append(_add_random(content))
    if len(content.rankings) > 2:
        said += _elsewhere(leader, content)
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
        return f"To tell {apart} about {seeds} on every setting would be needed (80 % power)."
    if versus.p_value is not None and versus.p_holm is not None and versus.p_value < alpha <= versus.p_holm:
        return f"Taken alone the seeds would tell {apart}; corrected for the other comparisons they do not."
    return f"The seeds would usually be enough to tell {apart}, yet the test does not; more seeds would settle it."


def _add_random(content: ReportContent) -> str:
    if any(method.role == "random" for method in content.methods):
        return "The random cells of this study are not finished; with them the question can be answered."
    return "The study has no random queries: add strategy: random to its grid, with the same seeds."


def _elsewhere(leader: Leader, content: ReportContent) -> list[str]:
    per_setting = [ranking for ranking in content.rankings[1:] if ranking.rows]
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


def _seeds(content: ReportContent) -> dict[str, int]:
    done = [cell for cell in content.cells if cell.status == "done" and content.role(cell.method) != "passive"]
    return {name: len({cell.seed for cell in done if cell.setting == name}) for name in {cell.setting for cell in done}}
