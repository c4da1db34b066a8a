"""SAE files that other libraries have saved (saes/README.md): our codes and reconstructions are theirs."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from riebench.cli import main
from riebench.models.mini import MINI, MiniEntry
from riebench.sae.folders import find_saes, only_sae
from riebench.sae.linear import JumpReLU, LinearSAE
from riebench.sae.saelens import save_for_saelens
from riebench.sae.store import load_sae, save_sae
from riebench.sae.topk import TopKSAE
from riebench.settings.settings import SaeSettings, Settings, parse_settings
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


def write_beside(config: Path, text: str) -> Path:
    """A copy of the folder of riebench's files in which the configuration has another text."""
    folder = config.parent.with_name("copy")
    folder.mkdir()
    shutil.copy(config.parent / "state_dict.safetensors", folder)
    (folder / config.name).write_text(text)
    return folder


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
    config = tmp_path / "both" / "config.json"
    wrong = json.dumps(json.loads(config.read_text()) | {"kind": "abstopk" if sae.k is None else "relu", "k": 3})
    beside = write_beside(config, wrong)
    with pytest.raises(UserError, match=r"kind in config\.json is .*, but the file of weights (has|lacks) the tensor"):
        load_sae(beside)
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


def exit_of(command: list[str]) -> object:
    with pytest.raises(SystemExit) as left:
        main(command)
    return left.value.code


def test_blocks_and_dry_run_read_what_a_run_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    folder = tmp_path / "own" / "mid.0" / "trainer_0"
    save_sae(LinearSAE(96, 24, JumpReLU(torch.ones(24))), folder, {})
    words = ["--model", "mini", "--set", f"sae.folder={tmp_path / 'own'}"]
    commands = (["blocks", *words], ["run", "--method", "sae", "--block", "mid.0", "--dry-run", *words])
    for command in commands:
        assert exit_of(command) == 0
    assert "24 (jumprelu)" in capsys.readouterr().out
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"jumprelu"', '"odd"'))
    for command in commands:
        assert exit_of(command) == 2
        assert "kind in config.json is 'odd'" in capsys.readouterr().err
    save_sae(LinearSAE(64, 24, JumpReLU(torch.ones(24))), folder, {})
    for command in commands:
        assert exit_of(command) == 2
        assert "the SAE of mid.0 is 64 wide" in capsys.readouterr().err
    save_sae(LinearSAE(96, 24, JumpReLU(torch.zeros(24))), tmp_path / "inner" / "mid.0-mlp.1", {})
    assert exit_of(["blocks", "--model", "mini", "--set", f"sae.folder={tmp_path / 'inner'}"]) == 0
    assert re.search(r"mid\.0/mlp\.1 .* 24 \(relu\)", capsys.readouterr().out)


def write_each_layout(root: Path) -> None:
    """Folders of the layouts that no case has: ours, the published one, the hub's, and a checkpoint's."""
    sae = TopKSAE(6, 12, 3)
    state = {name: tensor.contiguous() for name, tensor in sae.state_dict().items()}
    save_sae(sae, root / "ours" / "mid.0", {})
    write_hub(root / "hub" / "mid.0", {"n_dirs_local": 12, "d_model": 6, "k": 3}, state)
    published = root / "published" / "mid.0" / "final"
    published.mkdir(parents=True)
    shutil.copy(root / "ours" / "mid.0" / "config.json", published)
    torch.save(state, published / "state_dict.pth")
    learned = ROOT / "tests" / "saes" / "dictionary-learning-BatchTopKSAE" / "mid.0" / "trainer_0"
    checkpoint = root / "checkpoint" / "mid.0" / "trainer_0" / "checkpoints"
    checkpoint.mkdir(parents=True)
    shutil.copy(learned / "ae.pt", checkpoint / "ae_100.pt")
    shutil.copy(learned / "config.json", checkpoint.parent)


