"""Links of documents lead somewhere, commands are understood, and the examples of README and pages work on mini.

A page is the README.md of a room. Its commands are the indented lines that begin with ``riebench``, ``scripts/`` or
``python``; the lines of a page run one after the other in one empty folder, together with its fenced Python code, which
keeps its names from block to block. Two HTML comments say otherwise of the block that follows:

- ``<!-- not run: WHY -->``: only the options of its commands are checked (weights, a network, a GPU or minutes needed);
  an output is not compared.
- ``<!-- file: NAME -->``: the fenced block is the content of a file that the commands after it read.

Lines with ``scripts/`` and ``python`` are never run, since those make environments or take minutes: their files exist.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import typer

from riebench.cli import main
from riebench.cli.main import program
from riebench.methods.registry import METHODS
from riebench.metrics import METRICS
from riebench.models.mini import PAIRS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("riebench/*/README.md"))]
DOCUMENTS = sorted({*ROOT.glob("*.md"), *ROOT.glob("riebench/**/*.md"), *ROOT.glob("results/**/*.md")})
PROGRAM: Any = typer.main.get_command(program())
COMMAND = re.compile(r"(?:[A-Z_]+=\S+ )*(riebench|scripts/\S+|python3?) ?")
MARKER = re.compile(r"<!-- (not run|file): (.+) -->")
NO_MODULES = {"riebench.csv"}  # a file
LACKING = ("parts are missing", "neither a folder nor in the hub's cache", "cannot be written")
NUMBER = re.compile(r"(?:\d[\d,]*\.?\d*|\.\d+)")
LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A block of code: the commands of an indented one, or the text of a fenced one."""

    line: int
    language: str
    text: str
    not_run: str | None = None
    file: str | None = None

    def commands(self) -> list[str]:
        lines = self.text.replace("\\\n", " ").splitlines() if self.language == "indented" else []
        return [line.strip() for line in lines if COMMAND.match(line.strip())]


def blocks_of(text: str) -> list[Block]:
    """Return the blocks of code of a Markdown text in their order, with what the comments before them say."""
    blocks, marks = [], {"not run": "", "file": ""}
    for block in _code_and_comments(text):
        if marker := MARKER.fullmatch(block.text):
            marks[marker[1]] = marker[2]
            continue
        blocks.append(replace(block, not_run=marks["not run"] or None, file=marks["file"] or None))
        marks = {"not run": "", "file": ""}
    return blocks


def _code_and_comments(text: str) -> Iterator[Block]:
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        start, line = number, lines[number]
        number += 1
        if line.startswith("```"):
            end = next(at for at in range(number, len(lines)) if lines[at] == "```")
            yield Block(start + 1, line[3:], "\n".join(lines[number:end]))
            number = end + 1
        elif line.startswith("    ") and (start == 0 or not lines[start - 1].strip()):
            while number < len(lines) and (lines[number].startswith("    ") or not lines[number].strip()):
                number += 1
            yield Block(start + 1, "indented", "\n".join(at.removeprefix("    ") for at in lines[start:number]))
        elif MARKER.fullmatch(line):
            yield Block(start + 1, "comment", line)


def slug(heading: str) -> str:
    """Return the anchor of a heading, as GitHub makes it."""
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading.strip())
    return re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")


def prose(text: str) -> str:
    """Return a text with the lines of its fenced blocks left empty."""
    return re.sub(r"^```.*?^```", lambda block: "\n" * block[0].count("\n"), text, flags=re.S | re.M)


def dead_links(document: Path) -> list[str]:
    """Return the relative links of a document whose file or whose heading does not exist."""
    dead = []
    for target in LINK.findall(prose(document.read_text())):
        if re.match(r"https?:|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        if not file.exists() or (
            anchor and anchor not in map(slug, re.findall(r"^#+ (.*)$", prose(file.read_text()), flags=re.M))
        ):
            dead.append(target)
    return dead


