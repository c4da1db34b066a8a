"""Transcoders, which encode the input of an MLP and write to its output, against plain hooks and formulas."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import riebench
from riebench.engine.request import resolve
from riebench.engine.run_options import RunOptions
from riebench.engine.sae_check import read_saes
from riebench.features.index_making import make_index
from riebench.features.score_request import score
from riebench.features.switching import reconstructed, switched_off
from riebench.instruments.loading import Instruments
from riebench.methods import Observed, Plan, method, rank
from riebench.methods.registry import create
from riebench.models.mini import MINI
from riebench.models.model import Model
from riebench.models.sae_sites import change_by_codes, read_site
from riebench.models.sites import Edit, FromInput, Run, input_of
from riebench.paint.shelf import Shelf
from riebench.paint.snippet import Origin
from riebench.paint.state import State
from riebench.paint.studio import Studio
from riebench.pairs import Pair
from riebench.sae.given import as_sae
from riebench.sae.linear import JumpReLU, LinearSAE
from riebench.sae.saelens import save_for_saelens
from riebench.sae.store import load_sae, save_sae
from riebench.settings.settings import parse_settings
from riebench.util.errors import PairError, UserError

SITE, INPUT = "up.0.1/mlp.0", "up.0.1/mlp-input.0"
PATH = "up_blocks.0.attentions.1.transformer_blocks.0.ff"
RUN: tuple[list[str], list[int], int] = (["a red heart in a meadow"], [3], 2)
PROMPTS = {
    "original_prompt": "a red heart in a meadow",
    "editing_prompt": "a blue star in a meadow",
    "original_gsam_prompt": "heart",
    "editing_gsam_prompt": "star",
}
OTHER: tuple[list[str], list[int], int] = (["a blue star in a meadow"], [3], 2)


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """A skip transcoder in SAELens' names, large enough to change pictures."""
    generator = torch.Generator().manual_seed(2)
    shapes = {"W_enc": (96, 128), "b_enc": (128,), "W_dec": (128, 96), "b_dec": (96,), "W_skip": (96, 96)}
    return {name: torch.randn(shape, generator=generator) / 2 for name, shape in shapes.items()}


@pytest.fixture
def folder(weights: dict[str, Tensor], tmp_path: Path) -> Path:
    """A folder as SAELens' own call writes it."""
    sae = tmp_path / "saes" / SITE.replace("/", "-")
    sae.mkdir(parents=True)
    config = {"architecture": "skip_transcoder", "d_in": 96, "d_out": 96, "d_sae": 128, "apply_b_dec_to_input": False}
    (sae / "cfg.json").write_text(json.dumps(config | {"metadata": {"hook_name": INPUT, "hook_name_out": SITE}}))
    save_file(weights, sae / "sae_weights.safetensors")
    return sae


@pytest.fixture
def model(mini: Instruments, folder: Path) -> Any:
    """Mini with the transcoder alone; it gets its own SAEs back."""
    before = mini.model.saes
    mini.model.saes = {SITE: folder}
    yield mini.model
    mini.model.saes = before


def hooked(model: Model, work: Callable[[], list[Run]], change: Callable[[Tensor, int], Tensor] | None = None) -> Any:
    """The first run of some work, and the MLP's inputs and outputs ``[steps, positions, width]`` by a plain hook.

    Args:
        model: mini.
        work: makes runs.
        change: of the MLP's input and the step: what the hook adds to its output, both ``[positions, width]``.
    """
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []

    def hook(module: Any, args: Any, output: Tensor) -> Tensor:
        inputs.append(args[0][0].clone())
        if change is not None:
            output = output + change(args[0][0], len(inputs) - 1)
        outputs.append(output[0].clone())
        return output

    with model.unwatched():
        handle = model.pipeline.unet.get_submodule(PATH).register_forward_hook(hook)  # type: ignore[attr-defined]
        [run] = work()
        handle.remove()
    return run, torch.stack(inputs), torch.stack(outputs)


