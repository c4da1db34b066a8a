"""Pipelines that a user has changed, before or after a model was made of them: what is noticed, and what is refused."""

from __future__ import annotations

import copy
import functools
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MethodType, ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FasterCacheConfig,
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    StableDiffusionXLPipeline,
    TaylorSeerCacheConfig,
)
from diffusers.models.attention_processor import AttnProcessor
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import nn

import riebench
from riebench.methods import Plan, method
from riebench.methods.registry import METHODS
from riebench.models import Edit, Model
from riebench.models.mini import MINI
from riebench.util.errors import UserError

Change = Callable[[Any], None]
PROMPTS, SEEDS, STEPS = ["a cat", "a cat"], [3, 3], 2
SAME_PICTURES = ("attention processor of the library", "setting of the pipeline")
"""Changes that are of the state, but of no picture here: of its rounding, and of the unconditional half."""
BOOST = 1.5


def copied(pipeline: Any) -> Any:
    """A pipeline of the same parts."""
    return type(pipeline)(**copy.deepcopy(pipeline.components), add_watermarker=False)


@pytest.fixture(scope="module")
def small(random_pipeline: StableDiffusionXLPipeline) -> StableDiffusionXLPipeline:
    """The random pipeline with a U-Net of two stages."""
    pipeline = copied(random_pipeline)
    stages = {
        "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "transformer_layers_per_block": 1,
        "attention_head_dim": 2,
    }
    torch.manual_seed(5)
    unet = type(pipeline.unet).from_config({**pipeline.unet.config, **stages})
    pipeline.register_modules(unet=unet.eval().requires_grad_(False))
    return pipeline


@pytest.fixture
def p(small: StableDiffusionXLPipeline) -> Any:
    return copied(small)


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


class Times(nn.Module):
    """A module of a user's, as a hook."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, module: Any, args: Any, output: Any) -> Any:
        return output * self.factor


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


def one_number(path: str) -> Change:
    """A change of one number of a weight through memory that numpy shares."""

    def apply(p: Any) -> None:
        part, _, rest = path.partition(".")
        getattr(p, part).get_submodule(rest).weight.numpy().flat[7] += 0.9

    return apply


def exchanged_rows(p: Any) -> None:
    weight = p.unet.mid_block.resnets[0].conv1.weight.data.view(torch.int32).numpy()
    weight[[2, 5]] = weight[[5, 2]]


class Halved(ModelHook):
    """A hook of a user's for accelerate."""

    def post_forward(self, module: Any, output: Any) -> Any:
        return output * 0.5


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
    step = type(p.scheduler).step

    @functools.wraps(step)
    def other(scheduler: Any, noise: Any, *args: Any, **kwargs: Any) -> Any:
        return step(scheduler, noise * BOOST, *args, **kwargs)

    p.scheduler.step = MethodType(other, p.scheduler)


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
    "number of a weight through numpy": one_number("unet.mid_block.resnets.0.conv1"),
    "number of a text encoder through numpy": one_number("text_encoder.embeddings.token_embedding"),
    "number of the VAE through numpy": one_number("vae.decoder.conv_out"),
    "rows of a weight through numpy": exchanged_rows,
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
    "forward hook that is a module": lambda p: p.unet.conv_in.register_forward_hook(Times(BOOST)) and None,
    "forward hook that a library decorates": lambda p: (
        p.unet.conv_in.register_forward_hook(torch.autocast("cpu", enabled=False)(doubled)) and None
    ),
    "forward hook of accelerate": lambda p: add_hook_to_module(p.unet.conv_in, Halved()) and None,
    "forward hook before": lambda p: p.vae.decoder.register_forward_pre_hook(lambda m, a: (a[0] * 2, *a[1:])) and None,
    "function of the U-Net": patched_unet,
    "function of the VAE": patched_decode,
    "function of a library": lambda p: setattr(p.unet.conv_act, "forward", functools.partial(nn.functional.relu)),
    "function of another module": lambda p: setattr(p.unet.conv_act, "forward", nn.Tanh().forward),
    "image processor": lambda p: p.image_processor.register_to_config(do_normalize=False),
    "watermark": lambda p: setattr(p, "watermark", type("Mark", (), {"apply_watermark": lambda self, x: x * 0.5})()),
}


