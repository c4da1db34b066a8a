"""All metrics of the edited images of one pair, in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from riebench.metrics.clip import ClipScorer
from riebench.metrics.lpips import LpipsScorer, total, total_by_region

Image = NDArray[np.uint8]
Scores = dict[str, float | None]

METRICS: dict[str, str] = {
    "clip_text_edit": "CLIP similarity of the edited image with the edit prompt",
    "clip_text_original": "CLIP similarity of the edited image with the original prompt",
    "clip_image_source": "CLIP similarity of the edited image with the source image",
    "clip_image_base": "CLIP similarity of the edited image with the base image",
    "lpips_base": "LPIPS of the edited image to the base image",
    "lpips_source": "LPIPS of the edited image to the source image",
    "clip_text_edit_inside": "clip_text_edit with all outside the edited region black; null where it is empty",
    "clip_text_edit_outside": "clip_text_edit with the edited region black; null where nothing is outside",
    "lpips_base_inside": "mean of the LPIPS map to the base image inside the edited region",
    "lpips_base_outside": "mean of the LPIPS map to the base image outside the edited region",
    "edit_success": "1 if the edited attribute reads as the edit prompt says, else 0 (drawn world only)",
    "kept": "share of the other visible attributes that read as in the base scene (drawn world only)",
}
"""Every metric of a record, and what it says."""


class Truth(Protocol):
    """Judges an edited image of a pair whose truth is known."""

    def __call__(self, image: Image) -> Scores: ...


@dataclass(frozen=True)
class Scorers:
    """The instruments of a run."""

    clip: ClipScorer
    lpips: LpipsScorer


@dataclass(frozen=True)
class Reference:
    """What the edited images of a pair are compared with.

    Attributes:
        base: base image ``[height, width, 3]``.
        source: source image.
        edit_prompt: as it is embedded.
        original_prompt: as it is embedded.
        region: the edited region ``[height, width]``: union of the pair's masks.
        truth: judges an image, where the truth is known.
    """

    base: Image
    source: Image
    edit_prompt: str
    original_prompt: str
    region: NDArray[np.bool_]
    truth: Truth | None = None


def score_images(scorers: Scorers, reference: Reference, images: Sequence[Image]) -> list[Scores]:
    """Metrics of each edited image; a picture that comes more than once is looked at once."""
    edited = _Distinct(images)
    scores = _score(scorers, reference, edited.images)
    return [scores[place] for place in edited.places]


class _Distinct:
    """Pictures without their repetitions.

    Attributes:
        images: each once, in the order of first appearance.
        places: for each picture that was given, its place among them.
    """

    def __init__(self, images: Sequence[Image]) -> None:
        found: dict[bytes, int] = {}
        self.places = [found.setdefault(image.tobytes(), len(found)) for image in images]
        self.images = [images[self.places.index(i)] for i in range(len(found))]


def _score(scorers: Scorers, reference: Reference, images: Sequence[Image]) -> list[Scores]:
    """Metrics of distinct pictures."""
    region = reference.region
    inside = [image * region[..., None] for image in images] if region.any() else []
    outside = [image * ~region[..., None] for image in images] if not region.all() else []
    # An edited image may be the base or the source image, and a masked one may be whole.
    whole = _Distinct([*images, reference.base, reference.source])
    base, source = whole.places[-2:]
    pictures = _Distinct([*whole.images, *inside, *outside])
    embedded = scorers.clip.images(pictures.images).double()[pictures.places]
    parts = embedded[len(whole.images) :]
    edit = scorers.clip.text(reference.edit_prompt).double()
    original = scorers.clip.text(reference.original_prompt).double()
    features = scorers.lpips.features(whole.images)
    to_base = [scorers.lpips.layers(mine, features[base]) for mine in features[: len(images)]]
    by_region = total_by_region(to_base, region)
    rows: list[Scores] = []
    for i, image in enumerate(images):
        row: Scores = {
            "clip_text_edit": float(embedded[i] @ edit),
            "clip_text_original": float(embedded[i] @ original),
            "clip_image_source": float(embedded[i] @ embedded[source]),
            "clip_image_base": float(embedded[i] @ embedded[base]),
            "lpips_base": total(to_base[i]),
            "lpips_source": scorers.lpips.distance(features[i], features[source]),
            "clip_text_edit_inside": float(parts[i] @ edit) if inside else None,
            "clip_text_edit_outside": float(parts[len(inside) + i] @ edit) if outside else None,
            "lpips_base_inside": by_region[i][0],
            "lpips_base_outside": by_region[i][1],
        }
        rows.append(row | (reference.truth(image) if reference.truth else {}))
    return rows
