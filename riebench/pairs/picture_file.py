"""Read a picture that a user hands in: the one place where kinds of files are judged. Needs no torch."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from riebench.util.errors import PairError

WHERE = "pictures"
"""The stage that records of unreadable pictures name."""
PLAIN = ("1", "L", "P", "RGB")
"""Modes of Pillow that become RGB without a choice."""
LOSSLESS = ("PNG", "BMP", "GIF", "PPM", "TIFF")
LOSSY = "lossy"
CAMERA = "MPO"
"""A JPEG with further pictures behind the one that is meant, as cameras write it."""
ORIENTATION = 0x0112
WHITE = (255, 255, 255, 255)


class PictureFile(NamedTuple):
    """A picture that was read.

    Attributes:
        pixels: uint8 ``[height, width, 3]``.
        sha256: of the file.
        format: as ``PNG``; ``JPEG, lossy`` where the pixels are not those that the editor made.
        changes: what was done to the file's pixels, as ``transparency on white``; empty for nearly every picture.
    """

    pixels: NDArray[np.uint8]
    sha256: str
    format: str
    changes: str

    @property
    def identity(self) -> str:
        """What a record's key has of the picture: the hash, and what was done to the pixels."""
        return f"{self.sha256} {self.changes}".strip()


def read_picture(file: Path) -> PictureFile:
    """A picture as viewers show it: turned as its EXIF says, transparency on white, 16 bits scaled to 8, in sRGB.

    Raises:
        PairError: if the file is missing, no picture, animated, or its colours are undefined without further facts
            (CMYK, floating point, 32 bits).
    """
    try:
        data = file.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            pixels, changes = _rgb(image)
            return PictureFile(pixels, hashlib.sha256(data).hexdigest(), _format(image, data), "; ".join(changes))
    except FileNotFoundError:
        raise PairError(f"there is no picture {file.name} in {file.parent}", WHERE) from None
    except UnidentifiedImageError:
        raise PairError(f"{file.name} cannot be read as a picture (its kind is not known)", WHERE) from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, ImageCms.PyCMSError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).splitlines()[0]
        raise PairError(f"{file.name} cannot be read as a picture ({reason})", WHERE) from None


def _rgb(image: Image.Image) -> tuple[NDArray[np.uint8], list[str]]:
    """The pixels ``[height, width, 3]``, and what was done to them.

    Raises:
        ValueError: if the picture is of a kind that is refused.
    """
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != CAMERA:
        raise ValueError(f"it is animated, with {frames} frames; save one of them")
    changes = []
    if (orientation := image.getexif().get(ORIENTATION, 1)) in range(2, 9):
        changes.append(f"turned by EXIF orientation {orientation}")
    profile, is_png = image.info.get("icc_profile"), image.format == "PNG"
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and is_png):
        image = _from_sixteen_bits(image)
        changes.append("16 bits scaled to 8")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        if rgba.getchannel("A").getextrema() != (255, 255):
            changes.append("transparency on white")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, WHITE), rgba).convert("RGB")
    if image.mode not in PLAIN:
        raise ValueError(f"its colours are {image.mode}; save it as RGB with 8 bits")
    image = image.convert("RGB")
    if profile and (name := _other_colours(profile)):
        image = _in_srgb(image, profile)
        changes.append(f"from the colours {name} to sRGB")
    return np.asarray(image), changes


def _from_sixteen_bits(image: Image.Image) -> Image.Image:
    """A grey picture of 16 bits in 8: 65535 becomes 255. Pillow would clip it instead."""
    if "transparency" in image.info:
        raise ValueError("it has 16 bits and a transparent grey; save it as RGB with 8 bits")
    return Image.fromarray(np.round(np.asarray(image, np.float64) / 257).astype(np.uint8))


def _other_colours(profile: bytes) -> str:
    """The name of a colour profile that is not sRGB, and of colours; else, or if it is damaged, empty."""
    try:
        parsed = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        name = ImageCms.getProfileDescription(parsed).strip()
    except (OSError, ImageCms.PyCMSError):  # viewers take sRGB then
        return ""
    return "" if "srgb" in name.lower() or parsed.profile.xcolor_space.strip() != "RGB" else name or "unnamed"


def _in_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """A picture of a profile's colours in those of sRGB."""
    own, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, own, srgb)
    assert converted is not None  # it is None only where the picture itself is changed
    return converted


def _format(image: Image.Image, data: bytes) -> str:
    """The kind of file, and whether it loses something of the pixels."""
    lossless = image.format in LOSSLESS or (image.format == "WEBP" and b"VP8L" in _webp_chunks(data))
    palette = ", 256 colours" if image.mode == "P" else ""
    return f"{image.format}{'' if lossless else f', {LOSSY}'}{palette}"


def _webp_chunks(data: bytes) -> list[bytes]:
    """The names of the chunks of a WebP file: pixels are in ``VP8L`` without loss, or in ``VP8 ``."""
    names, start = [], 12
    while start + 8 <= len(data):
        names.append(data[start : start + 4])
        size = int.from_bytes(data[start + 4 : start + 8], "little")
        start += 8 + size + size % 2
    return names
