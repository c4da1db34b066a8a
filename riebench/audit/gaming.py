"""Gaming: how each score ranks pictures that no intervention made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pandas as pd

from riebench.audit.evidence import Subject, Table, Values, compared
from riebench.audit.part import CSV, FLIPS, LeftOut, Part, cells, rows_of
from riebench.report.texttable import TextTable, interval, number
from riebench.stats.resample import Bootstrap, pairs_to_tell_apart, sign_flip

GAMES = {
    "paste": "the source picture's pixels inside the masks laid on the base picture",
    "noise": "Gaussian noise inside the masks",
    "none": "the base picture",
    "prompt": "the source picture",
}
"""Methods that are no intervention, and the pictures they give."""
ABOVE, LEVEL_WITH, BELOW = "above", "not told apart from", "below"


@dataclass(frozen=True)
class Gaming(Part):
    """See the module.

    Attributes:
        games: see :func:`gaming`.
        scores: the mean of each arm, a column for each score.
        budget: LPIPS at which arms are read.
    """

    name = "gaming"
    title = "Gaming: pictures that no intervention made"
    explanation = (
        "paste puts the source picture's pixels inside the masks on the base picture, and noise adds noise there; "
        "both are compared at the LPIPS budget. none is the base picture and prompt the source picture, at their own "
        "LPIPS. A score that cannot tell these from the best intervention says nothing about representations. The "
        "best intervention is the one with the highest mean here; each test is uncorrected. 'wins' is the share of "
        "(pair, intervention) in which the picture scores higher; ties count half."
    )
    rules = (
        "A picture that no intervention made is above or below the best intervention if the paired sign-flip test over "
        "the pairs that both have is below 5 % (uncorrected); else the score cannot tell them apart, which few pairs "
        "make more likely. A sound score puts paste, noise and none below, or cannot tell; prompt is the source "
        "picture itself.",
    )

    games: pd.DataFrame = field(metadata={CSV: "gaming"})
    scores: pd.DataFrame = field(metadata={CSV: "scores"})
    budget: float

    @classmethod
    def measure(cls, subject: Subject) -> Self:
        """Compare each of :data:`GAMES` with the best intervention."""
        table = subject.table
        games = [name for name, arm in zip(table.names, table.arms, strict=True) if arm.family in GAMES]
        if not games:
            raise LeftOut(f"the runs have none of {', '.join(GAMES)}; add them with 'riebench run --method paste ...'")
        shown = games_of(table, subject.values)
        means = pd.DataFrame({score: frame.mean() for score, frame in shown.items()}).rename_axis("arm").reset_index()
        compared_games = gaming(shown, table.interventions, games, table.pairs.categories.tolist())
        return cls(compared_games, means, subject.budget)

    def tables(self) -> list[TextTable]:
        """The mean of every arm, and each game with the best intervention."""
        names = [str(name) for name in self.scores if name != "arm"]
        scores = [[r["arm"], *cells(r, names)] for r in rows_of(self.scores)]
        games = [
            [r["score"], r["game"], number(r["mean"]), f"{r['best']} {number(r['best_mean'])}",
             interval(r["difference"], r["low"], r["high"]), str(r["pairs"]), number(r["wins"], 2), r["stands"]]
            for r in rows_of(self.games)
        ]  # fmt: skip
        head = ["score", "picture", "mean", "best intervention", "difference", "pairs", "wins", "stands"]
        title = f"Scores at LPIPS {self.budget:g}; none and prompt at their own LPIPS"
        return [
            TextTable(title, ["arm", *names], scores),
            TextTable("Compared with the best intervention", head, games, left=2),
        ]

    def verdict(self, ranking: str) -> list[str]:
        """The games above, level with and below the best intervention."""
        rows = self.games[self.games["score"] == ranking]
        sentences = []
        for stands, verb in ((ABOVE, "puts {} above"), (LEVEL_WITH, "cannot tell {} from"), (BELOW, "puts {} below")):
            games = ", ".join(_game(row) for row in rows_of(rows[rows["stands"] == stands]))
            if games:
                sentences.append(f"It {verb.format(games)} the best intervention, {rows['best'].iloc[0]}.")
        return sentences


def _game(row: Mapping[str, Any]) -> str:
    few = f"; {row['pairs']} pairs, too few for any test" if row["pairs"] < pairs_to_tell_apart(1) else ""
    return f"{row['game']} ({number(row['mean'])}{few})"


def games_of(table: Table, values: Mapping[str, pd.DataFrame]) -> Values:
    """Score to its values at a budget; for arms with a single picture (``none``, ``prompt``) those of this picture."""
    shown = {score: frame.copy() for score, frame in values.items()}
    for name, arm in zip(table.names, table.arms, strict=True):
        if not arm.curved and arm.family in GAMES:
            for score, frame in shown.items():
                frame[name] = arm.values[score][:, 0, 0]
    return shown


def gaming(
    values: Mapping[str, pd.DataFrame], interventions: Sequence[str], games: Sequence[str], categories: Sequence[int]
) -> pd.DataFrame:
    """Compare each of :data:`GAMES` with the best intervention by each score.

    - ``best``: the intervention with the highest mean over its pairs, of those that have a value on half of them.
    - ``difference``: mean of the paired differences, the game less ``best``, with the bootstrap interval over pairs;
      ``p`` is that of the paired sign-flip test. ``stands`` is ``above`` or ``below`` the best where p is below 5 %.
    - ``wins``: the share of (pair, intervention) in which the game scores higher, ties counting half (the probability
      of superiority, McGraw and Wong 1992, paired): .5 tells nothing apart.

    Args:
        values: score to its values, as of :func:`games_of`.
        interventions: names of the arms that are interventions.
        games: names of the arms that are games.
        categories: category of each pair.
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
