"""FLUX.1-schnell's family on tiny random weights: real classes and layouts, with every published block."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextModel, T5EncoderModel

import riebench
from riebench.cli import main
from riebench.engine.bench import denoiser_flops
from riebench.instruments.loading import Instruments
from riebench.models import Edit, Site, Start, entry_named
from riebench.models.entries import entry_and_settings
from riebench.models.flux import DEV, PUBLISHED_TRANSFORMER, SCHNELL, SCHNELL_TOKENS
from riebench.models.tokens import Tokens
from riebench.pairs import Pair
from riebench.records import read_records
from riebench.settings.settings import Settings, parse_settings
from riebench.standin.flux_pipeline import FLUX_SHAPES, t5_config, transformer_config, vae_config, write_flux
from riebench.standin.pipeline import clip_text_config
from riebench.standin.saes import write_sae
from riebench.standin.write import write_standin
from riebench.util.errors import PairError, UserError

SMALL = 64  # pixels: 4 x 4 tokens
CELLS = 16
WIDTH = 16
PROMPT = "a newt in a hat"
PAIRS = [
    Pair(
        id=f"p{seed}",
        editing_type_id=category,
        original_prompt="a [newt] in a hat",
        editing_prompt="a [toad] in a hat",
        original_gsam_prompt="newt",
        editing_gsam_prompt="toad",
        seed=seed,
    )
    for seed, category in ((3, 1), (4, 9))
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("flux")
    write_flux(root / "pipe", FLUX_SHAPES["tiny"], seed=1)
    config = {"n_dirs_local": 64, "d_model": WIDTH, "k": 8}
    for block in ("double.1", "transformer_blocks.18", "single_transformer_blocks.37_k8_hidden64/final"):
        write_sae(root / "saes" / block, config, torch.Generator().manual_seed(2))
    return root


@pytest.fixture(scope="module")
def shared(folder: Path) -> Tokens:
    model = riebench.load(folder / "pipe", device="cpu", size=SMALL, sae__folder=folder / "saes")
    assert isinstance(model, Tokens)
    return model


@pytest.fixture
def model(shared: Tokens) -> Iterator[Tokens]:
    yield shared
    assert not any(module._forward_hooks or "forward" in vars(module) for module in shared.denoiser.modules())


def change(steps: int, width: int = WIDTH, cells: list[int] | None = None) -> Tensor:
    values = torch.randn(steps, CELLS, width, generator=torch.Generator().manual_seed(9))
    mask = torch.zeros(CELLS, dtype=torch.bool)
    mask[list(range(CELLS)) if cells is None else cells] = True
    return values * mask[:, None]


def received(model: Tokens, path: str, work: Callable[[], Any]) -> list[dict[str, Tensor]]:
    """What a module of the transformer is given while some work is done, one entry a step."""
    seen: list[dict[str, Tensor]] = []
    hook = model.denoiser.get_submodule(path).register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(
            {k: v.clone() for k, v in {"input": args[0] if args else None, **kwargs}.items() if isinstance(v, Tensor)}
        ),
        with_kwargs=True,
    )
    work()
    hook.remove()
    return seen


def published() -> FluxTransformer2DModel:
    with torch.device("meta"):
        return FluxTransformer2DModel(**transformer_config(FLUX_SHAPES["true"]) | PUBLISHED_TRANSFORMER)


def count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_sites_are_those_of_the_published_model() -> None:
    """Names, order, widths and the number of parameters, on diffusers' classes without memory."""
    sites = SCHNELL.sites(Settings())
    blocks = [*(f"double.{n}" for n in range(19)), *(f"single.{n}" for n in range(38))]
    ends = ("", "/output", "/text")
    inside = {"double": ("/attention", "/mlp-input", "/neurons.0", "/mlp", *ends), "single": ("/neurons.0", *ends)}
    assert list(sites) == [f"{block}{part}" for block in blocks for part in inside[block.partition(".")[0]]]
    assert {sites[block] for block in blocks} == {Site(3072, (32, 32))}
    assert {sites[f"{block}/neurons.0"] for block in blocks} == {Site(12288, (32, 32))}
    network = published()
    assert count(network) == 11_891_178_560
    for name, part in network.named_modules():
        if name.endswith(("ff.net.0.proj", "proj_mlp")):
            assert part.out_features == 12288 == 4 * network.inner_dim
    shape = FLUX_SHAPES["true"]
    with torch.device("meta"):
        t5, clip = t5_config(shape), clip_text_config(shape.clip, "quick_gelu")
        t5.num_layers = 24
        parts = [network, T5EncoderModel(t5), CLIPTextModel(clip), AutoencoderKL(**vae_config(shape))]
    assert [count(part) for part in parts[1:]] == [4_762_310_656, 123_060_480, 83_819_683]
    total = sum(map(count, parts))
    assert total == pytest.approx(SCHNELL.pipeline_parameters, rel=1e-3)
    assert 2 * total == pytest.approx(SCHNELL.parts[0].size, rel=1e-3)


