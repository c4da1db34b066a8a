"""The drawn world behind the interface of worlds: the attributes of prompts and pictures, and their places."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from riebench.masks.region import Mask
from riebench.mini.grammar import ATTRIBUTES, PromptError, Scene, parse, visible
from riebench.mini.layout import layout_of_seed
from riebench.mini.reader import read_scene
from riebench.mini.render import draw
from riebench.util.errors import UserError

EVERYWHERE = ("addition", "style")
"""Attributes whose area is the whole picture: an addition may come anywhere, a style is everywhere."""


class DrawnWorld:
    """See :class:`riebench.instruments.world.World`."""

    attributes: Mapping[str, tuple[str, ...]] = ATTRIBUTES

    def shown(self, prompt: str) -> dict[str, str]:
        """The visible attributes of the prompt's scene."""
        return _visible_values(_scene(prompt))

    def read(self, image: NDArray[np.uint8], prompt: str, seed: int) -> dict[str, str]:
        """The result of the attribute reader, which starts with the prompt's scene."""
        scene = read_scene(image.astype(np.float32) / np.float32(255), [_scene(prompt)], layout_of_seed(seed))
        return _visible_values(scene)

    def area(self, prompt: str, seed: int, attribute: str | None = None) -> Mask:
        """The object, its background, or everything for additions and styles."""
        masks = draw(_scene(prompt), layout_of_seed(seed)).masks
        if attribute in EVERYWHERE:
            return np.ones_like(masks["object"])
        return masks["background" if attribute == "background" else "object"]


def _scene(prompt: str) -> Scene:
    try:
        return parse(prompt)
    except PromptError as error:
        raise UserError(f"{error}; give prompts of the drawn world") from None


def _visible_values(scene: Scene) -> dict[str, str]:
    return {name: value for name, value in scene.values().items() if visible(scene, name)}
