"""What the edited pictures of a pair are compared with; each distinct picture goes through each network once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from riebench.metrics.registry import METRICS, Scores

if TYPE_CHECKING:
    from torch import Tensor

    from riebench.metrics.clip import ClipScorer
    from riebench.metrics.lpips import Features, LpipsScorer

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Truth = Callable[[Image], Scores]
"""Judges an edited picture of a pair whose truth is known."""


class Scorers(NamedTuple):
    """The networks that score."""

    clip: ClipScorer
    lpips: LpipsScorer


@dataclass
class Scoring:
    """One pair's reference for its edited pictures.

    Attributes:
        scorers: CLIP and LPIPS.
        base: base image ``[height, width, 3]``.
        source: source image.
        edit_prompt: as it is embedded.
        original_prompt: as it is embedded.
        region: the edited region ``[height, width]``: the union of the pair's masks.
        truth: judges a picture, where the truth is known.
    """

    scorers: Scorers
    base: Image
    source: Image
    edit_prompt: str
    original_prompt: str
    region: Mask
    truth: Truth | None = None
    _known: dict[tuple[str, bytes], Any] = field(default_factory=dict)

    def score(self, images: Sequence[Image]) -> list[Scores]:
        """Every metric of edited pictures, with those of the base picture as ``NAME_base``."""
        metrics = [m for m in METRICS.values() if self.truth is not None or not m.drawn_world]
        columns = {m.name: m.measure(images, self) for m in metrics}
        columns |= {f"{m.name}_base": [*m.measure([self.base], self)] * len(images) for m in metrics if m.of_base}
        return [{name: _plain(values[i]) for name, values in columns.items()} for i in range(len(images))]

    def clip(self, images: Sequence[Image]) -> Tensor:
        """CLIP embeddings ``[n, d]`` of pictures, in float64."""
        import torch

        # Base and source are embedded with the first edited pictures, in one batch.
        self._once("clip", [*images, self.base, self.source], self.scorers.clip.images)
        return torch.stack(self._once("clip", images, self.scorers.clip.images)).double()

    def text(self, prompt: str) -> Tensor:
        """CLIP embedding ``[d]`` of a prompt, in float64."""
        return self.scorers.clip.text(prompt).double()

    def lpips_layers(self, images: Sequence[Image], other: Image) -> list[list[Tensor]]:
        """LPIPS's weighted difference of each layer ``[h, w]``, of each picture to another one."""
        lpips = self.scorers.lpips
        features: list[Features] = self._once("lpips", [*images, self.base, self.source, other], lpips.features)
        name = f"layers {hash(other.tobytes())}"
        to = features[-1]
        pairs = dict(zip((image.tobytes() for image in images), features, strict=False))
        return self._once(name, images, lambda new: [lpips.layers(pairs[image.tobytes()], to) for image in new])

    def verdicts(self, images: Sequence[Image]) -> list[Scores]:
        """What the truth says of each picture."""
        judge = self.truth
        assert judge is not None
        return self._once("truth", images, lambda new: [judge(image) for image in new])

    def _once(self, kind: str, images: Sequence[Image], work: Callable[[list[Image]], Sequence[Any]]) -> list[Any]:
        """The result of ``work`` for each picture; it is given those alone that it has not seen."""
        keys = [(kind, image.tobytes()) for image in images]
        new = {key: image for key, image in zip(keys, images, strict=True) if key not in self._known}
        if new:
            self._known.update(zip(new, work(list(new.values())), strict=True))
        return [self._known[key] for key in keys]


def _plain(value: Any) -> float | None:
    return None if value is None else float(value)
