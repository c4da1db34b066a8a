"""Quick imports of slow packages, of which nothing is missing afterwards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EAGER = """
import importlib.metadata
import scipy.stats
from scipy import integrate
from scipy.ndimage import zoom
from scipy.optimize import linear_sum_assignment
try:
    from spare.part import anything
except ImportError:
    anything = None
packages = importlib.metadata.packages_distributions()
"""
LATER = """
import gc, importlib.metadata, sys
from riebench.util.lean_imports import lean_imports
plain = importlib.metadata.packages_distributions
with lean_imports("spare"):
    import eager
    assert not gc.isenabled()
assert gc.isenabled()
assert eager.anything is None
assert not {"scipy.stats", "scipy.ndimage", "scipy.optimize", "scipy.integrate", "spare"} & set(sys.modules)
assert importlib.metadata.packages_distributions is plain
assert eager.zoom([[1.0, 2.0]], 2).shape == (2, 4)
assert "scipy.ndimage" in sys.modules
assert eager.linear_sum_assignment([[2.0, 1.0], [1.0, 2.0]])[1].tolist() == [1, 0]
assert abs(eager.scipy.stats.beta.ppf(0.5, 1, 1) - 0.5) < 1e-9
assert abs(eager.integrate.quad(lambda x: x, 0, 1)[0] - 0.5) < 1e-9
assert eager.packages["numpy"] == plain()["numpy"]
from spare.part import anything
"""
MEANWHILE = """
import sys
from riebench.util.lean_imports import lean_imports
with lean_imports():
    import eager
    assert eager.scipy.stats.norm.cdf(0) == 0.5
    assert eager.zoom([[1.0, 2.0]], 2).shape == (2, 4)
assert sys.modules["scipy.stats"].norm.cdf(0) == 0.5
"""


def test_what_is_left_out_comes_when_it_is_used(tmp_path: Path) -> None:
    (tmp_path / "eager.py").write_text(EAGER)
    (tmp_path / "spare").mkdir()
    (tmp_path / "spare" / "part.py").write_text("anything = 1")
    for program in (LATER, MEANWHILE):
        words = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{program}"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
