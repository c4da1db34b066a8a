"""HTML pages in one file: templates that escape, data and pictures inside the page. Needs no torch."""

from __future__ import annotations

import base64
import json
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

BASE_CSS = Path(__file__).parent / "page" / "base.css"
COMMON_JS = Path(__file__).parent / "page" / "common.js"


@cache
def templates(folder: Path) -> Environment:
    """The templates of a folder. All values are escaped, whatever the name of the template."""
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def asset(own: Path | None, shared: Path) -> Markup:
    """The style sheet or script that all pages share, followed by the page's own, if it has one."""
    return Markup("".join(file.read_text(encoding="utf-8") for file in (shared, own) if file))


def script_json(value: Any) -> Markup:
    """A value as JSON inside a script element, which no text in it can end."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


def data_uri(data: bytes, kind: str) -> str:
    """A file as a URI that holds all of it; ``kind`` is its media type."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
