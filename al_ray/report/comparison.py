"""What a paired comparison of two methods found, and a family of them that is corrected together."""

from dataclasses import asdict, dataclass, replace

import pandas as pd

from al_ray.report.bootstrap import Resampled
from al_ray.report.wilcoxon import MAX_EXACT


@dataclass(frozen=True, kw_only=True)
class PairedComparison:
    """How one method does against another on the blocks that both have; differences are ``method`` minus ``other``.

    Attributes:
        n_blocks: rows of the frame: n_pairs + n_left_out + n_absent.
        n_pairs: blocks where both have a value.
        n_left_out: blocks left out because one of the two is missing: method_missing + other_missing.
        method_missing, other_missing: blocks where only the other, or only the method, has a value.
        n_absent: blocks where neither has a value.
        n_strata: strata (data set x model) among the pairs.
        mean_difference, median_difference: over pairs, unit of the values; NaN without a pair.
        std_difference: sample standard deviation of the differences over all pairs; NaN below 2 pairs.
        low, high: stratified bootstrap interval of the mean difference; NaN with too little data.
        resampled: how the interval was resampled (see `al_ray.report.bootstrap.MeanInterval`).
        n_borrowed: pairs that are alone in their stratum; the interval takes their variance from the others.
        wins, ties, losses: pairs with a difference above, within and below the tolerance.
        n_nonzero: pairs whose difference is not zero at 12 decimals, which is what the test is made from.
        p_value: two-sided Wilcoxon signed-rank test; None where ``reason`` says why there is none.
        p_kind: "exact" or "asymptotic".
        p_holm: p_value after Holm's correction over the family of comparisons.
        significant: p_holm is below the family's alpha.
        reason: why there is no p-value, in a sentence; None where there is one.
        rank_biserial: matched-pairs rank-biserial correlation in [-1, 1] (Kerby 2014); NaN without a pair.
        cohens_dz: mean_difference / std_difference (Cohen 1988); NaN without a spread.
    """

    method: str
    other: str
    n_blocks: int
    n_pairs: int
    n_left_out: int
    method_missing: int
    other_missing: int
    n_absent: int
    n_strata: int
    mean_difference: float
    median_difference: float
    std_difference: float
    low: float
    high: float
    resampled: Resampled | None
    n_borrowed: int
    wins: int
    ties: int
    losses: int
    n_nonzero: int
    p_value: float | None
    p_kind: str | None
    p_holm: float | None
    significant: bool
    reason: str | None
    rank_biserial: float
    cohens_dz: float

    def swapped(self) -> "PairedComparison":
        """Return the same comparison seen from the other method."""
        return replace(
            self,
            method=self.other,
            other=self.method,
            method_missing=self.other_missing,
            other_missing=self.method_missing,
            mean_difference=0.0 - self.mean_difference,
            median_difference=0.0 - self.median_difference,
            low=0.0 - self.high,
            high=0.0 - self.low,
            wins=self.losses,
            losses=self.wins,
            rank_biserial=0.0 - self.rank_biserial,
            cohens_dz=0.0 - self.cohens_dz,
        )


@dataclass(frozen=True, kw_only=True)
class Comparisons:
    """A family of paired comparisons, corrected together.

    Attributes:
        comparisons: in the order of the columns.
        n_tests: p-values in the family, by which Holm corrects.
        alpha: level of significance after correction.
        tolerance: largest absolute difference that counts as a tie.
        level: coverage of the intervals.
        n_resamples: of the bootstrap.
        note: a sentence where nothing in the family could have been significant, whatever the data; else None.
    """

    comparisons: tuple[PairedComparison, ...]
    n_tests: int
    alpha: float
    tolerance: float
    level: float
    n_resamples: int
    note: str | None

    @property
    def how(self) -> str:
        """How the numbers were made, in sentences for the foot of a table."""
        return (
            f"Two-sided Wilcoxon signed-rank test on paired differences (zeros by Pratt; exact up to {MAX_EXACT} "
            f"non-zero pairs, normal above), Holm's correction over {self.n_tests} tests, significant below "
            f"{self.alpha:g}. Intervals of the mean difference: {self.level:.0%}, expanded percentile bootstrap with "
            f"{self.n_resamples:,} resamples of blocks within data set and model. Ties: differences up to "
            f"{self.tolerance:g} either way. This speaks about these data sets over new seeds, not about other ones."
        )

    def of(self, method: str, other: str) -> PairedComparison:
        """Return the comparison of two methods, seen from the first.

        Raises:
            KeyError: the family has no such comparison.
        """
        for found in self.comparisons:
            if (found.method, found.other) == (method, other):
                return found
            if (found.method, found.other) == (other, method):
                return found.swapped()
        raise KeyError((method, other))

    def to_frame(self) -> pd.DataFrame:
        """Return one row per comparison and one column per attribute."""
        return pd.DataFrame([asdict(found) for found in self.comparisons])


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a family of comparisons is made with.

    Attributes:
        alpha: level of significance, after correction.
        tolerance: largest absolute difference that counts as a tie in win / tie / loss; the test does not use it.
        level: coverage of the bootstrap intervals.
        n_resamples: of the bootstrap.
        seed: of the bootstrap's streams.
    """

    alpha: float = 0.05
    tolerance: float = 0.0
    level: float = 0.95
    n_resamples: int = 4000
    seed: int = 0
