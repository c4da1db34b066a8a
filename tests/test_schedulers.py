"""Which schedulers and pipelines a model takes: each is right beside the pipeline's own call, or refused by name."""

from __future__ import annotations

from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, StableDiffusionXLPAGPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import Tensor

import riebench
from riebench.instruments.loading import Instruments
from riebench.models.diffusers_model import DiffusersModel
from riebench.models.sites import Edit, Start
from riebench.util.errors import PairError, UserError

PROMPT, SOURCE, SEED, STEPS, FIRST = "a red heart in a meadow", "a blue circle in a meadow", 3, 4, 2
SEVERAL_PASSES = {
    "HeunDiscreteScheduler": 7,
    "KDPM2DiscreteScheduler": 7,
    "KDPM2AncestralDiscreteScheduler": 7,
    "PNDMScheduler": 13,
}
NEEDS_TORCHSDE = "DPMSolverSDEScheduler"
RIGHT = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EDMEulerScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "SASolverScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
)


def with_parts(model: Any, pipeline: Any = StableDiffusionXLPipeline, **parts: Any) -> Any:
    """A new pipeline of a model's parts, some replaced."""
    own = {name: part for name, part in model.pipeline.components.items() if part is not None}
    return pipeline(**{**own, **parts})


def with_scheduler(mini: Instruments, name: str, **settings: Any) -> DiffusersModel:
    scheduler = getattr(diffusers, name).from_config(mini.model.pipeline.scheduler.config, **settings)
    model = riebench.load("mini", pipeline=with_parts(mini.model, scheduler=scheduler))
    assert isinstance(model, DiffusersModel)
    return model


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(float) - other.astype(float)).mean())


def canvas(model: DiffusersModel) -> Tensor:
    return model._initial_latents([SEED], [])


def own_picture(model: DiffusersModel) -> np.ndarray:
    """The picture of the pipeline's own call."""
    generator = torch.Generator().manual_seed(SEED)
    size = {"height": model.size, "width": model.size, "guidance_scale": 0.0, "num_inference_steps": STEPS}
    images = model.pipeline(PROMPT, latents=canvas(model), generator=generator, output_type="np", **size).images
    return np.round(255 * images[0])


def plain_start(model: DiffusersModel) -> np.ndarray:
    """The picture of a plain loop that begins from finished latents, with a scheduler of its own."""
    pipeline, finished = model.pipeline, model.finished(SOURCE, SEED, STEPS)
    own, generators = pipeline.scheduler, [torch.Generator().manual_seed(SEED)]
    states, pooled, size = *model.encode_text(PROMPT).values(), model.size
    added = {"text_embeds": pooled, "time_ids": torch.tensor([[size, size, 0, 0, size, size]]).float()}
    more = pipeline.prepare_extra_step_kwargs(generators, 0.0)

    def loop(scheduler: Any, latents: Tensor, times: Tensor) -> Tensor:
        for time in times:
            scaled = scheduler.scale_model_input(latents, time)
            text = {"encoder_hidden_states": states, "added_cond_kwargs": added}
            latents = scheduler.step(pipeline.unet(scaled, time, **text).sample, time, latents, **more).prev_sample
        return latents

    with torch.no_grad():
        discarded, fresh = type(own).from_config(own.config), type(own).from_config(own.config)
        for scheduler in (discarded, fresh):
            scheduler.set_timesteps(STEPS)
        loop(discarded, canvas(model) * discarded.init_noise_sigma, discarded.timesteps[:FIRST])
        if hasattr(fresh, "set_begin_index"):
            fresh.set_begin_index(FIRST)
        noise = torch.randn(finished.shape, generator=generators[0])
        latents = fresh.add_noise(finished, noise, fresh.timesteps[FIRST : FIRST + 1])
        latents = loop(fresh, latents, fresh.timesteps[FIRST:])
        pixels = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
    shown = pipeline.image_processor.postprocess(pixels, output_type="np")[0]
    return np.round(255 * shown)


