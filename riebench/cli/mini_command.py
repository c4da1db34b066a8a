"""``riebench mini``: draw a scene, generate one, check the embedded model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from riebench.cli.messages import App
from riebench.mini.grammar import PromptError, Scene, parse
from riebench.pairs.brackets import without_brackets
from riebench.pairs.pair import MAX_SEED
from riebench.util.errors import UserError, unknown

if TYPE_CHECKING:
    import numpy as np

    from riebench.models.mini import DrawnEntry

mini_app = App(help="The embedded models and their drawn world.", no_args_is_help=True)
Prompt = Annotated[str, typer.Argument(help="As 'a tilted striped red heart wearing a hat in a meadow'.")]
Seed = Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Decides place, size and angle.")]
Out = Annotated[Path, typer.Option(help="PNG file to write.")]
Drawn = Annotated[str, typer.Option("--model", help="mini, or mini-flux.")]
PARTS = ("accuracy", "four-steps", "steering", "reader", "masker", "clip", "sae")


def _save(image: np.ndarray, out: Path) -> None:
    from PIL import Image

    try:
        Image.fromarray(image).save(out)
    except (OSError, ValueError) as error:
        raise UserError(f"{out} cannot be written: {error}; give another --out, ending in .png") from None
    print(out)


def _check_picture_file(out: Path) -> None:
    """Refuse a file that cannot be made, before a model is loaded."""
    from PIL import Image

    if not out.parent.is_dir() or out.is_dir() or out.suffix.lower() not in Image.registered_extensions():
        raise UserError(f"{out} cannot be written: expected a picture file in a folder that exists, ending in .png")


def _scene(prompt: str) -> Scene:
    try:
        return parse(prompt)
    except PromptError as error:
        raise UserError(str(error)) from None


def _drawn_entry(model: str) -> DrawnEntry:
    from riebench.models.mini import MINI, MINI_FLUX

    known = {entry.name: entry for entry in (MINI, MINI_FLUX)}
    if model not in known:
        raise unknown("model of the drawn world", model, known)
    return known[model]


@mini_app.command("draw")
def draw_command(prompt: Prompt, seed: Seed = 0, out: Out = Path("drawn.png")) -> None:
    """Draw the true picture of a prompt's scene.

    Example: riebench mini draw "a tilted blue star at night" --seed 3 --out star.png
    """
    import numpy as np

    from riebench.mini.layout import layout_of_seed
    from riebench.mini.render import draw

    scene = _scene(prompt)
    _save(np.round(draw(scene, layout_of_seed(seed)).image * 255).astype(np.uint8), out)


@mini_app.command("generate")
def generate_command(
    prompt: Prompt,
    seed: Seed = 0,
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = 1,
    out: Out = Path("generated.png"),
    model: Drawn = "mini",
) -> None:
    """Generate a picture with a model, and print the attributes that the reader sees in it.

    Example: riebench mini generate "a striped red heart wearing a hat" --steps 4
    """
    from riebench.mini.layout import layout_of_seed
    from riebench.models.entries import load

    scene, entry = _scene(prompt), _drawn_entry(model)
    if not 1 <= steps <= entry.most_steps:
        raise UserError(f"--steps is {steps}; expected 1 to {entry.most_steps}, the most that the sampler takes")
    _check_picture_file(out)
    image = load(model).generate([without_brackets(prompt)], [seed], steps)[0].image
    _save(image, out)
    from riebench.instruments.mini_quality import shown

    for name, value in shown(scene, image, layout_of_seed(seed)).items():
        requested = getattr(scene, name)
        print(f"{name:11}{value}" + ("" if value == requested else f"   (asked for: {requested})"))


@mini_app.command("check")
def check_command(
    part: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(PARTS)}; may be repeated.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Fresh prompts and seeds for accuracy.")] = 500,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of each attribute for steering.")] = 20,
    model: Drawn = "mini",
) -> int:
    """Measure a model and the instruments against their bars, on held-out prompts and seeds.

    Example: riebench mini check --part accuracy --samples 100
    """
    from rich.console import Console
    from rich.table import Table

    for name in part or []:
        if name not in PARTS:
            raise unknown("part", name, PARTS)
    from riebench.instruments import mini_quality as quality
    from riebench.models.entries import load
    from riebench.util.progress import tracked

    _drawn_entry(model)
    checked_parts, loaded = part or list(PARTS), load(model)
    loaded.batch = 20
    measures: list[quality.Measure] = []
    for name in checked_parts:
        progress = tracked(name)
        if name == "accuracy":
            measures += quality.accuracy(loaded, samples, 1, progress)
        elif name == "four-steps":
            measures += quality.accuracy(loaded, samples, 4, progress)
        elif name == "steering":
            measures += quality.steering(loaded, pairs, progress)
        elif name == "reader":
            measures += quality.reader(min(samples, 200), progress)
        elif name == "masker":
            measures += quality.masks(min(samples, 200), progress)
        elif name == "clip":
            measures += quality.captions(min(samples, 300), progress)
        else:
            measures += quality.saes(loaded, min(samples, 300), progress)
    table = Table("measure", "value", "bar", "")
    for m in measures:
        bar = f">= {m.at_least:g}" if m.at_least is not None else f"<= {m.at_most:g}" if m.at_most is not None else ""
        table.add_row(m.name, f"{m.value:.3f}", bar, "" if not bar else "met" if m.passed else "MISSED")
    Console().print(table)
    missed = sum(not m.passed for m in measures)
    print(f"{missed} bars missed" if missed else "all bars met")
    return 1 if missed else 0
