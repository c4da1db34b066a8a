"""Write a feature index as one HTML file that needs no network. Needs no torch."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from riebench.features.feature_index import FeatureIndex
from riebench.util.errors import UserError
from riebench.util.files import write_whole
from riebench.util.html import BASE_CSS, COMMON_JS, asset, data_uri, script_json, templates

PAGE = Path(__file__).parent / "page"
BLOCK = 64
"""Pictures, or features' heat maps, in one script element; the page reads an element when it shows one of them."""


def write_feature_page(index: FeatureIndex, path: Path) -> None:
    """Write the page: sortable table, histogram of densities, search, each feature's top pictures with heat maps.

    Raises:
        UserError: if a part of the index cannot be read or the file cannot be written.
    """
    facts, columns = index.facts, index.facts.columns
    numbers = sorted(facts.prompted)
    places = {number: place for place, number in enumerate(numbers)}
    data = {
        "score": facts.score_name,
        "grid": facts.grid,
        "block": BLOCK,
        "prompted": [facts.prompted[number] for number in numbers],
        "columns": columns.model_dump() | {"pictures": [[places[n] for n in row] for row in columns.pictures]},
    }
    silent = sum(density == 0 for density in columns.density)
    text = (
        templates(PAGE)
        .get_template("features.html")
        .render(
            title=f"Features of {facts.name}",
            css=asset(PAGE / "features.css", BASE_CSS),
            js=asset(PAGE / "features.js", COMMON_JS),
            facts=page_facts(index),
            silent=f"{silent} of {len(index)} features are active nowhere." if silent else "",
            score_name=facts.score_name,
            data=script_json(data),
            pictures=_blocks([_picture(index, number) for number in numbers]),
            heat=_blocks([_strip(index, number) for number in range(len(index))]),
        )
    )
    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise UserError(f"the page {path} cannot be written: {error.strerror}; give another --out") from None


def page_facts(index: FeatureIndex) -> dict[str, Any]:
    """The facts that all features of an index share, as the page shows them."""
    facts = index.facts
    steps = f"{facts.steps} step" + "s" * (facts.steps > 1)
    return {
        "model": facts.model,
        "site": f"{facts.site}, {facts.grid[0]} x {facts.grid[1]} positions, {facts.width} wide",
        "features": len(index),
        "pictures": f"{facts.pictures_made}, {steps}, prompts from {Path(facts.prompts).name}",
        "SAE": facts.sae,
    }


def _blocks(texts: Sequence[str]) -> list[Markup]:
    return [script_json(texts[start : start + BLOCK]) for start in range(0, len(texts), BLOCK)]


def _picture(index: FeatureIndex, number: int) -> str:
    try:
        return data_uri(index.file(number).read_bytes(), "image/webp")
    except OSError as error:
        raise UserError(f"the picture {index.file(number)} of the feature index cannot be read: {error}") from None


def _strip(index: FeatureIndex, number: int) -> str:
    """The heat maps of a feature's top pictures side by side, as a grey PNG."""
    shown = len(index.facts.columns.pictures[number])
    if not shown:
        return ""
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(list(index.heat[number, :shown]), axis=1)).save(buffer, "PNG")
    return data_uri(buffer.getvalue(), "image/png")
