"""Write a complete set of random weights in the published layouts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from riebench.models import ModelEntry, entry_named, model_names
from riebench.standin.size import Size, Writers
from riebench.util.errors import UserError, unknown
from riebench.util.plugins import load_object
from riebench.weights.places import STANDIN


def write_standin(root: Path, model: str, size: Size, seed: int = 0) -> Iterator[str]:
    """Write random weights of a model and its instruments; yields the name of each part before it is written.

    The entry's ``standin`` names the function that returns the :data:`Writers` of the model's own parts. Its arguments
    are those of this function. The instruments are the same for all models.

    Args:
        root: folder for the weights: empty, missing, or with an earlier stand-in.
        model: name of the model.
        size: of the weights.
        seed: of the random numbers.

    Raises:
        UserError: if the model's entry names no writer, or the folder holds other files.
    """
    entries = _entries()
    if model not in entries:
        raise unknown("model with stand-ins", model, entries)
    if root.exists() and any(root.iterdir()) and not (root / STANDIN).is_file():
        raise UserError(f"{root} holds files that are no stand-in; give an empty folder")
    own = _family_writer(entries[model])(root, model, size, seed)
    parts: Writers = {**own, **masker_parts(root, size, seed), **scorer_parts(root, size, seed)}
    root.mkdir(parents=True, exist_ok=True)
    note = {"model": model, "size": size, "seed": seed, "weights": "random", "parts": list(parts)}
    (root / STANDIN).write_text(json.dumps(note) + "\n")
    for name, write in parts.items():
        yield name
        write()


def _family_writer(entry: ModelEntry) -> Callable[[Path, str, Size, int], Writers]:
    """The function that returns the writers of a model's own parts."""
    if entry.standin == "sdxl":
        from riebench.standin.pipeline import sdxl_parts

        return sdxl_parts
    if entry.standin == "flux":
        from riebench.standin.flux_pipeline import flux_parts

        return flux_parts
    if entry.standin == "tiny":
        from riebench.standin.tiny_pipelines import tiny_parts

        return tiny_parts
    writer: Callable[[Path, str, Size, int], Writers] = load_object("stand-in writer", entry.standin)
    return writer


def masker_parts(root: Path, size: Size, seed: int) -> Writers:
    """The writers of Grounded SAM 2.

    Raises:
        UserError: if its packages are not installed.
    """
    from riebench.standin.masker_weights import write_grounding_dino, write_sam2

    return {
        "detector and text encoder": lambda: write_grounding_dino(root / "grounding-dino", size, seed),
        "segmenter": lambda: write_sam2(root / "sam2", size, seed),
    }


def scorer_parts(root: Path, size: Size, seed: int) -> Writers:
    """The writers of CLIP and of LPIPS's trunk."""
    from riebench.standin.scorers import write_clip, write_trunk

    return {
        "clip": lambda: write_clip(root / "clip" / "ViT-L-14-openai", size, seed),
        "lpips": lambda: write_trunk(root / "lpips", size, seed),
    }


def _entries() -> dict[str, ModelEntry]:
    """Name to entry of the models whose entries name a writer."""
    entries = {}
    for name in model_names():
        with suppress(UserError):  # a broken plug-in must not hinder others
            entry = entry_named(name)
            if entry.standin:
                entries[name] = entry
    return entries
