"""Where checks are made: a device, the models on it, the weights of the instruments."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from riebench.models import Model, Run
from riebench.pairs import Pair
from riebench.settings.settings import parse_settings
from riebench.standin.on_device import model_on
from riebench.standin.size import Size
from riebench.standin.write import Writers, masker_parts, scorer_parts
from riebench.weights.places import STANDIN

T = TypeVar("T")
BASE, SOURCE = "a newt in a hat", "a toad in a hat"
PAIRS = [
    Pair(
        id=f"p{seed}",
        editing_type_id=1,
        original_prompt="a [newt] in a hat",
        editing_prompt="a [toad] in a hat",
        original_gsam_prompt="newt",
        editing_gsam_prompt="toad",
        seed=seed,
    )
    for seed in (3, 4, 5)
]
TINY_PICTURE = 64  # pixels; the models' own, 512, make a processor work long


@dataclass
class Place:
    """Where checks are made.

    Attributes:
        device: the device under test.
        size: of the models.
        work: a folder for weights and runs.
        exact: name of a model to its base and source run in float32, to compare other types with.
        rounding: name of a model and a type to how far its runs are from those, see :func:`gpu_checks.pictures.apart`.
    """

    device: torch.device
    size: Size
    work: Path
    exact: dict[str, list[Run]] = field(default_factory=dict)
    rounding: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)
    _models: dict[tuple[str, str], Model] = field(default_factory=dict)
    _written: set[str] = field(default_factory=set)

    @property
    def cuda(self) -> bool:
        """Whether it is a GPU of CUDA's."""
        return self.device.type == "cuda"

    def model(self, name: str, dtype: str) -> Model:
        """A random model of a type; one at a time is held."""
        if (name, dtype) not in self._models:
            self.forget()
            self._models[name, dtype] = model_on(self.device, name, self.size, self.settings(dtype=dtype))
            self.start_measuring()  # of its use; it was larger while it was made
        return self._models[name, dtype]

    def settings(self, **more: Any) -> Any:
        """Settings of a model here."""
        size = TINY_PICTURE if self.size == "tiny" else None
        return parse_settings({"device": str(self.device), "size": size, **more})

    def forget(self) -> None:
        """Let go of the model, with its memory."""
        self._models.clear()
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    def start_measuring(self) -> None:
        """Begin to watch for the peak of device memory."""
        if self.cuda:
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> int | None:
        """The most device memory that was in use at once since then, bytes."""
        return torch.cuda.max_memory_allocated(self.device) if self.cuda else None

    def timed(self, work: Callable[[], T]) -> tuple[T, float]:
        """What some work gives, and the seconds until the device has done it."""
        self._wait()
        started = time.perf_counter()
        result = work()
        self._wait()
        return result, time.perf_counter() - started

    def _wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)

    @property
    def weights(self) -> Path:
        """Folder of random weights for the instruments."""
        return self.work / "weights"

    @property
    def has_masker(self) -> bool:
        """Whether Grounded SAM 2 is among them."""
        return "masker" in self._written

    def write_scorers(self) -> None:
        """See that a random CLIP and LPIPS are there."""
        self._write("scorers", scorer_parts)

    def write_masker(self) -> None:
        """See that a random Grounded SAM 2 is there.

        Raises:
            UserError: if its packages are not installed.
        """
        self._write("masker", masker_parts)

    def _write(self, name: str, parts: Callable[[Path, Size, int], Writers]) -> None:
        if name not in self._written:
            self.weights.mkdir(exist_ok=True)
            (self.weights / STANDIN).write_text("{}\n")
            for write in parts(self.weights, self.size, 0).values():
                write()
            self._written.add(name)
