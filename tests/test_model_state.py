"""Pipelines that a user has changed, before or after a model was made of them: what is noticed, and what is refused."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from types import MethodType
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
)
from diffusers.models.attention_processor import AttnProcessor
from numpy.typing import NDArray
from torch import nn

import riebench
from riebench.models import Edit, Model

Change = Callable[[Any], None]
PROMPTS, SEEDS, STEPS = ["a cat", "a cat"], [3, 3], 2
SAME_PICTURES = ("attention processor of the library", "setting of the pipeline")
"""Changes that are of the state, but of no picture here: of its rounding, and of the unconditional half."""
BOOST = 1.5


def copied(pipeline: Any) -> Any:
    """A pipeline of the same parts."""
    return type(pipeline)(**copy.deepcopy(pipeline.components), add_watermarker=False)


@pytest.fixture
def p(random_pipeline: StableDiffusionXLPipeline) -> Any:
    return copied(random_pipeline)


def load(pipeline: Any) -> Model:
    return riebench.load("sdxl-turbo", pipeline=pipeline)


def made(model: Model) -> tuple[list[NDArray[Any]], dict[str, torch.Tensor]]:
    """Pictures and values of a captured run and of edited ones that begin as it does."""
    values: dict[str, torch.Tensor] = {}
    [base] = model.generate(PROMPTS[:1], SEEDS[:1], STEPS, capture=["up.0.1"])
    delta = torch.ones_like(base.values["up.0.1"])
    edited = model.generate(PROMPTS, SEEDS, STEPS, edits=[Edit({"up.0.1": delta}, s) for s in (0.0, 5.0)])
    return [run.image for run in (base, *edited)], {**values, **base.values}


def doubled(module: Any, args: Any, output: Any) -> Any:
    return output * BOOST


class Twice(AttnProcessor):
    """A processor of a user's."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs) * self.factor


def weight(path: str, change: Change) -> Change:
    """A change of a weight of the pipeline."""

    def apply(p: Any) -> None:
        part, _, rest = path.partition(".")
        with torch.no_grad():
            change(getattr(p, part).get_submodule(rest).weight)

    return apply


def new_data(parameter: Any) -> None:
    parameter.data = parameter.data * 1.5


def part_of_data(parameter: Any) -> None:
    parameter.data[:1].add_(0.3)


def replace_block(p: Any) -> None:
    block = copy.deepcopy(p.unet.up_blocks[0])
    for parameter in block.parameters():
        parameter.data.mul_(1.2)
    p.unet.up_blocks[0] = block


def replace_unet(p: Any) -> None:
    unet = copy.deepcopy(p.unet)
    for parameter in unet.parameters():
        parameter.data.mul_(1.05)
    p.unet = unet


def tiled(p: Any) -> None:
    for module in p.unet.modules():
        if isinstance(module, nn.Conv2d):
            module.padding_mode = "circular"


def patched_unet(p: Any) -> None:
    forward = p.unet.forward

    @functools.wraps(forward)  # which gives it the library's name
    def call(*args: Any, **kwargs: Any) -> Any:
        return (forward(*args, **kwargs)[0] * BOOST,)

    p.unet.forward = call


def patched_decode(p: Any) -> None:
    p.vae.decode = MethodType(lambda vae, z, **kwargs: (type(vae).decode(vae, z, **kwargs)[0] * 0.5,), p.vae)


def patched_step(p: Any) -> None:
    step = p.scheduler.step
    p.scheduler.step = functools.wraps(step)(lambda noise, *args, **kwargs: step(noise * BOOST, *args, **kwargs))


def added_token(p: Any) -> None:
    p.tokenizer.add_tokens(["cat"])  # both encoders' tokenizer
    with torch.random.fork_rng():
        torch.manual_seed(0)
        p.text_encoder.resize_token_embeddings(64)
        p.text_encoder_2.resize_token_embeddings(64)


def other_tokenizer(p: Any) -> None:
    vocabulary = p.tokenizer.get_vocab()
    turned = {token: 51 - number if number < 52 else number for token, number in vocabulary.items()}
    p.tokenizer = type(p.tokenizer)(vocab=turned, merges=[], model_max_length=12, pad_token="<|endoftext|>")


