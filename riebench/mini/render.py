"""Draw a scene: picture and true masks, anti-aliased, with signed distances in plain numpy.

Distances are in units of the object's radius inside the object's own frame (u to the right, v down,
origin at the object's centre) and become pixels when multiplied by that radius.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from riebench.mini.grammar import ATTRIBUTES, BACKGROUND_NOUNS, Scene
from riebench.mini.layout import Layout

Array = NDArray[np.float32]

SIZE = 128
TILT = float(np.deg2rad(35.0))
LINE = 4.0  # width of drawn lines, pixels
BLOCK = 8  # side of a block of the pixelated style, pixels

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.13, 0.15),
    "orange": (0.98, 0.53, 0.07),
    "yellow": (0.97, 0.86, 0.10),
    "green": (0.18, 0.65, 0.25),
    "turquoise": (0.15, 0.78, 0.78),
    "blue": (0.13, 0.30, 0.86),
    "purple": (0.50, 0.18, 0.70),
    "pink": (0.98, 0.50, 0.75),
}
INK = np.array((0.12, 0.12, 0.15), np.float32)
PAPER = np.array((0.97, 0.97, 0.97), np.float32)
ADDITION_COLOURS: dict[str, tuple[float, float, float]] = {
    "hat": (0.48, 0.30, 0.15),
    "ball": (0.55, 0.08, 0.22),
    "stand": (0.33, 0.42, 0.50),
}
GRADIENTS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "white": ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
    "grey": ((0.62, 0.62, 0.62), (0.62, 0.62, 0.62)),
    "cream": ((0.98, 0.91, 0.74), (0.98, 0.91, 0.74)),
    "sky": ((0.45, 0.70, 0.95), (0.88, 0.95, 1.0)),
    "sunset": ((0.45, 0.25, 0.50), (0.99, 0.70, 0.45)),
    "night": ((0.03, 0.05, 0.17), (0.20, 0.22, 0.42)),
    "meadow": ((0.72, 0.88, 0.98), (0.90, 0.96, 1.0)),
    "grid": ((0.97, 0.97, 0.95), (0.97, 0.97, 0.95)),
}
MEADOW_GREEN = np.array((0.45, 0.68, 0.32), np.float32)
GRID_BLUE = np.array((0.55, 0.68, 0.85), np.float32)

POLYGONS: dict[str, list[tuple[float, float]]] = {
    "square": [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
    "triangle": [(0.0, -1.0), (0.98, 0.78), (-0.98, 0.78)],
    "star": [
        (float(rho * np.sin(k * np.pi / 5)), float(-rho * np.cos(k * np.pi / 5)))
        for k, rho in enumerate([1.05, 0.52] * 5)
    ],
    "arrow": [(0, -1.05), (0.95, -0.05), (0.45, -0.05), (0.45, 0.95), (-0.45, 0.95), (-0.45, -0.05), (-0.95, -0.05)],
    "house": [(0, -1.05), (0.98, -0.25), (0.72, -0.25), (0.72, 0.85), (-0.72, 0.85), (-0.72, -0.25), (-0.98, -0.25)],
    "stand": [(-0.45, 0.7), (0.45, 0.7), (0.75, 1.38), (-0.75, 1.38)],
}
NOUNS: tuple[str, ...] = (
    *ATTRIBUTES["shape"],
    *ATTRIBUTES["inside"][1:],
    *ATTRIBUTES["addition"][1:],
    *BACKGROUND_NOUNS,
    "background",
    "foreground",
    "object",
)
"""Every noun that has a mask in a picture."""


@dataclass(frozen=True)
class Drawing:
    """A drawn scene.

    Attributes:
        image: ``[128, 128, 3]`` float32 in 0..1.
        masks: name of a part to a boolean ``[128, 128]``: ``object`` (the shape with what is inside it),
            ``inside``, ``addition`` and ``background`` (all that is neither object nor addition).
    """

    image: Array
    masks: dict[str, NDArray[np.bool_]]


def polygon_distance(u: Array, v: Array, points: list[tuple[float, float]]) -> Array:
    """Signed distance to a simple polygon, negative inside; ``u``, ``v`` of any one shape."""
    nearest = np.full(u.shape, np.inf, np.float32)
    inside = np.zeros(u.shape, bool)
    for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
        ex, ey = x1 - x0, y1 - y0
        wx, wy = u - x0, v - y0
        along = np.clip((wx * ex + wy * ey) / (ex * ex + ey * ey), 0, 1)
        nearest = np.minimum(nearest, (wx - along * ex) ** 2 + (wy - along * ey) ** 2)
        if ey != 0:
            inside ^= ((y0 > v) != (y1 > v)) & (wx < ex * wy / ey)
    return np.where(inside, -np.sqrt(nearest), np.sqrt(nearest)).astype(np.float32)


def box_distance(u: Array, v: Array, cu: float, cv: float, hu: float, hv: float) -> Array:
    """Signed distance to a box with centre (cu, cv) and half sides (hu, hv)."""
    du, dv = np.abs(u - cu) - hu, np.abs(v - cv) - hv
    return np.hypot(np.maximum(du, 0), np.maximum(dv, 0)) + np.minimum(np.maximum(du, dv), 0)


def disc_distance(u: Array, v: Array, cu: float, cv: float, radius: float) -> Array:
    """Signed distance to a disc."""
    return np.hypot(u - cu, v - cv) - np.float32(radius)


def _heart(u: Array, v: Array) -> Array:
    lobe = disc_distance(np.abs(u), v, 0.46, -0.36, 0.52)
    tip = polygon_distance(u, v, [(-0.86, -0.02), (0.86, -0.02), (0.0, 1.0)])
    return np.minimum(np.minimum(lobe, tip), box_distance(u, v, 0, -0.12, 0.5, 0.14))


def _drop(u: Array, v: Array) -> Array:
    tip = polygon_distance(u, v, [(0.0, -1.1), (0.57, 0.08), (-0.57, 0.08)])
    return np.minimum(disc_distance(u, v, 0, 0.3, 0.62), tip)


def shape_distance(name: str, u: Array, v: Array) -> Array:
    """Signed distance to the outline of a shape."""
    if name == "heart":
        return _heart(u, v)
    if name == "drop":
        return _drop(u, v)
    if name == "cross":
        return np.minimum(box_distance(u, v, 0, 0, 0.95, 0.38), box_distance(u, v, 0, 0, 0.38, 0.95))
    return polygon_distance(u, v, POLYGONS[name])


def addition_distance(name: str, u: Array, v: Array) -> Array:
    """Signed distance to the outline of an addition."""
    if name == "hat":
        brim = box_distance(u, v, 0, -0.98, 0.6, 0.1)
        return np.minimum(brim, box_distance(u, v, 0, -1.25, 0.36, 0.3))
    if name == "ball":
        return disc_distance(u, v, 1.25, 0.5, 0.35)
    return polygon_distance(u, v, POLYGONS[name])


def inside_distance(name: str, u: Array, v: Array) -> Array:
    """Signed distance to the outline of the drawing inside the object."""
    if name == "bar":
        return box_distance(u, v, 0, 0.12, 0.44, 0.15)
    disc = disc_distance(u, v, 0, 0.12, 0.4)
    return disc if name == "dot" else np.maximum(disc, -disc_distance(u, v, 0, 0.12, 0.22))


def pattern(name: str, u: Array, v: Array, radius: float) -> Array:
    """Share of the second tone, 0..1: stripes, dots or checks fixed to the object's frame."""

    def wave(x: Array, period: float) -> Array:
        return (np.abs((x / period) % 1.0 - 0.5) - 0.25) * period

    if name == "plain":
        return np.zeros(u.shape, np.float32)
    if name == "striped":
        return _coverage(wave(v, 0.72), radius)
    if name == "dotted":
        pitch = 0.66
        du, dv = (u / pitch) % 1.0 - 0.5, (v / pitch) % 1.0 - 0.5
        return _coverage(np.hypot(du, dv) * pitch - 0.21, radius)
    a, b = _coverage(wave(u, 1.0), radius), _coverage(wave(v, 1.0), radius)
    return a + b - 2 * a * b