@pytest.mark.parametrize("case", [*CASES, *map(Path, ("ours", "hub", "published", "checkpoint"))], ids=lambda c: c.name)
def test_every_layout_is_read_before_a_run(
    case: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By ``blocks`` and a dry run, in a model whose values are as wide as those of the files."""
    wide = MINI.sites(Settings())
    narrow = {name: wide[name]._replace(width=6) for name in ("mid.0", "mid.0/mlp.1", "mid.0/mlp-input.1")}
    monkeypatch.setattr(MiniEntry, "sites", lambda self, settings: narrow)
    monkeypatch.setenv("COLUMNS", "120")
    site = "mid.0/mlp.1" if "transcoder" in case.name else "mid.0"
    folder = tmp_path / "saes" / site.replace("/", "-")
    write_each_layout(tmp_path)
    shutil.copytree((case if case.is_absolute() else tmp_path / case) / "mid.0", folder)
    [(_, held)] = MINI.saes(parse_settings({"sae.folder": str(tmp_path / "saes")})).items()
    assert only_sae(held) == held  # which a loaded model reads
    sae = load_sae(held)
    words = ["--model", "mini", "--set", f"sae.folder={tmp_path / 'saes'}"]
    commands = (["blocks", *words], ["run", "--method", "sae", "--block", site, "--dry-run", *words])
    for command in commands:
        assert exit_of(command) == 0
    assert f"{sae.n_features} ({sae.k or sae.kind})" in capsys.readouterr().out
    [weights] = [p for p in held.iterdir() if p.suffix in (".safetensors", ".pt", ".pth")]
    weights.write_bytes(weights.read_bytes()[:-9])
    for command in commands:
        assert exit_of(command) == 2
        assert "cannot be used" in capsys.readouterr().err


def test_an_empty_folder_of_a_training_is_not_taken_for_the_sae(tmp_path: Path) -> None:
    save_sae(TopKSAE(6, 8, 2), tmp_path / "mid.0", {})
    (tmp_path / "mid.0" / "final").mkdir()
    assert find_saes(tmp_path, SITES, SaeSettings())["mid.0"] == only_sae(tmp_path / "mid.0") == tmp_path / "mid.0"


def write_hub(folder: Path, config: dict[str, Any], state: dict[str, torch.Tensor]) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(state, folder / "model.safetensors")


def test_folders_of_the_hubs_mixin(tmp_path: Path) -> None:
    saes = ROOT / "tests" / "saes"
    theirs = saes / "sae-lens-jumprelu" / "mid.0"
    config, state = json.loads((theirs / "cfg.json").read_text()), load_file(theirs / "sae_weights.safetensors")
    write_hub(tmp_path / "a" / "mid.0", config, state)
    x = torch.randn(5, 6)
    assert torch.equal(load_sae(tmp_path / "a" / "mid.0")(x), load_sae(theirs)(x))
    topk = TopKSAE(6, 12, 3)
    published = {"n_dirs_local": 12, "d_model": 6, "k": 3}
    write_hub(tmp_path / "b" / "mid.0", published, {k: v.contiguous() for k, v in topk.state_dict().items()})
    assert torch.equal(load_sae(tmp_path / "b" / "mid.0")(x), topk(x))
    write_hub(tmp_path / "c" / "mid.0", {"hidden": 12}, {"W": torch.ones(12, 6)})
    with pytest.raises(UserError, match=r"a class that config.json does not name.*load\(model, saes="):
        load_sae(tmp_path / "c" / "mid.0")


def test_the_authors_layouts(tmp_path: Path) -> None:
    """``state_dict.pth`` with its tensors in a dictionary of that name or bare, and ``mean.pt`` beside it."""
    topk, x = TopKSAE(6, 12, 3), torch.randn(5, 6)
    for name, content in (("outer", {"state_dict": topk.state_dict()}), ("bare", topk.state_dict())):
        folder = tmp_path / name / "double.18"
        folder.mkdir(parents=True)
        torch.save(content, folder / "state_dict.pth")
        torch.save(torch.ones(6), folder / "mean.pt")
        (folder / "config.json").write_text(json.dumps({"n_dirs_local": 12, "d_model": 6, "k": 3, "auxk": 256}))
        assert torch.equal(load_sae(find_saes(tmp_path / name, SITES, SaeSettings())["double.18"])(x), topk(x))
    torch.save({"state_dict": topk.state_dict(), "k": 4}, folder / "state_dict.pth")
    with pytest.raises(UserError, match=r"k is 4 in state_dict.pth and 3 in config.json; which is right"):
        load_sae(folder)
    torch.save({"state_dict": topk.state_dict(), "epoch": 3, "scale": 2.0}, folder / "state_dict.pth")
    with pytest.raises(UserError, match=r"scale in state_dict.pth is 2.0, an unknown key that could change what"):
        load_sae(folder)
    torch.save(topk.state_dict() | {"gate": torch.ones(12)}, folder / "state_dict.pth")
    with pytest.raises(UserError, match="the tensor gate in the file of weights is not read"):
        load_sae(folder)


SITES = {"mid.0": ("mid.0",), "double.18": ("double.18",)}


def test_saes_lie_deeper_and_several_below_a_site(tmp_path: Path) -> None:
    for name, n in (("width_8/l0_20", 8), ("width_8/l0_90", 8), ("width_12/l0_20", 12)):
        save_sae(LinearSAE(6, n, JumpReLU(torch.ones(n))), tmp_path / "mid.0" / name, {})
    (tmp_path / "config.json").write_text('{"model_type": "unrelated"}')
    with pytest.raises(UserError, match=r"several SAEs for mid\.0 .*width_12/l0_20: k \?, 12.*l0_90.*sae\.name="):
        find_saes(tmp_path, SITES, SaeSettings())
    for settings in (SaeSettings(features=12), SaeSettings(name="width_12")):
        assert find_saes(tmp_path, SITES, settings)["mid.0"].relative_to(tmp_path) == Path("mid.0/width_12/l0_20")
    one = tmp_path / "mid.0" / "width_8" / "l0_90"
    assert find_saes(one, SITES, SaeSettings()) == {"mid.0": one}  # as the message says to name it
    save_sae(TopKSAE(6, 8, 2), tmp_path / "other" / "double.18" / "three" / "levels" / "below", {})
    assert find_saes(tmp_path / "other", SITES, SaeSettings())["double.18"].name == "below"
    save_sae(TopKSAE(6, 8, 2), tmp_path / "deep" / "double.18" / "a" / "b" / "c" / "d", {})
    with pytest.raises(UserError, match=r"double\.18 is named for a site but holds no SAE that is read: found a"):
        find_saes(tmp_path / "deep", SITES, SaeSettings())
    with pytest.raises(UserError, match=r"fits sae\.name=l0_5; it has mid\.0/width_12"):
        find_saes(tmp_path, SITES, SaeSettings(name="l0_5"))
    save_sae(TopKSAE(6, 8, 2), tmp_path / "mid.0_new", {})
    assert find_saes(tmp_path, SITES, SaeSettings())["mid.0"].name == "mid.0_new"  # the least deep


def test_a_path_may_be_that_of_a_site_inside_a_block(tmp_path: Path) -> None:
    """The SAE of the MLP is not taken for that of the block's update, which may be as wide."""
    sites = {"mid.0": ("mid.0",), "mid.0/mlp.1": ("mid.0-mlp.1",)}
    for name in ("mid.0/mlp.1", "mid.0/mlp.1_x/trainer_0", "mid.0-mlp.1/final", "mid.0/mlp.1/final"):
        save_sae(TopKSAE(6, 8, 2), tmp_path / name.replace("/", "~") / name, {})
        assert [*find_saes(tmp_path / name.replace("/", "~"), sites, SaeSettings())] == ["mid.0/mlp.1"]
    assert [*find_saes(tmp_path / "mid.0~mlp.1" / "mid.0" / "mlp.1", sites, SaeSettings())] == ["mid.0/mlp.1"]
    save_sae(TopKSAE(6, 8, 2), tmp_path / "block" / "mid.0" / "trainer_0", {})
    assert [*find_saes(tmp_path / "block", sites, SaeSettings())] == ["mid.0"]


def test_a_folder_of_a_site_without_an_sae_is_named(tmp_path: Path) -> None:
    (tmp_path / "mid.0").mkdir()
    (tmp_path / "mid.0" / "sae.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"mid\.0 is named for a site but holds no SAE that is read: found sae\.bin"):
        find_saes(tmp_path, SITES, SaeSettings())
    shutil.copytree(ROOT / "tests" / "saes" / "sae-lens-jumprelu" / "mid.0", tmp_path / "other" / "unnamed")
    with pytest.raises(UserError, match=r"the site of .*unnamed is unknown"):
        find_saes(tmp_path / "other" / "unnamed", SITES, SaeSettings())


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("was-run"),))