def buffer(p: Any) -> None:
    p.text_encoder.embeddings.position_ids.copy_(p.text_encoder.embeddings.position_ids.flip(-1))


def dropout(p: Any) -> None:
    for module in p.unet.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    p.unet.train()


def noise_table(p: Any) -> None:
    p.scheduler.alphas_cumprod = p.scheduler.alphas_cumprod * 0.9


CHANGES: dict[str, Change] = {
    "weight of the U-Net": weight("unet.conv_in", lambda w: w.mul_(1.2)),
    "weight of the U-Net through data": weight("unet.conv_in", lambda w: w.data.mul_(1.2)),
    "other data of a weight": weight("unet.mid_block.resnets.0.conv1", new_data),
    "part of a weight": weight("unet.conv_out", lambda w: w[-1].add_(0.1)),
    "weight of a text encoder": weight("text_encoder.embeddings.token_embedding", lambda w: w.mul_(1.5)),
    "weight of the other text encoder": weight("text_encoder_2.text_model.embeddings.token_embedding", new_data),
    "weight of the VAE": weight("vae.decoder.conv_out", lambda w: w.mul_(1.2)),
    "buffer that is not saved": buffer,
    "another U-Net": replace_unet,
    "another block": replace_block,
    "FreeU": lambda p: p.enable_freeu(s1=0.9, s2=0.2, b1=1.3, b2=1.4),
    "attention processor of the library": lambda p: p.unet.set_attn_processor(AttnProcessor()),
    "attention processor of a user": lambda p: p.unet.set_attn_processor(Twice(1.3)),
    "padding mode": tiled,
    "dropout": dropout,
    "constant of a norm": lambda p: setattr(p.unet.conv_norm_out, "eps", 0.5),
    "activation": lambda p: setattr(p.unet, "conv_act", nn.Tanh()),
    "setting of the VAE": lambda p: p.vae.register_to_config(scaling_factor=0.3),
    "setting of the pipeline": lambda p: p.register_to_config(force_zeros_for_empty_prompt=False),
    "setting of the scheduler": lambda p: setattr(
        p, "scheduler", type(p.scheduler).from_config(p.scheduler.config, beta_end=0.03)
    ),
    "class of the scheduler": lambda p: setattr(p, "scheduler", EulerDiscreteScheduler.from_config(p.scheduler.config)),
    "step of the scheduler": patched_step,
    "table of the scheduler": noise_table,
    "token of a tokenizer": added_token,
    "other tokenizer": other_tokenizer,
    "padding of a tokenizer": lambda p: setattr(p.tokenizer, "padding_side", "left"),
    "forward hook": lambda p: p.unet.conv_in.register_forward_hook(doubled) and None,
    "forward hook before": lambda p: p.vae.decoder.register_forward_pre_hook(lambda m, a: (a[0] * 2, *a[1:])) and None,
    "function of the U-Net": patched_unet,
    "function of the VAE": patched_decode,
    "image processor": lambda p: p.image_processor.register_to_config(do_normalize=False),
    "watermark": lambda p: setattr(p, "watermark", type("Mark", (), {"apply_watermark": lambda self, x: x * 0.5})()),
}


@pytest.fixture(scope="module")
def fingerprint(random_pipeline: StableDiffusionXLPipeline) -> str:
    """That of the unchanged pipeline."""
    return load(copied(random_pipeline)).fingerprint


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_after_loading_is_a_change_before_it(p: Any, fingerprint: str, name: str) -> None:
    model = load(p)
    assert model.fingerprint == fingerprint
    before, _ = made(model)
    CHANGES[name](p)
    if name == "dropout":  # pictures differ from call to call
        assert model.fingerprint == load(p).fingerprint != fingerprint
        return
    pictures, values = made(model)
    fresh = load(p)
    expected, expected_values = made(fresh)
    assert all(np.array_equal(a, b) for a, b in zip(pictures, expected, strict=True))
    assert all(torch.equal(values[site], expected_values[site]) for site in values)
    assert model.fingerprint == fresh.fingerprint != fingerprint
    assert not model.own
    if name not in SAME_PICTURES:
        assert any(not np.array_equal(a, b) for a, b in zip(before, pictures, strict=True)), "the change does nothing"
