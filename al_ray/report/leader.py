"""Who leads a ranking, and how far the numbers carry that: the cases that the verdict has sentences for."""

from dataclasses import dataclass
from enum import Enum, auto

from al_ray.report.content import Comparison, MethodScore, Ranking, ReportContent


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


def find_leader(ranking: Ranking, content: ReportContent) -> Leader:
    """Return who leads a ranking that has at least one row."""
    best = ranking.rows[0]
    random = next((row for row in ranking.rows if content.role(row.method) == "random"), None)
    second = ranking.rows[1] if len(ranking.rows) > 1 else None
    versus = second.versus_random if best is random and second is not None else best.versus_random
    return Leader(
        ranking=ranking,
        case=_case(ranking, random, versus, content.alpha),
        best=best,
        random=random,
        versus=versus,
        close=tuple(row for row in ranking.rows[1:] if not _is_below(row, content.alpha)),
        alpha=content.alpha,
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
