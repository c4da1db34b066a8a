"""Drawn scenes for training, kept as uint8 on disk so that every process maps the same file."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from riebench.mini.grammar import Scene, random_scene
from riebench.mini.layout import layout_of_seed
from riebench.mini.render import SIZE, draw

FIRST_TRAINING_SEED = 1_000_000_000  # every seed below is held out from training
CHUNK = 500


def _scene(index: int) -> Scene:
    return random_scene(np.random.default_rng([7, index]), held=False)


def _draw_chunk(path: str, start: int, stop: int) -> list[dict[str, str]]:
    images = open_memmap(path, mode="r+")
    scenes = [_scene(i) for i in range(start, stop)]
    for i, scene in enumerate(scenes, start):
        images[i] = np.round(draw(scene, layout_of_seed(FIRST_TRAINING_SEED + i)).image * 255)
    return [scene.values() for scene in scenes]


def prepare(folder: Path, count: int) -> None:
    """Draw ``count`` training scenes into ``images.npy`` and ``scenes.json``, unless they are there."""
    if (folder / "scenes.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = str(folder / "images.npy")
    open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, SIZE, SIZE, 3)).flush()
    starts = range(0, count, CHUNK)
    with ProcessPoolExecutor(2) as pool:
        parts = pool.map(_draw_chunk, [path] * len(starts), starts, [min(count, s + CHUNK) for s in starts])
        scenes = [values for part in parts for values in part]
    (folder / "scenes.json").write_text(json.dumps(scenes))


class Scenes:
    """The training scenes: ``images`` uint8 ``[n, 128, 128, 3]``, ``scenes`` and the ``seeds`` of their layouts."""

    def __init__(self, folder: Path) -> None:
        self.images = np.load(folder / "images.npy", mmap_mode="r")
        self.scenes = [Scene(**values) for values in json.loads((folder / "scenes.json").read_text())]
        self.seeds = np.arange(len(self.scenes)) + FIRST_TRAINING_SEED

    def __len__(self) -> int:
        return len(self.scenes)

    def pictures(self, indices: np.ndarray) -> Tensor:
        """Pictures ``[n, 3, 128, 128]`` in -1..1."""
        return to_tensor(self.images[np.sort(indices)])


def to_tensor(images: np.ndarray) -> Tensor:
    """uint8 ``[n, h, w, 3]`` to float32 ``[n, 3, h, w]`` in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
