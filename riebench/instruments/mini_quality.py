"""Measure the models of the drawn world against their quality bars, on prompts and seeds that no training saw."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from riebench.instruments.mini_instruments import MiniInstruments
from riebench.mini.grammar import (
    ATTRIBUTES,
    BACKGROUND_NOUNS,
    Scene,
    held_out,
    prompt,
    random_prompt,
    random_scene,
    visible,
)
from riebench.mini.layout import Layout, layout_of_seed
from riebench.mini.masker import MiniMasker
from riebench.mini.reader import judge, read_all, read_scene
from riebench.mini.render import NOUNS, draw, noun_mask
from riebench.models import Edit, Model
from riebench.sae.variance import explained_variance
from riebench.util.progress import Track

FIRST_SEED = 500_000


@dataclass(frozen=True)
class Measure:
    """One number with its bars; without a bar it is only shown."""

    name: str
    value: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def passed(self) -> bool:
        """Whether the number meets its bars."""
        low = self.at_least is None or self.value >= self.at_least
        return low and (self.at_most is None or self.value <= self.at_most)


@dataclass(frozen=True)
class Bars:
    """The quality that a model of the drawn world has to reach.

    Attributes:
        read: attribute to the share of pictures that show it as prompted, in one step; four may lose .08 of it.
        psnr: to the true drawing in one step, dB; None asks for nothing.
        steered: the mean over attributes of the share of edits that arrive with all default sites together.
        but: attributes that this mean leaves out.
        alone: each default site's share of edits that arrive, in its best attribute; None asks for nothing.
        explained: variance that each SAE explains.
    """

    read: Mapping[str, float]
    psnr: float | None
    steered: float
    but: tuple[str, ...]
    alone: float | None
    explained: float


BARS = {
    "mini": Bars(
        dict.fromkeys(ATTRIBUTES, 0.97) | {"material": 0.90, "all at once": 0.75}, 26.0, 0.95, ("material",), 0.50, 0.85
    ),
    "mini-flux": Bars(dict.fromkeys(ATTRIBUTES, 0.95) | {"style": 0.90, "material": 0.90}, None, 0.80, (), None, 0.90),
}
"""Model to its bars."""


def fresh(count: int, start: int = FIRST_SEED) -> list[tuple[Scene, int]]:
    """Held-out scenes with held-out seeds, the same at each call."""
    return [(random_scene(np.random.default_rng([start + i, 11]), held=True), start + i) for i in range(count)]


def _unit(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float32) / 255


def accuracy(model: Model, count: int, steps: int, track: Track = iter) -> list[Measure]:
    """Share of attributes that read as prompted, one of all alternatives; all at once; PSNR to the drawing."""
    right: dict[str, list[bool]] = defaultdict(list)
    errors: list[float] = []
    chosen = fresh(count)
    for start in track(range(0, count, 20)):
        part = chosen[start : start + 20]
        prompts = [random_prompt(scene, np.random.default_rng([seed, 12])) for scene, seed in part]
        runs = model.generate(prompts, [seed for _, seed in part], steps)
        for (scene, seed), run in zip(part, runs, strict=True):
            image, layout = _unit(run.image), layout_of_seed(seed)
            correct = {name: value == getattr(scene, name) for name, value in read_all(image, scene, layout).items()}
            for name, ok in correct.items():
                right[name].append(ok)
            right["all at once"].append(all(correct.values()))
            errors.append(float(np.mean((image - draw(scene, layout).image) ** 2)))
    less = 0.0 if steps == 1 else 0.08
    bars, unit = BARS[model.entry.name], f"{steps} step" + "s" * (steps > 1)
    measures = [
        Measure(f"{unit}: {name}", float(np.mean(shares)), bars.read[name] - less if name in bars.read else None)
        for name, shares in right.items()
    ]
    psnr = float(np.mean([-10 * np.log10(e) for e in errors]))
    return [*measures, Measure(f"{unit}: PSNR, dB", psnr, bars.psnr if steps == 1 else None)]


def _steered_pair(attribute: str, seed: int) -> tuple[Scene, Scene]:
    rng = np.random.default_rng([seed, 13])
    while True:
        base = random_scene(rng, held=True)
        others = [v for v in ATTRIBUTES[attribute] if v != getattr(base, attribute)]
        source = base.changed(**{attribute: str(rng.choice(others))})
        seen = visible(base, attribute) and visible(source, attribute)
        if held_out(source) and seen and (attribute == "style" or base.style != "sketch"):
            return base, source


def steering(model: Model, count: int, track: Track = iter) -> list[Measure]:
    """Share of pairs in which steering with the whole grid as mask turns base into source, by block and attribute.

    An edit arrived if the attribute reads as the source's, out of all its values.
    """
    sites, bars = model.default_sites, BARS[model.entry.name]
    sets = {name: ((name,), 2.0) for name in sites} | {"together": (sites, 1.0)}
    shares: dict[tuple[str, str], list[bool]] = defaultdict(list)
    jobs = [(a, FIRST_SEED + 10_000 + i) for a in ATTRIBUTES for i in range(count)]
    for index in track(range(len(jobs))):
        attribute, seed = jobs[index]
        base, source = _steered_pair(attribute, seed)
        layout, prompts = layout_of_seed(seed), [prompt(base), prompt(source)]
        base_run, source_run = model.generate(prompts, [seed, seed], 1, capture=sites)
        delta = {site: source_run.values[site] - base_run.values[site] for site in sites}
        edits = [Edit({site: delta[site] for site in chosen}, m) for chosen, m in sets.values()]
        for name, run in zip(
            sets, model.generate([prompts[0]] * len(edits), [seed] * len(edits), 1, edits=edits), strict=True
        ):
            shares[name, attribute].append(judge(_unit(run.image), base, source, layout).edit_success)
    measures = []
    for name, (_, strength) in sets.items():
        by = {a: float(np.mean(shares[name, a])) for a in ATTRIBUTES}
        measures += [Measure(f"steering {name} x {strength:g}: {a}", value) for a, value in by.items()]
        if name == "together":
            mean = float(np.mean([v for a, v in by.items() if a not in bars.but]))
            name_of_mean = " but ".join(["mean", *bars.but])
            measures.append(Measure(f"steering together x 1: {name_of_mean}", mean, bars.steered))
        else:
            measures.append(Measure(f"steering {name} x 2: best attribute", max(by.values()), bars.alone))
    return measures


def reader(count: int, track: Track = iter) -> list[Measure]:
    """Accuracy of the attribute reader on held-out drawings, noisy, from a guess that is wrong in two attributes."""
    right: dict[str, list[bool]] = defaultdict(list)
    chosen = fresh(count, FIRST_SEED + 20_000)
    for index in track(range(count)):
        scene, seed = chosen[index]
        layout, rng = layout_of_seed(seed), np.random.default_rng(seed)
        image = draw(scene, layout).image + rng.normal(0, 0.1, (128, 128, 3)).astype(np.float32)
        wrong = rng.choice(list(ATTRIBUTES), size=2, replace=False)
        guess = scene.changed(**{str(n): str(rng.choice(ATTRIBUTES[str(n)])) for n in wrong})
        shown = read_scene(image, [guess], layout)
        for name in ATTRIBUTES:
            if visible(scene, name):
                right[name].append(visible(shown, name) and getattr(shown, name) == getattr(scene, name))
    return [Measure(f"reader: {name}", float(np.mean(right[name])), 0.97) for name in ATTRIBUTES]


def masks(count: int, track: Track = iter, masker: MiniMasker | None = None) -> list[Measure]:
    """Mean IoU of the masker over nouns that the picture shows, and the share of other nouns that give a mask."""
    masker = masker or MiniInstruments().masker()
    ious: dict[str, list[float]] = defaultdict(list)
    alarms: list[bool] = []
    chosen = fresh(count, FIRST_SEED + 30_000)
    for index in track(range(count)):
        scene, seed = chosen[index]
        drawing = draw(scene, layout_of_seed(seed))
        image = np.round(drawing.image * 255).astype(np.uint8)
        for noun in NOUNS:
            truth = noun_mask(scene, drawing, noun)
            instances = masker.find(image, noun)
            union = instances.any(0) if len(instances) else np.zeros_like(truth)
            if truth.any():
                ious[noun].append(float((union & truth).sum() / (union | truth).sum()))
            elif noun not in BACKGROUND_NOUNS or scene.style != "sketch":
                alarms.append(bool(union.any()))
    by = [Measure(f"masker: IoU of {noun!r}", float(np.mean(v))) for noun, v in sorted(ious.items())]
    mean = float(np.mean([m.value for m in by]))
    return [
        *by,
        Measure("masker: mean IoU over nouns", mean, 0.85),
        Measure("masker: false alarms", float(np.mean(alarms)), at_most=0.05),
    ]


def captions(count: int, track: Track = iter) -> list[Measure]:
    """CLIP: the right caption among 100, and against captions wrong in one attribute."""
    clip = MiniInstruments().clip()
    rng = np.random.default_rng(FIRST_SEED + 40_000)
    hits: list[bool] = []
    right: dict[str, list[bool]] = defaultdict(list)
    chosen = fresh(count, FIRST_SEED + 40_000)
    for index in track(range(count)):
        scene, seed = chosen[index]
        image = np.round(draw(scene, layout_of_seed(seed)).image * 255).astype(np.uint8)
        wrong = _wrong_captions(scene, rng, 99)
        near = {
            a: [scene.changed(**{a: v}) for v in ATTRIBUTES[a] if v != getattr(scene, a)]
            for a in ATTRIBUTES
            if visible(scene, a)
        }
        texts = [scene, *wrong, *(s for group in near.values() for s in group)]
        embedded = clip.texts([prompt(s) for s in texts])
        scores = (embedded @ clip.images([image])[0]).tolist()
        hits.append(scores[0] > max(scores[1:100]))
        rest = iter(scores[100:])
        for name, group in near.items():
            right[name] += [scores[0] > next(rest) for _ in group]
    measures = [Measure(f"CLIP: right against wrong {n}", float(np.mean(right[n])), 0.90) for n in ATTRIBUTES]
    return [Measure("CLIP: right one of 100", float(np.mean(hits)), 0.95), *measures]


def _wrong_captions(scene: Scene, rng: np.random.Generator, count: int) -> list[Scene]:
    """Scenes that differ visibly in one or more attributes."""
    scenes: list[Scene] = []
    names = [a for a in ATTRIBUTES if visible(scene, a)]
    while len(scenes) < count:
        changed = {
            str(a): str(rng.choice(ATTRIBUTES[a]))
            for a in rng.choice(names, size=int(rng.integers(1, 5)), replace=False)
        }
        other = scene.changed(**changed)
        if other != scene:
            scenes.append(other)
    return scenes


def saes(model: Model, count: int, track: Track = iter) -> list[Measure]:
    """Explained variance of the SAEs on updates of held-out prompts, and the share of features that never fire."""
    sites, bars = model.default_sites, BARS[model.entry.name]
    vectors: dict[str, list[torch.Tensor]] = {site: [] for site in sites}
    chosen = fresh(count, FIRST_SEED + 50_000)
    for start in track(range(0, count, 20)):
        part = chosen[start : start + 20]
        for run in model.generate([prompt(s) for s, _ in part], [seed for _, seed in part], 1, capture=sites):
            for site in sites:
                vectors[site].append(run.values[site][0])
    measures = []
    for site in sites:
        sae, x = model.sae(site), torch.cat(vectors[site])
        dead = 1 - float((sae.encode(x) > 0).any(0).float().mean())
        measures.append(Measure(f"SAE {site}: explained variance", explained_variance(sae, x), bars.explained))
        measures.append(Measure(f"SAE {site}: features that never fire", dead, at_most=0.10))
    return measures


def shown(scene: Scene, image: np.ndarray, layout: Layout) -> dict[str, str]:
    """Attribute to the value that a generated picture shows, given the scene that it is meant to show."""
    return read_all(_unit(image), scene, layout)
