"""Results as a real study would give them: simulated learning curves, compared with scipy."""

import dataclasses
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from al_ray.report.analysis.results import (
    Acquired,
    Calibration,
    ClassShares,
    ClippingEffect,
    Cost,
    Curve,
    Estimate,
    LabelsSaved,
    MethodRanking,
    MethodScore,
    Overlap,
    Queries,
    ReliabilityBin,
    Setting,
    StudyResults,
)
from al_ray.report.stats.bootstrap import Interval
from al_ray.report.stats.paired import Comparison
from al_ray.report.stats.ranks import CriticalDifference
from al_ray.study.names import Method

CLIP = "uncertainty_clipping=0.05"
CONFIDENCES = ("softmax", "label_smoothing", "mc_dropout", "ensemble", "evidential", "trust_score", "energy")
STRATEGIES = ("least_confidence", "margin", "entropy")
DATASETS = ("trec6", "ag_news", "subj", "rotten_tomatoes", "imdb", "cola", "sst2")
N_LABELED = tuple(range(25, 526, 25))
REASON = (
    "RoundError: the model gave non-finite logits for 12 of 5452 examples (ids 3, 17, 40, ...). Lower learning_rate."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleCell:
    """A row of the table of cells."""

    setting: str
    method: str
    seed: int
    status: str
    n_rounds: int
    n_rounds_planned: int
    reason: str


Runs = dict[tuple[str, str, int], np.ndarray[Any, Any]]


def comparison(
    difference: float = 0.012,
    p: float | None = 0.012,
    *,
    method: str = "softmax + margin",
    against: str = "softmax + random",
    n: int = 10,
    losses: int = 1,
    **more: Any,
) -> Comparison:
    """Return one comparison; without a p-value it is refused."""
    refusal = None if p is not None else f"{n} pairs are too few for a test at 5 %."
    half = None if p is None else interval(difference - 0.008, difference + 0.008)
    values: dict[str, Any] = {
        "method": method,
        "against": against,
        "n_pairs": n,
        "difference": difference,
        "interval": half,
        "p_value": None if p is None else p / 2,
        "p_holm": p,
        "refusal": refusal,
        "effect_size": None if p is None else 0.5,
        "wins": n - losses,
        "ties": 0,
        "losses": losses,
        "more_seeds": 6,
    }
    return Comparison(**{**values, **more})


def interval(low: float, high: float) -> Interval:
    return Interval(low=low, high=high, level=0.95, resampled="within strata")


def estimate(mean: float, n: int = 5, std: float | None = 0.01) -> Estimate:
    return Estimate(mean=mean, n=n, std=std, interval=None)


def score(method: str, final: float = 0.84, **more: Any) -> MethodScore:
    """Return one row of a ranking with five cells."""
    values: dict[str, Any] = {
        "method": method,
        "n_cells": 5,
        "n_cells_planned": 5,
        "n_labeled": (525, 525),
        "final_accuracy": estimate(final),
        "aulc": estimate(final - 0.1),
        "aulc_last5": None,
        "ramp_up_aulc": None,
        "plateau_aulc": None,
        "passive_share": None,
        "levels": (),
        "mean_rank": None,
        "versus_random": None,
        "versus_best": None,
    }
    return MethodScore(**{**values, **more})


def saving(label: str, method: str = "softmax + margin", **more: Any) -> LabelsSaved:
    """Return what a method needs to reach a level, never unless told."""
    values = dict.fromkeys(("setting", "level", "n_labels", "saved_of", "labels_saved", "interval"))
    return LabelsSaved(label=label, method=method, **{**values, **more})


def ranking(*rows: MethodScore, **more: Any) -> MethodRanking:
    """Return the ranking over all settings, without a test."""
    values: dict[str, Any] = {"setting": None, "critical_difference": None, "refusal": "", "note": ""}
    return MethodRanking(rows=rows, **{**values, **more})


def friedman(mean_ranks: dict[str, float], **more: Any) -> CriticalDifference:
    """Return a test over 13 blocks."""
    values: dict[str, Any] = {
        "critical_difference": 2.71,
        "cliques": (),
        "n_units": 13,
        "unit": "block",
        "unit_note": "Ranked on 13 blocks of 2 data sets.",
        "n_blocks_dropped": 2,
        "statistic": 38.2,
        "p_value": 0.0002,
        "alpha": 0.05,
    }
    return CriticalDifference(mean_ranks=mean_ranks, **{**values, **more})


def method(name: str, **more: Any) -> Method:
    """Return a method that queries, by the name's parts."""
    confidence, strategy, *filters = (*name.split(" + "), "s")[: max(2, name.count(" + ") + 1)]
    role = {"optimal": "bound", "random": "random", "passive": "passive"}.get(strategy, "query")
    values: dict[str, Any] = {"confidence": confidence, "strategy": strategy, "role": role}
    values |= {"filters": tuple(filters), "clipping": tuple(filters)}
    return Method(name=name, **{**values, **more})


def setting(dataset: str, model: str = "minilm", **more: Any) -> Setting:
    """Return a setting of which nothing is known."""
    return Setting(
        name=f"{dataset} · {model}",
        dataset=dataset,
        model=model,
        variant="",
        **{**dict.fromkeys(("n_pool", "n_test", "n_classes", "passive", "ramp_up_end")), "axes": {}, **more},
    )


def cell(setting: str, method: str, seed: int = 42, status: Any = "done", **more: Any) -> SampleCell:
    """Return a cell without rounds."""
    values: dict[str, Any] = {"n_rounds": 0, "n_rounds_planned": 0, "reason": ""}
    return SampleCell(setting=setting, method=method, seed=seed, status=status, **{**values, **more})


def results(
    cells: Sequence[SampleCell] = (), methods: Sequence[Method] = (), settings: Sequence[Setting] = (), **more: Any
) -> StudyResults:
    """Return results of which every part is empty but those that are given."""
    table = pd.DataFrame([vars(one) for one in cells], columns=[field.name for field in dataclasses.fields(SampleCell)])
    parts = (
        "learning_curves",
        "savings",
        "rankings",
        "clipping",
        "calibrations",
        "queries",
        "method_costs",
        "agreements",
        "crossing_points",
        "gaps",
    )
    values: dict[str, Any] = dict.fromkeys((*parts, "notices"), ())
    values |= {name: {} for name in ("notes", "absences", "passive", "bounds", "versions")}
    values |= {"study": "nothing", "description": "", "alpha": 0.05, "plan_known": True}
    return StudyResults(
        cells=table,
        methods={one.name: one for one in methods},
        settings=tuple(settings),
        **{**values, **more},
    )


def methods(n: int = 12) -> list[Method]:
    """Return random, passive and ``n - 2`` query methods, every second one clipped."""
    made = [method("softmax + random"), method("softmax + passive")]
    for confidence, strategy in ((c, s) for c in CONFIDENCES for s in STRATEGIES):
        made += [method(f"{confidence} + {strategy}"), method(f"{confidence} + {strategy} + {CLIP}")]
    made += [method(f"softmax + plugin_{at}") for at in range(n - len(made))]
    return made[:n]


def study(
    n_datasets: int = 3, n_methods: int = 12, n_seeds: int = 5, models: Sequence[str] = ("minilm",), **more: Any
) -> StudyResults:
    """Return the whole results of a simulated study in which a few cells failed, run or wait."""
    settings = [
        setting(name, model, n_pool=5452, n_test=500, n_classes=6, passive=estimate(0.93 - 0.03 * at, 1, None))
        for at, name in enumerate(DATASETS[:n_datasets])
        for model in models
    ]
    named = methods(n_methods)
    cells = _cells(settings, named, n_seeds)
    runs = _runs(settings, named, cells)
    rankings = [_ranking(None, settings, named, runs, cells)]
    rankings += [_ranking(one, [one], named, runs, cells) for one in settings]
    queried = [one for one in named if one.role != "passive"]
    values: dict[str, Any] = {
        "study": "softmax-paper",
        "description": "Does uncertainty clipping help, and which confidence method should be used on short texts?",
        "settings": settings,
        "methods": named,
        "cells": cells,
        "learning_curves": tuple(_curves(settings, queried, runs)),
        "rankings": tuple(rankings),
        "clipping": tuple(_clipping(settings, named, runs)),
        "calibrations": tuple(_calibration(settings, queried)),
        "queries": tuple(_queries(one, queried) for one in settings),
        "method_costs": tuple(_costs(settings, queried)),
        "notes": {
            "Pairs": "Methods are compared on cells with the same data set, model and seed.",
            "Tests": "Wilcoxon signed-rank, two-sided, Holm over all methods against random.",
        },
        "versions": {"al_ray": "0.1.0", "torch": "2.13.0", "ray": "2.60.0"},
        "notices": ("round 4 of cell trec6--minilm--margin--deadbeef is cut short; it is not in any number.",),
    }
    return results(**{**values, **more})


def without(whole: StudyResults, **changes: Any) -> StudyResults:
    """Return the results with some fields replaced."""
    return dataclasses.replace(whole, **changes)


def _cells(settings: Sequence[Setting], named: Sequence[Method], n_seeds: int) -> list[SampleCell]:
    cells = []
    for setting in settings:
        for at, method in enumerate(named):
            for seed in range(42, 42 + (1 if method.role == "passive" else n_seeds)):
                odd = (at, seed, setting.dataset)
                status = {
                    (5, 43, "trec6"): "failed",
                    (6, 44, "trec6"): "failed",
                    (7, 44, "ag_news"): "running",
                    (8, 44, "ag_news"): "waiting",
                }.get(odd, "done")
                n_rounds = {"done": 21, "failed": 4, "running": 9}.get(status, 0)
                reason = REASON if status == "failed" else ""
                more = {"n_rounds": n_rounds, "n_rounds_planned": 21, "reason": reason}
                cells.append(cell(setting.name, method.name, seed, status, **more))
    return cells


def _runs(settings: Sequence[Setting], named: Sequence[Method], cells: Sequence[SampleCell]) -> Runs:
    gains = {method.name: 0.0 if method.role == "random" else 0.035 - 0.004 * at for at, method in enumerate(named)}
    runs: Runs = {}
    for cell in cells:
        if cell.status != "done" or "passive" in cell.method:
            continue
        at = next(i for i, setting in enumerate(settings) if setting.name == cell.setting)
        stream = np.random.default_rng([at, cell.seed])
        own = np.random.default_rng([at, cell.seed, sum(map(ord, cell.method))])
        labels = np.array(N_LABELED)
        rise = 1 - np.exp(-labels / (110 - 900 * max(gains[cell.method], -0.05)))
        base = 0.25 + (0.63 - 0.03 * at + gains[cell.method]) * rise
        runs[cell.setting, cell.method, cell.seed] = (
            base + stream.normal(0, 0.012) + own.normal(0, 0.008, len(labels))
        ).clip(0, 1)
    return runs


def _of(runs: Runs, setting: str, method: str) -> dict[tuple[str, int], np.ndarray[Any, Any]]:
    return {(s, seed): run for (s, name, seed), run in runs.items() if name == method and s == setting}


def _compare(mine: dict[Any, float], other: dict[Any, float], name: str, against: str) -> Comparison:
    both = sorted(set(mine) & set(other))
    gaps = np.array([mine[key] - other[key] for key in both])
    counts = {"wins": int((gaps > 0).sum()), "ties": int((gaps == 0).sum()), "losses": int((gaps < 0).sum())}
    values: dict[str, Any] = {"method": name, "against": against, "n_pairs": len(both), **counts}
    values["difference"] = float(gaps.mean())
    if len(both) < 6:
        refusal = f"{len(both)} pairs are too few for a test at 5 %."
        unknown = dict.fromkeys(("interval", "p_value", "p_holm", "effect_size"))
        return Comparison(**values, **unknown, refusal=refusal, more_seeds=4)
    half = float(1.96 * gaps.std(ddof=1) / len(gaps) ** 0.5)
    p = float(stats.wilcoxon(gaps).pvalue)
    middle = values["difference"]
    return Comparison(
        **values,
        interval=interval(middle - half, middle + half),
        p_value=p,
        refusal=None,
        p_holm=min(1.0, p * 10),
        effect_size=float(np.clip(middle / gaps.std(ddof=1), -1, 1)),
        more_seeds=0 if p < 0.005 else 12,
    )


def _ranking(
    setting: Setting | None, within: Sequence[Setting], named: Sequence[Method], runs: Runs, cells: Sequence[SampleCell]
) -> MethodRanking:
    queried = [method for method in named if method.role != "passive"]
    found = {
        method.name: {k: run for one in within for k, run in _of(runs, one.name, method.name).items()}
        for method in queried
    }
    means = {name: {key: float(run.mean()) for key, run in of.items()} for name, of in found.items() if of}
    order = sorted(means, key=lambda name: -float(np.mean(list(means[name].values()))))
    random, best = "softmax + random", order[0]
    rows = []
    for place, name in enumerate(order):
        finals = [float(run[-1]) for run in found[name].values()]
        planned = sum(cell.method == name and cell.setting in {one.name for one in within} for cell in cells)
        saved = 300 - 45 * place
        rows.append(
            score(
                name,
                n_cells=len(finals),
                n_cells_planned=planned,
                final_accuracy=estimate(
                    float(np.mean(finals)), len(finals), float(np.std(finals, ddof=1)) if len(finals) > 1 else None
                ),
                aulc=estimate(float(np.mean(list(means[name].values()))), len(finals), 0.011),
                aulc_last5=estimate(
                    float(np.mean([run[-5:].mean() for run in found[name].values()])), len(finals), None
                ),
                passive_share=float(np.mean(finals)) / 0.93,
                levels=(
                    saving(
                        "random's final accuracy",
                        name,
                        n_labels=525 - saved,
                        labels_saved=saved,
                        saved_of=525,
                        interval=interval(saved - 60, saved + 50),
                    ),
                    saving("95 % of passive", name),
                ),
                mean_rank=1.4 + place * 0.9,
                versus_random=None if name == random else _compare(means[name], means[random], name, random),
                versus_best=None if name == best else _compare(means[name], means[best], name, best),
            )
        )
    ranks = {row.method: row.mean_rank or 0.0 for row in rows}
    pairs = [tuple(order[at : at + 4]) for at in range(0, len(order) - 3, 2)]
    return ranking(
        *rows,
        setting=setting.name if setting else None,
        critical_difference=friedman(ranks, cliques=tuple(pairs)) if setting is None else None,
        refusal="" if setting is None else "5 blocks are too few for 11 methods.",
    )


def _curves(settings: Sequence[Setting], queried: Sequence[Method], runs: Runs) -> list[Curve]:
    curves = []
    for setting in settings:
        for method in queried:
            values = np.array(list(_of(runs, setting.name, method.name).values()))
            if not len(values):
                continue
            mean, half = values.mean(axis=0), 1.96 * values.std(axis=0) / len(values) ** 0.5
            low, high = (tuple(mean - half), tuple(mean + half)) if len(values) > 1 else ((), ())
            curves.append(
                Curve(
                    setting=setting.name,
                    method=method.name,
                    n_labeled=N_LABELED,
                    mean=tuple(mean),
                    low=low,
                    high=high,
                    n_seeds=len(values),
                    finished=True,
                )
            )
    return curves


def _clipping(settings: Sequence[Setting], named: Sequence[Method], runs: Runs) -> list[ClippingEffect]:
    effects = []
    for scope in (None, *settings):
        within = settings if scope is None else [scope]
        for method in named:
            if not method.clipping:
                continue
            mine, other = (
                {k: float(run.mean()) for one in within for k, run in _of(runs, one.name, name).items()}
                for name in (method.name, method.unclipped)
            )
            if set(mine) & set(other):
                effects.append(
                    ClippingEffect(
                        method=method.unclipped,
                        filters=method.clipping[0],
                        setting=scope.name if scope else None,
                        comparison=_compare(mine, other, method.name, method.unclipped),
                    )
                )
    return effects


def _calibration(settings: Sequence[Setting], queried: Sequence[Method]) -> list[Calibration]:
    found = []
    for setting in settings:
        for at, method in enumerate(queried):
            for on in ("test", "queried"):
                gap = 0.02 * at if on == "test" else 0.12
                bins = tuple(
                    ReliabilityBin(
                        low=low / 10,
                        high=(low + 1) / 10,
                        n=0 if low < 2 else 20 + 15 * low**2,
                        confidence=None if low < 2 else low / 10 + 0.05,
                        accuracy=None if low < 2 else max(0.0, low / 10 + 0.05 - gap),
                    )
                    for low in range(10)
                )
                found.append(
                    Calibration(
                        setting=setting.name,
                        method=method.name,
                        on=on,
                        n=2500,
                        n_cells=5,
                        ece=0.03 + gap,
                        brier=0.2 + gap,
                        bins=bins,
                    )
                )
    return found


def _queries(setting: Setting, queried: Sequence[Method]) -> Queries:
    classes = ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
    pool = (0.02, 0.21, 0.23, 0.22, 0.16, 0.16)
    stream = np.random.default_rng(7)
    rows = []
    for method in queried:
        shares = np.array(pool) * stream.uniform(0.5, 1.6, len(pool))
        shares /= shares.sum()
        distance = float(np.abs(shares - pool).sum() / 2)
        counts = tuple(np.rint(2500 * shares).astype(int).tolist())
        rows.append(ClassShares(method=method.name, counts=counts, distance=distance))
    names = tuple(method.name for method in queried)
    overlap = np.eye(len(names))
    for a, b in combinations(range(len(names)), 2):
        overlap[a, b] = overlap[b, a] = stream.uniform(0.02, 0.6)
    odd = [Acquired(method="pool", outliers=0.07, kinds={"typical": 0.7, "ambiguous": 0.15, "junk": 0.15})]
    odd += [
        Acquired(method=name, outliers=0.07 + 0.02 * at, kinds={"typical": 0.5, "ambiguous": 0.3, "junk": 0.2})
        for at, name in enumerate(names)
    ]
    return Queries(
        setting=setting.name,
        class_names=classes,
        pool=pool,
        classes=tuple(rows),
        overlap=tuple(
            Overlap(method=one, other=other, jaccard=float(overlap[a, b]), n_seeds=5)
            for a, one in enumerate(names)
            for b, other in enumerate(names)
        ),
        jaccard_by_chance=0.051,
        acquired=tuple(odd),
    )


def _costs(settings: Sequence[Setting], queried: Sequence[Method]) -> list[Cost]:
    return [
        Cost(
            method=method.name,
            setting=setting.name,
            n_cells=5,
            seconds={
                "finetune": 80.0 + 9 * at,
                "evaluate": 6.0,
                "score": 0.0 if method.role == "random" else 40.0,
                "query": 0.4,
            },
            labels_saved=None if method.role == "random" else 300 - 45 * at,
            seconds_per_label_saved=None if method.role == "random" or at > 5 else 0.1 + at * 0.3,
        )
        for setting in settings
        for at, method in enumerate(queried)
    ]