def test_the_stand_in_has_the_published_tensors(folder: Path) -> None:
    """Every name; and every shape, once the widths are exchanged for the published ones."""
    files = sorted((folder / "pipe" / "transformer").glob("*.safetensors"))
    assert len(files) > 1  # in several files, as published
    found = {name: list(value.shape) for file in files for name, value in load_file(file).items()}
    wanted = {name: list(value.shape) for name, value in published().state_dict().items()}
    assert found.keys() == wanted.keys()
    assert len(wanted) == 1156
    tiny, true = (transformer_config(FLUX_SHAPES[size]) for size in ("tiny", "true"))
    names = ("joint_attention_dim", "pooled_projection_dim", "attention_head_dim", "in_channels")
    widths = {tiny[name]: true[name] for name in names} | {256: 256}  # the last: of the embedded timestep
    for name, shape in found.items():
        for mine, theirs in zip(shape, wanted[name], strict=True):
            assert theirs in (mine * 3072 // WIDTH, widths.get(mine)), (name, shape, wanted[name])


def test_sites_run_in_order_and_are_read_from_configurations(model: Tokens, folder: Path) -> None:
    known = SCHNELL.sites(parse_settings({"model.location": folder / "pipe", "size": SMALL}))
    assert list(known.items()) == list(model.sites.items())
    assert known["single.37"] == Site(WIDTH, (4, 4))
    order: list[str] = []
    hooks = []
    for site in reversed(model.sites):
        module = model.modules[site]
        hook_at = module.register_forward_pre_hook if model.is_input(site) else module.register_forward_hook
        hooks.append(hook_at(lambda *_, site=site: order.append(site)))
    model.generate([PROMPT], [1], 1)
    for hook in hooks:
        hook.remove()
    assert set(order) == set(model.sites)
    # The update, the output and the text of a block are sites of one module, so that their hooks have no order.
    assert [model.modules[site] for site in order] == [model.modules[site] for site in model.sites]
    assert model.default_sites == ("double.18",)


@pytest.mark.parametrize("steps", [1, 4])
def test_the_picture_is_the_pipelines_own(model: Tokens, steps: int) -> None:
    pipeline, prompts, seeds = model.pipeline, [PROMPT, "a toad"], [42, 7]
    runs = model.generate(prompts, seeds, steps)
    own = pipeline(
        prompts,
        num_inference_steps=steps,
        guidance_scale=0.0,
        max_sequence_length=256,
        height=SMALL,
        width=SMALL,
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
        output_type="np",
    ).images
    assert np.array_equal([run.image for run in runs], (own * 255).round().astype(np.uint8))
    assert not np.array_equal(runs[0].image, runs[1].image)


def test_latents_are_drawn_in_float32_and_packed(folder: Path, model: Tokens) -> None:
    def first(model: Tokens) -> Tensor:
        return received(model, "x_embedder", lambda: model.generate([PROMPT], [5], 1))[0]["input"]

    drawn = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(5))
    packed = torch.stack(
        [drawn[0, :, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].flatten() for y in range(4) for x in range(4)]
    )
    assert torch.equal(first(model)[0], packed)
    half = riebench.load(folder / "pipe", device="cpu", size=SMALL, dtype="bfloat16")
    assert isinstance(half, Tokens)
    assert torch.equal(first(half)[0], packed.bfloat16())
    assert half.conditions == {"dtype": "bfloat16", "size": SMALL}