def test_a_whole_sae_of_overcomplete_runs_no_code(tmp_path: Path) -> None:
    folder = tmp_path / "mid.0"
    folder.mkdir()
    torch.save({"encoder.weight": Evil()}, folder / "sae.pt")
    with pytest.raises(UserError, match=r"holds more than tensors \(\S+\); give the SAE in Python, as load\(model"):
        load_sae(folder)
    assert not Path("was-run").exists()
    torch.save({"encoder.weight": torch.ones(3, 2)}, folder / "sae.pt")
    with pytest.raises(UserError, match=r"without the class and k of the SAE; save the whole SAE"):
        load_sae(folder)


def test_an_encoder_without_weights_is_not_taken_for_a_tied_one(tmp_path: Path) -> None:
    folder = tmp_path / "mid.0"
    shutil.copytree(ROOT / "tests" / "saes" / "overcomplete-TopKSAE-tied-state" / "mid.0", folder)
    state = torch.load(folder / "sae.pt", weights_only=True)
    tied = {name: tensor for name, tensor in state.items() if name.startswith("encoder.tied_to.")}
    torch.save({name: tensor for name, tensor in state.items() if name not in tied}, folder / "sae.pt")
    with pytest.raises(UserError, match="its encoder is neither linear nor tied"):
        load_sae(folder)
    torch.save(state | {name: tensor + 1 for name, tensor in tied.items()}, folder / "sae.pt")
    with pytest.raises(UserError, match=r"encoder\.tied_to\._weights is of another dictionary"):
        load_sae(folder)
