"""The layout of a seed: place, size and angle of the object.

The model gets the layout as a *canvas*, the initial latents: four channels with the object's own coordinates under a
soft window, so that prompt and seed determine the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LATENT_SIZE = 32
LATENT_CHANNELS = 4
PIXELS_PER_CELL = 4
WINDOW = 1.3  # width of the soft window, in object radii


@dataclass(frozen=True)
class Layout:
    """Place of the object: centre (cx, cy) and radius r in pixels of a 128 x 128 picture, angle in radians."""

    cx: float
    cy: float
    r: float
    angle: float


def layout_of_seed(seed: int) -> Layout:
    """The layout of a seed."""
    import numpy as np

    u = np.random.default_rng([seed, 0]).random(4)
    return Layout(
        cx=float(46 + 28 * u[0]),
        cy=float(54 + 18 * u[1]),
        r=float(26 + 10 * u[2]),
        angle=float(np.deg2rad(-10 + 20 * u[3])),
    )


def canvas_of_seed(seed: int) -> NDArray[np.float32]:
    """The initial latents ``[4, 32, 32]`` of a seed: window k, 2uk, 2vk and noise, lightly disturbed."""
    import numpy as np

    layout = layout_of_seed(seed)
    noise = np.random.default_rng([seed, 1]).standard_normal((LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE))
    centre = (np.arange(LATENT_SIZE) + 0.5) * PIXELS_PER_CELL
    x, y = (centre[None, :] - layout.cx) / layout.r, (centre[:, None] - layout.cy) / layout.r
    c, s = np.cos(layout.angle), np.sin(layout.angle)
    u, v = c * x + s * y, -s * x + c * y
    k = np.exp(-(u**2 + v**2) / 2 / WINDOW**2)
    canvas = np.stack([2 * k, 2 * u * k, 2 * v * k, np.zeros_like(k)])
    canvas += noise * np.array([0.15, 0.15, 0.15, 0.8])[:, None, None]
    return canvas.astype(np.float32)
