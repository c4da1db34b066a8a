"""CLIP similarities through open_clip; any model, named or from a local file or folder."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage
from torch import Tensor
from torch.nn import functional as F

from riebench.util.batches import in_batches
from riebench.util.errors import UserError
from riebench.util.lean_imports import lean_imports

with lean_imports():  # transformers looks for timm
    from transformers.initialization import no_init_weights
with lean_imports("timm"):  # which makes the models of some configurations, see ClipScorer
    import open_clip
    from torchvision.transforms import Compose

Image = NDArray[np.uint8]
KEPT_TEXTS = 64
OPEN_CLIP_CONFIG = "open_clip_config.json"


class ClipScorer:
    """Unit embeddings of prompts and pictures.

    Args:
        model: name of an open_clip model, such as ``ViT-L-14``.
        location: a checkpoint, or a folder in open_clip's own layout, whose ``open_clip_config.json`` names the model.
        fingerprint: names the weights in records.
        configs: a configuration file of the model, if open_clip does not know it.
        quick_gelu: whether the model has OpenAI's activation. A checkpoint does not tell; with the wrong activation
            the embeddings are wrong without any error.
        device: device of the network.
        batch: largest number of pictures in one pass.

    Raises:
        UserError: if the model is unknown or the weights do not fit it.
    """

    def __init__(
        self,
        model: str,
        location: Path,
        fingerprint: str,
        configs: Path | None = None,
        quick_gelu: bool = False,
        device: torch.device | str = "cpu",
        batch: int = 32,
    ) -> None:
        if configs is not None:
            open_clip.add_model_config(configs)
        self.name = model
        self.fingerprint = fingerprint
        self.batch = batch
        self.device = torch.device(device)
        own_layout = (location / OPEN_CLIP_CONFIG).is_file()
        model_name = f"local-dir:{location}" if own_layout else model
        quiet = logging.getLogger().level
        logging.getLogger().setLevel(logging.ERROR)  # open_clip warns of the activation, which quick_gelu settles
        try:
            _with_timm(model_name)
            with no_init_weights():  # the file replaces all of them
                self.model, _, preprocess = open_clip.create_model_and_transforms(
                    model_name,
                    pretrained=None if own_layout else str(location),
                    force_quick_gelu=quick_gelu,
                    weights_only=True,
                )
            self.tokenizer = open_clip.get_tokenizer(model_name)
        except (RuntimeError, OSError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"CLIP {model!r} cannot be loaded from {location}: {reason}") from None
        finally:
            logging.getLogger().setLevel(quiet)
        # The last two transforms, to a tensor and normalise, are done for a whole batch in images().
        self._reshape, normalize = Compose(preprocess.transforms[:-2]), preprocess.transforms[-1]
        self._mean, self._std = (torch.tensor(v)[:, None, None] for v in (normalize.mean, normalize.std))
        self.model.to(self.device).eval().requires_grad_(False)
        self.text = lru_cache(KEPT_TEXTS)(self._text)

    def cut(self, prompt: str) -> str:
        """Why the end of a prompt does not count, as ``80 tokens, of which CLIP reads 77``; empty if all of it counts.

        Start and end are tokens, too. A tokenizer that is neither open_clip's own nor Hugging Face's is not asked.
        """
        kind, most = type(self.tokenizer).__name__, self.tokenizer.context_length
        if kind == "SimpleTokenizer":
            count = len(self.tokenizer.encode(prompt)) + 2
        elif kind == "HFTokenizer":
            count = len(self.tokenizer.tokenizer(self.tokenizer.clean_fn(prompt)).input_ids)
        else:
            return ""
        return f"{count} tokens, of which CLIP reads {most}" if count > most else ""

    def _text(self, prompt: str) -> Tensor:
        """The embedding ``[d]`` of a prompt on the CPU; ``text`` is the same with the latest results kept."""
        return self.texts([prompt])[0]

    @torch.no_grad()
    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings ``[n, d]`` of prompts on the CPU."""
        tokens = self.tokenizer(list(prompts)).to(self.device)
        parts = [F.normalize(self.model.encode_text(part), dim=-1) for part in tokens.split(self.batch)]
        return torch.cat(parts).cpu()

    @torch.no_grad()
    def images(self, images: Sequence[Image]) -> Tensor:
        """Embeddings ``[n, d]`` of pictures ``[height, width, 3]`` on the CPU."""

        def work(rows: slice) -> list[Tensor]:
            shaped = np.stack([np.asarray(self._reshape(PILImage.fromarray(image))) for image in images[rows]])
            inputs = torch.from_numpy(shaped).permute(0, 3, 1, 2).float().div_(255).sub_(self._mean).div_(self._std)
            return list(F.normalize(self.model.encode_image(inputs.to(self.device)), dim=-1).cpu())

        return torch.stack(in_batches(self, len(images), work))


def _with_timm(model_name: str) -> None:
    """Give open_clip the package timm, if the model's configuration names one of its networks."""
    config = open_clip.get_model_config(model_name) or {}
    if "timm_model_name" in config.get("vision_cfg", {}) and open_clip.timm_model.timm is None:
        importlib.reload(open_clip.timm_model)
        open_clip.model.TimmModel = open_clip.timm_model.TimmModel
