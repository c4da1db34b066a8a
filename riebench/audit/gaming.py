"""Gaming: where pictures that no intervention made stand by each score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from riebench.audit.comparing import FLIPS
from riebench.audit.readings import Table, compared
from riebench.stats.resample import Bootstrap, sign_flip

GAMES = {
    "paste": "the source picture's pixels inside the masks laid on the base picture",
    "noise": "Gaussian noise inside the masks",
    "none": "the base picture",
    "prompt": "the source picture",
}
"""What is no intervention, with what it shows."""
ABOVE, LEVEL_WITH, BELOW = "above", "not told apart from", "below"


def games_of(table: Table, values: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The values at a budget; of arms with a single picture (``none``, ``prompt``) those of this picture."""
    found = {score: frame.copy() for score, frame in values.items()}
    for name, arm in zip(table.names, table.arms, strict=True):
        if not arm.curved and arm.family in GAMES:
            for score, frame in found.items():
                frame[name] = arm.values[score][:, 0, 0]
    return found


def gaming(
    values: Mapping[str, pd.DataFrame], interventions: Sequence[str], games: Sequence[str], categories: Sequence[int]
) -> pd.DataFrame:
    """Each of :data:`GAMES` beside the best intervention by each score.

    - ``best``: the intervention with the highest mean over its pairs, of those that have a value on half of them.
    - ``difference``: mean of the paired differences, the game less ``best``, with the bootstrap interval over pairs;
      ``p`` is that of the paired sign-flip test. ``stands`` is ``above`` or ``below`` the best where p is below 5 %.
    - ``wins``: the share of (pair, intervention) in which the game scores higher, ties counting half (the probability
      of superiority, McGraw and Wong 1992, paired): .5 tells nothing apart.

    Args:
        values: score to pairs x arms; of an arm with one picture, that picture's.
        interventions: names of arms.
        games: names of arms.
        categories: of the pairs.
    """
    boot = Bootstrap(categories)
    rows = []
    for score, frame in values.items():
        known = frame[[arm for arm in compared(frame) if arm in interventions]]
        if known.empty:
            continue
        best = str(known.mean().idxmax())
        for game in (game for game in games if frame[game].notna().any()):
            difference = (frame[game] - frame[best]).to_numpy()[:, None]
            means, p = boot.means(difference), sign_flip(difference, FLIPS)[0]
            each = known.rsub(frame[game], axis=0).to_numpy()
            each = each[~np.isnan(each)]
            wins = ((each > 0) + 0.5 * (each == 0)).mean() if len(each) else np.nan
            stands = LEVEL_WITH if not p < 0.05 else ABOVE if means.mean[0] > 0 else BELOW
            row = (score, game, frame[game].mean(), best, frame[best].mean(), means.mean[0], means.low[0])
            rows.append((*row, means.high[0], int(means.count[0]), p, wins, stands))
    columns = ["score", "game", "mean", "best", "best_mean", "difference", "low", "high", "pairs", "p", "wins"]
    return pd.DataFrame(rows, columns=[*columns, "stands"])
