"""Contact sheets: base, source, both masks and the edited images by strength, a row for each pair with images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from riebench.pairs.pair import CATEGORIES
from riebench.records.folder import SHEETS
from riebench.records.image_hashes import IMAGES
from riebench.report.arms import searched_for
from riebench.report.curves import Curves
from riebench.settings.lpips_search import WITHIN

Tiles = Sequence[tuple[str, Image.Image | None]]
TILE, GAP, TEXT, LABEL = 128, 6, 30, 18
WIDEST = 2000  # pixels
BACKGROUND, INK, MASKED = (255, 255, 255), (40, 40, 40), np.array((230, 40, 40))


def tile(path: Path, side: int = TILE) -> Image.Image | None:
    """A picture ``side`` pixels wide and high; None if the file is missing or damaged."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def overlay(picture: Path, mask: Path, side: int = TILE) -> Image.Image | None:
    """The picture, greyed, with its mask in red; None if one of the files is missing or damaged."""
    below, above = tile(picture, side), tile(mask, side)
    if below is None or above is None:
        return None
    grey = np.asarray(below.convert("L").convert("RGB"), float)
    share = 0.55 * (np.asarray(above.convert("L"))[..., None] > 127)
    return Image.fromarray((grey + share * (MASKED - grey)).astype(np.uint8))


def _references(images: Path, pair_id: str) -> Tiles:
    base, source, *masks = (images / f"{pair_id}-{n}.png" for n in ("base", "source", "mask-base", "mask-source"))
    pictures = [tile(base), tile(source), overlay(base, masks[0]), overlay(source, masks[1])]
    return list(zip(("base", "source", "base mask", "source mask"), pictures, strict=True))


def _row(images: Path, references: Tiles, records: pd.DataFrame) -> tuple[str, Tiles]:
    """The caption and the pictures of a pair, for one method."""
    first = records.iloc[0]
    budgets = searched_for(records)
    edited = [
        (_label(row, budgets), tile(images / f"{row['pair_id']}-{row['key']}.png"))
        for row in records.sort_values("strength").to_dict("records")
    ]
    caption = f"{first['original_prompt']}  ->  {first['editing_prompt']}"
    return caption, [*references, *edited]


def _label(row: Mapping[Any, Any], budgets: Sequence[float]) -> str:
    """The strength of a picture, and whether it has an LPIPS that was searched for, or was tried on the way to it."""
    met = [budget for budget in budgets if abs(row["lpips_base"] - budget) <= WITHIN * budget]
    kind = f"LPIPS {met[0]:g} at" if met else "strength" if pd.isna(row["at_lpips"]) else "tried"
    return f"{kind} {row['strength']:g}"


def compose(title: str, rows: Sequence[tuple[str, Tiles]]) -> Image.Image:
    """A sheet of rows of labelled pictures, a caption below each row; as wide as its texts need, to :data:`WIDEST`."""
    columns = max(len(tiles) for _, tiles in rows)
    heading, small = ImageFont.load_default(15), ImageFont.load_default(12)
    rows = [(" ".join(caption.split()), tiles) for caption, tiles in rows]
    texts = [heading.getlength(title), *(small.getlength(caption) for caption, _ in rows)]
    width = max(columns * (TILE + GAP), min(WIDEST, math.ceil(max(texts)) + GAP)) + GAP
    height = LABEL + TILE + TEXT
    sheet = Image.new("RGB", (width, TEXT + len(rows) * height), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, 6), title, INK, heading)
    for j, (caption, tiles) in enumerate(rows):
        top = TEXT + LABEL + j * height
        for i, (label, tile) in enumerate(tiles):
            draw.text((GAP + i * (TILE + GAP), top - LABEL), label, INK, small)
            if tile is not None:
                sheet.paste(tile, (GAP + i * (TILE + GAP), top))
        draw.text((GAP, top + TILE + 2), caption, INK, small)
    return sheet


def contact_sheets(curves: Curves, folder: Path) -> list[Path]:
    """Draw contact sheets from the images of a run folder; returns their paths.

    ``sheets/METHOD-BLOCKS-CATEGORY.png`` shows the pairs of a category that have images, ``sheets/METHOD-BLOCKS.png``
    the first pair of each category.
    """
    images = folder / IMAGES
    pairs = [pair for pair in curves.pairs.ids if (images / f"{pair}-base.png").exists()]
    if not pairs:
        return []
    (folder / SHEETS).mkdir(exist_ok=True)
    references = {pair: _references(images, pair) for pair in pairs}
    paths: list[Path] = []
    for arm in curves.arms:
        shown = arm.records[arm.records["pair_id"].isin(pairs)]
        for k, label in arm.labels.items():
            records = shown[shown["k"].isna() if k is None else shown["k"] == k]
            if len(records):
                paths += _sheets(f"{label}, {arm.blocks}", records, references, folder)
    return paths


def _sheets(name: str, records: pd.DataFrame, references: Mapping[str, Tiles], folder: Path) -> list[Path]:
    """Draw the sheets of one method with one k: over all categories, and of each."""
    rows: dict[Any, list[tuple[str, Tiles]]] = {
        category: [_row(folder / IMAGES, references[str(p)], own) for p, own in part.groupby("pair_id", sort=False)]
        for category, part in records.groupby("category", sort=False)
    }
    safe = "".join(c if c.isalnum() or c in "+.-" else "_" for c in name.replace(", ", "-"))
    sheets = {safe: (name, [of_category[0] for of_category in rows.values()])}
    sheets |= {f"{safe}-{n}": (f"{CATEGORIES[n]}: {name}", of_category) for n, of_category in rows.items()}
    for file, (title, sheet_rows) in sheets.items():
        compose(title, sheet_rows).save(folder / SHEETS / f"{file}.png", compress_level=1)
    return [folder / SHEETS / f"{file}.png" for file in sheets]
