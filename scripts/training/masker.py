"""Stage: the masker, on the renderer's true masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from riebench.mini.grammar import ATTRIBUTES, BACKGROUND_NOUNS, Scene
from riebench.mini.layout import layout_of_seed
from riebench.mini.masker import MaskNet, word_ids
from riebench.mini.render import NOUNS, draw, noun_mask

from .data import Scenes
from .loop import Job, run

BATCH, PHRASES = 12, 4
STRANGERS = ("dog", "tree", "car", "person", "cloud", "table")


def described(scene: Scene, noun: str, rng: np.random.Generator) -> str:
    """The noun as a phrase, at times with words that fit the scene."""
    if noun in (scene.shape, "object") and rng.random() < 0.3:
        return f"{scene.material} {scene.colour} {noun}" if rng.random() < 0.5 else f"the {scene.colour} {noun}"
    if noun == "background" and rng.random() < 0.2:
        return f"{scene.background} background"
    return noun


def phrases(scene: Scene, rng: np.random.Generator) -> list[str]:
    """Phrases to ask of one picture: its shape, two that are likely there, and one that may not be."""
    present = [n for n in (scene.inside, scene.addition) if n != "nothing"]
    present += ["background", "foreground", "object"]
    if scene.style != "sketch":
        present += [n for n, b in BACKGROUND_NOUNS.items() if b == scene.background]
    absent = [*ATTRIBUTES["shape"], *ATTRIBUTES["inside"][1:] * 2, *ATTRIBUTES["addition"][1:] * 2, *BACKGROUND_NOUNS]
    other = str(rng.choice(STRANGERS)) if rng.random() < 0.1 else str(rng.choice(absent))
    return [scene.shape, present[0], str(rng.choice(present)), other]


def roughen(pictures: Tensor, rng: np.random.Generator, most: float = 0.12) -> Tensor:
    """Soften and disturb pictures as generation does, each to another degree, noise up to ``most``."""
    n = len(pictures)
    soft = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, 1)
    share = torch.from_numpy(rng.uniform(-0.5, 1, (n, 1, 1, 1)).astype(np.float32)).clamp(min=0)
    coarse = F.interpolate(torch.randn(n, 3, 32, 32), scale_factor=4.0, mode="bilinear")
    noise = torch.from_numpy(rng.uniform(0, most, (n, 1, 1, 1)).astype(np.float32))
    return pictures + share * (soft - pictures) + noise * (coarse + 0.3 * torch.randn_like(pictures))


def stage(rank: int, world: int, folder: Path, steps: int) -> None:
    """Train the masker: cross entropy plus Dice."""
    torch.manual_seed(0)
    net, data = MaskNet().to(memory_format=torch.channels_last), Scenes(folder)
    net.presence.requires_grad_(False)  # has a stage of its own

    def loss(rng: np.random.Generator, step: int) -> tuple[Tensor, dict[str, float]]:
        torch.manual_seed(int(rng.integers(2**31)))
        chosen = np.sort(rng.integers(len(data), size=BATCH))
        x = roughen(data.pictures(chosen), rng).contiguous(memory_format=torch.channels_last)
        words, truth = [], []
        for i in chosen:
            scene = data.scenes[i]
            drawing = draw(scene, layout_of_seed(int(data.seeds[i])))
            for noun in phrases(scene, rng):
                words.append(word_ids(described(scene, noun, rng)))
                truth.append(noun_mask(scene, drawing, noun))
        features = [f.repeat_interleave(PHRASES, 0) for f in net.encode(x)]
        logits, y = net.decode(features, torch.tensor(words)), torch.from_numpy(np.stack(truth)).float()
        p = logits.sigmoid()
        dice = 1 - (2 * (p * y).sum((1, 2)) + 20) / (p.sum((1, 2)) + y.sum((1, 2)) + 20)
        total = F.binary_cross_entropy_with_logits(logits, y) * 2 + dice.mean()
        hit, any_ = ((logits > 0) & (y > 0)).sum((1, 2)), ((logits > 0) | (y > 0)).sum((1, 2))
        iou = torch.where(any_ > 0, hit / any_.clamp(min=1), 1.0).mean().item()
        return total, {"loss": total.item(), "iou": iou}

    run(Job("masker", net, loss, steps, adam=2e-3, muon=0.006, ema=0.99), folder, rank, world)


def presence_stage(rank: int, world: int, folder: Path, steps: int, batch: int = 32) -> None:
    """Train the head that says which nouns are there, on the finished encoder."""
    torch.manual_seed(0)
    net, data = MaskNet(), Scenes(folder)
    net.load_state_dict(torch.load(folder / "masker.weights", weights_only=True), strict=False)
    net.to(memory_format=torch.channels_last).requires_grad_(False).eval()
    net.presence.requires_grad_(True).train()

    def loss(rng: np.random.Generator, step: int) -> tuple[Tensor, dict[str, float]]:
        torch.manual_seed(int(rng.integers(2**31)))
        chosen = np.sort(rng.integers(len(data), size=batch))
        x = roughen(data.pictures(chosen), rng).contiguous(memory_format=torch.channels_last)
        truth = torch.tensor([[float(is_shown(data.scenes[i], noun)) for noun in NOUNS] for i in chosen])
        with torch.no_grad():
            features = net.encode(x)
        logits = net.presence(features)
        total = F.binary_cross_entropy_with_logits(logits, truth)
        right = ((logits > 0) == (truth > 0)).float().mean().item()
        return total, {"loss": total.item(), "right": right}

    run(Job("presence", net, loss, steps, adam=2e-3, muon=0.006, ema=0.98), folder, rank, world)


def is_shown(scene: Scene, noun: str) -> bool:
    """Whether a scene shows a noun."""
    if noun in BACKGROUND_NOUNS:
        return scene.style != "sketch" and BACKGROUND_NOUNS[noun] == scene.background
    return noun in (scene.shape, scene.inside, scene.addition, "background", "foreground", "object")
