"""Read the SAEs that scripts/saes_side.py saved, and compare codes and reconstructions: compare_saes.py FOLDER.

With ``--make``, train an SAE of each kind for SAELens to read, as ``FOLDER/ours-KIND``, and compare nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file

from riebench.sae.folders import feature_count, find_saes
from riebench.sae.saelens import save_for_saelens
from riebench.sae.store import load_sae, save_sae
from riebench.settings.settings import SaeSettings
from riebench.training.kinds import learner_of
from riebench.training.one_pass import start_of
from riebench.training.training_plan import COUNTED, KINDS, L1, GridPoint, SAESettings

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
    assert sae.transcodes == ("transcoder" in case.name)
    rebuilt, features = sae.rebuild(expected["x"], codes), expected["codes"].shape[1]
    if sae.kind == "abstopk":
        codes = codes[:, :features] - codes[:, features:]
    off = ((codes - expected["codes"]).abs().max().item(), (rebuilt - expected["rebuilt"]).abs().max().item())
    return Difference(sae.kind, *off)


def make_ours(root: Path) -> None:
    """Train an SAE of each kind a little, and write it as ``riebench sae train`` does."""
    torch.manual_seed(1)
    x, settings = torch.randn(512, 6) @ torch.randn(6, 6) * 3 + 1, SAESettings(batch=512, bandwidth=0.1)
    for kind in KINDS:
        sparsity = {"k": 3} if kind in COUNTED else {"l1": 0.3} if kind in L1 else {"l0": 0.02}
        point = GridPoint(site=SITE, kind=kind, expansion=2, aux=kind in COUNTED, seed=0, **sparsity)
        learner = learner_of([point], x.shape[1], start_of(x), settings, torch.device("cpu"))
        for _ in range(300):
            learner.step(x, 1e-2)
        folder = root / f"ours-{kind}" / SITE
        save_sae(learner.sae(), folder, point.facts())
        save_for_saelens(learner.sae(), folder, "none", SITE)
        save_file({"x": x}, folder.parent / "x.safetensors")


def main(root: Path) -> int:
    """Print a line for each case; 1 if one is above :data:`MOST`."""
    failed = 0
    for case in sorted(p.parent for p in root.glob("*/expected.safetensors")):
        found = difference(case)
        wrong = max(found.codes, found.rebuilt) > MOST
        failed += wrong
        mark = "WRONG" if wrong else ""
        print(f"{case.name:44} {found.kind:24} codes {found.codes:8.1e}  rebuilt {found.rebuilt:8.1e} {mark}".rstrip())
    print(f"{failed} of {len(list(root.glob('*/expected.safetensors')))} differ by more than {MOST:g}")
    return 1 if failed else 0


if __name__ == "__main__":
    *options, folder = sys.argv[1:]
    sys.exit(make_ours(Path(folder)) if options == ["--make"] else main(Path(folder)))
