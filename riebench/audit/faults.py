"""Faults: what each published fault does to scores and ranks."""

from __future__ import annotations

import numpy as np
import pandas as pd

from riebench.audit.readings import Table


def fault_effects(mended: Table, faulty: Table, protocol: str) -> pd.DataFrame:
    """The settings that both protocols ran, side by side, on the pairs that both scored.

    A setting is an arm at a strength; it is ranked by its mean, 1 the best, equal means share their mean rank.
    ``change`` is the mean paired difference, faulty less mended, with the bootstrap interval over pairs.

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
        ranks = [means.mean().round(9).rank(ascending=False) for means in (before, after)]
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
    """Pairs that one protocol has a record of, scored, and that vanish under the other: failed, or without a record.

    The published code leaves a failure out and averages over the rest; here it is a record, and is counted.
    """
    known = [set(np.array(t.pairs.ids)[np.any([arm.attempted for arm in t.arms], 0)]) for t in (mended, faulty)]
    scored = [set(np.array(t.pairs.ids)[np.any([arm.scored for arm in t.arms], 0)]) for t in (mended, faulty)]
    row = {
        "protocol": protocol,
        "attempted_mended": len(known[0]),
        "attempted_faulty": len(known[1]),
        "scored_mended": len(scored[0]),
        "scored_faulty": len(scored[1]),
        "lost": len(scored[0] - scored[1]),
        "without_record": len(known[0] - known[1]),
    }
    return pd.DataFrame([row])
