"""A cache of masks on the disk, by picture and phrase, so that a sweep detects once."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from riebench.masks.region import Image, Mask, Masker
from riebench.util.errors import UserError
from riebench.util.files import write_whole


class DescribedMasker(Masker, Protocol):
    """A masker with a description of the options that its masks depend on."""

    def describe(self) -> Mapping[str, str | float]:
        """Every option that can change a mask, as JSON takes it."""
        ...


class CachedMasker:
    """A masker that caches the masks of another masker.

    Args:
        masker: the other masker.
        folder: of the cache; several processes may share it.

    Raises:
        UserError: if the folder cannot be created.
    """

    def __init__(self, masker: DescribedMasker, folder: Path) -> None:
        self.masker = masker
        self.folder = folder
        self.name = masker.name
        self.fingerprint = masker.fingerprint
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot keep masks in {folder} ({error.strerror}); name a folder to write to") from None

    def describe(self) -> Mapping[str, str | float]:
        """The inner masker's options."""
        return self.masker.describe()

    def find(self, image: Image, phrase: str) -> Mask:
        """Instance masks ``[n, height, width]``, from the cache if possible; n = 0 is cached too.

        Raises:
            PairError: from the inner masker; it is not cached.
            UserError: if a mask cannot be written.
        """
        path = self._path(image, phrase)
        kept = read_masks(path, image.shape[0], image.shape[1])
        if kept is None:
            kept = self.masker.find(image, phrase)
            write_masks(path, kept)
        return kept

    def _path(self, image: Image, phrase: str) -> Path:
        request = {
            "masker": self.name,
            "weights": self.fingerprint,
            "options": dict(self.describe()),
            "phrase": phrase,
            "shape": image.shape,
            "image": hashlib.sha256(image.tobytes()).hexdigest(),
        }
        key = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        return self.folder / key[:2] / f"{key}.npz"


def read_masks(path: Path, height: int, width: int) -> Mask | None:
    """The masks ``[n, height, width]`` in a file; None if the file is missing, damaged or of another size."""
    try:
        with np.load(path, allow_pickle=False) as saved:
            bits, count = saved["bits"], int(saved["count"])
            pixels = np.unpackbits(bits, count=count * height * width)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    # Packing rounds up to whole bytes; any other length is damage.
    right = bits.size == -(-count * height * width // 8)
    return pixels.reshape(count, height, width).astype(bool) if right else None


def write_masks(path: Path, masks: Mask) -> None:
    """Write masks ``[n, height, width]``; a reader sees the whole file or none.

    Raises:
        UserError: if the file cannot be written.
    """
    data = io.BytesIO()
    np.savez_compressed(data, bits=np.packbits(masks), count=np.int64(len(masks)))
    try:
        write_whole(path, data.getvalue())
    except OSError as error:
        raise UserError(f"cannot write a mask to {path.parent} ({error.strerror}); make room for it") from None
