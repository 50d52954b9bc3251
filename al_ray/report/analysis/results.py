"""What a study has found: every number of its report as typed values, and the same numbers as tables.

A *setting* is one data set with one model; a *method* is confidence, strategy and filters under one name that is the
same everywhere. Fractions, accuracies and shares are in [0, 1]; differences are fractions too (0.012 = 1.2 points).
What could not be computed is None and never NaN (in tables: NaN), and where a person would ask why, a sentence says so:
a ``refusal`` beside the number, an absence for a whole section, a notice for what was found damaged.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from al_ray.records.cell import CellStatus
from al_ray.report.stats.bootstrap import Interval
from al_ray.report.stats.paired import Comparison
from al_ray.report.stats.ranks import CriticalDifference
from al_ray.study.names import Method

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Section = Literal["state", "curves", "ranking", "clipping", "calibration", "queries", "survey", "cost", "limits"]
METRIC = "aulc"
"""What methods are ranked by and compared in."""
POOL = "pool"
EVERYWHERE = "all settings"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Mean over cells, with spread and interval.

    Attributes:
        mean: over ``n`` cells.
        n: cells (seeds, or settings x seeds) that went into it.
        std: sample standard deviation, None for one cell and over several settings.
        interval: of the mean, None where too few cells carry one.
    """

    mean: float
    n: int
    std: float | None
    interval: Interval | None

    def __post_init__(self) -> None:
        assert math.isfinite(self.mean), "an unknown number is None, never NaN"
        assert self.n >= 1


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One data set with one model.

    Attributes:
        name: what headings and tables call it: data set, model and variant.
        dataset: as the study names it.
        model: as the study names it.
        variant: what else tells its cells from others of the same data set and model; usually empty.
        n_pool: examples that could be queried, None where no record says so.
        n_test: test examples, None likewise.
        n_classes: classes, None likewise.
        passive: final accuracy of the model trained on all labels, None where no such cell is finished.
        ramp_up_end: labels at which ramp-up ends and the plateau begins (:func:`al_ray.core.metrics.ramp_up_end`), None
            without finished random queries, or where their curve does not rise.
        axes: its values on the axes of the study, in words; empty without a record.
    """

    name: str
    dataset: str
    model: str
    variant: str
    n_pool: int | None
    n_test: int | None
    n_classes: int | None
    passive: Estimate | None
    ramp_up_end: int | None
    axes: Mapping[str, str]


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
        finished: whether they are of finished cells; otherwise those run, and the curve is as far as all of them are.
    """

    setting: str
    method: str
    n_labeled: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    n_seeds: int
    finished: bool

    def __post_init__(self) -> None:
        assert len(self.n_labeled) == len(self.mean)
        assert len(self.low) == len(self.high)
        assert len(self.low) in (0, len(self.mean))


@dataclass(frozen=True, kw_only=True)
class LabelsSaved:
    """What a method needs to reach a fixed accuracy, on the mean curves over the seeds that it shares with random.

    Attributes:
        setting: name of its :class:`Setting`; None = mean over the settings of a ranking.
        method: name of its :class:`Method`.
        label: what the level is called, for example ``random's final accuracy``.
        level: the accuracy; None over settings, where it differs, and where nothing is known.
        n_labels: labels needed, None where the method never gets there.
        saved_of: labels that random needs, None likewise.
        labels_saved: ``saved_of - n_labels``; negative = more are needed; None where either never gets there.
        interval: of ``labels_saved``, None where there are too few seeds.
    """

    setting: str | None
    method: str
    label: str
    level: float | None
    n_labels: float | None
    saved_of: float | None
    labels_saved: float | None
    interval: Interval | None


@dataclass(frozen=True, kw_only=True)
class Gap:
    """How far a method goes from random queries to an upper bound on one setting, by :data:`METRIC`.

    Attributes:
        setting: name of its :class:`Setting`.
        method: name of its :class:`Method`.
        bound: name of the bound, which saw all labels and the test split.
        n_seeds: seeds that the method, the bound and random queries have.
        random: mean of random queries on them.
        accuracy: mean of the method.
        bound_accuracy: mean of the bound.
        share: of the way from random queries to the bound that the method goes; negative below random queries, None
            where the bound is not above them.
        interval: of the share over seeds, None where there are too few.
    """

    setting: str
    method: str
    bound: str
    n_seeds: int
    random: float
    accuracy: float
    bound_accuracy: float
    share: float | None
    interval: Interval | None