def _coverage(distance: Array, radius: float) -> Array:
    return np.clip(0.5 - distance * radius, 0, 1).astype(np.float32)


def _line(distance: Array, radius: float, width: float) -> Array:
    return np.clip(0.5 + width / 2 - np.abs(distance) * radius, 0, 1).astype(np.float32)


def _over(image: Array, colour: Array, alpha: Array) -> Array:
    return image + (colour - image) * alpha[..., None]


@cache
def _backdrop(name: str, shrink: int) -> Array:
    top, bottom = (np.array(c, np.float32) for c in GRADIENTS[name])
    t = np.linspace(0, 1, SIZE, dtype=np.float32)[:, None, None]
    image = np.broadcast_to(top + (bottom - top) * t, (SIZE, SIZE, 3)).copy()
    if name == "meadow":
        image[SIZE * 5 // 8 :] = MEADOW_GREEN
    if name == "grid":
        lines = (np.arange(SIZE) % 32) // 4 == 3
        image[lines] = GRID_BLUE
        image[:, lines] = GRID_BLUE
    return smaller(image, shrink)


def smaller(image: Array, shrink: int) -> Array:
    """A picture ``[h, w, 3]`` with blocks of ``shrink`` x ``shrink`` pixels averaged into one."""
    height, width = image.shape[0] // shrink, image.shape[1] // shrink
    return image.reshape(height, shrink, width, shrink, 3).mean((1, 3))


@lru_cache(maxsize=8)
def frame(layout: Layout, angle: float = 0.0, shrink: int = 1) -> tuple[Array, Array]:
    """The object's coordinates (u, v) of each pixel, each ``[128, 128]``; ``angle`` in radians is added."""
    y, x = (np.mgrid[0 : SIZE // shrink, 0 : SIZE // shrink].astype(np.float32) + np.float32(0.5)) * shrink
    x, y = (x - layout.cx) / layout.r, (y - layout.cy) / layout.r
    c, s = np.float32(np.cos(layout.angle + angle)), np.float32(np.sin(layout.angle + angle))
    return c * x + s * y, -s * x + c * y


@lru_cache(maxsize=128)
def _part(
    distance: Callable[[str, Array, Array], Array], name: str, layout: Layout, angle: float, shrink: int
) -> Array:
    """Distance to a part; cached, because the reader draws the same part in many scenes of one layout."""
    return distance(name, *frame(layout, angle, shrink))


@lru_cache(maxsize=32)
def _pattern(name: str, layout: Layout, angle: float, shrink: int) -> Array:
    return pattern(name, *frame(layout, angle, shrink), layout.r / shrink)


def draw(scene: Scene, layout: Layout, shrink: int = 1) -> Drawing:
    """Draw a scene in a layout; ``shrink`` 2 draws at half the size, four times as fast."""
    where = (layout, TILT if scene.pose == "tilted" else 0.0, shrink)
    r, sketch, size, line = layout.r / shrink, scene.style == "sketch", SIZE // shrink, LINE / shrink
    image = np.broadcast_to(PAPER, (size, size, 3)) if sketch else _backdrop(scene.background, shrink)
    added = inner = np.zeros((size, size), np.float32)
    lined = scene.style in ("outlined", "sketch")

    if scene.addition != "nothing":
        distance = _part(addition_distance, scene.addition, *where)
        added = _coverage(distance, r)
        image = _over(image, PAPER if sketch else np.array(ADDITION_COLOURS[scene.addition], np.float32), added)
        if lined:
            image = _over(image, INK, _line(distance, r, line))
    distance = _part(shape_distance, scene.shape, *where)
    body = _coverage(distance, r)
    colour = PAPER if sketch else np.array(COLOURS[scene.colour], np.float32)
    second = PAPER * np.float32(0.7) if sketch else np.float32(0.25) * colour + np.float32(0.75)
    fill = colour + (second - colour) * _pattern(scene.material, *where)[..., None]
    image = _over(image, fill, body)
    if lined:
        image = _over(image, INK, _line(distance, r, line))
    if scene.inside != "nothing":
        inner = _coverage(_part(inside_distance, scene.inside, *where), r)
        image = _over(image, INK, inner)

    if scene.style == "inverted":
        image = 1 - image
    if scene.style == "pixelated":
        side = BLOCK // shrink
        image = smaller(image, side).repeat(side, 0).repeat(side, 1)
    addition = (added > 0.5) & (body <= 0.5)
    masks = {
        "object": body > 0.5,
        "inside": inner > 0.5,
        "addition": addition,
        "background": (body <= 0.5) & ~addition,
    }
    return Drawing(np.clip(image, 0, 1).astype(np.float32), masks)


def draw_many(scenes: Sequence[Scene], layout: Layout, shrink: int = 1) -> Array:
    """The pictures of many scenes in one layout, flat: ``[scenes, pixels]``."""
    drawn = {scene: draw(scene, layout, shrink).image.ravel() for scene in set(scenes)}
    return np.stack([drawn[scene] for scene in scenes])


def noun_mask(scene: Scene, drawing: Drawing, noun: str) -> NDArray[np.bool_]:
    """The true mask ``[128, 128]`` of a noun; all False where the scene does not show it."""
    if noun in (scene.shape, "object"):
        return drawing.masks["object"]
    if noun == scene.inside:
        return drawing.masks["inside"]
    if noun == scene.addition:
        return drawing.masks["addition"]
    if noun == "foreground":
        return ~drawing.masks["background"]
    if noun == "background" or (BACKGROUND_NOUNS.get(noun) == scene.background and scene.style != "sketch"):
        return drawing.masks["background"]
    return np.zeros((SIZE, SIZE), bool)
