"""Stages: the networks that look at pictures, the CLIP and the AlexNet trunk of LPIPS."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from riebench.instruments.mini_instruments import CLIP_NAME
from riebench.mini.grammar import ATTRIBUTES, DEFAULTS, Scene, prompt, visible

from .data import Scenes
from .loop import Job, run
from .masker import roughen

CLIP_CONFIG = {
    "embed_dim": 96,
    "vision_cfg": {"image_size": 128, "layers": [1, 1, 1, 1], "width": 16, "head_width": 32, "patch_size": None},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)


class Heads(nn.Module):
    """One linear classifier for each attribute."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({name: nn.Linear(width, len(values)) for name, values in ATTRIBUTES.items()})

    def loss(self, features: Tensor, scenes: list[Scene]) -> tuple[Tensor, float]:
        """Mean cross entropy over the visible attributes, and the share read correctly."""
        losses, correct = [], []
        for name, layer in self.layers.items():
            rows = [i for i, scene in enumerate(scenes) if visible(scene, name)]
            labels = torch.tensor([ATTRIBUTES[name].index(getattr(scenes[i], name)) for i in rows])
            logits = layer(features[rows])
            losses.append(F.cross_entropy(logits, labels))
            correct.append((logits.argmax(1) == labels).float().mean().item())
        return torch.stack(losses).mean(), float(np.mean(correct))


def wrong_captions(scene: Scene, rng: np.random.Generator) -> list[Scene]:
    """For each visible attribute, the scene with another value of it."""
    others = []
    for name, values in ATTRIBUTES.items():
        if visible(scene, name):
            others.append(scene.changed(**{name: str(rng.choice([v for v in values if v != getattr(scene, name)]))}))
    return others


def caption(scene: Scene, silent: set[str]) -> str:
    """A caption that leaves out those attributes of ``silent`` that have their default value."""
    return prompt(scene, leave_out={n for n in silent if getattr(scene, n) == getattr(DEFAULTS, n)})


def clip_stage(rank: int, world: int, folder: Path, steps: int, batch: int = 24) -> None:
    """Train CLIP: the usual contrast, with captions that are wrong in one attribute among the candidates."""
    configs = folder / "clip"
    configs.mkdir(exist_ok=True)
    (configs / f"{CLIP_NAME}.json").write_text(json.dumps(CLIP_CONFIG, indent=2) + "\n")
    open_clip.add_model_config(configs)
    torch.manual_seed(0)
    clip = open_clip.create_model(CLIP_NAME, pretrained=None)
    clip.visual.to(memory_format=torch.channels_last)
    heads = Heads(CLIP_CONFIG["embed_dim"])
    module = nn.ModuleDict({"clip": clip, "heads": heads})
    tokenizer, data = open_clip.get_tokenizer(CLIP_NAME), Scenes(folder)
    optional = [n for n in ATTRIBUTES if n != "shape"]

    def loss(rng: np.random.Generator, step: int) -> tuple[Tensor, dict[str, float]]:
        torch.manual_seed(int(rng.integers(2**31)))
        chosen = np.sort(rng.integers(len(data), size=batch))
        scenes = [data.scenes[i] for i in chosen]
        # Rough pictures teach robustness, cleaner ones at the end sharpness.
        pictures = (roughen(data.pictures(chosen), rng, 0.12 if step < 0.75 * steps else 0.04) + 1) / 2
        features = clip.encode_image(((pictures - MEAN) / STD).contiguous(memory_format=torch.channels_last))
        captions, owner = [], []
        silents = [{n for n in optional if rng.random() < 0.5} for _ in scenes]
        for i, scene in enumerate(scenes):
            captions.append(caption(scene, silents[i]))
            owner.append(i)
        for i, scene in enumerate(scenes):
            for wrong in wrong_captions(scene, rng):
                captions.append(caption(wrong, silents[i]))
                owner.append(i)
        texts = F.normalize(clip.encode_text(tokenizer(captions)), dim=-1)
        scale = clip.logit_scale.exp().clamp(max=100)
        logits = scale * F.normalize(features, dim=-1) @ texts.T
        labels = torch.arange(batch)
        contrast = F.cross_entropy(logits, labels) + 0.5 * F.cross_entropy(logits[:, :batch].T, labels)
        # Against the captions wrong in one attribute alone, which is what the metric has to tell apart.
        own = torch.tensor(owner)[None] != labels[:, None]
        near = F.cross_entropy(logits.masked_fill(own, -1e4), labels)
        reading, accuracy = heads.loss(features, scenes)
        right = (logits.masked_fill(own, -1e4).argmax(1) == labels).float().mean().item()
        total = contrast + near + reading
        return total, {"loss": total.item(), "picked": right, "read": accuracy}

    embeddings = [clip.token_embedding.weight, clip.positional_embedding, clip.visual.attnpool.positional_embedding]
    run(Job("clip", module, loss, steps, adam=2e-3, muon=0.006, ema=0.99, embeddings=embeddings), folder, rank, world)


def trunk_stage(rank: int, world: int, folder: Path, steps: int, batch: int = 24) -> None:
    """Train AlexNet's convolutions to read attributes; LPIPS measures distances between their features."""
    torch.manual_seed(0)
    features = torchvision.models.alexnet(weights=None).features.to(memory_format=torch.channels_last)
    heads = Heads(256 * 3 * 3)
    module, data = nn.ModuleDict({"features": features, "heads": heads}), Scenes(folder)
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)  # as LPIPS scales its input
    scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)

    def loss(rng: np.random.Generator, step: int) -> tuple[Tensor, dict[str, float]]:
        torch.manual_seed(int(rng.integers(2**31)))
        chosen = np.sort(rng.integers(len(data), size=batch))
        x = (roughen(data.pictures(chosen), rng) - shift) / scale
        flat = features(x.contiguous(memory_format=torch.channels_last)).flatten(1)
        total, accuracy = heads.loss(flat, [data.scenes[i] for i in chosen])
        return total, {"loss": total.item(), "read": accuracy}

    run(Job("trunk", module, loss, steps, adam=1e-3, muon=0.004, ema=0.99), folder, rank, world)
