"""The pass over generated pictures in which every feature of some SAEs is measured; it can be gone on with."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from riebench.features.feature_index import UNFINISHED
from riebench.models.model import Model
from riebench.models.sae_sites import read_site
from riebench.prompts import Prompted, prompts_hash
from riebench.sae.sae import SAE
from riebench.util.files import writing_whole
from riebench.util.progress import Track
from riebench.util.work_folder import Ending, InTurn, full_disk, work_off

log = logging.getLogger(__name__)
QUALITY = 80
KEPT_EVERY = 60.0  # seconds
SUMMED = ("active", "total", "highest", "pictures", "heat")
"""The tensors of :class:`FeatureTotals`."""


class IndexPart(NamedTuple):
    """One SAE of several whose indexes are made in one pass.

    Attributes:
        site: where the dictionary reads.
        dictionary: the SAE, on the model's device.
        out: the folder; see :func:`riebench.features.feature_index.check_index_folder`.
        name: of the SAE, for titles.
        fingerprint: of the SAE, as :func:`riebench.sae.folders.sae_fingerprint`.
    """

    site: str
    dictionary: SAE
    out: Path
    name: str
    fingerprint: str


class IndexPass:
    """Generates the pictures and measures every feature in them.

    What is measured is kept in a file of the first part's folder now and then, and when it ends early.

    Args:
        model: the model.
        parts: the SAEs.
        prompted: prompts and seeds.
        steps: denoising steps.
        top: pictures kept for each feature.
        side: of the stored pictures at most, pixels.
        each: whether the largest code in every picture is kept, too.

    Attributes:
        totals: what was measured, for each part.
        pictures: number of each picture that some feature shows, to its file's content.
    """

    def __init__(
        self,
        model: Model,
        parts: Sequence[IndexPart],
        prompted: Sequence[Prompted],
        *,
        steps: int,
        top: int,
        side: int,
        each: bool,
    ) -> None:
        self.model, self.parts, self.prompted, self.steps, self.side = model, parts, prompted, steps, side
        self.facts = {
            "saes": [[part.site, part.fingerprint, len(part.dictionary.W_dec)] for part in parts],
            "model": model.fingerprint,
            "prompts": prompts_hash(prompted),
            "options": [steps, top, side, each],
        }
        self.totals = [
            FeatureTotals(len(part.dictionary.W_dec), model.sites[part.site].positions, top, each) for part in parts
        ]
        self.pictures: dict[int, bytes] = {}
        self.done = 0
        self.most = 2 * sum(each.pictures.numel() for each in self.totals)
        self.file = parts[0].out / UNFINISHED

    def run(self, track: Track) -> Ending:
        """Do what is left, from the file of an earlier pass if there is one; a first Ctrl-C ends it early."""
        self._go_on()
        left = range(self.done, len(self.prompted))
        begin = self.done - self.done % self.model.batch  # the same batches as in one go
        read = {read_site(part.site, part.dictionary) for part in self.parts}
        runs = self.model.runs(self.prompted[begin:], self.steps, read)
        kept, shown = time.perf_counter(), iter(track(left))
        next(shown, None)

        def work(number: int) -> None:
            for _ in range(begin if number == left.start else number, number):
                next(runs)
            self._add(number, next(runs))

        def keep(_: int, __: None) -> None:
            nonlocal kept
            next(shown, None)
            if time.perf_counter() - kept > KEPT_EVERY:
                self.keep()
                kept = time.perf_counter()

        with torch.no_grad():
            ending = work_off(InTurn(work), left, keep, "picture")
        if ending.left:
            self.keep()
        return ending

    def _add(self, number: int, run: Any) -> None:
        for part, each in zip(self.parts, self.totals, strict=True):
            each.add(number, part.dictionary.encode(run.values[read_site(part.site, part.dictionary)].float()))
        self.pictures[number] = _small(run.image, self.side)
        if len(self.pictures) >= self.most:  # forget those that no feature shows any more
            shown_somewhere = set[int]().union(*(each.pictures.unique().tolist() for each in self.totals))
            self.pictures = {number: data for number, data in self.pictures.items() if number in shown_somewhere}
        self.done = number + 1

    def keep(self) -> None:
        """Write what was measured so far into the file.

        Raises:
            UserError: if it cannot be written.
        """
        pictures = {
            number: torch.frombuffer(bytearray(data), dtype=torch.uint8) for number, data in self.pictures.items()
        }
        state = {
            "facts": self.facts,
            "done": self.done,
            "pictures": pictures,
            "totals": [each.state() for each in self.totals],
        }
        with full_disk(self.file), writing_whole(self.file) as file:
            torch.save(state, file)

    def _go_on(self) -> None:
        """Take over what the file holds, if it is of the same pass."""
        try:
            state = torch.load(self.file, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return
        except (OSError, RuntimeError, UnpicklingError, EOFError) as error:
            log.warning("%s cannot be read (%s); the pass begins anew", self.file, str(error).split("\n", 1)[0])
            return
        if state["facts"] != self.facts:
            log.warning("%s is of another pass, which is begun anew", self.file)
            return
        for each, values in zip(self.totals, state["totals"], strict=True):
            each.restore(values)
        self.pictures = {number: data.numpy().tobytes() for number, data in state["pictures"].items()}
        self.done = state["done"]
        log.info("going on with %s: %d of %d pictures are done", self.file, self.done, len(self.prompted))


def _small(image: np.ndarray, side: int) -> bytes:
    picture = Image.fromarray(image)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=QUALITY, method=4)
    return buffer.getvalue()


class FeatureTotals:
    """Sums over the pictures as they pass, and each feature's top pictures with heat maps.

    Args:
        features: number of features.
        positions: number of positions in a picture.
        top: pictures kept for each feature.
        each: whether the largest code in every picture is kept, too.
    """

    def __init__(self, features: int, positions: int, top: int, each: bool = False) -> None:
        self.seen = 0
        self.active = torch.zeros(features, dtype=torch.long)
        self.total = torch.zeros(features, dtype=torch.double)
        self.highest = torch.zeros(features, top)
        self.pictures = torch.full((features, top), -1)
        self.heat = torch.zeros(features, top, positions, dtype=torch.half)
        self._each: list[Tensor] | None = [] if each else None

    def add(self, picture: int, codes: Tensor) -> None:
        """Take in the codes ``[steps, positions, features]`` of a picture."""
        self.seen += codes.shape[0] * codes.shape[1]
        self.active += (codes > 0).sum((0, 1)).cpu()
        self.total += codes.sum((0, 1)).cpu()
        heat = codes.amax(0)
        highest = heat.amax(0).cpu()
        if self._each is not None:
            self._each.append(highest.half())
        rows = (highest > self.highest.amin(1)).nonzero()[:, 0]
        places = self.highest[rows].argmin(1)
        self.highest[rows, places] = highest[rows]
        self.pictures[rows, places] = picture
        self.heat[rows, places] = heat[:, rows.to(heat.device)].T.half().cpu()

    def in_each(self) -> NDArray[np.float32]:
        """Largest code in each picture ``[pictures, features]``; only where ``each`` was asked for."""
        assert self._each is not None
        return torch.stack(self._each).float().numpy()

    def sort(self) -> None:
        """Put the largest codes first."""
        order = self.highest.argsort(dim=1, descending=True)
        self.highest, self.pictures = self.highest.gather(1, order), self.pictures.gather(1, order)
        self.heat = self.heat[torch.arange(len(order))[:, None], order]

    def state(self) -> dict[str, Any]:
        """All that :meth:`restore` needs."""
        tensors = {name: getattr(self, name) for name in SUMMED}
        return {"seen": self.seen, "each": self._each and torch.stack(self._each), **tensors}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over a state."""
        self.seen = int(state["seen"])
        for name in SUMMED:
            setattr(self, name, state[name])
        if self._each is not None:
            self._each = list(state["each"])
