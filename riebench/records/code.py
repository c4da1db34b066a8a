"""Which code made a record."""

from __future__ import annotations

import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from riebench import __version__

COMPUTING = ("torch", "diffusers", "transformers", "open_clip_torch", "lpips", "numpy")


def versions() -> dict[str, str | bool | None]:
    """Version of riebench and of the packages whose code can change numbers."""
    found: dict[str, str | bool | None] = {"riebench": __version__}
    for name in COMPUTING:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


@cache
def code_version() -> dict[str, str | bool | None]:
    """Versions of this package and of those that compute; commit and changes, if it lies in its own git checkout."""
    package = Path(__file__).parents[1]

    def git(*words: str, at: str | Path = package) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(at), *words], capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # A site-packages folder inside somebody else's repository is not our checkout.
    top = git("rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != package.parent.resolve():
        return {**versions(), "commit": None, "dirty": None}
    return {
        **versions(),
        "commit": git("rev-parse", "HEAD"),
        "dirty": bool(git("status", "--porcelain", "--", "riebench", "baselines", at=top)),
    }
