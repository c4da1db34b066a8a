"""A family of models from outside the package: a transformer whose blocks take and return two streams, by keyword."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from riebench.instruments.mini_instruments import MiniInstruments
from riebench.metrics.clip import ClipScorer
from riebench.metrics.lpips import LpipsScorer
from riebench.models import Batch, Model, ModelEntry, Site
from riebench.models.devices import weights_fingerprint
from riebench.models.model import DECODER, DENOISER, TEXT
from riebench.sae.folders import find_saes
from riebench.settings.settings import Settings

LAYERS, WIDTH, GRID, TOKENS, PATCH = 11, 16, (4, 5), 6, 8
POSITIONS = GRID[0] * GRID[1]


class Block(nn.Module):
    """Attention over both streams together, then a feed-forward layer."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.up, self.act, self.down = nn.Linear(WIDTH, 3 * WIDTH), nn.GELU(), nn.Linear(3 * WIDTH, WIDTH)

    def forward(self, *, text: Tensor, picture: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.cat([text, picture], 1)
        normed = nn.functional.layer_norm(both, [WIDTH]) + time
        both = both + self.attention(normed, normed, normed, need_weights=False)[0]
        both = both + self.down(self.act(self.up(nn.functional.layer_norm(both, [WIDTH]))))
        return both[:, :TOKENS], both[:, TOKENS:]


class Toy(nn.Module):
    """The network: tokens of the prompt and of the picture in, tokens of the picture out."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Block() for _ in range(LAYERS))
        self.paint = nn.Linear(WIDTH, 3 * PATCH * PATCH)

    def forward(self, text: Tensor, picture: Tensor, time: Tensor) -> Tensor:
        for block in self.layer:
            text, picture = block(text=text, picture=picture, time=time)
        return picture


class ToyModel(Model):
    """The toy as a model of sites."""

    def __init__(self, entry: ModelEntry, settings: Settings) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            self.net = Toy().eval().requires_grad_(False)
        weights = f"toy-{weights_fingerprint(self.net)}"
        sites = entry.sites(settings)
        parts = {site: site.partition("/") for site in sites}
        modules = {site: self.net.get_submodule(f"{b}.act" if n else b) for site, (b, _, n) in parts.items()}
        super().__init__(entry, weights, sites, modules, torch.device("cpu"), GRID[0] * PATCH, {})

    def read(self, site: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Tensor:
        values: Tensor = output[:, TOKENS:] if "/" in site else output[1] - kwargs["picture"]
        return values

    def add(self, site: str, output: Any, delta: Tensor) -> Any:
        if "/" in site:
            return torch.cat([output[:, :TOKENS], output[:, TOKENS:] + delta], 1)
        return output[0], output[1] + delta

    def networks(self) -> Mapping[str, tuple[Any, str]]:
        return {DENOISER: (self.net, "forward"), DECODER: (self.net.paint, "forward"), TEXT: (self, "encode")}

    def encode(self, prompt: str) -> Tensor:
        return encode(prompt)

    def sample(self, batch: Batch) -> Tensor:
        texts = {prompt: self.encode(prompt) for prompt in dict.fromkeys(batch.prompts)}
        text = torch.stack([texts[prompt] for prompt in batch.prompts])
        noise = [torch.randn(POSITIONS, WIDTH, generator=torch.Generator().manual_seed(s)) for s in batch.seeds]
        picture = torch.stack(noise)
        for step in range(batch.steps):
            time = torch.full((WIDTH,), 1 - step / batch.steps)
            picture = picture + (self.net(text, picture, time) - picture) / batch.steps
        patches = self.net.paint(picture).sigmoid().unflatten(2, (PATCH, PATCH, 3)).unflatten(1, GRID)
        rows = patches.transpose(2, 3).reshape(len(picture), GRID[0] * PATCH, GRID[1] * PATCH, 3)
        return rows.permute(0, 3, 1, 2)


def encode(prompt: str) -> Tensor:
    """A token ``[width]`` for each of the first words, zeros after them."""
    tokens = torch.zeros(TOKENS, WIDTH)
    for place, word in enumerate(prompt.split()[:TOKENS]):
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4])
        tokens[place] = torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))
    return tokens


@dataclass(frozen=True)
class ToyEntry(ModelEntry):
    """The toy by name."""

    default_sites: tuple[str, ...] = ("layer.2", "layer.9", "layer.10")
    steps: int = 2
    blur_kernel: int = 3
    instruments: str = "toy_family:ToyInstruments"

    def sites(self, settings: Settings) -> Mapping[str, Site]:
        blocks = [f"layer.{number}" for number in range(LAYERS)]
        both = [{f"{block}/neurons.0": Site(3 * WIDTH, GRID), block: Site(WIDTH, GRID)} for block in blocks]
        return {name: site for sites in both for name, site in sites.items()}

    def saes(self, settings: Settings) -> Mapping[str, Path]:
        if settings.sae.folder is None:
            return {}
        names = {site: (site,) for site in self.sites(settings) if "/" not in site}
        return find_saes(Path(settings.sae.folder), names, settings.sae)

    def load(self, settings: Settings) -> Model:
        model = ToyModel(self, settings)
        model.saes = self.saes(settings)
        return model


class Halves:
    """A masker that finds every phrase in the left half."""

    name, fingerprint = "halves", "1"

    def find(self, image: np.ndarray, phrase: str) -> np.ndarray:
        mask = np.zeros((1, *image.shape[:2]), bool)
        mask[..., : image.shape[1] // 2] = True
        return mask


class ToyInstruments:
    """Halves, and mini's CLIP and LPIPS."""

    locations: Mapping[str, str] = {}
    conditions: Mapping[str, Any] = {}
    truth = None
    world = None

    def __init__(self, entry: ModelEntry, settings: Settings, protocol: Any, without: Collection[str]) -> None:
        self.mini = MiniInstruments()

    def masker(self) -> Halves:
        return Halves()

    def clip(self) -> ClipScorer:
        return self.mini.clip()

    def lpips(self) -> LpipsScorer:
        return self.mini.lpips()


def toy() -> ToyEntry:
    """The entry, as ``toy_family:toy``."""
    return ToyEntry("toy")


PUBLISHED = ToyEntry("toy-published", instruments=ModelEntry.instruments)
NOT_AN_ENTRY = "toy"


def broken() -> ToyEntry:
    """An entry that cannot be made."""
    raise OSError("the disk\nis on fire")
