"""The code of the README's section on Python does what the section says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

README = Path(__file__).parents[1] / "README.md"


def example() -> str:
    section = re.search(r"\n## In Python\n.*?\n```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert section is not None, f"{README} has no section 'In Python' with code"
    return section[1]


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the names that the code defines, together with the folder that it ran in."""
    folder = tmp_path_factory.mktemp("readme")
    namespace: dict[str, Any] = {"folder": folder}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(compile(example(), str(README), "exec"), namespace)
    return namespace


def test_the_edit_is_where_it_was_painted(names: dict[str, Any]) -> None:
    base, edited = (names[name].image.astype(int) for name in ("base", "edited"))
    assert base.shape == edited.shape == (128, 128, 3)
    painted = np.zeros((128, 128), bool)
    painted[16:96, 16:80] = True  # rows 1 to 5 and columns 1 to 4 of cells of 16 pixels
    change = np.abs(edited - base).mean(2)
    assert change[painted].mean() > 4
    assert change[painted].mean() > 5 * change[~painted].mean()


def test_the_heart_turns_from_red_to_blue(names: dict[str, Any]) -> None:
    base, edited = (names[name].image.astype(int) for name in ("base", "edited"))
    heart = (base[..., 0] > 180) & (base[..., 1] < 80)
    assert heart.mean() > 0.05
    red_or_blue = [(image[..., 2] - image[..., 0])[heart].mean() for image in (base, edited)]
    assert red_or_blue[0] < -120
    assert red_or_blue[1] > 0


def test_the_picture_is_saved(names: dict[str, Any]) -> None:
    (path,) = names["folder"].glob("*.png")
    assert np.array_equal(np.asarray(Image.open(path)), names["edited"].image)


def test_the_example_is_short() -> None:
    calls = [line for line in example().splitlines() if line and not line.startswith(("import", "from"))]
    assert max(map(len, calls)) <= 120
    assert len(calls) <= 8
