"""Which code made a record."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

from riebench import __version__


@cache
def code_version() -> dict[str, str | bool | None]:
    """Package version and, if the package lies in its own git checkout, commit and whether it was changed since."""
    package = Path(__file__).parents[1]

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(package), *words], capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # A site-packages folder inside somebody else's repository is not our checkout.
    top = git("rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != package.parent.resolve():
        return {"version": __version__, "commit": None, "dirty": None}
    return {
        "version": __version__,
        "commit": git("rev-parse", "HEAD"),
        "dirty": bool(git("status", "--porcelain", "--", "riebench", "baselines")),
    }
