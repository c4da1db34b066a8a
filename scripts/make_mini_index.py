"""Make the feature indexes of mini's SAEs that come with the package, when its weights or SAEs have changed.

    python scripts/make_mini_index.py

It takes two minutes. The indexes share their pictures, as each picture is among the top ones of features of every SAE.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from riebench.features.feature_index import FACTS, HEAT, PICTURES
from riebench.features.located_saes import SHIPPED, index_in_cache
from riebench.paint.paint_request import PaintRequest


def main() -> None:
    shutil.rmtree(SHIPPED, ignore_errors=True)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        request = PaintRequest("mini")
        request.open_studio()
        (SHIPPED / PICTURES).mkdir(parents=True)
        for sae in request.saes.values():
            ship(index_in_cache(sae))
    size = sum(file.stat().st_size for file in SHIPPED.rglob("*") if file.is_file())
    print(f"{SHIPPED}: {size / 1e6:.1f} MB")


def ship(index: Path) -> None:
    """Copy an index to the package, its pictures into the folder that all share."""
    (SHIPPED / index.name).mkdir()
    for name in (FACTS, HEAT):
        shutil.copyfile(index / name, SHIPPED / index.name / name)
    for picture in (index / PICTURES).iterdir():
        shutil.copyfile(picture, SHIPPED / PICTURES / picture.name)


if __name__ == "__main__":
    main()
