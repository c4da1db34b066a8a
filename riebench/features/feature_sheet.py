"""Drawings of a feature index as PNG: one feature's top pictures, or several features below each other. No torch."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from riebench.features.feature_index import FeatureIndex, IndexedFeature, TopPicture
from riebench.report.sheet import BACKGROUND, GAP, INK, MASKED, TILE, compose
from riebench.util.errors import UserError
from riebench.util.files import write_whole

COLUMNS, LINES, LINE = 3, 3, 15
IN_A_ROW = 5
"""Pictures of each feature, where several features are drawn."""


def heat_map(picture: TopPicture, maximum: float) -> Image.Image:
    """The greyed picture, red where the feature is active, fully so at its maximum; :data:`TILE` pixels wide."""
    grey = np.asarray(_tile(picture).convert("L").convert("RGB"), float) * 0.6 + 102
    cells = Image.fromarray((picture.heat / max(maximum, 1e-9)).astype(np.float32))
    share = 0.85 * np.asarray(cells.resize((TILE, TILE), Image.Resampling.NEAREST), float)[..., None]
    return Image.fromarray((grey + share * (MASKED - grey)).clip(0, 255).astype(np.uint8))


def _tile(picture: TopPicture) -> Image.Image:
    return picture.image().resize((TILE, TILE), Image.Resampling.LANCZOS)


def feature_line(feature: IndexedFeature, score_name: str | None) -> str:
    """The facts of a feature in one line."""
    label = "" if feature.label is None else f"{feature.label}, {score_name} {feature.score:.2f}; "
    codes = "never active" if feature.mean is None else f"mean code {feature.mean:.2f}, maximum {feature.maximum:.2f}"
    return f"feature {feature.number}: {label}density {feature.density:.3%}, {codes}"


def draw_features(index: FeatureIndex, features: Sequence[IndexedFeature], title: str) -> Image.Image:
    """A row for each feature that is ever active: its top pictures, each with the heat map beside it.

    Raises:
        UserError: if a part of the index cannot be read.
    """
    rows = []
    for feature in features:
        tiles: list[tuple[str, Image.Image | None]] = []
        for place, picture in enumerate(index.pictures(feature.number)[:IN_A_ROW]):
            tiles += [(f"picture {place + 1}", _tile(picture)), ("where active", heat_map(picture, feature.maximum))]
        if tiles:
            rows.append((feature_line(feature, index.facts.score_name), tiles))
    return compose(title, rows or [("no feature is active", [])])


def draw_feature(index: FeatureIndex, number: int) -> Image.Image:
    """The top pictures of a feature with heat maps and prompts, three in a row.

    Raises:
        UserError: if there is no such feature, or a part of the index cannot be read.
    """
    feature, pictures = index.feature(number), index.pictures(number)
    heading, small = ImageFont.load_default(15), ImageFont.load_default(12)
    across, down = 2 * TILE + 3 * GAP, TILE + LINES * LINE + 2 * GAP
    rows = -(-len(pictures) // COLUMNS)
    title = f"{index.facts.name}, {feature_line(feature, index.facts.score_name)}"
    width = max(COLUMNS * across, int(heading.getlength(title))) + 2 * GAP
    sheet = Image.new("RGB", (width, 34 + rows * down), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, GAP), title, INK, heading)
    for place, picture in enumerate(pictures):
        left, top = GAP + place % COLUMNS * across, 34 + place // COLUMNS * down
        sheet.paste(_tile(picture), (left, top))
        sheet.paste(heat_map(picture, feature.maximum), (left + TILE + GAP // 2, top))
        text = f"{picture.highest:.2f} · {picture.prompt} · seed {picture.seed}"
        for i, line in enumerate(_wrapped(text, small, across - 2 * GAP)):
            draw.text((left, top + TILE + 2 + i * LINE), line, INK, small)
    return sheet


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """The first lines of a text, none wider than ``width`` pixels unless a word is."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines[:LINES] if len(lines) <= LINES else [*lines[: LINES - 1], f"{lines[LINES - 1]} …"]


def write_png(picture: Image.Image, path: Path) -> None:
    """Write a drawing.

    Raises:
        UserError: if the file cannot be written.
    """
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    try:
        write_whole(path, buffer.getvalue())
    except OSError as error:
        raise UserError(f"the drawing {path} cannot be written: {error.strerror}; give another --out") from None
