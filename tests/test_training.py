"""What the training of mini does to its U-Net."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from riebench.models.sdxl import FOUR, module_path

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
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
