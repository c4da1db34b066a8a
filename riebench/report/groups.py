"""Read runs and sort their records into groups that may be compared in one table."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from riebench.records.folder import SUFFIXES, read_run, records_file
from riebench.report.arms import CURVE, TOLERANCE
from riebench.report.frame import PARTS, load_records
from riebench.util.errors import UserError

log = logging.getLogger(__name__)
SAME = ["model", "protocol", "steps", "measured_with"]
SETTING = ["method", "options", "k", "blocks", "strength", "on_steps", "part_sae"]
PAIR = ["category", "seed", "original_prompt", "editing_prompt"]
LONG_TEXTS = [
    *("method_class", *(f"part_{name}" for name in PARTS if name != "sae")),
    *("measured_with", "measured_by", "made_by", "version", "commit"),
]
"""Columns of long texts that many records share: as categories each text is held once, in half the memory of all."""
OF_ALL = {
    "numerics": "version of what riebench computes",
    "masks": "function of masks=",
    "model": "code of the model's family",
}
"""Facts of ``made_by`` on all records of a run, in words."""
OF_METHOD = ("method", "imports")
"""Facts of ``made_by`` on the code of a method, whatever its options."""


@dataclass(frozen=True)
class Source:
    """A run: the path of its folder or of its records."""

    path: Path

    @cached_property
    def info(self) -> dict[str, Any]:
        """The contents of ``run.json``; empty if it is damaged or its values are not of the types that a run writes."""
        request = read_run(self.path if self.path.is_dir() else self.path.parent)
        sound = isinstance(request.get("code") or {}, dict) and isinstance(request.get("command") or [], list)
        return request if sound else {}


@dataclass
class Group:
    """Records that may be compared: of one model, protocol, number of steps, masker, scorers, pair file, seed and code.

    Methods may have different code; each code is then a method of its own.

    Attributes:
        frame: as of :func:`load_records`; one row for each (pair, setting) of a run.
        sources: the runs by name.
        notes: remarks for the reader on how the records were combined.
        same: model, protocol, steps, fingerprints and conditions that all records share, by name.
        headline: the same in a line, without the conditions, which are in ``run.json``.
        clip: name of the CLIP that scored, without its fingerprint.
        lpips: likewise of the LPIPS.
    """

    frame: pd.DataFrame
    sources: dict[str, Source]
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        row = self.frame.iloc[0]
        run = {name: row[name] for name in ("model", "protocol", "steps")}
        self.same = {name: str(value) for name, value in (run | json.loads(row["measured_with"])).items()}
        shown = [name for name in self.same if name in (*run, *PARTS)]
        self.headline = ", ".join(f"{name} {self.same[name]}" for name in shown)
        self.clip, self.lpips = (self.same.get(part, part).rsplit("-", 1)[0] for part in ("clip", "lpips"))


def read_groups(paths: Sequence[Path]) -> tuple[list[Group], list[str]]:
    """Read runs and sort their records into groups that may be compared.

    Returns:
        The groups, largest first, and why there is more than one (empty otherwise).

    Raises:
        UserError: if a run cannot be read, has two pairs with one id, or contradicts another run.
    """
    groups: list[Group] = []
    why: list[str] = []
    for name, source in _sources(paths).items():
        frame = load_records(source.path).astype(dict.fromkeys(LONG_TEXTS, "category"))
        frame["run"] = name
        frame, note = _last_of_each(frame, name)
        if mixed := sorted(metric for metric, by in _measured_by(frame).items() if len(by) > 1):
            frame[mixed] = float("nan")
            left_out = "was measured by two networks or commands, so the tables leave it out"
            note = [*note, *(f"run {name}: {metric} {left_out}" for metric in mixed)]
        by: list[Any] = [*_split_by(frame, name), *_codes_of_all(frame)]
        for _, part in frame.groupby(by, sort=False, dropna=False):
            _place(Group(part.reset_index(drop=True), {name: source}, list(note)), groups, why)
    groups.sort(key=lambda g: -len(g.frame))
    for group in groups:
        _reconcile(group)
    return groups, _differences(groups) + why if len(groups) > 1 else []


def _sources(paths: Sequence[Path]) -> dict[str, Source]:
    """Runs by the shortest ends of their paths that differ; other files among several runs are skipped."""
    runs = [path for path in paths if path.suffix in SUFFIXES or not path.is_file()]
    if runs and len(runs) < len(paths):
        others = ", ".join(str(path) for path in paths if path not in runs)
        log.warning("not a file of records, so skipped: %s", others)
        paths = runs
    folders = {records_file(path).parent.resolve(): path for path in paths}
    sources: dict[str, Source] = {}
    for folder, path in folders.items():
        length = 1
        while any(o.parts[-length:] == folder.parts[-length:] for o in folders if o != folder):
            length += 1
        sources["/".join(folder.parts[-length:])] = Source(path)
    return sources


def _last_of_each(frame: pd.DataFrame, name: str) -> tuple[pd.DataFrame, list[str]]:
    """The last record of each pair and setting; earlier ones failed or were made by other code."""
    latest = frame.drop_duplicates(["pair_id", *PAIR, *SAME, *SETTING], keep="last")
    earlier = len(frame) - len(latest)
    return latest, [f"run {name}: {earlier} records were made again later; the last of each counts"] if earlier else []


def _split_by(frame: pd.DataFrame, name: str) -> list[str]:
    """Columns whose values separate the groups inside a run."""
    pairs = frame[[*SAME, "pair_id", *PAIR]].drop_duplicates()
    texts = pairs.drop(columns="seed").drop_duplicates()
    twice = texts[texts.duplicated([*SAME, "pair_id"])]
    if len(twice):
        pair = twice["pair_id"].iloc[0]
        raise UserError(f"the run {name} holds two different pairs with the id {pair!r}; split it by pair file")
    return [*SAME, "seed"] if pairs.duplicated([*SAME, "pair_id"]).any() else SAME


def _place(new: Group, groups: list[Group], why: list[str]) -> None:
    """Add records to the first group that they may be compared with, or make a new one."""
    for group in groups:
        if (group.frame[SAME].iloc[0] != new.frame[SAME].iloc[0]).any():
            continue
        reason = _conflict(group, new)
        if reason is None:
            group.frame = pd.concat([group.frame, new.frame], ignore_index=True)
            group.sources |= new.sources
            group.notes += new.notes
            return
        if reason not in why:
            why.append(reason)
    groups.append(new)


def _conflict(old: Group, new: Group) -> str | None:
    """Why two groups of the same model and scorers must not be compared; None if they may be."""
    pairs = [g.frame.drop_duplicates("pair_id").set_index("pair_id")[PAIR] for g in (old, new)]
    shared = pairs[0].index.intersection(pairs[1].index)
    names = f"{', '.join(old.sources)} and {', '.join(new.sources)}"
    hashes = [{str(s.info["pair_hash"]) for s in g.sources.values() if s.info.get("pair_hash")} for g in (old, new)]
    if all(hashes) and not hashes[0] & hashes[1]:
        return f"{names} are over different pair files"
    if other := measured_otherwise(old, new):
        return f"{names} have {other[0]} measured by different networks or commands"
    if code := made_otherwise(old, new):
        return f"{names} were made with another {code[0]}"
    if len(shared):
        differs = (pairs[0].loc[shared] != pairs[1].loc[shared]).any()
        what = [column.replace("_", " ") for column in PAIR if differs[column]]
        return f"{names} have the same pair ids with another {' and '.join(what)}" if what else None
    files = [{str(s.info.get("pair_hash") or s.info.get("pair_file")) for s in g.sources.values()} for g in (old, new)]
    return None if files[0] & files[1] - {"None"} else f"{names} have no pair in common, nor the same pair file"


def measured_otherwise(old: Group, new: Group) -> list[str]:
    """The metrics that another network or command measured in each of two groups."""
    ours, theirs = (_measured_by(group.frame) for group in (old, new))
    return sorted(name for name in ours.keys() & theirs.keys() if ours[name] != theirs[name])


def _measured_by(frame: pd.DataFrame) -> dict[str, set[str]]:
    """Metric to the networks or commands that measured it in some of the records."""
    measured: dict[str, set[str]] = {}
    for text in frame["measured_by"].unique():
        for metric, by in json.loads(text).items():
            measured.setdefault(metric, set()).add(by)
    return measured


def made_otherwise(old: Group, new: Group) -> list[str]:
    """What differs in the code that made all records of two groups, in words; methods may differ.

    Records of earlier versions do not say.
    """
    ours, theirs = (_made_by(group.frame) for group in (old, new))
    return [what for fact, what in OF_ALL.items() if ours and theirs and _values(ours, fact) != _values(theirs, fact)]


def _made_by(frame: pd.DataFrame) -> list[dict[str, str]]:
    """The different ``made_by`` of records, without those of earlier versions, which say nothing."""
    return [made_by for text in frame["made_by"].unique() if (made_by := json.loads(text))]


def _values(made_by: Iterable[dict[str, str]], fact: str) -> set[str | None]:
    return {each.get(fact) for each in made_by}


def _codes_of_all(frame: pd.DataFrame) -> list[pd.Series]:
    """What separates the groups inside a run that holds records made by different code, as a merged file may."""
    known = _made_by(frame)
    mixed = [fact for fact in OF_ALL if len(_values(known, fact)) > 1]
    return [frame["made_by"].map({text: json.loads(text).get(f) for text in frame["made_by"].unique()}) for f in mixed]


def _named_by_code(frame: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Which records are of a method, or of a method with options, that different code or files have made.

    Returns:
        Whether a record is such, and what tells its code apart from others of its run; empty where its run holds one.
    """
    arms = frame[["method", "options", "k", "run", "made_by"]].drop_duplicates()
    made_by = [json.loads(text) for text in arms["made_by"]]
    arms["code"] = [str([each.get(fact) for fact in OF_METHOD]) if each else None for each in made_by]
    arms["files"] = [str(each.get("files")) if each else None for each in made_by]
    of_method = arms.groupby("method")["code"].transform("nunique") > 1
    of_options = arms.groupby(["method", "options", "k"], dropna=False)["files"].transform("nunique") > 1
    arms["other"] = of_method | of_options
    if not arms["other"].any():
        return pd.Series(False, frame.index), pd.Series("", frame.index)
    texts = [text and text + files for text, files in zip(arms["code"], arms["files"], strict=True)]
    names = [f", code {hashlib.sha256(text.encode()).hexdigest()[:8]}" if text else "" for text in texts]
    in_run = arms.groupby(["run", "method", "options", "k"], dropna=False)["made_by"].transform("nunique") > 1
    arms["name"] = pd.Series(names, arms.index).where(in_run, "")
    joined = frame.reset_index().merge(arms, on=["method", "options", "k", "run", "made_by"]).set_index("index")
    return joined["other"].reindex(frame.index), joined["name"].reindex(frame.index)


