"""What the study runs: sizes, pairs for the choice of sites, SAEs, and what each stage does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from features import judge_features, observed
from one_feature import FOLDER
from values import LPIPS, read_values

import riebench
from riebench.engine.pair_worker import PairWorker
from riebench.engine.request import resolve
from riebench.engine.run import carry_out
from riebench.engine.run_options import RunOptions
from riebench.methods.registry import find
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
from riebench.models.model import ModelEntry
from riebench.models.sites import ATTENTION, MLP
from riebench.pairs import Pair
from riebench.sae.baselines import random_dictionary
from riebench.sae.store import save_sae
from riebench.settings.settings import Settings
from riebench.util.errors import PairError

EDITED = {1: "shape", 2: "addition", 3: "addition", 4: "inside", 5: "pose", 6: "colour", 7: "material", 8: "background"}
EDITED[9] = "style"
UPDATE, OPERATIONS = "update", ("output", ATTENTION, MLP)
"""What a block adds to its input, and the operations that are sites of their own."""
CONCEPTS = ("caa", "pca", "probe", "sae-sum", "loreft", "k-steer", "per")
FEATURE = "sae-feature"
ONE = "one_feature:OneFeature"
"""The method that takes one feature of any kind of SAE."""
CHOICES = ("detection", "effect")
NAMES = (*CONCEPTS, *(f"{FEATURE} {choose}" for choose in CHOICES))
"""Every concept method as tables name it."""
CURVE = ("pca", "probe", "sae-sum", "loreft")
"""Methods whose curve over the number of contrasts is drawn."""
PAIR_METHODS = ("steering", "sae", "random", "prompt")
START = {"steering": 1, "sae": 1, "random": 4, "prompt": 1, "caa": 16, "pca": 4, "probe": 8, "sae-sum": 4}
START |= {"loreft": 1, "k-steer": 16, "per": 4, FEATURE: 16, ONE: 32}
"""The strength with which each search begins: the typical one at the LPIPS, so that it takes few runs."""
MOST = 2048
"""The largest strength: most single features reach the LPIPS with it."""
MANY = 16
"""Contrasts from which methods learn where they are compared."""
TRIED = {"candidates": 8, "trials": 2}
"""Features whose effect ``choose=effect`` measures, and on how many contrasts."""
FEW = 8
"""Contrasts from which each kind of SAE chooses its feature, and each method is learnt where sites are chosen."""
AFTER = 300
"""Contrasts up to this number are left to methods; later ones are the pairs on which sites are chosen."""
SAES = ("trained", "frozen", "untrained")
KINDS = {"batchtopk": ("--k", "16"), "jumprelu": ("--l0", "0.01")}
"""Further kinds of SAE, each with the option of its sparsity."""
ENTANGLED = "mini:entangled"
"""The second set of pairs."""


@dataclass(frozen=True)
class Size:
    """How much is done; numbers of pairs are of each category.

    Attributes:
        pairs: on which methods are compared, of both sets.
        choosing: categories of the pairs of training scenes, one each, on which the sites of a method are chosen.
        single: pairs of both sets on which SAEs are compared by one feature.
        kinds: pairs of the default set on which further kinds of SAE are compared so.
        curve: pairs of the curves over the number of contrasts.
        counts: numbers of contrasts.
        prompts: whose values SAEs are trained on.
        steps: of their training.
        edits: whose features are tried.
        features: that are tried of each edit, half of them the best detectors.
        categories: that are run; empty for all.
    """

    pairs: int = 5
    choosing: tuple[int, ...] = (1, 5, 6, 7)
    single: int = 20
    kinds: int = 5
    curve: int = 3
    counts: tuple[int, ...] = (2, 8, 32, 128)
    prompts: int = 600
    steps: int = 600
    edits: int = 1
    features: int = 24
    categories: tuple[int, ...] = ()


QUARTER = Size(pairs=1, choosing=(1, 6), single=5, kinds=1, curve=1, prompts=300, steps=300, edits=1, features=12)
SMALL = Size(1, (6,), 1, 1, 1, (2, 4), prompts=60, steps=20, edits=1, features=4, categories=(6,))
"""To try the script out."""


class Ask(NamedTuple):
    """A method with its options on some sites; ``alone`` adds each site alone."""

    method: str
    sites: tuple[str, ...] = ("all",)
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
        entry = entry_named(model)
        self.blocks, self.operations = entry.default_sites, operations(entry)

    def stages(self) -> dict[str, Callable[[], None]]:
        """Name of a stage to what it does, in the order in which they are done."""
        return {
            "collect": self.collect,
            "train": self.train,
            "single": self.single,
            "choose": self.choose,
            "main": lambda: self.compare("main"),
            "entangled": lambda: self.compare("entangled", pairs=ENTANGLED),
            "counts": self.counts,
            "features": self.features,
            "kinds": self.kinds,
        }

    def run(self, out: str, asks: Iterable[Ask], **more: Any) -> None:
        """A run of several methods, with a search for the strengths at the LPIPS; a pair's contrasts are shared."""
        folder, categories = self.work / out, list(self.size.categories) or None
        common = {"model": self.model, "at_lpips": LPIPS, "at_lpips_most": MOST, "category": categories, "out": folder}
        common |= {"keep_images": 0, "quiet": True, "workers": self.workers, **more}
        with_saes = {"settings": {"sae.folder": str(self.saes("all"))}}
        options = [
            RunOptions(
                ask.method,
                list(ask.sites),
                options=ask.options,
                alone=ask.alone,
                strength=START[ask.method],
                **common,
                **(with_saes if find(ask.method).needs_sae else {}),
            )
            for ask in asks
        ]
        requests = [resolve(each)[0] for each in options]
        conditions = tuple(condition for request in requests for condition in request.conditions)
        whole = next((n for n, request in enumerate(requests) if request.settings.sae.folder), 0)
        request, pairs = resolve(options[whole])
        session = carry_out(request.model_copy(update={"conditions": conditions}), pairs, options[whole])
        if session.signal is not None:
            sys.exit("interrupted; the records so far are kept")

    def saes(self, name: str) -> Path:
        """The folder of the SAEs of a kind."""
        return self.work / "saes" / name

    def choose(self) -> None:
        """Every concept method on all sites of each operation, and on each block's update alone, on contrasts."""
        if (self.work / "sites.json").exists():
            return
        self.train_all()
        file = self.work / "choosing.json"
        if not file.exists():
            file.write_text(json.dumps(pairs_that_show(self.model, self.size.choosing), indent=1))
        count = {"count": FEW}
        asks = [Ask(name, options=count, alone=True) for name in (*CONCEPTS, FEATURE)]
        others = [sites for name, sites in self.operations.items() if name != UPDATE]
        asks += [Ask(name, sites, count) for name in (*CONCEPTS, FEATURE) for sites in others]
        self.run("choosing", asks, pairs=file, category=None)

    def concepts(self, count: int, names: Sequence[str] = NAMES) -> list[Ask]:
        """Concept methods on the sites that were chosen for them."""
        chosen = self.chosen_sites()
        asks = []
        for name in names:
            method, _, choose = name.partition(" ")
            options = {"choose": choose, **(TRIED if choose == "effect" else {})} if choose else {}
            asks.append(Ask(method, tuple(chosen[name].split("+")), {"count": count, **options}))
        return asks

    def compare(self, out: str, **more: Any) -> None:
        """All methods."""
        self.run(out, [*map(Ask, PAIR_METHODS), *self.concepts(MANY)], limit=self.size.pairs, **more)

    def counts(self) -> None:
        """Some concept methods with several numbers of contrasts."""
        asks = [ask for count in self.size.counts for ask in self.concepts(count, CURVE)]
        self.run("counts", asks, limit=self.size.curve)

    def single(self) -> None:
        """One feature of each SAE of the comparison, on all blocks and both sets of pairs."""
        self.one_feature("single-default", SAES, self.size.single)
        self.one_feature("single-entangled", SAES, self.size.single, pairs=ENTANGLED)

    def one_feature(self, out: str, kinds: Iterable[str], limit: int, **more: Any) -> None:
        """One feature of some kinds of SAE, the best detector on few contrasts."""
        os.environ[FOLDER] = str(self.work / "saes")
        self.run(out, [Ask(ONE, options={"count": FEW, "kind": kind}) for kind in kinds], limit=limit, **more)

    def features(self) -> None:
        """What the features of each kind of SAE detect, and what they do."""
        self.train_kinds()
        judge_features(self.model, self.work, (*SAES, *KINDS), self.size.edits, self.size.features)

    def kinds(self) -> None:
        """One feature of each further kind of SAE."""
        self.train_kinds()
        self.one_feature("kinds", KINDS, self.size.kinds)

    def collect(self) -> None:
        """The values of the blocks' updates."""
        if not self.saes("jumprelu").exists():
            self.collect_values("values", self.blocks, self.size.prompts)

    def collect_values(self, name: str, sites: Sequence[str], prompts: int) -> None:
        """The values of some sites, unless they are there."""
        words = [*named(sites), "--prompts", "grammar", "--count", str(prompts)]
        command(["sae", "collect", "--model", self.model, *words, "--out", str(self.work / name)])

    def train(self) -> None:
        """SAEs whose decoder learns, SAEs whose decoder stays random, with all else equal, and untrained ones."""
        self.train_saes("trained", self.blocks, "--k", "16")
        self.train_saes("frozen", self.blocks, "--k", "16", "--decoder", "frozen")
        part = self.work / "saes" / "untrained.part"
        if not self.saes("untrained").exists():
            model = riebench.load(self.model, sae__folder=str(self.saes("trained")))
            for number, site in enumerate(self.blocks):
                like = model.sae(site)
                sae = random_dictionary(like.d_model, like.n_features, like.k or 1, seed=number)
                save_sae(sae, part / site, {"site": site})
            part.rename(self.saes("untrained"))

    def train_all(self) -> None:
        """The SAEs that methods are compared with: the model's own, and for the other operations trained ones."""
        others = [site for sites in self.operations.values() for site in sites if site not in self.blocks]
        if not self.saes("others").exists():
            self.collect_values("values-others", others, self.size.prompts // 3)
        self.train_saes("others", others, "--k", "16", values="values-others", steps=self.size.steps // 2)
        if not self.saes("all").exists():
            part = self.work / "saes" / "all.part"
            shutil.copytree(self.saes("others"), part, dirs_exist_ok=True)
            for site, folder in entry_named(self.model).saes(Settings()).items():
                shutil.copytree(folder, part / site, dirs_exist_ok=True)
            part.rename(self.saes("all"))

    def train_kinds(self) -> None:
        """SAEs of further kinds."""
        for name, words in KINDS.items():
            self.train_saes(name, self.blocks, "--kind", name, *words)

    def train_saes(
        self, name: str, sites: Sequence[str], *words: str, values: str = "values", steps: int | None = None
    ) -> None:
        """SAEs of some sites, unless they are there."""
        part = self.work / "saes" / f"{name}.part"
        if not self.saes(name).exists():
            size = ("--expansion", "4", "--steps", str(steps or self.size.steps), "--batch", "512")
            command(["sae", "train", str(self.work / values), *named(sites), *words, *size, "--out", str(part)])
            part.rename(self.saes(name))

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


def operations(entry: ModelEntry) -> dict[str, tuple[str, ...]]:
    """The sites of each operation in the default blocks; the update of a block is its own site."""
    found: dict[str, tuple[str, ...]] = {UPDATE: tuple(entry.default_sites)}
    for site in entry.sites(Settings()):
        block, _, part = site.partition("/")
        operation = part.split(".")[0]
        if block in entry.default_sites and operation in OPERATIONS:
            found[operation] = (*found.get(operation, ()), site)
    return found


def named(sites: Iterable[str]) -> list[str]:
    """Options that name sites."""
    return [word for site in sites for word in ("--site", site)]


def command(words: list[str]) -> None:
    """A riebench command.

    Raises:
        SystemExit: if it fails.
    """
    if code := subprocess.run([sys.executable, "-m", "riebench", *words], check=False).returncode:
        sys.exit(f"riebench {' '.join(words)} failed with exit code {code}")


def pairs_that_show(model: str, categories: Iterable[int]) -> list[dict[str, Any]]:
    """A pair of each category on which sites are chosen: the first one whose phrases the masker finds."""
    request, _ = resolve(RunOptions("none", "all", model=model, strength=1, limit=1))
    worker = PairWorker(request)
    return [next(pair for pair in candidates(c) if shows(worker, Pair.model_validate(pair))) for c in categories]


def shows(worker: PairWorker, pair: Pair) -> bool:
    """Whether the masker finds the phrases of a pair in its pictures."""
    try:
        observed(worker, pair)
    except PairError:
        return False
    return True


def candidates(category: int) -> Iterator[dict[str, Any]]:
    """Pairs of training scenes of a category, none of which a method learns from."""
    name, rng, number = EDITED[category], np.random.default_rng([category, 29]), 0
    while True:
        scene = random_scene(rng, held=False).changed(style="flat")
        values = [value for value in ATTRIBUTES[name] if value != getattr(scene, name)]
        other = scene.changed(**{name: str(rng.choice(values))})
        if (category == 2 and scene.addition != "nothing") or (category == 3 and other.addition != "nothing"):
            continue
        if not (visible(scene, name) and visible(other, name)):
            continue
        before, after = next(
            both
            for both in contrasts(prompt(scene), prompt(other), AFTER + number + 40)[AFTER + number :]
            if name == "style" or parse(both[0]).style == "flat"  # in which the masker finds nearly every object
        )
        number += 1  # also past prompts that are held out: the contrasts of some attributes depend on nothing else
        if held_out(parse(before)) or held_out(parse(after)):
            continue
        phrases = grounding_phrases(name, parse(before), parse(after))
        yield {
            "id": f"choose-{category}-{number:02d}",
            "editing_type_id": str(category),
            "original_prompt": before,
            "editing_prompt": after,
            "original_gsam_prompt": phrases[0],
            "editing_gsam_prompt": phrases[1],
            "seed": 2_000_000 + 100 * category + number,
        }
