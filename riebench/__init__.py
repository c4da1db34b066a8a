"""riebench: a benchmark of representation-based image editing in text-to-image diffusion models."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from riebench.api import run as run

try:
    __version__ = version("riebench")
except PackageNotFoundError:  # run from a bare checkout
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    """``riebench.run``, imported with all it needs when it is first asked for."""
    if name == "run":
        from riebench.api import run

        return run
    raise AttributeError(f"module 'riebench' has no attribute {name!r}")
