"""What a report shows, and nothing about how: every number of the page, already computed, in plain dataclasses.

A *setting* is one data set with one model; a *method* is confidence, strategy and filters under one name that is the
same everywhere. Fractions, accuracies and shares are in [0, 1]; differences are fractions too (0.012 = 1.2 points).
What could not be computed is None and never NaN, and where a person would ask why, a sentence says so: a ``refusal``
beside the number, an :class:`Absence` for a whole section, a notice for what was found damaged.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Status = Literal["done", "running", "failed", "waiting"]
Section = Literal["state", "curves", "ranking", "clipping", "calibration", "queries", "cost", "limits"]
Metric = Literal["accuracy", "aulc", "aulc_last5"]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A confidence interval.

    Attributes:
        low: lower end.
        high: upper end.
        level: coverage it was made for, in (0, 1).
    """

    low: float
    high: float
    level: float = 0.95

    def __post_init__(self) -> None:
        assert self.low <= self.high, f"an interval from {self.low} to {self.high}"
        assert 0 < self.level < 1

    @property
    def excludes_zero(self) -> bool:
        """Whether it lies wholly on one side of zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over cells.

    Attributes:
        mean: over ``n`` cells.
        n: cells (seeds, or settings x seeds) that went into it.
        std: sample standard deviation, None for one cell.
        interval: of the mean, None where too few cells carry one.
    """

    mean: float
    n: int
    std: float | None = None
    interval: Interval | None = None

    def __post_init__(self) -> None:
        assert math.isfinite(self.mean), "an unknown number is None, never NaN"
        assert self.n >= 1


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One method against another, paired by data set, model and seed.

    Attributes:
        method: whose gain a positive ``difference`` is.
        against: the other one.
        metric: what is compared.
        n_pairs: pairs of finished cells.
        difference: mean of ``method - against``.
        interval: of that mean (stratified bootstrap), None where refused.
        p_value: Wilcoxon signed-rank, two-sided, uncorrected; None where refused.
        p_holm: the same after Holm's correction over the family that the notes name; None where refused.
        refusal: one sentence why there is no p-value; None where there is one.
        effect_size: value of the effect size, None where refused.
        effect_name: what it is, for example ``rank-biserial r`` or ``Cohen's d_z``.
        wins: pairs in which ``method`` is better.
        ties: pairs that are equal.
        losses: pairs in which it is worse.
        more_seeds: further seeds on every setting that a difference of this size would need before it could be told
            from none (80 % power); 0 = there are enough, None = nobody can say.
    """

    method: str
    against: str
    metric: Metric = "aulc"
    n_pairs: int
    difference: float
    interval: Interval | None = None
    p_value: float | None = None
    p_holm: float | None = None
    refusal: str | None = None
    effect_size: float | None = None
    effect_name: str = "rank-biserial r"
    wins: int
    ties: int
    losses: int
    more_seeds: int | None = None

    def __post_init__(self) -> None:
        assert math.isfinite(self.difference), "an unknown number is None, never NaN"
        assert self.wins + self.ties + self.losses == self.n_pairs
        assert (self.p_value is None) == (self.p_holm is None), "a p-value is shown corrected or not at all"
        assert self.p_value is not None or self.refusal, "where there is no p-value, a sentence says why"

    def is_significant(self, alpha: float) -> bool:
        """Return whether the corrected p-value is below ``alpha``; never true where it was refused."""
        return self.p_holm is not None and self.p_holm < alpha


@dataclass(frozen=True, kw_only=True)
class Method:
    """One column of the study: how examples are chosen.

    Attributes:
        name: unique, used by every other part of the content.
        confidence: name of the confidence method.
        strategy: name of the query strategy.
        filters: what is removed before querying, in words; empty = nothing.
        role: ``random`` (unfiltered random queries, the reference), ``passive`` (all labels at once) or ``query``.
        unclipped: name of the same method without clipping, where this one clips and the study has that one.
    """

    name: str
    confidence: str
    strategy: str
    filters: str = ""
    role: Literal["query", "random", "passive"] = "query"
    unclipped: str | None = None


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One data set with one model.

    Attributes:
        dataset: as the study names it.
        model: as the study names it.
        variant: what else tells its cells from others of the same data set and model; usually empty.
        n_pool: examples that could be queried, None where no record says so.
        n_test: test examples, None likewise.
        n_classes: classes, None likewise.
        passive: accuracy of the model trained on all labels, None where no such cell is finished.
    """

    dataset: str
    model: str
    variant: str = ""
    n_pool: int | None = None
    n_test: int | None = None
    n_classes: int | None = None
    passive: Estimate | None = None

    @property
    def name(self) -> str:
        """Return what headings call it."""
        return " · ".join(part for part in (self.dataset, self.model, self.variant) if part)


