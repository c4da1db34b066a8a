"""The baselines that stand beside dictionaries when they are scored."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from riebench.features.subjects import Subject
from riebench.models.model import Model
from riebench.models.sites import neuron_sites
from riebench.prompts import Prompted
from riebench.sae.baselines import BATCH, RATE, STEPS, SignedCoordinates, random_dictionary, train_encoder
from riebench.sae.dictionary import Dictionary
from riebench.sae.topk import TopKSAE
from riebench.util.progress import Track

COUNTED = 8


def values_at(
    model: Model, sites: Collection[str], prompted: Sequence[Prompted], track: Track = iter
) -> dict[str, Tensor]:
    """Values ``[pictures * positions, width]`` of one-step runs at some sites."""
    found: dict[str, list[Tensor]] = {site: [] for site in sites}
    runs = model.runs(prompted, 1, sites)
    for _ in track(range(len(prompted))):
        run = next(runs)
        for site in sites:
            found[site].append(run.values[site][0].float())
    return {site: torch.cat(parts) for site, parts in found.items()}


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
    found: dict[str, Subject] = {}
    for subject in subjects:
        site, ((_, dictionary),) = subject.block, subject.parts.items()
        width, features = model.sites[site].width, len(dictionary.W_dec)
        for kind in (kind for kind in ("random", "frozen-decoder") if kind in kinds):
            k = _active(dictionary, model, site, prompted)
            name = f"{site}-{kind}-n{features}-k{k}"
            if name not in found:
                sae = random_dictionary(width, features, k, seed).to(model.device)
                training = {"steps": STEPS, "batch": BATCH, "lr": RATE} if kind == "frozen-decoder" else {}
                found[name] = Subject(name, kind, site, {site: sae}, {"k": k, **training})
        plain = {"neurons": neuron_sites(model.sites, site), "channels": [site]}
        for kind, sites in plain.items():
            if kind in kinds and sites:
                parts = {s: SignedCoordinates(model.sites[s].width, model.device) for s in sites}
                found[f"{site}-{kind}"] = Subject(f"{site}-{kind}", kind, site, parts, reconstructs=False)
    return list(found.values())


def _active(dictionary: Dictionary, model: Model, site: str, prompted: Sequence[Prompted]) -> int:
    """Active features at a position: the dictionary's ``k``, else their mean number in a few pictures, rounded."""
    k = getattr(dictionary, "k", None)
    if isinstance(k, int):
        return k
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
