"""Which records an audit rests on: those that are audited, the same with other seeds, the same by other protocols."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from riebench.report.frame import records_file
from riebench.report.groups import SAME, Group, read_groups


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
