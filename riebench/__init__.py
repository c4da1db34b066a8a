"""riebench: a benchmark of representation-based image editing in text-to-image diffusion models."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from riebench.report.frame import load_records as load_records

__all__ = ["__version__", "load_records"]

try:
    __version__ = version("riebench")
except PackageNotFoundError:  # run from a bare checkout
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    # Imported when asked for: it brings pandas, which most commands do without.
    if name == "load_records":
        from riebench.report.frame import load_records

        return load_records
    raise AttributeError(f"module 'riebench' has no attribute {name!r}")
