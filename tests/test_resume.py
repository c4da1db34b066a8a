"""Runs that are broken off, gone on with and repeated."""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import riebench
from riebench.cli import main
from riebench.engine.recorder import Recorder
from riebench.engine.request import Request, resolve
from riebench.engine.run import carry_out
from riebench.engine.run_options import RunOptions
from riebench.instruments.loading import Instruments
from riebench.methods.registry import METHODS
from riebench.pairs import Pair
from riebench.records import Record, RunFolder, read_records
from riebench.util.errors import UserError

WORDS = ("run", "--block", "down.2.1", "--limit", "1", "--category", "1", "--category", "6", "--category", "8")
REQUEST, THREE = resolve(RunOptions("none", "mid.0", strength=1, category=[1, 6, 8], limit=1, keep_images=3))

# Each method says in the file "planned" for which pair it was asked, and does what it is named for.
STRANGERS = """
import os, resource, signal
from pathlib import Path
from riebench.methods import Plan, method

def planned(seen):
    with open("planned", "a") as file:
        file.write(seen.pair.id + "\\n")
    return len(Path("planned").read_text().split())

class Base:
    def plan(self, seen):
        self.act(planned(seen))
        return Plan({site: seen.source[site] - seen.base[site] for site in seen.sites})

@method("plain")
class Plain(Base):
    def act(self, number): pass

@method("once")
class Once(Base):
    def act(self, number):
        if number == 2:
            os.kill(os.getpid(), signal.SIGINT)

@method("term")
class Term(Base):
    def act(self, number):
        if number == 1:
            os.kill(os.getpid(), signal.SIGTERM)

@method("twice")
class Twice(Base):
    def act(self, number):
        if number == 2:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

@method("fails")
class Fails(Base):
    def act(self, number):
        if not Path("mended").exists():
            raise ValueError("not mended")

@method("full")
class Full(Base):
    def act(self, number):
        size = next(Path("r").glob("records*")).stat().st_size  # a name in one word would be data of the method
        if number == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 200, resource.RLIM_INFINITY))
"""


pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(autouse=True)
def _mini_once(mini: Instruments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run takes the mini that is loaded already, and finds the strangers' methods."""
    monkeypatch.setattr("riebench.engine.pair_worker.load_instruments", lambda *_, **__: mini)
    monkeypatch.setattr(METHODS, "registered", dict(METHODS.registered))
    (tmp_path / "resumed_strangers.py").write_text(STRANGERS)
    monkeypatch.syspath_prepend(tmp_path)


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(list(words))
    return int(left.value.code or 0)


def stranger(name: str, *words: str) -> int:
    return run(*WORDS, "--method", f"resumed_strangers:{name}", "--strength", "1", "--out", "r", *words)


def planned() -> list[str]:
    return Path("planned").read_text().split()


def run_file(folder: str = "r") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(folder) / "run.json").read_text())
    return content


def numbers(records: list[Record]) -> dict[str, dict[str, float | None]]:
    return {record.key: record.metrics for record in records}