def test_a_prompt_is_encoded_once_and_may_be_too_long(model: Tokens) -> None:
    model.encode_text.cache_clear()  # type: ignore[attr-defined]
    seen: list[Tensor] = []
    encoder = model.pipeline.text_encoder_2
    hook = encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model.generate(["a b", "a c", "a b"], [1, 2, 3], 2)
    model.generate(["a b"], [1], 1)
    hook.remove()
    assert [tuple(tokens.shape) for tokens in seen] == [(1, SCHNELL_TOKENS)] * 2
    # 255 words and the end of the text; CLIP sees the first of them, as in the pipeline.
    states, pooled, _ = model.pipeline.encode_prompt("newt " * 255, None, max_sequence_length=SCHNELL_TOKENS)
    mine = model.encode_text("newt " * 255)
    assert torch.equal(mine["prompt_embeds"], states)
    assert torch.equal(mine["pooled_prompt_embeds"], pooled)
    with pytest.raises(PairError, match="257 tokens, the text encoder takes 256; shorten it"):
        model.generate(["newt " * 256], [1], 1)


@pytest.mark.parametrize(
    ("site", "before", "after", "neurons"),
    [
        ("double.4", "transformer_blocks.4", "transformer_blocks.5", "transformer_blocks.4.ff.net.2"),
        ("double.18", "transformer_blocks.18", "single_transformer_blocks.0", "transformer_blocks.18.ff.net.2"),
        (
            "single.7",
            "single_transformer_blocks.7",
            "single_transformer_blocks.8",
            "single_transformer_blocks.7.proj_out",
        ),
    ],
)
def test_values_are_those_of_the_picture(model: Tokens, site: str, before: str, after: str, neurons: str) -> None:
    captured: list[Any] = []

    def work() -> None:
        captured[:] = model.generate([PROMPT], [1], 3, capture=[site, f"{site}/neurons.0"])

    inputs, outputs, inside = (received(model, path, work) for path in (before, after, neurons))
    (run,) = captured
    assert run.values[site].shape == (3, CELLS, WIDTH)
    assert run.values[f"{site}/neurons.0"].shape == (3, CELLS, 4 * WIDTH)
    for step in range(3):
        update = outputs[step]["hidden_states"] - inputs[step]["hidden_states"]
        assert torch.equal(run.values[site][step], update[0])
        given = inside[step]["input"][0]
        assert len(given) == (CELLS if "double" in site else SCHNELL_TOKENS + CELLS)
        assert torch.equal(run.values[f"{site}/neurons.0"][step], given[-CELLS:, -4 * WIDTH :])


@pytest.mark.parametrize(
    ("site", "after"),
    [
        ("double.4", "transformer_blocks.5"),
        ("double.18", "single_transformer_blocks.0"),
        ("single.7", "single_transformer_blocks.8"),
    ],
)
def test_a_change_lands_on_the_pictures_tokens_of_the_mask_and_on_no_text(model: Tokens, site: str, after: str) -> None:
    cells = [2, 7, 15]
    added = change(2, cells=cells)
    base, edited = (
        received(model, after, lambda s=s: model.generate([PROMPT], [1], 2, edits=[Edit({site: added}, s)]))[0]
        for s in (0.0, 2.0)
    )
    assert torch.equal(base["encoder_hidden_states"], edited["encoder_hidden_states"])
    moved = (edited["hidden_states"] - base["hidden_states"])[0]
    assert moved.abs().sum(1).nonzero().flatten().tolist() == cells
    assert torch.allclose(moved, 2 * added[0], atol=1e-4)


@pytest.mark.parametrize(
    ("site", "taker", "text"),
    [
        ("double.4/neurons.0", "transformer_blocks.4.ff.net.2", 0),
        ("single.7/neurons.0", "single_transformer_blocks.7.proj_out", SCHNELL_TOKENS),
    ],
)
def test_a_change_of_neurons_lands_on_the_picture_alone(model: Tokens, site: str, taker: str, text: int) -> None:
    added = torch.zeros(1, CELLS, 4 * WIDTH)
    added[0, 7, 30] = 2.5
    base, edited = (
        received(model, taker, lambda s=s: model.generate([PROMPT], [1], 1, edits=[Edit({site: added}, s)]))[0]["input"]
        for s in (0.0, 1.0)
    )
    moved, attention = edited - base, 0 if text == 0 else WIDTH  # a single block's neurons come after its attention
    assert moved.nonzero().tolist() == [[0, text + 7, attention + 30]]
    assert moved.max() == pytest.approx(2.5, abs=1e-5)


