"""Guided generation, other sizes and types, on the random pipeline."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline

from riebench.models import Edit
from riebench.models.devices import pick_device
from riebench.models.sdxl import BASE, SDXL, TURBO
from riebench.settings.settings import parse_settings
from riebench.util.errors import UserError


def blocks(sites: Iterable[str]) -> list[str]:
    return [site for site in sites if "/" not in site]


def made(pipeline: Any, **settings: Any) -> SDXL:
    return SDXL(pipeline, TURBO, parse_settings(settings), "random")


@pytest.fixture
def guided(random_pipeline: Any, monkeypatch: pytest.MonkeyPatch) -> SDXL:
    """Guidance, and SDXL base's sampler, which draws no noise."""
    monkeypatch.setattr(random_pipeline, "scheduler", EulerDiscreteScheduler(timestep_spacing="leading"))
    return made(random_pipeline, guidance=5.0)


def same(pixels: np.ndarray, image: np.ndarray) -> bool:
    """Whether each value of a picture is the whole number nearest to the pixel, up to the error of float32 at a tie."""
    return bool(np.abs(pixels * 255 - image).max() <= 0.5 + 1e-3)


@pytest.mark.parametrize("zeros", [True, False])
@pytest.mark.parametrize("side", [32, 48])
def test_generation_is_the_pipelines_own(guided: SDXL, monkeypatch: pytest.MonkeyPatch, zeros: bool, side: int) -> None:
    monkeypatch.setitem(guided.pipeline._internal_dict, "force_zeros_for_empty_prompt", zeros)
    other = made(guided.pipeline, guidance=5.0, size=side)
    runs = other.generate(["a b", "c"], [5, 6], 3)
    pixels = guided.pipeline(
        ["a b", "c"],
        height=side,
        width=side,
        num_inference_steps=3,
        guidance_scale=5.0,
        generator=[torch.Generator().manual_seed(s) for s in (5, 6)],
        output_type="np",
    ).images
    assert same(pixels, np.stack([run.image for run in runs]))
    assert runs[0].image.shape == (side, side, 3)


@pytest.mark.parametrize("negative", ["", "d e"])
def test_a_negative_prompt_is_the_pipelines_own(guided: SDXL, negative: str) -> None:
    other = made(guided.pipeline, guidance=5.0, negative_prompt=negative)
    (run,) = other.generate(["a b"], [5], 3)
    pixels = guided.pipeline(
        "a b",
        negative_prompt=negative,
        height=other.size,
        width=other.size,
        num_inference_steps=3,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(5),
        output_type="np",
    ).images
    assert same(pixels[0], run.image)
    own = guided.pipeline.config.force_zeros_for_empty_prompt  # which is not what "" is encoded to
    assert np.array_equal(guided.generate(["a b"], [5], 3)[0].image, run.image) == (negative == "" and not own)
    assert other.conditions == {**guided.conditions, "negative_prompt": negative}


@pytest.mark.parametrize(("name", "value"), [("negative_prompt", "a"), ("unconditional", "subtract")])
def test_what_is_for_the_unconditional_half_needs_guidance(name: str, value: str) -> None:
    with pytest.raises(UserError, match=r"above 1, and the guidance is 0; give --set model\.guidance"):
        TURBO.check_settings(parse_settings({name: value}))
    with pytest.raises(UserError, match="the guidance is 1"):
        BASE.check_settings(parse_settings({name: value, "guidance": 1.0}))
    BASE.check_settings(parse_settings({name: value}))


