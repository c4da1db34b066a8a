"""SAE folders: as published, as SAELens has them, and what is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from riebench.models.sdxl import FOUR, SAE_SUFFIX, TURBO, module_path
from riebench.sae.folders import feature_count, find_saes
from riebench.sae.saelens import save_for_saelens
from riebench.sae.store import load_sae, save_sae
from riebench.sae.topk import TopKSAE
from riebench.settings.settings import SaeSettings, parse_settings
from riebench.util.errors import UserError

PUBLISHED = "unet.down_blocks.2.attentions.1_k3_hidden10_auxk256_bs4096_lr0.0001"
D, N, K = 4, 10, 3
NAMES = {"down.2.1": ("down.2.1", "unet.down_blocks.2.attentions.1"), "mid.0": ("mid.0",), "up.0.0": ("up.0.0",)}


def found(root: Path, **wanted: int) -> dict[str, Path]:
    return find_saes(root, NAMES, SaeSettings(**wanted))


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "encoder.weight": draw(N, D),
        "decoder.weight": draw(D, N),
        "pre_bias": draw(D),
        "latent_bias": draw(N),
        "stats_last_nonzero": torch.zeros(N, dtype=torch.long),
    }


def published(root: Path, content: Any, name: str = PUBLISHED, k: int = K) -> Path:
    folder = root / name / "final"
    folder.mkdir(parents=True)
    config = {"n_dirs_local": N, "d_model": D, "k": k, "auxk": 256, "dead_steps_threshold": 2441}
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(content, folder / "state_dict.pth")
    return folder


def by_formula(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """``z = relu(topk(W_enc (x - b_pre) + b_lat, k))`` with a loop over vectors."""
    rows = []
    for vector in x:
        raw = state["encoder.weight"] @ (vector - state["pre_bias"]) + state["latent_bias"]
        code = torch.zeros(N)
        for i in sorted(range(N), key=lambda i: -raw[i])[:K]:
            code[i] = max(0.0, float(raw[i]))
        rows.append(code)
    return torch.stack(rows)


def test_published_folder(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    published(tmp_path, {"state_dict": state})
    folders = found(tmp_path)
    assert feature_count(folders["down.2.1"]) == N
    assert list(folders) == ["down.2.1"]
    sae = load_sae(folders["down.2.1"])
    x = torch.randn(7, D)
    assert torch.allclose(sae.encode(x), by_formula(state, x), atol=1e-5)
    assert torch.allclose(sae(x), by_formula(state, x) @ state["decoder.weight"].T + state["pre_bias"], atol=1e-5)


def test_saelens_folder_is_the_same_sae(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    folder = tmp_path / "mid.0"
    saelens_folder(folder, state, apply_b_dec_to_input=True)
    config: dict[str, Any] = json.loads((folder / "cfg.json").read_text())
    assert feature_count(folder) == N
    x = torch.randn(7, D)
    assert torch.allclose(load_sae(found(tmp_path)["mid.0"]).encode(x), by_formula(state, x), atol=1e-5)
    for change, said in (
        ({"architecture": "temporal"}, "architecture in cfg.json is 'temporal', expected 'topk'"),
        ({"architecture": "jumprelu", "k": None}, "threshold"),
        ({"architecture": "standard"}, "k in cfg.json is 3, but its architecture, 'standard', has no k"),
        ({"architecture": None, "sae_lens_version": "6.1.0"}, "architecture in cfg.json is 'None', expected 'topk'"),
        (
            {"architecture": "standard", "k": None, "rescale_acts_by_decoder_norm": True},
            "rescale_acts_by_decoder_norm in cfg.json is True, expected False",
        ),
        ({"normalize_activations": "layer_norm"}, "normalize_activations"),
        ({"architecture": "gated", "activation_fn": "topk", "activation_fn_kwargs": {"k": K}}, "activation_fn.*'relu'"),
        ({"architecture": "standard", "activation_fn": "topk", "sae_lens_version": "6.1.0"}, "activation_fn.*'relu'"),
        ({"finetuning_scaling_factor": True}, "finetuning_scaling_factor in cfg.json is True.*no such tensor"),
        ({"activation_fn": "relu"}, "activation_fn"),
        ({"postact_fn": "identity"}, "postact_fn"),
        ({"activation_fn_kwargs": {"k": K, "postact_fn": "identity"}}, "postact_fn in activation_fn_kwargs"),
        ({"activation_fn_kwargs": {"k": K + 1}}, f"k is {K} in cfg.json and {K + 1} in activation_fn_kwargs"),
        (
            {"metadata": {"hook_name_out": "blocks.3"}},
            "hook_name_out in metadata of cfg.json is 'blocks.3', as of a transcoder, but its architecture is 'topk'",
        ),
        ({"hook_name_out": "blocks.3"}, "hook_name_out in cfg.json is 'blocks.3', as of a transcoder"),
        ({"d_sae": N + 1}, "configuration says"),
        ({"k": K + 0.5}, "k in cfg.json is 3.5"),
        ({"k": True}, "k in cfg.json is True"),
    ):
        (folder / "cfg.json").write_text(json.dumps(config | change))
        with pytest.raises(UserError, match=said):
            load_sae(folder)
    (folder / "cfg.json").write_text(json.dumps(config))
    save_file(
        load_file(folder / "sae_weights.safetensors") | {"W_enc": torch.ones(D, N, dtype=torch.int8)},
        folder / "sae_weights.safetensors",
    )
    with pytest.raises(UserError, match=r"W_enc is torch.int8.*quantised SAEs are not read, save it in float32"):
        load_sae(folder)


def saelens_folder(folder: Path, state: dict[str, torch.Tensor], **config: Any) -> dict[str, torch.Tensor]:
    folder.mkdir(parents=True)
    tensors = {
        "W_enc": state["encoder.weight"].T.contiguous(),
        "W_dec": state["decoder.weight"].T.contiguous(),
        "b_enc": state["latent_bias"],
        "b_dec": state["pre_bias"],
    }
    save_file(tensors, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps({"architecture": "topk", "d_in": D, "d_sae": N, "k": K} | config))
    return tensors


@pytest.mark.parametrize("architecture", ["standard", "topk"])
def test_saelens_before_6(tmp_path: Path, state: dict[str, torch.Tensor], architecture: str) -> None:
    saelens_folder(
        tmp_path / "mid.0",
        state,
        **{"architecture": architecture, "k": None, "activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}},
        **{
            "finetuning_scaling_factor": False,
            "normalize_activations": "none",
            "hook_layer": 3,
            "neuronpedia_id": None,
        },
    )
    x = torch.randn(7, D)
    assert torch.allclose(load_sae(tmp_path / "mid.0").encode(x), by_formula(state, x), atol=1e-5)


def test_decoder_norms_are_folded_exactly(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    """As a default SAELens training saves it: pre-activations times the norms, codes over the norms."""
    t = saelens_folder(tmp_path / "mid.0", state, rescale_acts_by_decoder_norm=True, aux_loss_coefficient=1.0)
    norms = t["W_dec"].norm(dim=1)
    x = torch.randn(50, D, generator=torch.Generator().manual_seed(2))
    pre = ((x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]) * norms
    codes = torch.zeros_like(pre).scatter(1, pre.topk(K, dim=1).indices, pre.topk(K, dim=1).values.relu())
    sae = load_sae(tmp_path / "mid.0")
    assert torch.allclose(sae.encode(x), codes, atol=1e-5)
    assert torch.allclose(sae(x), (codes / norms) @ t["W_dec"] + t["b_dec"], atol=1e-5)
    assert not torch.allclose(sae.encode(x), by_formula(state, x), atol=1e-2)
    t["W_dec"][3] = 0
    save_file(t, tmp_path / "mid.0" / "sae_weights.safetensors")
    with pytest.raises(UserError, match="1 rows of W_dec have norm 0"):
        load_sae(tmp_path / "mid.0")


def test_tensors_and_keys_that_are_not_read_are_refused(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    tensors = saelens_folder(tmp_path / "mid.0", state)
    save_file(tensors | {"threshold": torch.ones(N)}, tmp_path / "mid.0" / "sae_weights.safetensors")
    with pytest.raises(UserError, match="the tensor threshold"):
        load_sae(tmp_path / "mid.0")
    folder = published(tmp_path, {"state_dict": state})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"normalize": True}))
    with pytest.raises(UserError, match=r"normalize in config\.json is True"):
        load_sae(folder)
    (folder / "config.json").write_text(json.dumps(config | {"normalize": None, "notes": {"by": "me"}}))
    assert load_sae(folder).k == K
    torch.save({"state_dict": state | {"threshold": torch.ones(N)}}, folder / "state_dict.pth")
    with pytest.raises(UserError, match="threshold"):
        load_sae(folder)
    with pytest.raises(UserError, match="'normalize' is no key"):
        save_sae(TopKSAE(D, N, K), tmp_path / "other", {"normalize": True})


def test_quantised_weights_are_refused(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    with pytest.raises(UserError, match=r"encoder\.weight is torch\.int8"):
        load_sae(published(tmp_path, {"state_dict": state | {"encoder.weight": state["encoder.weight"].char()}}))


def test_two_files_of_weights_must_hold_one_sae(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    sae, folder = TopKSAE(D, N, K), tmp_path / "mid.0"
    save_sae(sae, folder, {}, torch.float16)
    save_for_saelens(sae, folder, "mini", "mid.0")
    assert load_sae(folder).k == K
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config | {"k": K + 1}))
    with pytest.raises(UserError, match=f"k is {K} in config.json and {K + 1} in cfg.json"):
        load_sae(folder)
    with torch.no_grad():
        sae.pre_bias += 1
    save_for_saelens(sae, folder, "mini", "mid.0")  # as a training goes on in SAELens
    with pytest.raises(UserError, match=r"pre_bias differs between state_dict.safetensors and sae_weights.safetensors"):
        load_sae(folder)
    torch.save({"state_dict": state}, folder / "state_dict.pth")
    with pytest.raises(UserError, match="several files of weights"):
        load_sae(folder)


def test_a_layout_that_is_not_read_names_those_that_are(tmp_path: Path) -> None:
    """A folder of the hub's mixin for PyTorch models."""
    (tmp_path / "mid.0").mkdir()
    (tmp_path / "mid.0" / "config.json").write_text(json.dumps({"features": N, "k": K}))
    save_file({"W": torch.ones(N, D)}, tmp_path / "mid.0" / "model.safetensors")
    for ask in (load_sae, feature_count):
        with pytest.raises(UserError, match=r"state_dict.pth.*sae_weights.safetensors.*ae.pt.*sae.safetensors"):
            ask(tmp_path / "mid.0")


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("was-run"),))