@pytest.mark.parametrize("name", RIGHT)
def test_schedulers_with_a_pass_a_step_are_right(mini: Instruments, name: str) -> None:
    model = with_scheduler(mini, name)
    times: list[float] = []
    steps: list[int] = []
    hook = model.pipeline.unet.register_forward_pre_hook(lambda module, args: times.append(float(args[1])))

    def nothing(values: Tensor, step: int) -> Tensor:
        steps.append(step)
        assert len(times) == step + 1
        return values * 0

    edits = [Edit({"up.0.0": nothing}, 1.0, [3]), Edit({})]
    edited, _ = model.generate([PROMPT, SOURCE], [SEED, 5], STEPS, edits=edits)
    hook.remove()
    assert (steps, len(times)) == ([3], STEPS)
    assert distance(edited.image, own_picture(model)) < 0.1
    start = Start(SOURCE, FIRST)
    image = model.generate([PROMPT] * 2, [SEED, 5], STEPS, start=start)[0].image
    assert distance(image, plain_start(model)) < 0.1


@pytest.mark.parametrize("name", SEVERAL_PASSES)
def test_schedulers_with_several_passes_a_step_are_refused(mini: Instruments, name: str) -> None:
    with pytest.raises(UserError, match=f"{name} makes {SEVERAL_PASSES[name]} passes .* for 4 steps"):
        with_scheduler(mini, name)


def test_every_compatible_scheduler_is_known_here(mini: Instruments) -> None:
    names = {kind.__name__ for kind in mini.model.pipeline.scheduler.compatibles}
    assert names <= {*RIGHT, *SEVERAL_PASSES, NEEDS_TORCHSDE}


@pytest.mark.parametrize(
    ("name", "settings", "reason"),
    [
        ("PNDMScheduler", {"skip_prk_steps": True}, "makes 5 passes"),
        ("FlowMatchEulerDiscreteScheduler", {}, "init_noise_sigma"),
        ("ScoreSdeVeScheduler", {}, "cannot make the steps"),
    ],
)
def test_other_schedulers_that_do_not_fit_are_refused(
    mini: Instruments, name: str, settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UserError, match=f"{name}.*{reason}"):
        with_scheduler(mini, name, **settings)


@pytest.mark.parametrize(
    ("name", "settings", "reason"),
    [
        ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}, "noise that the seed does not decide"),
        ("FlowMatchLCMScheduler", {}, "noise that the seed does not decide"),
        ("FlowMatchHeunDiscreteScheduler", {}, "cannot make the steps"),
        ("DDIMScheduler", {}, "cannot make the steps"),
    ],
)
def test_schedulers_that_do_not_fit_flux_are_refused(name: str, settings: dict[str, Any], reason: str) -> None:
    pipeline = riebench.load("mini-flux").pipeline  # type: ignore[attr-defined]
    pipeline.scheduler = getattr(diffusers, name).from_config(pipeline.scheduler.config, **settings)
    before = torch.get_rng_state()
    with pytest.raises(UserError, match=f"{name}.*{reason}"):
        riebench.load("mini-flux", pipeline=pipeline)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_scheduler_is_checked_after_it_is_replaced_too(mini: Instruments) -> None:
    model = with_scheduler(mini, "EulerDiscreteScheduler")
    own = model.pipeline.scheduler
    model.pipeline.scheduler = diffusers.HeunDiscreteScheduler.from_config(own.config)
    with pytest.raises(UserError, match="HeunDiscreteScheduler makes 7 passes"):
        model.generate([PROMPT], [SEED], STEPS)


def test_numbers_of_steps_that_a_scheduler_does_not_make_are_refused(mini: Instruments) -> None:
    for name, steps, reason in (("EulerDiscreteScheduler", 61, "62 passes"), ("LCMScheduler", 51, "cannot make")):
        model = with_scheduler(mini, name, timestep_spacing="trailing")
        with pytest.raises(UserError, match=f"{name}.*{reason}"):
            model.generate([PROMPT], [SEED], steps)


def test_a_start_needs_a_scheduler_that_adds_noise(mini: Instruments) -> None:
    model = with_scheduler(mini, "DDIMInverseScheduler")
    with pytest.raises(UserError, match="DDIMInverseScheduler cannot begin from a finished picture"):
        model.generate([PROMPT], [SEED], STEPS, start=Start(SOURCE, FIRST))


