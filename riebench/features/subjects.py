"""The subjects of scores: dictionaries with their sites, and the baselines beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from riebench.models.devices import weights_fingerprint
from riebench.models.model import Model
from riebench.models.sae_sites import read_site
from riebench.models.sites import neuron_sites
from riebench.prompts import Prompted
from riebench.sae.baselines import BATCH, RATE, STEPS, SignedCoordinates, random_dictionary, train_encoder
from riebench.sae.dictionary import Dictionary
from riebench.sae.given import GivenSAE
from riebench.sae.topk import TopKSAE
from riebench.util.progress import Track

PROBES = 256
COUNTED = 8


@dataclass(frozen=True)
class Subject:
    """A dictionary or baseline that is judged.

    Attributes:
        name: in tables and file names.
        kind: ``sae``, ``dictionary`` or the name of a baseline.
        block: the site that it is about; baselines stand beside the SAEs of their block.
        parts: site to dictionary; features are counted through in this order. Only a baseline has several.
        config: further facts, as the configuration of an SAE folder.
        reconstructs: whether its reconstruction differs from the values; that of plain coordinates does not.
    """

    name: str
    kind: str
    block: str
    parts: Mapping[str, Dictionary]
    config: Mapping[str, Any] = field(default_factory=dict)
    reconstructs: bool = True

    def named_parts(self) -> dict[str, tuple[str, Dictionary]]:
        """A name for each part, none used twice among the subjects of a call, to its site and dictionary."""
        return {f"{id(self)} {site}": (site, dictionary) for site, dictionary in self.parts.items()}

    def feature(self, number: int) -> Feature:
        """The feature of a number."""
        for site, dictionary in self.parts.items():
            count = len(dictionary.W_dec)
            if number < count:
                return Feature(site, dictionary, number)
            number -= count
        raise IndexError(number)

    def fingerprint(self) -> str:
        """A short hash of the dictionaries."""
        return hashlib.sha256("".join(map(dictionary_fingerprint, self.parts.values())).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Feature:
    """One feature of a dictionary.

    Attributes:
        site: of the dictionary.
        dictionary: the dictionary.
        index: of the feature in it.
    """

    site: str
    dictionary: Dictionary
    index: int

    def direction(self) -> Tensor:
        """The direction that the feature writes at code 1 ``[d]``."""
        return self.dictionary.W_dec[self.index]


def dictionary_fingerprint(dictionary: Dictionary) -> str:
    """A short hash of a dictionary: its directions, all that it keeps, and its codes of fixed vectors."""
    directions = dictionary.W_dec
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(PROBES, directions.shape[1], generator=generator).to(directions)
    with torch.no_grad():
        codes = dictionary.encode(probe)
        active = int((codes > 0).sum(-1).max())
        tensors = [directions, codes, dictionary.decode(codes)]
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    if isinstance(dictionary, torch.nn.Module):
        digest.update(weights_fingerprint(dictionary).encode())
    if isinstance(dictionary, GivenSAE):
        digest.update(" ".join(dictionary.kept_numbers()).encode())
    k = getattr(dictionary, "k", None)
    if k is not None and active < k:  # which these codes do not tell
        digest.update(f"k {k}".encode())
    if getattr(dictionary, "transcodes", False):
        digest.update(b"transcoder")
    return digest.hexdigest()[:16]


def values_at(
    model: Model, sites: Collection[str], prompted: Sequence[Prompted], track: Track = iter
) -> dict[str, Tensor]:
    """Values ``[pictures * positions, width]`` of one-step runs at some sites."""
    values: dict[str, list[Tensor]] = {site: [] for site in sites}
    runs = model.runs(prompted, 1, sites)
    for _ in track(range(len(prompted))):
        run = next(runs)
        for site in sites:
            values[site].append(run.values[site][0].float())
    return {site: torch.cat(parts) for site, parts in values.items()}


def make_baselines(
    subjects: Sequence[Subject], model: Model, kinds: Collection[str], seed: int, prompted: Sequence[Prompted]
) -> list[Subject]:
    """The baselines that stand beside dictionaries; a frozen decoder's encoder is still to be trained.

    Random and frozen decoders have as many features and as many of them active as a dictionary, once for each site and
    such pair of numbers; neurons and channels come once for each site.

    Args:
        subjects: the dictionaries, of one site each.
        model: whose sites they are.
        kinds: names in :data:`riebench.features.score_settings.BASELINES`.
        seed: of the random directions.
        prompted: pictures on which the active features of a dictionary that does not say their number are counted.
    """
    baselines: dict[str, Subject] = {}
    for subject in subjects:
        site, ((_, dictionary),) = subject.block, subject.parts.items()
        width, features = model.sites[site].width, len(dictionary.W_dec)
        for kind in (kind for kind in ("random", "frozen-decoder") if kind in kinds):
            k = _active(dictionary, model, site, prompted)
            name = f"{site}-{kind}-n{features}-k{k}"
            if name not in baselines:
                sae = random_dictionary(width, features, k, seed).to(model.device)
                training = {"steps": STEPS, "batch": BATCH, "lr": RATE} if kind == "frozen-decoder" else {}
                baselines[name] = Subject(name, kind, site, {site: sae}, {"k": k, **training})
        plain = {"neurons": neuron_sites(model.sites, site), "channels": [site]}
        for kind, sites in plain.items():
            if kind in kinds and sites:
                parts = {s: SignedCoordinates(model.sites[s].width, model.device) for s in sites}
                baselines[f"{site}-{kind}"] = Subject(f"{site}-{kind}", kind, site, parts, reconstructs=False)
    return list(baselines.values())


def _active(dictionary: Dictionary, model: Model, site: str, prompted: Sequence[Prompted]) -> int:
    """Active features at a position: the dictionary's ``k``, else their mean number in a few pictures, rounded."""
    k = getattr(dictionary, "k", None)
    if isinstance(k, int):
        return k
    site = read_site(site, dictionary)
    values = values_at(model, [site], prompted[:COUNTED])[site]
    with torch.no_grad():
        active = float((dictionary.encode(values) > 0).sum(-1).float().mean())
    return min(len(dictionary.W_dec), max(1, round(active)))


def train_frozen(
    subjects: Sequence[Subject], model: Model, prompted: Sequence[Prompted], seed: int, track: Track = iter
) -> None:
    """Train, in place, the encoders of those subjects that are frozen decoders, on values of some pictures."""
    frozen = [subject for subject in subjects if subject.kind == "frozen-decoder"]
    values = values_at(model, {subject.block for subject in frozen}, prompted, track) if frozen else {}
    for subject in frozen:
        (sae,) = subject.parts.values()
        assert isinstance(sae, TopKSAE)
        train_encoder(sae, values[subject.block], seed)
