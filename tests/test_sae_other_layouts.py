"""SAE folders of dictionary_learning and sparsify: read by their own formulas, other kinds refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from riebench.features.located_saes import LocatedSae
from riebench.instruments.loading import saes_fingerprint
from riebench.models.loaded_state import sae_mark
from riebench.models.sae_sites import check_fits
from riebench.models.sites import Site
from riebench.sae.folders import feature_count, find_saes, sae_fingerprint
from riebench.sae.linear import JumpReLU, LinearSAE, TopK
from riebench.sae.saelens import save_for_saelens
from riebench.sae.store import load_sae, save_sae
from riebench.sae.topk import TopKSAE
from riebench.settings.settings import SaeSettings
from riebench.util.errors import UserError

D, N, K = 4, 12, 3
NAMES = {"mid.0": ("mid.0",)}


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = {"W": (N, D), "b": (N,), "D": (N, D), "bd": (D,), "x": (40, D)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def by_formula(t: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Both libraries: ``f = topk(relu(W (x - b_dec) + b), k)``, ``x' = f D + b_dec``, vector by vector."""
    codes = torch.zeros(len(t["x"]), N)
    for row, x in enumerate(t["x"]):
        pre = (t["W"] @ (x - t["bd"]) + t["b"]).clamp(min=0)
        for feature in sorted(range(N), key=lambda i: -float(pre[i]))[:K]:
            codes[row, feature] = pre[feature]
    return codes, codes @ t["D"] + t["bd"]


def learned(folder: Path, **trainer: Any) -> None:
    t = tensors()
    folder.mkdir(exist_ok=True)
    config = {"dict_class": "AutoEncoderTopK", "activation_dim": D, "dict_size": N, "k": K, **trainer}
    (folder / "config.json").write_text(json.dumps({"trainer": config, "buffer": {}}))
    state = {"encoder.weight": t["W"], "encoder.bias": t["b"], "decoder.weight": t["D"].T, "b_dec": t["bd"]}
    torch.save(state | {"k": torch.tensor(K), "threshold": torch.tensor(-1.0)}, folder / "ae.pt")


def sparsified(folder: Path, **change: Any) -> None:
    t = tensors()
    folder.mkdir(exist_ok=True)
    config = {"activation": "topk", "expansion_factor": 3, "num_latents": 0, "k": K, "d_in": D, "transcode": False}
    (folder / "cfg.json").write_text(json.dumps(config | change))
    state = {"encoder.weight": t["W"], "encoder.bias": t["b"], "W_dec": t["D"], "b_dec": t["bd"]}
    save_file(state, folder / "sae.safetensors")


def test_the_configuration_above_a_checkpoint_belongs_to_the_sae(tmp_path: Path) -> None:
    """As in ``trainer_0/checkpoints/ae_100.pt`` of dictionary_learning; one that lies beside is read first."""
    learned(tmp_path / "mid.0")
    above, folder = tmp_path / "mid.0" / "config.json", tmp_path / "mid.0" / "checkpoints"
    folder.mkdir()
    (tmp_path / "mid.0" / "ae.pt").rename(folder / "ae_100.pt")
    [found] = find_saes(tmp_path, NAMES, SaeSettings()).values()
    assert found == folder
    assert LocatedSae(folder, "").name == "mid.0"
    saes = {"mid.0": folder}
    marks = [lambda: sae_fingerprint(folder), lambda: saes_fingerprint(saes), lambda: sae_mark(folder)]
    before = [mark() for mark in marks]
    above.write_text(above.read_text().replace('"buffer": {}', '"buffer": {"io": "in_and_out"}'))
    assert load_sae(folder).transcodes
    after = [mark() for mark in marks]
    assert all(one != other for one, other in zip(before, after, strict=True))
    assert saes_fingerprint({**saes, "up.0.0": Path(os.path.relpath(folder))}) != after[1]  # a relative path beside
    (folder / "config.json").write_text(above.read_text().replace("in_and_out", "in"))
    assert (load_sae(folder).transcodes, load_sae(folder).of_input) == (False, True)
    beside = sae_fingerprint(folder)
    above.unlink()
    assert sae_fingerprint(folder) == beside


@pytest.mark.parametrize("write", [learned, sparsified])
def test_read_by_its_formula(tmp_path: Path, write: Any) -> None:
    write(tmp_path / "mid.0")
    found = find_saes(tmp_path, NAMES, SaeSettings(k=K, features=N))["mid.0"]
    assert feature_count(found) == N
    sae, t = load_sae(found), tensors()
    codes, rebuilt = by_formula(t)
    assert torch.allclose(sae.encode(t["x"]), codes, atol=1e-5)
    assert torch.allclose(sae(t["x"]), rebuilt, atol=1e-5)


