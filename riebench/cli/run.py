"""``riebench run``."""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from riebench.cli.table import show, wide_console
from riebench.errors import UserError
from riebench.pairs.pair import MAX_SEED, Pair

HELP = """Run a benchmark: methods, blocks and strengths over pairs.

Examples:

  riebench run --method sae --block down.2.1

  riebench run --method steering --block all --strength 0.25,0.5,1,2 --category colour

  riebench run --method all --block all --alone --limit 5

Every option is also an environment variable, as RIEBENCH_RUN_METHOD.
"""


def numbers(text: str, option: str) -> list[float]:
    """Comma-separated numbers of an option."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{option} is {text!r}; expected numbers with commas between, as 0.5,1,2") from None
    if not all(map(math.isfinite, found)):
        raise UserError(f"{option} is {text!r}; expected finite numbers")
    return list(dict.fromkeys(found))


def counts(text: str, option: str) -> list[int]:
    """Comma-separated positive whole numbers of an option."""
    found = numbers(text, option)
    if any(x < 1 or x != int(x) for x in found):
        raise UserError(f"{option} is {text!r}; expected whole numbers above 0, as 20,40")
    return [int(x) for x in found]


def options(words: list[str]) -> dict[str, str]:
    """``name=value`` words as a mapping."""
    found = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name:
            raise UserError(f"--option is {word!r}; expected name=value, as only_add=true")
        found[name.replace("-", "_")] = value
    return found


def run_command(
    method: Annotated[list[str], typer.Option(help="Method; may be given again; 'all' for all that are installed.")],
    block: Annotated[list[str], typer.Option(help="Block; given again, all are edited together; 'all' for the four.")],
    alone: Annotated[bool, typer.Option("--alone", help="Run each of the blocks alone, too.")] = False,
    k: Annotated[str | None, typer.Option(help="Features (or neurons) moved in each direction, as 20,40.")] = None,
    strength: Annotated[str, typer.Option(help="Factors on the whole intervention.")] = "0.25,0.5,1,1.5,2",
    steps: Annotated[int | None, typer.Option(help="Denoising steps; the model's own unless given.")] = None,
    model: Annotated[str, typer.Option(help="Model.")] = "mini",
    pairs: Annotated[Path | None, typer.Option(help="Pair file (JSON); the model's own unless given.")] = None,
    category: Annotated[list[str] | None, typer.Option(help="Category by number or name; may be given again.")] = None,
    pair_id: Annotated[
        list[str] | None, typer.Option("--id", envvar="RIEBENCH_RUN_ID", help="Pair by id; may be given again.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Pairs of each category at most.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=MAX_SEED, help="Seed of all runs; each pair's own (or 42) unless given.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for records, curve and pictures.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="Option of a method, name=value; may be given again.")
    ] = None,
    keep_images: Annotated[int, typer.Option(min=0, help="Pairs of each category whose pictures are kept.")] = 3,
    batch: Annotated[int, typer.Option(min=1, help="Rows in one forward pass at most.")] = 8,
    force: Annotated[bool, typer.Option("--force", help="Discard a run that is in the folder.")] = False,
) -> int:
    from riebench.engine.run import RunSpec, check_truth, describe, prepare, run, settings_count
    from riebench.methods.registry import names
    from riebench.models import entry_named
    from riebench.pairs import category_named, load_pairs, select
    from riebench.records import RunFolder
    from riebench.records.code import code_version

    spec = RunSpec(
        methods=list(dict.fromkeys(n for m in method for n in (names() if m == "all" else [m]))),
        blocks=block,
        alone=alone,
        k=counts(k, "--k") if k else (),
        strengths=numbers(strength, "--strength"),
        options=options(option or []),
        steps=steps,
        model=model,
        seed=seed,
        batch=batch,
    )
    entry = entry_named(spec.model)
    chosen = select(load_pairs(pairs or entry.pairs), [category_named(c) for c in category or []], pair_id or [], limit)
    instruments, worker = prepare(spec)
    check_truth(instruments, worker, chosen)
    folder = RunFolder(out or Path("runs") / datetime.now().strftime("%Y%m%d-%H%M%S"), force)
    content = describe(spec, worker, chosen) | {
        "command": sys.argv,
        "code": code_version(),
        "pair_file": pairs or entry.pairs,
    }
    folder.write_run(content | {"started": datetime.now().isoformat(timespec="seconds")})
    images_of = first_of_each(chosen, keep_images)
    console, started, failed = Console(stderr=True), time.perf_counter(), 0
    lines = Lines(console)
    with _progress(console) as progress:
        task = progress.add_task(f"{len(chosen)} pairs x {settings_count(worker)} settings", total=len(chosen))
        for pair, result in run(worker, chosen, lambda p: p.id in images_of):
            folder.append(result.records)
            for name, image in result.images.items():
                folder.keep_image(f"{pair.id}-{name}", image)
            failed += sum(r.status == "failed" for r in result.records)
            progress.advance(task)
            lines.say(int(progress.tasks[task].completed), len(chosen))
    spent = time.perf_counter() - started
    folder.write_run(content | {"finished": datetime.now().isoformat(timespec="seconds"), "seconds": round(spent, 1)})
    show(folder.path, wide_console())
    print(
        f"{len(chosen)} pairs in {spent:.0f} s; {failed} records failed"
        if failed
        else f"{len(chosen)} pairs in {spent:.0f} s"
    )
    return 1 if failed else 0


def first_of_each(pairs: Sequence[Pair], count: int) -> set[str]:
    """Ids of the first pairs of each category."""
    met: Counter[int] = Counter()
    found = set()
    for pair in pairs:
        if met[pair.editing_type_id] < count:
            found.add(pair.id)
        met[pair.editing_type_id] += 1
    return found


class Lines:
    """Progress as lines now and then, where there is no terminal to draw a bar on."""

    EVERY = 20.0  # seconds

    def __init__(self, console: Console) -> None:
        self.quiet = console.is_terminal
        self.started = self.last = time.perf_counter()

    def say(self, done: int, total: int) -> None:
        """Say how far the run is, unless that was said a moment ago."""
        now = time.perf_counter()
        if not self.quiet and now - self.last >= self.EVERY:
            self.last = now
            left = (now - self.started) / done * (total - done)
            print(f"riebench: {done} of {total} pairs, about {left:.0f} s left", file=sys.stderr, flush=True)


def _progress(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console)


run_command.__doc__ = HELP
