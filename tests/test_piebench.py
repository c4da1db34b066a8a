"""Pairs from PIE-Bench's own file, and the rule for grounding phrases."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from riebench.cli import main
from riebench.pairs import CATEGORIES, build_pairs, grounding_phrases, load_pairs, read_piebench
from riebench.pairs.grounding import unbalanced
from riebench.pairs.pair_files import as_items
from riebench.pairs.piebench import reasons

PUBLISHED = Path(__file__).parents[2] / "shared" / "data" / "riebench.json"
needs_published = pytest.mark.skipif(
    not PUBLISHED.exists(), reason="the published pair file is not beside this checkout"
)


def item(kind: int, original: str, edit: str, blended: str = "") -> dict[str, Any]:
    return {
        "image_path": "1_some_folder/1.jpg",
        "original_prompt": original,
        "editing_prompt": edit,
        "editing_instruction": "do it",
        "editing_type_id": str(kind),
        "blended_word": blended,
        "mask": [0, 262144],
    }


ITEMS = {
    "000000000001": item(0, "a [kettle]", "a [tractor]", "kettle tractor"),
    "111000000001": item(1, "a tiny [otter] on a raft", "a tiny [walrus] on a raft", "otter walrus"),
    "112000000002": item(1, "a tiny [otter] on a raft", "a tiny [heron] on a raft", "otter heron"),
    "211000000001": item(2, "a llama in a garage", "a llama [wearing a top hat] in a garage"),
    "311000000001": item(3, "a llama [and two red kites] over a dune", "a llama over a dune"),
    "411000000001": item(4, "a [quiet] harbour", "a quiet harbour"),
    "511000000001": item(5, "a drawing of an otter [rowing]", "a drawing of an otter [napping]", "otter otter"),
    "611000000001": item(6, "a [blue] kettle stands on a stove", "a [pink] kettle stands on a stove"),
    "711000000001": item(7, "a spoon", "a spoon [made of ice]"),
    "811000000001": item(8, "a walrus [in a garage]", "a walrus [on a dune]", "garage dune"),
    "911000000001": item(9, "a [sketch of a] walrus", "a [mosaic of a] walrus"),
    "111000000009": item(1, "a [otter on a raft", "a [heron] on a raft"),
    "111000000010": item(1, "an otter", "a heron"),
    "111000000011": item(1, "an otter", "[]"),
}
LEFT_OUT = {
    "000000000001": "kind 0 (random)",
    "411000000001": "prompts are equal",
    "111000000009": "brackets do not pair up",
    "111000000010": "no grounding phrase for the original",
    "111000000011": "a prompt has no text",
}
PHRASES = {
    "111000000001": ("otter", "walrus"),
    "112000000002": ("otter", "heron"),
    "211000000001": ("llama", "top hat"),
    "311000000001": ("red kites", "background"),
    "511000000001": ("otter", "otter"),
    "611000000001": ("kettle", "kettle"),
    "711000000001": ("spoon", "spoon"),
    "811000000001": ("background", "background"),
    "911000000001": ("#everything", "#everything"),
}


@pytest.fixture
def mapping(tmp_path: Path) -> Path:
    path = tmp_path / "mapping_file.json"
    path.write_text(json.dumps(ITEMS))
    return path


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    out = capsys.readouterr()
    return int(left.value.code or 0), out.out, out.err


@pytest.mark.parametrize(
    ("category", "original", "edit", "blended", "expected"),
    [
        # The span names the thing; articles, verbs and what stands behind prepositions go.
        (1, "a [street lamp] in fog", "a [tall ship] in fog", "", ("street lamp", "tall ship")),
        (1, "a [street lamp] in fog", "a [tall ship] in fog", "lamp ship", ("street lamp", "tall ship")),
        (1, "a [lonely place]", "a [ship on a lake]", "place lake", ("lonely place", "lake")),
        (1, "a wall with a [painting]", "a wall with a [mirror]", "", ("painting", "mirror")),
        (2, "a mug", "a mug [with three lemons in it]", "", ("mug", "lemons")),
        (2, "a mug", "a mug [and a spoon]", "mug mug", ("mug", "spoon")),
        (3, "a moth [surrounded by lanterns]", "a moth", "", ("lanterns", "background")),
        (3, "[a swan flies over] a field", "a field", "", ("swan", "background")),
        (3, "a fox [in front of barns]", "a fox", "fox fox", ("barns", "background")),
        # The span only describes it: what it stands before, or the blended word.
        (4, "a [ripe] plum on ice", "a [dried] plum on ice", "", ("plum", "plum")),
        (4, "a nun with [grey eyes]", "a nun with [green eyes]", "", ("grey eyes", "green eyes")),
        (4, "a [happy] old nun", "a [sad] old nun", "face face", ("face", "face")),
        (5, "a photo of a newt [asleep]", "a photo of a newt [awake]", "", ("newt", "newt")),
        (5, "a [crouching] tin soldier", "a [saluting] tin soldier", "", ("tin soldier", "tin soldier")),
        (6, "a [red] tram sits in snow", "a [black] tram sits in snow", "", ("tram", "tram")),
        (6, "a [red] bus stop in snow", "a [black] bus stop in snow", "stop stop", ("bus stop", "bus stop")),
        (7, "a tall jug filled with milk", "a tall [clay] jug filled with milk", "", ("jug", "jug")),
        (7, "a calf", "a calf [statue]", "calf statue", ("calf", "statue")),
        (7, "a man in a [coat]", "a man in a [robe]", "", ("coat", "robe")),
        (1, "a newt", "a toad", "", (None, None)),
        (1, "a newt", "a toad", "newt toad", ("newt", "toad")),
        (5, "[up]", "[down]", "", (None, None)),
    ],
)
def test_the_rule(
    category: int, original: str, edit: str, blended: str, expected: tuple[str | None, str | None]
) -> None:
    first, _, second = blended.partition(" ")
    assert grounding_phrases(category, original, edit, (first, second)) == expected


def test_brackets_that_do_not_pair_up() -> None:
    for good in ("", "a", "[a] b [c]", "[]"):
        assert not unbalanced(good), good
    for bad in ("[a", "a]", "]a[", "[a [b]]", "[a]]"):
        assert unbalanced(bad), bad


def test_every_item_is_a_pair_or_has_a_reason(mapping: Path) -> None:
    built = build_pairs(read_piebench(mapping))
    assert {p.id: (p.original_gsam_prompt, p.editing_gsam_prompt) for p in built.pairs} == PHRASES
    assert {item.id: item.reason for item in built.left_out} == LEFT_OUT
    assert [p.original_prompt for p in built.pairs] == [ITEMS[p.id]["original_prompt"] for p in built.pairs]
    assert reasons(built)["prompts are equal"] == {4: 1}


def test_categories_and_limit(mapping: Path) -> None:
    items = read_piebench(mapping)
    some = build_pairs(items, categories=[1, 6], limit=1)
    assert [p.id for p in some.pairs] == ["111000000001", "611000000001"]
    why = {item.id: item.reason for item in some.left_out}
    assert why["112000000002"] == "beyond the first 1 of its category"
    assert why["211000000001"] == "category not asked for"
    assert len(some.pairs) + len(some.left_out) == len(ITEMS)


def test_a_blended_word_that_is_no_pair_of_words_counts_as_none(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(json.dumps({"1": item(6, "a [red] bus", "a [blue] bus", "bus")}))
    (pair,) = build_pairs(read_piebench(path)).pairs
    assert pair.original_gsam_prompt == "bus"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not JSON"),
        ([item(1, "a", "b")], "expected a non-empty JSON object from id to item, found list; a list of pairs needs"),
        ({}, "non-empty"),
        ({"7": "x"}, "id '7' is a str"),
        (
            {"7": item(1, "a", "b") | {"editing_type_id": "11"}},
            "id '7', key 'editing_type_id': unknown kind of edit '11'",
        ),
        ({"7": item(1, "a", "b") | {"original_prompt": None}}, "id '7', key 'original_prompt'"),
        ({"7": {"editing_type_id": "1", "original_prompt": "a"}}, "id '7', key 'editing_prompt': is missing"),
        ({"a b": item(1, "a", "b")}, "id 'a b', key 'id'"),
    ],
)
def test_malformed_files_are_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: Any, said: str
) -> None:
    path = tmp_path / "m.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    code, _, err = run(capsys, "pairs", "build", "--piebench", path, "--out", tmp_path / "p.json")
    assert code == 2
    assert said in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "p.json").exists()


def test_build_on_the_command_line(capsys: pytest.CaptureFixture[str], mapping: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.json"
    words = ("pairs", "build", "--piebench", mapping, "--out", out)
    code, text, _ = run(capsys, *words)
    assert code == 0
    assert f"{len(PHRASES)} pairs" in text
    assert "left out: prompts are equal" in text
    assert [p.id for p in load_pairs(out)] == list(PHRASES)
    assert json.loads(out.read_text())[0]["editing_type_id"] == "1"
    report = json.loads((tmp_path / "p.left-out.json").read_text())
    assert {one["id"]: one["reason"] for one in report} == LEFT_OUT
    assert run(capsys, "pairs", "check", out)[0] == 0
    code, _, err = run(capsys, *words)
    assert code == 2
    assert "exists already" in err
    assert run(capsys, *words, "--force", "--category", "colour", "--limit", 1)[0] == 0
    assert [p.id for p in load_pairs(out)] == ["611000000001"]
    assert "'--limit'" in run(capsys, *words, "--force", "--limit", 0)[2]
    assert "did you mean 'change colour'" in run(capsys, *words, "--force", "--category", "colur")[2]
    assert "the same file" in run(capsys, "pairs", "build", "--piebench", mapping, "--out", mapping, "--force")[2]
    assert "there is no PIE-Bench file" in run(capsys, *words[:3], tmp_path / "no.json", *words[4:], "--force")[2]
    assert "cannot be written" in run(capsys, *words[:5], mapping / "p.json")[2]
    assert run(capsys, *words[:5], tmp_path / "new" / "p.json")[0] == 0  # the folder is made
    code, text, _ = run(capsys, "pairs", "show", "611000000001", "--pairs", out)
    assert json.loads(text)["editing_gsam_prompt"] == "kettle"
    assert "did you mean '611000000001'" in run(capsys, "pairs", "show", "611000000002", "--pairs", out)[2]


def test_nothing_left_is_an_error_that_names_the_report(
    capsys: pytest.CaptureFixture[str], mapping: Path, tmp_path: Path
) -> None:
    out = tmp_path / "p.json"
    mapping.write_text(json.dumps({"000000000001": ITEMS["000000000001"]}))
    code, _, err = run(capsys, "pairs", "build", "--piebench", mapping, "--out", out)
    assert code == 2
    assert "none of the 1 items" in err
    assert not out.exists()
    assert json.loads((tmp_path / "p.left-out.json").read_text())[0]["reason"] == "kind 0 (random)"


def test_check_lists_every_problem(capsys: pytest.CaptureFixture[str], mapping: Path, tmp_path: Path) -> None:
    good = as_items(build_pairs(read_piebench(mapping)).pairs)
    bad = [
        good[0] | {"id": "b", "original_prompt": "a [otter"},
        good[0] | {"id": "c", "editing_prompt": "a tiny [Otter] on a raft"},
        good[0] | {"id": "d", "original_gsam_prompt": " ~ "},
        good[0] | {"id": "e", "editing_gsam_prompt": ""},
        good[0] | {"id": "f", "editing_gsam_prompt": "#all"},
        good[0] | {"id": "g", "editing_type_id": "0", "original_prompt": 3},
        good[1],
        "x",
    ]
    path = tmp_path / "p.json"
    path.write_text(json.dumps([*good, *bad]))
    code, text, err = run(capsys, "pairs", "check", path)
    assert code == 2
    assert err == f"riebench: {path}: 9 problems, listed above; mend or leave out these items\n"
    for said in (
        "do not pair up",
        "is the original prompt",
        "has no words to look for",
        "has no text",
        "is '#all'",
        "unknown category '0'",
        "valid string",
        "occurs twice",
        "is a str",
    ):
        assert said in text, said


@needs_published
def test_the_rule_agrees_with_the_published_phrases(tmp_path: Path) -> None:
    """Phrases that the masks use, exactly, by brackets alone: the published file has no ``blended_word``."""
    published = {p.id: p for p in load_pairs(PUBLISHED)}
    mapping = {p.id: item(p.editing_type_id, p.original_prompt, p.editing_prompt) for p in published.values()}
    (tmp_path / "m.json").write_text(json.dumps(mapping))
    built = build_pairs(read_piebench(tmp_path / "m.json"))
    assert len(built.left_out) <= 1
    same: Counter[int] = Counter()
    used: Counter[int] = Counter()
    for pair in built.pairs:
        wanted = published[pair.id]
        for key, unused in (("original_gsam_prompt", 2), ("editing_gsam_prompt", 3)):
            if pair.editing_type_id != unused:
                used[pair.editing_type_id] += 1
                same[pair.editing_type_id] += getattr(pair, key) == getattr(wanted, key)
    shares = {number: same[number] / used[number] for number in CATEGORIES}
    floors = {1: 0.95, 2: 0.9, 3: 0.8, 4: 0.5, 5: 0.5, 6: 0.9, 7: 0.75, 8: 1.0, 9: 1.0}
    assert all(shares[number] >= floor for number, floor in floors.items()), shares
    assert same.total() / used.total() >= 0.88
