"""Block ablation: how pictures change when the update of a block is zeroed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from riebench.ablation.ablating import ablate as ablate

__all__ = ["ablate"]


def __getattr__(name: str) -> Any:
    # Imported on first use: a command that only reads a folder needs none of it.
    if name == "ablate":
        from riebench.ablation.ablating import ablate

        return ablate
    raise AttributeError(f"module 'riebench.ablation' has no attribute {name!r}")
