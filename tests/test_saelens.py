"""SAELens itself reads our SAEs, and we read its; needs an environment that scripts/check_saelens makes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from riebench.sae.saelens import save_for_saelens
from riebench.sae.store import load_sae, save_sae
from riebench.sae.topk import TopKSAE

ROOT = Path(__file__).parents[1]
ENVIRONMENT = Path(os.environ.get("RIEBENCH_SAELENS", ROOT / ".venv-saelens"))


@pytest.mark.skipif(not (ENVIRONMENT / "bin" / "python").exists(), reason="no SAELens; scripts/check_saelens gets it")
def test_codes_are_the_same_there_and_here(tmp_path: Path) -> None:
    torch.manual_seed(1)
    sae = TopKSAE(24, 96, 5).requires_grad_(False)
    sae.pre_bias.normal_()
    sae.latent_bias.normal_()
    x = torch.randn(500, 24) * 3 + 1
    save_sae(sae, tmp_path / "ours", {})
    save_for_saelens(sae, tmp_path / "ours", "mini", "mid.0")
    save_file({"x": x}, tmp_path / "x.safetensors")
    command = [ENVIRONMENT / "bin" / "python", ROOT / "scripts" / "saelens_side.py", tmp_path]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    found = load_file(tmp_path / "found.safetensors")
    theirs = load_sae(tmp_path / "theirs")
    assert (theirs.k, theirs.n_features) == (7, 96)
    trained = load_sae(tmp_path / "trained")
    pairs = ((sae, "codes", "rebuilt"), (theirs, "their_codes", "their_rebuilt"))
    for read, codes, rebuilt in (*pairs, (trained, "trained_codes", "trained_rebuilt")):
        off = (read.encode(x) - found[codes]).abs().max().item(), (read(x) - found[rebuilt]).abs().max().item()
        print("largest difference of codes and reconstructions:", *off)
        assert max(off) < 1e-5
