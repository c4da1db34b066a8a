"""CLIP similarities through open_clip; any model, named or from a local file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage
from torch import Tensor
from torch.nn import functional as F

Image = NDArray[np.uint8]


class ClipScorer:
    """Unit embeddings of prompts and pictures.

    Args:
        model: name of an open_clip model, as ``ViT-L-14``.
        pretrained: tag (``openai``) or path of a checkpoint.
        fingerprint: names the weights in records.
        configs: folder with a configuration file of the model, if open_clip does not know it.
        batch: pictures in one pass at most.
    """

    def __init__(
        self, model: str, pretrained: str, fingerprint: str, configs: Path | None = None, batch: int = 32
    ) -> None:
        if configs is not None:
            open_clip.add_model_config(configs)
        self.name = model
        self.fingerprint = fingerprint
        self.batch = batch
        self.model, _, self.preprocess = open_clip.create_model_and_transforms(model, pretrained=pretrained)
        self.model.eval().requires_grad_(False)
        self.tokenizer = open_clip.get_tokenizer(model)
        self._texts: dict[str, Tensor] = {}

    def text(self, prompt: str) -> Tensor:
        """The embedding ``[d]`` of a prompt, kept for its next use."""
        if prompt not in self._texts:
            self._texts[prompt] = self.texts([prompt])[0]
        return self._texts[prompt]

    @torch.no_grad()
    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings ``[n, d]`` of prompts."""
        tokens = self.tokenizer(list(prompts))
        return torch.cat([F.normalize(self.model.encode_text(part), dim=-1) for part in tokens.split(self.batch)])

    @torch.no_grad()
    def images(self, images: Sequence[Image]) -> Tensor:
        """Embeddings ``[n, d]`` of pictures ``[height, width, 3]``."""
        inputs = torch.stack([self.preprocess(PILImage.fromarray(image)) for image in images])
        return torch.cat([F.normalize(self.model.encode_image(part), dim=-1) for part in inputs.split(self.batch)])
