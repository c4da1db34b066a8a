"""riebench: a benchmark of representation-based image editing in text-to-image diffusion models."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from riebench.version import __version__

if TYPE_CHECKING:
    from riebench.ablation.ablating import ablate as ablate
    from riebench.engine.python_run import RunResult as RunResult
    from riebench.engine.python_run import run as run
    from riebench.models.entries import load as load
    from riebench.models.model import Model as Model
    from riebench.models.sites import Edit as Edit
    from riebench.models.sites import Run as Run
    from riebench.models.sites import Start as Start
    from riebench.report.frame import load_records as load_records
    from riebench.util.errors import PairError as PairError
    from riebench.util.errors import UserError as UserError

# Beside other work, OpenMP threads that wait in a spin hold the processors that others need: a run takes seven to
# twelve times as long. torch reads this when it is imported; a user's own value stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__all__ = [
    "Edit",
    "Model",
    "PairError",
    "Run",
    "RunResult",
    "Start",
    "UserError",
    "__version__",
    "ablate",
    "load",
    "load_records",
    "run",
]

_LAZY = {
    "Edit": "riebench.models.sites",
    "Model": "riebench.models.model",
    "PairError": "riebench.util.errors",
    "Run": "riebench.models.sites",
    "RunResult": "riebench.engine.python_run",
    "Start": "riebench.models.sites",
    "UserError": "riebench.util.errors",
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


def __dir__() -> list[str]:
    """All public names, those that are not yet imported too."""
    return sorted({*globals(), *__all__})
