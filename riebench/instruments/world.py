"""The interface of a world whose truth is known: what prompts and pictures show there. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from riebench.masks.region import Image, Mask


class World(Protocol):
    """A world in which every prompt has a true picture, described by attributes with one value each.

    Attributes:
        attributes: attribute to all its values.
    """

    attributes: Mapping[str, tuple[str, ...]]

    def shown(self, prompt: str) -> Mapping[str, str]:
        """The value of every attribute that the true picture of a prompt shows.

        Raises:
            UserError: if the prompt is not of this world.
        """

    def read(self, image: Image, prompt: str, seed: int) -> Mapping[str, str]:
        """The value of every attribute that a picture ``[height, width, 3]`` shows, made from the prompt or edited."""

    def area(self, prompt: str, seed: int, attribute: str | None = None) -> Mask:
        """The mask ``[height, width]`` of an attribute in the true picture; without an attribute, of the object."""
