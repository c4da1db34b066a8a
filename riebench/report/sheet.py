"""Contact sheets: base, source, both masks and the edited images by strength, a row for each kept pair."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from riebench.pairs.pair import CATEGORIES
from riebench.records import Record
from riebench.report.table import arm_labels

TILE, GAP, TEXT = 128, 6, 30
BACKGROUND, INK, MASKED = (255, 255, 255), (40, 40, 40), np.array((230, 40, 40))


def _tile(path: Path) -> Image.Image | None:
    if not path.exists():
        return None
    with Image.open(path) as image:
        return image.convert("RGB").resize((TILE, TILE), Image.Resampling.LANCZOS)


def _overlay(picture: Path, mask: Path) -> Image.Image | None:
    """The picture, greyed, with its mask in red."""
    below, above = _tile(picture), _tile(mask)
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
        ("base", _tile(base)),
        ("source", _tile(source)),
        ("base mask", _overlay(base, images / name.format("mask-base"))),
        ("source mask", _overlay(source, images / name.format("mask-source"))),
    ]
    for record in sorted(records, key=lambda r: r.setting.strength):
        row.append((f"strength {record.setting.strength:g}", _tile(images / name.format(record.key))))
    return row


def _compose(title: str, rows: Sequence[tuple[str, Sequence[tuple[str, Image.Image | None]]]]) -> Image.Image:
    columns = max(len(tiles) for _, tiles in rows)
    width = columns * (TILE + GAP) + GAP
    sheet = Image.new("RGB", (width, TEXT + 18 + len(rows) * (TILE + TEXT)), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, 6), title, INK, ImageFont.load_default(15))
    for i, (label, _) in enumerate(rows[0][1]):
        draw.text((GAP + i * (TILE + GAP), TEXT), label, INK, ImageFont.load_default(12))
    for j, (caption, tiles) in enumerate(rows):
        top = TEXT + 18 + j * (TILE + TEXT)
        for i, (_, tile) in enumerate(tiles):
            if tile is not None:
                sheet.paste(tile, (GAP + i * (TILE + GAP), top))
        draw.text((GAP, top + TILE + 2), caption, INK, ImageFont.load_default(12))
    return sheet


def contact_sheets(records: Sequence[Record], folder: Path) -> list[Path]:
    """Draw ``sheets/METHOD-BLOCKS-CATEGORY.png`` from the kept images; returns the paths."""
    if not (folder / "images").is_dir():
        return []
    labels = arm_labels(records)
    groups: dict[tuple[str, str, int], dict[str, list[Record]]] = {}
    for record in records:
        if (folder / "images" / f"{record.pair_id}-base.png").exists():
            where = (labels[record.key], "+".join(record.setting.blocks), record.category)
            groups.setdefault(where, {}).setdefault(record.pair_id, []).append(record)
    sheets = folder / "sheets"
    paths = []
    for (arm, blocks, category), pairs in groups.items():
        sheets.mkdir(exist_ok=True)
        rows = [
            (f"{found[0].original_prompt}  ->  {found[0].editing_prompt}", _row(folder, pair_id, found))
            for pair_id, found in pairs.items()
        ]
        safe = "".join(c if c.isalnum() or c in "+.-" else "_" for c in f"{arm}-{blocks}")
        path = sheets / f"{safe}-{category}.png"
        _compose(f"{CATEGORIES[category]}: {arm}, {blocks}", rows).save(path)
        paths.append(path)
    return paths