@dataclass(frozen=True, kw_only=True)
class MethodScore:
    """A method's row in a ranking: final accuracy, areas, labels saved, rank, comparisons.

    Attributes:
        method: name of its :class:`Method`.
        n_cells: finished cells that went into it.
        n_cells_planned: cells that the study plans for it here.
        n_labeled: fewest and most labels that these cells end with.
        final_accuracy: accuracy after the last round.
        aulc: mean accuracy of all points of the learning curve.
        aulc_last5: mean accuracy of its last five points, None where it has fewer.
        ramp_up_aulc: mean accuracy of its points before :attr:`Setting.ramp_up_end`, None where that is unknown.
        plateau_aulc: mean accuracy of its points from there on, None likewise.
        passive_share: final accuracy as a share of the passive model's, None without one.
        levels: labels saved, the same levels in the same order in every row; the first is the one the verdict quotes.
        mean_rank: over data set x model x seed, 1 = best; None where ranks were refused.
        versus_random: against random, None for random itself and where there is nothing to pair with.
        versus_best: against the first row, None for the first row itself and where there is nothing to pair with.
    """

    method: str
    n_cells: int
    n_cells_planned: int
    n_labeled: tuple[int, int]
    final_accuracy: Estimate
    aulc: Estimate
    aulc_last5: Estimate | None
    ramp_up_aulc: Estimate | None
    plateau_aulc: Estimate | None
    passive_share: float | None
    levels: tuple[LabelsSaved, ...] = ()
    mean_rank: float | None = None
    versus_random: Comparison | None = None
    versus_best: Comparison | None = None


@dataclass(frozen=True, kw_only=True)
class MethodRanking:
    """The methods of one setting, or over all of them, best first by :data:`METRIC`.

    Attributes:
        setting: name of its :class:`Setting`; None = over all settings.
        rows: best first; random is one of them, passive and upper bounds are none.
        critical_difference: None where refused.
        refusal: one sentence why there is no critical difference; empty where there is one.
        note: one sentence on what was left out of this ranking; empty for nothing.
    """

    setting: str | None
    rows: tuple[MethodScore, ...]
    critical_difference: CriticalDifference | None
    refusal: str
    note: str


@dataclass(frozen=True, kw_only=True)
class ClippingEffect:
    """What clipping changes for one method.

    Attributes:
        method: name of the unclipped :class:`Method`.
        filters: what is added to it, in words.
        setting: name of the :class:`Setting`; None = over all.
        comparison: clipped against unclipped; positive = clipping helps.
    """

    method: str
    filters: str
    setting: str | None
    comparison: Comparison


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """Bin of a reliability diagram.

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
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Calibration of a method's confidence: error, Brier score, reliability.

    Attributes:
        setting: name of its :class:`Setting`.
        method: name of its :class:`Method`.
        on: on the test split after the last round, or on the examples it queried.
        n: predictions over all seeds.
        n_cells: cells that made them.
        ece: expected calibration error, mean over cells.
        brier: Brier score, in [0, 2], mean over cells; None where it was not recorded.
        bins: reliability, summed over cells.
    """

    setting: str
    method: str
    on: Literal["test", "queried"]
    n: int
    n_cells: int
    ece: float
    brier: float | None
    bins: tuple[ReliabilityBin, ...]