def test_grids_of_other_sizes_are_what_passes(random_pipeline: Any) -> None:
    vae: Any = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 4, 4),
        latent_channels=4,
        norm_num_groups=2,
        force_upcast=False,
    )
    pipeline = StableDiffusionXLPipeline(**{**random_pipeline.components, "vae": vae.eval()}, add_watermarker=False)
    model = made(pipeline, size=72)  # latents of 9, then 5, then 3
    passed: dict[str, tuple[int, ...]] = {}
    handles = [
        model.modules[site].register_forward_hook(
            lambda module, args, output, site=site: passed.update({site: tuple(output[0].shape[2:])})
        )
        for site in blocks(model.sites)
    ]
    (run,) = model.generate(["a"], [1], 1, capture=list(model.sites))
    for handle in handles:
        handle.remove()
    assert passed == {site: model.sites[site].grid for site in blocks(model.sites)}
    assert set(passed.values()) == {(5, 5), (3, 3)}
    for site, values in run.values.items():
        assert values.shape == (1, model.sites[site].positions, model.sites[site].width), site


@pytest.mark.parametrize("side", [33, 36, 4])
def test_sizes_that_the_pipeline_does_not_take(random_pipeline: Any, side: int) -> None:
    with pytest.raises(UserError, match=f"picture size is {side}; expected a multiple of 8"):
        made(random_pipeline, size=side)


@pytest.mark.parametrize(("choice", "wanted"), [("leave", 0.0), ("subtract", -14.0)])
def test_the_intervention_is_on_the_conditional_half(guided: SDXL, choice: Any, wanted: float) -> None:
    guided = made(guided.pipeline, guidance=5.0, unconditional=choice)
    changes = {"mid.0": torch.full((1, 16, 24), 7.0)}
    unedited, edited = _halves(guided, [Edit({})]), _halves(guided, [Edit(changes, 2.0)])
    assert torch.allclose(edited[1] - unedited[1], torch.tensor(14.0), atol=1e-4)
    assert torch.allclose(edited[0] - unedited[0], torch.tensor(wanted), atol=1e-4)


def test_the_capture_is_of_the_conditional_half(guided: SDXL) -> None:
    before: list[torch.Tensor] = []
    handle = guided.modules["mid.0"].register_forward_pre_hook(lambda module, args: before.append(args[0].clone()))
    (run,) = guided.generate(["a b"], [5], 1, capture=["mid.0"])
    handle.remove()
    after = _halves(guided, [Edit({})])
    updates = [(after[half] - before[0][half]).flatten(1).T for half in (0, 1)]
    assert torch.allclose(run.values["mid.0"][0], updates[1], atol=1e-5)
    assert not torch.allclose(run.values["mid.0"][0], updates[0], atol=1e-2)


def test_neurons_are_of_the_conditional_half(guided: SDXL) -> None:
    site, halves = "mid.0/neurons.1", []
    handle = guided.modules[site].register_forward_hook(lambda module, args, output: halves.append(output.clone()))
    (run,) = guided.generate(["a b"], [5], 1, capture=[site])
    handle.remove()
    assert len(halves[0]) == 2
    assert torch.equal(run.values[site][0], halves[0][1])
    assert not torch.equal(halves[0][0], halves[0][1])


def _halves(model: SDXL, edits: list[Edit]) -> torch.Tensor:
    """Unconditional and conditional output of a block, as what follows it receives them."""
    after = model.pipeline.unet.mid_block.resnets[1]
    seen: list[torch.Tensor] = []
    handle = after.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    try:
        model.generate(["a b"], [5], 1, edits=edits)
    finally:
        handle.remove()
    return seen[0]


def test_half_precision_draws_the_same_latents(random_pipeline: Any) -> None:
    (one,) = made(random_pipeline).generate(["a b"], [5], 2)
    half = copy.deepcopy(random_pipeline)
    for part in (half.unet, half.vae, half.text_encoder, half.text_encoder_2):
        part.to(torch.bfloat16)
    (other,) = made(half).generate(["a b"], [5], 2)
    assert np.abs(one.image.astype(int) - other.image).mean() < 8


def test_devices() -> None:
    assert pick_device("cpu").type == "cpu"
    with pytest.raises(UserError, match="'gpu' is not known"):
        pick_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="'cuda' is not on this machine"):
            pick_device("cuda")