def parse(command: str) -> None:
    """Parse a command's options without running it; a script's file must exist.

    Raises:
        typer.TyperException: if the program does not understand the command.
        KeyError: if the program has no such command.
    """
    words = [word for word in shlex.split(command, comments=True) if not re.match(r"[A-Z_]+=", word)]
    if words[0] == "riebench":
        name, group = words.pop(0), PROGRAM
        while hasattr(group, "commands") and words and not words[0].startswith("-"):
            name, group = words[0], group.commands[words.pop(0)]
        if words not in (["--help"], ["-h"]):
            group.make_context(name, words)
    elif words[0].startswith("scripts/"):
        assert (ROOT / words[0]).stat().st_mode & 0o100, f"{words[0]} cannot be executed"
    elif words[1] not in ("-m", "-c"):
        assert (ROOT / words[1]).is_file() or not words[1].startswith("scripts/"), f"there is no {words[1]}"


def run(command: str) -> None:
    """Run a ``riebench`` command in this process; its exit code must be 0."""
    with pytest.raises(SystemExit) as left:
        main(shlex.split(command, comments=True)[1:])
    assert not left.value.code, f"exit code {left.value.code} of: {command}"


def unlike(text: str, output: str) -> list[str]:
    """The lines of a text that an output lacks; a table may lack columns, and ``...`` is for any words.

    Numbers are equal to 0.05 or a twentieth of themselves, as processors round otherwise; those of seconds may differ.
    """
    printed = [cells_of(line) for line in output.splitlines()]
    return [line for line in text.splitlines() if not any(are_among(cells_of(line), cells) for cells in printed)]


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"\s{2,}|[│┃]", line) if cell.strip(" ━─┡╇┩└┴┘")]


def are_among(shown: list[str], printed: list[str]) -> bool:
    """Whether cells are some of the printed ones, in their order."""
    left = iter(printed)
    return all(any(alike(cell, at) for at in left) for cell in shown)


def alike(shown: str, printed: str) -> bool:
    pattern = f"({NUMBER.pattern})".join(map(re.escape, NUMBER.split(shown))).replace(re.escape("..."), ".*")
    found = re.fullmatch(pattern, printed)
    if found is None:
        return False
    times = re.findall(rf"{NUMBER.pattern}(?= (?:s|min|h)\b)", shown)
    numbers = zip(NUMBER.findall(shown), found.groups(), strict=True)
    return all(number in times or near(number, at) for number, at in numbers)


def near(shown: str, printed: str) -> bool:
    a, b = (float(number.replace(",", "")) for number in (shown, printed))
    return abs(a - b) <= max(0.05, 0.05 * a)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(document: Path) -> None:
    assert dead_links(document) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_commands_are_understood(document: Path) -> None:
    for block in blocks_of(document.read_text()):
        for command in block.commands():
            try:
                parse(command)
            except (typer.TyperException, KeyError, OSError) as error:
                pytest.fail(f"{name_of(document)}:{block.line}: {command}: {error!r}")


