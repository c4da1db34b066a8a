"""SAM 2.1: one mask for each box (Ravi et al., 2024; package sam2)."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from riebench.masks.gsam_loading import fit, gsam_module, quiet, read_state
from riebench.masks.region import Image, Mask
from riebench.util.errors import UserError

ADDRESS = "https://dl.fbaipublicfiles.com/segment_anything_2/092824/sam2.1_hiera_large.pt"
PUBLISHED = "configs/sam2.1/sam2.1_hiera_l.yaml"
# The package's own loader adds this to every configuration: if the single mask of a prompt changes much with the
# threshold, the best of three masks replaces it.
STABILITY = {
    "dynamic_multimask_via_stability": True,
    "dynamic_multimask_stability_delta": 0.05,
    "dynamic_multimask_stability_thresh": 0.98,
}
IMAGES_KEPT = 2  # embeddings, about 16 MB each: the base image and the source image of a pair
BOXES_AT_ONCE = 16  # the decoder's fine features take about 8 MB for each box


class Segmenter:
    """A loaded SAM 2. The embeddings of the last pictures are kept for further boxes.

    Args:
        model: the package's model.
        device: where it runs, always in float32.
    """

    def __init__(self, model: Any, device: str) -> None:
        self.model = model.eval().requires_grad_(False).to(device)
        self._predictor = lru_cache(IMAGES_KEPT)(self._embedded)

    def masks(self, image: Image, boxes: NDArray[np.float32]) -> Mask:
        """One mask for each box (PROTOCOL.md, Masks).

        Args:
            image: ``[height, width, 3]``.
            boxes: ``[n, 4]``: left, top, right, bottom in pixels.

        Returns:
            ``[n, height, width]``.
        """
        if not len(boxes):
            return np.zeros((0, *image.shape[:2]), bool)
        predictor = self._predictor(image.shape, image.tobytes())
        parts = [
            predictor.predict(box=boxes[start : start + BOXES_AT_ONCE], multimask_output=False)[0]
            for start in range(0, len(boxes), BOXES_AT_ONCE)
        ]
        # The package drops the axis of boxes when there is one.
        return np.concatenate([part.reshape(-1, *image.shape[:2]) for part in parts]) > 0

    def _embedded(self, shape: tuple[int, ...], pixels: bytes) -> Any:
        """A predictor that has embedded a picture."""
        with quiet():
            predictor = gsam_module("sam2.sam2_image_predictor").SAM2ImagePredictor(self.model)
        predictor.set_image(np.frombuffer(pixels, np.uint8).reshape(shape).copy())
        return predictor


def build_sam2(config: str = PUBLISHED, sizes: Path | None = None) -> Any:
    """The package's model with random weights.

    Args:
        config: a configuration of the package, a path inside it.
        sizes: a JSON file of settings that replace those of ``model`` in the configuration.

    Raises:
        UserError: if there is no such configuration, or the model cannot have the file's sizes.
    """
    package = Path(gsam_module("sam2").__file__).parent
    omegaconf, hydra, errors = (gsam_module(name) for name in ("omegaconf", "hydra.utils", "hydra.errors"))
    if not (package / config).is_file():
        known = ", ".join(sorted(str(p.relative_to(package)) for p in package.glob("configs/sam2.1/*.yaml")))
        raise UserError(f"sam2 has no configuration {config!r}; known: {known}")
    settings = omegaconf.OmegaConf.load(package / config).model
    if sizes is not None and sizes.is_file():
        settings = _with_sizes(settings, sizes)
    settings.sam_mask_decoder_extra_args = STABILITY
    try:
        return hydra.instantiate(settings, _recursive_=True)
    except errors.InstantiationException as error:
        first = str(error).partition("\n")[0]
        raise UserError(f"{sizes or config}: there is no SAM 2 of these sizes ({first})") from None


def _with_sizes(settings: Any, path: Path) -> Any:
    """Settings with the values of a file, which may change values and add none."""
    omegaconf = gsam_module("omegaconf")
    try:
        sizes = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); expected sizes of SAM 2") from None
    # A target names code to run, which a file beside weights must not choose.
    if "_target_" in json.dumps(sizes):
        raise UserError(f"{path} sets '_target_', which is not a size; take it out")
    omegaconf.OmegaConf.set_struct(settings, True)
    try:
        merged = omegaconf.OmegaConf.merge(settings, sizes)
    except (omegaconf.errors.OmegaConfBaseException, ValueError) as error:
        first = str(error).partition("\n")[0]
        raise UserError(f"{path}: {first}; expected sizes of SAM 2") from None
    omegaconf.OmegaConf.set_struct(merged, False)
    return merged


def load_segmenter(checkpoint: Path, config: str = PUBLISHED, device: str = "cpu") -> Segmenter:
    """Load SAM 2 from its checkpoint; a JSON file beside it, with the same name, may change the sizes.

    Raises:
        UserError: if a package or a file is missing, or if the checkpoint does not fit.
    """
    gsam_module("sam2")
    state = read_state(checkpoint, ADDRESS)
    model = build_sam2(config, checkpoint.with_suffix(".json"))
    fit(model, state, checkpoint)
    return Segmenter(model, device)
