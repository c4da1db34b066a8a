"""The records of an audit, grouped by what they can tell, and their arms as values of pairs x arms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from riebench.audit.own_runs import BUDGETS
from riebench.records.folder import records_file
from riebench.report.arms import GAIN, TRUTH, Arm, Pairs, arms_of, searched_for
from riebench.report.groups import SAME, Group, read_groups
from riebench.report.ranking import MARGIN, SUCCESS
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
"""Methods that are controls: they use no learned or measured representation."""


@dataclass(frozen=True)
class Evidence:
    """The groups of records of an audit.

    Attributes:
        audited: the audited group.
        reseeded: groups of the same pairs with other seeds.
        protocols: for each other protocol, the group it is compared with and the group of the same pairs by it.
        unused: headlines of all other groups.
    """

    audited: Group
    reseeded: list[Group] = field(default_factory=list)
    protocols: list[tuple[Group, Group]] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    @property
    def other_protocols(self) -> list[str]:
        """The names of the other protocols."""
        return [other.same["protocol"] for _, other in self.protocols]


class ProtocolTables(NamedTuple):
    """The arms of two protocols on the same pairs.

    Attributes:
        mended: arms of the first protocol, as a rule ``riebench``.
        faulty: arms of the other protocol.
        protocol: name of the other protocol.
    """

    mended: Table
    faulty: Table
    protocol: str


class Subject(NamedTuple):
    """The input of every part of an audit.

    Attributes:
        evidence: the records.
        table: the audited arms.
        budget: LPIPS at which the arms are compared.
        values: score to its values at the budget.
        protocols: the arms of each other protocol.
    """

    evidence: Evidence
    table: Table
    budget: float
    values: Values
    protocols: list[ProtocolTables]

    @classmethod
    def of(cls, evidence: Evidence, budget: float) -> Subject:
        """Read the arms of some records at an LPIPS budget.

        Raises:
            UserError: if fewer than two arms reach the budget on half of the pairs.
        """
        table = table_of(evidence.audited)
        values = table.at(budget)
        reaching = len(compared(values["clip_text_edit"]))
        if reaching < 2:
            count = f"of {len(table.arms)} arms, {reaching} reach LPIPS {budget:g} on half of the pairs"
            raise UserError(f"{count}; expected 2 or more; give another --budget or more runs")
        protocols = [ProtocolTables(table_of(a), table_of(b), b.same["protocol"]) for a, b in evidence.protocols]
        return cls(evidence, table, budget, {score: values[score] for score in table.scores}, protocols)


def gather(runs: Sequence[Path], fault_runs: Sequence[Path] = ()) -> Evidence:
    """Read runs and group their records; the group of the first run is the audited one.

    Args:
        runs: run folders, or files of records.
        fault_runs: runs of the same settings by several protocols; all others are compared with the first.

    Raises:
        UserError: as :func:`riebench.report.groups.read_groups`.
    """
    first, others = _first_group(runs)
    evidence = Evidence(first)
    for group in others:
        if _shared_values(group, SAME) == _shared_values(first, SAME) and _seeds_differ(first, group):
            evidence.reseeded.append(group)
        elif _comparable(first, group) and group.same["protocol"] not in evidence.other_protocols:
            evidence.protocols.append((first, group))
        else:
            evidence.unused.append(group.headline)
    if fault_runs:
        mended, faulty = _first_group(fault_runs)
        evidence.protocols.extend((mended, group) for group in faulty if _comparable(mended, group))
    return evidence


def _first_group(runs: Sequence[Path]) -> tuple[Group, list[Group]]:
    """The group that holds the first run, and the others."""
    groups, _ = read_groups(runs)
    folder = records_file(runs[0]).parent.resolve()
    paths = [{records_file(source.path).parent.resolve() for source in group.sources.values()} for group in groups]
    place = next(i for i, folders in enumerate(paths) if folder in folders)
    return groups[place], groups[:place] + groups[place + 1 :]


def _comparable(first: Group, other: Group) -> bool:
    """Whether two groups differ in the protocol and share pairs, seeds, model, steps and scorers."""
    names = ("model", "steps", "clip", "lpips", "masker")
    same = all(first.same.get(name) == other.same.get(name) for name in names)
    protocols_differ = first.same["protocol"] != other.same["protocol"]
    return same and protocols_differ and len(_common_pairs(first, other)) > 0 and not _seeds_differ(first, other)


def _seeds_differ(first: Group, other: Group) -> bool:
    """Whether pairs with the same ids and prompts have other seeds."""
    pairs = _common_pairs(first, other)
    return bool((pairs["seed_x"] != pairs["seed_y"]).any())


def _common_pairs(first: Group, other: Group) -> pd.DataFrame:
    """The pairs that both groups have: a row each, with its two seeds as ``seed_x`` and ``seed_y``."""
    prompts = ["pair_id", "original_prompt", "editing_prompt"]
    first_pairs, other_pairs = (group.frame[[*prompts, "seed"]].drop_duplicates() for group in (first, other))
    return first_pairs.merge(other_pairs, on=prompts)


def _shared_values(group: Group, names: Sequence[str]) -> list[str]:
    """The values of columns that are the same in all records of a group."""
    return [str(group.frame[name].iloc[0]) for name in names]


@dataclass(frozen=True)
class Table:
    """The arms of a group, and their pairs.

    Attributes:
        pairs: the pairs, in the order of all arrays.
        arms: the arms; their metrics include ``gain`` and, where the truth is known, ``done``.
        names: a unique name for each arm; it includes the blocks where arms differ in them alone.
        boot: bootstrap resamples of the pairs.
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
        """The names of the arms that are no controls and act inside the denoiser."""
        named = zip(self.names, self.arms, strict=True)
        return [name for name, arm in named if not arm.outside and arm.family not in WITHOUT_METHOD]

    def frame(self, columns: Array, names: Sequence[str]) -> pd.DataFrame:
        """An array ``[pairs, names]`` as a frame with the pair ids as its index."""
        return pd.DataFrame(columns, pd.Index(self.pairs.ids, name="pair_id"), pd.Index(names))

    def at(self, budget: float) -> dict[str, pd.DataFrame]:
        """Every metric at an LPIPS budget, interpolated as in the report: a frame of pairs x arms each."""
        read = [matched(arm, self.pairs, [budget]).values for arm in self.arms]
        metrics = self.arms[0].values
        return {m: self.frame(np.concatenate([values[m] for values in read], 1), self.names) for m in metrics}

    def by_setting(self, metric: str) -> pd.DataFrame:
        """A metric at every strength of ``--strength``: a frame of pairs x settings, with names such as ``sae x2``."""
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
    if set(TRUTH) <= set(frame):
        frame = frame.assign(done=frame[SUCCESS] * frame[KEPT])
    pairs, arms = arms_of(frame)
    labels = [arm.label for arm in arms]
    names = labels if len(set(labels)) == len(labels) else [arm.name for arm in arms]
    return Table(pairs, arms, names, Bootstrap(pairs.categories.tolist()))


def compared(values: pd.DataFrame) -> list[str]:
    """The arms that have a value on half of the pairs, the report's condition for a rank."""
    return [str(arm) for arm in values if values[arm].notna().sum() >= max(1, ENOUGH * len(values))]


def budgets_of(group: Group, budget: float) -> list[float]:
    """The audit's budget and those of ``--at-lpips``, in growing order; without a search those of mini."""
    return sorted({*(searched_for(group.frame) or BUDGETS), budget})
