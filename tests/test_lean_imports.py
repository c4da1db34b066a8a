"""Quick imports of slow packages, of which nothing is missing afterwards."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import pytest

from riebench.util.lean_imports import lean_imports


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A package that was not imported yet, and one that is not always needed, as scipy's."""
    for name in ("scipy.stats", "scipy.ndimage"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "eager.py").write_text(
        "import importlib.metadata\nimport scipy.stats\nfrom scipy.ndimage import zoom\n"
        "try:\n    import spare\nexcept ImportError:\n    spare = None\n"
        "packages = importlib.metadata.packages_distributions()\n"
    )
    (tmp_path / "spare").mkdir()
    (tmp_path / "spare" / "__init__.py").write_text("")
    (tmp_path / "spare" / "part.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "eager", raising=False)


@pytest.mark.usefixtures("fresh")
def test_what_is_left_out_comes_when_it_is_used() -> None:
    plain = importlib.metadata.packages_distributions
    with lean_imports("spare"):
        import eager  # type: ignore[import-not-found]

        with pytest.raises(ImportError):
            from spare.part import anything  # type: ignore[import-not-found]  # noqa: F401
    assert not {"scipy.stats", "scipy.ndimage", "spare"} & set(sys.modules)
    assert importlib.metadata.packages_distributions is plain
    assert eager.zoom([[1.0, 2.0]], 2).shape == (2, 4)
    assert "scipy.ndimage" in sys.modules
    assert eager.scipy.stats.beta.ppf(0.5, 1, 1) == pytest.approx(0.5)
    assert "numpy" in eager.packages
    import spare.part

    assert spare.part


@pytest.mark.usefixtures("fresh")
def test_what_is_used_meanwhile_is_imported_at_once() -> None:
    with lean_imports():
        import scipy.stats

        assert scipy.stats.beta.ppf(0.5, 1, 1) == pytest.approx(0.5)
    assert hasattr(sys.modules["scipy.stats"], "norm")
