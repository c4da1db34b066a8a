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

from riebench.mini.grammar import ATTRIBUTES, Scene, neighbours, parse, visible
from riebench.mini.layout import Layout, layout_of_seed
from riebench.mini.render import draw_many, smaller
from riebench.pairs import Pair

Array = NDArray[np.float32]
SHRINK = 2
MOST_MOVES = 6


@dataclass(frozen=True)
class _Drawn:
    """The neighbours of a scene, each with the attribute that is varied, and their ``drawings [n, pixels]``."""

    named: list[tuple[str, Scene]]
    drawings: Array
    squares: Array

    def errors(self, image: Array) -> Array:
        """Mean squared error ``[n]`` of a flat picture to each."""
        return (self.squares - 2 * (self.drawings @ image) + image @ image) / len(image)


@lru_cache(maxsize=12)
def _neighbours(scenes: tuple[Scene, ...], layout: Layout) -> list[_Drawn]:
    """The neighbours of each scene, all drawn together."""
    named = [neighbours(scene) for scene in scenes]
    drawings = draw_many([other for near in named for _, other in near], layout, SHRINK)
    squares = np.einsum("ij,ij->i", drawings, drawings)
    found, start = [], 0
    for near in named:
        rows = slice(start, start + len(near))
        found.append(_Drawn(near, drawings[rows], squares[rows]))
        start += len(near)
    return found


def read_all(image: Array, scene: Scene, layout: Layout) -> dict[str, str]:
    """The value of each visible attribute that a picture ``[128, 128, 3]`` (0..1) shows.

    Each is read with the other attributes taken from ``scene``, which must be what the picture is meant to be.
    """
    flat = smaller(image, SHRINK).astype(np.float32).ravel()
    (near,) = _neighbours((scene,), layout)
    found: dict[str, tuple[float, str]] = {}
    for (name, other), error in zip(near.named, near.errors(flat), strict=True):
        found[name] = min(found.get(name, (np.inf, "")), (float(error), getattr(other, name)))
    return {name: value for name, (_, value) in found.items()}


def read_scene(image: Array, starts: Sequence[Scene], layout: Layout) -> Scene:
    """The scene that a picture ``[128, 128, 3]`` (0..1) shows, whatever it is meant to be.

    From each start, the one attribute whose change brings the drawing nearest is changed, again and again,
    until no change helps; the nearest end of all starts is the answer. The starts go in step, and one that comes
    where another was is left to that.
    """
    flat = smaller(image, SHRINK).astype(np.float32).ravel()
    ends: list[tuple[float, int, Scene]] = []
    at = {scene: number for number, scene in enumerate(starts)}
    seen = set(at)
    for _ in range(MOST_MOVES):
        moved: dict[Scene, int] = {}
        for (scene, number), near in zip(at.items(), _neighbours(tuple(at), layout), strict=True):
            errors = near.errors(flat)
            scenes = [other for _, other in near.named]
            best = scenes[int(errors.argmin())]
            ends.append((float(errors.min()), number, best))
            if best not in seen and errors.min() < errors[scenes.index(scene)] - 1e-7:
                moved[best] = number
                seen.add(best)
        if not moved:
            break
        at = moved
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


class PairTruth:
    """Judges edited images of one pair of the drawn world.

    Args:
        pair: its prompts differ in one attribute.
        seed: of the layout.

    Raises:
        PromptError: if a prompt is not in the grammar.
    """

    def __init__(self, pair: Pair, seed: int) -> None:
        self.base, self.source = parse(pair.original_prompt), parse(pair.editing_prompt)
        self.layout = layout_of_seed(seed)

    def __call__(self, image: NDArray[np.uint8]) -> dict[str, float | None]:
        """``edit_success`` and ``kept`` of a picture ``[128, 128, 3]``."""
        verdict = judge(image.astype(np.float32) / np.float32(255), self.base, self.source, self.layout)
        return {"edit_success": float(verdict.edit_success), "kept": verdict.kept}
