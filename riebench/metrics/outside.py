"""PnPInversion's metrics outside the edited region (arXiv 2310.01506 and its code; PROTOCOL.md, Metrics).

Both pictures have the region set to 0, and means are over the whole picture, so a large region makes errors small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from riebench.metrics.catalogue import metric
from riebench.metrics.seen import Seen

if TYPE_CHECKING:
    from torch import Tensor

    from riebench.metrics.seen import Image

SQUEEZE = "lpips-squeeze"


@metric(
    "psnr_outside",
    "PSNR in dB of the edited and the base image, the region black in both; null where they are equal",
    needs=(),
    optional=True,
)
def psnr_outside(seen: Seen) -> Sequence[float | None]:
    """Of pictures in 0..1, by torchmetrics; None for equal pictures, whose PSNR is infinite."""
    from torchmetrics.functional.image import peak_signal_noise_ratio

    def measure(edited: Tensor, base: Tensor) -> float | None:
        decibels = peak_signal_noise_ratio(edited, base, data_range=1.0).item()
        return decibels if math.isfinite(decibels) else None

    return _each(seen, measure)


@metric("ssim_outside", "SSIM of the edited and the base image, the region black in both", needs=(), optional=True)
def ssim_outside(seen: Seen) -> Sequence[float | None]:
    """Of pictures in 0..1 mirrored at their border, by torchmetrics: Gaussian window of 11 pixels, sigma 1.5."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    def measure(edited: Tensor, base: Tensor) -> float:
        return float(structural_similarity_index_measure(edited, base, data_range=1.0))  # type: ignore[arg-type]

    return _each(seen, measure)


@metric(
    "mse_outside",
    "mean squared error of the edited and the base image in 0..1, the region black in both",
    needs=(),
    optional=True,
)
def mse_outside(seen: Seen) -> Sequence[float | None]:
    """Of pictures in 0..1, by torchmetrics."""
    from torchmetrics.functional import mean_squared_error

    return _each(seen, lambda edited, base: mean_squared_error(edited, base).item())


@metric(
    "lpips_squeeze_outside",
    "LPIPS with the trunk SqueezeNet, the region black in both images; not comparable with lpips_base",
    needs=(),
    scorer=SQUEEZE,
    optional=True,
)
def lpips_squeeze_outside(seen: Seen) -> Sequence[float | None]:
    """Of pictures in -1..1, v0.1."""
    pictures = _outside(seen)
    if pictures is None:
        return [None] * len(seen.pictures)
    lpips = seen.more[SQUEEZE]
    *edited, base = lpips.features(pictures)
    return lpips.totals([lpips.layers(features, base) for features in edited])


def _outside(seen: Seen) -> list[Image] | None:
    """The pictures and, last, the base picture, all with the region black; None if the region is the whole picture."""
    keeps = ~seen.reference.region[..., None]
    return [picture * keeps for picture in (*seen.pictures, seen.reference.base)] if keeps.any() else None


def _each(seen: Seen, measure: Callable[[Tensor, Tensor], float | None]) -> Sequence[float | None]:
    """``measure`` of each picture and the base picture, ``[1, 3, height, width]`` in 0..1, the region black in both."""
    import numpy as np
    import torch

    pictures = _outside(seen)
    if pictures is None:
        return [None] * len(seen.pictures)
    *edited, base = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).double().contiguous().div_(255)[:, None]
    return [measure(picture, base) for picture in edited]
