"""Which records an audit rests on: those that are audited, the same with other seeds, the same by other protocols."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

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
        if not _shares_pairs(first, group) or _of(group, "model", "steps") != _of(first, "model", "steps"):
            found.unused.append(group.headline)
        elif _of(group, *SAME) == _of(first, *SAME):
            found.reseeded.append(group)
        elif _of(group, "protocol") != _of(first, "protocol"):
            found.protocols.append((first, group))
        else:
            found.unused.append(group.headline)
    if fault_runs:
        mended, faulty = _first_group(fault_runs)
        found.protocols.extend((mended, group) for group in faulty)
    return found


def _first_group(runs: Sequence[Path]) -> tuple[Group, list[Group]]:
    """The group that holds the first run, and the others."""
    groups, _ = read_groups(runs)
    folder = records_file(runs[0]).parent.resolve()
    paths = [{records_file(source.path).parent.resolve() for source in group.sources.values()} for group in groups]
    place = next(i for i, folders in enumerate(paths) if folder in folders)
    return groups[place], groups[:place] + groups[place + 1 :]


def _shares_pairs(first: Group, other: Group) -> bool:
    """Whether some pairs have the same ids and the same prompts."""
    prompts = ["pair_id", "original_prompt", "editing_prompt"]
    return bool(len(first.frame[prompts].drop_duplicates().merge(other.frame[prompts].drop_duplicates())))


def _of(group: Group, *names: str) -> list[str]:
    """What all records of a group share."""
    return [str(group.frame[name].iloc[0]) for name in names]
