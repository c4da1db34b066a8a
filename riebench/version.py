"""The version of this package."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["__version__"]

try:
    __version__ = version("riebench")
except PackageNotFoundError:  # run from a bare checkout
    __version__ = "0+unknown"
