"""Errors that need no weights: one line, exit code 2, before torch is imported."""

from __future__ import annotations

from pathlib import Path

import pytest
from fresh_commands import FreshCommands

import riebench
from riebench.cli import main
from riebench.util.errors import UserError

ROOT = Path(__file__).parents[1]
ITEM = '{"id": "a", "editing_type_id": "1", "original_prompt": "a red heart", "editing_prompt": "a red star", '
RUN = ("run", "--method", "sae", "--block", "mid.0")
FLUX = ("run", "--model", "flux-schnell", "--pairs", "pairs.json", "--weights", "empty")
FLUX_SAE = (*FLUX, "--method", "sae", "--block", "double.1")
COLLECT = ("sae", "collect", "--out", "o")
GRAMMAR = (*COLLECT, "--prompts", "grammar", "--count", "2")
TRAIN = ("sae", "train", "--out", "o")
ABLATE = ("ablate", "--out", "o")
LIVE = (*TRAIN, "--model", "mini", "--prompts", "grammar", "--count", "4")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "--method", "sea", "--block", "mid.0"), "unknown method 'sea'; did you mean 'sae'?"),
        (("run", "--method", "no_such_module:Method", "--block", "mid.0"), "'no_such_module:Method' cannot be loaded"),
        (
            ("run", "--method", "mine.py", "--block", "mid.0"),
            "'mine.py' is a file; name the method in it, as mine.py:NAME",
        ),
        ((*RUN, "--metrics", "mine.py"), "'mine.py' is a file; name the metric in it, as mine.py:NAME"),
        (("run", "--method", "sae", "--block", "mid.1"), "unknown block 'mid.1'; did you mean 'mid.0'?"),
        (("run", "--method", "sae", "--block", "down.1.0"), "unknown SAE 'down.1.0'"),
        (("run", "--block", "mid.0"), "no method was named"),
        (("run", "--method", "sae"), "no block was named"),
        ((*RUN, "--k", "0"), "option 'k' of method 'sae' is '0'"),
        ((*RUN, "--k", "x"), "option 'k' of method 'sae' is 'x'"),
        ((*RUN, "--k", ""), "option 'k' of method 'sae' is ''"),
        ((*RUN, "--k", "385"), "k is 385, but 'sae' in mid.0 has 384 to choose from"),
        ((*RUN, "--k", "5", "--option", "k=4"), "k is given twice"),
        ((*RUN, "--strength", "much"), "strength is 'much'"),
        ((*RUN, "--strength", ""), "strength is ''"),
        ((*RUN, "--steps", "0"), "steps is 0; expected 1 to 1000"),
        ((*RUN, "--cpus-per-worker", "2"), "are shares of several workers; leave them out, or give --workers"),
        ((*RUN, "--steps", "100000"), "steps is 100000; expected 1 to 1000"),
        ((*RUN, "--option", "spatal=1"), "did you mean 'spatial'?"),
        ((*RUN, "--option", "spatial"), "'spatial' is no name=value"),
        ((*RUN, "--set", "sae.k=3"), "has no SAE folder that fits sae.k=3"),
        ((*RUN, "--set", "sae.features=3"), "has no SAE folder that fits sae.features=3"),
        ((*RUN, "--set", "sae.k=16", "--set", "sae.k=8"), "--set gives sae.k twice, as 16 and as 8"),
        ((*RUN, "--device", "cpu", "--set", "model.device=cuda"), "the setting model.device is given twice"),
        ((*RUN, "--option", "only-add=true", "--option", "only_add=false"), "--option gives only_add twice"),
        ((*TRAIN, "empty", "--k", "4", "--k", "8"), "--k is given 2 times; give it once, its values with commas"),
        ((*RUN, "--set", "masker.blur=3"), "unknown setting 'masker.blur'"),
        ((*RUN, "--set", "masker.blur_kernel"), "'masker.blur_kernel' is no name=value"),
        ((*RUN, "--set", "masker.blur_kernel=wide"), "the setting masker.blur_kernel is 'wide'"),
        ((*RUN, "--set", "model.guidance=3"), "the setting model.guidance is not for mini"),
        (("run", "--method", "none", "--block", "all", "--set", "sae.k=16"), "no method of the run uses SAEs"),
        ((*RUN, "--protocol", "papers"), "unknown protocol 'papers'; did you mean 'paper'?"),
        ((*RUN, "--category", "colur"), "did you mean 'change colour'?"),
        ((*RUN, "--id", "mini-1-000"), "did you mean 'mini-1-00'?"),
        ((*RUN, "--model", "minni"), "unknown model 'minni'; did you mean 'mini'?"),
        ((*RUN, "--model", "no_such_module:entry"), "'no_such_module:entry' cannot be loaded"),
        ((*RUN, "--pairs", "no.json"), "there is no pair file 'no.json'"),
        ((*RUN, "--out", "file/below"), "the folder file/below cannot be written"),
        ((*RUN, "--out", "file"), "the folder file cannot be written"),
        ((*RUN, "--out", "/proc/nowhere"), "the folder /proc/nowhere cannot be written"),
        ((*RUN, "--out", "/sys"), "the folder /sys cannot be written"),
        ((*RUN, "--limmit", "1"), "--limit"),
        (("run", "--preset", "papers"), "unknown preset 'papers'; did you mean 'paper'?"),
        (("run", "--preset", "paper", "--k", "5"), "leave out k or preset"),
        (("bench", "--block", "mid.1"), "unknown block 'mid.1'"),
        (("bench", "--json", "empty"), "empty cannot be written: --json expected a file in a folder that exists"),
        (("bench", "--json", "nowhere/b.json"), "nowhere/b.json cannot be written"),
        (("rerun", "no-folder"), "no-folder has no run.json"),
        (("rerun", "empty"), "empty has no run.json"),
        (("rerun",), "Missing argument 'DIR'"),
        (("mini", "generate", "a red dog"), "'dog'"),
        (("mini", "generate", "a red heart", "--steps", "0"), "--steps is 0"),
        (("mini", "generate", "a red heart", "--out", "file/below.png"), "file/below.png cannot be written"),
        (("mini", "generate", "a red heart", "--out", "heart.tex"), "heart.tex cannot be written"),
        (("mini", "draw", "a red heart", "--out", "file/below.png"), "file/below.png cannot be written"),
        (("mini", "check", "--part", "masks"), "did you mean 'masker'?"),
        (("table", "empty"), "empty holds no records.jsonl"),
        ((*FLUX, "--method", "sae", "--block", "double.19"), "unknown block 'double.19'; did you mean 'double.9'?"),
        (FLUX_SAE, "unknown SAE 'double.1'; known: none; name a folder with --set sae.folder=DIR"),
        ((*FLUX_SAE, "--set", "sae.folder=nowhere"), "'nowhere' is neither a folder nor in the hub's cache"),
        ((*FLUX_SAE, "--set", "sae.folder=/no/where"), "'/no/where' is no folder, and no repository of the hub"),
        (
            (*FLUX_SAE, "--set", "sae.folder=empty"),
            "empty has no SAE folder that fits; expected folders named for sites",
        ),
        ((*FLUX_SAE, "--set", "sae.folder=saes", "--k", "65"), "k is 65, but 'sae' in double.1 has 64 to choose from"),
        ((*FLUX, "--method", "neurons", "--block", "single.0", "--k", "12289"), "has 12288 to choose from"),
        (
            (*FLUX, "--method", "steering", "--block", "all", "--set", "model.guidance=3"),
            "flux-schnell has no setting model.guidance",
        ),
        ((*FLUX, "--method", "steering", "--block", "all", "--set", "model.size=520"), "expected a multiple of 16"),
        (("paint", "--headless", "file"), "the state file cannot be used: Invalid JSON"),
        (("paint", "--headless", "file", "--port", "80"), "--port is of the page"),
        (("paint", "--headless", "file", "--count", "3"), "--count is of the page"),
        (("paint", "--out", "a.png"), "--out is the picture of --headless"),
        (("paint", "--model", "sdxl-turbo"), "name an SAE with --sae DIR"),
        (("paint", "--host", "localhost"), "--host is 'localhost'"),
        (COLLECT, "no prompts were named"),
        ((*COLLECT, "--prompts", "grammar"), "say how many with --count"),
        ((*COLLECT, "--prompts", "no.txt"), "no.txt cannot be read"),
        ((*COLLECT, "--prompts", "file"), "the prompt file file holds no prompt"),
        ((*GRAMMAR, "--model", "minni"), "unknown model 'minni'; did you mean 'mini'?"),
        ((*GRAMMAR, "--site", "mid.1"), "unknown site 'mid.1'; did you mean 'mid.0'?"),
        ((*GRAMMAR, "--steps", "0"), "steps is 0; expected 1 to 1000"),
        ((*GRAMMAR, "--positions", "0"), "positions is 0; expected 1 or more"),
        ((*GRAMMAR, "--split", "held"), "did you mean 'held-out'?"),
        ((*GRAMMAR, "--store", "float32"), "did you mean 'float16'?"),
        ((*GRAMMAR, "--count", "1000000000000", "--model", "sdxl-turbo", "--prompts", "file"), "holds no prompt"),
        ((*GRAMMAR, "--set", "model.guidance=3"), "the setting model.guidance is not for mini"),
        (
            ("sae", "collect", "--prompts", "grammar", "--count", "2", "--out", "file"),
            "the folder file cannot be written",
        ),
        (("sae", "show", "mid.0", "3", "--find", "red"), "--find is of a list of features"),
        (("sae", "show", "mid.0", "3", "--out", "run"), "run holds a run (run.json); give another --out"),
        (("sae", "show", "mid.0", "--set", "masker.union=before"), "the setting masker.union has no effect here"),
        (("sae", "score", "mid.0", "--neutral", "a dog"), "mini cannot draw prompt 1"),
        (("sae", "score", "mid.0", "--out", "run"), "run holds a run (run.json); give another --out"),
        (
            ("sae", "score", "mid.0", "--set", "masker.add_object=both"),
            "masker.add_object has no effect here",
        ),
        (("sae", "train", "--out", "o"), "give either a folder"),
        ((*TRAIN, "empty"), "empty holds no manifest.json"),
        ((*TRAIN, "nowhere"), "nowhere holds no manifest.json"),
        ((*TRAIN, "file"), "file is no folder"),
        ((*TRAIN, "empty", "--preset", "papers"), "unknown preset 'papers'; did you mean 'paper'?"),
        ((*TRAIN, "empty", "--k", "5,x"), "k is '5,x'; expected whole numbers"),
        ((*TRAIN, "empty", "--aux", "maybe"), "aux is 'maybe'; expected on, off, or on,off"),
        ((*TRAIN, "empty", "--lr", "-1"), "lr is -1.0"),
        ((*TRAIN, "empty", "--prompts", "grammar"), "--prompts belongs to --model"),
        ((*TRAIN, "empty", "--count", "3"), "--count belongs to --model"),
        ((*TRAIN, "empty", "--run-steps", "3"), "--run-steps belongs to --model"),
        ((*TRAIN, "empty", "--split", "held-out"), "--split belongs to --model"),
        ((*TRAIN, "empty", "--set", "model.guidance=3"), "--set model.guidance belongs to --model"),
        ((*LIVE, "--model", "minni"), "unknown model 'minni'"),
        ((*LIVE, "--site", "mid.1"), "unknown site 'mid.1'"),
        ((*LIVE, "--k", "400"), "k is 400, but an SAE of down.2.1 has 384 features at expansion 4"),
        ((*LIVE, "--batch", "5000"), "there are 256 vectors of down.2.1, a batch takes 5000"),
        (("ablate",), "Missing option '--out'"),
        ((*ABLATE, "--blocks", "mid.1"), "unknown block 'mid.1'; did you mean 'mid.0'?"),
        ((*ABLATE, "--blocks", ""), "no block was named"),
        ((*ABLATE, "--together", "mid.0"), "together names mid.0 alone; expected two blocks or more"),
        ((*ABLATE, "--model", "minni"), "unknown model 'minni'; did you mean 'mini'?"),
        ((*ABLATE, "--steps", "0"), "steps is 0; expected 1 to 1000"),
        ((*ABLATE, "--prompts", "0"), "--prompts is 0; expected 1 or more, or a file"),
        ((*ABLATE, "--prompts", "no.txt"), "no.txt cannot be read"),
        ((*ABLATE, "--prompts", "file"), "the prompt file file holds no prompt"),
        ((*ABLATE, "--set", "model.guidance=3"), "the setting model.guidance is not for mini"),
        (("ablate", "--out", "file"), "the folder file cannot be written"),
        (("ablate", "--out", "/proc/nowhere"), "the folder /proc/nowhere cannot be written"),
        ((*ABLATE, "--model", "flux-schnell"), "give --prompts FILE"),
    ],
)
def test_one_line_before_torch(fresh: FreshCommands, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    (tmp_path / "pairs.json").write_text(f'[{ITEM}"original_gsam_prompt": "heart", "editing_gsam_prompt": "star"}}]')
    (tmp_path / "saes" / "double.1").mkdir(parents=True)
    (tmp_path / "saes" / "double.1" / "config.json").write_text('{"n_dirs_local": 64, "d_model": 3072, "k": 8}')
    (tmp_path / "saes" / "double.1" / "state_dict.safetensors").touch()
    done = fresh(*words)
    assert done.code == 2, done.out + done.err
    assert done.err.startswith("riebench: ")
    assert done.err.count("\n") == 1, done.err
    assert said in done.err
    assert not done.slow


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not JSON (line 1: Expecting value)"),
        (b"[" * 100_000, "brackets inside brackets, too many to read"),
        (b'[{"a":' * 50_000, "brackets inside brackets, too many to read"),
        (b"\0" * 100, "not JSON (line 1: Expecting value)"),
        (b"\xff\xfe[\0]\0", "cannot be read: 'utf-8' codec can't decode"),
        (b"\xef\xbb\xbf[]", "expected a non-empty JSON list"),
        (b"[" + b"9" * 10_000 + b"]", "cannot be read: Exceeds the limit"),
        (b"[]", "expected a non-empty JSON list of pairs, found an empty one"),
        (b"{}", "expected a non-empty JSON list of pairs, found dict"),
        (b"NaN", "found float"),
        (b"[[]]", "item 0 is a list; expected an object with the keys of a pair"),
        (ITEM.encode() + b"}", "not JSON (line 1: "),
        (f"[{ITEM[:-2]}}}]".encode(), "item 0 (id 'a'), key 'original_gsam_prompt': is missing"),
        (f"[{ITEM.replace('1', '9' * 5000)[:-2]}}}]".encode(), "key 'editing_type_id': "),
        (f'[{ITEM}"seed": {"9" * 400}}}]'.encode(), "key 'original_gsam_prompt': is missing"),
    ],
)
def test_odd_pair_files(tmp_path: Path, content: bytes, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "odd.json").write_bytes(content)
    for words in ((*RUN, "--pairs", "odd.json"), ("pairs", "list", "--pairs", "odd.json")):
        with pytest.raises(SystemExit) as left:
            main(list(words))
        lines = capsys.readouterr().err.splitlines()
        assert (left.value.code, len(lines)) == (2, 1)
        assert lines[0].startswith("riebench: ")
        assert said in lines[0]


def test_a_pair_file_that_is_no_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for path, said in ((tmp_path, "Is a directory"), (tmp_path / "a\0b", "null"), ("x" * 300, "too long")):
        with pytest.raises(UserError, match=said):
            riebench.run("none", "mid.0", pairs=path)
