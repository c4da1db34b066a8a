"""Score files by what they were judged on: scores of other pictures, steps or seeds do not share a table."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Facts = Mapping[str, Any]
GROUPED = ("version", "model", "parts", "conditions", "settings", "prompts")
IN_EVERY_TITLE = ("prompts.count", "prompts.location", "settings.steps", "settings.seed")


class ScoreGroup(NamedTuple):
    """Score files whose numbers can be compared.

    Attributes:
        title: what all of them were judged on, in words; other groups have other titles.
        scores: contents of the files.
        names: a name for each of them, none twice.
    """

    title: str
    scores: Sequence[Facts]
    names: Sequence[str]


def score_groups(scores: Sequence[Facts]) -> list[ScoreGroup]:
    """The groups of score files: those of most files first, then by their titles."""
    judged_on: dict[str, list[Facts]] = {}
    for facts in scores:
        key = json.dumps([facts.get(name) for name in GROUPED], sort_keys=True)
        judged_on.setdefault(key, []).append(facts)
    groups = list(judged_on.values())
    flat = [_flat({name: group[0].get(name) for name in GROUPED}) for group in groups]
    differing = [
        name for name in {n: None for each in flat for n in each} if len({each.get(name) for each in flat}) > 1
    ]
    made = [ScoreGroup(_title(each, differing), group, _names(group)) for each, group in zip(flat, groups, strict=True)]
    return sorted(made, key=lambda group: (-len(group.scores), group.title))


def _flat(facts: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Nested facts by dotted names, as text."""
    flat: dict[str, str] = {}
    for name, value in facts.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{before}{name}.")
        else:
            flat[f"{before}{name}"] = str(value)
    return flat


def _title(facts: Mapping[str, str], differing: Sequence[str]) -> str:
    count, location, steps, seed = (facts.get(name, "?") for name in IN_EVERY_TITLE)
    text = f"{count} prompts of {location}, {steps} step{'s' * (steps != '1')}, seed {seed}"
    # The hash of the prompts follows from their number and location in most cases.
    same_prompts = "prompts.count" not in differing and "prompts.location" not in differing
    left_out = (*IN_EVERY_TITLE, *(() if same_prompts else ("prompts.hash",)))
    more = [f"{name.removeprefix('settings.')} {facts.get(name, '?')}" for name in differing if name not in left_out]
    return ", ".join([text, *more])


def _names(group: Sequence[Facts]) -> list[str]:
    """The names of dictionaries; where a name stands twice, with the fingerprint of the dictionary or of the file."""
    twice = Counter((facts["name"], facts["block"]) for facts in group)
    dictionaries = Counter((facts["name"], facts["block"], facts.get("dictionary")) for facts in group)
    names = []
    for facts in group:
        own, fingerprint = (facts["name"], facts["block"]), facts.get("dictionary")
        if twice[own] == 1:
            names.append(facts["name"])
        elif fingerprint and dictionaries[*own, fingerprint] == 1:
            names.append(f"{facts['name']} ({fingerprint[:8]})")
        else:
            names.append(f"{facts['name']} (file {facts['key'][:8]})")
    return names
