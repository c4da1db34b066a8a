"""Put a run's instruments together: those of the model's name, or what the user hands in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from riebench.catalog import ModelEntry
from riebench.util.errors import UserError, unknown
from riebench.instruments import Instruments
from riebench.masks import Masker, MaskRules
from riebench.masks.sources import GivenMasks, from_phrases, from_user, given_fingerprint
from riebench.metrics import ClipScorer, LpipsScorer, Scorers
from riebench.metrics.score import Truth
from riebench.models import Denoiser
from riebench.pairs import Pair
from riebench.spec.protocols import RIEBENCH
from riebench.spec.protocols import Protocol as Rules
from riebench.sae import TopKSAE, find_saes, load_sae
from riebench.spec.settings import Settings
from riebench.util.trace import stage
from riebench.util.files import fingerprint
from riebench.weights.places import hub_snapshot

SaeSource = tuple[Callable[[str], TopKSAE], str]


@dataclass(frozen=True)
class Given:
    """Loaded parts that take the place of those that belong to the model's name.

    Attributes:
        pipeline: a ``StableDiffusionXLPipeline``.
        saes: block name to SAE.
        masks: see :data:`riebench.masks.sources.GivenMasks`.
        scorers: CLIP and LPIPS.
    """

    pipeline: Any = None
    saes: Mapping[str, TopKSAE] | None = None
    masks: GivenMasks | None = None
    scorers: Scorers | None = None


class Parts(Protocol):
    """What belongs to a model's name; each part is loaded when it is asked for."""

    @property
    def sources(self) -> Mapping[str, str]: ...

    @property
    def truth(self) -> Callable[[Pair, int], Truth] | None: ...

    def denoiser(self, batch: int) -> Denoiser: ...

    def masker(self, box_threshold: float) -> Masker: ...

    def clip(self) -> ClipScorer: ...

    def lpips(self) -> LpipsScorer: ...

    def saes(self) -> SaeSource: ...


def load_instruments(
    entry: ModelEntry,
    batch: int = 8,
    settings: Settings | None = None,
    protocol: Rules = RIEBENCH,
    given: Given | None = None,
) -> Instruments:
    """Load a model with the instruments that go with it.

    Raises:
        UserError: if weights are missing or do not fit, or a setting is not one of this model's.
    """
    settings, given = settings or Settings(), given or Given()
    parts = _parts(entry, settings, given)
    rules = mask_rules(entry, settings, protocol)
    with stage("load model"):
        denoiser = parts.denoiser(batch) if given.pipeline is None else _given_denoiser(entry, settings, given, batch)
    masker = None
    if given.masks is None:
        threshold = settings.masker.box_threshold
        with stage("load masker"):
            masker = parts.masker(protocol.box_threshold if threshold is None else threshold)
        masks, masks_name = from_phrases(masker, rules), f"{masker.name}-{masker.fingerprint}"
        options = dict(getattr(masker, "describe", dict)())
    else:
        masks, masks_name, options = from_user(given.masks), given_fingerprint(given.masks), {}
    with stage("load scorers"):
        scorers = given.scorers or Scorers(parts.clip(), parts.lpips())
    load_block_sae, saes_name = _saes(settings, given, parts)
    names = {
        "model": denoiser.fingerprint,
        "masker": masks_name,
        "clip": f"{scorers.clip.name}-{scorers.clip.fingerprint}",
        "lpips": f"{scorers.lpips.name}-{scorers.lpips.fingerprint}",
        "sae": saes_name,
    }
    conditions = {
        "dtype": str(denoiser.pipeline.unet.dtype).removeprefix("torch."),
        "size": denoiser.size,
        "guidance": denoiser.guidance,
        "unconditional": denoiser.unconditional,
        **{f"masks.{name}": value for name, value in asdict(rules).items()},
        **{f"masker.{name}": value for name, value in options.items() if name != "device"},
    }
    if given.scorers is None and not entry.embedded:
        conditions["clip.quick_gelu"] = settings.clip.quick_gelu  # a checkpoint does not tell
    truth = parts.truth if given.pipeline is None else None
    return Instruments(
        entry.name, denoiser, masks, rules, scorers, load_block_sae, truth, names, conditions, parts.sources, masker
    )


def _parts(entry: ModelEntry, settings: Settings, given: Given) -> Parts:
    if entry.embedded:
        from riebench.mini.instruments import MiniParts

        return MiniParts(settings)
    from riebench.engine.real import RealParts

    have = {"model": given.pipeline, "sae": given.saes, "clip": given.scorers, "lpips": given.scorers}
    have |= dict.fromkeys(("detector", "text-encoder", "segmenter"), given.masks)
    return RealParts(entry, settings, without=[name for name, value in have.items() if value is not None])


def mask_rules(entry: ModelEntry, settings: Settings, protocol: Rules) -> MaskRules:
    """The rules of a run: what the settings say, else what the protocol and the model say."""
    masker = settings.masker
    return MaskRules(
        blur_kernel=masker.blur_kernel or entry.blur_kernel,
        union=masker.union,
        fallback=masker.fallback or protocol.fallback,
        add_object=masker.add_object,
        delete_object=masker.delete_object,
        special_phrases=masker.special_phrases,
    )


def _given_denoiser(entry: ModelEntry, settings: Settings, given: Given, batch: int) -> Denoiser:
    model = settings.model
    guidance = entry.guidance if model.guidance is None else model.guidance
    name = f"given-{pipeline_fingerprint(given.pipeline)}"
    return Denoiser(given.pipeline, name, None, batch, guidance, model.size, model.unconditional)


def pipeline_fingerprint(pipeline: Any) -> str:
    """A short hash of all that a loaded pipeline generates with: weights of its parts, and how it samples."""
    parts = {
        name: weights_fingerprint(part)
        for name, part in pipeline.components.items()
        if isinstance(part, torch.nn.Module)
    }
    sampler = {name: value for name, value in pipeline.scheduler.config.items() if not name.startswith("_")}
    said = [sorted(parts.items()), type(pipeline.scheduler).__name__, sorted(sampler.items())]
    return hashlib.sha256(repr(said).encode()).hexdigest()[:16]


def weights_fingerprint(module: torch.nn.Module) -> str:
    """A short hash of a module's parameters: names, shapes, types and bytes, wherever they lie."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(f"{name}{list(value.shape)}{value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _saes(settings: Settings, given: Given, parts: Parts) -> SaeSource:
    if given.saes is not None:
        saes = given.saes
        names = {block: weights_fingerprint(sae) for block, sae in sorted(saes.items())}
        digest = hashlib.sha256(repr(names).encode()).hexdigest()[:16]

        def pick(block: str) -> TopKSAE:
            if block not in saes:
                raise unknown("SAE", block, saes)
            return saes[block]

        return pick, f"given-{digest}"
    if settings.sae.source is not None:
        root = Path(settings.sae.source)
        root = root if root.is_dir() else hub_snapshot(settings.sae.source, None)
        folders = find_saes(root, settings.sae.k, settings.sae.features)

        def load(block: str) -> TopKSAE:
            if block not in folders:
                raise UserError(f"{root} has no SAE for the block {block!r}; it has some for {', '.join(folders)}")
            return load_sae(folders[block])

        files = [f for folder in folders.values() for f in folder.iterdir() if f.is_file()]
        return load, f"sae-{fingerprint(files, root)}"
    return parts.saes()
