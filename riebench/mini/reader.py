"""Read which attributes a picture shows, by drawing every alternative and taking the nearest.

The world is known, so nothing is trained. With the layout given, each value of an attribute is drawn, and the
one with the least squared error is what the picture shows. Drawings and pictures are compared at half size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from riebench.mini.grammar import ATTRIBUTES, Scene, alternatives, visible
from riebench.mini.layout import Layout
from riebench.mini.render import draw, smaller

Array = NDArray[np.float32]
SHRINK = 2
MOST_MOVES = 6


@dataclass(frozen=True)
class _Neighbours:
    """A scene and all that differ from it in one attribute, drawn: ``drawings [n, pixels]``."""

    scenes: tuple[Scene, ...]
    names: tuple[str, ...]
    drawings: Array
    squares: Array

    def errors(self, image: Array) -> Array:
        """Mean squared error ``[n]`` of a flat picture to each."""
        return (self.squares - 2 * (self.drawings @ image) + image @ image) / len(image)


@lru_cache(maxsize=24)
def _neighbours(scene: Scene, layout: Layout) -> _Neighbours:
    named = [(name, other) for name in ATTRIBUTES if visible(scene, name) for other in alternatives(scene, name)]
    drawings = np.stack([draw(other, layout, SHRINK).image.ravel() for _, other in named])
    squares = np.einsum("ij,ij->i", drawings, drawings)
    return _Neighbours(tuple(s for _, s in named), tuple(n for n, _ in named), drawings, squares)


def _flat(image: Array) -> Array:
    return smaller(image, SHRINK).astype(np.float32).ravel()


def read_all(image: Array, scene: Scene, layout: Layout) -> dict[str, str]:
    """The value of each visible attribute that a picture ``[128, 128, 3]`` (0..1) shows.

    Each is read with the other attributes taken from ``scene``, which must be what the picture is meant to be.
    """
    near = _neighbours(scene, layout)
    found: dict[str, tuple[float, str]] = {}
    for name, other, error in zip(near.names, near.scenes, near.errors(_flat(image)), strict=True):
        found[name] = min(found.get(name, (np.inf, "")), (float(error), getattr(other, name)))
    return {name: value for name, (_, value) in found.items()}


def read_scene(image: Array, starts: Sequence[Scene], layout: Layout) -> Scene:
    """The scene that a picture ``[128, 128, 3]`` (0..1) shows, whatever it is meant to be.

    From each start, the one attribute whose change brings the drawing nearest is changed, again and again,
    until no change helps; the nearest end of all starts is the answer.
    """
    flat = _flat(image)
    ends: list[tuple[float, int, Scene]] = []
    for number, start in enumerate(starts):
        scene = start
        for _ in range(MOST_MOVES):
            near = _neighbours(scene, layout)
            errors = near.errors(flat)
            best = near.scenes[int(errors.argmin())]
            here = errors[near.scenes.index(scene)]
            ends.append((float(errors.min()), number, best))
            if best == scene or errors.min() >= here - 1e-7:
                break
            scene = best
    return min(ends, key=lambda end: end[:2])[2]


@dataclass(frozen=True)
class Verdict:
    """What became of an edit.

    Attributes:
        edit_success: whether the edited attribute reads as the edit prompt says.
        kept: share of the other attributes visible in both scenes that read as in the base scene.
        read_as: value of the edited attribute that the picture shows; None if it shows none.
    """

    edit_success: bool
    kept: float
    read_as: str | None


def judge(image: Array, base: Scene, source: Scene, layout: Layout) -> Verdict:
    """Judge an edited picture ``[128, 128, 3]`` (0..1) of a pair whose scenes differ in one attribute.

    Raises:
        ValueError: if the scenes do not differ in exactly one attribute.
    """
    changed = base.differences(source)
    if len(changed) != 1:
        raise ValueError(f"the scenes of a pair must differ in one attribute; these differ in {list(changed)}")
    (edited,) = changed
    shown = read_scene(image, [base, source], layout)
    # What both scenes show must still be seen: a picture that became a sketch has lost its colours.
    others = [n for n in ATTRIBUTES if n != edited and visible(base, n) and visible(source, n)]
    kept = [visible(shown, n) and getattr(shown, n) == getattr(base, n) for n in others]
    value = getattr(shown, edited) if visible(shown, edited) else None
    return Verdict(value == getattr(source, edited), float(np.mean(kept)), value)
