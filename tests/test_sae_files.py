"""SAE files that other libraries have saved (saes/README.md): our codes and reconstructions are theirs."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from riebench.sae.saelens import save_for_saelens
from riebench.sae.store import load_sae, save_sae
from riebench.util.errors import UserError

ROOT = Path(__file__).parents[1]
CASES = sorted(path.parent for path in (ROOT / "tests" / "saes").glob("*/expected.safetensors"))
_spec = importlib.util.spec_from_file_location("compare_saes", ROOT / "scripts" / "compare_saes.py")
assert _spec is not None
assert _spec.loader is not None
compare = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(compare)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_codes_and_reconstruction_are_the_librarys(case: Path) -> None:
    found = compare.difference(case)
    assert max(found.codes, found.rebuilt) < 1e-5


@pytest.mark.parametrize("name", ["sae-lens-abstopk", "sae-lens-gated-raw", "sae-lens-standard", "sae-lens-jumprelu"])
def test_saved_in_our_layout_and_in_that_of_saelens(name: str, tmp_path: Path) -> None:
    sae = load_sae(ROOT / "tests" / "saes" / name / "mid.0")
    x = load_file(ROOT / "tests" / "saes" / name / "expected.safetensors")["x"]
    save_sae(sae, tmp_path / "both", {})
    back = load_sae(tmp_path / "both")
    assert (back.kind, back.k, back.n_features) == (sae.kind, sae.k, sae.n_features)
    save_for_saelens(sae, tmp_path / "both", "mini", "mid.0")
    save_for_saelens(sae, tmp_path / "theirs", "mini", "mid.0")
    for folder in ("both", "theirs"):
        assert torch.equal(load_sae(tmp_path / folder)(x), sae(x))
    if sae.k is None:
        file, name = tmp_path / "both" / "state_dict.safetensors", "activation.threshold"
        save_file(load_file(file) | {name: sae.activation.threshold + 1}, file)
        with pytest.raises(UserError, match="differs between"):
            load_sae(tmp_path / "both")


def test_scales_of_a_finetuning_are_applied_in_the_decoder(tmp_path: Path) -> None:
    """As SAELens 5 does: ``(codes * scale) @ W_dec + b_dec``; a scale of ones does nothing there either."""
    folder = tmp_path / "mid.0"
    shutil.copytree(ROOT / "tests" / "saes" / "sae-lens-standard" / "mid.0", folder)
    plain, x = load_sae(folder), torch.randn(9, 6, generator=torch.Generator().manual_seed(4))
    config, state = json.loads((folder / "cfg.json").read_text()), load_file(folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps(config | {"finetuning_scaling_factor": True}))
    scale = torch.linspace(0.5, 3, 12)
    save_file(state | {"finetuning_scaling_factor": scale}, folder / "sae_weights.safetensors")
    sae = load_sae(folder)
    assert torch.equal(sae.encode(x), plain.encode(x))
    assert torch.allclose(sae(x), (plain.encode(x) * scale) @ state["W_dec"] + state["b_dec"], atol=1e-5)
    (folder / "cfg.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="the tensor finetuning_scaling_factor"):
        load_sae(folder)
    save_file(state | {"scaling_factor": torch.ones(12)}, folder / "sae_weights.safetensors")
    assert torch.equal(load_sae(folder)(x), plain(x))
