"""Proofs of a family of transformers on tiny random weights, against the pipeline's own call and hooks of their own.

``tests/test_token_families.py`` makes a part of them, ``scripts/check_families`` all, with a table.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import riebench
from riebench.models import Batch, Edit, Start
from riebench.models.diffusers_model import DiffusersModel
from riebench.models.dry_trace import dry_trace
from riebench.models.sdxl import SDXL, site_path
from riebench.models.sites import neuron_sites
from riebench.models.tokens import Blocks, Tokens
from riebench.pairs import Pair
from riebench.sae.topk import TopKSAE
from riebench.util.errors import UserError

PROMPTS = ["a newt", "a toad in a green hat", "three frogs beside a pond in the rain at night"]
SEED = 42
LAST, FIRST, ALONE = "last", "first", "alone"
LAYOUT: dict[str, dict[str, tuple[str | int, str, str, str]]] = {
    "StableDiffusion3Pipeline": {"transformer_blocks": ("hidden_states", ALONE, "ff.net.2", ALONE)},
    "PixArtAlphaPipeline": {"transformer_blocks": (0, ALONE, "ff.net.2", ALONE)},
    "PixArtSigmaPipeline": {"transformer_blocks": (0, ALONE, "ff.net.2", ALONE)},
    "SanaPipeline": {"transformer_blocks": (0, ALONE, "ff.conv_point", ALONE)},
    "ZImagePipeline": {
        "noise_refiner": (0, FIRST, "feed_forward.w2", FIRST),
        "layers": (0, FIRST, "feed_forward.w2", FIRST),
    },
    "QwenImagePipeline": {"transformer_blocks": ("hidden_states", ALONE, "img_mlp.net.2", ALONE)},
    "Lumina2Pipeline": {
        "noise_refiner": (0, ALONE, "feed_forward.linear_2", ALONE),
        "layers": (0, LAST, "feed_forward.linear_2", LAST),
    },
    "AuraFlowPipeline": {
        "joint_transformer_blocks": ("hidden_states", ALONE, "ff.out_projection", ALONE),
        "single_transformer_blocks": ("hidden_states", LAST, "ff.out_projection", LAST),
    },
    "ChromaPipeline": {
        "transformer_blocks": ("hidden_states", ALONE, "ff.net.2", ALONE),
        "single_transformer_blocks": ("hidden_states", LAST, "proj_out", LAST),
    },
    "CogView4Pipeline": {"transformer_blocks": (0, ALONE, "ff.net.2", ALONE)},
    **{
        name: {
            "transformer_blocks": ("hidden_states", ALONE, "ff.linear_out", ALONE),
            "single_transformer_blocks": ("hidden_states", LAST, "attn.to_out", LAST),
        }
        for name in ("Flux2Pipeline", "Flux2KleinPipeline")
    },
    "FluxPipeline": {
        "transformer_blocks": ("hidden_states", ALONE, "ff.net.2", ALONE),
        "single_transformer_blocks": ("hidden_states", ALONE, "proj_out", LAST),
    },
    "OvisImagePipeline": {
        "transformer_blocks": ("hidden_states", ALONE, "ff.net.2", ALONE),
        "single_transformer_blocks": ("hidden_states", ALONE, "proj_out", LAST),
    },
    "HunyuanDiTPipeline": {"blocks": (0, ALONE, "ff.net.2", ALONE)},
    "HunyuanImagePipeline": {
        "transformer_blocks": (0, ALONE, "ff.net.2", ALONE),
        "single_transformer_blocks": (0, ALONE, "proj_out", FIRST),
    },
    "SanaSprintPipeline": {"transformer_blocks": (0, ALONE, "ff.conv_point", ALONE)},
    "QwenImage21Pipeline": {"transformer_blocks": ("hidden_states", LAST, "img_mlp.out", LAST)},
    "HiDreamImagePipeline": {
        "double_stream_blocks": ("hidden_states", ALONE, "block.ff_i.shared_experts.w2", ALONE),
        "single_stream_blocks": ("hidden_states", FIRST, "block.ff_i.shared_experts.w2", FIRST),
    },
    "Kandinsky5T2IPipeline": {"visual_transformer_blocks": (0, ALONE, "feed_forward.out_layer", ALONE)},
    "LongCatImagePipeline": {
        "transformer_blocks": ("hidden_states", ALONE, "ff.net.2", ALONE),
        "single_transformer_blocks": ("hidden_states", ALONE, "proj_out", LAST),
    },
    "PRXPipeline": {"blocks": ("hidden_states", ALONE, "down_proj", ALONE)},
    "BriaFiboPipeline": {
        "transformer_blocks": ("hidden_states", ALONE, "ff.net.2", ALONE),
        "single_transformer_blocks": ("hidden_states", LAST, "proj_out", LAST),
    },
    "BriaFibo2Pipeline": {
        "noise_refiner": (0, ALONE, "feed_forward.w2", ALONE),
        "layers": (0, LAST, "feed_forward.w2", LAST),
    },
    "Krea2Pipeline": {"transformer_blocks": (0, LAST, "ff.down", LAST)},
    "ErnieImagePipeline": {"layers": (0, FIRST, "mlp.linear_fc2", FIRST)},
    "NucleusMoEImagePipeline": {"transformer_blocks": ("hidden_states", ALONE, "", ALONE)},
}
"""Pipeline to its lists of blocks, as measured (not as the family says): the argument of a block that is the picture,
the picture's place in it, the module that takes the neurons (empty if they are no site), and the picture's place
among these."""
JOINT = {"attention": ("attn", 0, ALONE), "mlp": ("ff", None, ALONE)}
CROSSED = {"attention": ("attn1", None, ALONE), "cross": ("attn2", None, ALONE), "mlp": ("ff", None, ALONE)}
OUTPUT_LAST = {"output": ("", None, LAST)}
INNER: dict[str, dict[str, dict[str, tuple[str, int | None, str]]]] = {
    "StableDiffusion3Pipeline": {"transformer_blocks": JOINT | {"output": ("", 1, ALONE)}},
    "PixArtAlphaPipeline": {"transformer_blocks": CROSSED | {"output": ("", None, ALONE)}},
    "PixArtSigmaPipeline": {"transformer_blocks": CROSSED | {"output": ("", None, ALONE)}},
    "SanaPipeline": {"transformer_blocks": CROSSED | {"output": ("", None, ALONE)}},
    "ZImagePipeline": {
        name: {
            "attention": ("attention", None, FIRST),
            "mlp": ("feed_forward", None, FIRST),
            "output": ("", None, FIRST),
        }
        for name in ("noise_refiner", "layers")
    },
    "QwenImagePipeline": {
        "transformer_blocks": {
            "attention": ("attn", 0, ALONE),
            "mlp": ("img_mlp", None, ALONE),
            "output": ("", 1, ALONE),
        }
    },
    "Lumina2Pipeline": {
        name: {"attention": ("attn", None, place), "mlp": ("feed_forward", None, place), "output": ("", None, place)}
        for name, place in (("noise_refiner", ALONE), ("layers", LAST))
    },
    "AuraFlowPipeline": {
        "joint_transformer_blocks": JOINT | {"output": ("", 1, ALONE)},
        "single_transformer_blocks": {"attention": ("attn", None, LAST), "mlp": ("ff", None, LAST)} | OUTPUT_LAST,
    },
    "ChromaPipeline": {
        "transformer_blocks": JOINT | {"output": ("", 1, ALONE)},
        "single_transformer_blocks": OUTPUT_LAST,
    },
    "CogView4Pipeline": {
        "transformer_blocks": {
            "attention": ("attn1", 0, ALONE),
            "mlp": ("ff", None, ALONE),
            "output": ("", 0, ALONE),
        }
    },
    **{
        name: {"transformer_blocks": JOINT | {"output": ("", 1, ALONE)}, "single_transformer_blocks": OUTPUT_LAST}
        for name in ("Flux2Pipeline", "Flux2KleinPipeline")
    },
    "FluxPipeline": {
        "transformer_blocks": JOINT | {"output": ("", 1, ALONE)},
        "single_transformer_blocks": {"output": ("", 1, ALONE)},
    },
    "OvisImagePipeline": {
        "transformer_blocks": JOINT | {"output": ("", 1, ALONE)},
        "single_transformer_blocks": {"output": ("", 1, ALONE)},
    },
    "HunyuanDiTPipeline": {"blocks": CROSSED | {"output": ("", None, ALONE)}},
    "HunyuanImagePipeline": {
        "transformer_blocks": JOINT | {"output": ("", 0, ALONE)},
        "single_transformer_blocks": {"output": ("", 0, ALONE)},
    },
    "SanaSprintPipeline": {"transformer_blocks": CROSSED | {"output": ("", None, ALONE)}},
    "QwenImage21Pipeline": {
        "transformer_blocks": {"attention": ("attn", None, LAST), "mlp": ("img_mlp", None, LAST)} | OUTPUT_LAST,
    },
    "HiDreamImagePipeline": {
        "double_stream_blocks": {
            "attention": ("block.attn1", 0, ALONE),
            "mlp": ("block.ff_i", None, ALONE),
            "output": ("", 0, ALONE),
        },
        "single_stream_blocks": {
            "attention": ("block.attn1", None, FIRST),
            "mlp": ("block.ff_i", None, FIRST),
            "output": ("", None, FIRST),
        },
    },
    "Kandinsky5T2IPipeline": {
        "visual_transformer_blocks": {
            "attention": ("self_attention", None, ALONE),
            "cross": ("cross_attention", None, ALONE),
            "mlp": ("feed_forward", None, ALONE),
            "output": ("", None, ALONE),
        }
    },
    "LongCatImagePipeline": {
        "transformer_blocks": JOINT | {"output": ("", 1, ALONE)},
        "single_transformer_blocks": {"output": ("", 1, ALONE)},
    },
    "PRXPipeline": {
        "blocks": {
            "attention": ("attention", None, ALONE),
            "mlp": ("down_proj", None, ALONE),
            "output": ("", None, ALONE),
        }
    },
    "BriaFiboPipeline": {
        "transformer_blocks": JOINT | {"output": ("", 1, ALONE)},
        "single_transformer_blocks": OUTPUT_LAST,
    },
    "BriaFibo2Pipeline": {
        name: {
            "attention": ("attention", None, place),
            "mlp": ("feed_forward", None, place),
            "output": ("", None, place),
        }
        for name, place in (("noise_refiner", ALONE), ("layers", LAST))
    },
    "Krea2Pipeline": {
        "transformer_blocks": {"attention": ("attn", None, LAST), "mlp": ("ff", None, LAST)} | OUTPUT_LAST,
    },
    "ErnieImagePipeline": {
        "layers": {
            "attention": ("self_attention", None, FIRST),
            "mlp": ("mlp", None, FIRST),
            "output": ("", None, FIRST),
        }
    },
    "NucleusMoEImagePipeline": {
        "transformer_blocks": {
            "attention": ("attn", None, ALONE),
            "mlp": ("img_mlp", None, ALONE),
            "output": ("", None, ALONE),
        }
    },
}
"""Pipeline to its lists of blocks, as measured: the sites of a block beside its update and its neurons, each with the
module that puts it out, the element of what that puts out that holds the picture, and the picture's place in it."""
TWICE = {"CogView4Pipeline": "ff"}
"""Pipelines with a module that each block calls for the picture, and then for the text."""
TOKENS_FIRST = {"ErnieImagePipeline": ("", "mlp", "mlp.linear_fc2")}
"""Pipelines with modules whose tensors have the tokens before the rows; empty for the blocks themselves."""
FIRST_ROWS = {"ZImagePipeline"}
"""Pipelines whose conditional rows come first in a guided batch."""
ROW_WIDE = {"Lumina2Pipeline"}
"""Pipelines whose guidance scales each row of the latents by a norm over that row, so that a change reaches it all."""
SIZE = {"SanaPipeline": 128, "SanaSprintPipeline": 128}
"""Side of the pictures, pixels, where 64 are too few."""


