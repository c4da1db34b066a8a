"""A loaded model with its features and judges: all that the page asks of it. One thread at a time may use it."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from riebench.features.feature_index import FULL
from riebench.mini.grammar import ATTRIBUTES, DEFAULTS, ORDER, phrase, prompt
from riebench.mini.render import NOUNS
from riebench.models.model import Model
from riebench.models.sites import Run
from riebench.paint.painting import painted_run
from riebench.paint.picture_scores import Judges
from riebench.paint.shelf import Shelf
from riebench.paint.snippet import Origin
from riebench.paint.state import MOST_LAYERS, MOST_SEED, MOST_STRENGTH, BrushMask, Layer, State
from riebench.prompts import GRAMMAR
from riebench.util.errors import UserError, unknown

KEPT_RUNS, KEPT_STRIPS = 6, 24
FINE_SIDE = 128
"""Rows and columns of a fine brush mask at most."""
STRENGTHS = (-2, -1, 0, 1, 2, 3, 4)
"""Of a feature's effect alone."""
STRIP_SIDE = 160
MOST_ACTIVE = 12


class Studio:
    """See the module.

    Args:
        model: the loaded model.
        shelves: site to its features.
        judges: scorers and masker.
        origin: how the model was loaded, for copied code.
    """

    def __init__(self, model: Model, shelves: Mapping[str, Shelf], judges: Judges, origin: Origin) -> None:
        self.model, self.shelves, self.judges, self.origin = model, shelves, judges, origin
        self._runs: OrderedDict[str, Run] = OrderedDict()
        self._strips: OrderedDict[tuple[str, int, int], bytes] = OrderedDict()
        self._drawn = model.entry.prompts == GRAMMAR

    def facts(self) -> dict[str, Any]:
        """What the page needs to know before it asks for anything."""
        entry, judges = self.model.entry, self.judges
        first = next(iter(self.shelves.values())).index.facts
        example = ("a red heart in a meadow", 3) if self._drawn else next(iter(first.prompted.values()))
        return {
            "name": entry.name,
            "size": self.model.size,
            "device": str(self.model.device),
            "steps": entry.steps,
            "most_steps": entry.most_steps,
            "example": {"prompt": example[0], "seed": example[1] % MOST_SEED},
            "sites": [_site_facts(shelf) for shelf in self.shelves.values()],
            "fine": min(FINE_SIDE, self.model.size),
            "grammar": _grammar() if self._drawn else None,
            "neutral": self.neutral,
            "strengths": STRENGTHS,
            "masker": judges.has_masker,
            "phrases": NOUNS if self._drawn and judges.has_masker else [],
            "missing": judges.missing,
            "limits": {"layers": MOST_LAYERS, "strength": MOST_STRENGTH, "seed": MOST_SEED},
        }

    @property
    def neutral(self) -> str:
        """The prompt that shows a feature's effect alone."""
        return prompt(DEFAULTS, {"material", "pose", "style", "background"}) if self._drawn else ""

    def shelf(self, site: str) -> Shelf:
        """The features of a site.

        Raises:
            UserError: if it has none.
        """
        if site not in self.shelves:
            raise unknown("site with features", site, self.shelves)
        return self.shelves[site]

    def run(self, state: State) -> Run:
        """The generation of a state; without layers with its values, so that *active here* costs nothing more."""
        active = any(layer.acts for layer in state.layers)
        return self._run(state, "", () if active else tuple(self.shelves))

    def _run(self, state: State, kind: str, capture: tuple[str, ...]) -> Run:
        key = kind + state.model_dump_json()
        if key not in self._runs:
            self._runs[key] = painted_run(self.model, state, capture)
            while len(self._runs) > KEPT_RUNS:
                self._runs.popitem(last=False)
        self._runs.move_to_end(key)
        return self._runs[key]

    def active_here(self, state: State, site: str, x: float, y: float) -> dict[str, Any]:
        """The features of a site that are most active at a place of a state's picture.

        Args:
            state: its picture, layers and all.
            site: of the features.
            x: from the left edge, as a share of the width, below 1.
            y: from the upper edge.

        Raises:
            UserError: if the site has no features.
        """
        shelf = self.shelf(site)
        run = self.run(state)
        if site not in run.values:
            run = self._run(state, site, (site,))
        rows, columns = self.model.sites[site].grid
        row, column = int(y * rows), int(x * columns)
        with torch.no_grad():  # over several steps the largest code, as in the index
            codes = self.model.sae(site).encode(run.values[site].float()).amax(0)
        here = codes[row * columns + column]
        best = here.topk(min(MOST_ACTIVE, len(here)))
        found = []
        for code, number in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            if code > 0:
                feature = shelf.index.feature(number)
                full = max(feature.maximum, float(codes[:, number].max()))
                heat = (codes[:, number] * (FULL / full)).round().byte().tolist()
                found.append({**shelf.row(feature), "code": code, "heat": heat})
        return {"site": site, "grid": (rows, columns), "row": row, "column": column, "features": found}

    def effect(self, site: str, number: int, seed: int) -> Iterator[bytes | None]:
        """A feature's effect alone: pictures of the neutral prompt side by side, as one PNG.

        The feature acts everywhere, with each of :data:`STRENGTHS`. Gives None between the pictures and the PNG last.

        Raises:
            UserError: if there is no such feature, or it is never active in the index and so has no unit.
        """
        mean = self.shelf(site).index.feature(number).mean
        if mean is None:
            raise UserError(f"feature {number} of {site} is never active in the index, so it has no unit of strength")
        key = (site, number, seed)
        if key not in self._strips:
            rows, columns = self.model.sites[site].grid
            everywhere = BrushMask(rows=rows, columns=columns, runs=[0, rows * columns])
            tiles = []
            for strength in STRENGTHS:
                layer = Layer(site=site, feature=number, unit=mean, strength=strength, mask=everywhere)
                state = State(
                    model=self.model.entry.name,
                    prompt=self.neutral,
                    seed=seed,
                    steps=self.model.entry.steps,
                    layers=[layer],
                )
                tiles.append(_smaller(painted_run(self.model, state).image))
                yield None
            self._strips[key] = png(np.concatenate(tiles, axis=1))
            while len(self._strips) > KEPT_STRIPS:
                self._strips.popitem(last=False)
        yield self._strips[key]

    def region(self, state: State, site: str, phrase: str, shape: tuple[int, int]) -> BrushMask:
        """Where a phrase is in the picture of a state without layers; see :meth:`Judges.region`.

        Raises:
            UserError: if the site has no features or there is no masker.
            PairError: if the phrase is not found.
        """
        self.shelf(site)
        image = self.run(state.unpainted()).image
        return self.judges.region(image, phrase, shape, self.model.sites[site].grid)

    def scores(self, state: State) -> Iterator[dict[str, Any]]:
        """What the judges say of a state's picture and of that without layers; gives all found so far each time."""
        found: dict[str, Any] = {"missing": self.judges.missing}
        base = self.run(state.unpainted()).image
        yield found
        edited = self.run(state).image
        yield found
        for part in self.judges.scores(base, edited, state.prompt, state.seed):
            found = found | part
            yield found

    @contextmanager
    def watched(self, at_step: Callable[[], None]) -> Iterator[None]:
        """Inside the ``with`` statement a function is called in every denoising step; what it raises ends the work."""
        last = [site for site in self.model.sites if site in self.shelves or site in self.model.default_sites][-1]
        handle = self.model.modules[last].register_forward_hook(lambda *_: at_step())
        try:
            yield
        finally:
            handle.remove()


def png(image: NDArray[np.uint8]) -> bytes:
    """A picture ``[height, width, 3]`` as PNG, quickly rather than small."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _smaller(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if max(image.shape[:2]) <= STRIP_SIDE:
        return image
    return np.asarray(Image.fromarray(image).resize((STRIP_SIDE, STRIP_SIDE), Image.Resampling.LANCZOS))


def _site_facts(shelf: Shelf) -> dict[str, Any]:
    facts = shelf.index.facts
    return {
        "site": shelf.site,
        "sae": facts.name,
        "grid": facts.grid,
        "features": len(shelf.index),
        "score_name": facts.score_name,
        "described": bool(shelf.descriptions),
        "pictures_made": facts.pictures_made,
    }


def _grammar() -> list[dict[str, Any]]:
    """The attributes in the order of a prompt, each value with its words; the first is the one that may go unsaid."""
    return [
        {
            "attribute": name,
            "needed": name == "shape",
            "values": [{"value": value, "words": phrase(name, value)} for value in ATTRIBUTES[name]],
        }
        for name in ORDER
    ]
