"""``riebench pairs``: build, check, list and show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from riebench.cli.messages import App
from riebench.pairs import CATEGORIES, Pair, categories_named, check_pairs, load_pairs, remarks_on, select
from riebench.pairs.pair_files import as_items, write_json, write_text
from riebench.pairs.piebench import Built, build_pairs, read_piebench, reasons
from riebench.report.summary import wide_console
from riebench.util.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

PairFile = Annotated[
    str | None,
    typer.Option("--pairs", help="Pair file (JSON), or a model's set, as mini:entangled. Default: mini's own."),
]
pairs_app = App(help="Build, check and look at pairs.", no_args_is_help=True)


@pairs_app.command("build")
def pairs_build(
    piebench: Annotated[Path, typer.Option(help="PIE-Bench's mapping_file.json.")],
    out: Annotated[Path, typer.Option(help="Pair file to write (JSON).")],
    category: Annotated[
        list[str] | None, typer.Option(help="Category by number or name; may be repeated. Default: all nine.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Pairs of each category at most; RIEBench runs 50.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="File for what was left out and why. Default: beside the pair file.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that are there.")] = False,
) -> None:
    """Make pairs from PIE-Bench's own file, with grounding phrases by rule.

    Example: riebench pairs build --piebench mapping_file.json --out pairs.json --limit 50
    """
    report = report or out.with_name(f"{out.stem}.left-out.json")
    if len({path.resolve() for path in (piebench, out, report)}) < 3:
        raise UserError("--piebench, --out and --report name the same file; give each its own")
    for path in (out, report):
        if path.exists() and not force:
            raise UserError(f"{str(path)!r} exists already; give another name, or --force to overwrite it")
    built = build_pairs(read_piebench(piebench), categories_named(category or []), limit)
    if built.pairs:
        write_json(out, as_items(built.pairs))
    write_json(report, [item._asdict() for item in built.left_out])
    wide_console().print(_tally(built))
    if not built.pairs:
        raise UserError(f"none of the {len(built.left_out)} items of {piebench} makes a pair; {report} says why")
    print(f"{out}: {len(built.pairs)} pairs\n{report}: {len(built.left_out)} items left out, each with the reason")


def _tally(built: Built) -> Table:
    """The numbers of kept items by category, and of items left out by reason."""
    from rich.table import Table

    kinds = [0, *CATEGORIES]
    table = Table("", *map(str, kinds), "all")
    kept = [sum(p.editing_type_id == kind for p in built.pairs) for kind in kinds]
    rows = {"pairs": kept} | {
        f"left out: {reason}": [counts.get(kind, 0) for kind in kinds] for reason, counts in reasons(built).items()
    }
    for name, numbers in rows.items():
        table.add_row(name, *(str(n) if n else "" for n in numbers), str(sum(numbers)))
    return table


@pairs_app.command("contrasts")
def pairs_contrasts(
    pairs: Annotated[Path, typer.Option(help="Pair file (JSON).")],
    out: Annotated[Path, typer.Option(help="File of contrasts to write, for --option contrasts=FILE.")],
    count: Annotated[int, typer.Option(min=1, help="Contrasts of each pair at most.")] = 32,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that is there.")] = False,
) -> None:
    """Write contrasts for methods that learn an edit from other prompts, from the pairs' own words.

    Example: riebench pairs contrasts --pairs pairs.json --out contrasts.tsv
    """
    from riebench.pairs.contrast_writing import write_contrasts

    if out.exists() and not force:
        raise UserError(f"{str(out)!r} exists already; give another name, or --force to overwrite it")
    written = write_contrasts(load_pairs(pairs), count)
    for name, reason in written.left_out.items():
        print(f"pair {name}: {reason}")
    lines = dict.fromkeys("\t".join(line) for lines in written.lines.values() for line in lines)
    if not lines:
        raise UserError(f"none of the {len(written.left_out)} pairs of {pairs} has contrasts, for the reasons above")
    write_text(out, "".join(f"{line}\n" for line in lines))
    fewest = min(map(len, written.lines.values()))
    pairs_with, without = len(written.lines), len(written.left_out)
    print(f"{out}: {len(lines)} contrasts for {pairs_with} pairs, {fewest} or more each; {without} pairs have none")


@pairs_app.command("check")
def pairs_check(pairs: Annotated[Path, typer.Argument(metavar="FILE")]) -> None:
    """Validate a pair file: print a table of its faults, exit code 2 if it has any; and what is read unexpectedly.

    Example: riebench pairs check mine.json
    """
    from rich.table import Table
    from rich.text import Text

    good, problems = check_pairs(pairs)
    remarks = remarks_on(good)
    for title, lines in (("worth a look", remarks), ("what is wrong", problems)):
        table = Table("item", "key", title)
        for line in lines:
            table.add_row(*map(Text, line))
        if lines:
            wide_console().print(table)
    if not problems:
        looked = f"; {len(remarks)} remarks, listed above" if remarks else ""
        print(f"{pairs}: {len(good)} pairs, all well-formed{looked}")
        return
    count = f"{len(problems)} problems" if len(problems) > 1 else "one problem"
    raise UserError(f"{pairs}: {count}, listed above; mend or leave out these items")


@pairs_app.command("list")
def pairs_list(pairs: PairFile = None) -> None:
    """Count the pairs of a file by category.

    Example: riebench pairs list --pairs mine.json
    """
    from collections import Counter

    from rich.console import Console
    from rich.table import Table

    counts = Counter(p.editing_type_id for p in _pairs(pairs))
    table = Table("category", "name", "pairs")
    for number, name in CATEGORIES.items():
        table.add_row(str(number), name, str(counts[number]))
    Console().print(table)


@pairs_app.command("show")
def pairs_show(pair_id: Annotated[str, typer.Argument(metavar="ID")], pairs: PairFile = None) -> None:
    """Print one pair.

    Example: riebench pairs show mini-6-00
    """
    print(select(_pairs(pairs), ids=[pair_id])[0].model_dump_json(indent=2))


def _pairs(location: str | None) -> list[Pair]:
    from riebench.models.entries import pair_file_named
    from riebench.models.mini import PAIRS

    return load_pairs(pair_file_named(location) if location else PAIRS)