@dataclass(frozen=True, kw_only=True)
class CellState:
    """How far one cell is.

    Attributes:
        setting: name of its :class:`Setting`.
        method: name of its :class:`Method`.
        seed: of the cell.
        status: done, running (begun, neither finished nor failed), failed or waiting.
        n_rounds: recorded rounds.
        n_rounds_planned: at most so many, None where unknown.
        reason: why it failed, or why a record of it could not be used; empty otherwise.
        key: name of its folder.
    """

    setting: str
    method: str
    seed: int
    status: Status
    n_rounds: int = 0
    n_rounds_planned: int | None = None
    reason: str = ""
    key: str = ""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A learning curve averaged over seeds.

    Attributes:
        setting: name of its :class:`Setting`.
        method: name of its :class:`Method`.
        n_labeled: ``[n_points]``, rising.
        mean: test accuracy ``[n_points]``.
        low: lower end of the confidence band ``[n_points]``; empty where there are too few seeds for one.
        high: upper end ``[n_points]``, empty likewise.
        n_seeds: seeds averaged.
    """

    setting: str
    method: str
    n_labeled: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    n_seeds: int

    def __post_init__(self) -> None:
        assert len(self.n_labeled) == len(self.mean)
        assert len(self.low) == len(self.high)
        assert len(self.low) in (0, len(self.mean))


@dataclass(frozen=True, kw_only=True)
class LevelReached:
    """What a method needs to reach a fixed accuracy.

    Attributes:
        level: the accuracy; in a ranking over all settings it differs by setting and is None.
        label: what the column is called, for example ``random's final accuracy`` or ``90 % of passive``.
        n_labels: labels needed, None where the method never gets there.
        saved: labels saved against random; negative = more are needed; None where either never gets there.
        saved_of: labels that random needs, None likewise.
        saved_interval: of ``saved``, None where there are too few seeds.
    """

    level: float | None = None
    label: str
    n_labels: float | None = None
    saved: float | None = None
    saved_of: float | None = None
    saved_interval: Interval | None = None


@dataclass(frozen=True, kw_only=True)
class MethodScore:
    """One row of a ranking.

    Attributes:
        method: name of its :class:`Method`.
        n_cells: finished cells that went into it.
        n_cells_planned: cells that the study plans for it here.
        final: accuracy after the last round.
        aulc: mean accuracy of all points of the learning curve.
        aulc_last5: mean accuracy of its last five points, None where it has fewer.
        passive_share: final accuracy as a share of the passive model's, None without one.
        levels: labels saved, the same levels in the same order in every row; the first is the one the verdict quotes.
        mean_rank: over data set x model x seed, 1 = best; None where ranks were refused.
        versus_random: against random, None for random itself and where there is nothing to pair with.
        versus_best: against the first row, None for the first row itself and where there is nothing to pair with.
    """

    method: str
    n_cells: int
    n_cells_planned: int
    final: Estimate
    aulc: Estimate
    aulc_last5: Estimate | None = None
    passive_share: float | None = None
    levels: tuple[LevelReached, ...] = ()
    mean_rank: float | None = None
    versus_random: Comparison | None = None
    versus_best: Comparison | None = None


@dataclass(frozen=True, kw_only=True)
class CriticalDifference:
    """What Friedman's test and Nemenyi's critical difference say about mean ranks (Demsar 2006).

    Attributes:
        mean_ranks: method -> mean rank, best first, 1 = best.
        critical_difference: mean ranks that differ by less cannot be told apart.
        cliques: groups of methods that cannot be told apart, maximal ones only.
        n_blocks: blocks (data set x model x seed), or data sets, that were ranked.
        statistic: Friedman's chi-square.
        p_value: its p-value.
        alpha: level of the critical difference.
        n_blocks_dropped: blocks left out because a method has no finished cell there.
        unit: what was ranked: a ``block`` or a ``data set`` (means over its models and seeds).
        unit_note: the same as a sentence, with the reason; empty for none.
    """

    mean_ranks: Mapping[str, float]
    critical_difference: float
    cliques: tuple[tuple[str, ...], ...]
    n_blocks: int
    statistic: float
    p_value: float
    alpha: float = 0.05
    n_blocks_dropped: int = 0
    unit: Literal["block", "data set"] = "block"
    unit_note: str = ""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The methods of one setting, or over all of them, best first by ``metric``.

    Attributes:
        setting: name of its :class:`Setting`; None = over all settings.
        metric: what the rows are ordered by and the comparisons are about.
        rows: best first; random is one of them, passive is none.
        critical_difference: None where refused.
        refusal: one sentence why there is no critical difference; empty where there is one.
        note: one sentence on what was left out of this ranking; empty for nothing.
    """

    setting: str | None = None
    metric: Metric = "aulc"
    rows: tuple[MethodScore, ...]
    critical_difference: CriticalDifference | None = None
    refusal: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class ClippingEffect:
    """What a filter changes for one method.

    Attributes:
        method: name of the unfiltered :class:`Method`.
        filters: what is added to it, in words.
        setting: name of the :class:`Setting`; None = over all.
        comparison: filtered against unfiltered; positive = clipping helps.
    """

    method: str
    filters: str
    setting: str | None = None
    comparison: Comparison


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """One bar of a reliability diagram.

    Attributes:
        low: lower edge of the confidence bin.
        high: upper edge.
        n: predictions in it, may be 0.
        confidence: mean confidence of them, None where there are none.
        accuracy: share of them that is right, None likewise.
    """

    low: float
    high: float
    n: int
    confidence: float | None = None
    accuracy: float | None = None


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Whether a method's confidence can be believed.

    Attributes:
        setting: name of its :class:`Setting`.
        method: name of its :class:`Method`.
        on: on the test split after the last round, or on the examples it queried.
        n: predictions over all seeds.
        ece: expected calibration error.
        brier: Brier score, in [0, 2].
        bins: reliability, empty where only the two figures were recorded.
    """

    setting: str
    method: str
    on: Literal["test", "queried"]
    n: int
    ece: float
    brier: float | None = None
    bins: tuple[ReliabilityBin, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ClassShares:
    """Which classes a method asks for.

    Attributes:
        method: name of its :class:`Method`.
        shares: by class, in the order of the :class:`Queries` they stand in; sum to 1.
        n_queried: examples over all seeds.
        distance: total variation distance to the pool, in [0, 1]; None where the pool's shares are unknown.
    """

    method: str
    shares: tuple[float, ...]
    n_queried: int
    distance: float | None = None


@dataclass(frozen=True, kw_only=True)
class Acquired:
    """How much of what is odd a method asks for.

    Attributes:
        method: name of its :class:`Method`; ``pool`` for the pool itself.
        outliers: share of the queried that the passive model gets wrong, None without a passive cell.
        kinds: kind of example (``tickets``) -> share of the queried.
    """

    method: str
    outliers: float | None = None
    kinds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Queries:
    """What was queried in one setting.

    Attributes:
        setting: name of its :class:`Setting`.
        class_names: in label order.
        pool: class shares of the whole pool, empty where unknown.
        classes: one row a method.
        overlap_methods: rows and columns of ``jaccard``.
        jaccard: mean over seeds of the overlap of the queried sets, in [0, 1]; None where no seed has both.
        jaccard_by_chance: the same for two random draws of that size, on average; None where unknown.
        acquired: one row a method, the pool first where it is known; empty where nothing odd is marked.
    """

    setting: str
    class_names: tuple[str, ...] = ()
    pool: tuple[float, ...] = ()
    classes: tuple[ClassShares, ...] = ()
    overlap_methods: tuple[str, ...] = ()
    jaccard: tuple[tuple[float | None, ...], ...] = ()
    jaccard_by_chance: float | None = None
    acquired: tuple[Acquired, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a method costs in machine time.

    Attributes:
        method: name of its :class:`Method`.
        setting: name of its :class:`Setting`.
        n_cells: finished cells averaged.
        seconds: phase -> mean wall seconds a cell, over all its rounds.
        labels_saved: against random at the level that the verdict quotes; None where unknown.
        seconds_per_label_saved: extra seconds against random for each label saved; None where none is saved.
    """

    method: str
    setting: str
    n_cells: int
    seconds: Mapping[str, float]
    labels_saved: float | None = None
    seconds_per_label_saved: float | None = None


