"""Mini's own masker: a small convolutional network from (picture, phrase) to a mask.

The phrase steers the decoder by a scale and a shift of each channel (FiLM, Perez et al., 2018).
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from riebench.mini.grammar import VOCABULARY
from riebench.mini.render import NOUNS

WIDTHS = (12, 24, 48, 64, 64)
PHRASE_WIDTH = 64
UNKNOWN, PADDING = 0, 1
MAX_WORDS = 6
_IDS = {word: i + 2 for i, word in enumerate(VOCABULARY)}
_SILENT = frozenset({"a", "an", "the"})


def word_ids(phrase: str) -> list[int]:
    """Six word ids of a phrase, padded; articles are dropped, words outside the grammar share one id."""
    words = [w for w in re.findall(r"\w+", phrase.lower()) if w not in _SILENT]
    ids = [_IDS.get(w, UNKNOWN) for w in words][:MAX_WORDS]
    return ids + [PADDING] * (MAX_WORDS - len(ids))


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class PresenceHead(nn.Module):
    """A network from the encoder's features to the grammar's nouns that a picture shows."""

    def __init__(self) -> None:
        super().__init__()
        self.middle = _conv(WIDTHS[2], 64, 2)
        self.coarse = _conv(64 + WIDTHS[3], 96, 2)
        self.last = nn.Sequential(_conv(96 + WIDTHS[4], 128), _conv(128, 128, 2))
        self.read = nn.Linear(256, len(NOUNS))

    def forward(self, features: list[Tensor]) -> Tensor:
        """Logits ``[n, nouns]``."""
        x = self.coarse(torch.cat([self.middle(features[2]), features[3]], 1))
        x = self.last(torch.cat([x, features[4]], 1)).flatten(2)
        return self.read(torch.cat([x.mean(2), x.amax(2)], 1))


class MaskNet(nn.Module):
    """A network from picture and phrase to mask logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(3, WIDTHS[0])
        self.down = nn.ModuleList(nn.Sequential(_conv(a, b, 2), _conv(b, b)) for a, b in pairwise(WIDTHS))
        self.words = nn.Embedding(len(_IDS) + 2, PHRASE_WIDTH, padding_idx=PADDING)
        self.phrase = nn.Sequential(nn.Linear(PHRASE_WIDTH, PHRASE_WIDTH), nn.ReLU())
        self.middle = nn.Sequential(_conv(WIDTHS[-1], WIDTHS[-1]), _conv(WIDTHS[-1], WIDTHS[-1]))
        levels = list(zip(WIDTHS[::-1], WIDTHS[-2::-1], strict=False))
        self.film = nn.ModuleList(nn.Linear(PHRASE_WIDTH, 2 * w) for w in (WIDTHS[-1], *(b for _, b in levels)))
        self.up = nn.ModuleList(_conv(a + b, b) for a, b in levels)
        self.refine = nn.ModuleList(_conv(b, b) for _, b in levels)
        self.head = nn.Conv2d(WIDTHS[0], 1, 1)
        self.presence = PresenceHead()

    def encode(self, pictures: Tensor) -> list[Tensor]:
        """Features of pictures ``[n, 3, 128, 128]`` (-1..1), from fine to coarse."""
        features = [self.stem(pictures)]
        for level in self.down:
            features.append(level(features[-1]))
        return features

    def decode(self, features: list[Tensor], ids: Tensor) -> Tensor:
        """Mask logits ``[n, 128, 128]`` of one phrase ``ids [n, 6]`` for each picture."""
        phrase = self.phrase(self.words(ids).sum(1))

        def steer(x: Tensor, film: nn.Module) -> Tensor:
            scale, shift = film(phrase)[..., None, None].chunk(2, 1)
            return F.relu(x * (1 + scale) + shift)

        x = self.middle(steer(features[-1], self.film[0]))
        for skip, up, refine, film in zip(features[-2::-1], self.up, self.refine, self.film[1:], strict=False):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = refine(steer(up(torch.cat([x, skip], 1)), film))
        return self.head(x)[:, 0]

    def forward(self, pictures: Tensor, ids: Tensor) -> Tensor:
        return self.decode(self.encode(pictures), ids)


class MiniMasker:
    """The trained masker behind the interface of all maskers."""

    name = "mini-masker"
    MINIMUM = 12  # pixels; a smaller mask counts as none

    def __init__(self, path: Path, fingerprint: str, device: torch.device | str = "cpu") -> None:
        self.net = MaskNet().to(device).eval()
        self.device = torch.device(device)
        self.net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()})
        self.fingerprint = fingerprint

    @torch.no_grad()
    def find(self, image: NDArray[np.uint8], phrase: str) -> NDArray[np.bool_]:
        """The mask ``[1, height, width]`` of a phrase, or ``[0, height, width]`` if it is not in the picture.

        A phrase is in the picture if each of its nouns is; one without a noun of the grammar is not.
        """
        nothing = np.zeros((0, *image.shape[:2]), bool)
        named = [NOUNS.index(word) for word in re.findall(r"\w+", phrase.lower()) if word in NOUNS]
        if not named:
            return nothing
        picture = torch.from_numpy(image.copy()).to(self.device).permute(2, 0, 1)[None].float() / 127.5 - 1
        features = self.net.encode(picture)
        if bool((self.net.presence(features)[0, named] < 0).any()):
            return nothing
        ids = torch.tensor([word_ids(phrase)], device=self.device)
        mask = np.asarray((self.net.decode(features, ids) > 0).cpu().numpy())
        return mask if mask.sum() >= self.MINIMUM else nothing
