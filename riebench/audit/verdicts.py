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
from riebench.audit.truth import INTERVENTIONS, METHODS, SETTINGS, WITHIN

STRONG, SOME, WIDE, OFTEN, LEVEL = 0.8, 0.5, 1.0, 0.05, 0.05
RULES = (
    f"Agreement is strong from a rank correlation of {STRONG} on, moderate from {SOME} on, contrary from -{SOME} down, "
    "else weak; correlations are rounded to two digits first. Where agreement is contrary, a score misleads; where it "
    f"is weak, it cannot tell. With an interval wider than {WIDE:g} it is uncertain.",
    "A picture that no intervention made is above or below the best intervention if the paired sign-flip test of the "
    "pairs that both have is below 5 % (each test by itself); else the score cannot tell them apart (few pairs tell "
    "less). A sound score puts paste, noise and none below, or must say that it cannot tell; prompt is the source "
    "picture itself.",
    "Intervals look too narrow if the pooled ratio is above what honest ones would give in one of twenty audits if all "
    "arms moved together: the root of the 95 % quantile of chi-square over its degrees of freedom, runs less 1. With "
    "few runs this finds gross faults alone.",
    f"A significant order holds under reseeding if another seed turns it round in at most {OFTEN:.0%} of the cases.",
    "Differences under the same mask: of those that the sign-flip test tells apart before (Holm over all two "
    "interventions), how many it tells apart, in the same direction, after.",
)


def word(correlation: float) -> str:
    """A rank correlation in a word."""
    rounded = round(correlation, 2)
    if np.isnan(correlation):
        return "undefined"
    if rounded <= -SOME:
        return "contrary"
    return "strong" if rounded >= STRONG else "moderate" if rounded >= SOME else "weak"


def by_chance(runs: int) -> float:
    """The largest ratio of a standard deviation over runs to an honest standard error that chance gives at 5 %."""
    return float(np.sqrt(chi2.ppf(1 - LEVEL, runs - 1) / (runs - 1)))


def metric_verdicts(found: Findings) -> pd.DataFrame:
    """A row for each metric and ranking: its correlation with the truth on three levels, and what follows."""
    if "truth" not in found.frames:
        return pd.DataFrame(columns=["metric", SETTINGS, METHODS, WITHIN, "verdict"])
    truth = found.frames["truth"]
    rows = []
    for metric, part in truth.groupby("metric", sort=False):
        by_level = part[part["budget"].isna() | (part["budget"] == found.budget)].set_index("level")["correlation"]
        values = [float(by_level.get(level, np.nan)) for level in (SETTINGS, METHODS, WITHIN)]
        rows.append((metric, *values, _metric_verdict(*values)))
    return pd.DataFrame(rows, columns=["metric", SETTINGS, METHODS, WITHIN, "verdict"])


def _metric_verdict(settings: float, methods: float, pairs: float) -> str:
    """What a metric can tell, from its correlations."""
    levels = {"settings": settings, "methods at one LPIPS": methods, "single pairs": pairs}
    words = {what: word(value) for what, value in levels.items()}

    def named(*wanted: str, text: str) -> list[str]:
        found = [f"{what} ({words[what]})" if len(wanted) > 1 else what for what in words if words[what] in wanted]
        return [f"{text} {', '.join(found)}"] if found else []

    tells = named("strong", "moderate", text="tells")
    misleads, cannot = named("contrary", text="misleads on"), named("weak", text="cannot tell")
    return "; ".join([*tells, *misleads, *cannot, *named("undefined", text="undefined on")])


def ranking_verdicts(found: Findings) -> dict[str, list[str]]:
    """For each ranking, sentences: what it can tell, from how many pairs on, and where it misleads."""
    works = (_agreement, _power, _noise, _games, _masks, _faults)
    rankings = [score for score in RANKING if score in found.table.scores]
    return {score: [said for work in works for said in work(found, score)] for score in rankings}


def _agreement(found: Findings, score: str) -> list[str]:
    if "truth" not in found.frames:
        return []
    truth = found.frames["truth"]
    mine = truth[truth["metric"] == score].dropna(subset=["correlation"])
    said = []
    for level, what in ((SETTINGS, "settings"), (METHODS, "methods"), (INTERVENTIONS, "interventions alone")):
        rows = mine[mine["level"] == level]
        if rows.empty:
            continue
        here = rows[rows["budget"].isna() | (rows["budget"] == found.budget)]
        each = ", ".join(f"{row.correlation:.2f}{_ends(row)}{_of(row)}" for row in rows.itertuples())
        wide = (here["high"] - here["low"]).max() > WIDE  # not where every resample ranks alike
        strength = "undefined" if here.empty else "uncertain" if wide else word(float(here["correlation"].iloc[0]))
        said.append(f"Its agreement with the truth over {what} is {strength}: rank correlation {each}.")
    return said


