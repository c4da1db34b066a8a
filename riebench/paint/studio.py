"""A loaded model with its features and instruments, behind the page. Only one thread at a time may use it."""

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
from riebench.models.sae_sites import read_site
from riebench.models.sites import Run
from riebench.paint.paint_instruments import PaintInstruments
from riebench.paint.painting import painted_run, sae_here, why_unchanged
from riebench.paint.shelf import Shelf
from riebench.paint.snippet import Origin
from riebench.paint.state import MOST_LAYERS, MOST_SEED, MOST_STRENGTH, BrushMask, Layer, State
from riebench.prompts import GRAMMAR
from riebench.util.errors import UserError, unknown

KEPT_RUNS, KEPT_STRIPS = 6, 24
FINE_SIDE = 128
"""Largest number of rows and of columns of a fine brush mask."""
STRENGTHS = (-2, -1, 0, 1, 2, 3, 4)
"""Strengths of the pictures that show the effect of a single feature."""
STRIP_SIDE = 160
ROUNDING = 1
"""The levels, of 255, by which pictures with the same content may differ, since other kernels round otherwise."""
TOO_WEAK = "the layers change no pixel: the change is too weak; raise a strength or paint more"
MOST_ACTIVE = 12


class Studio:
    """Generates the page's pictures and answers its questions on features and scores.

    Args:
        model: the loaded model.
        shelves: site to its features.
        instruments: scorers and masker.
        origin: the call that loads the model, for copied code.
    """

    def __init__(
        self, model: Model, shelves: Mapping[str, Shelf], instruments: PaintInstruments, origin: Origin
    ) -> None:
        self.model, self.shelves, self.instruments, self.origin = model, shelves, instruments, origin
        self._runs: OrderedDict[str, Run] = OrderedDict()
        self._strips: OrderedDict[tuple[str, int, int], bytes] = OrderedDict()
        self._drawn = model.entry.prompts == GRAMMAR

    def facts(self) -> dict[str, Any]:
        """The facts on the model that the page needs at its start."""
        entry, instruments = self.model.entry, self.instruments
        first = next(iter(self.shelves.values())).index.facts
        example = ("a red heart in a meadow", 3) if self._drawn else next(iter(first.prompted.values()))
        return {
            "name": entry.name,
            "weights": self.model.fingerprint,
            "conditions": dict(self.model.conditions),
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
            "masker": instruments.has_masker,
            "phrases": NOUNS if self._drawn and instruments.has_masker else [],
            "missing": instruments.missing,
            "limits": {"layers": MOST_LAYERS, "strength": MOST_STRENGTH, "seed": MOST_SEED},
        }

    @property
    def neutral(self) -> str:
        """The prompt of pictures that show the effect of a single feature; empty for models other than mini."""
        return prompt(DEFAULTS, {"material", "pose", "style", "background"}) if self._drawn else ""

    def shelf(self, site: str) -> Shelf:
        """The features of a site.

        Raises:
            UserError: if the site has no features.
        """
        if site not in self.shelves:
            raise unknown("site with features", site, self.shelves)
        return self.shelves[site]

    def run(self, state: State) -> Run:
        """The run of a state. Without active layers it holds the values of all sites, for :meth:`active_here`."""
        active = any(layer.acts for layer in state.layers)
        return self._run(state, "", () if active else tuple(map(self._read_site, self.shelves)))

    def _run(self, state: State, kind: str, capture: tuple[str, ...]) -> Run:
        key = kind + state.model_dump_json()
        if key not in self._runs:
            self._runs[key] = painted_run(self.model, state, capture)
            while len(self._runs) > KEPT_RUNS:
                self._runs.popitem(last=False)
        self._runs.move_to_end(key)
        return self._runs[key]

    def active_here(self, state: State, site: str, x: float, y: float) -> dict[str, Any]:
        """The features that are most active at a place of a state's picture.

        Args:
            state: the state, with its layers.
            site: the site; empty for all sites, whose features are compared by the multiple of their mean active value.
            x: distance from the left edge as a share of the width; 0 to below 1.
            y: distance from the upper edge as a share of the height; 0 to below 1.

        Raises:
            UserError: if the site has no features.
        """
        shelves = [self.shelf(site)] if site else list(self.shelves.values())
        run = self.run(state)
        read = tuple(self._read_site(shelf.site) for shelf in shelves)
        if any(at not in run.values for at in read):
            run = self._run(state, f"values {site}", read)
        features = [one for shelf in shelves for one in self._active_at(shelf, run, x, y)]
        if not site:
            features.sort(key=lambda one: one["code"] / one["mean"] if one["mean"] else 0.0, reverse=True)
        return {"site": site, "features": features[:MOST_ACTIVE]}

    def _active_at(self, shelf: Shelf, run: Run, x: float, y: float) -> list[dict[str, Any]]:
        """The features of a site that are most active at a place of a run, the largest code first."""
        self._check_sae(shelf)
        rows, columns = self.model.sites[shelf.site].grid
        with torch.no_grad():  # the largest code over all steps, as in the index
            values = run.values[self._read_site(shelf.site)]
            codes = self.model.sae(shelf.site).encode(values.float()).amax(0)
        here = codes[int(y * rows) * columns + int(x * columns)]
        best = here.topk(min(MOST_ACTIVE, len(here)))
        features = []
        for code, number in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            if code > 0:
                feature = shelf.index.feature(number)
                full = max(feature.maximum, float(codes[:, number].max()))
                heat = (codes[:, number] * (FULL / full)).round().byte().tolist()
                features.append({**shelf.row(feature), "code": code, "heat": heat, "grid": (rows, columns)})
        return features

    def _read_site(self, site: str) -> str:
        return read_site(site, self.model.sae(site))

    def _check_sae(self, shelf: Shelf) -> None:
        """Refuse to go on when an SAE is not the one that the features were listed from."""
        if sae_here(self.model, shelf.site) not in (None, shelf.index.facts.sae):
            raise UserError(f"the files of the SAE at {shelf.site} have changed since the start; start paint again")

    def effect(self, site: str, number: int, seed: int) -> Iterator[bytes | None]:
        """The effect of a single feature: pictures of the neutral prompt side by side, as one PNG.

        The feature acts at all positions, with each of :data:`STRENGTHS`. Yields None after each picture and the PNG
        last.

        Raises:
            UserError: if the feature does not exist, or is never active in the index and so has no unit of strength.
        """
        self._check_sae(self.shelf(site))
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
        """The brush mask of a phrase in the picture of a state without layers; see :meth:`PaintInstruments.region`.

        Raises:
            UserError: if the site has no features or there is no masker.
            PairError: if the masker does not detect the phrase.
        """
        self.shelf(site)
        image = self.run(state.unpainted()).image
        return self.instruments.region(image, phrase, shape, self.model.sites[site].grid)

    def scores(self, state: State) -> Iterator[dict[str, Any]]:
        """Yield the scores of a state's picture against the picture without layers, each time with one more score.

        ``unchanged`` holds the reasons if the two pictures are equal, to rounding, although the state has layers.
        """
        scores: dict[str, Any] = {"missing": self.instruments.missing}
        base = self.run(state.unpainted()).image
        yield scores
        edited = self.run(state).image
        if state.layers and np.abs(base.astype(np.int16) - edited).max() <= ROUNDING:
            scores["unchanged"] = why_unchanged(self.model, state) or [TOO_WEAK]
        yield scores
        for part in self.instruments.scores(base, edited, state.prompt, state.seed):
            scores = scores | part
            yield scores

    @contextmanager
    def watched(self, at_step: Callable[[], None]) -> Iterator[None]:
        """Call a function in every denoising step inside a ``with`` statement; its exception ends the generation."""
        last = [site for site in self.model.sites if site in self.shelves or site in self.model.default_sites][-1]
        self.model.stamp()  # follows changes before the hook, which would look like one
        handle = self.model.modules[last].register_forward_hook(lambda *_: at_step())
        try:
            with self.model.unwatched():
                yield
        finally:
            handle.remove()


def png(image: NDArray[np.uint8]) -> bytes:
    """A picture ``[height, width, 3]`` as PNG, compressed fast rather than well."""
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
        "sae": facts.sae,
        "grid": facts.grid,
        "features": len(shelf.index),
        "score_name": facts.score_name,
        "described": bool(shelf.descriptions),
        "pictures_made": facts.pictures_made,
    }


def _grammar() -> list[dict[str, Any]]:
    """The attributes in the order of a prompt, each value with its words; the first value is the default."""
    return [
        {
            "attribute": name,
            "needed": name == "shape",
            "values": [{"value": value, "words": phrase(name, value)} for value in ATTRIBUTES[name]],
        }
        for name in ORDER
    ]
