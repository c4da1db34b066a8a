"""What methods learn from further runs, kept in a run's folder so that a restart need not learn it again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from riebench.engine.recorder import NUMERICS, Recorder
from riebench.records import record_key
from riebench.util.files import write_whole

logger = logging.getLogger(__name__)
FOLDER = "learnt"
Make = Callable[[], Mapping[str, Tensor]]


class LearntFiles:
    """The files of what methods have learnt, each named by a hash of all that can change its content.

    Args:
        folder: of the run; None keeps all in memory.
        recorder: of the run.
        device: that tensors are loaded to.
    """

    def __init__(self, folder: Path | None, recorder: Recorder, device: torch.device) -> None:
        self.folder, self.recorder, self.device = folder and folder / FOLDER, recorder, device
        self._in_memory: dict[str, Mapping[str, Tensor]] = {}

    def of_condition(self, number: int) -> Callable[[str, Make], Mapping[str, Tensor]]:
        """The function of a key and ``make`` that the method of a condition keeps its tensors with."""
        method, recorder = self.recorder.methods[number], self.recorder
        facts = {
            "method": [method.name, method.code, method.in_keys],
            "parts": method.parts,
            "conditions": recorder.conditions,
            "protocol": recorder.request.protocol,
            "steps": recorder.request.steps,
            "numerics": NUMERICS,
        }
        return partial(self._kept, facts)

    def _kept(self, facts: Mapping[str, object], key: str, make: Make) -> Mapping[str, Tensor]:
        name = record_key(**facts, key=key)
        if self.folder is None:
            if name not in self._in_memory:
                self._in_memory[name] = make()
            return self._in_memory[name]
        path = self.folder / f"{name}.safetensors"
        if path.is_file():
            try:
                return load_file(path, device=str(self.device))
            except (SafetensorError, OSError) as error:
                logger.warning("%s cannot be read (%s) and is learnt again", path, error)
        tensors = make()
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))
        return tensors
