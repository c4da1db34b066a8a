"""Faults: what each published fault does to scores and ranks."""

from __future__ import annotations

import numpy as np
import pandas as pd

from riebench.audit.readings import Table
from riebench.report.ranking import GAIN


def fault_effects(mended: Table, faulty: Table, protocol: str) -> pd.DataFrame:
    """The settings that both protocols ran, side by side.

    A setting is an arm at a strength; it is ranked by its mean over the pairs that it scored, so that pairs which a
    fault loses count, too; 1 is the best, equal means share their mean rank. ``change`` is the mean paired difference,
    faulty less mended, on the pairs that both scored, with the bootstrap interval over pairs.

    Args:
        mended: the records of the protocol ``riebench``.
        faulty: those of another protocol.
        protocol: its name.
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
    """For each protocol and score: Spearman's correlation of the two rankings over settings (null if one ranks
    nothing), how many settings changed their mean, and the largest change with its setting."""
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
    """Pairs by setting that one protocol scored and that vanish under the other: failed, or without a record.

    The published code leaves a failure out and averages over the rest; here it is a record, and is counted. A pair
    counts once for each setting that both protocols ran.
    """
    first, second = (table.by_setting(GAIN) for table in (mended, faulty))
    names = [name for name in first if name in second]
    scored = [frame[names].reindex(first.index).notna().to_numpy() for frame in (first, second)]
    lost = (scored[0] & ~scored[1]).sum()
    counts = (len(names), *(int(one.sum()) for one in scored), int(lost))
    return pd.DataFrame(
        [(protocol, *counts)], columns=["protocol", "settings", "scored_mended", "scored_faulty", "lost"]
    )