@pytest.mark.parametrize(
    ("write", "change", "said"),
    [
        (learned, {"dict_class": "CrossCoder"}, "CrossCoder, expected AutoEncoderTopK"),
        (learned, {"dict_class": "GatedAutoEncoder"}, "the tensor encoder.bias"),
        (learned, {"dict_class": None}, "dict_class"),
        (learned, {"k": K + 1}, f"k is {K} in ae.pt and {K + 1} in config.json"),
        (learned, {"dict_size": N + 1}, "configuration says"),
        (learned, {"input_scale": 2.0}, "input_scale in trainer"),
        (sparsified, {"activation": "relu"}, "activation in cfg.json is 'relu', expected 'topk'"),
        (sparsified, {"activation": "groupmax", "signed": True}, "signed in cfg.json is True with groupmax"),
        (sparsified, {"activation": "groupmax", "k": 5}, "12 features make no 5 groups"),
        (sparsified, {"transcode": True, "signed": True}, "signed"),
        (sparsified, {"transcode": True, "skip_connection": True}, "W_skip"),
        (sparsified, {"skip_connection": True}, "skip_connection"),
        (sparsified, {"input_unit_norm": True}, r"input_unit_norm.*, expected False; give the SAE in Python"),
        (sparsified, {"sample_topk": True}, "sample_topk"),
        (sparsified, {"signed": 1}, "signed"),
        (sparsified, {"k": 3.7}, "k in cfg.json is 3.7"),
        (sparsified, {"whiten": True}, "whiten in cfg.json"),
    ],
)
def test_other_kinds_are_refused(tmp_path: Path, write: Any, change: dict[str, Any], said: str) -> None:
    write(tmp_path / "mid.0", **change)
    with pytest.raises(UserError, match=said):
        load_sae(tmp_path / "mid.0")


def test_switches_that_are_off_are_read(tmp_path: Path) -> None:
    sparsified(tmp_path / "mid.0", signed=False, input_unit_norm=False, multi_topk=True, later=None)
    assert load_sae(tmp_path / "mid.0").k == K
    state = load_file(tmp_path / "mid.0" / "sae.safetensors")
    save_file(state | {"W_skip": torch.eye(D)}, tmp_path / "mid.0" / "sae.safetensors")
    with pytest.raises(UserError, match="the tensor W_skip"):
        load_sae(tmp_path / "mid.0")


def test_k_on_the_command_line_is_not_taken_for_another(tmp_path: Path) -> None:
    learned(tmp_path / "mid.0", k=20)
    folder = find_saes(tmp_path, NAMES, SaeSettings(k=20))["mid.0"]
    with pytest.raises(UserError, match=f"k is {K} in ae.pt and 20 in config.json"):
        load_sae(folder)
    with pytest.raises(UserError, match=rf"fits sae\.k={K}; it has mid\.0: k 20"):
        find_saes(tmp_path, NAMES, SaeSettings(k=K))


def test_what_is_no_sae_is_one_line(tmp_path: Path) -> None:
    learned(tmp_path / "mid.0")
    torn = tmp_path / "mid.0" / "ae.pt"
    state = torch.load(torn, weights_only=True)
    torch.save(state | {"b_dec": state["b_dec"] * float("nan")}, torn)
    with pytest.raises(UserError, match="pre_bias has numbers that are not finite"):
        load_sae(tmp_path / "mid.0")
    torn.write_bytes(b"")
    with pytest.raises(UserError, match="cannot be used: EOFError"):
        load_sae(tmp_path / "mid.0")
    (tmp_path / "cfg.json").write_text('{"d_in": 4, "d_sae": 8, "expansion_factor": null}')
    assert feature_count(tmp_path) == 8
    for wrong in ({"d_in": {"in": 4}}, {"d_sae": {"sae": 8}, "architecture": "abstopk"}):
        saelens = {"architecture": "topk", "d_in": D, "d_sae": N, "expansion_factor": 3} | wrong
        sparsified(tmp_path / "sized")
        (tmp_path / "sized" / "cfg.json").write_text(json.dumps(saelens))
        assert find_saes(tmp_path / "sized", {"mid.0": ("sized",)}, SaeSettings())


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("was-run"),))


def test_no_pickle_is_run(tmp_path: Path) -> None:
    learned(tmp_path / "mid.0")
    torch.save({"k": Evil()}, tmp_path / "mid.0" / "ae.pt")
    with pytest.raises(UserError, match="holds more than tensors"):
        load_sae(tmp_path / "mid.0")
    assert not Path("was-run").exists()