@dataclass(frozen=True, kw_only=True)
class Note:
    """One paragraph on how the numbers were made.

    Attributes:
        title: a few words.
        text: sentences.
    """

    title: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Absence:
    """Why a section is not there.

    Attributes:
        section: which one.
        reason: one sentence, with what to do where something can be done.
    """

    section: Section
    reason: str


@dataclass(frozen=True, kw_only=True)
class ReportContent:
    """Everything that the page of one study shows.

    Attributes:
        study: its name.
        description: what its file says about it, may be empty.
        made_at: when the report was made, as text for people.
        alpha: level of every test.
        settings: in the order in which they are shown.
        methods: all of them, those without a finished cell too.
        cells: all that are planned or recorded; nothing is dropped.
        plan_known: whether the cells that wait are known; false where only folders could be counted.
        curves: of finished and, as far as they are, of running cells.
        rankings: the one over all settings first (also where there is only one setting), then one a setting.
        clipping: effects of filters.
        calibration: by setting, method and split.
        queries: one a setting.
        costs: by setting and method.
        notes: method and limits: how curves were averaged, pairs, corrections, bootstrap, seeds.
        versions: program -> versions that the records name.
        notices: what was found damaged, left out or surprising, one sentence each.
        absences: sections that could not be made, with the reason.
        tables: name of a file written beside the page -> what it holds.
    """

    study: str
    description: str = ""
    made_at: str
    alpha: float = 0.05
    settings: tuple[Setting, ...] = ()
    methods: tuple[Method, ...] = ()
    cells: tuple[CellState, ...] = ()
    plan_known: bool = True
    curves: tuple[Curve, ...] = ()
    rankings: tuple[Ranking, ...] = ()
    clipping: tuple[ClippingEffect, ...] = ()
    calibration: tuple[Calibration, ...] = ()
    queries: tuple[Queries, ...] = ()
    costs: tuple[Cost, ...] = ()
    notes: tuple[Note, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
    absences: tuple[Absence, ...] = ()
    tables: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        methods, settings = {method.name for method in self.methods}, {setting.name for setting in self.settings}
        assert len(methods) == len(self.methods), "two methods have one name"
        assert len(settings) == len(self.settings), "two settings have one name"
        for part in (self.cells, self.curves, self.calibration, self.costs):
            for entry in part:
                assert entry.method in methods, f"{entry.method!r} is not among the methods"
                assert entry.setting in settings, f"{entry.setting!r} is not among the settings"

    def n(self, status: Status) -> int:
        """Return how many cells have this status."""
        return sum(cell.status == status for cell in self.cells)

    def absence(self, section: Section) -> str | None:
        """Return why a section is not there, None where nobody says so."""
        return next((entry.reason for entry in self.absences if entry.section == section), None)

    def role(self, method: str) -> str:
        """Return the role of a method by its name."""
        return next((entry.role for entry in self.methods if entry.name == method), "query")
