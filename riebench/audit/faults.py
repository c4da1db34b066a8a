"""Faults: the effect of each published fault on scores and ranks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd

from riebench.audit.evidence import RANKING, Subject, Table
from riebench.audit.part import AROUND, CSV, ROW, TONES, WIDTH, LeftOut, Part, rows_of
from riebench.report.arms import GAIN
from riebench.report.texttable import TextTable, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Faults(Part):
    """See the module.

    Attributes:
        effects: see :func:`fault_effects`.
        summary: see :func:`fault_summary`.
        lost: see :func:`lost_pairs`.
    """

    name = "faults"
    title = "The published faults"
    explanation = (
        "The protocol riebench with one published fault each, and paper with all, at fixed strengths: means of the "
        "same settings, each over the pairs that it scored. Rank correlation: Spearman's, over settings, of the "
        "rankings with and without the fault; 1 means that the fault changes no rank. The largest change is over the "
        "pairs that both scored. A fault that changes no setting had nothing to act on: mini's masker has no box "
        "threshold and its CLIP one activation, so 'threshold' and 'gelu' change nothing on mini. Vanished pairs are "
        "counted once for each setting."
    )
    figure_file = "faults.png"

    effects: pd.DataFrame = field(metadata={CSV: "faults"})
    summary: pd.DataFrame = field(metadata={CSV: "faults-summary"})
    lost: pd.DataFrame = field(metadata={CSV: "lost-pairs"})

    @classmethod
    def measure(cls, subject: Subject) -> Self:
        """Compare each other protocol with the protocol of the audited records."""
        if not subject.protocols:
            raise LeftOut("no run has the same pairs by another protocol; make one with 'riebench run --protocol'")
        effects = pd.concat([fault_effects(*tables) for tables in subject.protocols], ignore_index=True)
        lost = pd.concat([lost_pairs(*tables) for tables in subject.protocols], ignore_index=True)
        return cls(effects, fault_summary(effects), lost)

    def tables(self) -> list[TextTable]:
        """Effects by protocol and score, and the lost pairs."""
        summary = [
            [r["protocol"], r["score"], str(r["settings"]), number(r["rank_correlation"]), str(r["changed"]),
             number(r["largest_change"]), r["in_setting"]]
            for r in rows_of(self.summary)
        ]  # fmt: skip
        head = ["protocol", "score", "settings", "rank correlation", "settings changed", "largest change", "in"]
        names = [str(name).replace("_", " ") for name in self.lost]
        return [
            TextTable("Ranking with a fault and without", head, summary, left=2),
            TextTable("Pairs that vanish", names, self.lost.astype(str).to_numpy().tolist()),
        ]

    def figure(self) -> Figure:
        """Left: 1 less the rank correlation over settings. Right: the largest change of a setting's mean."""
        from matplotlib.figure import Figure

        protocols = list(dict.fromkeys(self.summary["protocol"]))
        scores = [score for score in RANKING if score in set(self.summary["score"])]
        figure = Figure(figsize=(WIDTH, AROUND + 0.75 * ROW * len(protocols) * len(scores)), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        height = 0.8 / len(scores)
        for row, score in enumerate(scores):
            part = self.summary[self.summary["score"] == score].set_index("protocol").reindex(protocols)
            places = np.arange(len(protocols)) + (row - (len(scores) - 1) / 2) * height
            moved = 1 - part["rank_correlation"].to_numpy(float)
            for axes, lengths in zip(panels, (moved, part["largest_change"].to_numpy(float)), strict=True):
                axes.barh(places, lengths, height, color=TONES[score], label=score)
        panels[0].set_yticks(range(len(protocols)), protocols)
        panels[0].set_ylim(len(protocols) - 0.4, -0.6)
        panels[0].set_xlabel("1 - rank correlation with the ranking without the fault")
        panels[1].set_xlabel("largest change of a setting's mean")
        panels[1].axvline(0, color="#404040", linewidth=0.6)
        for axes in panels:
            axes.grid(axis="y", visible=False)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(scores))
        return figure

    def verdict(self, ranking: str) -> list[str]:
        """The effect of each fault on the ranking."""
        rows = self.summary[self.summary["score"] == ranking]
        changed, same = rows[rows["changed"] > 0], rows[rows["changed"] == 0]["protocol"]
        sentences = [f"No change by {', '.join(same)}."] if len(same) else []
        each = ", ".join(
            f"{row.protocol} {row.rank_correlation:z.3f} (largest change {row.largest_change:+z.3f}, {row.in_setting})"
            for row in changed.itertuples()
        )
        if each:
            sentences.insert(0, f"Rank correlation over settings with the ranking by another protocol: {each}.")
        return sentences


