"""What the study runs: sizes, pairs for the choice of sites, SAEs, and what each stage does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from features import judge_features
from values import LPIPS, read_values

import riebench
from riebench.engine.request import resolve
from riebench.engine.run import carry_out
from riebench.engine.run_options import RunOptions
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
from riebench.sae.baselines import random_dictionary
from riebench.sae.store import save_sae

EDITED = {1: "shape", 2: "addition", 3: "addition", 4: "inside", 5: "pose", 6: "colour", 7: "material", 8: "background"}
EDITED[9] = "style"
CONCEPTS = ("caa", "pca", "probe", "sae-sum", "loreft", "k-steer", "per")
FEATURE = "sae-feature"
CHOICES = ("detection", "effect")
NAMES = (*CONCEPTS, *(f"{FEATURE} {choose}" for choose in CHOICES))
"""Every concept method as tables name it."""
PAIR_METHODS = ("steering", "sae", "random", "prompt")
TRIED = {"candidates": 8, "trials": 3}
"""Features whose effect ``choose=effect`` measures, and on how many contrasts."""
FEW = 8
"""Contrasts from which each kind of SAE chooses its feature."""
AFTER = 300
"""Contrasts up to this number are left to methods; later ones are the pairs on which sites are chosen."""
SAES = ("trained", "frozen", "untrained")


@dataclass(frozen=True)
class Size:
    """How much is done; numbers of pairs are of each category.

    Attributes:
        pairs: on which methods are compared, of both sets.
        choosing: categories of the pairs of training scenes, one each, on which the sites of a method are chosen.
        single: pairs on which SAEs are compared by one feature.
        curve: pairs of the curves over the number of contrasts.
        counts: numbers of contrasts beside 32.
        prompts: whose values SAEs are trained on.
        steps: of their training.
        edits: whose features are tried.
        features: that are tried of each edit, half of them the best detectors.
        categories: that are run; empty for all.
    """

    pairs: int = 8
    choosing: tuple[int, ...] = (1, 5, 6, 8)
    single: int = 10
    curve: int = 3
    counts: tuple[int, ...] = (2, 8, 128)
    prompts: int = 1000
    steps: int = 1000
    edits: int = 2
    features: int = 24
    categories: tuple[int, ...] = ()


QUARTER = Size(pairs=1, choosing=(1, 6), single=2, curve=1, prompts=500, steps=500, edits=1, features=12)
SMALL = Size(1, (6,), 1, 1, (2,), prompts=60, steps=20, edits=1, features=4, categories=(6,))
"""To try the script out."""


class Ask(NamedTuple):
    """A method with its options on some blocks; ``alone`` adds each block alone."""

    method: str
    blocks: tuple[str, ...] = ("all",)
    options: dict[str, Any] | None = None
    alone: bool = False


class Study:
    """The stages of the study of a model.

    Args:
        model: its name.
        work: folder of pairs, SAEs and runs.
        size: how much is done.
        workers: processes that work on pairs.
    """

    def __init__(self, model: str, work: Path, size: Size, workers: int) -> None:
        self.model, self.work, self.size, self.workers = model, work, size, workers

    def stages(self) -> dict[str, Callable[[], None]]:
        """Name of a stage to what it does, in the order in which they are done."""
        return {
            "collect": self.collect,
            "train": self.train,
            "choose": self.choose,
            "main": lambda: self.compare("main"),
            "single": self.single,
            "features": lambda: judge_features(self.model, self.work, SAES, self.size.edits, self.size.features),
            "entangled": lambda: self.compare("entangled", pairs="mini:entangled"),
            "count": self.count,
        }

    def run(self, out: str, asks: Iterable[Ask], **more: Any) -> None:
        """A run of several methods, with a search for the strengths at the LPIPS; a pair's contrasts are shared."""
        folder, categories = self.work / out, list(self.size.categories) or None
        common = {"model": self.model, "strength": 2, "at_lpips": LPIPS, "at_lpips_most": 64, "category": categories}
        common |= {"out": folder, "keep_images": 0, "workers": self.workers, "quiet": True, **more}
        options = [RunOptions(a.method, list(a.blocks), options=a.options, alone=a.alone, **common) for a in asks]
        requests = [resolve(each) for each in options]
        request, pairs = requests[0]
        conditions = tuple(condition for each, _ in requests for condition in each.conditions)
        session = carry_out(request.model_copy(update={"conditions": conditions}), pairs, options[0])
        if session.signal is not None:
            sys.exit("interrupted; the records so far are kept")

    def choose(self) -> None:
        """Every concept method on all blocks and on each alone, on pairs of training scenes."""
        if (self.work / "sites.json").exists():
            return
        file = write_pairs(self.work)
        methods = [Ask(name, options={"count": 16}, alone=True) for name in CONCEPTS]
        self.run(
            "choosing",
            [*methods, Ask(FEATURE, options={"count": 16}, alone=True)],
            pairs=file,
            category=list(self.size.choosing),
        )

    def concepts(self, count: int) -> list[Ask]:
        """Every concept method on its sites."""
        sites = self.chosen_sites()
        asks = [Ask(name, tuple(sites[name].split("+")), {"count": count}) for name in CONCEPTS]
        for choose in CHOICES:
            options = {"count": count, "choose": choose, **(TRIED if choose == "effect" else {})}
            asks.append(Ask(FEATURE, tuple(sites[f"{FEATURE} {choose}"].split("+")), options))
        return asks

    def compare(self, out: str, **more: Any) -> None:
        """All methods."""
        asks = [*map(Ask, PAIR_METHODS), *self.concepts(32)]
        self.run(out, asks, limit=self.size.pairs, **more)

    def count(self) -> None:
        """Concept methods with other numbers of contrasts."""
        for count in self.size.counts:
            self.run("main", self.concepts(count), limit=self.size.curve)

    def single(self) -> None:
        """One feature of each kind of SAE, on all blocks."""
        for name in SAES:
            settings = {"sae.folder": str(self.work / "saes" / name)}
            few = {"count": FEW}
            asks = [Ask(FEATURE, options={"choose": c, **few, **(TRIED if c == "effect" else {})}) for c in CHOICES]
            self.run(f"single-{name}", asks, settings=settings, limit=self.size.single)

    def collect(self) -> None:
        """The values of the sites."""
        if not (self.work / "saes" / "frozen").exists():
            words = ["--site", "all", "--prompts", "grammar", "--count", str(self.size.prompts)]
            command(["sae", "collect", "--model", self.model, *words, "--out", str(self.work / "values")])

    def train(self) -> None:
        """SAEs whose decoder learns, SAEs whose decoder stays random, with all else equal, and untrained ones."""
        saes = self.work / "saes"
        for name, more in (("trained", ()), ("frozen", ("--decoder", "frozen"))):
            if not (saes / name).exists():
                words = ("--k", "16", "--expansion", "4", "--steps", str(self.size.steps), "--batch", "1024")
                command(["sae", "train", str(self.work / "values"), *words, *more, "--out", str(saes / f"{name}.part")])
                (saes / f"{name}.part").rename(saes / name)
        if not (saes / "untrained").exists():
            model = riebench.load(self.model, sae__folder=str(saes / "trained"))
            for number, site in enumerate(model.default_sites):
                like = model.sae(site)
                sae = random_dictionary(like.d_model, like.n_features, like.k or 1, seed=number)
                save_sae(sae, saes / "untrained.part" / site, {"site": site})
            (saes / "untrained.part").rename(saes / "untrained")

    def chosen_sites(self) -> dict[str, str]:
        """The sites of each concept method: those with the largest rise of the margin on the pairs for the choice.

        A pair that does not reach the LPIPS counts as unchanged.
        """
        file = self.work / "sites.json"
        if not file.exists():
            values = read_values([self.work / "choosing"])
            rises = (
                values.assign(risen=values["risen"].fillna(0)).groupby(["name", "blocks"], sort=False)["risen"].mean()
            )
            best = {name: rises[name].idxmax() for name in rises.index.unique("name")}
            best[f"{FEATURE} effect"] = best[f"{FEATURE} detection"]
            file.write_text(json.dumps({name: best[name] for name in NAMES}, indent=1))
        chosen: dict[str, str] = json.loads(file.read_text())
        return chosen


def command(words: list[str]) -> None:
    """A riebench command.

    Raises:
        SystemExit: if it fails.
    """
    if code := subprocess.run([sys.executable, "-m", "riebench", *words], check=False).returncode:
        sys.exit(f"riebench {' '.join(words)} failed with exit code {code}")


def write_pairs(work: Path) -> Path:
    """A pair of each category on which sites are chosen: training scenes, none of which a method learns from."""
    file, pairs = work / "choosing.json", []
    for category, name in EDITED.items():
        rng = np.random.default_rng([category, 29])
        while all(pair["editing_type_id"] != str(category) for pair in pairs):
            number = len(pairs)
            scene = random_scene(rng, held=False).changed(style="flat")
            values = [value for value in ATTRIBUTES[name] if value != getattr(scene, name)]
            other = scene.changed(**{name: str(rng.choice(values))})
            if (category == 2 and scene.addition != "nothing") or (category == 3 and other.addition != "nothing"):
                continue
            if not (visible(scene, name) and visible(other, name)):
                continue
            before, after = next(
                both
                for both in contrasts(prompt(scene), prompt(other), AFTER + 40)[AFTER + number :]
                if name == "style" or parse(both[0]).style == "flat"  # in which the masker finds nearly every object
            )
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