@pytest.mark.parametrize("document", [at for at in DOCUMENTS if at.name != "CHANGELOG.md"], ids=name_of)
def test_files_and_names_exist(document: Path) -> None:
    """Files of the repository and names of the package, in backticks, exist; NAME stands for one to be chosen."""
    text = document.read_text()
    paths = re.findall(r"`((?:riebench|scripts|tests|baselines)/[\w./-]+)`", text)
    assert [path for path in paths if "NAME" not in path and not (ROOT / path).exists()] == []
    for name in re.findall(r"`(riebench(?:\.\w+)+)(?:\(.*\))?`", text):
        if name not in NO_MODULES:
            resolve_name(name)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield an empty folder as the working folder; modules, methods and metrics from it are forgotten afterwards."""
    before = [(registered, set(registered)) for registered in (METHODS.registered, METRICS)]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    loaded = set(sys.modules)
    yield folder
    for name in set(sys.modules) - loaded:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(folder)):
            del sys.modules[name]
    for registered, names in before:
        for name in set(registered) - names:
            del registered[name]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_examples_work(
    page: Path, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They run, and print what the page shows; numbers may differ by rounding."""
    monkeypatch.setenv("COLUMNS", "250")
    names: dict[str, Any] = {"__name__": "example"}
    output, was_run, lacking = "", False, list[str]()
    for block in blocks_of(page.read_text()):
        if block.language == "text":
            output += "".join(capsys.readouterr())
            shown = was_run and block.not_run is None
            lacking += [f"line {block.line}: {line}" for line in unlike(block.text, output) if shown]
            continue
        was_run = block.not_run is None
        if block.file:
            (folder / block.file).write_text(block.text + "\n")
        elif block.not_run is None and block.language == "python":
            exec(compile("\n" * block.line + block.text, str(page), "exec"), names)
        elif block.not_run is None:
            for command in block.commands():
                if command.startswith("riebench "):
                    run(command)
    assert not lacking, f"{name_of(page)} shows what is not printed:\n" + "\n".join(lacking)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_runs_that_are_not_run_are_valid_requests(
    page: Path, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They get as far as the weights, which are missing here, or the output folder, which lies below a file."""
    monkeypatch.setenv("RIEBENCH_WEIGHTS", str(folder))
    (folder / "file").touch()
    for name in ("pairs.json", "riebench.json"):
        (folder / name).write_text(PAIRS.read_text())
    (folder / "contrasts.tsv").write_text("a dog\ta cat\n")
    (folder / "flux-saes" / "double.18").mkdir(parents=True)
    (folder / "flux-saes" / "double.18" / "config.json").write_text('{"n_dirs_local": 12288, "d_model": 3072, "k": 20}')
    (folder / "flux-saes" / "double.18" / "state_dict.safetensors").touch()
    for block in blocks_of(page.read_text()):
        for command in block.commands() if block.not_run else ():
            if not command.startswith("riebench run "):
                continue
            with pytest.raises(SystemExit) as left:
                main([*shlex.split(command, comments=True)[1:], "--out", str(folder / "file" / "below")])
            message = capsys.readouterr().err
            if "--dry-run" in command:
                assert left.value.code == 0, message
            else:
                assert left.value.code == 2, message
                assert any(reason in message for reason in LACKING), message


def test_the_readme_is_short_and_leads_to_each_page() -> None:
    text = PAGES[0].read_text()
    assert len(text.splitlines()) <= 110
    linked = {(ROOT / target.partition("#")[0]).resolve() for target in LINK.findall(text)}
    assert [name_of(page) for page in PAGES[1:] if page not in linked] == []


@pytest.mark.parametrize("page", PAGES[1:], ids=name_of)
def test_a_page_shows_three_examples_and_ends_with_limits(page: Path) -> None:
    text = page.read_text()
    assert sum(bool(block.commands()) or block.language == "python" for block in blocks_of(text)) >= 3
    assert re.findall(r"^## (.*)$", prose(text), flags=re.M)[-1] == "Limits and traps"


def test_a_dead_link_is_seen(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text(
        "# A page, short\n\n[here](#a-page-short) [no](#none) [there](there.md) [self](page.md#nothing)\n"
    )
    assert dead_links(document) == ["#none", "there.md", "page.md#nothing"]


@pytest.mark.parametrize(
    "command", ["riebench rum --out DIR", "riebench run --metod sae", "riebench sae train --k", "scripts/nothing"]
)
def test_a_command_that_does_not_exist_is_seen(command: str) -> None:
    with pytest.raises((typer.TyperException, KeyError, OSError)):
        parse(command)


def test_blocks_are_read_with_their_comments() -> None:
    text = "Text.\n\n    riebench methods  # all\n    other\n\n<!-- not run: minutes -->\n"
    text += "\n    MODEL=mini scripts/demo \\\n      --limit 1\n"
    text += "\n<!-- file: my.py -->\n```python\nx = 1\n```\n"
    first, second, third = blocks_of(text)
    assert first.commands() == ["riebench methods  # all"]
    assert second.not_run == "minutes"
    assert second.commands() == ["MODEL=mini scripts/demo    --limit 1"]
    assert (third.file, third.text, third.language) == ("my.py", "x = 1", "python")
