"""The pictures of the gallery: read from the run folders, shrunk, as data URIs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from riebench.records.image_hashes import IMAGES
from riebench.report.analysis import Analysis
from riebench.report.sheet import overlay, tile
from riebench.util.html import data_uri

REFERENCES = ("base", "source", "mask-base", "mask-source")
# Side of a picture by how many there are, so that the page stays below about 60 MB.
SIDES = ((10_000, 128), (25_000, 96), (60_000, 64))
SMALLEST = 48


@dataclass(frozen=True)
class Pictures:
    """The contents of the gallery.

    Attributes:
        pairs: id to the data URIs of its pictures, by the names of :data:`REFERENCES` and record key.
        frame: the records of these pairs, with the number of their arm.
        summary: how many pairs have pictures, and how many pictures are missing or damaged.
    """

    pairs: dict[str, dict[str, str]]
    frame: pd.DataFrame
    summary: str


def collect_pictures(analysis: Analysis) -> Pictures:
    """Find and shrink the pictures of every pair that has its base picture in one of the runs."""
    folders = [_images(source.path) for source in analysis.group.sources.values()]
    frame = pd.concat([arm.records.assign(arm=i) for i, arm in enumerate(analysis.arms)]).sort_index()
    homes = {pair: [f for f in folders if (f / f"{pair}-base.png").is_file()] for pair in analysis.pairs.ids}
    homes = {pair: at for pair, at in homes.items() if at}
    frame = frame[frame["pair_id"].isin(list(homes))]
    keys_of = frame[frame["status"] == "ok"].groupby("pair_id")["key"].agg(list).to_dict()
    count = sum(len(keys) for keys in keys_of.values()) + len(REFERENCES) * len(homes)
    side = next((size for most, size in SIDES if count <= most), SMALLEST)
    with ThreadPoolExecutor(2) as pool:
        jobs = {pair: pool.submit(_of_pair, pair, at, keys_of.get(pair, []), side) for pair, at in homes.items()}
        pairs = {pair: job.result() for pair, job in jobs.items()}
    missing = count - sum(len(uris) for uris in pairs.values())
    return Pictures(pairs, frame, _how_many(len(pairs), len(analysis.pairs.ids), missing))


def _images(path: Path) -> Path:
    return (path if path.is_dir() else path.parent) / IMAGES


def _how_many(shown: int, pairs: int, missing: int) -> str:
    if not shown:
        return "No pictures were kept: run with --keep-images to have them here."
    text = f"{shown} of {pairs} pairs have pictures." if shown < pairs else f"All {pairs} pairs have pictures."
    return f"{text} {missing} pictures are missing or damaged." if missing else text


def _of_pair(pair: str, folders: Sequence[Path], keys: Sequence[str], side: int) -> dict[str, str]:
    uris: dict[str, str] = {}
    for name in (*REFERENCES, *keys):
        for folder in folders:
            uri = _uri(folder, pair, name, side)
            if uri:
                uris[name] = uri
                break
    return uris


def _uri(folder: Path, pair: str, name: str, side: int) -> str | None:
    """A picture as a small WebP, a mask as red over the greyed picture it belongs to; None if it cannot be read."""
    path = folder / f"{pair}-{name}.png"
    masked = folder / f"{pair}-{name.removeprefix('mask-')}.png"
    picture = overlay(masked, path, side) if name.startswith("mask-") else tile(path, side)
    if picture is None:
        return None
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=82, method=1)
    return data_uri(buffer.getvalue(), "image/webp")