@pytest.mark.parametrize("steps", [1, 4])
def test_strength_zero_gives_the_base_picture_bit_for_bit(model: Tokens, steps: int) -> None:
    changes = {site: change(steps) * 50 for site in ("double.1", "double.18", "single.20")}
    base, _ = model.generate([PROMPT] * 2, [1, 1], steps)  # as many rows, which some processors round differently
    none, some = model.generate([PROMPT] * 2, [1, 1], steps, edits=[(changes, 0.0), (changes, 1.0)])
    assert np.array_equal(base.image, none.image)
    assert not np.array_equal(base.image, some.image)


@pytest.mark.parametrize(
    ("site", "steps", "spared"), [("double.0", 1, 0.0), ("double.18", 1, 0.3), ("single.37", 2, 0.4)]
)
def test_replay_equals_the_full_run_and_spares_work(
    model: Tokens, monkeypatch: pytest.MonkeyPatch, site: str, steps: int, spared: float
) -> None:
    edits = [Edit({site: change(steps) * 50}, strength) for strength in (1.0, -2.0)]
    model.generate([PROMPT] * 2, [5] * 2, steps, capture=[site])
    images, flops = [], []
    for replay in (True, False):
        monkeypatch.setattr(model, "replay", replay)
        work = partial(model.generate, [PROMPT] * 2, [5] * 2, steps, edits=edits)
        flops.append(denoiser_flops(model, work))
        images.append(work())
    for mine, full in zip(*images, strict=True):
        assert np.array_equal(mine.image, full.image)
    assert 1 - flops[0] / flops[1] >= spared
    assert (flops[0] < flops[1]) == (spared > 0)


def box(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((SMALL, SMALL), bool)
    mask[rows, columns] = True
    return mask


MASKS = {pair.id: (box(slice(0, 40), slice(8, 40)), box(slice(16, 64), slice(0, 64))) for pair in PAIRS}


@pytest.mark.parametrize(
    ("methods", "blocks", "steps"),
    [
        (["steering", "neurons", "none", "prompt"], ["single.3", "double.0", "double.18"], 2),
        (["sae", "sae-adaptive", "random"], ["double.1"], 1),
        (["sae", "steering"], ["all"], 2),
    ],
)
def test_every_method_runs(
    model: Tokens, mini: Instruments, tmp_path: Path, methods: list[str], blocks: Any, steps: int
) -> None:
    result = riebench.run(
        methods,
        blocks,
        model=model,
        pairs=PAIRS,
        strength=[0, 1, 40],
        steps=steps,
        masks=MASKS,
        scorers=mini.scorers,
        out=tmp_path / "o",
        quiet=True,
    )
    assert [r.status for r in result.records] == ["ok"] * 6 * len(methods), {r.reason for r in result.records}
    assert {r.model for r in result.records} == {"flux-schnell"}
    sites = ["double.18"] if blocks == ["all"] else sorted(blocks, key=list(model.sites).index)
    assert {tuple(r.setting.blocks) for r in result.records} == {tuple(sites)}
    for record in result.records:
        moved = record.metrics["lpips_base"] or 0.0
        still = record.setting.strength == 0 or record.setting.method == "none"
        assert (moved == 0) == (still and record.setting.method != "prompt"), (record.setting, moved)


def test_saes_are_found_by_site_and_by_module(model: Tokens) -> None:
    assert list(model.saes) == ["double.1", "double.18", "single.37"]
    assert model.sae("double.18").d_model == WIDTH
    with pytest.raises(UserError, match=r"unknown SAE 'double\.2'"):
        model.sae("double.2")


def test_a_loaded_pipeline_and_its_size(model: Tokens) -> None:
    own = riebench.load("flux-schnell", pipeline=model.pipeline)
    assert own.fingerprint.startswith("given-")
    assert (own.size, own.sites["double.0"].grid) == (SCHNELL.size, (32, 32))
    with pytest.raises(UserError, match=r"the picture size is 72; expected a multiple of 16"):
        riebench.load("flux-schnell", pipeline=model.pipeline, size=72)


def test_a_guided_model_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "pipe", tmp_path / "dev")
    path = tmp_path / "dev" / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"guidance_embeds": True}))
    with pytest.raises(UserError, match=r"guidance_embeds=True, and flux-schnell expects False"):
        SCHNELL.sites(parse_settings({"model.location": tmp_path / "dev"}))
    assert entry_and_settings(tmp_path / "dev", {})[0] is DEV


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(list(words))
    return int(left.value.code or 0)


