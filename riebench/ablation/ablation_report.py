"""Tables, figures and contact sheet of an ablation. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from riebench.ablation.ablation_folder import Ablation, Zeroing, image_name, set_name
from riebench.ablation.ablation_request import BlockSet
from riebench.ablation.effects import CHANGED, MEASURES, attributes_in, effects
from riebench.report.sheet import BACKGROUND, compose, tile
from riebench.report.style import FIXED, METADATA, PAPER
from riebench.report.texttable import TextTable, interval, markdown_table, write_csv
from riebench.stats.resample import too_narrow

TABLE, SHEET = "table", "sheet.png"
COLUMNS = 11
"""Sets of blocks beside the untouched picture in a row of the sheet."""
LABEL = 18  # letters above a picture of the sheet
DIGITS = {"lpips": 4, "clip_change": 4, "beyond_sum": 4}
EFFECTS, ATTRIBUTES = "effects", "attributes"
KINDS = ("png", "svg")
WIDTH = 7.2  # inches: the text of a page
ROW, AROUND, BETWEEN = 0.17, 1.2, 0.3  # inches: a set of blocks, what is around all of them, and between two panels
ALONE, SEVERAL = FIXED["steering"], FIXED["sae"]
LONGEST = 36  # letters of a name
EXPLAINED = """Means over prompts with 95 % intervals by bootstrap over prompts; a dash is undefined.

