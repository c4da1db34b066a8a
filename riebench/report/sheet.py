"""Contact sheets: base, source, both masks and the edited images by strength, a row for each kept pair."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from riebench.pairs.pair import CATEGORIES
from riebench.records import Record
from riebench.report.table import arm_labels

TILE, GAP, TEXT = 128, 6, 30
WIDEST = 2000  # pixels that a text may claim
BACKGROUND, INK, MASKED = (255, 255, 255), (40, 40, 40), np.array((230, 40, 40))


def tile(path: Path, side: int = TILE) -> Image.Image | None:
    """A picture ``side`` pixels wide and high; None if it is not there."""
    if not path.exists():
        return None
    with Image.open(path) as image:
        return image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)


def overlay(picture: Path, mask: Path, side: int = TILE) -> Image.Image | None:
    """The picture, greyed, with its mask in red; None if one of them is not there."""
    below, above = tile(picture, side), tile(mask, side)
    if below is None or above is None:
        return None
    grey = np.asarray(below.convert("L").convert("RGB"), float)
    share = 0.55 * (np.asarray(above.convert("L"))[..., None] > 127)
    return Image.fromarray((grey + share * (MASKED - grey)).astype(np.uint8))


def _row(folder: Path, pair_id: str, records: Sequence[Record]) -> list[tuple[str, Image.Image | None]]:
    images = folder / "images"
    name = f"{pair_id}-" + "{}.png"
    base, source = images / name.format("base"), images / name.format("source")
    row = [
        ("base", tile(base)),
        ("source", tile(source)),
        ("base mask", overlay(base, images / name.format("mask-base"))),
        ("source mask", overlay(source, images / name.format("mask-source"))),
    ]
    for record in sorted(records, key=lambda r: r.setting.strength):
        row.append((f"strength {record.setting.strength:g}", tile(images / name.format(record.key))))
    return row


def compose(title: str, rows: Sequence[tuple[str, Sequence[tuple[str, Image.Image | None]]]]) -> Image.Image:
    """A sheet of labelled rows of pictures, a caption below each row; as wide as its texts need, within reason."""
    columns = max(len(tiles) for _, tiles in rows)
    heading, small = ImageFont.load_default(15), ImageFont.load_default(12)
    rows = [(" ".join(caption.split()), tiles) for caption, tiles in rows]
    texts = [heading.getlength(title), *(small.getlength(caption) for caption, _ in rows)]
    width = max(columns * (TILE + GAP), min(WIDEST, math.ceil(max(texts)) + GAP)) + GAP
    sheet = Image.new("RGB", (width, TEXT + 18 + len(rows) * (TILE + TEXT)), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, 6), title, INK, heading)
    for i, (label, _) in enumerate(rows[0][1]):
        draw.text((GAP + i * (TILE + GAP), TEXT), label, INK, small)
    for j, (caption, tiles) in enumerate(rows):
        top = TEXT + 18 + j * (TILE + TEXT)
        for i, (_, tile) in enumerate(tiles):
            if tile is not None:
                sheet.paste(tile, (GAP + i * (TILE + GAP), top))
        draw.text((GAP, top + TILE + 2), caption, INK, small)
    return sheet


def contact_sheets(records: Sequence[Record], folder: Path) -> list[Path]:
    """Draw contact sheets from the kept images; returns their paths.

    ``sheets/METHOD-BLOCKS-CATEGORY.png`` shows the kept pairs of a category, ``sheets/METHOD-BLOCKS.png`` the first
    one of each category.
    """
    labels = arm_labels(records)
    groups: dict[tuple[str, str], dict[int, dict[str, list[Record]]]] = {}
    for record in records:
        if (folder / "images" / f"{record.pair_id}-base.png").exists():
            where = (labels[record.key], "+".join(record.setting.blocks))
            pairs = groups.setdefault(where, {}).setdefault(record.category, {})
            pairs.setdefault(record.pair_id, []).append(record)
    paths = []
    for (arm, blocks), categories in groups.items():
        (folder / "sheets").mkdir(exist_ok=True)
        safe = "".join(c if c.isalnum() or c in "+.-" else "_" for c in f"{arm}-{blocks}")
        firsts = dict(next(iter(pairs.items())) for pairs in categories.values())
        sheets = {f"{safe}.png": (f"{arm}, {blocks}", firsts)}
        for category, pairs in categories.items():
            sheets[f"{safe}-{category}.png"] = (f"{CATEGORIES[category]}: {arm}, {blocks}", pairs)
        for name, (title, pairs) in sheets.items():
            rows = [(_caption(found[0]), _row(folder, pair_id, found)) for pair_id, found in pairs.items()]
            paths.append(folder / "sheets" / name)
            compose(title, rows).save(paths[-1])
    return paths


def _caption(record: Record) -> str:
    return f"{record.original_prompt}  ->  {record.editing_prompt}"