def test_written_for_saelens_is_the_same_sae(tmp_path: Path) -> None:
    learned(tmp_path / "mid.0")
    sae, x = load_sae(tmp_path / "mid.0"), tensors()["x"]
    save_for_saelens(sae, tmp_path / "alone", "mini", "mid.0")
    assert torch.equal(load_sae(tmp_path / "alone").encode(x), sae.encode(x))
    save_sae(sae, tmp_path / "both", {"auxk": 7})
    save_for_saelens(sae, tmp_path / "both", "mini", "mid.0")
    assert torch.equal(load_sae(tmp_path / "both").encode(x), sae.encode(x))
    assert feature_count(tmp_path / "both") == N


def test_what_would_be_read_as_another_sae_is_not_saved(tmp_path: Path) -> None:
    for config, said in (
        ({"k": 2}, "k of the SAE is 3, the configuration says 2; leave it out there"),
        ({"kind": "abstopk", "k": 3, "d_model": 5}, "d_model of the SAE is 4, the configuration says 5"),
    ):
        with pytest.raises(UserError, match=said):
            save_sae(TopKSAE(D, N, K), tmp_path / "not", config)
    for activation, kind in ((TopK(K), "gated"), (JumpReLU(torch.ones(N)), "abstopk"), (TopK(K), "mine")):
        with pytest.raises(UserError, match=rf"the kind of the SAE is '{kind}'; expected .* for its activation"):
            save_sae(LinearSAE(D, N, activation, kind), tmp_path / "not", {})
    assert not (tmp_path / "not").exists()


def test_what_a_module_is_given_is_of_no_other_site(tmp_path: Path) -> None:
    """``io`` of dictionary_learning's buffer: 'out' (usual), 'in' of a module's input, 'in_and_out' of a transcoder."""
    sites = {name: Site(D, (2, 2)) for name in ("mid.0", "mid.0/mlp.1", "mid.0/mlp-input.1", "mid.0/attention.1")}
    folder = tmp_path / "mid.0"
    learned(folder)
    config = json.loads((folder / "config.json").read_text())
    for buffer, fitting in (
        ({}, set(sites)),
        ({"io": "out"}, set(sites)),
        ({"io": "in"}, {"mid.0/mlp-input.1"}),
        ({"io": "in_and_out"}, {"mid.0/mlp.1"}),
    ):
        (folder / "config.json").write_text(json.dumps(config | {"buffer": buffer}))
        sae = load_sae(folder)
        for site in sites:
            if site in fitting:
                check_fits(sae, site, sites)
                continue
            with pytest.raises(UserError, match=rf"the SAE of {site} .*(an MLP's input, as mid|is a transcoder)"):
                check_fits(sae, site, sites)
        if sae.transcodes:
            continue
        sae.site = "mid.0/mlp-input.1" if sae.of_input else "mid.0"
        save_sae(sae, tmp_path / "saved", {})
        back = load_sae(tmp_path / "saved")
        assert (back.of_input, back.site) == (sae.of_input, sae.site)
        if sae.of_input:
            with pytest.raises(UserError, match="which SAELens' layout cannot say; save it with riebench"):
                save_for_saelens(sae, tmp_path / "saved", "mini", "mid.0")
    (folder / "config.json").write_text(json.dumps(config | {"buffer": {"io": "input"}}))
    with pytest.raises(UserError, match=r"io of buffer in config\.json is 'input', expected 'out', 'in', 'in_and_out'"):
        load_sae(folder)


@pytest.mark.parametrize(("threshold", "kind"), [(-1.0, "relu"), (0.4, "batchtopk")])
def test_a_batch_topk_sae_without_a_threshold_yet_is_a_relu_sae(tmp_path: Path, threshold: float, kind: str) -> None:
    """By the library's formula ``f * (f > threshold)`` of ``f = relu(W (x - b_dec) + b)``; -1 is unset."""
    learned(tmp_path, dict_class="BatchTopKSAE")
    torch.save(torch.load(tmp_path / "ae.pt") | {"threshold": torch.tensor(threshold)}, tmp_path / "ae.pt")
    sae, t = load_sae(tmp_path), tensors()
    codes = torch.stack([(t["W"] @ (x - t["bd"]) + t["b"]).clamp(min=0) for x in t["x"]])
    torch.testing.assert_close(sae.encode(t["x"]), codes * (codes > threshold))
    assert sae.kind == kind
