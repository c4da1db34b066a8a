"""Whether a folder can take a feature index. Needs no torch."""

from __future__ import annotations

import os
from pathlib import Path

from riebench.features.feature_index import is_index
from riebench.util.errors import UserError


def check_index_folder(out: Path) -> None:
    """See that a folder is new, empty or a feature index, and that it can be written.

    Raises:
        UserError: if it is not.
    """
    if out.exists() and not is_index(out) and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} holds something else than a feature index and would be lost; give another folder")
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {out} cannot be written: {error.strerror}; give another") from None
    if not os.access(out.absolute().parent, os.W_OK):
        raise UserError(f"the folder {out} cannot be written; give another")
