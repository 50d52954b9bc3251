"""What filters that clip change, method by method."""

import pandas as pd

from al_ray.report.comparing import METRIC, SETTINGS, Compared, block_matrix, to_comparison
from al_ray.report.content import ClippingEffect, Comparison
from al_ray.report.statistics import compare_with_baseline


def clipping_effects(compared: Compared) -> list[ClippingEffect]:
    """Compare every clipped method with the same one unclipped, over all settings and on each.

    Holm's correction runs over the methods that one kind of clipping is tried with.
    """
    scores = compared.queried
    clipped = scores[scores["clipping"] != ""]
    found: list[ClippingEffect] = []
    for clipping, members in clipped.groupby("clipping", sort=False):
        pairs = members[["method", "base_method"]].drop_duplicates()
        both = scores[scores["method"].isin(pairs["method"]) | scores["method"].isin(pairs["base_method"])]
        settings = [None, *both["setting"].unique().tolist()]
        for setting in settings:
            part = both if setting is None else both[both["setting"] == setting]
            found += _effects(str(clipping), pairs, part, setting)
    return found


def _effects(clipping: str, pairs: pd.DataFrame, part: pd.DataFrame, setting: str | None) -> list[ClippingEffect]:
    """Compare all methods with one kind of clipping in one family: each is a column of differences against zero."""
    values, strata = block_matrix(part, METRIC)
    pairs_here = [
        (str(method), str(base))
        for method, base in pairs.itertuples(index=False)
        if method in values and base in values and (values[method] - values[base]).notna().any()
    ]
    if not pairs_here:
        return []
    gains = pd.DataFrame({method: values[method] - values[base] for method, base in pairs_here})
    unchanged = "without clipping"
    gains[unchanged] = 0.0
    family = compare_with_baseline(gains, strata, baseline=unchanged, settings=SETTINGS)
    effects = []
    for method, base in pairs_here:
        one = to_comparison(family.of(method, unchanged), family)
        shown = Comparison(**{**vars(one), "against": base})
        effects.append(ClippingEffect(method=base, filters=clipping, setting=setting, comparison=shown))
    return effects
