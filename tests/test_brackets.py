"""Square brackets in prompts, and how each protocol takes them off; pairs as people write them."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from riebench.cli import main
from riebench.engine.pair_worker import PairWorker
from riebench.engine.request import resolve
from riebench.engine.run_options import RunOptions
from riebench.instruments.loading import HandedIn, Instruments
from riebench.masks.region import ground
from riebench.models.mini import PAIRS
from riebench.pairs import Pair, check_pairs, load_pairs, read_contrasts, read_piebench, remarks_on, select
from riebench.pairs.brackets import without_brackets
from riebench.pairs.grounding import Marked

PUBLISHED = Path(__file__).parents[2] / "shared" / "data" / "riebench.json"
(PAIR,) = select(load_pairs(PAIRS), categories=[6], limit=1)


@pytest.mark.parametrize(
    ("prompt", "mended", "published"),
    [
        ("[an animation of]the wolf", "an animation of the wolf", "an animation ofthe wolf"),
        ("a wo[l]f", "a wolf", "a wolf"),
        ("two cat[s] on a mat", "two cats on a mat", "two cats on a mat"),
        ("a [red]car", "a red car", "a redcar"),
        ("a [red][wooden] car", "a red wooden car", "a redwooden car"),
        ("a [red], [blue] car", "a red, blue car", "a red, blue car"),
        ("a[ red] car ", "a red car", "a red car"),
        ("a [] car", "a car", "a car"),
        ("a plain car", "a plain car", "a plain car"),
    ],
)
def test_brackets_are_taken_off(prompt: str, mended: str, published: str) -> None:
    assert without_brackets(prompt) == mended
    assert without_brackets(prompt, as_published=True) == published


def worker_of(mini: Instruments, pair: Pair, protocol: str) -> PairWorker:
    options = RunOptions("none", "mid.0", pairs=[pair], strength=1, steps=1, protocol=protocol)
    return PairWorker(resolve(options)[0], HandedIn(mini.model, scorers=mini.scorers))


def key_of(worker: PairWorker, pair: Pair) -> str:
    return worker.recorder.task(pair).settings[0].key


def test_each_protocol_generates_from_its_own_prompt(mini: Instruments, monkeypatch: pytest.MonkeyPatch) -> None:
    glued = PAIR.model_copy(update={"original_prompt": "a [tilted]drop", "editing_prompt": "a [blue]drop"})
    generated: list[str] = []
    generate = mini.model.generate

    def spied(prompts: list[str], *args: Any, **kwargs: Any) -> Any:
        generated.extend(prompts)
        return generate(prompts, *args, **kwargs)

    monkeypatch.setattr(mini.model, "generate", spied)
    for protocol, prompts in (
        ("riebench", ["a blue drop", "a tilted drop"]),
        ("riebench+brackets", ["a blue drop", "a tilted drop"]),
        ("paper", ["a bluedrop", "a tilteddrop"]),
    ):
        worker = worker_of(mini, PAIR, protocol)
        worker.work(worker.recorder.task(glued))
        assert generated[:2] == prompts, protocol
        generated.clear()
    assert not glued._as_published  # the user's pair stays


def test_keys_change_with_the_reading_alone(mini: Instruments) -> None:
    worker = worker_of(mini, PAIR, "riebench")
    other = {"original_prompt": "a wo[l]f", "editing_prompt": "a dog"}
    assert PAIR.original_gsam_prompt == "drop"

    def content(pair: Pair) -> set[str]:
        from riebench.engine import recorder

        return set(recorder._read_otherwise(pair))

    assert content(PAIR) == set()
    assert content(PAIR.model_copy(update=other)) == {"prompts"}
    for phrase, read in (("Background", {"phrases"}), ("the background of Tom", set()), ("Drop", set())):
        assert content(PAIR.model_copy(update={"original_gsam_prompt": phrase})) == read
    assert key_of(worker, PAIR) != key_of(worker, PAIR.model_copy(update=other))
    assert [content(pair) for pair in load_pairs(PAIRS)] == [set()] * 180


def test_adaptive_keeps_its_keys_where_its_numbers_stay(mini: Instruments) -> None:
    codes = {}
    for protocol in ("riebench", "paper", "riebench+adaptive"):
        options = RunOptions(["sae", "sae-adaptive"], "mid.0", pairs=[PAIR], strength=1, steps=1, protocol=protocol)
        worker = PairWorker(resolve(options)[0], HandedIn(mini.model, scorers=mini.scorers))
        codes[protocol] = [method.code for method in worker.recorder.methods]
    assert codes["riebench"][1] == "c3405657ba53dced"  # that of the folders made before the ratio was of norms
    assert codes["paper"][1] == codes["riebench+adaptive"][1] != codes["riebench"][1]
    assert codes["paper"][0] == codes["riebench"][0]


def test_prompts_follow_a_copy() -> None:
    assert PAIR.base_prompt == without_brackets(PAIR.original_prompt)
    assert PAIR.model_copy(update={"original_prompt": "a [red] drop"}).base_prompt == "a red drop"


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="needs the published pairs, which are not part of the project")
def test_two_published_prompts_differ_between_the_protocols() -> None:
    pairs = load_pairs(PUBLISHED)
    differ = {pair.id for pair in pairs if pair.as_published().base_prompt != pair.base_prompt}
    assert differ == {"911000000003", "913000000008"}
    assert [pair for pair in pairs if pair.as_published().edit_prompt != pair.edit_prompt] == []
    assert {remark.item for remark in remarks_on(pairs)} >= {f"id {name!r}" for name in differ}


class Finder:
    """Finds one pixel, and keeps the phrases that it is asked for."""

    name, fingerprint = "finder", "0"

    def __init__(self) -> None:
        self.phrases: list[str] = []

    def find(self, image: np.ndarray, phrase: str) -> np.ndarray:
        self.phrases.append(phrase)
        mask = np.zeros((1, 4, 4), bool)
        mask[0, 0, 0] = True
        return mask


@pytest.mark.parametrize(
    ("phrase", "found", "covered"),
    [("Background", ["foreground"], 15), ("the BACKGROUND", ["foreground"], 15), ("#Everything", [], 16)],
)
def test_capital_letters_of_special_phrases_do_not_matter(phrase: str, found: list[str], covered: int) -> None:
    finder = Finder()
    region = ground(finder, np.zeros((4, 4, 3), np.uint8), phrase)
    assert finder.phrases == found
    assert region.pixels().sum() == covered
    finder = Finder()
    ground(finder, np.zeros((4, 4, 3), np.uint8), phrase, special=False)
    assert finder.phrases == [phrase]


def test_phrases_of_part_of_a_word_are_the_whole_word() -> None:
    assert Marked.parse("a wo[l]f in a [red] den").inside == ["wolf", "red"]
    assert Marked.parse("two cat[s] play").inside == ["cats"]


def written(path: Path, content: object, mark: bytes = codecs.BOM_UTF8) -> Path:
    path.write_bytes(mark + json.dumps(content).encode())
    return path


def test_files_with_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    item = PAIR.model_dump(exclude_none=True)
    assert load_pairs(written(tmp_path / "pairs.json", [item])) == [PAIR]
    pie = {"000": {n: item[n] for n in ("editing_type_id", "original_prompt", "editing_prompt")}}
    assert read_piebench(written(tmp_path / "pie.json", pie))[0].original_prompt == PAIR.original_prompt
    (tmp_path / "contrasts.txt").write_bytes(codecs.BOM_UTF8 + b"a [red] car\ta [blue] car\n")
    (contrasts,) = read_contrasts(tmp_path / "contrasts.txt").values()
    assert contrasts[0].original == "a red car"


def test_an_id_may_be_a_number(tmp_path: Path) -> None:
    items = [PAIR.model_dump() | {"id": number} for number in (7, 8, "8", True)]
    pairs, problems = check_pairs(written(tmp_path / "pairs.json", items))
    assert [pair.id for pair in pairs] == ["7", "8"]
    assert "twice" in str(problems[0])
    assert problems[1].key == "id"


def test_a_number_chooses_a_pair(tmp_path: Path) -> None:
    file = written(tmp_path / "pairs.json", [PAIR.model_dump() | {"id": 7}, PAIR.model_dump() | {"id": 8}])
    for ids in (7, [np.int64(7)], "7"):
        options = RunOptions("none", "mid.0", pairs=file, ids=ids)  # type: ignore[arg-type]
        assert [pair.id for pair in resolve(options)[1]] == ["7"]


def test_descriptions_with_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    from riebench.features.score_request import _read_descriptions
    from riebench.paint.shelf import read_descriptions

    file = written(tmp_path / "words.json", {"mid.0": {"12": "a red heart"}})
    assert _read_descriptions(file) == read_descriptions(file) == {"mid.0": {12: "a red heart"}}


def test_remarks_do_not_fail_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strange = {
        "original_prompt": "[a view of]the drop " + "very " * 60,
        "original_gsam_prompt": "Background",
        "editing_gsam_prompt": "Cat, dog",
    }
    file = written(tmp_path / "pairs.json", [PAIR.model_dump() | strange])
    keys = [(remark.key, remark.what.split()[0]) for remark in remarks_on(load_pairs(file))]
    assert keys == [
        ("original_prompt", "'of]the'"),
        ("original_prompt", "has"),
        ("original_gsam_prompt", "'Background'"),
        ("editing_gsam_prompt", "has"),
        ("editing_gsam_prompt", "'Cat,"),
    ]
    with pytest.raises(SystemExit) as left:
        main(["pairs", "check", str(file)])
    assert not left.value.code
    assert "5 remarks" in capsys.readouterr().out