- LPIPS ({lpips}): of the picture with the updates of the blocks zeroed, at every step, to the untouched picture.
- CLIP ({clip}): similarity with the prompt; change: less that of the untouched picture.
- LPIPS beyond the sum: of several blocks at once, less the sum of what each of them does alone.
"""
EXPLAINED_TRUTH = """- kept: share of the attributes that read as in the untouched picture.
- Attributes: share of the pictures in which each reads otherwise than in the untouched picture, of those that show it.
"""


def write_report(folder: Path, ablation: Ablation, zeroings: Sequence[Zeroing]) -> pd.DataFrame:
    """Write ``table.csv``, ``table.md``, the figures and ``sheet.png`` (OSError); returns the table."""
    table = effects(ablation, zeroings)
    write_csv(table, folder / f"{TABLE}.csv")
    measures = effects_table(table, ablation.prompts)
    texts = [
        f"# {headline(ablation)}\n",
        *([f"{measures.title}\n"] if measures.title else []),
        markdown_table(measures),
    ]
    if attributes_in(table):
        texts.append(markdown_table(attributes_table(table)))
    texts.append(EXPLAINED.format(**ablation.metric_names) + (EXPLAINED_TRUTH if ablation.truth else ""))
    reasons = pd.Series(
        [zeroing.reason for zeroing in zeroings if zeroing.status == "failed"], dtype=object
    ).value_counts()
    texts += [f"- failed {count} times: {reason}\n" for reason, count in reasons.items()]
    (folder / f"{TABLE}.md").write_text("\n".join(texts), encoding="utf-8")
    draw_effects(table, headline(ablation), ablation.metric_names, folder)
    if attributes_in(table):
        draw_attributes(table, headline(ablation), folder)
    draw_sheet(folder, ablation, zeroings)
    return table


def headline(ablation: Ablation) -> str:
    """The ablation in one line."""
    steps = f"{ablation.steps} step{'s' if ablation.steps > 1 else ''}"
    return f"{ablation.model}, {steps}, {ablation.prompts} prompts: updates of blocks zeroed"


def effects_table(table: pd.DataFrame, prompts: int) -> TextTable:
    """The measures of each set of blocks; the number of prompts is shown where some have failed, and the title says
    where they are few."""
    some_failed = bool((table["prompts"] < prompts).any())
    columns = [name for name in MEASURES if name in table]
    rows = []
    for row in table.to_dict("records"):
        cells = [interval(row[m], row[f"{m}_low"], row[f"{m}_high"], DIGITS.get(m, 3)) for m in columns]
        rows.append([row["blocks"], *([f"{row['prompts']}/{prompts}"] if some_failed else []), *cells])
    head = ["zeroed", *(["prompts"] if some_failed else []), *(MEASURES[name] for name in columns)]
    few = too_narrow(table["prompts"], "prompts")
    return TextTable(f"means over prompts [95 % bootstrap intervals]{few}" if few else "", head, rows)


def attributes_table(table: pd.DataFrame) -> TextTable:
    """The share of changed pictures, by set of blocks and attribute."""
    names = [f"{CHANGED}{name}" for name in attributes_in(table)]
    rows = [
        [row["blocks"], *(interval(row[n], row[f"{n}_low"], row[f"{n}_high"], 2) for n in names)]
        for row in table.to_dict("records")
    ]
    return TextTable("", ["zeroed", *attributes_in(table)], rows)


def draw_sheet(folder: Path, ablation: Ablation, zeroings: Sequence[Zeroing]) -> None:
    """``sheet.png``: a row for each prompt whose pictures are kept, the untouched picture first. Many sets are in parts
    below one another, single blocks apart from several at once."""
    prompts = list({zeroing.seed: zeroing.prompt for zeroing in zeroings}.values())
    kept = [number for number in range(len(prompts)) if (folder / image_name(number, ())).exists()]
    if not kept:
        return
    parts = []
    for several in (False, True):
        sets = [blocks for blocks in ablation.sets if (len(blocks) > 1) == several]
        parts += [sets[start : start + COLUMNS] for start in range(0, len(sets), COLUMNS)]
    sheets = [
        compose(
            headline(ablation) if number == 0 else "",
            [
                (prompts[n], [(_label(blocks), tile(folder / image_name(n, blocks))) for blocks in ((), *part)])
                for n in kept
            ],
        )
        for number, part in enumerate(parts)
    ]
    whole = Image.new("RGB", (max(s.width for s in sheets), sum(s.height for s in sheets)), BACKGROUND)
    top = 0
    for sheet in sheets:
        whole.paste(sheet, (0, top))
        top += sheet.height
    whole.save(folder / SHEET)


def _label(blocks: BlockSet) -> str:
    return short_name(set_name(blocks), LABEL) or "untouched"


def short_name(name: str, most: int = LONGEST) -> str:
    """The name of a set of blocks; if it is too long, its first and last block."""
    blocks = name.split("+")
    return name if len(name) <= most else f"{blocks[0]}+…+{blocks[-1]}"


def draw_effects(table: pd.DataFrame, title: str, names: Mapping[str, str], folder: Path) -> None:
    """``effects.png``: LPIPS and change of CLIP by set of blocks, as bars with intervals; several blocks at once do
    more, so they have scales of their own. ``names`` are those of the two metrics (OSError)."""
    groups = [part for _, part in table.groupby(table["together"] > 1)]
    rows = [len(part) for part in groups]
    with rc_context(PAPER):
        height = AROUND + (len(rows) - 1) * BETWEEN + ROW * sum(rows)
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        panels = figure.subplots(len(rows), 2, squeeze=False, sharey="row", height_ratios=[count + 1 for count in rows])
        for pair, part in zip(panels, groups, strict=True):
            colour = ALONE if (part["together"] == 1).all() else SEVERAL
            for axes, measure in zip(pair, ("lpips", "clip_change"), strict=True):
                _bars(axes, part, measure, colour)
            pair[0].set_yticks(range(len(part)), [short_name(name) for name in part["blocks"]])
            pair[0].set_ylim(len(part) - 0.4, -0.6)
            pair[1].tick_params(axis="y", left=False)
        panels[-1, 0].set_xlabel(f"LPIPS to the untouched picture\n({names['lpips']})")
        panels[-1, 1].set_xlabel(f"change of CLIP similarity with the prompt\n({names['clip']})")
        figure.suptitle(title, fontsize=9)
        scales = "; mind the two scales" if len(rows) > 1 else ""
        figure.supxlabel(f"bars: means over prompts; lines: 95 % bootstrap intervals{scales}", fontsize=8)
        _save(figure, folder / EFFECTS)


def draw_attributes(table: pd.DataFrame, title: str, folder: Path) -> None:
    """``attributes.png``: which attributes read otherwise, by set of blocks, as a heat map (OSError)."""
    names = attributes_in(table)
    shares = table[[f"{CHANGED}{name}" for name in names]].to_numpy(float)
    with rc_context(PAPER):
        figure = Figure(figsize=(WIDTH, AROUND + ROW * len(table)), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(shares, cmap="cividis", aspect="auto", vmin=0, vmax=1)
        for row, column in np.ndindex(shares.shape):
            share = shares[row, column]
            if np.isfinite(share):
                ink = "white" if share < 0.55 else "black"
                text = "0" if share == 0 else f"{share:.2f}"
                axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=6)
        alone = int((table["together"] == 1).sum())
        if 0 < alone < len(table):
            axes.axhline(alone - 0.5, color="white", linewidth=2.5)
        axes.set_xticks(range(len(names)), names)
        axes.set_yticks(range(len(table)), [short_name(name) for name in table["blocks"]])
        axes.grid(visible=False)
        axes.set_facecolor("#eeeeee")
        figure.colorbar(image, label="share of pictures in which it changes", aspect=30)
        figure.suptitle(f"{title}; attributes that change", fontsize=9)
        _save(figure, folder / ATTRIBUTES)


def _bars(axes: Axes, part: pd.DataFrame, measure: str, colour: str) -> None:
    """A measure of some sets of blocks with its intervals, from top to bottom."""
    middle = part[measure].to_numpy(float)
    low, high = (part[f"{measure}_{end}"].fillna(part[measure]).to_numpy(float) for end in ("low", "high"))
    places, reach = range(len(part)), [middle - low, high - middle]
    axes.barh(places, middle, height=0.72, color=colour)
    axes.errorbar(middle, places, xerr=reach, fmt="none", ecolor="#202020", elinewidth=0.8, capsize=1.5)
    axes.axvline(0, color="#404040", linewidth=0.6)
    axes.grid(axis="y", visible=False)


def _save(figure: Figure, path: Path) -> None:
    for kind in KINDS:
        figure.savefig(path.with_name(f"{path.name}.{kind}"), metadata=METADATA[kind])
        figure.set_layout_engine("none")  # the first format's layout is everyone's
