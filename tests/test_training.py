"""What the training of mini does to its U-Net, and that its FLUX is trained as it is sampled."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import riebench
from riebench.mini.layout import canvas_of_seed
from riebench.models.sdxl import FOUR, module_path

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
from training import flux, tokens, vae
from training.unet import TEXT_WIDTH, adding_nothing, build_unet


@pytest.mark.parametrize("off", [[], ["mid.0"], list(FOUR)])
def test_blocks_that_add_nothing(off: list[str]) -> None:
    torch.manual_seed(0)
    unet = build_unet()
    passed: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def run() -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        added = {"text_embeds": torch.zeros(1, TEXT_WIDTH), "time_ids": torch.zeros(1, 6)}
        x, text = (torch.randn(shape, generator=generator) for shape in ((1, 4, 32, 32), (1, 5, 2 * TEXT_WIDTH)))
        return unet(x, 500, text, added_cond_kwargs=added).sample

    before = run()
    with adding_nothing(unet, off):
        for block in FOUR:
            unet.get_submodule(module_path(block)).register_forward_hook(
                lambda module, args, output, block=block: passed.update({block: (args[0], output[0])})
            )
        without = run()
        without.square().sum().backward()
    for block, (given, put_out) in passed.items():
        assert torch.equal(given, put_out) == (block in off)
        learns = any(
            p.grad is not None and bool(p.grad.any()) for p in unet.get_submodule(module_path(block)).parameters()
        )
        assert learns == (block not in off)
    assert unet.conv_in.weight.grad is not None  # what stands before a block that is off still learns
    assert bool(unet.conv_in.weight.grad.any())
    assert torch.equal(before, without) == (not off)
    assert torch.equal(before, run())


@pytest.fixture(scope="module")
def denoiser() -> flux.FluxDenoiser:
    torch.manual_seed(0)
    model = flux.FluxDenoiser(flux.build_transformer(double=2, single=2, heads=2), len(tokens.t5()))
    for part in flux.modulations(model.transformer):
        torch.nn.init.normal_(part.weight, std=0.02)  # zero before training
    return model.eval().requires_grad_(False)


def test_every_word_is_one_token_for_t5() -> None:
    ids = tokens.t5()("a tilted striped red heart").input_ids
    assert len(ids) == 6  # and the end
    assert tokens.t5().unk_token_id not in ids


@pytest.mark.parametrize("steps", [1, 4])
def test_flux_is_trained_as_it_is_sampled(denoiser: flux.FluxDenoiser, tmp_path: Path, steps: int) -> None:
    """Euler steps with the training's own velocity, against the pipeline's call and riebench's family."""
    prompt, clip = "a red heart in a meadow", tokens.write(tmp_path)
    canvas = torch.from_numpy(canvas_of_seed(3))[None]
    ids = tokens.t5()([prompt], padding="max_length", max_length=tokens.LENGTH, return_tensors="pt").input_ids
    x = canvas
    for step in range(steps):
        x = x - denoiser(x, torch.tensor([1 - step / steps]), ids) / steps
    pipeline = flux.pipeline_of(denoiser, vae.build(), 1.0, clip)
    pipeline.set_progress_bar_config(disable=True)
    asked = {"num_inference_steps": steps, "guidance_scale": 0.0, "height": 128, "width": 128}
    found = pipeline(
        prompt, latents=flux.pack(canvas), max_sequence_length=tokens.LENGTH, output_type="latent", **asked
    ).images
    assert torch.allclose(flux.unpack(found), x, atol=1e-5)
    assert not torch.allclose(x, canvas, atol=1e-2)
    model = riebench.load("flux-schnell", pipeline=pipeline, size=128)
    assert model.sites["double.1"] == (64, (16, 16))
    (run,) = model.generate([prompt], [3], steps, capture=["single.1"])
    assert run.values["single.1"].shape == (steps, 256, 64)


def test_blocks_of_flux_that_hand_on(denoiser: flux.FluxDenoiser) -> None:
    seen: dict[str, bool] = {}
    x, ids = torch.from_numpy(canvas_of_seed(3))[None], torch.zeros(1, tokens.LENGTH, dtype=torch.long)
    with flux.handing_on(denoiser.transformer, ["double.1"]):
        for block in ("double.0", "double.1"):
            module = denoiser.transformer.get_submodule(flux.SCHNELL.place(block)[1].path)
            module.register_forward_hook(
                lambda module, args, kwargs, output, block=block: seen.update(
                    {block: torch.equal(kwargs["hidden_states"], output[1])}
                ),
                with_kwargs=True,
            )
        without = denoiser(x, torch.ones(1), ids)
    assert seen == {"double.0": False, "double.1": True}
    assert not torch.equal(without, denoiser(x, torch.ones(1), ids))


def test_pooled_text_has_no_effect(denoiser: flux.FluxDenoiser) -> None:
    embed = denoiser.transformer.time_text_embed
    pooled = torch.randn(2, TEXT_WIDTH)
    assert torch.equal(*embed(torch.ones(2), pooled))
