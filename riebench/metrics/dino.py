"""Self-similarities of a picture's patches in a vision transformer of timm's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F

from riebench.util.batches import in_batches
from riebench.util.errors import UserError

Image = NDArray[np.uint8]


class DinoScorer:
    """Cosine similarities between the keys of the last layer's attention.

    As in PnPInversion, the keys of all heads are joined, and the class token counts as a patch.

    Args:
        name: name of the network in records.
        location: checkpoint, timm's or the authors' own.
        fingerprint: names the weights in records.
        model: name of the network in timm.
        byte_range: give the network pictures in 0..255, as PnPInversion's code does, rather than in 0..1, as DINO was
            trained.
        device: device of the network.
        batch: largest number of pictures in one pass.

    Raises:
        UserError: if timm does not know the network, or the weights do not fit it.
    """

    def __init__(
        self,
        name: str,
        location: Path,
        fingerprint: str,
        model: str = "vit_base_patch8_224.dino",
        byte_range: bool = False,
        device: torch.device | str = "cpu",
        batch: int = 32,
    ) -> None:
        self.name = name
        self.fingerprint = fingerprint
        self.batch = batch
        self.device = torch.device(device)
        self.scale = 1.0 if byte_range else 255.0
        try:
            self.model = cast("Any", timm.create_model(model, num_classes=0, checkpoint_path=str(location)))
        except (OSError, RuntimeError, KeyError, ValueError, UnpicklingError, SafetensorError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"DINO {model!r} cannot be loaded from {location}: {reason}") from None
        config = self.model.pretrained_cfg
        self._mean, self._std = (torch.tensor(config[part], device=device)[:, None, None] for part in ("mean", "std"))
        self.size = self.model.patch_embed.img_size
        self.model.to(self.device).eval().requires_grad_(False)

    @torch.no_grad()
    def self_similarities(self, images: Sequence[Image]) -> list[Tensor]:
        """Similarities ``[1 + patches, 1 + patches]`` of each picture ``[height, width, 3]``, on the CPU."""

        def work(rows: slice) -> list[Tensor]:
            part = torch.from_numpy(np.stack(images[rows])).to(self.device).permute(0, 3, 1, 2).float()
            shaped = F.interpolate(part, self.size, mode="bilinear", antialias=True) / self.scale
            keys = self._keys((shaped - self._mean) / self._std)
            return list((keys @ keys.transpose(1, 2)).cpu())

        return in_batches(self, len(images), work)

    def _keys(self, inputs: Tensor) -> Tensor:
        """Keys of unit length ``[n, 1 + patches, width]``: the middle third of the layer of queries, keys, values."""
        outputs: list[Tensor] = []
        layer = self.model.blocks[-1].attn.qkv
        handle = layer.register_forward_hook(lambda module, inputs, output: outputs.append(output))
        try:
            self.model.forward_features(inputs)
        finally:
            handle.remove()
        return F.normalize(outputs[0].chunk(3, dim=-1)[1], dim=-1)