def hunyuan_guider(model: Tokens) -> Any:
    from diffusers import AdaptiveProjectedMixGuidance

    return AdaptiveProjectedMixGuidance(guidance_scale=model.guidance, enabled=model.guided)


ATTRIBUTES: dict[str, Callable[[Tokens], dict[str, Any]]] = {
    "HunyuanImagePipeline": lambda model: dict.fromkeys(("guider", "ocr_guider"), hunyuan_guider(model)),
    "HiDreamImagePipeline": lambda model: {"default_sample_size": model.size // 8},
    "Kandinsky5T2IPipeline": lambda model: {"resolutions": [(model.size, model.size)]},
}
"""Pipelines with attributes that decide on the size or the guidance of a picture, with these attributes."""


@contextmanager
def having(pipeline: Any, attributes: dict[str, Any]) -> Iterator[None]:
    """Let a pipeline have other attributes inside a ``with`` statement."""
    own = {name: getattr(pipeline, name) for name in attributes}
    vars(pipeline).update(attributes)
    try:
        yield
    finally:
        vars(pipeline).update(own)


def load(folder: Any, kind: str, name: str = "", **settings: Any) -> Any:
    """The model in a folder: a :class:`Tokens` or an :class:`SDXL`, of the entry of a name, or of the folder's own."""
    where = {"location": str(folder)} if name else {}
    model = riebench.load(name or folder, device="cpu", size=SIZE.get(kind, 64), **where, **settings)
    assert isinstance(model, DiffusersModel)
    return model


def own_call(model: Tokens, prompts: list[str], steps: int) -> np.ndarray:
    """The pictures of the pipeline's own call with prompts."""
    pipeline, kind = model.pipeline, model.entry.pipeline_class
    guidance = getattr(model.entry, "guidance_argument", "guidance_scale")
    parameters = inspect.signature(type(pipeline).__call__).parameters
    more: dict[str, Any] = {"use_resolution_binning": False, "clean_caption": False, "enable_prompt_rewrite": False}
    if model.guided and (model.negative is not None or kind != "BriaFibo2Pipeline"):  # its own default is another text
        more["negative_prompt"] = [model.negative or ""] * len(prompts)
    if model.settings.model.true_guidance is not None:
        more["true_cfg_scale"] = model.settings.model.true_guidance
    if steps != 2:
        more["intermediate_timesteps"] = None
    if kind == "FluxPipeline" and not model.denoiser.config.guidance_embeds:
        more["max_sequence_length"] = 256  # the most that FLUX.1-schnell was trained with
    with having(pipeline, ATTRIBUTES.get(kind, lambda model: {})(model)):
        (pictures, *_) = pipeline(
            prompt=list(prompts),
            num_inference_steps=steps,
            height=model.size,
            width=model.size,
            generator=[torch.Generator("cpu").manual_seed(SEED + row) for row in range(len(prompts))],
            output_type="np",
            return_dict=False,
            **{name: value for name, value in more.items() if name in parameters},
            **{guidance: model.guidance},
        )
    return (np.asarray(pictures)[..., :3] * 255).round().astype(np.uint8)


def generate(model: Tokens, prompts: list[str], steps: int, **more: Any) -> list[Any]:
    return model.generate(prompts, [SEED + row for row in range(len(prompts))], steps, **more)


def inputs_of(model: Tokens, paths: list[str], work: Callable[[], Any]) -> dict[str, list[dict[Any, Tensor]]]:
    """All tensors that modules of the transformer are given while some work is done: one entry a call."""
    seen: dict[str, list[dict[Any, Tensor]]] = {path: [] for path in paths}

    def keep(path: str) -> Callable[..., None]:
        def hook(module: Any, args: Any, kwargs: Any) -> None:
            named = {**dict(enumerate(args)), **kwargs}
            seen[path].append({key: value.clone() for key, value in named.items() if torch.is_tensor(value)})

        return hook

    with model.unwatched():  # otherwise the model is made anew for each hook
        handles = [
            model.denoiser.get_submodule(path).register_forward_pre_hook(keep(path), with_kwargs=True) for path in paths
        ]
        work()
        for handle in handles:
            handle.remove()
    return seen


def conditional(model: Tokens, kind: str, value: Tensor) -> Tensor:
    if not model.kind.startswith("rows"):
        return value
    half = len(value) // 2
    return value[:half] if kind in FIRST_ROWS else value[half:]


def rows_first(kind: str, inner: str, value: Tensor) -> Tensor:
    """A tensor of a block, or of a module in it, with its rows first."""
    return value.transpose(0, 1) if inner in TOKENS_FIRST.get(kind, ()) else value


def tokens_of(value: Tensor, place: str, count: int) -> Tensor:
    if value.ndim == 4:
        value = value.flatten(2).transpose(1, 2)
    assert place != ALONE or value.shape[1] == count
    return value[:, -count:] if place == LAST else value[:, :count]


def blocks_of(model: Tokens) -> list[tuple[str, str]]:
    """The blocks that are sites, with their paths in the denoiser, in the order in which they run."""
    path = site_path if isinstance(model, SDXL) else lambda site: model.entry.place(site)[1].path
    return [(site, path(site)) for site in model.sites if "/" not in site]


def pairs_of_blocks(model: Tokens, kind: str) -> list[tuple[str, str, str]]:
    """Blocks with the block of the same list that follows: site, path and path of the next."""
    blocks = blocks_of(model)
    pairs = [(site, path, after) for (site, path), (_, after) in pairwise(blocks)]
    return [pair for pair in pairs if pair[1].rpartition(".")[0] == pair[2].rpartition(".")[0]]


def check_picture(model: Tokens, kind: str, steps: int) -> None:
    """The picture of a run without edits is that of the pipeline's own call, bit for bit."""
    (run,) = generate(model, PROMPTS[:1], steps)
    assert np.array_equal(run.image, own_call(model, PROMPTS[:1], steps)[0])
    assert run.image.std() > 5


def check_passes(model: Tokens, kind: str, steps: int) -> None:
    """The denoiser makes one pass a step, or one for each of the two calls of guidance."""
    first = blocks_of(model)[0][1]
    key = LAYOUT[kind][first.rpartition(".")[0]][0] if kind in LAYOUT else 0
    how = "rows" * model.guided if isinstance(model, SDXL) else model.kind
    seen = inputs_of(model, [first], lambda: generate(model, PROMPTS[:1], steps))[first]
    rows = [len(rows_first(kind, "", call[key])) for call in seen]
    assert len(rows) == steps * (2 if how == "calls" else 1)
    assert set(rows) == {2 if how.startswith("rows") else 1}


U_NET_PARTS = {
    "": "",
    "/output": "",
    "/attention.0": ".transformer_blocks.0.attn1",
    "/cross.0": ".transformer_blocks.0.attn2",
    "/mlp-input.0": ".transformer_blocks.0.ff",
    "/neurons.0": ".transformer_blocks.0.ff.net.0",
    "/mlp.0": ".transformer_blocks.0.ff",
}
"""The sites of a U-Net's block and of its first layer, with the module in the block that puts each out, or takes it."""


def hooked(module: Any, site: str, hook: Callable[..., Any]) -> Any:
    """The handle of a forward hook; at a site that is an input, the hook gets that in the place of the output."""
    if "/mlp-input" not in site:
        return module.register_forward_hook(hook)
    return module.register_forward_pre_hook(lambda _, args: (hook(module, args, args[0]), *args[1:]))


def check_u_net_sites(model: Any, kind: str, steps: int) -> None:
    """Captured values are what a hook sees; an edit gives the picture that a hook's change gives."""
    block, path = blocks_of(model)[-1]
    (plain,) = generate(model, PROMPTS[:1], steps)
    for part, inner in U_NET_PARTS.items():
        site = f"{block}{part}"
        shape, seen = model.sites[site], []
        change = 3 * torch.randn(shape.positions, shape.width, generator=torch.Generator().manual_seed(1))

        def hook(module: Any, args: Any, output: Any, *, how: Any = (part, shape, change, seen)) -> Any:
            name, site_shape, delta, kept = how
            whole = output[0] if isinstance(output, tuple) else output
            value = whole.clone()
            rows = slice(len(value) // 2, None) if model.guided else slice(None)
            value[rows] += delta.T.view(1, -1, *site_shape.grid) if value.ndim == 4 else delta
            mine = value[rows] - args[0][rows] if not name else value[rows]
            kept.append(mine[0].flatten(1).T if mine.ndim == 4 else mine[0])
            return (value, *output[1:]) if isinstance(output, tuple) else value

        with model.unwatched():
            handle = hooked(model.denoiser.get_submodule(f"{path}{inner}"), site, hook)
            (own,) = generate(model, PROMPTS[:1], steps)
            handle.remove()
        edits = [({site: change.expand(steps, -1, -1)}, 1.0)]
        (run,) = generate(model, PROMPTS[:1], steps, edits=edits, capture=[site])
        assert np.array_equal(run.image, own.image), site
        assert not np.array_equal(run.image, plain.image), site
        assert torch.allclose(run.values[site], torch.stack(seen), atol=1e-5), site


def check_values(model: Tokens, kind: str, steps: int) -> None:
    """Captured updates are the next block's input minus the block's own; neurons are what their module is given."""
    runs: list[Any] = []
    pairs = pairs_of_blocks(model, kind)
    inner = {site: LAYOUT[kind][path.rpartition(".")[0]][2] for site, path in blocks_of(model)}
    takers = {site: f"{path}.{inner[site]}" for site, path in blocks_of(model) if inner[site]}
    assert takers or not any("/neurons." in site for site in model.sites)
    paths = [*dict.fromkeys(path for _, *both in pairs for path in both), *takers.values()]
    seen = inputs_of(model, paths, lambda: runs.extend(generate(model, PROMPTS[:1], steps, capture=list(model.sites))))
    calls = 2 if model.kind == "calls" else 1
    for site, before, after in pairs:
        key, place, _, _ = LAYOUT[kind][before.rpartition(".")[0]]
        count = model.sites[site].positions
        for step in range(steps):
            own, following = (
                tokens_of(conditional(model, kind, rows_first(kind, "", seen[path][step * calls][key])), place, count)[
                    0
                ]
                for path in (before, after)
            )
            assert torch.equal(runs[0].values[site][step], following.float() - own.float()), (site, step)
    for site, path in takers.items():
        count, neurons = model.sites[site].positions, f"{site}/neurons.0"
        place = LAYOUT[kind][path.removesuffix(f".{path.partition('.')[2]}")][3]
        width, each = model.sites[neurons].width, len(seen[path]) // steps
        for step in range(steps):
            (value,) = seen[path][step * each].values()
            value = conditional(model, kind, rows_first(kind, inner[site], value))
            expected = tokens_of(value, place, count)[0, :, -width:]
            assert torch.equal(runs[0].values[neurons][step], expected), (neurons, step)
            assert expected.std() > 0


def check_inner(model: Tokens, kind: str) -> None:
    """Captured outputs and parts of a block are what a hook sees; an edit there changes what a hook changes there."""
    steps = model.entry.least_steps
    lists = {path.rpartition(".")[0]: (site, path) for site, path in reversed(blocks_of(model))}
    (plain,) = generate(model, PROMPTS[:1], steps)
    for name, (block, path) in lists.items():
        expected = {f"{block}/{part}": where for part, where in INNER[kind][name].items()}
        mlp = expected.get(f"{block}/mlp")
        if mlp is not None and mlp[0] != LAYOUT[kind][name][2]:  # it takes what the MLP is given, and not the neurons
            expected[f"{block}/mlp-input"] = mlp
        others = {f"{block}/neurons.0", f"{block}/text"}
        assert expected.keys() == {s for s in model.sites if s.startswith(f"{block}/")} - others
        for site, (inner, element, place) in expected.items():
            shape, module = model.sites[site], model.denoiser.get_submodule(f"{path}.{inner}".rstrip("."))
            change = torch.randn(shape.positions, shape.width, generator=torch.Generator().manual_seed(1))
            each = (2 if model.kind == "calls" else 1) * (2 if TWICE.get(kind) == inner else 1)
            seen: list[Tensor] = []

            def hook(
                module: Any, args: Any, output: Any, *, how: Any = (seen, change, element, place, each, shape, inner)
            ) -> Any:
                kept, delta, at, where, calls, site_shape, name = how
                value = (output if at is None else output[at]).clone()
                mine = conditional(model, kind, rows_first(kind, name, value))
                if len(kept) % calls == 0:
                    if mine.ndim == 4:
                        mine += 3 * delta.T.view(1, -1, *site_shape.grid)
                    elif where == LAST:
                        mine[:, -len(delta) :] += 3 * delta
                    else:
                        mine[:, : len(delta)] += 3 * delta
                kept.append(value)
                return value if at is None else tuple(value if n == at else v for n, v in enumerate(output))

            with model.unwatched():
                handle = hooked(module, site, hook)
                (own,) = generate(model, PROMPTS[:1], steps)
                handle.remove()
            edits = [({site: change.expand(steps, -1, -1)}, 3.0)]
            (run,) = generate(model, PROMPTS[:1], steps, edits=edits, capture=[site])
            assert np.array_equal(run.image, own.image), site
            assert not np.array_equal(run.image, plain.image), site
            for step in range(steps):
                value = conditional(model, kind, rows_first(kind, inner, seen[step * each]))
                value = tokens_of(value, place, shape.positions)[0]
                assert torch.equal(run.values[site][step], value), (site, step)


TEXT: dict[str, dict[str, str | int]] = {
    "StableDiffusion3Pipeline": {"transformer_blocks": "encoder_hidden_states"},
    "QwenImagePipeline": {"transformer_blocks": "encoder_hidden_states"},
    "Lumina2Pipeline": {"layers": 0},
    "AuraFlowPipeline": {
        "joint_transformer_blocks": "encoder_hidden_states",
        "single_transformer_blocks": "hidden_states",
    },
    "CogView4Pipeline": {"transformer_blocks": 1},
    **{
        name: {"transformer_blocks": "encoder_hidden_states", "single_transformer_blocks": "hidden_states"}
        for name in ("ChromaPipeline", "Flux2Pipeline", "Flux2KleinPipeline")
    },
    **{
        name: dict.fromkeys(("transformer_blocks", "single_transformer_blocks"), "encoder_hidden_states")
        for name in ("FluxPipeline", "OvisImagePipeline", "LongCatImagePipeline")
    },
    "HunyuanImagePipeline": dict.fromkeys(("transformer_blocks", "single_transformer_blocks"), 1),
    "Krea2Pipeline": {"transformer_blocks": 0},
}
"""Pipeline to its lists of blocks that carry the text, each with the argument of a block that holds it, as measured."""


def check_text(model: Tokens, kind: str, steps: int) -> None:
    """Captured updates of the text are differences of the blocks' inputs; an edit there moves the text alone."""
    lists = TEXT.get(kind, {})
    pairs = [each for each in pairs_of_blocks(model, kind) if each[1].rpartition(".")[0] in lists]
    assert {site for site, _, _ in pairs} <= {s.removesuffix("/text") for s in model.sites if s.endswith("/text")}
    assert bool(lists) == any(site.endswith("/text") for site in model.sites)
    if not pairs:
        return
    calls, runs = 2 if model.kind == "calls" else 1, []
    capture, paths = [f"{site}/text" for site, _, _ in pairs], [*dict.fromkeys(p for _, *both in pairs for p in both)]
    plain = inputs_of(model, paths, lambda: runs.extend(generate(model, PROMPTS[:1], steps, capture=capture)))
    for site, before, after in pairs:
        name, count = before.rpartition(".")[0], model.sites[site].positions
        key, picture = lists[name], LAYOUT[kind][name][0]
        change = torch.linspace(1, 2, model.sites[site].width)
        edits = [Edit({f"{site}/text": change}, 2.0, [0])]
        edited = inputs_of(model, [after], partial(generate, model, PROMPTS[:1], steps, edits=edits))
        for step in range(steps):
            texts = [conditional(model, kind, plain[path][step * calls][key]) for path in (before, after)]
            first, second = (value[:, :-count] if key == picture else value for value in texts)
            assert torch.equal(runs[0].values[f"{site}/text"][step], (second.float() - first.float())[0]), site
        moved = [conditional(model, kind, seen[after][0][key]) for seen in (plain, edited)]
        delta = (moved[1] - moved[0])[0]
        text = delta[:-count] if key == picture else delta
        assert torch.allclose(text, (2 * change).expand_as(text), atol=1e-4), site
        if key == picture:
            assert not bool(delta[-count:].any()), site
        else:
            assert torch.equal(plain[after][0][picture], edited[after][0][picture]), site


def check_edits(model: Tokens, kind: str) -> None:
    """A change at one token reaches that token of the next block's conditional input, and nothing else there."""
    steps, calls, pairs = model.entry.least_steps, 2 if model.kind == "calls" else 1, pairs_of_blocks(model, kind)
    plain = inputs_of(model, [after for *_, after in pairs], partial(generate, model, PROMPTS[:1], steps))
    for site, _, after in pairs:
        key, place, _, _ = LAYOUT[kind][after.rpartition(".")[0]]
        shape = model.sites[site]
        change = torch.zeros(shape.positions, shape.width)
        change[6] = torch.linspace(1, 2, shape.width)
        edits = [Edit({site: change.expand(steps, -1, -1)}, 2.0, [0])]
        edited = inputs_of(model, [after], partial(generate, model, PROMPTS[:1], steps, edits=edits))[after]
        for call, (mine, theirs) in enumerate(zip(plain[after], edited, strict=True)):
            if call == calls:
                break  # the next step begins with another picture
            for name in mine:
                assert torch.equal(mine[name], theirs[name]) == (call == 1 or name != key), (site, call, name)
        moved = rows_first(kind, "", edited[0][key] - plain[after][0][key])
        inside = tokens_of(conditional(model, kind, moved), place, shape.positions)[0]
        assert torch.allclose(inside, 2 * change, atol=1e-4), site
        assert int((moved.abs().sum(-1) > 0).sum()) == 1, site


def check_cells(model: Tokens, kind: str, steps: int) -> None:
    """A change at one token of the last block in the last step reaches exactly that token's cells of the latents."""
    site, path = blocks_of(model)[-1]
    if not path.endswith(f".{len(model.denoiser.get_submodule(path.rpartition('.')[0])) - 1}"):  # type: ignore[arg-type]
        return  # HunyuanDiT's later blocks are no sites
    shape, (rows, columns) = model.sites[site], model.sites[site].grid
    change = torch.zeros(steps, shape.positions, shape.width)
    change[:, columns + 2] = torch.linspace(-3, 3, shape.width)
    decode, latents = model.pipeline.vae.decode, []
    with model.unwatched():
        model.pipeline.vae.decode = lambda z, *a, **k: latents.append(z) or decode(z, *a, **k)
        try:
            for strength in (0.0, 2.0):
                generate(model, PROMPTS[:1], steps, edits=[Edit({site: change}, strength, [steps - 1])])
        finally:
            del model.pipeline.vae.decode
    base, edited = latents
    moved = (edited - base).abs().flatten(0, -3).amax(0)
    each = moved.shape[0] // rows, moved.shape[1] // columns
    expected = torch.zeros_like(moved, dtype=torch.bool)
    columns_reached = slice(None) if kind in ROW_WIDE else slice(2 * each[1], 3 * each[1])
    expected[each[0] : 2 * each[0], columns_reached] = True
    assert torch.equal(moved > 1e-6, expected), (moved > 1e-6).nonzero().tolist()


def check_strength_zero(model: Tokens, kind: str, steps: int) -> None:
    """Strength 0 changes no bit of the picture, another one does."""
    sites = [site for site, _ in blocks_of(model)]
    changes = {
        site: torch.linspace(1, 3, model.sites[site].width)  # some norms do not see a constant
        for site in (*sites, f"{sites[-1]}/neurons.0")
        if site in model.sites
    }
    first = f"{sites[0]}/neurons.0"
    changes |= {first: torch.ones(model.sites[first].width)} if first in model.sites else {}
    base, _ = model.generate(PROMPTS[:1] * 2, [SEED] * 2, steps)
    none, some = model.generate(PROMPTS[:1] * 2, [SEED] * 2, steps, edits=[(changes, 0.0), (changes, 3.0)])
    assert np.array_equal(base.image, none.image)
    assert not np.array_equal(base.image, some.image)


def check_batches(model: Tokens, kind: str, steps: int, prompts: list[str] = PROMPTS) -> None:
    """A batch of prompts of different lengths gives the pictures and values of single runs, but for rounding."""
    site = blocks_of(model)[-1][0]
    together = generate(model, prompts, steps, capture=[site])
    for row, prompt in enumerate(prompts):
        (alone,) = model.generate([prompt], [SEED + row], steps, capture=[site])
        assert np.abs(together[row].image.astype(int) - alone.image).max() <= 1
        assert torch.allclose(together[row].values[site], alone.values[site], atol=1e-3, rtol=1e-3)


def check_kept_text(model: Tokens, steps: int) -> None:
    """A prompt is encoded once for all its runs, and each row of a batch gets it."""
    passes: list[int] = []
    with model.unwatched():
        handle = model.pipeline.text_encoder.register_forward_pre_hook(lambda module, args: passes.append(1))
        together = model.generate(PROMPTS[1:2] * 2, [SEED, SEED + 1], steps)
        (alone,) = model.generate(PROMPTS[1:2], [SEED + 1], steps)
        handle.remove()
    assert len(passes) == 1  # earlier runs had the steps and the unconditional text
    assert np.abs(together[1].image.astype(int) - alone.image).max() <= 1


def check_sizes(model: Tokens, kind: str, folder: Any) -> None:
    """A size that the pipeline would round is refused in one line."""
    with pytest.raises(UserError, match=r"the picture size is \d+; expected a multiple of") as refused:
        riebench.load(folder, device="cpu", size=model.size + 4)
    assert "\n" not in str(refused.value)


SWITCHED: dict[str, dict[str, Any]] = {
    "ZImagePipeline": {"guidance": 3},
    "FluxPipeline": {"true_guidance": 3, "negative_prompt": "blurry"},
    "Krea2Pipeline": {"guidance": 0},
    "QwenImage21Pipeline": {"guidance": 3},
}
"""Settings that switch guidance on where it is off by default, or off where a guidance of 1 does not do it."""


def switch(model: Tokens, kind: str) -> dict[str, Any]:
    """The settings that switch the guidance of a model on or off."""
    return {"guidance": 3} if model.entry.name == "krea2-turbo" else SWITCHED.get(kind, {"guidance": 1})


def check_guidance(model: Tokens, kind: str, steps: int, folder: Any) -> str:
    """With the guidance switched on or off all is as before; or there is no other guidance, and why."""
    if model.kind == "embedded" and kind not in SWITCHED:
        return "the guidance is a number that the network takes"
    try:
        switched = load(folder, kind, **switch(model, kind))
    except UserError as refused:
        return str(refused)
    if switched.guided == model.guided:
        return "the pipeline is not guided"
    check_picture(switched, kind, steps)
    check_passes(switched, kind, steps)
    check_values(switched, kind, steps)
    check_edits(switched, kind)
    return ""


def check_subtract(model: Tokens, kind: str, folder: Any) -> str:
    """A change of the conditional rows is taken from the others; or that is refused, and why."""
    settings = switch(model, kind) if kind in SWITCHED and not model.guided else {}
    try:
        model = load(folder, kind, **settings, unconditional="subtract")
    except UserError as refused:
        assert re.search("in a call of its own|needs a true guidance|has no unconditional part", str(refused))  # noqa: PT017
        return str(refused)
    assert model.kind.startswith("rows")
    site, _, after = pairs_of_blocks(model, kind)[-1]
    key = LAYOUT[kind][after.rpartition(".")[0]][0]
    change, runs = torch.ones(model.sites[site].width), []
    for strength in (0.0, 2.0):
        edits, steps = [Edit({site: change}, strength, [0])], model.entry.least_steps
        work = partial(generate, model, PROMPTS[:1], steps, edits=edits)
        runs.append(inputs_of(model, [after], work)[after][0][key])
    moved = rows_first(kind, "", runs[1] - runs[0])
    assert torch.allclose(moved[0], -moved[1], atol=1e-4)
    assert torch.allclose(moved.abs().amax(), torch.tensor(2.0), atol=1e-4)
    return ""


PAIR = Pair(
    id="p",
    editing_type_id=1,
    original_prompt="a [newt] in a hat",
    editing_prompt="a [toad] in a hat",
    original_gsam_prompt="newt",
    editing_gsam_prompt="toad",
    seed=3,
)


def check_methods(model: Tokens, kind: str, steps: int, scorers: Any, out: Any) -> None:
    """A run of steering, neurons and a random SAE makes records, whose pictures differ from the base's."""
    site = blocks_of(model)[-1][0]
    model.saes = {site: TopKSAE(model.sites[site].width, 64, 8).requires_grad_(False)}
    methods = ["steering", "sae", *(["neurons"] if neuron_sites(model.sites, site) else [])]
    mask = np.zeros((model.size, model.size), bool)
    mask[model.size // 8 : -model.size // 3, model.size // 4 : -model.size // 4] = True
    masks = {PAIR.id: (mask, mask)}
    options = {"model": model, "pairs": [PAIR], "steps": steps, "masks": masks, "scorers": scorers, "quiet": True}
    result = riebench.run(methods, site, strength=[0, 2], out=out, **options)
    assert [record.status for record in result.records] == ["ok"] * 2 * len(methods), {r.reason for r in result.records}
    assert {record.model for record in result.records} == {model.entry.name}
    for record in result.records:
        changed = (record.metrics["lpips_base"] or 0) > 0
        assert changed == (record.setting.strength > 0), record.setting


def check_bench(model: Any, kind: str, steps: int, folder: Any) -> None:
    """The networks of a model that has encoded no prompt make as few passes in a run as suffice.

    The folder ``scripts`` is on the path.
    """
    unused = load(folder, kind, model.entry.name)
    bars = import_module("bench_families").benched(unused, 1, steps, few=True).bars
    assert [bar.name for bar in bars if "passes" in bar.name and not bar.met] == []


def check_start(model: Tokens, kind: str) -> str:
    """A run begins with a finished picture, or is refused with the reason, which is returned."""
    start = Start(PROMPTS[1], 1)
    if model.entry.no_start:
        with pytest.raises(UserError, match="cannot begin with a finished picture") as refused:
            generate(model, PROMPTS[:1], 2, start=start)
        return str(refused.value)
    (run,), (plain,) = generate(model, PROMPTS[:1], 2, start=start), generate(model, PROMPTS[:1], 2)
    assert not np.array_equal(run.image, plain.image)
    return ""


def check_replay(model: Tokens, kind: str, steps: int) -> None:
    """An edited run that takes the base run's first blocks from it gives the same picture as one that does not."""
    site = blocks_of(model)[-1][0]
    change = torch.linspace(0, 1, model.sites[site].width)
    images = []
    for replay in (True, False):
        model.replay = replay
        generate(model, PROMPTS[:1], steps, capture=[site])
        images.append(generate(model, PROMPTS[:1], steps, edits=[({site: change}, 1.0)])[0].image)
    model.replay = True
    assert np.array_equal(*images)


def check_fingerprint(model: Tokens) -> None:
    """What calls make of the pipeline is no change of it."""
    assert model.own
    assert model.fingerprint.startswith(f"{model.entry.name}-")


def finished_latents(model: Tokens, steps: int) -> Tensor:
    latents: list[Tensor] = []
    with torch.no_grad():
        model.sample(Batch(PROMPTS[:1], [SEED], steps, finished=latents))
    return latents[0]


UNTRACED = {
    "QwenImage21Pipeline": "returns .1, 4, 64, 64. for a picture of 64 px",
    "HiDreamImagePipeline": "returns .1, 3, 1024, 1024. for a picture of 64 px",
    "Kandinsky5T2IPipeline": "has no attribute 'images'",
    "BriaFiboPipeline": "blocks of single_transformer_blocks do not take the picture as the block before puts it out",
    "ErnieImagePipeline": "of which 26 follow the prompt",
}
"""Pipelines of whose layout a dry trace is not conclusive, and why; that of all others it finds."""


HIDDEN = {"StableDiffusion3Pipeline", "ChromaPipeline", "AuraFlowPipeline"}
"""Pipelines that are also tried as if their class was unknown; their own defaults are those of their families."""


def described(blocks: Iterable[Blocks], config: Any) -> list[tuple[Any, ...]]:
    return [(b.path, b.number(config), b.picture, b.output, b.place, b.text, b.last_text) for b in blocks]


def check_trace(model: Tokens, kind: str) -> None:
    """What a family declares is what a dry trace finds."""
    entry, config = model.entry, model.denoiser.config
    has_negative = "negative_prompt" in inspect.signature(type(model.pipeline).__call__).parameters
    guided = {"negative_prompt": ""} if model.guided and has_negative else {}
    guided |= {entry.guidance_argument: model.guidance}
    trace = partial(dry_trace, model.pipeline, entry.denoiser, model.size, guided)
    guiders = ATTRIBUTES[kind](model) if kind == "HunyuanImagePipeline" else {}  # its guidance is no argument
    with model.unwatched(), having(model.pipeline, guiders):
        if kind in UNTRACED:
            with pytest.raises(UserError, match=f"not conclusive: .*{UNTRACED[kind]}"):
                trace()
            return
        layout = trace()
    assert described(layout.blocks, config) == described(entry.blocks, config)
    assert layout.guidance == ("none" if model.kind == "embedded" else model.kind)
    last = model.sites[blocks_of(model)[-1][0]]
    assert (layout.grid, layout.width) == (last.grid, last.width)


def check_hidden(model: Tokens, kind: str, steps: int, folder: Any) -> Any:
    """A model whose family is hidden has the pictures and values of that family; it is returned, or None."""
    if kind not in HIDDEN:
        return None
    traced = riebench.load(folder, device="cpu", size=model.size, family="traced")
    site, path = blocks_of(model)[-1]
    both = [(model, (site, f"{site}/output")), (traced, (path, f"{path}/output"))]
    change = torch.linspace(-2, 2, model.sites[site].width)
    for strength in (0.0, 1.0):
        runs = [
            generate(one, PROMPTS[:1], steps, capture=sites, edits=[Edit(dict.fromkeys(sites, change), strength)])
            for one, sites in both
        ]
        for own, other in zip(*runs, strict=True):
            assert np.array_equal(own.image, other.image)
            for (_, mine), (_, theirs) in zip(*(sorted(run.values.items()) for run in (own, other)), strict=True):
                assert torch.equal(mine, theirs)
    return traced
