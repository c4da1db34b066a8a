"""What the study runs: sizes, pairs for the choice of sites, SAEs, and the commands of each stage."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from commands import Command, Commands
from values import read_values

import riebench
from riebench.mini.grammar import (
    ATTRIBUTES,
    contrasts,
    grounding_phrases,
    held_out,
    parse,
    prompt,
    random_scene,
    visible,
)
from riebench.models.entries import entry_named
from riebench.sae.baselines import random_dictionary
from riebench.sae.store import load_sae, save_sae

EDITED = {1: "shape", 2: "addition", 3: "addition", 4: "inside", 5: "pose", 6: "colour", 7: "material", 8: "background"}
EDITED[9] = "style"
CONCEPTS = ("caa", "pca", "probe", "sae-sum", "loreft", "k-steer", "per")
FEATURE = "sae-feature"
CHOICES = ("detection", "effect")
NAMES = (*CONCEPTS, *(f"{FEATURE} {choose}" for choose in CHOICES))
"""Every concept method as tables name it."""
PAIR_METHODS = ("steering", "sae", "random", "prompt")
BUDGET = 0.05
"""LPIPS at which everything is compared."""
AFTER = 300
"""Contrasts up to this number are left to methods; later ones are the pairs on which sites are chosen."""
SAES = ("trained", "frozen", "untrained")


@dataclass(frozen=True)
class Size:
    """How much is done; numbers of pairs are of each category.

    Attributes:
        pairs: on which methods are compared, of both sets.
        choosing: pairs of training scenes on which the sites of each method are chosen.
        single: pairs on which SAEs are compared by one feature.
        curve: pairs of the curves over the number of contrasts.
        counts: numbers of contrasts.
        prompts: whose values SAEs are trained on.
        steps: of their training.
        edits: whose features are tried, of each category.
        features: that are tried of each edit, half of them the best detectors.
        categories: that are run; empty for all.
    """

    pairs: int = 10
    choosing: int = 1
    single: int = 20
    curve: int = 3
    counts: tuple[int, ...] = (2, 8, 128)
    prompts: int = 1000
    steps: int = 1000
    edits: int = 3
    features: int = 24
    categories: tuple[int, ...] = ()


QUARTER = Size(pairs=3, choosing=1, single=5, curve=1, prompts=500, steps=500, edits=1, features=12)
SMALL = Size(
    pairs=1, choosing=1, single=1, curve=1, counts=(2,), prompts=60, steps=20, edits=1, features=4, categories=(6,)
)
"""To try the script out."""


def stages(model: str, work: Path, size: Size, workers: int) -> dict[str, Commands]:
    """Name of a stage to its commands, in the order in which they are run."""

    def run(out: str, *words: str) -> Command:
        """A run with a search for the strengths at the LPIPS."""
        search = ("--strength", "2", "--at-lpips", str(BUDGET), "--at-lpips-most", "64")
        more = ["--keep-images", "0", "--workers", str(workers), "--quiet"]
        more += [word for kind in size.categories for word in ("--category", str(kind))]
        return ["run", "--model", model, *words, *search, *more, "--out", str(work / out)]

    def choose() -> Iterable[Command]:
        file = write_pairs(model, work, size.choosing)
        few = ("--pairs", str(file), "--block", "all", "--alone", "--option", "count=16")
        yield run("choosing", *methods(CONCEPTS), *few)
        yield run("choosing", *methods([FEATURE]), *few)

    def compare(out: str, *pairs: str) -> Callable[[], Iterable[Command]]:
        def commands() -> Iterable[Command]:
            limit = ("--limit", str(size.pairs), *pairs)
            yield run(out, *methods(PAIR_METHODS), "--block", "all", *limit)
            yield from of_concepts(lambda *words: run(out, *words, *limit), chosen_sites(model, work))

        return commands

    def count() -> Iterable[Command]:
        for number in size.counts:
            limit = ("--limit", str(size.curve), "--option", f"count={number}")
            yield from of_concepts(lambda *words, more=limit: run("main", *words, *more), chosen_sites(model, work))

    def single() -> Iterable[Command]:
        for name in SAES:
            folder = ("--set", f"sae.folder={work / 'saes' / name}", "--limit", str(size.single))
            for choose_by in CHOICES:
                few = ("--limit", str(size.pairs)) if choose_by == "effect" else ()
                words = (*methods([FEATURE]), "--option", f"choose={choose_by}", "--block", "all")
                yield run(f"single-{name}", *words, *folder, *few)

    return {
        "collect": collect(model, work, size),
        "train": train(work, size),
        "choose": choose,
        "main": compare("main"),
        "single": single,
        "entangled": compare("entangled", "--pairs", "mini:entangled"),
        "count": count,
    }


def methods(names: Iterable[str]) -> list[str]:
    """The options that name methods."""
    return [word for name in names for word in ("--method", name)]


def of_concepts(run: Callable[..., Command], sites: dict[str, str]) -> Iterable[Command]:
    """The runs of all concept methods, those with the same sites together."""
    for blocks in dict.fromkeys(sites.values()):
        where = [word for block in blocks.split("+") for word in ("--block", block)]
        together = [name for name in CONCEPTS if sites[name] == blocks]
        if together:
            yield run(*methods(together), *where)
        for choose_by in CHOICES:
            if sites[f"{FEATURE} {choose_by}"] == blocks:
                yield run(*methods([FEATURE]), "--option", f"choose={choose_by}", *where)


def collect(model: str, work: Path, size: Size) -> list[Command]:
    """The values of the sites."""
    if (work / "saes" / "trained").exists():
        return []
    words = ["--site", "all", "--prompts", "grammar", "--count", str(size.prompts)]
    return [["sae", "collect", "--model", model, *words, "--out", str(work / "values")]]


def train(work: Path, size: Size) -> Callable[[], Iterable[Command]]:
    """SAEs whose decoder learns, and SAEs whose decoder stays random, with all else equal."""

    def commands() -> Iterable[Command]:
        for name, more in (("trained", ()), ("frozen", ("--decoder", "frozen"))):
            if not (work / "saes" / name).exists():
                out, half = work / "saes" / name, work / "saes" / f"{name}.part"
                words = ("--k", "16", "--expansion", "4", "--steps", str(size.steps), "--batch", "1024")
                yield ["sae", "train", str(work / "values"), *words, *more, "--out", str(half)]
                half.rename(out)

    return commands


def write_untrained(model: str, work: Path) -> None:
    """SAEs of the same sizes with random directions and a tied encoder."""
    for number, site in enumerate(entry_named(model).default_sites):
        out = work / "saes" / "untrained" / site
        if not out.exists():
            like = load_sae(next(iter(sorted((work / "saes" / "trained").glob(f"**/{site}/**/config.json")))).parent)
            save_sae(random_dictionary(like.d_model, like.n_features, like.k or 1, seed=number), out, {"site": site})


def write_pairs(model: str, work: Path, count: int) -> Path:
    """The pairs on which sites are chosen: contrasts of training scenes, none of which a method learns from."""
    file, pairs = work / "choosing.json", []
    for category, name in EDITED.items():
        rng = np.random.default_rng([category, 29])
        while sum(pair["editing_type_id"] == str(category) for pair in pairs) < count:
            number = len(pairs)
            scene = random_scene(rng, held=False)
            values = [value for value in ATTRIBUTES[name] if value != getattr(scene, name)]
            other = scene.changed(**{name: str(rng.choice(values))})
            if (category == 2 and scene.addition != "nothing") or (category == 3 and other.addition != "nothing"):
                continue
            if not (visible(scene, name) and visible(other, name)):
                continue
            before, after = contrasts(prompt(scene), prompt(other), AFTER + number + 1)[-1]
            if held_out(parse(before)) or held_out(parse(after)):
                continue
            phrases = grounding_phrases(name, parse(before), parse(after))
            pairs.append(
                {
                    "id": f"choose-{category}-{number:02d}",
                    "editing_type_id": str(category),
                    "original_prompt": before,
                    "editing_prompt": after,
                    "original_gsam_prompt": phrases[0],
                    "editing_gsam_prompt": phrases[1],
                    "seed": 2_000_000 + number,
                }
            )
    file.write_text(json.dumps(pairs, indent=1))
    return file


def chosen_sites(model: str, work: Path) -> dict[str, str]:
    """The sites of each concept method: those with the largest gain of the margin on the pairs for the choice.

    A pair that does not reach the LPIPS counts as unchanged, with gain 0.
    """
    file = work / "sites.json"
    if not file.exists():
        values = read_values([work / "choosing"])
        gains = values.assign(risen=values["risen"].fillna(0)).groupby(["name", "blocks"], sort=False)["risen"].mean()
        best = {name: gains[name].idxmax() for name in gains.index.unique("name")}
        best[f"{FEATURE} effect"] = best[f"{FEATURE} detection"]
        file.write_text(json.dumps({name: best[name] for name in NAMES}, indent=1))
    chosen: dict[str, str] = json.loads(file.read_text())
    return chosen


def loaded(model: str, work: Path, name: str) -> riebench.Model:
    """The model with one kind of SAEs."""
    return riebench.load(model, sae__folder=str(work / "saes" / name))
