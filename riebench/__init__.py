"""riebench: a benchmark of representation-based image editing in text-to-image diffusion models."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from riebench.version import __version__

if TYPE_CHECKING:
    from riebench.ablation.ablating import ablate as ablate
    from riebench.engine.python_run import run as run
    from riebench.models.entries import load as load
    from riebench.report.frame import load_records as load_records

# Beside other work, OpenMP threads that wait in a spin hold the processors that others need: a run takes seven to
# twelve times as long. torch reads this when it is imported; a user's own value stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__all__ = ["__version__", "ablate", "load", "load_records", "run"]

_LAZY = {
    "ablate": "riebench.ablation.ablating",
    "load": "riebench.models.entries",
    "load_records": "riebench.report.frame",
    "run": "riebench.engine.python_run",
}


def __getattr__(name: str) -> Any:
    """Imported when asked for, so that commands that do without them start at once."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'riebench' has no attribute {name!r}")