@dataclass(frozen=True, kw_only=True)
class ClassShares:
    """Classes of the examples that a method queried.

    Attributes:
        method: name of its :class:`Method`.
        counts: examples over all seeds by class, in the order of the :class:`Queries` they stand in.
        distance: total variation distance to the pool, in [0, 1]; None where the pool's shares are unknown.
    """

    method: str
    counts: tuple[int, ...]
    distance: float | None

    @property
    def n_queried(self) -> int:
        """Return how many examples were asked for, over all seeds."""
        return sum(self.counts)

    @property
    def shares(self) -> tuple[float, ...]:
        """Return the share of every class; they sum to 1."""
        return tuple(n / self.n_queried for n in self.counts)


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Overlap of what two methods queried.

    Attributes:
        method: name of one :class:`Method`.
        other: name of the other.
        jaccard: intersection over union of one seed, mean over seeds, in [0, 1].
        n_seeds: seeds that have both.
    """

    method: str
    other: str
    jaccard: float
    n_seeds: int


@dataclass(frozen=True, kw_only=True)
class Acquired:
    """What is odd among what a method queried, and which strategy chose it where the method chooses among several.

    Attributes:
        method: name of its :class:`Method`; ``pool`` for the pool itself.
        outliers: share of the queried that the passive model gets wrong, None without a passive cell.
        regions: region of the map (``hard to learn``, ``ambiguous``, ``easy to learn``) -> share of the queried; empty
            without a passive cell that recorded it.
        kinds: kind of example (``tickets``) -> share of the queried.
        chosen_by: of a strategy that chooses among others: each of them -> share of the queried.
        rejected: share of the queried that got no label: the part of the budget that went to texts of no class. None
            where everything that the cells of the setting queried got one.
    """

    method: str
    outliers: float | None
    regions: Mapping[str, float] = field(default_factory=dict)
    kinds: Mapping[str, float]
    chosen_by: Mapping[str, float] = field(default_factory=dict)
    rejected: float | None = None


@dataclass(frozen=True, kw_only=True)
class Queries:
    """Queries of one setting: classes, overlap, outliers and slices.

    Attributes:
        setting: name of its :class:`Setting`.
        class_names: in label order.
        pool: class shares of the whole pool, empty where unknown.
        classes: one row a method.
        overlap: of every ordered pair of methods that some seed has both of.
        jaccard_by_chance: overlap of two random draws of that size, on average; None where unknown.
        acquired: one row a method, the pool first where it is known; empty where nothing odd is marked.
    """

    setting: str
    class_names: tuple[str, ...]
    pool: tuple[float, ...]
    classes: tuple[ClassShares, ...]
    overlap: tuple[Overlap, ...]
    jaccard_by_chance: float | None
    acquired: tuple[Acquired, ...]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far two leaderboards of methods agree between which one axis of the study has changed.

    Attributes:
        axis: what changed, such as ``query_size``; ``seed`` for the start and everything else that is drawn.
        value: of it on one side.
        other: on the other side.
        held: what else tells settings apart, which is the same on both sides.
        metric: what the methods are ordered by: ``aulc``, ``final_accuracy``, ``ramp_up_aulc`` or ``plateau_aulc``.
        n_methods: methods that both sides have; the others are left out.
        n_seeds: seeds that both sides have of all of them.
        tau: Kendall's tau-b of the means over these seeds; for the axis ``seed``, the mean over all pairs of seeds.
        p_value: of that tau if the two orders had nothing to do with each other, None for the axis ``seed``.
        tau_halves: tau-b of one half of the seeds on one side and the other half on the other, mean over random
            halves; None with fewer than four seeds, and for the axis ``seed``.
        tau_same: the same with both halves on one side, mean over the sides: what other seeds alone do; None likewise.
    """

    axis: str
    value: str
    other: str
    held: str
    metric: str
    n_methods: int
    n_seeds: int
    tau: float
    p_value: float | None
    tau_halves: float | None
    tau_same: float | None


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """Where one of two methods overtakes the other.

    Attributes:
        over: ``n_labeled`` along the learning curves of one setting, or ``initial_size`` from setting to setting.
        where: the setting, or what is held from setting to setting.
        first: name of the :class:`Method` that is ahead at few labels.
        then: name of the other, which is ahead at many; where there is no crossing, ``first`` is ahead on the whole.
        n_labels: the first number of labels of the part in which ``then`` is ahead, None without a crossing.
        interval: of ``n_labels``, None where no crossing is shown.
        share: of the resamples of seeds that say the same: cross in this direction, or do not cross with ``first``
            ahead; in [0, 1].
        is_shown: whether that is enough of them to be said.
        n_seeds: seeds that both have.
    """

    over: Literal["n_labeled", "initial_size"]
    where: str
    first: str
    then: str
    n_labels: int | None
    interval: Interval | None
    share: float
    is_shown: bool
    n_seeds: int


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Machine time of a method.

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
    labels_saved: float | None
    seconds_per_label_saved: float | None

    @property
    def total_s(self) -> float:
        """Return the mean wall seconds of a cell, all phases together."""
        return sum(self.seconds.values())


