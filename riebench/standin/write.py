"""Write a complete set of random weights in the layouts that the real loaders read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from riebench.standin.size import Size
from riebench.util.errors import UserError, unknown
from riebench.weights.places import STANDIN

MODELS = ("sdxl-turbo", "sdxl-base")


def write_standin(root: Path, model: str, size: Size, seed: int = 0) -> Iterator[str]:
    """Write every part of a model under ``root``; yields the name of each part before it is written.

    Raises:
        UserError: if the model has no stand-in, or there are weights in the folder that are none.
    """
    if model not in MODELS:
        raise unknown("model with stand-ins", model, MODELS)
    if root.exists() and any(root.iterdir()) and not (root / STANDIN).is_file():
        raise UserError(f"{root} holds something that is no stand-in; give an empty folder")
    from riebench.standin.masker_weights import write_grounding_dino, write_sam2
    from riebench.standin.pipeline import write_pipeline
    from riebench.standin.saes import write_saes
    from riebench.standin.scorers import write_clip, write_trunk

    root.mkdir(parents=True, exist_ok=True)
    (root / STANDIN).write_text(json.dumps({"model": model, "size": size, "seed": seed, "weights": "random"}) + "\n")
    parts: dict[str, Callable[[], None]] = {
        "model": lambda: write_pipeline(root / model, model, size, seed),
        "sae": lambda: write_saes(root / "sdxl-turbo-saes", size, seed),
        "detector and text encoder": lambda: write_grounding_dino(root / "grounding-dino", size, seed),
        "segmenter": lambda: write_sam2(root / "sam2", size, seed),
        "clip": lambda: write_clip(root / "clip" / "ViT-L-14-openai", size, seed),
        "lpips": lambda: write_trunk(root / "lpips", size, seed),
    }
    for name, write in parts.items():
        yield name
        write()
