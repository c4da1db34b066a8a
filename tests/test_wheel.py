"""The wheel, installed in an environment of its own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(os.name == "nt", reason="scripts/try_wheel needs bash")
@pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="this environment has no pip to install with")
def test_the_wheel_runs_away_from_the_repository(tmp_path: Path) -> None:
    environment = os.environ | {
        "PYTHON": sys.executable,
        "WHEEL_DEPENDENCIES": str(Path(torch.__file__).parents[1]),
        "TMPDIR": str(tmp_path),
    }
    done = subprocess.run(
        [ROOT / "scripts" / "try_wheel"], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the wheel works: riebench-" in done.stdout
    assert not list(tmp_path.iterdir())