def test_anything_but_tensors_is_refused(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    folder = published(tmp_path, {"state_dict": state, "more": Evil()})
    with pytest.raises(UserError, match="holds more than tensors"):
        load_sae(folder)
    (folder / "state_dict.pth").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match="cannot be used"):
        load_sae(folder)
    assert not Path("was-run").exists()


@pytest.mark.parametrize("key", ["encoder.weight", "latent_bias"])
def test_weights_that_do_not_fit(tmp_path: Path, state: dict[str, torch.Tensor], key: str) -> None:
    with pytest.raises(UserError, match=key):
        load_sae(published(tmp_path / "short", {"state_dict": state | {key: state[key][1:]}}))
    del state[key]
    with pytest.raises(UserError, match=key):
        load_sae(published(tmp_path / "less", {"state_dict": state}))


@pytest.mark.parametrize(
    ("name", "site"),
    [
        (PUBLISHED, "down.2.1"),
        ("unet.mid_block.attentions.0_k160_hidden5120_auxk256_bs4096_lr0.0001", "mid.0"),
        ("up_blocks.0.attentions.1", "up.0.1"),
        ("up.0.0", "up.0.0"),
        ("down.1.1_k20", "down.1.1"),
        ("final", None),
        ("unet.mid_block.resnets.0_k160", None),
        ("up.0.00", None),
    ],
)
def test_the_block_is_in_the_name(tmp_path: Path, name: str, site: str | None) -> None:
    save_sae(TopKSAE(D, N, K), tmp_path / "saes" / name, {})
    settings = parse_settings({"sae.folder": tmp_path / "saes", "weights": tmp_path})
    if site is None:
        with pytest.raises(UserError, match="no SAE folder that fits; expected folders named for sites"):
            TURBO.saes(settings)
    else:
        assert TURBO.saes(settings) == {site: tmp_path / "saes" / name}