def _reconcile(group: Group) -> None:
    """Count a record of several runs once, and tell methods of different code apart.

    A method is named with its run where the runs have made it with different code, or have a setting under different
    keys. A run that itself holds several codes of a method, as a merged file may, has them named by their hashes.
    """
    frame = group.frame.sort_values("status", key=lambda s: s != "ok", kind="stable")
    again = frame.duplicated("key")
    if again.any():
        _check_equal(frame)
        group.notes.append(f"{int(again.sum())} records are in several runs, and count once")
        frame = frame[~again]
    other, code = _named_by_code(frame)
    twice = frame[frame.duplicated(["pair_id", *SETTING], keep=False) & ~other]
    arms = twice[["method", "options"]].drop_duplicates()
    both = pd.MultiIndex.from_frame(frame[["method", "options"]]).isin(pd.MultiIndex.from_frame(arms)) & ~other
    for named, why in (
        (other, "of different code (the method's files, or what they import or read)"),
        (both, "with the same settings and different keys (other code or weights)"),
    ):
        if named.any():
            methods = ", ".join(frame.loc[named, "method"].unique())
            group.notes.append(f"the runs hold {methods} {why}; each is named with its run")
    names = frame["method"] + " (" + frame["run"] + code + ")"
    group.frame = frame.assign(method=frame["method"].where(~(other | both), names)).sort_index().reset_index(drop=True)


def _check_equal(frame: pd.DataFrame) -> None:
    both = frame[frame.duplicated("key", keep=False) & (frame["status"] == "ok")]
    for metric in CURVE:
        if metric in both:
            spread = both.groupby("key")[metric].agg(lambda v: v.max() - v.min())
            if (spread > TOLERANCE).any():
                key = spread.idxmax()
                runs = ", ".join(both[both["key"] == key]["run"])
                message = f"the record {key} has different numbers in {runs}"
                raise UserError(f"{message}; one of them is damaged, so give only the sound one")


def _differences(groups: Sequence[Group]) -> list[str]:
    """The names of values in which the groups differ, with the values."""
    shared = [group.same for group in groups]
    differences = []
    for name in dict.fromkeys(name for same in shared for name in same):
        values = list(dict.fromkeys(same.get(name, "none") for same in shared))
        if len(values) > 1:
            differences.append(f"{name}: {', '.join(values)}")
    return differences
