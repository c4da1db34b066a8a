"""All numbers of an audit, as frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from riebench.audit.evidence import Evidence
from riebench.audit.faults import fault_effects, fault_summary, lost_pairs
from riebench.audit.gaming import GAMES, games_of, gaming
from riebench.audit.noise import pooled, spread, turn_shares, turns
from riebench.audit.power import SIZES, pairs_needed, power_curves, told_apart
from riebench.audit.readings import DONE, RANKING, Table, budgets_of, compared, table_of
from riebench.audit.same_mask import arms_before_and_after, before_and_after, pictures_at, what_is_left
from riebench.audit.truth import agreement_with_truth, changed_agreement
from riebench.util.errors import UserError

NOISE, POWER, TRUTH, GAMING, SAME_MASK, FAULTS = "noise", "power", "truth", "gaming", "same mask", "faults"
PARTS = (NOISE, POWER, TRUTH, GAMING, SAME_MASK, FAULTS)
FRAMES = (
    *("noise", "noise-pooled", "order-turns", "order-turns-by-score"),
    *("told-apart", "power", "pairs-needed"),
    *("truth", "truth-by-protocol"),
    *("gaming", "scores"),
    *("same-mask", "same-mask-arms"),
    *("faults", "faults-summary", "lost-pairs"),
)
"""The tables, by the names of their CSV files."""


@dataclass
class Findings:
    """What an audit found.

    Attributes:
        evidence: what it rests on.
        table: the arms that are audited.
        budget: LPIPS at which they are read.
        frames: every table by the name of its CSV file.
        left_out: part to why it is left out.
        notes: remarks for the reader.
    """

    evidence: Evidence
    table: Table
    budget: float
    frames: dict[str, pd.DataFrame] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def find(evidence: Evidence, budget: float, step: Callable[[str], Any] = lambda part: None) -> Findings:
    """Work out every part that the records allow; each is announced to ``step``.

    Raises:
        UserError: if no two arms have the budget on half of the pairs.
    """
    found = Findings(evidence, table_of(evidence.audited), budget)
    values = found.table.at(budget)
    if len(compared(values["clip_text_edit"])) < 2:
        having = f"of {len(found.table.arms)} arms, {len(compared(values['clip_text_edit']))} reach LPIPS {budget:g}"
        raise UserError(f"{having} on half of the pairs, and two at least must; give another --budget or more runs")
    for unused in evidence.unused:
        found.notes.append(f"left out, as other conditions than those of the first run: {unused}")
    works = (_noise, _power, _truth, _gaming, _same_mask, _faults)
    for part, work in zip(PARTS, works, strict=True):
        step(part)
        work(found, {score: values[score] for score in found.table.scores})
    return found


Scores = dict[str, pd.DataFrame]


def _noise(found: Findings, values: Scores) -> None:
    if not found.evidence.reseeded:
        found.left_out[NOISE] = "no run has the same pairs with other seeds; make one with 'riebench run --seed'"
        return
    tables = [table_of(group) for group in found.evidence.reseeded]
    pairs = found.table.pairs
    common = np.all([np.isin(pairs.ids, table.pairs.ids) for table in tables], axis=0)
    ids = np.array(pairs.ids)[common]
    if len(ids) < len(pairs.ids):
        found.notes.append(f"{NOISE}: over the {len(ids)} pairs that every run with other seeds has")
    every = [values, *(table.at(found.budget) for table in tables)]
    runs = [{score: run[score].loc[ids] for score in values} for run in every]
    moved, turned = spread(runs, pairs.categories[common].tolist()), turns(runs)
    found.frames |= {"noise": moved, "noise-pooled": pooled(moved), "order-turns": turned}
    found.frames["order-turns-by-score"] = turn_shares(turned)


def _power(found: Findings, values: Scores) -> None:
    ranking = {score: values[score] for score in RANKING if score in values}
    curves = power_curves(ranking, found.table.interventions)
    found.frames |= {"told-apart": told_apart(ranking, SIZES), "power": curves, "pairs-needed": pairs_needed(curves)}


def _truth(found: Findings, values: Scores) -> None:
    if DONE not in found.table.arms[0].values:
        found.left_out[TRUTH] = "the truth of these pictures is not known; it is on mini"
        return
    searched = any(arm.records["at_lpips"].notna().any() for arm in found.table.arms)
    budgets = budgets_of(found.evidence.audited, found.budget) if searched else []
    readings = {budget: found.table.at(budget) for budget in budgets}
    found.frames["truth"] = agreement_with_truth(found.table, readings)
    if found.evidence.protocols:
        both = _protocols(found)
        found.frames["truth-by-protocol"] = pd.concat([changed_agreement(*one) for one in both], ignore_index=True)


def _protocols(found: Findings) -> list[tuple[Table, Table, str]]:
    """The arms of each other protocol behind those that they are compared with, and its name."""
    return [(table_of(a), table_of(b), b.same["protocol"]) for a, b in found.evidence.protocols]


def _gaming(found: Findings, values: Scores) -> None:
    games = [name for name, arm in zip(found.table.names, found.table.arms, strict=True) if arm.family in GAMES]
    if not games:
        found.left_out[GAMING] = f"no arm is one of {', '.join(GAMES)}; add them with 'riebench run --method paste ...'"
        return
    shown = games_of(found.table, values)
    found.frames["gaming"] = gaming(shown, found.table.interventions, games, found.table.pairs.categories.tolist())
    means = {score: frame.mean() for score, frame in shown.items()}
    found.frames["scores"] = pd.DataFrame(means).rename_axis("arm").reset_index()


def _same_mask(found: Findings, values: Scores) -> None:
    from riebench.audit.masked_pictures import score_composites

    folders = [source.path for source in found.evidence.audited.sources.values() if (source.path / "images").is_dir()]
    if not folders:
        found.left_out[SAME_MASK] = "no run folder keeps pictures; make one with 'riebench run --keep-images N'"
        return
    chosen = pictures_at(found.table, found.budget)
    try:
        scored, missing = zip(*(score_composites(folder, chosen) for folder in folders), strict=True)
    except UserError as error:
        found.left_out[SAME_MASK] = str(error)
        return
    composites = pd.concat(scored, ignore_index=True)
    if composites.empty:
        found.left_out[SAME_MASK] = (
            f"no picture at LPIPS {found.budget:g} is kept; 'riebench run --at-lpips' makes them"
        )
        return
    if sum(missing):
        of = f"{len(composites)} of {len(chosen)} pictures at LPIPS {found.budget:g} are compared"
        found.notes.append(f"{SAME_MASK}: {sum(missing)} files of pictures are missing, so that {of}")
    before, after = before_and_after(found.table, composites)
    categories = dict(zip(found.table.pairs.ids, found.table.pairs.categories.tolist(), strict=True))
    arms = [arm for arm in found.table.interventions if arm in compared(values[found.table.scores[0]])]
    found.frames["same-mask"] = what_is_left(before, after, arms, categories)
    found.frames["same-mask-arms"] = arms_before_and_after(before, after, categories)


def _faults(found: Findings, values: Scores) -> None:
    if not found.evidence.protocols:
        found.left_out[FAULTS] = (
            "no run has the same pairs by another protocol; make one with 'riebench run --protocol'"
        )
        return
    both = _protocols(found)
    effects = pd.concat([fault_effects(*one) for one in both], ignore_index=True)
    found.frames |= {"faults": effects, "faults-summary": fault_summary(effects)}
    found.frames["lost-pairs"] = pd.concat([lost_pairs(*one) for one in both], ignore_index=True)
