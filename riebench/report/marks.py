"""What figures mark beside the curves: base and source image, and the means at an LPIPS that was searched for."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from riebench.report.arms import CURVE, GAIN, Arm, Pairs, searched_for
from riebench.report.matching import cross
from riebench.settings.lpips_search import WITHIN
from riebench.stats.resample import Bootstrap

IMAGES = ("base image", "source image")


def marked_images(arms: Sequence[Arm], pairs: Pairs) -> pd.DataFrame:
    """Where the base and the source image lie, as means over the scored pairs of each category (``all`` first).

    Returns:
        Columns category, image (one of :data:`IMAGES`) and the metrics clip_text_edit, lpips_base and gain. An image
        whose numbers are not known for all of these pairs has no row.
    """
    scored = np.any([arm.scored for arm in arms], 0)
    zero = np.zeros(len(pairs.ids))
    of_images = (np.stack([pairs.base, zero, zero]), np.stack([*pairs.source, pairs.source[0] - pairs.base]))
    rows = []
    for scope, members in pairs.scopes.items():
        for image, values in zip(IMAGES, of_images, strict=True):
            of_pairs = values[:, members & scored]
            if of_pairs.shape[1] and not np.isnan(of_pairs).any():
                rows.append((scope, image, *of_pairs.mean(1)))
    return pd.DataFrame(rows, columns=["category", "image", *CURVE, GAIN])


def at_searched_lpips(arms: Sequence[Arm], pairs: Pairs, metrics: Sequence[str], boot: Bootstrap) -> pd.DataFrame:
    """Means at each LPIPS that strengths were searched for: a row for each category, arm, k and budget.

    A pair's value is the score at that LPIPS, as on the leaderboard; it has none if it does not reach the LPIPS.

    Returns:
        Columns category, arm, k, at_lpips, attempted (pairs with a record), pairs (that reach the LPIPS), measured (of
        these, pairs with a picture of that LPIPS), ``METRIC_mean``, ``METRIC_low``, ``METRIC_high`` and
        ``METRIC_pairs``.
    """
    names = [f"{metric}_{end}" for metric in metrics for end in ("mean", "low", "high", "pairs")]
    rows: list[dict[str, Any]] = []
    read: list[NDArray[np.float64]] = []  # of each arm, k and budget the metrics of each pair [pairs, metrics]
    counted: list[tuple[int, dict[str, Any], NDArray[np.bool_], NDArray[np.bool_]]] = []
    for number, arm in enumerate(arms):
        budgets = searched_for(arm.records)
        for place, k in enumerate(arm.ks if budgets else ()):
            crossing = cross(arm.along("lpips_base", place), np.asarray(budgets), WITHIN)
            values = np.stack([crossing.read(arm.along(metric, place)) for metric in metrics], 2)
            tried = np.asarray(arm.tried[:, place].any(1) | ~np.isnan(arm.along("lpips_base", place)).all(1))
            for i, budget in enumerate(budgets):
                read.append(values[:, i])
                of_row = {"arm": number, "k": k, "at_lpips": budget}
                counted.append((len(read) - i, of_row, tried, crossing.measured[:, i]))
    together = np.concatenate(read, 1) if read else np.zeros((len(pairs.ids), 0))
    for scope, members in pairs.scopes.items() if read else ():
        means = boot.means(np.where(members[:, None], together, np.nan))
        cells = np.stack([means.mean, means.low, means.high, means.count], 1).reshape(len(counted), len(names))
        for (_, of_row, tried, measured), numbers in zip(counted, cells, strict=True):
            counts = {
                "attempted": int((tried & members).sum()),
                "pairs": int(numbers[names.index(f"{metrics[0]}_pairs")]),
                "measured": int((measured & members).sum()),
            }
            rows.append({"category": scope} | of_row | counts | dict(zip(names, numbers, strict=True)))
    places = [place for place, *_ in counted] * len(pairs.scopes)
    rows = [row for _, row in sorted(zip(places, rows, strict=True), key=itemgetter(0))]
    columns = ["category", "arm", "k", "at_lpips", "attempted", "pairs", "measured", *names]
    whole = {f"{metric}_pairs": int for metric in metrics}
    return pd.DataFrame(rows, columns=columns).astype({"k": "Int64", **whole})
