"""Paint features into a picture: a state, the function from a state to its picture, and a page that edits states.

Importing it needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from riebench.paint.state import BrushMask, Layer, State, StepInterval, read_state

if TYPE_CHECKING:
    from riebench.paint.painting import picture as picture

__all__ = ["BrushMask", "Layer", "State", "StepInterval", "picture", "read_state"]


def __getattr__(name: str) -> Any:
    # Imported on first use, as it imports torch, which reading a state does not need.
    if name == "picture":
        return import_module("riebench.paint.painting").picture
    raise AttributeError(f"module 'riebench.paint' has no attribute {name!r}")
