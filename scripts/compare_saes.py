"""Read the SAEs that scripts/saes_side.py saved, and compare codes and reconstructions: compare_saes.py FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

from safetensors.torch import load_file

from riebench.sae.folders import feature_count, find_saes
from riebench.sae.store import load_sae
from riebench.settings.settings import SaeSettings

SITE = "mid.0"
MOST = 1e-5
"""The largest difference, in float32, of numbers of size 1 to 10."""


class Difference(NamedTuple):
    """The largest differences between a library's SAE and ours.

    Attributes:
        kind: of ours.
        codes: of the codes; those of an SAE whose codes have signs are the differences of two features of ours.
        rebuilt: of the reconstruction.
    """

    kind: str
    codes: float
    rebuilt: float


def difference(case: Path) -> Difference:
    """The largest differences of one case of ``saes_side.py``, in a folder with ``mid.0`` and what is expected."""
    folder = find_saes(case, {SITE: (SITE,)}, SaeSettings())[SITE]
    sae, expected = load_sae(folder), load_file(case / "expected.safetensors")
    assert feature_count(folder) == sae.n_features
    codes = sae.encode(expected["x"])
    assert bool((codes >= 0).all())
    rebuilt, features = sae.decode(codes), expected["codes"].shape[1]
    if sae.kind == "abstopk":
        codes = codes[:, :features] - codes[:, features:]
    off = ((codes - expected["codes"]).abs().max().item(), (rebuilt - expected["rebuilt"]).abs().max().item())
    return Difference(sae.kind, *off)


def main(root: Path) -> int:
    """Print a line for each case; 1 if one is above :data:`MOST`."""
    failed = 0
    for case in sorted(p.parent for p in root.glob("*/expected.safetensors")):
        found = difference(case)
        wrong = max(found.codes, found.rebuilt) > MOST
        failed += wrong
        mark = "WRONG" if wrong else ""
        print(f"{case.name:44} {found.kind:10} codes {found.codes:8.1e}  rebuilt {found.rebuilt:8.1e} {mark}".rstrip())
    print(f"{failed} of {len(list(root.glob('*/expected.safetensors')))} differ by more than {MOST:g}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
