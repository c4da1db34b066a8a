"""Read the attributes that a picture shows: draw every alternative and choose the nearest.

Nothing is trained. In the layout of the seed each value of an attribute is drawn; the picture shows the value whose
drawing has the smallest squared error. Drawings and pictures are compared at half size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from riebench.mini.grammar import ATTRIBUTES, Scene, asked_scenes, neighbours, visible
from riebench.mini.layout import Layout, layout_of_seed
from riebench.mini.render import draw_many, smaller
from riebench.pairs import Pair

Array = NDArray[np.float32]
SHRINK = 2
MOST_MOVES = 6


@dataclass(frozen=True)
class _Drawn:
    """The neighbours of a scene, each with the attribute that varies.

    Attributes:
        named: attribute and neighbour.
        drawings: pictures ``[n, pixels]`` of the neighbours.
        squares: sums of squares ``[n]`` of the pictures.
    """

    named: list[tuple[str, Scene]]
    drawings: Array
    squares: Array

    def errors(self, image: Array) -> Array:
        """Mean squared errors ``[n]`` between a flat picture and the drawings."""
        return (self.squares - 2 * (self.drawings @ image) + image @ image) / len(image)


@lru_cache(maxsize=12)
def _neighbours(scenes: tuple[Scene, ...], layout: Layout) -> list[_Drawn]:
    """The neighbours of each scene, all drawn together."""
    named = [neighbours(scene) for scene in scenes]
    drawings = draw_many([other for near in named for _, other in near], layout, SHRINK)
    squares = np.einsum("ij,ij->i", drawings, drawings)
    drawn, start = [], 0
    for near in named:
        rows = slice(start, start + len(near))
        drawn.append(_Drawn(near, drawings[rows], squares[rows]))
        start += len(near)
    return drawn


def read_all(image: Array, scene: Scene, layout: Layout) -> dict[str, str]:
    """The value of each visible attribute that a picture ``[128, 128, 3]`` (0..1) shows.

    Each is read with the other attributes of ``scene``, which must be the scene that the picture is meant to show.
    """
    flat = smaller(image, SHRINK).astype(np.float32).ravel()
    (near,) = _neighbours((scene,), layout)
    best: dict[str, tuple[float, str]] = {}
    for (name, other), error in zip(near.named, near.errors(flat), strict=True):
        best[name] = min(best.get(name, (np.inf, "")), (float(error), getattr(other, name)))
    return {name: value for name, (_, value) in best.items()}


def read_scene(image: Array, starts: Sequence[Scene], layout: Layout) -> Scene:
    """The scene that a picture ``[128, 128, 3]`` (0..1) shows; it need not be any of the starts.

    Greedy descent from each start: the attribute whose change reduces the error most is changed, until no change helps;
    the nearest end is returned. The starts move together, and a start ends at a scene that another has visited.
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
    """The judgement of an edited picture.

    Attributes:
        edit_success: whether the edited attribute reads as the edit prompt says.
        kept: share of the other attributes visible in both scenes that read as in the base scene.
        read_as: value of the edited attribute that the picture shows; None if the attribute is invisible.
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
    # Attributes that both scenes show must stay visible: a picture that became a sketch has lost its colours.
    others = [n for n in ATTRIBUTES if n != edited and visible(base, n) and visible(source, n)]
    kept = [visible(shown, n) and getattr(shown, n) == getattr(base, n) for n in others]
    value = getattr(shown, edited) if visible(shown, edited) else None
    return Verdict(value == getattr(source, edited), float(np.mean(kept)), value)


class PairTruth:
    """The judge of edited pictures of one pair of the drawn world.

    Args:
        pair: its prompts differ in one attribute, or its brackets mark the one that is asked for. Of a further
            attribute that the edit prompt changes, ``kept`` expects the original prompt's value.
        seed: of the layout.

    Raises:
        PromptError: if a prompt is not in the grammar.
    """

    def __init__(self, pair: Pair, seed: int) -> None:
        self.base, self.source = asked_scenes(pair.original_prompt, pair.editing_prompt)
        self.layout = layout_of_seed(seed)

    def __call__(self, image: NDArray[np.uint8]) -> dict[str, float | None]:
        """``edit_success`` and ``kept`` of a picture ``[128, 128, 3]``."""
        verdict = judge(image.astype(np.float32) / np.float32(255), self.base, self.source, self.layout)
        return {"edit_success": float(verdict.edit_success), "kept": verdict.kept}