def test_blocks_and_doctor_need_no_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("blocks", "--model", "flux-schnell", "--weights", "nowhere") == 0
    said = capsys.readouterr().out
    assert said.index("double.9 ") < said.index("double.10 ") < said.index("double.18 *") < said.index("single.0 ")
    assert "1 x 12288" in said
    assert command("doctor", "--model", "flux-schnell", "--weights", "nowhere") == 1
    said = capsys.readouterr().out
    assert "33.7 GB" in said
    assert "before: accept its licence at https://huggingface.co/black-forest-labs/FLUX.1-schnell and log in" in said


def test_the_whole_path_and_the_bench(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("groundingdino", reason="the extra gsam is not installed")
    pytest.importorskip("sam2", reason="the extra gsam is not installed")
    root = tmp_path / "weights"
    assert "model" in list(write_standin(root, "flux-schnell", "tiny", seed=1))
    everything = {**PAIRS[1].model_dump(mode="json"), "original_gsam_prompt": "#everything"}
    (tmp_path / "pairs.json").write_text(json.dumps([everything | {"editing_gsam_prompt": "#everything"}]))
    words = ["--model", "flux-schnell", "--weights", str(root), "--set", f"sae.folder={root / 'flux-saes'}"]
    words += ["--set", f"masker.cache={tmp_path / 'm'}", "--set", f"model.size={SMALL}"]
    run = ["run", *words, "--pairs", "pairs.json", "--method", "sae", "--block", "double.1", "--strength", "1"]
    assert command(*run, "--out", "out") == 0, capsys.readouterr().err
    (record,) = (json.loads(r.model_dump_json()) for r in read_records(tmp_path / "out"))
    assert record["parts"]["model"].startswith("standin-flux-schnell-")
    assert (record["setting"]["steps"], record["conditions"]["size"]) == (4, SMALL)
    capsys.readouterr()
    command("bench", *words, "--pair-file", "pairs.json", "--pairs", "1", "--steps", "1", "--json", "bench.json")
    found = json.loads((tmp_path / "bench.json").read_text())
    bars = {bar["name"]: bar for bar in found["bars"]}
    assert all(bars[f"{name} passes"]["met"] for name in ("denoiser", "decoder", "text encoder", "CLIP image", "LPIPS"))
    assert found["largest_difference"] < 1e-3
    # Of each edited run all that lies before double.18 is taken from the base run.
    full = found["denoiser_flops_of_first_pair_without_replay"]
    assert found["engine"]["denoiser_flops_of_first_pair"] < 0.75 * full
    assert full < found["plain"]["denoiser_flops_of_first_pair"]
    assert entry_named("flux-schnell") is SCHNELL


def test_a_run_begins_from_finished_tokens_with_the_noise_of_its_step(model: Tokens) -> None:
    steps, first, seed = 4, 1, 5
    images: list[np.ndarray] = []
    given = received(
        model,
        "x_embedder",
        lambda: images.extend(
            run.image for run in model.generate([PROMPT], [seed], steps, start=Start("a hat", first))
        ),
    )
    finished, sigma = model.finished("a hat", seed, steps), model.pipeline.scheduler.sigmas[first]
    assert sigma == 0.75  # shift 1: sigmas go down evenly
    generator = torch.Generator().manual_seed(seed)
    torch.randn(finished.numel(), generator=generator)  # the initial latents; the sampler draws nothing
    noise = torch.randn(finished.shape, generator=generator)
    assert torch.allclose(given[steps + first]["input"], sigma * noise + (1 - sigma) * finished, atol=1e-5)
    assert not np.array_equal(images[0], model.generate([PROMPT], [seed], steps)[0].image)
