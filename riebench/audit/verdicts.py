"""Verdicts, by plain rules on the numbers, which :data:`RULES` states for the reader."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import chi2

from riebench.audit.findings import Findings
from riebench.audit.gaming import ABOVE, BELOW, LEVEL_WITH
from riebench.audit.power import SIZES
from riebench.audit.readings import RANKING
from riebench.audit.truth import METHODS, SETTINGS, WITHIN

STRONG, SOME, OFTEN, LEVEL = 0.8, 0.5, 0.05, 0.05
RULES = (
    f"A rank correlation is strong if its size is {STRONG} or more, moderate from {SOME} on, else weak.",
    "A picture that no intervention made is above or below the best intervention if the paired sign-flip test of the "
    "pairs that both have is below 5 %; else the score cannot tell them apart (few pairs tell less). A sound score "
    "puts paste, noise and none below, or must say that it cannot tell; prompt is the source picture itself.",
    "Intervals are too narrow if the pooled ratio is above what honest ones would give in one of twenty audits if all "
    "arms moved together: the root of the 95 % quantile of chi-square over its degrees of freedom, runs less 1.",
    f"A significant order holds under reseeding if another seed turns it round in at most {OFTEN:.0%} of the cases.",
    "Differences under the same mask: of those whose interval is without 0 before, the share whose interval is without "
    "0, with the same sign, after.",
)


def word(correlation: float) -> str:
    """A rank correlation in a word."""
    if np.isnan(correlation):
        return "undefined"
    size = abs(correlation)
    return "strong" if size >= STRONG else "moderate" if size >= SOME else "weak"


def by_chance(runs: int) -> float:
    """The largest ratio of a standard deviation over runs to an honest standard error that chance gives at 5 %."""
    return float(np.sqrt(chi2.ppf(1 - LEVEL, runs - 1) / (runs - 1)))


def metric_verdicts(found: Findings) -> pd.DataFrame:
    """A row for each metric and ranking: its correlation with the truth on three levels, and what follows."""
    if "truth" not in found.frames:
        return pd.DataFrame(columns=["metric", SETTINGS, METHODS, WITHIN, "verdict"])
    truth = audited_truth(found)
    rows = []
    for metric, part in truth.groupby("metric", sort=False):
        by_level = part[part["budget"].isna() | (part["budget"] == found.budget)].set_index("level")["correlation"]
        values = [float(by_level.get(level, np.nan)) for level in (SETTINGS, METHODS, WITHIN)]
        rows.append((metric, *values, _metric_verdict(*values)))
    return pd.DataFrame(rows, columns=["metric", SETTINGS, METHODS, WITHIN, "verdict"])


def audited_truth(found: Findings) -> pd.DataFrame:
    """The rows of the protocol that is audited."""
    truth = found.frames["truth"]
    return truth[truth["protocol"] == found.evidence.audited.same["protocol"]]


def _metric_verdict(settings: float, methods: float, pairs: float) -> str:
    """What a metric can tell, from its correlations."""
    levels = {"settings": settings, "methods at one LPIPS": methods, "single pairs": pairs}
    tells = [f"{what} ({word(value)})" for what, value in levels.items() if abs(value) >= SOME]
    fails = [what for what, value in levels.items() if abs(value) < SOME]
    told = f"tells {', '.join(tells)}" if tells else "tells nothing by rank"
    return f"{told}; misleads on {', '.join(fails)}" if fails and tells else told


def ranking_verdicts(found: Findings) -> dict[str, list[str]]:
    """For each ranking, sentences: what it can tell, from how many pairs on, and where it misleads."""
    works = (_agreement, _power, _noise, _games, _masks, _faults)
    rankings = [score for score in RANKING if score in found.table.scores]
    return {score: [said for work in works for said in work(found, score)] for score in rankings}


def _agreement(found: Findings, score: str) -> list[str]:
    if "truth" not in found.frames:
        return []
    truth = audited_truth(found)
    rows = truth[(truth["metric"] == score) & (truth["level"] == METHODS)].dropna(subset=["correlation"])
    if rows.empty:
        return []
    each = ", ".join(f"{row.correlation:.2f}{_ends(row)} at LPIPS {row.budget:g}" for row in rows.itertuples())
    here = rows[rows["budget"] == found.budget]["correlation"]
    strength = word(float(here.iloc[0])) if len(here) else "undefined"
    return [f"Its agreement with the truth over methods is {strength}: rank correlation {each}."]


def _power(found: Findings, score: str) -> list[str]:
    said = []
    needed = found.frames["pairs-needed"]
    for row in needed[needed["score"] == score].to_dict("records"):
        least, median, most = (_count(row[name]) for name in ("least", "median", "most"))
        said.append(
            f"It takes {median} pairs to see a difference of {row['effect']:g} between two interventions with power .8 "
            f"({least} to {most}, by the two)."
        )
    apart = found.frames["told-apart"]
    curve = apart[apart["score"] == score]
    if len(curve):
        last = curve.iloc[-1]
        half = curve[curve["share"] >= 0.5]["pairs"]
        from_ = f"; half of them from {half.iloc[0]} pairs on" if len(half) else ""
        said.append(f"With all {last['pairs']} pairs, {last['share']:.0%} of all two arms are told apart{from_}.")
    return said


def _noise(found: Findings, score: str) -> list[str]:
    if "noise" not in found.frames:
        return []
    said = []
    ratio = found.frames["noise-pooled"].set_index("score")["ratio"].get(score, np.nan)
    if not np.isnan(ratio):
        runs = 1 + len(found.evidence.reseeded)
        verdict = "honest" if ratio <= by_chance(runs) else "too narrow"
        said.append(
            f"Its intervals are {verdict}: means move from seed to seed by {ratio:.2f} of their standard error."
        )
    shares = found.frames["order-turns-by-score"].set_index("score")
    if score in shares.index:
        row = shares.loc[score]
        text = f"Another seed turns {row['turned']:.0%} of the orders of two arms round"
        if not np.isnan(row["told_apart_turned"]):
            holds = "holds" if row["told_apart_turned"] <= OFTEN else "does not hold"
            text += f", and {row['told_apart_turned']:.0%} of those that one run tells apart; such an order {holds}"
        said.append(f"{text}.")
    return said


def _games(found: Findings, score: str) -> list[str]:
    if "gaming" not in found.frames:
        return []
    rows = found.frames["gaming"]
    rows = rows[rows["score"] == score]
    said = []
    for stands, verb in ((ABOVE, "puts {} above"), (LEVEL_WITH, "cannot tell {} from"), (BELOW, "puts {} below")):
        games = ", ".join(f"{row.game} ({row.mean:.3f})" for row in rows[rows["stands"] == stands].itertuples())
        if games:
            said.append(f"It {verb.format(games)} the best intervention, {rows['best'].iloc[0]}.")
    return said


def _masks(found: Findings, score: str) -> list[str]:
    if "same-mask" not in found.frames:
        return []
    rows = found.frames["same-mask"]
    rows = rows[(rows["score"] == score) & (rows["before_low"] > 0)]
    if rows.empty:
        return ["No two interventions differ by more than noise on the pictures that the same mask was laid on."]
    left = int((rows["after_low"] > 0).sum())
    share = (rows["after"] / rows["before"]).median()
    return [
        f"Under the same mask, {left} of {len(rows)} differences between interventions are left; the median one keeps "
        f"{share:.0%} of its size."
    ]


def _faults(found: Findings, score: str) -> list[str]:
    if "faults" not in found.frames:
        return []
    rows = found.frames["faults-summary"]
    rows = rows[(rows["score"] == score) & (rows["changed"] > 0)]
    if rows.empty:
        return ["No published fault changes it here."]
    each = ", ".join(
        f"{row.protocol} {row.rank_correlation:.3f} (at most {row.largest_change:+.3f}, {row.in_setting})"
        for row in rows.itertuples()
    )
    return [f"Rank correlation over settings with the ranking without the fault: {each}."]


def best_agreement(found: Findings) -> list[str]:
    """Which metric, budget and protocol agrees best with the truth; parts of the truth do not compete."""
    if "truth" not in found.frames:
        return []
    truth = found.frames["truth"]
    rivals = truth[(truth["metric"] != "edit_success") & truth["correlation"].notna()]
    said = []
    for level, what in ((SETTINGS, "settings"), (METHODS, "methods"), (WITHIN, "pairs")):
        part = rivals[rivals["level"] == level]
        if part.empty:
            continue
        row: Any = part.iloc[int(part["correlation"].abs().argmax())]
        at = "" if np.isnan(row["budget"]) else f" at LPIPS {row['budget']:g}"
        said.append(
            f"Over {what}, {row['metric']}{at} by {row['protocol']} agrees best: {row['correlation']:.2f}{_ends(row)}."
        )
    ranking = audited_truth(found)
    ranking = ranking[(ranking["level"] == METHODS) & ranking["metric"].isin(set(RANKING) - {"edit_success"})]
    mean = ranking.groupby("budget")["correlation"].mean().dropna()
    if len(mean):
        said.append(f"Of the budgets, LPIPS {mean.idxmax():g} agrees best (mean over rankings {mean.max():.2f}).")
    return said


def _ends(row: Any) -> str:
    return "" if pd.isna(row.low) else f" [{row.low:.2f}, {row.high:.2f}]"


def _count(pairs: float) -> str:
    return f"{np.ceil(pairs):.0f}" if np.isfinite(pairs) else f"more than {SIZES[-1]}"