@pytest.fixture(scope="module")
def fingerprint(small: StableDiffusionXLPipeline) -> str:
    """That of the unchanged pipeline."""
    return load(copied(small)).fingerprint


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


def test_hooks_that_only_look_may_come_and_go(p: Any, fingerprint: str) -> None:
    model = load(p)
    handle = p.unet.conv_in.register_forward_hook(lambda module, args, output: None)
    assert model.fingerprint != fingerprint
    handle.remove()
    assert model.fingerprint == fingerprint


class Counted(AttnProcessor):
    """A processor of a user's whose outputs grow from call to call."""

    calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return super().__call__(*args, **kwargs) * self.calls


CODE_OF_A_USER: dict[str, Change] = {
    name: CHANGES[name] for name in ("forward hook", "forward hook of accelerate", "attention processor of a user")
} | {
    "forward hook before a stage": lambda p: p.unet.down_blocks[1].register_forward_pre_hook(
        lambda module, args, kwargs: (args, kwargs | {"hidden_states": kwargs["hidden_states"] * BOOST}),
        with_kwargs=True,
    ),
    "forward hook of a stage": lambda p: p.unet.down_blocks[1].register_forward_hook(
        lambda module, args, output: (output[0] * BOOST, output[1])
    ),
    "hook that is an object": lambda p: (
        p.unet.down_blocks[0]
        .resnets[0]
        .register_forward_hook(type("Hook", (), {"__call__": lambda self, module, args, output: output * BOOST})())
    ),
    "hook that a library decorates": lambda p: p.unet.mid_block.register_forward_hook(torch.no_grad()(doubled)),
    "hook of the middle": lambda p: p.unet.mid_block.register_forward_hook(doubled),
    "processor that counts": lambda p: p.unet.set_attn_processor(Counted()),
}


@pytest.mark.parametrize("name", CODE_OF_A_USER)
def test_code_of_a_user_acts_in_an_edited_run_as_without_replay(p: Any, name: str) -> None:
    pictures = []
    for replay in (True, False):
        changed = copied(p)
        CODE_OF_A_USER[name](changed)
        model = load(changed)
        assert model.replay
        model.replay = replay
        pictures.append(made(model)[0])
    assert all(np.array_equal(a, b) for a, b in zip(*pictures, strict=True))


FACTOR = 1.0


def test_what_a_function_refers_to_is_part_of_the_state(p: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    held, settings = [1.0], ModuleType("settings")  # as of an imported file
    settings.factor = 1.0  # type: ignore[attr-defined]
    own = {"held": held, "settings": settings, "__name__": "__main__"}
    p.unet.conv_in.register_forward_hook(lambda module, args, output: output * FACTOR)
    p.unet.conv_in.register_forward_hook(eval("lambda module, args, output: output * held[0] * settings.factor", own))
    fingerprints = [load(p).fingerprint]
    held[0] = 2.0
    fingerprints.append(load(p).fingerprint)
    settings.factor = 2.0  # type: ignore[attr-defined]
    fingerprints.append(load(p).fingerprint)
    monkeypatch.setattr(f"{__name__}.FACTOR", 3.0)
    fingerprints.append(load(p).fingerprint)
    times = Times(1.0)
    p.unet.conv_in.register_forward_hook(times)
    fingerprints.append(load(p).fingerprint)
    times.factor = 2.0
    assert len({*fingerprints, load(p).fingerprint}) == 6


def test_hooks_of_all_modules_are_part_of_the_state(p: Any, fingerprint: str) -> None:
    model = load(p)
    handle = torch.nn.modules.module.register_module_forward_hook(lambda module, args, output: None)
    try:
        assert model.fingerprint == load(p).fingerprint != fingerprint
    finally:
        handle.remove()


def test_an_adapter_of_peft(p: Any) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    model, states = load(p), []
    p.unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False), adapter_name="a")
    for change in (
        lambda: None,
        lambda: p.unet.set_adapters("a", 0.5),
        p.unet.disable_adapters,
        p.unet.enable_adapters,
        p.unet.fuse_lora,
        lambda: p.unet.delete_adapters("a"),
    ):
        change()
        pictures, _ = made(model)
        expected, _ = made(load(p))
        assert all(np.array_equal(a, b) for a, b in zip(pictures, expected, strict=True))
        assert model.fingerprint == load(p).fingerprint
        states.append(model.fingerprint)
    assert states[1] == states[3]
    assert len(set(states)) == 5


