"""The benchmark as a plain loop: for every pair and setting everything anew, one picture at a time.

It does what the published code does: a base run, a source run and an edited run for each setting, masks each time,
each prompt encoded when it is used, one picture in CLIP and LPIPS at a time. It is here to be compared with: for its
time, and for its numbers, which must be the engine's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from riebench.engine.arms import Arm
from riebench.engine.counting import put_in
from riebench.instruments import Instruments
from riebench.lens import Activations, Edit
from riebench.masks import Region, to_grid
from riebench.masks.phrases import DELETE_OBJECT
from riebench.methods import Observed, Plan
from riebench.metrics.score import Scores
from riebench.pairs import Pair
from riebench.spec.protocols import Protocol
from riebench.util.recent import Recent

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def plain_setting(
    instruments: Instruments, pair: Pair, seed: int, arm: Arm, strength: float, steps: int, protocol: Protocol
) -> Scores:
    """Metrics of one setting on one pair.

    Raises:
        PairError: if the pair fails; nothing is turned into a record here.
    """
    denoiser = instruments.denoiser
    with nothing_kept(instruments):
        seen = [
            denoiser.generate([prompt], [seed], steps, capture=arm.blocks, neurons=arm.needs_neurons)[0]
            for prompt in (pair.base_prompt, pair.edit_prompt)
        ]
        base, source = seen
        source_mask, base_mask = instruments.masks(pair, base.image, source.image)
        observed = Observed(
            pair=pair,
            blocks=arm.blocks,
            base=base.activations or Activations(),
            source=source.activations or Activations(),
            base_masks=_grids(instruments, arm, base_mask),
            source_masks=_grids(instruments, arm, source_mask),
            find_sae=instruments.sae,
            seed=seed,
            shares=protocol.shares,
        )
        plan = _plan(arm, observed, protocol)
        prompt = pair.base_prompt if plan.prompt is None else plan.prompt
        (edited,) = denoiser.generate([prompt], [seed], steps, edits=[Edit(plan.additions, strength)])
        region = np.asarray(base_mask.pixels() | source_mask.pixels())
        return _scores(instruments, pair, seed, (base.image, source.image, edited.image), region, protocol)


@contextmanager
def nothing_kept(instruments: Instruments) -> Iterator[None]:
    """Encode each prompt whenever it is used."""
    with ExitStack() as stack:
        for owner in (instruments.denoiser, instruments.scorers.clip):
            put_in(stack, owner, "kept_texts", Recent(0))
        yield


def _plan(arm: Arm, observed: Observed, protocol: Protocol) -> Plan:
    ignored = observed.pair.editing_type_id == DELETE_OBJECT and not protocol.delete_only_adds
    with torch.no_grad():
        return (arm.with_removal if ignored else arm.method).plan(observed)


def _grids(instruments: Instruments, arm: Arm, mask: Region) -> dict[str, Tensor]:
    rules, denoiser = instruments.rules, instruments.denoiser
    grids = {
        block: to_grid(mask, *denoiser.grid(block), rules)
        for block in arm.blocks
    }
    return {block: torch.from_numpy(grid).to(denoiser.device) for block, grid in grids.items()}


def _scores(
    instruments: Instruments,
    pair: Pair,
    seed: int,
    pictures: tuple[Image, Image, Image],
    region: Mask,
    protocol: Protocol,
) -> Scores:
    clip, lpips = instruments.scorers.clip, instruments.scorers.lpips
    edit_prompt = pair.editing_prompt if protocol.score_brackets else pair.edit_prompt
    original_prompt = pair.original_prompt if protocol.score_brackets else pair.base_prompt
    edit, original = (clip.text(prompt).double() for prompt in (edit_prompt, original_prompt))
    base, source, edited = (clip.images([picture])[0].double() for picture in pictures)
    features = [lpips.features([picture])[0] for picture in pictures]
    picture, inside = pictures[2], region[..., None]
    lpips_inside, lpips_outside = lpips.by_region(features[2], features[0], region)
    scores: Scores = {
        "clip_text_edit": float(edited @ edit),
        "clip_text_original": float(edited @ original),
        "clip_image_source": float(edited @ source),
        "clip_image_base": float(edited @ base),
        "lpips_base": lpips.distance(features[2], features[0]),
        "lpips_source": lpips.distance(features[2], features[1]),
        "clip_text_edit_inside": float(clip.images([picture * inside])[0].double() @ edit) if region.any() else None,
        "clip_text_edit_outside": (
            float(clip.images([picture * ~inside])[0].double() @ edit) if not region.all() else None
        ),
        "lpips_base_inside": lpips_inside,
        "lpips_base_outside": lpips_outside,
    }
    return scores | (instruments.truth(pair, seed)(picture) if instruments.truth else {})
