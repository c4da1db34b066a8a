"""Guided generation, other sizes and types, on the random pipeline."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler

from riebench.util.errors import UserError
from riebench.lens import Edit, Place
from riebench.models import Denoiser
from riebench.models.sdxl import pick_device


@pytest.fixture
def guided(random_pipeline: Any, monkeypatch: pytest.MonkeyPatch) -> Denoiser:
    """Guidance, and SDXL base's sampler, which draws no noise."""
    monkeypatch.setattr(random_pipeline, "scheduler", EulerDiscreteScheduler(timestep_spacing="leading"))
    return Denoiser(random_pipeline, "random", guidance=5.0)


@pytest.mark.parametrize("zeros", [True, False])
@pytest.mark.parametrize("side", [32, 48])
def test_generation_is_the_pipelines_own(
    guided: Denoiser, monkeypatch: pytest.MonkeyPatch, zeros: bool, side: int
) -> None:
    monkeypatch.setitem(guided.pipeline._internal_dict, "force_zeros_for_empty_prompt", zeros)
    other = Denoiser(guided.pipeline, "random", guidance=5.0, size=side)
    runs = other.generate(["a b", "c"], [5, 6], 3)
    latents = guided.pipeline(
        ["a b", "c"],
        height=side,
        width=side,
        num_inference_steps=3,
        guidance_scale=5.0,
        generator=[torch.Generator().manual_seed(s) for s in (5, 6)],
        output_type="latent",
    ).images
    assert np.array_equal(other.decode(latents), np.stack([run.image for run in runs]))
    assert runs[0].image.shape == (side, side, 3)


def test_grids_of_other_sizes_are_what_passes(guided: Denoiser) -> None:
    other = Denoiser(guided.pipeline, "random", size=36)  # latents of 18, then 9, then 5
    (run,) = other.generate(["a"], [1], 1, capture=list(other.lens.blocks))
    assert run.activations is not None
    for block, update in run.activations.updates.items():
        assert other.grid(block) == tuple(update.shape[2:]), block
    with pytest.raises(UserError, match="picture size is 33; expected a multiple of 2"):
        Denoiser(guided.pipeline, "random", size=33)


@pytest.mark.parametrize(("choice", "wanted"), [("leave", 0.0), ("subtract", -14.0)])
def test_the_intervention_is_on_the_conditional_half(guided: Denoiser, choice: Any, wanted: float) -> None:
    guided.unconditional = choice
    delta = {Place("mid.0"): torch.full((1, 24, 4, 4), 7.0)}
    unedited, edited = _halves(guided, [Edit({})]), _halves(guided, [Edit(delta, 2.0)])
    assert torch.allclose(edited[1] - unedited[1], torch.tensor(14.0), atol=1e-4)
    assert torch.allclose(edited[0] - unedited[0], torch.tensor(wanted), atol=1e-4)


def test_the_capture_is_of_the_conditional_half(guided: Denoiser) -> None:
    (run,) = guided.generate(["a b"], [5], 1, capture=["mid.0"])
    assert run.activations is not None
    output = run.activations.inputs["mid.0"] + run.activations.updates["mid.0"]
    halves = _halves(guided, [Edit({})])
    assert torch.allclose(output[0], halves[1], atol=1e-5)
    assert not torch.allclose(output[0], halves[0], atol=1e-2)


def _halves(denoiser: Denoiser, edits: list[Edit]) -> torch.Tensor:
    """Unconditional and conditional output of a block, as what follows it receives them."""
    after = denoiser.pipeline.unet.mid_block.resnets[1]
    seen: list[torch.Tensor] = []
    handle = after.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    try:
        denoiser.generate(["a b"], [5], 1, edits=edits)
    finally:
        handle.remove()
    return seen[0]


def test_half_precision_draws_the_same_latents(random_pipeline: Any) -> None:
    (one,) = Denoiser(random_pipeline, "random").generate(["a b"], [5], 2)
    half = copy.deepcopy(random_pipeline)
    for part in (half.unet, half.vae, half.text_encoder, half.text_encoder_2):
        part.to(torch.bfloat16)
    (other,) = Denoiser(half, "random").generate(["a b"], [5], 2)
    assert np.abs(one.image.astype(int) - other.image).mean() < 8


def test_devices() -> None:
    assert pick_device("cpu").type == "cpu"
    with pytest.raises(UserError, match="'gpu' is not known"):
        pick_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="'cuda' is not on this machine"):
            pick_device("cuda")