@dataclass(frozen=True, kw_only=True, eq=False)
class StudyResults:
    """Results of a study, of which its page, the files beside it and the closing tables of a run are views.

    Attributes:
        study: its name.
        description: what its file says about it, may be empty.
        alpha: level of every test.
        cells: table of all cells that are planned or recorded, one row each; nothing is dropped. Columns: ``key, slug,
            fingerprint, setting, dataset, model, variant, method, base_method`` (the method without clipping),
            ``confidence, strategy, filters, clipping, role, seed, status, reason, n_rounds, n_rounds_planned,
            stop_reason, n_test, evaluation, learner``; and for finished cells ``n_points, n_labeled, final_accuracy,
            aulc, aulc_last5, ramp_up_aulc, plateau_aulc, ece, brier,
            acquired.SLICE``. ``reason`` says why a cell failed or could not be read;
            ``n_rounds_planned`` is the most that there can be, 0 where unknown.
        plan_known: whether the cells that wait are known; false where only folders could be counted.
        settings: in the order in which they are shown.
        methods: all of them by name, those without a finished cell too; one of them at most stands for random queries.
        learning_curves: of finished and, as far as they are, of running cells.
        savings: labels saved against random by setting, method and level.
        rankings: the one over all settings first (also where there is only one setting), then one a setting.
        passive: setting -> the methods there that are trained on all labels, which no ranking holds.
        bounds: setting -> the upper bounds there, likewise.
        gaps: how far methods go from random queries to an upper bound, by setting, the furthest first.
        clipping: effects of filters that clip.
        calibrations: by setting, method and split.
        queries: one a setting.
        agreements: of leaderboards between which one axis has changed, axis by axis.
        crossing_points: of pairs of methods, from setting to setting first.
        method_costs: by setting and method.
        notes: method and limits, sentences by title: how curves were averaged, pairs, corrections, bootstrap, seeds.
        versions: program -> versions that the records name.
        notices: what was found damaged, left out or surprising, one sentence each.
        absences: section of the page that could not be made -> why, with what to do where something can be done.
    """

    study: str
    description: str
    alpha: float
    cells: pd.DataFrame
    plan_known: bool
    settings: tuple[Setting, ...]
    methods: Mapping[str, Method]
    learning_curves: tuple[Curve, ...]
    savings: tuple[LabelsSaved, ...]
    rankings: tuple[MethodRanking, ...]
    passive: Mapping[str, tuple[MethodScore, ...]]
    bounds: Mapping[str, tuple[MethodScore, ...]]
    gaps: tuple[Gap, ...]
    clipping: tuple[ClippingEffect, ...]
    calibrations: tuple[Calibration, ...]
    queries: tuple[Queries, ...]
    agreements: tuple[Agreement, ...]
    crossing_points: tuple[Crossing, ...]
    method_costs: tuple[Cost, ...]
    notes: Mapping[str, str]
    versions: Mapping[str, str]
    notices: tuple[str, ...]
    absences: Mapping[Section, str]

    def __post_init__(self) -> None:
        settings = {setting.name for setting in self.settings}
        assert len(settings) == len(self.settings), "two settings have one name"
        for part in (self.cells.itertuples(), self.learning_curves, self.calibrations, self.method_costs):
            for entry in part:
                assert entry.method in self.methods, f"{entry.method!r} is not among the methods"
                assert entry.setting in settings, f"{entry.setting!r} is not among the settings"

    def n(self, status: CellStatus) -> int:
        """Return how many cells have this status."""
        return int((self.cells["status"] == status).sum())

    def methods_by_rank(self) -> list[str]:
        """Return the names of all methods, those of the overall ranking first, best first."""
        ranked = [row.method for row in self.rankings[0].rows] if self.rankings else []
        return list(dict.fromkeys([*ranked, *self.methods]))

    def plot_curves(self, *, settings: Sequence[str] | None = None, methods: Sequence[str] | None = None) -> "Figure":
        """Draw mean learning curves, one panel a setting: test accuracy against the number of labels.

        Bands are the 95 % bootstrap intervals of the mean over seeds, where there are five seeds or more. The dotted
        line is the mean accuracy of the passive model, which was trained on all labels.

        Args:
            settings: panels to draw, by name; None = all.
            methods: curves to draw, by name; None = random queries and, of the others, the best by mean accuracy of
                all points, eight in all.

        Returns:
            a matplotlib figure: ``figure.savefig("curves.pdf")``; its axes can be changed before.

        Raises:
            ConfigError: a name that the study does not have, or no learning curve to draw.
        """
        from al_ray.report.plots import plot_curves

        return plot_curves(self, settings=settings, methods=methods)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """Mean learning curves: ``setting, method, n_labeled, mean, low, high, n_seeds, finished``.

        ``mean`` is test accuracy over seeds, ``low`` and ``high`` are the bootstrap interval of it, point by point.
        """
        rows = (
            {**vars(one), "n_labeled": n, "mean": mean, "low": low, "high": high}
            for one in self.learning_curves
            for n, mean, low, high in zip_longest(one.n_labeled, one.mean, one.low, one.high, fillvalue=math.nan)
        )
        return _frame("setting method n_labeled mean low high n_seeds finished", rows)

    @cached_property
    def ranking(self) -> pd.DataFrame:
        """Methods best first: ``setting, place, method, n_cells, n_cells_planned, mean_rank, passive_share``.

        Then ``final_accuracy, aulc, aulc_last5, ramp_up_aulc, plateau_aulc``, each with ``_std, _low, _high`` (standard
        deviation over cells, bootstrap interval of the mean). ``all settings`` stands first.
        """
        names = ("final_accuracy", "aulc", "aulc_last5", "ramp_up_aulc", "plateau_aulc")
        columns = "setting place method n_cells n_cells_planned mean_rank passive_share "
        rows = (
            {"setting": ranking.setting or EVERYWHERE, "place": place, **_fields(row), **_estimates(row, names)}
            for ranking in self.rankings
            for place, row in enumerate(ranking.rows, start=1)
        )
        return _frame(columns + " ".join(f"{name} {name}_std {name}_low {name}_high" for name in names), rows)

    @cached_property
    def comparisons(self) -> pd.DataFrame:
        """Paired comparisons: ``setting, what, method, against, metric, n_pairs, difference, p_value, p_holm``, more.

        ``what`` is ``against random``, ``against the best`` or ``clipping: FILTER``; the other columns are the fields
        of :class:`~al_ray.report.stats.paired.Comparison`, with the interval of the difference in ``low, high``.
        """
        found = [
            (ranking.setting, what, one)
            for ranking in self.rankings
            for row in ranking.rows
            for what, one in (("against random", row.versus_random), ("against the best", row.versus_best))
            if one is not None
        ]
        found += [(effect.setting, f"clipping: {effect.filters}", effect.comparison) for effect in self.clipping]
        rows = (
            {"setting": setting or EVERYWHERE, "what": what, "metric": METRIC, "effect_name": one.EFFECT_NAME}
            | _fields(one)
            for setting, what, one in found
        )
        return _frame(
            "setting what method against metric n_pairs difference p_value p_holm refusal effect_size effect_name "
            "wins ties losses more_seeds low high",
            rows,
        )

    @cached_property
    def labels_saved(self) -> pd.DataFrame:
        """Labels saved: ``setting, method, label, level, n_labels, saved_of, labels_saved, low, high``.

        ``level`` is the accuracy that ``label`` names, ``n_labels`` what the method needs for it, ``saved_of`` what
        random queries need; ``low, high`` are the bootstrap interval of ``labels_saved`` over seeds.
        """
        columns = "setting method label level n_labels saved_of labels_saved low high"
        return _frame(columns, map(_fields, self.savings))

    @cached_property
    def gap(self) -> pd.DataFrame:
        """Way to upper bounds: ``setting, method, bound, n_seeds, random, accuracy, bound_accuracy, share, low, high``.

        ``share`` is what ``accuracy``, the mean of all points of the curve, is above that of random queries, over what
        that of the bound is; ``low, high`` are its bootstrap interval over seeds.
        """
        columns = "setting method bound n_seeds random accuracy bound_accuracy share low high"
        return _frame(columns, map(_fields, self.gaps))

    @cached_property
    def calibration(self) -> pd.DataFrame:
        """Reliability: ``setting, method, on, n, n_cells, ece, brier`` and, for ten equal bins of confidence, more.

        ``on`` is ``test`` or ``queried``; the bins are ``n_0`` to ``n_9``, ``confidence_0 ...``, ``accuracy_0 ...``.
        """
        kinds = ("n", "confidence", "accuracy")
        rows = (
            _fields(one)
            | {f"{kind}_{at}": float(_fields(each)[kind]) for at, each in enumerate(one.bins) for kind in kinds}
            for one in self.calibrations
        )
        bins = " ".join(f"{kind}_{at}" for kind in kinds for at in range(10))
        return _frame(f"setting method on n n_cells ece brier {bins}", rows)

    @cached_property
    def classes(self) -> pd.DataFrame:
        """Classes of the queried: ``setting, method, class_index, class_name, n, share, pool_share``."""
        rows = (
            {"setting": of.setting, "method": row.method, "class_index": at, "class_name": of.class_names[at], "n": n}
            | {"share": row.shares[at], "pool_share": of.pool[at] if of.pool else math.nan}
            for of in self.queries
            for row in of.classes
            for at, n in enumerate(row.counts)
        )
        return _frame("setting method class_index class_name n share pool_share", rows)

    @cached_property
    def overlap(self) -> pd.DataFrame:
        """Overlap of what two methods queried: ``setting, method, other, jaccard, n_seeds``."""
        rows = ({"setting": of.setting, **vars(one)} for of in self.queries for one in of.overlap)
        return _frame("setting method other jaccard n_seeds", rows)

    @cached_property
    def acquired(self) -> pd.DataFrame:
        """What is odd among the queried: ``setting, method, what, kind, share``; the pool itself is method ``pool``.

        ``what`` is ``outliers`` (what the passive model gets wrong), ``rejected`` (what got no label, being of no
        class), ``region`` (of the map that the passive model's epochs make, a third each, named by ``kind``), ``kind``
        (a data slice, likewise) or ``chosen_by`` (one of the strategies that the method chooses among, likewise).
        """
        odd = [(of.setting, one) for of in self.queries for one in of.acquired]
        found = [
            (setting, one.method, what, "", share)
            for what in ("outliers", "rejected")
            for setting, one in odd
            if (share := getattr(one, what)) is not None
        ]
        found += [
            (setting, one.method, what, name, share)
            for what, of_what in (("region", "regions"), ("kind", "kinds"), ("chosen_by", "chosen_by"))
            for setting, one in odd
            for name, share in getattr(one, of_what).items()
        ]
        columns = ("setting", "method", "what", "kind", "share")
        return _frame(" ".join(columns), (dict(zip(columns, row, strict=True)) for row in found))

    @cached_property
    def agreement(self) -> pd.DataFrame:
        """Agreement of leaderboards: ``axis, value, other, held, metric, n_methods, n_seeds, tau, p_value``, more.

        ``tau`` is Kendall's tau-b between the orders of the methods when ``axis`` goes from ``value`` to ``other`` and
        all else is ``held``; ``tau_halves`` and ``tau_same`` tell it from what other seeds alone do.
        """
        columns = "axis value other held metric n_methods n_seeds tau p_value tau_halves tau_same"
        return _frame(columns, map(_fields, self.agreements))

    @cached_property
    def crossings(self) -> pd.DataFrame:
        """Crossings of methods: ``over, where, first, then, n_labels, low, high, share, is_shown, n_seeds``.

        ``first`` is ahead below ``n_labels`` labels and ``then`` from there on; NaN = no crossing. ``low, high`` are
        the bootstrap interval over seeds.
        """
        columns = "over where first then n_labels low high share is_shown n_seeds"
        return _frame(columns, map(_fields, self.crossing_points))

    @cached_property
    def costs(self) -> pd.DataFrame:
        """Mean wall seconds a cell: ``setting, method, n_cells, seconds.PHASE, seconds, labels_saved``, and more.

        ``seconds_per_label_saved`` are extra seconds against random for each label saved at random's final accuracy.
        """
        rows = [
            _fields(one)
            | {f"seconds.{phase}": seconds for phase, seconds in one.seconds.items()}
            | {"seconds": one.total_s}
            for one in self.method_costs
        ]
        phases = " ".join(dict.fromkeys(name for row in rows for name in row if name.startswith("seconds.")))
        return _frame(f"setting method n_cells {phases} seconds labels_saved seconds_per_label_saved", rows)


def _frame(columns: str, rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=columns.split())


def _fields(one: Any) -> dict[str, Any]:
    """Return the fields of a typed value as columns: NaN for None, and an interval as ``low, high``."""
    values = {name: math.nan if value is None else value for name, value in vars(one).items()}
    interval = vars(one).get("interval")
    return values | {"low": interval.low if interval else math.nan, "high": interval.high if interval else math.nan}


def _estimates(row: MethodScore, names: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name in names:
        estimate = getattr(row, name)
        values = {} if estimate is None else _fields(estimate)
        found |= {name: values.get("mean", math.nan)}
        found |= {f"{name}_{end}": values.get(end, math.nan) for end in ("std", "low", "high")}
    return found
