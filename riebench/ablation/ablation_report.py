"""Tables, figures and contact sheet of an ablation. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from PIL import Image

from riebench.ablation.ablation_drawings import draw_attributes, draw_effects, short_name
from riebench.ablation.ablation_folder import Ablation, Zeroing, image_path, set_name
from riebench.ablation.ablation_request import BlockSet
from riebench.ablation.effects import CHANGED, MEASURES, attributes_in, effects
from riebench.report.sheet import BACKGROUND, compose, tile
from riebench.report.texttable import TextTable, interval, markdown_table, write_csv

TABLE, SHEET = "table", "sheet.png"
COLUMNS = 11
"""Sets of blocks beside the untouched picture in a row of the sheet."""
LABEL = 18  # letters above a picture of the sheet
DIGITS = {"lpips": 4, "clip_change": 4, "beyond_sum": 4}
EXPLAINED = """Means over prompts with 95 % intervals by bootstrap over prompts; a dash is undefined.

- LPIPS ({lpips}): of the picture with the updates of the blocks zeroed, at every step, to the untouched picture.
- CLIP ({clip}): similarity with the prompt; change: less that of the untouched picture.
- LPIPS beyond the sum: of several blocks at once, less the sum of what each of them does alone.
"""
EXPLAINED_TRUTH = """- kept: share of the attributes that read as in the untouched picture.
- Attributes: share of the pictures in which each reads otherwise than in the untouched picture, of those that show it.
"""


def write_report(folder: Path, asked: Ablation, zeroings: Sequence[Zeroing]) -> pd.DataFrame:
    """Write ``table.csv``, ``table.md``, the figures and ``sheet.png`` (OSError); gives the table."""
    found = effects(asked, zeroings)
    write_csv(found, folder / f"{TABLE}.csv")
    texts = [f"# {headline(asked)}\n", markdown_table(effects_table(found, asked.prompts))]
    if attributes_in(found):
        texts.append(markdown_table(attributes_table(found)))
    texts.append(EXPLAINED.format(**asked.metric_names) + (EXPLAINED_TRUTH if asked.truth else ""))
    reasons = pd.Series([one.reason for one in zeroings if one.status == "failed"], dtype=object).value_counts()
    texts += [f"- failed {count} times: {reason}\n" for reason, count in reasons.items()]
    (folder / f"{TABLE}.md").write_text("\n".join(texts), encoding="utf-8")
    draw_effects(found, headline(asked), asked.metric_names, folder)
    if attributes_in(found):
        draw_attributes(found, headline(asked), folder)
    draw_sheet(folder, asked, zeroings)
    return found


def headline(asked: Ablation) -> str:
    """What the ablation is of, in one line."""
    steps = f"{asked.steps} step{'s' if asked.steps > 1 else ''}"
    return f"{asked.model}, {steps}, {asked.prompts} prompts: updates of blocks zeroed"


def effects_table(found: pd.DataFrame, prompts: int) -> TextTable:
    """The measures of each set of blocks; the number of prompts is shown where some have failed."""
    some_failed = bool((found["prompts"] < prompts).any())
    columns = [name for name in MEASURES if name in found]
    rows = []
    for row in found.to_dict("records"):
        cells = [interval(row[m], row[f"{m}_low"], row[f"{m}_high"], DIGITS.get(m, 3)) for m in columns]
        rows.append([row["blocks"], *([f"{row['prompts']}/{prompts}"] if some_failed else []), *cells])
    head = ["zeroed", *(["prompts"] if some_failed else []), *(MEASURES[name] for name in columns)]
    return TextTable("", head, rows)


def attributes_table(found: pd.DataFrame) -> TextTable:
    """The share of changed pictures, by set of blocks and attribute."""
    names = [f"{CHANGED}{name}" for name in attributes_in(found)]
    rows = [
        [row["blocks"], *(interval(row[n], row[f"{n}_low"], row[f"{n}_high"], 2) for n in names)]
        for row in found.to_dict("records")
    ]
    return TextTable("", ["zeroed", *attributes_in(found)], rows)


def draw_sheet(folder: Path, asked: Ablation, zeroings: Sequence[Zeroing]) -> None:
    """``sheet.png``: a row for each prompt whose pictures are kept, the untouched one first; many sets in parts below
    one another, single blocks apart from several at once."""
    prompts = list({one.seed: one.prompt for one in zeroings}.values())
    kept = [number for number in range(len(prompts)) if image_path(folder, number, ()).exists()]
    if not kept:
        return
    parts = []
    for several in (False, True):
        sets = [blocks for blocks in asked.sets if (len(blocks) > 1) == several]
        parts += [sets[start : start + COLUMNS] for start in range(0, len(sets), COLUMNS)]
    sheets = [
        compose(
            headline(asked) if number == 0 else "",
            [
                (prompts[n], [(_label(blocks), tile(image_path(folder, n, blocks))) for blocks in ((), *part)])
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
    whole.save(folder / SHEET, compress_level=9)


def _label(blocks: BlockSet) -> str:
    return short_name(set_name(blocks), LABEL) or "untouched"