def test_pipelines_of_another_class_are_refused(mini: Instruments) -> None:
    perturbed = with_parts(mini.model, StableDiffusionXLPAGPipeline)
    with pytest.raises(UserError, match="StableDiffusionXLPAGPipeline; sdxl-base takes a StableDiffusionXLPipeline"):
        riebench.load("sdxl-base", pipeline=perturbed)
    with pytest.raises(UserError, match="pipeline= is a str"):
        riebench.load("mini", pipeline="stabilityai/sdxl-turbo")


def test_batches_with_other_rows_are_refused(mini: Instruments) -> None:
    model = riebench.load("mini", pipeline=with_parts(mini.model))
    vars(model)["guided"] = True  # as a pipeline would be whose batches have other rows than its class says
    with pytest.raises(UserError, match=r"up\.0\.0 has values of 1 rows for 2 pictures"):
        model.generate([PROMPT] * 2, [3, 4], 1, capture=["up.0.0"])


def test_a_guidance_that_the_network_takes_as_a_number_has_no_unconditional_half(mini: Instruments) -> None:
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config(dict(mini.model.pipeline.unet.config) | {"time_cond_proj_dim": 8})
    pipeline = with_parts(mini.model, unet=unet.eval().requires_grad_(False))
    model = riebench.load("sdxl-base", pipeline=pipeline, guidance=4.0, size=128)
    both = model.generate([PROMPT, SOURCE], [3, 4], 2, capture=["up.0.0"])
    (alone,) = model.generate([SOURCE], [4], 2, capture=["up.0.0"])
    assert torch.allclose(both[1].values["up.0.0"], alone.values["up.0.0"], atol=1e-3)
    for setting in ({"negative_prompt": "dark"}, {"unconditional": "subtract"}):
        with pytest.raises(UserError, match=f"leave out the setting model.{next(iter(setting))}"):
            riebench.load("sdxl-base", pipeline=pipeline, guidance=4.0, size=128, **setting)


def test_an_autoencoder_of_another_factor(mini: Instruments) -> None:
    tiny = AutoencoderTiny().eval().requires_grad_(False)
    model = riebench.load("mini", pipeline=with_parts(mini.model, vae=tiny))
    assert model.generate([PROMPT], [SEED], 1)[0].image.shape == (256, 256, 3)
    pipeline = with_parts(mini.model)
    model = riebench.load("mini", pipeline=pipeline)
    pipeline.vae = tiny
    with pytest.raises(UserError, match=r"AutoencoderTiny makes 8 pixels .* made for 4"):
        riebench.load("mini", pipeline=pipeline)
    with pytest.raises(UserError, match=r"AutoencoderTiny makes 8 pixels .* made for 4"):
        model.generate([PROMPT], [SEED], 1)


def test_pictures_of_another_size_are_refused(mini: Instruments, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = with_parts(mini.model)
    model = riebench.load("mini", pipeline=pipeline)
    own = pipeline.vae.decode

    def decode(latents: Tensor, **more: Any) -> Any:
        return (own(latents, **more)[0].repeat_interleave(2, -1).repeat_interleave(2, -2),)

    monkeypatch.setattr(pipeline.vae, "decode", decode)
    with pytest.raises(UserError, match=r"\[256, 256\] pixels for 128"):
        model.generate([PROMPT], [SEED], 1)


def test_a_token_of_several_vectors_is_the_pipelines_own() -> None:
    pipeline = riebench.load("mini").pipeline  # type: ignore[attr-defined]
    torch.manual_seed(0)
    for number in ("", "_2"):
        encoder, tokenizer = getattr(pipeline, f"text_encoder{number}"), getattr(pipeline, f"tokenizer{number}")
        vectors = torch.randn(3, encoder.config.hidden_size)
        pipeline.load_textual_inversion({"<thing>": vectors}, text_encoder=encoder, tokenizer=tokenizer)
    model = riebench.load("mini", pipeline=pipeline)
    assert isinstance(model, DiffusersModel)
    states, _, pooled, _ = pipeline.encode_prompt("a red <thing>", device="cpu", do_classifier_free_guidance=False)
    for own, expected in zip(model.encode_text("a red <thing>").values(), (states, pooled), strict=True):
        assert torch.equal(own, expected)
    with pytest.raises(PairError, match="tokens, the text encoder takes 24"):
        model.encode_text(" ".join(["<thing>"] * 8))