def test_published_saes_are_those_of_the_four_blocks(tmp_path: Path) -> None:
    for block in FOUR:
        name = f"unet.{module_path(block)}{SAE_SUFFIX}"
        save_sae(TopKSAE(D, N, K), tmp_path / "sdxl-turbo-saes" / name / "final", {})
    assert list(TURBO.saes(parse_settings({"weights": tmp_path}))) == list(FOUR)


def test_order_is_that_of_the_sites_and_not_of_the_text(tmp_path: Path) -> None:
    names = {f"layer.{number}": (f"layer.{number}",) for number in range(11)}
    for number in (10, 2, 1, 0):
        save_sae(TopKSAE(D, N, K), tmp_path / f"layer.{number}_k3", {})
    folders = find_saes(tmp_path, names, SaeSettings())
    assert list(folders) == ["layer.0", "layer.1", "layer.2", "layer.10"]
    assert folders["layer.1"].name == "layer.1_k3"


def test_several_for_one_block(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    published(tmp_path, {"state_dict": state})
    published(tmp_path, {"state_dict": state}, PUBLISHED.replace("k3", "k2"), k=2)
    with pytest.raises(UserError, match=r"several SAEs for down.*k 2, 10 features.*sae\.folder=.*sae\.k="):
        found(tmp_path)
    assert load_sae(found(tmp_path, k=2)["down.2.1"]).k == 2
    with pytest.raises(UserError, match="no SAE folder that fits"):
        found(tmp_path, k=5)
    with pytest.raises(UserError, match="no SAE folder that fits"):
        found(tmp_path, k=2, features=N + 1)
    with pytest.raises(UserError, match=r"fits sae\.k=5; it has .*k 2, 10 features"):
        found(tmp_path, k=5)
    with pytest.raises(UserError, match="there is no folder"):
        found(tmp_path / "none")


def test_two_saes_of_one_size_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    names = [f"up.0.0_k{K}_aux-{switch}" for switch in ("off", "on")]
    for name in names:
        save_sae(TopKSAE(D, N, K), tmp_path / name, {"site": "up.0.0"})
    with pytest.raises(UserError, match="several SAEs") as refused:
        found(tmp_path)
    assert f"--set sae.folder={tmp_path / names[0]}" in str(refused.value)
    assert "sae.k=" not in str(refused.value)  # which could not choose
    for name in names:
        assert found(tmp_path / name) == {"up.0.0": tmp_path / name}


def test_name_and_configuration_say_one_site(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_sae(TopKSAE(D, N, K), tmp_path / "a" / "up.0.0_x", {"site": "mid.0"})
    for root in (tmp_path / "a", tmp_path / "a" / "up.0.0_x"):
        with pytest.raises(UserError, match=r"named for up\.0\.0.*says site 'mid\.0'"):
            found(root)
    save_sae(TopKSAE(D, N, K), tmp_path / "mine", {"site": "mid.0"})
    assert found(tmp_path / "mine") == {"mid.0": tmp_path / "mine"}
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "mid.0").symlink_to(tmp_path / "mine")
    assert found(tmp_path / "linked") == {"mid.0": tmp_path / "linked" / "mid.0"}
    save_for_saelens(TopKSAE(D, N, K), tmp_path / "b" / "up.0.0", "mini", "mid.0")
    for _ in range(2):
        assert found(tmp_path / "b") == {"up.0.0": tmp_path / "b" / "up.0.0"}
    assert [record.getMessage().count("'mid.0'") for record in caplog.records] == [1]  # told once


def test_one_folder_named_for_its_block(tmp_path: Path) -> None:
    save_sae(TopKSAE(D, N, K), tmp_path / "up.0.0", {})
    assert found(tmp_path / "up.0.0") == {"up.0.0": tmp_path / "up.0.0"}


def test_a_folder_without_a_number_of_features(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"k": 3}')
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match="no configuration that says how many features it has"):
            feature_count(folder)
