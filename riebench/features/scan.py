"""Generate pictures and see what the features of dictionaries do in them: one pass, whatever the number of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from riebench.models.model import Model
from riebench.prompts import Prompted
from riebench.sae.dictionary import Dictionary
from riebench.util.progress import Track

Watch = Callable[[int, str, Tensor, Tensor], None]
"""Is given the number of a picture, the name of a dictionary, the values ``[steps, positions, d]`` at its site and
their codes ``[steps, positions, n]``."""


@dataclass(frozen=True)
class Activity:
    """What each feature does in each picture, over all its positions and steps; ``[pictures, n]``, on the CPU.

    Attributes:
        highest: the largest code.
        share: share of the positions at which the code is above zero.
        mean: mean over all positions of the codes above zero, the rest counting as 0; over ``share`` it is that of the
            active ones.
    """

    highest: Tensor
    share: Tensor
    mean: Tensor


@dataclass(frozen=True)
class Scan:
    """Pictures and what the features did in them.

    Attributes:
        prompted: what each picture was made from.
        images: ``[pictures, height, width, 3]``.
        activity: name of a dictionary to what its features did.
    """

    prompted: Sequence[Prompted]
    images: NDArray[np.uint8]
    activity: Mapping[str, Activity]


def scan(
    model: Model,
    dictionaries: Mapping[str, tuple[str, Dictionary]],
    prompted: Sequence[Prompted],
    steps: int = 1,
    track: Track = iter,
    watch: Watch | None = None,
) -> Scan:
    """Generate a picture for each prompt and encode its values with every dictionary.

    Args:
        model: the model.
        dictionaries: name to the site and its dictionary.
        prompted: prompts and seeds.
        steps: denoising steps.
        track: shows how far the pictures are.
        watch: called with the number of each picture, the name of each dictionary, its values and codes there.
    """
    sites = {site for site, _ in dictionaries.values()}
    images: list[NDArray[np.uint8]] = []
    rows: dict[str, list[list[Tensor]]] = {name: [[], [], []] for name in dictionaries}
    runs = model.runs(prompted, steps, sites)
    with torch.no_grad():
        for _ in track(range(len(prompted))):
            run = next(runs)
            images.append(run.image)
            for name, (site, dictionary) in dictionaries.items():
                values = run.values[site].float()
                codes = dictionary.encode(values)
                if watch is not None:
                    watch(len(images) - 1, name, values, codes)
                codes = codes.flatten(0, -2)
                found = codes.amax(0), (codes > 0).float().mean(0), codes.clamp(min=0).mean(0)
                for kept, value in zip(rows[name], found, strict=True):
                    kept.append(value.half().cpu())
    return Scan(
        prompted,
        np.stack(images),
        {name: Activity(*(torch.stack(kept).float() for kept in three)) for name, three in rows.items()},
    )
