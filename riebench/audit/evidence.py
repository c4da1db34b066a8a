"""What an audit reads: which records can tell what, and their arms, pair by pair, at one LPIPS budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from riebench.audit.own_runs import BUDGETS
from riebench.report.analysis import searched_for
from riebench.report.arms import BASE, CURVE, TRUTH, Arm, Pairs, arms_of
from riebench.report.frame import records_file
from riebench.report.groups import SAME, Group, read_groups
from riebench.report.ranking import GAIN, MARGIN, SUCCESS
from riebench.report.scores import ENOUGH, matched
from riebench.stats.resample import Bootstrap
from riebench.util.errors import UserError

Array = NDArray[np.float64]
Values = dict[str, pd.DataFrame]
"""Score or metric to its values, a frame of pairs x arms."""
KEPT = "kept"
RANKING = (GAIN, MARGIN, SUCCESS)
"""Scores that a leaderboard can be ranked by."""
SCORES = (*RANKING, KEPT)
DONE = "done"
"""The truth of an edit in one number: ``edit_success`` x ``kept``."""
WITHOUT_METHOD = ("random", "sae-random", "noise", "paste", "sdedit", "prompt", "none")
"""Methods without a representation that was found; nor has one an arm that acts outside the denoiser."""


@dataclass(frozen=True)
class Evidence:
    """Records, sorted by what they can tell.

    Attributes:
        audited: the records that are audited.
        reseeded: the same pairs with other seeds.
        protocols: the same pairs by other protocols, each behind what it is compared with.
        unused: headlines of groups that are none of these.
    """

    audited: Group
    reseeded: list[Group] = field(default_factory=list)
    protocols: list[tuple[Group, Group]] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    @property
    def other_protocols(self) -> list[str]:
        """Their names."""
        return [other.same["protocol"] for _, other in self.protocols]


class ProtocolTables(NamedTuple):
    """The arms of another protocol behind those that they are compared with.

    Attributes:
        mended: arms of the protocol ``riebench``, or of that of the audited records.
        faulty: arms of the other protocol.
        protocol: its name.
    """

    mended: Table
    faulty: Table
    protocol: str


class Subject(NamedTuple):
    """What every part of an audit works on.

    Attributes:
        evidence: the records.
        table: the arms that are audited.
        budget: LPIPS at which they are read.
        values: each score of the table at the budget.
        protocols: the arms of other protocols.
    """

    evidence: Evidence
    table: Table
    budget: float
    values: Values
    protocols: list[ProtocolTables]

    @classmethod
    def of(cls, evidence: Evidence, budget: float) -> Subject:
        """The subject of an audit.

        Raises:
            UserError: if no two arms have the budget on half of the pairs.
        """
        table = table_of(evidence.audited)
        values = table.at(budget)
        reaching = len(compared(values["clip_text_edit"]))
        if reaching < 2:
            having = f"of {len(table.arms)} arms, {reaching} reach LPIPS {budget:g}"
            raise UserError(f"{having} on half of the pairs, and two at least must; give another --budget or more runs")
        protocols = [ProtocolTables(table_of(a), table_of(b), b.same["protocol"]) for a, b in evidence.protocols]
        return cls(evidence, table, budget, {score: values[score] for score in table.scores}, protocols)


def gather(runs: Sequence[Path], fault_runs: Sequence[Path] = ()) -> Evidence:
    """Read runs; the first is audited, with those that may be compared with it in one table.

    Args:
        runs: run folders, or files of records.
        fault_runs: the same settings by several protocols, the first by the one that the others are compared with.

    Raises:
        UserError: as :func:`riebench.report.groups.read_groups`.
    """
    first, others = _first_group(runs)
    found = Evidence(first)
    for group in others:
        if _of(group, *SAME) == _of(first, *SAME) and _seeds_differ(first, group):
            found.reseeded.append(group)
        elif _comparable(first, group) and group.same["protocol"] not in found.other_protocols:
            found.protocols.append((first, group))
        else:
            found.unused.append(group.headline)
    if fault_runs:
        mended, faulty = _first_group(fault_runs)
        found.protocols.extend((mended, group) for group in faulty if _comparable(mended, group))
    return found


def _first_group(runs: Sequence[Path]) -> tuple[Group, list[Group]]:
    """The group that holds the first run, and the others."""
    groups, _ = read_groups(runs)
    folder = records_file(runs[0]).parent.resolve()
    paths = [{records_file(source.path).parent.resolve() for source in group.sources.values()} for group in groups]
    place = next(i for i, folders in enumerate(paths) if folder in folders)
    return groups[place], groups[:place] + groups[place + 1 :]


def _comparable(first: Group, other: Group) -> bool:
    """Whether another group is of another protocol, and of the same pairs, seeds, model, steps and scorers."""
    names = ("model", "steps", "clip", "lpips", "masker")
    same = all(first.same.get(name) == other.same.get(name) for name in names)
    others = first.same["protocol"] != other.same["protocol"]
    return same and others and len(_shared(first, other)) > 0 and not _seeds_differ(first, other)


def _seeds_differ(first: Group, other: Group) -> bool:
    """Whether pairs with the same ids and prompts have other seeds."""
    shared = _shared(first, other)
    return bool((shared["seed_x"] != shared["seed_y"]).any())


def _shared(first: Group, other: Group) -> pd.DataFrame:
    """The pairs of both groups, with the seeds of each."""
    prompts = ["pair_id", "original_prompt", "editing_prompt"]
    mine, theirs = (group.frame[[*prompts, "seed"]].drop_duplicates() for group in (first, other))
    return mine.merge(theirs, on=prompts)


def _of(group: Group, *names: str) -> list[str]:
    """What all records of a group share."""
    return [str(group.frame[name].iloc[0]) for name in names]


@dataclass(frozen=True)
class Table:
    """The arms of a group, and their pairs.

    Attributes:
        pairs: in the order of all arrays.
        arms: with ``gain`` and, where the truth is known, ``done`` among their metrics.
        names: of the arms; with the blocks where these differ.
        boot: resamples of the pairs.
    """

    pairs: Pairs
    arms: list[Arm]
    names: list[str]
    boot: Bootstrap

    @property
    def scores(self) -> list[str]:
        """The scores that the records have."""
        return [score for score in SCORES if score in self.arms[0].values]

    @property
    def interventions(self) -> list[str]:
        """The arms that change a representation which was found."""
        named = zip(self.names, self.arms, strict=True)
        return [name for name, arm in named if not arm.outside and arm.family not in WITHOUT_METHOD]

    def frame(self, columns: Array, names: Sequence[str]) -> pd.DataFrame:
        """``[pairs, names]`` as a frame, by pair id."""
        return pd.DataFrame(columns, pd.Index(self.pairs.ids, name="pair_id"), pd.Index(names))

    def at(self, budget: float) -> dict[str, pd.DataFrame]:
        """Every metric read at an LPIPS budget, as the report reads it: a frame of pairs x arms."""
        read = [matched(arm, self.pairs, [budget]).values for arm in self.arms]
        metrics = self.arms[0].values
        return {m: self.frame(np.concatenate([values[m] for values in read], 1), self.names) for m in metrics}

    def by_setting(self, metric: str) -> pd.DataFrame:
        """A metric at every strength that was asked for: a frame of pairs x settings, named as ``sae x2``."""
        names = [
            f"{name}{'' if k is None else f' k={k}'} x{strength:g}"
            for name, arm in zip(self.names, self.arms, strict=True)
            for k in arm.ks
            for strength in arm.strengths
        ]
        values = [arm.values[metric].reshape(len(self.pairs.ids), -1) for arm in self.arms]
        return self.frame(np.concatenate(values, 1), names)


def table_of(group: Group) -> Table:
    """The arms of a group."""
    frame = group.frame
    if BASE in frame:
        frame = frame.assign(gain=frame[CURVE[0]] - frame[BASE])
    if set(TRUTH) <= set(frame):
        frame = frame.assign(done=frame[SUCCESS] * frame[KEPT])
    pairs, arms = arms_of(frame)
    labels = [arm.label for arm in arms]
    names = labels if len(set(labels)) == len(labels) else [arm.name for arm in arms]
    return Table(pairs, arms, names, Bootstrap(pairs.categories.tolist()))


def compared(values: pd.DataFrame) -> list[str]:
    """The arms that have a value on half of the pairs, as a rank takes it."""
    return [str(arm) for arm in values if values[arm].notna().sum() >= max(1, ENOUGH * len(values))]


def budgets_of(group: Group, budget: float) -> list[float]:
    """The budgets that strengths were searched for, or the usual ones of mini, and the one that is audited."""
    return sorted({*(searched_for(group.frame) or BUDGETS), budget})