def codes_of(weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    return (x @ weights["W_enc"] + weights["b_enc"]).relu()


def explained(weights: Mapping[str, Tensor], x: Tensor, y: Tensor) -> float:
    rebuilt = codes_of(weights, x) @ weights["W_dec"] + weights["b_dec"] + x @ weights["W_skip"].T
    return 1 - float((y - rebuilt).square().sum() / (y - y.mean(0)).square().sum())


def test_names_of_inputs() -> None:
    assert [input_of(s) for s in ("mid.0/mlp.3", "double.1/mlp")] == ["mid.0/mlp-input.3", "double.1/mlp-input"]
    assert [input_of(s) for s in ("mid.0", "mid.0/neurons.1", INPUT)] == ["mid.0", "mid.0/neurons.1", INPUT]


def test_folders_of_sites_and_modules(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A folder named for the site or for its module, and one that says in its configuration where it writes."""
    assert MINI.saes(parse_settings({"sae.folder": tmp_path / "saes"})) == {SITE: folder}
    of_module = folder.rename(folder.with_name(f"unet.{PATH}"))
    assert MINI.saes(parse_settings({"sae.folder": tmp_path / "saes"})) == {SITE: of_module}
    alone = of_module.rename(tmp_path / "theirs")
    assert MINI.saes(parse_settings({"sae.folder": alone})) == {SITE: alone}
    assert not caplog.records


def test_an_input_is_what_a_hook_sees(model: Model) -> None:
    run, inputs, outputs = hooked(model, lambda: model.generate(*RUN, capture=[SITE, INPUT]))
    assert torch.equal(run.values[INPUT], inputs)
    assert torch.equal(run.values[SITE], outputs)


def test_changes_by_codes_are_those_of_a_hook(model: Model, weights: dict[str, Tensor]) -> None:
    """A change that depends on the input as it passes, in a batch of an edited and an untouched row."""

    def written(x: Tensor, step: int) -> Tensor:
        return (step + 1) * codes_of(weights, x)[:, 3:5] @ weights["W_dec"][3:5]

    sae, two = model.sae(SITE), torch.arange(3, 5)
    change = change_by_codes(sae, lambda read, now, step: (step + 1) * sae.directions(sae.encode(read), two))
    own, _, outputs = hooked(model, lambda: model.generate(*RUN), written)
    [plain] = model.generate(*RUN)
    edited, same = model.generate(
        RUN[0] * 2, RUN[1] * 2, RUN[2], edits=[({SITE: change}, 1.0), ({}, 1.0)], capture=[SITE]
    )
    assert torch.allclose(edited.values[SITE], outputs, atol=1e-4)
    assert (np.abs(edited.image.astype(int) - own.image) <= 1).all()
    assert (np.abs(same.image.astype(int) - plain.image) <= 1).all()
    assert (np.abs(edited.image.astype(int) - plain.image) > 9).any()
    [off] = model.generate(*RUN, edits=[({SITE: change}, 0.0)])
    assert np.array_equal(off.image, plain.image)
    with pytest.raises(
        UserError, match=r"the change at up\.0\.1 is one FromInput, and up\.0\.1 is no output of an MLP"
    ):
        model.generate(*RUN, edits=[({"up.0.1": change}, 1.0)])
    with pytest.raises(PairError, match=r"the change at up\.0\.1/mlp\.0 is of the shape \[3\]"):
        model.generate(*RUN, edits=[({SITE: FromInput(lambda read, now, step: torch.zeros(3))}, 1.0)])


def test_methods_move_codes_of_the_input(model: Model, weights: dict[str, Tensor]) -> None:
    base, x_base, _ = hooked(model, lambda: model.generate(*RUN, capture=[SITE, INPUT]))
    source, x_source, _ = hooked(model, lambda: model.generate(*OTHER, capture=[SITE, INPUT]))
    everywhere = {SITE: torch.ones(model.sites[SITE].positions, dtype=torch.bool)}
    pair = Pair(id="p", editing_type_id=1, **PROMPTS)
    seen = Observed(pair, (SITE,), base.values, source.values, everywhere, everywhere, {SITE: model.sae(SITE)}, seed=0)
    plan = create("sae", {"k": 4}).plan(seen)
    codes = codes_of(weights, x_source), codes_of(weights, x_base)
    [add], [remove] = rank([codes[0][0].mean(0)], [codes[1][0].mean(0)], 4, seen.protocol.shares)
    moved = codes[0][..., add] @ weights["W_dec"][add] - codes[1][..., remove] @ weights["W_dec"][remove]
    change = plan.changes[SITE]
    assert isinstance(change, Tensor)
    assert torch.allclose(change, moved, atol=1e-5)

    def adaptive(x: Tensor, step: int) -> Tensor:
        lost = codes_of(weights, x)[:, remove] @ weights["W_dec"][remove]
        return codes[0][step][:, add] @ weights["W_dec"][add] - lost

    own, *_ = hooked(model, lambda: model.generate(*RUN, capture=[SITE]), adaptive)
    changes = create("sae-adaptive", {"k": 4}).plan(seen).changes
    [run] = model.generate(*RUN, edits=[Edit(changes)], capture=[SITE])
    assert torch.allclose(run.values[SITE], own.values[SITE], atol=1e-4)
    assert (np.abs(run.image.astype(int) - own.image) <= 1).all()


def test_runs_note_what_it_explains_of_the_output(model: Model, weights: Any, tmp_path: Path) -> None:
    result = riebench.run(
        ["sae", "sae-adaptive", "sae-random", "random", "sae-feature", "sae-sum", "per"],
        [SITE],
        model=model,
        category="color",
        limit=1,
        strength=[0, 2],
        options={"count": 2},
        out=tmp_path / "o",
        keep_images=0,
        quiet=True,
    )
    assert {(r.status, r.reason) for r in result.records} == {("ok", None)}
    for record in result.records:
        assert ((record.metrics["lpips_base"] or 0) > 0) == (record.setting.strength > 0), record.setting
    record = result.records[0]
    assert record.notes[f"sae {SITE}"] == "relu-skip-transcoder"
    prompt = record.original_prompt.replace("[", "").replace("]", "")
    _, inputs, outputs = hooked(model, lambda: model.generate([prompt], [record.seed], 1))
    step = max(1, len(inputs[0]) // 64)
    some = (values[0][::step][:64] for values in (inputs, outputs))
    assert record.notes[f"explained {SITE}"] == pytest.approx(explained(weights, *some), abs=1e-3)


def test_scores_index_and_painting_use_both_sites(model: Model, folder: Path, weights: Any, tmp_path: Path) -> None:
    few = {"features": 1, "best": 1, "pictures": 1, "downstream": 1, "strengths": (1.0,)}
    [facts] = score(folder, tmp_path / "scores", model=model, prompts="grammar", count=4, baselines=[], **few)
    prompted = model.entry.read_prompts("grammar", 4, "held-out", None)
    hooks = [hooked(model, lambda one=one: model.generate([one.prompt], [one.seed], 1)) for one in prompted]
    inputs, outputs = (torch.cat([values[number][0] for values in hooks]) for number in (1, 2))
    codes = codes_of(weights, inputs)
    summary = facts["summary"]
    assert facts["block"] == SITE
    assert summary["explained_variance"]["value"] == pytest.approx(explained(weights, inputs, outputs), abs=1e-4)
    assert summary["l0"]["value"] == pytest.approx(float((codes > 0).float().sum(1).mean()), abs=1e-3)
    index = make_index(
        model, SITE, model.sae(SITE), prompted, tmp_path / "index", name="it", fingerprint="it", prompts="grammar"
    )
    assert index.facts.columns.maximum == pytest.approx(codes.amax(0).tolist(), rel=1e-4)
    studio = Studio(model, {SITE: Shelf(SITE, index, {})}, None, Origin("mini", {}, {}))  # type: ignore[arg-type]
    studio._check_sae = lambda shelf: None  # type: ignore[method-assign]  # the index was made for no file
    state = State(model="mini", prompt=prompted[0].prompt, seed=prompted[0].seed, steps=1, layers=[])
    found = studio.active_here(state, SITE, 0, 0)["features"]
    assert found[0]["code"] == pytest.approx(float(codes[0].max()), rel=1e-4)
    assert found[0]["number"] == int(codes[0].argmax())


def test_the_rebuilt_output_takes_its_place(model: Model, weights: dict[str, Tensor]) -> None:
    def rebuilt(x: Tensor, step: int) -> Tensor:
        return codes_of(weights, x) @ weights["W_dec"] + weights["b_dec"] + x @ weights["W_skip"].T

    sae, area = model.sae(SITE), torch.arange(model.sites[SITE].positions) % 2
    _, inputs, outputs = hooked(model, lambda: model.generate(*RUN))
    [run] = model.generate(*RUN, edits=[({SITE: reconstructed(sae)}, 1.0)], capture=[SITE, INPUT])
    assert torch.allclose(run.values[SITE], rebuilt(run.values[INPUT], 0), atol=1e-4)
    assert torch.equal(run.values[INPUT][0], inputs[0])
    [run] = model.generate(*RUN, edits=[({SITE: switched_off(sae, 5, sae.W_dec[5], area)}, 1.0)], capture=[SITE])
    off = codes_of(weights, inputs[0])[:, 5:6] * weights["W_dec"][5] * area[:, None]
    assert torch.allclose(run.values[SITE][0], outputs[0] - off, atol=1e-4)


def test_where_a_transcoder_does_not_belong(model: Model, folder: Path, tmp_path: Path) -> None:
    fits = LinearSAE(96, 128, JumpReLU(torch.zeros(128)), transcodes=True).requires_grad_(False)
    for site in ("up.0.1", INPUT, "up.0.1/output"):
        model.saes = {site: fits}
        with pytest.raises(UserError, match=f"{site} is a transcoder, which reads an MLP's input.*, as down"):
            model.sae(site)
    elsewhere = LinearSAE(96, 128, JumpReLU(torch.zeros(128))).requires_grad_(False)
    elsewhere.site = SITE
    for sae, said in ((fits, "is a transcoder"), (elsewhere, f"was trained at {SITE}")):
        with pytest.raises(UserError, match=said):
            score(sae, tmp_path / "scores", model=model, site="up.0.1", prompts="grammar", count=4, baselines=[])
    for write in (lambda: save_sae(fits, tmp_path, {}), lambda: save_for_saelens(fits, tmp_path, "mini", SITE)):
        with pytest.raises(UserError, match="transcoders are read, not written"):
            write()

    @method("own-encoder", needs_sae=True)
    class OwnEncoder:
        """Encodes the values at its site."""

        def plan(self, seen: Observed) -> Plan:
            return Plan({})

    model.saes = {SITE: folder}
    chosen: dict[str, Any] = {"category": "color", "limit": 1, "out": tmp_path / "o", "quiet": True}
    with pytest.raises(UserError, match=r"is a transcoder, whose codes are of .*mlp-input\.0, and the method 'own-enc"):
        riebench.run("own-encoder", SITE, model=model, **chosen)
    with pytest.raises(UserError, match="the method 'own-encoder' does not say that it takes one"):
        read_saes(resolve(RunOptions("own-encoder", SITE, settings={"sae.folder": str(folder.parent)}))[0])


def test_files_that_are_no_transcoder_of_one_width(folder: Path, weights: dict[str, Tensor]) -> None:
    config = json.loads((folder / "cfg.json").read_text())
    for change, said in (
        ({"architecture": "transcoder"}, "the tensor W_skip"),
        (
            {"architecture": "standard"},
            r"d_out in cfg.json is 96, as of a transcoder, but its architecture is 'standard'",
        ),
        ({"apply_b_dec_to_input": True}, "apply_b_dec_to_input in cfg.json is True, expected False"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations"),
        ({"d_out": 64}, r"d_out is 64 in cfg\.json and 96 in sae_weights\.safetensors; which is right cannot"),
    ):
        (folder / "cfg.json").write_text(json.dumps(config | change))
        with pytest.raises(UserError, match=said):
            load_sae(folder)
    (folder / "cfg.json").write_text(json.dumps(config))
    narrow = {"W_enc": weights["W_enc"][:32].contiguous(), "W_skip": weights["W_skip"][:, :32].contiguous()}
    save_file(weights | narrow, folder / "sae_weights.safetensors")
    with pytest.raises(UserError, match="reads vectors of width 32 and writes vectors of width 96"):
        load_sae(folder)


class Theirs(torch.nn.Module):
    """A skip transcoder of a stranger."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in weights.items():
            setattr(self, name, torch.nn.Parameter(tensor))
        self.cfg = SimpleNamespace(architecture=lambda: "skip_transcoder")

    def encode(self, x: Tensor) -> Tensor:
        return (x @ self.W_enc + self.b_enc).relu()

    def decode(self, z: Tensor) -> Tensor:
        return z @ self.W_dec + self.b_dec

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x)) + x @ self.W_skip.T


def test_an_object_in_python(model: Model, weights: dict[str, Tensor]) -> None:
    theirs, x = Theirs(weights), torch.randn(3, 5, 96, generator=torch.Generator().manual_seed(4))
    sae, read = as_sae(theirs, 96, "it"), model.sae(SITE)
    assert sae.transcodes
    assert read_site(SITE, sae) == INPUT
    assert torch.allclose(sae(x), theirs(x), atol=1e-5)
    assert torch.allclose(read(x), theirs(x), atol=1e-4)
    theirs.cfg = SimpleNamespace(transcode=True)
    assert as_sae(theirs, 96, "it").transcodes
    theirs.cfg = SimpleNamespace(metadata=SimpleNamespace(hook_name_out="a.b"))
    with pytest.raises(UserError, match=r"hook_name_out of it is 'a\.b', as of a transcoder.*set its transcodes"):
        as_sae(theirs, 96, "it")
    theirs.transcodes = True
    assert as_sae(theirs, 96, "it").transcodes
    theirs.forward = lambda x: x  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"gives something else than what it decodes and W_skip"):
        as_sae(theirs, 96, "it")
    theirs.cfg, theirs.transcodes = SimpleNamespace(), False
    assert not as_sae(theirs, 96, "it").transcodes