def test_killed_at_random_moments(
    script: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = script("kill_test", "--kills", "20", "--work", str(tmp_path / "kills"))
    said = capsys.readouterr().out
    assert code == 0, said
    assert "20 kills" in said
    # What the script says is seen from here too.
    expected = read_records(tmp_path / "kills" / "unbroken")
    assert len(expected) == 36
    assert all(record.status == "ok" for record in expected)
    for folder in (tmp_path / "kills").glob("broken-*"):
        assert numbers(read_records(folder)) == numbers(expected)
        assert (folder / "records.jsonl").read_bytes().count(b'{"key":') == 36


def test_only_what_is_missing_is_done(
    mini: Instruments, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stranger("Plain") == 0
    assert len(planned()) == 3
    rows: list[int] = []
    generate = mini.model.generate

    def generating(prompts: list[str], *given: Any, **more: Any) -> Any:
        rows.append(len(prompts))
        return generate(prompts, *given, **more)

    monkeypatch.setattr(mini.model, "generate", generating)
    assert stranger("Plain", "--batch", "3", "--keep-images", "0") == 0
    assert (len(planned()), rows) == (3, [])
    assert stranger("Plain", "--strength", "1,2", "--category", "9") == 0
    assert len(planned()) == 7
    assert sorted(rows) == [1, 1, 1, 2, 2, 2, 2, 2]  # base and source of four pairs; edits: one, and two of the new
    records = read_records(Path("r"))
    assert len(records) == len(numbers(records)) == 8
    assert "3 records are in r; 5 are left to make" in capsys.readouterr().err
    said = run_file()
    assert [s["records_before"] for s in said["sessions"]] == [0, 3, 3]
    assert [s["written"] for s in said["sessions"]] == [3, 0, 5]
    assert (said["pairs"], said["strengths"], said["arms"][0]["strengths"]) == (4, [1.0, 2.0], [1.0, 2.0])


def test_an_interval_more_is_all_that_is_done(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert stranger("Plain", "--steps", "2") == 0
    assert stranger("Plain", "--steps", "2", "--on-steps", "1,all") == 0
    assert "3 records are in r; 3 are left to make" in capsys.readouterr().err
    records = read_records(Path("r"))
    assert [record.setting.on_steps for record in records] == [None] * 3 + [(1,)] * 3
    settings = [json.loads(record.setting.model_dump_json()) for record in records]
    assert ["on_steps" in setting for setting in settings] == [False] * 3 + [True] * 3
    said = run_file()
    assert said["arms"][0]["on_steps"] == [None, [1]]
    assert [s["request"]["conditions"][0]["on_steps"] for s in said["sessions"]] == [[None], [[1], None]]
    assert run("rerun", "r", "--out", "new") == 0
    assert numbers(read_records(Path("new"))) == numbers(records)


def test_failures_are_repeated_on_demand(capsys: pytest.CaptureFixture[str]) -> None:
    assert stranger("Fails", "--max-failures", "2") == 1
    assert len(planned()) == 2
    assert "ended after 2 pairs with failures (--max-failures 2); 1 pairs are left" in capsys.readouterr().err
    assert stranger("Fails") == 1
    assert len(planned()) == 3
    Path("mended").touch()
    assert stranger("Fails") == 1  # nothing is missing; the failures are there
    assert len(planned()) == 3
    assert stranger("Fails", "--retry-failed") == 0
    assert len(planned()) == 6
    assert [r.status for r in read_records(Path("r"))] == ["ok"] * 3
    assert Path("r/records.jsonl").read_text().count('{"key":') == 3
    assert run_file()["sessions"][0]["ended"].startswith("ended after 2 pairs")


def test_force_starts_over(capsys: pytest.CaptureFixture[str]) -> None:
    stranger("Plain")
    before = read_records(Path("r"))
    assert stranger("Plain", "--force") == 0
    assert "3 records of 3 pairs in r are discarded" in capsys.readouterr().err
    assert len(planned()) == 6
    assert numbers(read_records(Path("r"))) == numbers(before)
    assert len(run_file()["sessions"]) == 1


@pytest.mark.parametrize(("name", "code", "whole"), [("Once", 130, 2), ("Term", 143, 1)])
def test_a_signal_ends_after_the_pair_in_flight(
    capfd: pytest.CaptureFixture[str], name: str, code: int, whole: int
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    assert stranger(name) == code
    assert signal.getsignal(signal.SIGINT) is handler
    out, err = capfd.readouterr()
    assert "stopping after this pair" in err
    assert f"{3 - whole} pairs are left" in err
    assert f"{whole} {'pair' if whole == 1 else 'pairs'} in" in out
    assert len(read_records(Path("r"))) == whole
    assert "finished" in run_file()
    assert stranger(name) == 0
    assert len(read_records(Path("r"))) == len(planned()) == 3


def test_two_signals_end_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    assert stranger("Twice") == 130
    assert "riebench: stopped at once; the current pair is lost" in capfd.readouterr().err
    assert len(read_records(Path("r"))) == 1
    assert run_file()["sessions"][0]["ended"].startswith("KeyboardInterrupt")
    assert stranger("Twice") == 0
    assert len(read_records(Path("r"))) == 3


def test_python_stops_like_the_command_line() -> None:
    with pytest.raises(KeyboardInterrupt):
        riebench.run("resumed_strangers:Once", "mid.0", limit=1, strength=1, out="r", quiet=True)
    assert len(read_records(Path("r"))) == 2
    Path("planned").unlink()
    with pytest.raises(KeyboardInterrupt):  # at the second pair that is planned, again
        riebench.run("resumed_strangers:Once", "mid.0", limit=1, strength=1, out="r", quiet=True)
    assert len(read_records(Path("r"))) == 4
    found = riebench.run("resumed_strangers:Fails", "mid.0", limit=1, strength=1, out="f", max_failures=1, quiet=True)
    assert [r.status for r in found.records] == ["failed"]
    Path("mended").touch()
    found = riebench.run(
        "resumed_strangers:Fails", "mid.0", limit=1, strength=1, out="f", category=[1], retry_failed=True, quiet=True
    )
    assert [r.status for r in found.records] == ["ok"]


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_a_full_disk_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        assert stranger("Full", "--keep-images", "0") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("riebench: r/records.jsonl cannot be written (")
    assert last.endswith("make room and give the same command again")
    assert len(read_records(Path("r"))) == 1
    assert stranger("Full") == 0
    assert len(read_records(Path("r"))) == 3


def test_pictures_are_there_before_the_records_that_promise_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(self: RunFolder, records: list[Record]) -> None:
        for record in records:
            assert (self.path / "images" / f"{record.pair_id}-{record.key}.png").stat().st_size
        raise UserError("no room")

    monkeypatch.setattr(RunFolder, "append", gone)
    with pytest.raises(UserError, match="no room"):
        carry_out(REQUEST, THREE, RunOptions(out="r", quiet=True))


def test_a_second_process_is_refused_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("riebench.engine.pair_worker.load_instruments", lambda *_, **__: pytest.fail("loaded"))
    with RunFolder(Path("r")):
        assert stranger("Plain", "--force") == 2
    assert "is writing to r; wait for it, or give another --out" in capsys.readouterr().err


def test_another_protocol_is_refused_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger("Plain")
    monkeypatch.setattr("riebench.engine.pair_worker.load_instruments", lambda *_, **__: pytest.fail("loaded"))
    assert stranger("Plain", "--protocol", "paper") == 2
    assert "the protocol 'riebench', this run has 'paper'; give another --out" in capsys.readouterr().err


def test_what_cannot_stand_in_one_folder(capsys: pytest.CaptureFixture[str]) -> None:
    stranger("Plain")
    for words, said in (
        (("--steps", "2"), "the steps 1, this run has 2"),
        (("--protocol", "paper"), "the protocol 'riebench', this run has 'paper'"),
        (("--seed", "5"), "not 5; give another --out"),
    ):
        assert stranger("Plain", *words) == 2, words
        assert said in capsys.readouterr().err
    pairs = [pair.model_copy(update={"original_gsam_prompt": "shape"}) for pair in THREE]
    request, _ = resolve(RunOptions("resumed_strangers:Plain", "down.2.1", strength=1, pairs=pairs))
    with pytest.raises(UserError, match=f"{THREE[0].id}' with other phrases"):
        carry_out(request, pairs, RunOptions(out="r", quiet=True))
    assert len(read_records(Path("r"))) == 3


def test_rerun(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    Path("p.json").write_text(json.dumps([pair.model_dump() for pair in THREE]))
    stranger("Plain", "--pairs", "p.json", "--seed", "3")
    stranger("Plain", "--pairs", "p.json", "--seed", "3", "--strength", "2")
    expected = read_records(Path("r"))
    lines = Path("r/records.jsonl").read_text().splitlines(keepends=True)
    Path("r/records.jsonl").write_text("".join(lines[:5]))  # a shared part and four records
    assert run("rerun", "r") == 0
    assert numbers(read_records(Path("r"))) == numbers(expected)
    assert len(planned()) == 8
    assert run("rerun", "r", "--out", "new") == 0
    assert numbers(read_records(Path("new"))) == numbers(expected)
    assert len(planned()) == 14
    Path("p.json").write_text(json.dumps([pair.model_dump() for pair in THREE], indent=1))
    assert run("rerun", "r") == 2
    assert "p.json has changed since the run" in capsys.readouterr().err
    Path("p.json").unlink()
    assert run("rerun", "r") == 2
    assert "p.json of the run is gone" in capsys.readouterr().err
    assert run("rerun", str(tmp_path / "nowhere")) == 2
    assert "has no run.json" in capsys.readouterr().err


def test_rerun_of_what_no_file_keeps(capsys: pytest.CaptureFixture[str]) -> None:
    everywhere = np.ones((128, 128), bool)
    masks = {pair.id: (everywhere, everywhere) for pair in THREE}
    riebench.run("none", "mid.0", pairs=THREE, strength=1, masks=masks, out="r", quiet=True)
    assert run("rerun", "r") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.endswith("cannot be repeated from its folder: masks, pairs were handed in from Python")


def test_run_file_says_what_was_run() -> None:
    asked = REQUEST.model_copy(update={"seed": 7})
    carry_out(asked, THREE, RunOptions(out="r", quiet=True))
    said = run_file()
    (session,) = said["sessions"]
    assert session["seeds"] == {pair.id: 7 for pair in THREE}
    assert (said["model"], said["pairs"], session["failed"], session["ended"]) == ("mini", 3, 0, "finished")
    assert {"command", "code", "device", "host", "pid", "started", "finished", "seconds"} <= set(session)
    assert {"commit", "dirty", "torch"} <= set(session["code"])
    request = Request.model_validate(session["request"])
    assert request.pairs() == THREE
    assert request == asked
    assert (request.seed, request.conditions[0].method) == (7, "none")
    assert Request.model_validate_json(request.model_dump_json()) == request


def test_a_key_is_of_what_changes_numbers(mini: Instruments) -> None:
    def key(change: dict[str, Any] | None = None, pair: Pair = THREE[0], **more: Any) -> str:
        given: dict[str, Any] = {"method": "steering", "block": "mid.0", "strength": 1.0} | more
        request, _ = resolve(RunOptions(**given))
        return Recorder(request, replace(mini, **(change or {}))).task(pair).settings[0].key

    first = key()
    assert first == key(on_steps="all") == key(on_steps="0")  # the only step
    assert key(steps=4, on_steps="0-3") == key(steps=4)
    assert key(batch=3) == key(keep_images=9) == key(alone=True) == first
    assert key({"parts": {**mini.parts, "sae": "x"}}) == first  # which steering does not use
    assert key(pair=THREE[0].model_copy(update={"seed": 42}), seed=THREE[0].seed) == first
    other = [
        *(key({"parts": {**mini.parts, part: "x"}}) for part in ("model", "masker", "clip", "lpips")),
        *(key({"conditions": {**mini.conditions, name: "x"}}) for name in mini.conditions),
        key({"parts": {**mini.parts, "sae": "x"}}, method="sae"),
        *(
            key(pair=THREE[0].model_copy(update={name: "x"}))
            for name in ("id", "editing_prompt", "editing_gsam_prompt")
        ),
        key(method="sae"),
        key(strength=2.0),
        key(steps=2),
        key(steps=2, on_steps="0"),
        key(steps=2, on_steps="1"),
        key(seed=12345),
        key(protocol="paper"),
        key(block="down.2.1"),
        key(method="sae", k=3),
    ]
    assert len({first, *other}) == len(other) + 1