def fault_effects(mended: Table, faulty: Table, protocol: str) -> pd.DataFrame:
    """Compare two protocols setting by setting; a row for each setting of both and each score.

    A setting is an arm at a strength. Its rank is that of its mean over all pairs that it scored, so a pair that the
    fault loses counts in one of the ranks; 1 is the best, and equal means share their mean rank. ``change`` is the mean
    paired difference, faulty less mended, on the pairs that both scored; ``low`` and ``high`` are its bootstrap
    interval over pairs.

    Args:
        mended: arms of the first protocol.
        faulty: arms of the other protocol.
        protocol: name of the other protocol.
    """
    rows = []
    for score in (score for score in mended.scores if score in faulty.scores):
        first, second = mended.by_setting(score), faulty.by_setting(score)
        names = [name for name in first if name in second and first[name].notna().any() and second[name].notna().any()]
        second = second.reindex(first.index)
        both = first[names].notna() & second[names].notna()
        before, after = first[names].where(both), second[names].where(both)
        change = mended.boot.means((after - before).to_numpy())
        ranks = [scored[names].mean().round(9).rank(ascending=False) for scored in (first, second)]
        rows.append(
            pd.DataFrame(
                {
                    "protocol": protocol,
                    "score": score,
                    "setting": names,
                    "pairs": change.count,
                    "mended": before.mean().to_numpy(),
                    "faulty": after.mean().to_numpy(),
                    "change": change.mean,
                    "low": change.low,
                    "high": change.high,
                    "rank_mended": ranks[0].to_numpy(),
                    "rank_faulty": ranks[1].to_numpy(),
                }
            )
        )
    return pd.concat(rows, ignore_index=True)


def fault_summary(effects: pd.DataFrame) -> pd.DataFrame:
    """For each protocol and score: Spearman's correlation of the two rankings over settings (null if all settings of
    one are equal), the number of settings whose mean changed, and the largest change with its setting."""
    rows = []
    for (protocol, score), part in effects.groupby(["protocol", "score"], sort=False):
        largest = part.iloc[int(part["change"].abs().argmax())]
        with np.errstate(invalid="ignore", divide="ignore"):
            correlation = part["rank_mended"].corr(part["rank_faulty"])
        changed = int((part["change"].abs() > 1e-9).sum())
        setting = largest["setting"] if changed else ""
        rows.append((protocol, score, len(part), correlation, changed, largest["change"], setting))
    columns = ["protocol", "score", "settings", "rank_correlation", "changed", "largest_change", "in_setting"]
    return pd.DataFrame(rows, columns=columns)


def lost_pairs(mended: Table, faulty: Table, protocol: str) -> pd.DataFrame:
    """Count the pairs that one protocol scored and the other did not: they failed, or have no record.

    The published code averages over the pairs that did not fail. A pair counts once for each setting of both protocols.
    """
    first, second = (table.by_setting(GAIN) for table in (mended, faulty))
    names = [name for name in first if name in second]
    scored = [frame[names].reindex(first.index).notna().to_numpy() for frame in (first, second)]
    lost = (scored[0] & ~scored[1]).sum()
    counts = (len(names), *(int(protocol_scored.sum()) for protocol_scored in scored), int(lost))
    return pd.DataFrame(
        [(protocol, *counts)], columns=["protocol", "settings", "scored_mended", "scored_faulty", "lost"]
    )
