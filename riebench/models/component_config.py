"""Configurations of a pipeline's components, read from its folder and checked. Importing it needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any

from riebench.util.errors import UserError

ADVICE = "put the pipeline's own file back, or give another folder"
LONGEST = 60
"""Characters of a wrong value that a message shows."""


class ComponentConfig(dict[str, Any]):
    """The configuration of a pipeline's component; a value that is looked up must be of the published one's kind.

    Args:
        file: with the configuration.
        published: the published configuration, whose values are examples; a number, or several, where it has none.

    Raises:
        UserError: if the file holds no configuration; when a value is looked up, if it is missing or of another kind.
    """

    def __init__(self, file: Path, published: Mapping[str, Any]) -> None:
        super().__init__(json_object(file))
        self.file, self.published = file, published

    def __missing__(self, name: str) -> Any:
        raise UserError(f"{self.file} has no {name!r}; expected {self._example(name)}; {ADVICE}")

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        if not _alike(value, self.published.get(name, [1])):
            written = json.dumps(value)
            shown = written if len(written) <= LONGEST else f"{written[:LONGEST]}…"
            raise UserError(f"{self.file} has {shown} as {name!r}; expected {self._example(name)}; {ADVICE}")
        return value

    def get(self, name: str, default: Any = None) -> Any:
        """A value, checked as by a look-up; the default if it is missing or null."""
        return default if super().get(name) is None else self[name]

    def _example(self, name: str) -> str:
        example = self.published.get(name)
        return "a number" if example is None else f"a value as the published {json.dumps(example)}"


def json_object(file: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: if the file cannot be read, or holds no object.
    """
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error) or type(error).__name__
        raise UserError(f"{file} cannot be read ({reason}); expected a component's configuration; {ADVICE}") from None
    if not isinstance(content, dict):
        what = "null" if content is None else f"a {type(content).__name__}"
        raise UserError(f"{file} holds {what}; expected an object with a component's configuration; {ADVICE}")
    return content


def _alike(value: Any, example: Any) -> bool:
    """Whether a value is of an example's kind: text, true or false, a number of at least 0, or one or several such.

    Of several, each may be several again: a pruned U-Net's numbers of layers are.
    """
    if isinstance(example, list):
        values = value if isinstance(value, list) else [value]
        return bool(values) and all(_alike(v, example if isinstance(v, list) else example[0]) for v in values)
    if isinstance(example, (bool, str)):
        return type(value) is type(example)
    is_number = type(value) in (int, float) and 0 <= value < inf
    return is_number and (isinstance(example, float) or value == int(value))
