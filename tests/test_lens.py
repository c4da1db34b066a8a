"""The lens on a random pipeline of SDXL's shape: what it captures, adds and leaves behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from riebench.util.errors import PairError
from riebench.lens import FOUR, Edit, Place, find_blocks, module_path, short_name
from riebench.models import Denoiser


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_names_of_sdxl_blocks(denoiser: Denoiser) -> None:
    blocks = find_blocks(denoiser.pipeline.unet)
    assert list(blocks) == [
        *("down.1.0", "down.1.1", "down.2.0", "down.2.1", "mid.0"),
        *("up.0.0", "up.0.1", "up.0.2", "up.1.0", "up.1.1", "up.1.2"),
    ]
    assert module_path("mid.0") == "mid_block.attentions.0"
    assert short_name("unet.down_blocks.2.attentions.1") == "down.2.1"
    assert short_name("unet.down_blocks.2.resnets.1") is None
    info = blocks["up.0.1"]
    assert (info.channels, info.layers, info.neurons) == (24, 3, 96)
    assert denoiser.grid("up.0.1") == (4, 4)
    assert denoiser.grid("down.1.0") == (8, 8)
    assert denoiser.grid("up.1.0") == (8, 8)


def test_generation_is_the_pipelines_own(denoiser: Denoiser) -> None:
    for steps in (1, 4):
        runs = denoiser.generate(["a b", "c"], [5, 6], steps)
        latents = denoiser.pipeline(
            ["a b", "c"],
            num_inference_steps=steps,
            guidance_scale=0.0,
            generator=[torch.Generator().manual_seed(s) for s in (5, 6)],
            output_type="latent",
        ).images
        assert np.array_equal(denoiser.decode(latents), np.stack([run.image for run in runs]))


def test_update_is_output_minus_input(denoiser: Denoiser) -> None:
    seen: dict[str, list[torch.Tensor]] = {"in": [], "out": []}
    block = denoiser.lens.block("up.0.0")

    def remember(module: nn.Module, args: tuple[torch.Tensor, ...], output: tuple[torch.Tensor, ...]) -> None:
        seen["in"].append(args[0].clone())
        seen["out"].append(output[0].clone())

    handle = block.register_forward_hook(remember)
    (run,) = denoiser.generate(["a b"], [5], 3, capture=["up.0.0"], neurons=True)
    handle.remove()
    assert run.activations is not None
    update = run.activations.updates["up.0.0"]
    assert update.shape == (3, 24, 4, 4)
    for step in range(3):
        assert torch.equal(update[step], (seen["out"][step] - seen["in"][step])[0])
    neurons = run.activations.neurons[Place("up.0.0", 2)]
    assert neurons.shape == (3, 16, 96)


def test_strength_zero_is_the_base_image_bit_for_bit(denoiser: Denoiser) -> None:
    (base,) = denoiser.generate(["a b"], [5], 2)
    delta = {Place(b): torch.randn(2, 24, 4, 4) for b in FOUR}
    (same,) = denoiser.generate(["a b"], [5], 2, edits=[Edit(delta, 0.0)])
    assert np.array_equal(base.image, same.image)
    (other,) = denoiser.generate(["a b"], [5], 2, edits=[Edit(delta, 5.0)])
    assert not np.array_equal(base.image, other.image)


@pytest.mark.parametrize("block", FOUR)
def test_delta_lands_where_it_says_and_nowhere_else(denoiser: Denoiser, block: str) -> None:
    (base,) = denoiser.generate(["a b"], [5], 2, capture=[block])
    delta = torch.zeros(2, 24, 4, 4)
    delta[:, :, 1, 2] = 3.0
    (edited,) = denoiser.generate(["a b"], [5], 2, edits=[Edit({Place(block): delta}, 0.5)], capture=[block])
    assert base.activations is not None
    assert edited.activations is not None
    # At the first step the block's input is still the same, so its output differs by the delta alone.
    out = [a.inputs[block][0] + a.updates[block][0] for a in (base.activations, edited.activations)]
    assert torch.allclose(out[1] - out[0], 0.5 * delta[0], atol=1e-5)
    assert torch.equal((out[1] - out[0]).abs().sum(0) > 1e-4, delta[0].abs().sum(0) > 0)


def test_rows_of_a_batch_do_not_mix(denoiser: Denoiser) -> None:
    delta = {Place("mid.0"): torch.randn(1, 24, 4, 4) * 4}
    edits = [Edit(delta, 0.0), Edit(delta, 1.0), Edit({}, 1.0)]
    together = denoiser.generate(["a b"] * 3, [5, 5, 6], 1, edits=edits)
    for i, seed in enumerate([5, 5, 6]):
        (alone,) = denoiser.generate(["a b"], [seed], 1, edits=[edits[i]])
        assert np.abs(alone.image.astype(int) - together[i].image).max() <= 1


def test_neurons_are_added_to(denoiser: Denoiser) -> None:
    place = Place("up.0.1", 1)
    delta = torch.zeros(1, 16, 96)
    delta[:, 3, 7] = 2.0
    (base,) = denoiser.generate(["a"], [1], 1, capture=["up.0.1"], neurons=True)
    (edited,) = denoiser.generate(["a"], [1], 1, edits=[Edit({place: delta})], capture=["up.0.1"], neurons=True)
    assert base.activations is not None
    assert edited.activations is not None
    change = edited.activations.neurons[place] - base.activations.neurons[place]
    assert torch.allclose(change, delta, atol=1e-5)


def test_functions_see_the_update_as_it_passes(denoiser: Denoiser) -> None:
    (base,) = denoiser.generate(["a"], [1], 2, capture=["mid.0"])
    passed: list[torch.Tensor] = []

    def remember(update: torch.Tensor, step: int) -> torch.Tensor:
        assert step == len(passed)
        passed.append(update.clone())
        return torch.zeros_like(update)

    denoiser.generate(["a"], [1], 2, edits=[Edit({Place("mid.0"): remember})])
    assert base.activations is not None
    assert torch.allclose(torch.stack(passed), base.activations.updates["mid.0"], atol=1e-6)


def test_ablated_block_adds_nothing(denoiser: Denoiser) -> None:
    with denoiser.lens.ablating(["mid.0"]):
        (run,) = denoiser.generate(["a"], [1], 1, capture=["mid.0"])
    assert run.activations is not None
    assert run.activations.updates["mid.0"].abs().max() == 0


@pytest.mark.parametrize(
    ("addition", "said"),
    [
        (torch.zeros(1, 24, 5, 4), r"mid.0 has the shape \[24, 5, 4\], expected \[24, 4, 4\]"),
        (torch.full((1, 24, 4, 4), torch.nan), "mid.0 is not finite"),
    ],
)
def test_bad_additions_are_named_and_no_hook_stays(denoiser: Denoiser, addition: torch.Tensor, said: str) -> None:
    (before,) = denoiser.generate(["a"], [1], 1)
    with pytest.raises(PairError, match=said):
        denoiser.generate(["a"], [1], 1, edits=[Edit({Place("mid.0"): addition})], capture=["mid.0"])
    assert hooks(denoiser.pipeline.unet) == 0
    (after,) = denoiser.generate(["a"], [1], 1)
    assert np.array_equal(before.image, after.image)


def test_no_hook_stays_after_an_exception_of_a_method(denoiser: Denoiser) -> None:
    def broken(update: torch.Tensor, step: int) -> torch.Tensor:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        denoiser.generate(["a"], [1], 1, edits=[Edit({Place("mid.0"): broken})])
    assert hooks(denoiser.pipeline.unet) == 0