def compiled(p: Any) -> None:
    p.unet = torch.compile(p.unet)


def compiled_forward(p: Any) -> None:
    p.unet.forward = torch.compile(p.unet.forward)


def parallel(p: Any) -> None:
    p.unet = nn.DataParallel(p.unet)


def of_two_types(p: Any) -> None:
    p.unet.enable_layerwise_casting(torch.float8_e4m3fn, torch.bfloat16)


REFUSED: dict[str, tuple[Change, str]] = {
    "compiled": (compiled, "unet is compiled"),
    "compiled in place": (lambda p: p.unet.compile(), "unet is compiled"),
    "compiled function": (compiled_forward, "unet is compiled"),
    "compiled block": (lambda p: p.unet.mid_block.compile(), "unet.mid_block is compiled"),
    "several devices": (parallel, "a DataParallel,"),
    "two types": (of_two_types, "pipeline.to(torch.bfloat16)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_pipelines_that_are_refused(p: Any, name: str) -> None:
    model, (change, words) = load(p), REFUSED[name]
    unet = p.unet
    model.generate(PROMPTS, SEEDS, 1)
    change(p)
    for use in (lambda: load(p), lambda: model.generate(PROMPTS, SEEDS, 1), lambda: model.fingerprint):
        with pytest.raises(UserError) as refused:
            use()
        assert words in str(refused.value)
    if p.unet is not unet:
        p.unet = unet  # and the model goes on
        model.generate(PROMPTS, SEEDS, 1)


@pytest.mark.parametrize(
    "cache",
    [
        FirstBlockCacheConfig(threshold=0.2),
        MagCacheConfig(num_inference_steps=4, mag_ratios=torch.ones(4)),
        PyramidAttentionBroadcastConfig(spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 1),
        FasterCacheConfig(spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 1),
        TaylorSeerCacheConfig(),
    ],
    ids=lambda cache: type(cache).__name__,
)
def test_step_caches_are_refused(flux: Model, cache: Any) -> None:
    run = (["a red heart in a meadow"], [3], 1)
    transformer = flux.pipeline.transformer  # type: ignore[attr-defined]
    transformer.enable_cache(cache)
    try:
        for use in (lambda: flux.generate(*run), lambda: riebench.load("mini-flux", pipeline=flux.pipeline)):  # type: ignore[attr-defined]
            with pytest.raises(UserError, match=rf"{type(cache).__name__}.*transformer.disable_cache"):
                use()
    finally:
        transformer.disable_cache()
    flux.generate(*run)


@pytest.fixture(scope="module")
def flux() -> Model:
    return riebench.load("mini-flux")


def test_half_bytes_of_storage_are_honoured(p: Any) -> None:
    p.to(torch.bfloat16)
    plain = load(p).fingerprint
    p.unet.enable_layerwise_casting(torch.float8_e4m3fn, torch.bfloat16)
    model = load(p)
    before = model.fingerprint
    [base] = model.generate(PROMPTS[:1], SEEDS[:1], STEPS, capture=["up.0.1"])
    [same] = model.generate(PROMPTS[:1], SEEDS[:1], STEPS, edits=[({"up.0.1": base.values["up.0.1"]}, 0.0)])
    assert np.array_equal(base.image, same.image)
    assert model.fingerprint == before != plain


@pytest.mark.parametrize(("times", "words"), [(0, r"ran 1 times in 2 steps"), (2, r"ran more often in 2 steps")])
def test_a_block_that_does_not_run_once_in_each_step_is_named(p: Any, times: int, words: str) -> None:
    """Another library's code calls a block in the first step alone, or twice."""
    stage, kept = p.unet.up_blocks[0], {}
    forward = type(stage).forward

    def other(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self is stage and (times or not kept):
            for _ in range(times or 1):
                kept[0] = forward(self, *args, **kwargs)
        return kept[0] if self is stage else forward(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(stage), "forward", other)
        model, delta = load(p), torch.ones(STEPS, 64, 16)
        for more in ({"capture": ["up.0.1"]}, {"edits": [({"up.0.1": delta}, 1.0)]}):
            kept.clear()
            with pytest.raises(UserError, match=rf"up\.0\.1 .*{words}"):
                model.generate(PROMPTS[:1], SEEDS[:1], STEPS, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("place", "name", "weakened"),
    [
        (nn.SiLU, "forward", lambda out: out * BOOST),
        (StableDiffusionXLPipeline, "encode_prompt", lambda out: (out[0] * BOOST, *out[1:])),
        (AutoencoderKL, "decode", lambda out: (out[0] * 0.5,)),
        (torch.nn.functional, "scaled_dot_product_attention", lambda out: out * BOOST),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_function_of_a_library_that_is_replaced(
    p: Any, fingerprint: str, place: Any, name: str, weakened: Any
) -> None:
    model, function = load(p), getattr(place, name)
    before, _ = made(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, name, lambda *args, **kwargs: weakened(function(*args, **kwargs)))
        pictures, _ = made(model)
        expected, _ = made(load(p))
        assert all(np.array_equal(a, b) for a, b in zip(pictures, expected, strict=True))
        assert not np.array_equal(pictures[0], before[0])
        assert model.fingerprint == load(p).fingerprint != fingerprint
    assert model.fingerprint == fingerprint
    assert all(np.array_equal(a, b) for a, b in zip(made(model)[0], before, strict=True))


def test_what_is_set_on_a_scheduler_after_it_was_made_is_part_of_the_state(flux: Model) -> None:
    pipeline = copy.copy(flux.pipeline)  # type: ignore[attr-defined]
    pipeline.scheduler = type(pipeline.scheduler)(shift=1.0)
    model = riebench.load("mini-flux", pipeline=pipeline)
    prompts, fingerprint = ["a red heart in a meadow"], model.fingerprint
    [before] = model.generate(prompts, [3], 3)
    pipeline.scheduler.set_shift(5.0)
    [run] = model.generate(prompts, [3], 3)
    fresh = riebench.load("mini-flux", pipeline=pipeline)
    [expected] = fresh.generate(prompts, [3], 3)
    assert np.array_equal(run.image, expected.image)
    assert not np.array_equal(run.image, before.image)
    assert model.fingerprint == fresh.fingerprint != fingerprint


def test_threads_finish_and_generate_in_turn(p: Any) -> None:
    model = load(p)
    plain = model.generate(PROMPTS, SEEDS, STEPS)[0].image
    latents = model.finished("a dog", 5, STEPS)
    with ThreadPoolExecutor(2) as pool:
        pictures = [pool.submit(model.generate, PROMPTS, SEEDS, STEPS) for _ in range(4)]
        finished = [pool.submit(model.finished, "a dog", 5 + n % 2, STEPS) for n in range(6)]
        assert all(np.array_equal(run.result()[0].image, plain) for run in pictures)
        assert all(torch.equal(run.result(), latents) for run in finished[::2])


def test_a_caller_s_settings_of_torch_change_no_picture(p: Any) -> None:
    model = load(p)
    plain, _ = made(model)
    with torch.autocast("cpu", torch.bfloat16):
        cast, _ = made(model)
        assert torch.equal(model.finished("a dog", 5, STEPS), load(p).finished("a dog", 5, STEPS))
    torch.set_default_dtype(torch.float64)
    try:
        double, _ = made(load(p))
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(np.array_equal(a, b) and np.array_equal(a, c) for a, b, c in zip(plain, cast, double, strict=True))


def test_a_pipeline_of_inference_mode(small: Any, fingerprint: str) -> None:
    with torch.inference_mode():
        pipeline = copied(small)
    model = load(pipeline)
    assert model.fingerprint == fingerprint
    before, _ = made(model)
    pipeline.unet.conv_in.weight = nn.Parameter(pipeline.unet.conv_in.weight * 1.2)
    assert not np.array_equal(made(model)[0][0], before[0])
    assert model.fingerprint != fingerprint


@pytest.fixture
def with_saes(tmp_path: Path) -> Model:
    """Mini, with a copy of its SAEs in ``sae``."""
    assert MINI.own_pipeline is not None
    shutil.copytree(MINI.own_pipeline.parent / "sae", tmp_path / "sae")
    return riebench.load("mini", sae__folder=tmp_path / "sae")


def turn_directions(folder: Path) -> None:
    """Give an SAE other directions in a file of the same size."""
    weights = folder / "state_dict.safetensors"
    state = load_file(weights)
    save_file({**state, "decoder.weight": state["decoder.weight"].flip(-1).contiguous()}, weights)


def record_of(model: Model, out: Path, **options: Any) -> Any:
    options = {"method": "sae", "block": "up.0.0", "category": ["colour"], "limit": 1, "strength": 1.0, **options}
    return riebench.run(model=model, out=out, quiet=True, **options).records[-1]


def test_sae_files_that_are_rewritten_are_read_again(with_saes: Model, tmp_path: Path) -> None:
    before = record_of(with_saes, tmp_path / "before")
    turn_directions(tmp_path / "sae" / "up.0.0")
    after = record_of(with_saes, tmp_path / "after")
    fresh = record_of(riebench.load("mini", sae__folder=tmp_path / "sae"), tmp_path / "fresh")
    assert (after.metrics, after.parts) == (fresh.metrics, fresh.parts)
    assert after.metrics != before.metrics
    assert after.parts["sae"] != before.parts["sae"]


def test_a_folder_refuses_the_changed_model(with_saes: Model, tmp_path: Path) -> None:
    before = record_of(with_saes, tmp_path / "out")
    assert record_of(with_saes, tmp_path / "out") == before
    with torch.no_grad():
        with_saes.pipeline.unet.conv_in.weight.mul_(1.05)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"the weights 'mini-.*', this run has 'given-"):
        record_of(with_saes, tmp_path / "out")
    after = record_of(with_saes, tmp_path / "after")
    fresh = riebench.load("mini", pipeline=with_saes.pipeline)  # type: ignore[attr-defined]
    fresh.saes = with_saes.saes
    expected = record_of(fresh, tmp_path / "fresh")
    assert (after.metrics, after.parts) == (expected.metrics, expected.parts)
    assert after.parts["model"].startswith("given-")
    assert after.metrics["clip_text_edit"] != before.metrics["clip_text_edit"]


@pytest.mark.parametrize("what", ["weight", "sae"])
def test_a_pair_whose_model_changes_meanwhile_fails(
    with_saes: Model, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = with_saes.pipeline.unet.conv_in.weight  # type: ignore[attr-defined]
    changes = {"weight": lambda: weight.data.mul_(1.1), "sae": lambda: turn_directions(tmp_path / "sae" / "up.0.0")}
    monkeypatch.setattr(METHODS, "registered", dict(METHODS.registered))  # 'all' of other tests leaves it out

    @method("vandal")
    class Vandal:
        """A method that changes what generates."""

        def plan(self, seen: Any) -> Plan:
            changes[what]()
            return Plan({})

    record = record_of(with_saes, tmp_path / "out", method="vandal")
    assert record.status == "failed"
    assert "SAE changed during this pair's work" in record.reason
