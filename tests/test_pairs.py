"""Pair files: what is read, and what is refused and how."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from riebench.mini.grammar import held_out, parse
from riebench.models.mini import PAIRS
from riebench.pairs import CATEGORIES, category_named, load_pairs, select
from riebench.pairs.pair import without_brackets
from riebench.util.errors import UserError

PUBLISHED = Path(__file__).parents[2] / "shared" / "data" / "riebench.json"
GOOD = {
    "id": "a",
    "editing_type_id": "1",
    "original_prompt": "a cute little [duck] with big eyes",
    "editing_prompt": "a cute little [marmot] with big eyes",
    "original_gsam_prompt": "duck",
    "editing_gsam_prompt": "marmot",
}


def written(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "pairs.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_brackets_are_taken_off(tmp_path: Path) -> None:
    (pair,) = load_pairs(written(tmp_path, [GOOD]))
    assert pair.base_prompt == "a cute little duck with big eyes"
    assert pair.edit_prompt == "a cute little marmot with big eyes"
    assert pair.category == "change object"
    assert without_brackets("a cat[ with a hat]") == "a cat with a hat"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[", "not JSON"),
        ({}, "list"),
        ([], "list"),
        (["x"], "item 0 is a str"),
        (
            [{k: v for k, v in GOOD.items() if k != "editing_prompt"}],
            r"item 0 \(id 'a'\), key 'editing_prompt': is missing",
        ),
        ([GOOD | {"editing_type_id": "12"}], "key 'editing_type_id': unknown category '12', expected 1 to 9"),
        ([GOOD, GOOD], "item 1, key 'id': 'a' occurs twice"),
        ([GOOD | {"Seed": 8}], r"item 0 \(id 'a'\), key 'Seed': is unknown; did you mean 'seed'\?"),
        ([GOOD | {"original_prompt": "  "}], "key 'original_prompt': has no text"),
        ([GOOD | {"id": ""}], "key 'id'"),
    ],
)
def test_malformed_files_are_refused(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_pairs(written(tmp_path, content))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no pair file"):
        load_pairs(tmp_path / "no.json")


def test_selection(tmp_path: Path) -> None:
    items = [GOOD | {"id": f"{c}{i}", "editing_type_id": str(c)} for c in (1, 2) for i in range(4)]
    pairs = load_pairs(written(tmp_path, items))
    assert [p.id for p in select(pairs, limit=1)] == ["10", "20"]
    assert [p.id for p in select(pairs, categories=[2])] == ["20", "21", "22", "23"]
    assert category_named("change color") == 6
    with pytest.raises(UserError, match="did you mean 'change pose'"):
        category_named("change poze")
    with pytest.raises(UserError, match="unknown pair"):
        select(pairs, ids=["13x"])


def test_minis_own_pairs() -> None:
    pairs = load_pairs(PAIRS)
    counts = Counter(p.editing_type_id for p in pairs)
    assert set(counts) == set(CATEGORIES)
    assert min(counts.values()) >= 20
    assert len({p.seed for p in pairs}) == len(pairs)
    for pair in pairs:
        base, source = parse(pair.original_prompt), parse(pair.editing_prompt)
        assert len(base.differences(source)) == 1
        assert held_out(base)
        assert held_out(source)


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published pair file is not beside this checkout")
def test_the_published_file() -> None:
    pairs = load_pairs(PUBLISHED)
    counts = Counter(p.editing_type_id for p in pairs)
    assert dict(counts) == {1: 36, 2: 27, 3: 43, 4: 21, 5: 20, 6: 30, 7: 26, 8: 46, 9: 47}