def _power(found: Findings, score: str) -> list[str]:
    said = []
    needed = found.frames["pairs-needed"]
    for row in needed[needed["score"] == score].to_dict("records"):
        least, median, most = (count_of(row[name]) for name in ("least", "median", "most"))
        said.append(
            f"One test by itself sees a difference of {row['effect']:g} between two interventions with power .8 from "
            f"{median} pairs on that both bring to the LPIPS (the median; {least} to {most}, depending on which two)."
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
        bar = by_chance(runs)
        verdict = "There is no sign that its intervals are" if ratio <= bar else "Its intervals look"
        said.append(
            f"{verdict} too narrow: means move from seed to seed by {ratio:.2f} of their standard error "
            f"(up to {bar:.2f} may be chance with {runs} runs)."
        )
    shares = found.frames["order-turns-by-score"].set_index("score")
    if score in shares.index and shares["turned"].notna()[score]:
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
    rows = rows[(rows["score"] == score) & rows["apart_before"]]
    if rows.empty:
        return ["No two interventions are told apart on the pictures that the same mask was laid on."]
    left = int((rows["apart_after"] & (rows["after"] > 0)).sum())
    share = (rows["after"] / rows["before"]).median()
    return [
        f"Under the same mask, {left} of {len(rows)} differences between interventions that were told apart still are; "
        f"the median one keeps {share:.0%} of its size."
    ]


def _faults(found: Findings, score: str) -> list[str]:
    if "faults" not in found.frames:
        return []
    rows = found.frames["faults-summary"]
    rows = rows[rows["score"] == score]
    changed, same = rows[rows["changed"] > 0], rows[rows["changed"] == 0]["protocol"]
    said = [f"Nothing changes by {', '.join(same)}."] if len(same) else []
    each = ", ".join(
        f"{row.protocol} {row.rank_correlation:.3f} (at most {row.largest_change:+.3f}, {row.in_setting})"
        for row in changed.itertuples()
    )
    if each:
        said.insert(0, f"Rank correlation over settings with the same ranking by another protocol: {each}.")
    return said


def best_agreement(found: Findings) -> list[str]:
    """Which metric and budget agrees best with the truth, and which protocols change it; ``edit_success``, a part of
    the truth, does not compete."""
    if "truth" not in found.frames:
        return []
    truth = found.frames["truth"]
    rivals = truth[(truth["metric"] != "edit_success") & truth["correlation"].notna()]
    said = []
    for level, what in ((SETTINGS, "settings"), (METHODS, "methods"), (WITHIN, "pairs")):
        part = rivals[rivals["level"] == level]
        if part.empty:
            continue
        row: Any = part.iloc[int(part["correlation"].argmax())]
        at = "" if np.isnan(row["budget"]) else f" at LPIPS {row['budget']:g}"
        said.append(f"Over {what}, {row['metric']}{at} agrees best: {row['correlation']:.2f}{_ends(row)}.")
    ranking = rivals[(rivals["level"] == METHODS) & rivals["metric"].isin(RANKING)]
    mean = ranking.groupby("budget")["correlation"].mean()
    if len(mean):
        said.append(f"Of the budgets, LPIPS {mean.idxmax():g} agrees best (mean over rankings {mean.max():.2f}).")
    return said + _changed_by_protocols(found)


def _changed_by_protocols(found: Findings) -> list[str]:
    if "truth-by-protocol" not in found.frames:
        return []
    rows = found.frames["truth-by-protocol"]
    real = rows[(rows["low"] > 0) | (rows["high"] < 0)]
    each = ", ".join(
        f"{row.metric} by {row.protocol} {row.difference:+.3f} [{row.low:.3f}, {row.high:.3f}]"
        for row in real.rename(columns={"score": "metric"}).itertuples()
    )
    if not each:
        return ["No other protocol changes the agreement over settings by more than noise."]
    return [f"Other protocols that change the agreement over settings by more than noise: {each}."]


def _of(row: Any) -> str:
    at = "" if np.isnan(row.budget) else f" at LPIPS {row.budget:g}"
    return f"{at} ({row.points} on {row.pairs} pairs)"


def _ends(row: Any) -> str:
    return "" if pd.isna(row.low) else f" [{row.low:.2f}, {row.high:.2f}]"


def count_of(pairs: float) -> str:
    """A number of pairs, in words at the ends of what was tried."""
    if not np.isfinite(pairs):
        return f"more than {SIZES[-1]}"
    return f"{SIZES[0]} or fewer" if pairs <= SIZES[0] else f"{np.ceil(pairs):.0f}"
