"""The folder in which a feature index is made: whose it is, and whether it is whole. Needs no torch."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from riebench.features.feature_index import FACTS, UNFINISHED, FeatureIndex, is_index
from riebench.util.errors import UserError
from riebench.util.work_folder import LOCK, WRITER

log = logging.getLogger(__name__)


class PlannedIndex(NamedTuple):
    """An index that is to be made.

    Attributes:
        sae: fingerprint of the SAE.
        site: where the SAE reads.
        model: name of the model.
        steps: denoising steps.
        prompts: where the prompts come from.
        prompted: prompts and seeds.
        model_fingerprint: of the model's weights; None before they are read.
    """

    sae: str
    site: str
    model: str
    steps: int
    prompts: str
    prompted: Sequence[tuple[str, int]]
    model_fingerprint: str | None = None


def refuse_another_index(folder: Path, planned: PlannedIndex) -> None:
    """See that a folder holds no index of another SAE, model or other pictures; a damaged index is made again.

    Raises:
        UserError: if it does, or the index is of a newer version; the message says what differs.
    """
    if not is_index(folder):
        return
    try:
        facts = FeatureIndex(folder).facts
    except UserError:
        _refuse_newer(folder)
        return
    pairs: dict[str, tuple[object, object]] = {
        "SAE (by its fingerprint)": (facts.sae, planned.sae),
        "site": (facts.site, planned.site),
        "model": (facts.model, planned.model),
        "model's weights": (facts.model_fingerprint, planned.model_fingerprint or facts.model_fingerprint),
        "steps": (facts.steps, planned.steps),
        "--prompts": (facts.prompts, planned.prompts),
        "--count": (facts.pictures_made, len(planned.prompted)),
    }
    for name, (has, expected) in pairs.items():
        if has != expected:
            raise UserError(f"{folder} holds an index of other {name}: {has}, not {expected}; give another --out")
    for number, (prompt, seed) in facts.prompted.items():
        if tuple(planned.prompted[number]) != (prompt, seed):
            other = f"{prompt!r} is now {planned.prompted[number][0]!r}"
            raise UserError(f"{folder} holds an index of other prompts ({other}); give another --out")


def _refuse_newer(folder: Path) -> None:
    try:
        version = json.loads((folder / FACTS).read_bytes())["schema_version"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if isinstance(version, int) and version > 1:
        raise UserError(f"{folder} holds an index of schema_version {version}, of a newer riebench; give another --out")


def whole_index(folder: Path) -> FeatureIndex | None:
    """The index in a folder whose files can all be read; None if there is none, with a warning if it is damaged."""
    if not is_index(folder):
        return None
    try:
        index = FeatureIndex(folder)
        index.heat  # noqa: B018  # read, and checked
        for number in index.facts.prompted:
            with Image.open(index.file(number)) as image:
                image.verify()
    except (UserError, OSError, UnidentifiedImageError, SyntaxError) as error:
        log.warning("%s is damaged and is made again (%s)", folder, error)
        return None
    return index


def check_index_folder(out: Path) -> None:
    """See that a folder is new, empty, a feature index or an unfinished one, and that it can be written.

    Raises:
        UserError: if it is not.
    """
    begun = is_index(out) or (out / UNFINISHED).is_file()
    if out.exists() and not begun and (not out.is_dir() or any(p.name not in (LOCK, WRITER) for p in out.iterdir())):
        raise UserError(f"{out} holds something else than a feature index and would be lost; give another folder")
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {out} cannot be written: {error.strerror}; give another") from None
    if not os.access(out.absolute().parent, os.W_OK):
        raise UserError(f"the folder {out} cannot be written; give another")
