"""Grounded SAM 2: Grounding DINO finds the boxes of a phrase, SAM 2.1 turns each into a mask."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from riebench.masks import dino_bert, sam
from riebench.masks.grounding_dino import GroundingDINODetector, load_detector
from riebench.masks.region import Image, Mask
from riebench.masks.sam import Segmenter, load_segmenter
from riebench.util.errors import UserError
from riebench.util.files import fingerprint

DETECTOR = "groundingdino_swint_ogc.pth"
TEXT_ENCODER = "bert-base-uncased"
SEGMENTER = "sam2.1_hiera_large.pt"
MIN_SIDE = 224  # a smaller picture has fewer positions than the published detector has queries (900)


@dataclass(frozen=True)
class GroundedSAM2Options:
    """Settings of Grounded SAM 2; the defaults are the published ones for the reference images (PROTOCOL.md, Masks).

    The published text threshold is left out: it chooses the words that name a box, and no mask depends on it.

    Attributes:
        box_threshold: a box counts if its best token scores above this. The published interventions use 0.25.
        short_side: of the detector's input, pixels; smaller where the long side would exceed ``long_side``.
        long_side: largest long side of the detector's input, pixels.
        device: ``cpu``, ``cuda`` (or ``cuda:1``) or ``mps``.

    Raises:
        UserError: if a value is out of range.
    """

    box_threshold: float = 0.35
    short_side: int = 800
    long_side: int = 1333
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not 0 <= self.box_threshold <= 1:
            raise UserError(f"box_threshold is {self.box_threshold}; expected a number from 0 to 1")
        if not MIN_SIDE <= self.short_side <= self.long_side:
            sides = f"short_side is {self.short_side}, long_side {self.long_side}"
            raise UserError(f"{sides}; expected {MIN_SIDE} or more, and long_side at least short_side")


@dataclass(frozen=True)
class GroundedSAM2Files:
    """The files of the weights.

    Attributes:
        detector: checkpoint of Grounding DINO.
        text_encoder: folder in the layout of bert-base-uncased.
        segmenter: checkpoint of SAM 2.1.
        segmenter_config: its configuration, a path inside the package sam2.
    """

    detector: Path
    text_encoder: Path
    segmenter: Path
    segmenter_config: str = sam.PUBLISHED

    @classmethod
    def in_folder(cls, folder: Path) -> GroundedSAM2Files:
        """The published file names in one folder."""
        return cls(folder / DETECTOR, folder / TEXT_ENCODER, folder / SEGMENTER)

    def fingerprint(self) -> str:
        """Three hashes with dots between them: of the detector's files, the text encoder's and the segmenter's.

        Optional files that are missing are left out.

        Raises:
            OSError: if a file cannot be read.
        """
        texts = [self.text_encoder / name for name in dino_bert.FILES]
        parts = [self._with_sizes(self.detector), texts, self._with_sizes(self.segmenter)]
        return ".".join(fingerprint(filter(Path.is_file, files), files[0].parent) for files in parts)

    @staticmethod
    def _with_sizes(checkpoint: Path) -> list[Path]:
        return [checkpoint, checkpoint.with_suffix(".json")]


class GroundedSAM2:
    """Grounded SAM 2 behind the interface of all maskers.

    Args:
        detector: finds boxes.
        segmenter: turns them into masks.
        fingerprint: names the weights of both.
        options: of both.
    """

    name = "grounded-sam-2"

    def __init__(
        self, detector: GroundingDINODetector, segmenter: Segmenter, fingerprint: str, options: GroundedSAM2Options
    ) -> None:
        self.detector = detector
        self.segmenter = segmenter
        self.fingerprint = fingerprint
        self.options = options

    @classmethod
    def load(cls, files: GroundedSAM2Files, options: GroundedSAM2Options | None = None) -> GroundedSAM2:
        """Load both models from local files.

        Raises:
            UserError: if a package, a file or the device is missing, or if a checkpoint does not fit.
        """
        options = options or GroundedSAM2Options()
        _check_device(options.device)
        detector = load_detector(files.detector, files.text_encoder, options.device)
        segmenter = load_segmenter(files.segmenter, files.segmenter_config, options.device)
        return cls(detector, segmenter, files.fingerprint(), options)

    def describe(self) -> dict[str, str | float]:
        """The options that can change a mask."""
        return asdict(self.options)

    def find(self, image: Image, phrase: str) -> Mask:
        """Instance masks ``[n, height, width]`` of a phrase in ``[height, width, 3]``, one for each box; n may be 0.

        Raises:
            PairError: if the detector's output is not a number.
        """
        height, width = image.shape[:2]
        if not phrase.strip():
            return np.zeros((0, height, width), bool)
        o = self.options
        boxes = self.detector.detect(image, phrase, o.box_threshold, o.short_side, o.long_side)
        return self.segmenter.masks(image, to_corners(boxes, height, width))


def to_corners(boxes: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Boxes ``[n, 4]`` from centre and size in fractions to left, top, right, bottom in pixels."""
    centre, half = boxes[:, :2], boxes[:, 2:] / 2
    scale = np.array([width, height, width, height], np.float32)
    return np.asarray(np.concatenate([centre - half, centre + half], 1) * scale)


def _check_device(device: str) -> None:
    kind = device.partition(":")[0]
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(kind, False):
        known = ", ".join(name for name, ready in available.items() if ready)
        raise UserError(f"the device {device!r} is not on this machine; expected one of: {known}")
