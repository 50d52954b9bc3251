"""The rows of a ranking: what each method comes to on some settings, with intervals and comparisons."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from al_ray.report.bootstrap import mean_intervals
from al_ray.report.comparing import SETTINGS, Compared, block_matrix, estimate, known, to_interval
from al_ray.report.content import Comparison, Estimate, Interval, LevelReached, MethodScore
from al_ray.report.ranks import RankComparison


class RankingRows:
    """Makes the rows of one ranking."""

    def __init__(
        self,
        compared: Compared,
        part: pd.DataFrame,
        settings: Sequence[str],
        ranked: RankComparison,
        versus_random: Mapping[str, Comparison],
        versus_best: Mapping[str, Comparison],
    ) -> None:
        self._compared, self._part, self._settings = compared, part, settings
        self._members = {str(method): members for method, members in part.groupby("method", sort=False)}
        self._ranks = dict(zip(ranked.methods, ranked.average_ranks, strict=True))
        self._versus_random, self._versus_best = versus_random, versus_best
        self._intervals = {column: self._all_intervals(column) for column in ("accuracy", "aulc", "aulc_last5")}
        planned = compared.cells[compared.cells["setting"].isin(settings)]
        self._n_planned = planned.groupby("method").size().to_dict()
        savings = compared.savings[compared.savings["setting"].isin(settings)]
        n_settings = savings.groupby("label", sort=False)["setting"].nunique()
        self._labels = n_settings[n_settings == len(settings)].index.tolist()
        self._savings: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in savings.to_dict("records"):
            self._savings.setdefault((row["method"], row["label"]), []).append(row)

    def of(self, method: str) -> MethodScore:
        """Return the row of a method that has a finished cell here."""
        members = self._members[method]
        final, aulc = self._estimate(method, "accuracy"), self._estimate(method, "aulc")
        assert final is not None and aulc is not None  # noqa: PT018 - a finished cell has both
        return MethodScore(
            method=method,
            n_cells=len(members),
            n_cells_planned=int(self._n_planned.get(method, len(members))),
            final=final,
            aulc=aulc,
            aulc_last5=self._estimate(method, "aulc_last5"),
            passive_share=self._passive_share(members),
            levels=tuple(self._level(method, label) for label in self._labels),
            mean_rank=known(self._ranks.get(method, math.nan)),
            versus_random=self._versus_random.get(method),
            versus_best=self._versus_best.get(method),
        )

    def _estimate(self, method: str, column: str) -> Estimate | None:
        members = self._members[method]
        if members[column].isna().all():
            return None
        by_setting = members.groupby("setting")[column]
        is_balanced = by_setting.count().nunique() == 1
        whole = estimate(members[column], self._intervals[column].get(method) if is_balanced else None)
        if whole is None or len(self._settings) == 1:
            return whole
        return Estimate(mean=float(by_setting.mean().mean()), n=whole.n, interval=whole.interval)

    def _all_intervals(self, column: str) -> dict[str, Interval | None]:
        values, strata = block_matrix(self._part, column)
        if values.empty:
            return {}
        found = mean_intervals(
            values.to_numpy(dtype=np.float64),
            np.asarray(strata, dtype=np.str_),
            level=SETTINGS.level,
            n_resamples=SETTINGS.n_resamples,
            seed=SETTINGS.seed,
        )
        # An interval across settings would hold the differences between data sets, which nobody asks of a mean.
        return {
            str(method): to_interval(one.low, one.high, SETTINGS.level) if one.resampled == "within strata" else None
            for method, one in zip(values.columns, found, strict=True)
        }

    def _passive_share(self, members: pd.DataFrame) -> float | None:
        shares = []
        for setting, accuracy in members.groupby("setting", sort=False)["accuracy"]:
            passive = self._compared.passives.get(str(setting))
            if passive is None or passive.mean == 0:
                return None
            shares.append(float(accuracy.mean()) / passive.mean)
        return float(np.mean(shares))

    def _level(self, method: str, label: str) -> LevelReached:
        rows = self._savings.get((method, label), [])
        if len(rows) < len(self._settings):
            return LevelReached(label=label)
        alone = rows[0] if len(rows) == 1 else None
        means = {name: known(float(np.mean([row[name] for row in rows]))) for name in ("n_labels", "saved", "saved_of")}
        return LevelReached(
            label=label,
            level=None if alone is None else float(alone["level"]),
            n_labels=means["n_labels"],
            saved=means["saved"],
            saved_of=means["saved_of"],
            saved_interval=None if alone is None else to_interval(alone["low"], alone["high"], SETTINGS.level),
        )
