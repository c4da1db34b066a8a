"""Tables over the score files of a folder: only what was judged on the same pictures shares a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from riebench.features.score_groups import score_groups
from riebench.features.score_tables import print_scores, write_score_tables


def facts(key: str, **change: Any) -> dict[str, Any]:
    """A score file of an SAE of up.0.0, judged on 60 prompts, with a change of some facts."""
    made: dict[str, Any] = {
        "version": 1,
        "model": "mini",
        "parts": {"model": "aaaa"},
        "conditions": {"truth": True},
        "settings": {"steps": 1, "seed": 0, "area_strength": 3.0, "strengths": [1.0, 2.0]},
        "prompts": {"location": "grammar", "count": 60, "hash": "h60"},
        "name": "S",
        "kind": "sae",
        "block": "up.0.0",
        "features_count": 96,
        "dictionary": "11112222",
        "descriptions": {},
        "summary": {"dead": {"value": 0.25, "low": 0.2, "high": 0.3}},
        "steps": {},
        "key": key,
    }
    for name, value in change.items():
        made[name] = made[name] | value if isinstance(value, dict) else value
    return made


CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"prompts": {"count": 4, "hash": "h4"}}, "4 prompts"),
    ({"settings": {"steps": 4}}, "4 steps"),
    ({"settings": {"seed": 9}}, "seed 9"),
    ({"settings": {"area_strength": 5.0}}, "area_strength 5.0"),
    ({"prompts": {"hash": "other"}}, "prompts.hash other"),
    ({"parts": {"model": "bbbb"}}, "parts.model bbbb"),
    ({"conditions": {"truth": False}}, "conditions.truth False"),
]


@pytest.mark.parametrize(("change", "title"), CHANGES)
def test_what_was_judged_otherwise_has_a_table_of_its_own(change: dict[str, Any], title: str) -> None:
    groups = score_groups([facts("a" * 16), facts("b" * 16, name="T"), facts("c" * 16, **change)])
    assert [len(group.scores) for group in groups] == [2, 1]
    assert title in groups[1].title
    assert groups[0].title != groups[1].title
    assert title not in groups[0].title


def test_saes_of_one_name_are_told_apart() -> None:
    [group] = score_groups([facts("a" * 16), facts("b" * 16, dictionary="33334444")])
    assert group.names == ["S (11112222)", "S (33334444)"]
    [group] = score_groups([facts("a" * 16), facts("b" * 16, descriptions={"3": "a red heart"})])
    assert group.names == ["S (file aaaaaaaa)", "S (file bbbbbbbb)"]
    [group] = score_groups([facts("a" * 16), facts("b" * 16, name="T")])
    assert group.names == ["S", "T"]


def test_tables_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = {"value": 0.5, "low": 0.4, "high": 0.6}
    several = [
        facts("a" * 16, steps={"explained_variance": [few]}),
        facts("b" * 16, prompts={"count": 4, "hash": "h4"}, steps={"explained_variance": [few]}),
    ]
    for made in several:
        (tmp_path / f"{made['key'][:8]}.json").write_text(json.dumps(made))
    print_scores(write_score_tables(tmp_path), Console(width=120))
    shown = capsys.readouterr().out
    text = (tmp_path / "scores.md").read_text()
    for title in ("60 prompts of grammar, 1 step, seed 0:", "4 prompts of grammar, 1 step, seed 0:"):
        assert title in shown
        assert title in text
    table = pd.read_csv(tmp_path / "scores.csv")
    assert sorted(table["prompts_count"]) == [4, 60]
    assert list(table["dictionary"]) == [11112222, 11112222]
    assert {"steps", "seed", "key"} <= set(table)
    by_step = pd.read_csv(tmp_path / "by-step.csv")
    assert by_step["judged_on"].nunique() == by_step["key"].nunique() == 2
