"""Grounding DINO: the boxes of a phrase in a picture (Liu et al., 2023; package groundingdino-py)."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pictures
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from riebench.masks.dino_bert import random_bert, read_tokenizer, text_encoder
from riebench.masks.gsam_loading import fit, gsam_module, quiet, read_state
from riebench.masks.region import Image
from riebench.util.errors import PairError, UserError

ADDRESS = "https://github.com/IDEA-Research/GroundingDINO/releases/download/v0.1.0-alpha/groundingdino_swint_ogc.pth"
PUBLISHED = "groundingdino.config.GroundingDINO_SwinT_OGC"
# Remains in published files: a buffer that transformers no longer saves, and the labels of denoising training.
HARMLESS = ("bert.embeddings.position_ids", "label_enc.weight")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


class DetectorSizes(BaseModel):
    """Sizes of a detector; the defaults are those of the published Swin-T OGC model.

    A JSON file beside a checkpoint, with the same name, may give others. The width of the transformer is 256
    in the package's own code and cannot be changed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    swin_width: int = 96
    swin_depths: tuple[int, int, int, int] = (2, 2, 6, 2)
    swin_heads: tuple[int, int, int, int] = (3, 6, 12, 24)
    swin_window: int = 7
    enc_layers: int = 6
    dec_layers: int = 6
    nheads: int = 8
    dim_feedforward: int = 2048
    num_queries: int = 900


def caption_of(phrase: str) -> str:
    """A phrase as Grounding DINO expects it: in lower case, with a full stop at the end."""
    caption = phrase.lower().strip()
    return caption if caption.endswith(".") else caption + "."


def prepare(image: Image, short_side: int, long_side: int) -> Tensor:
    """A picture ``[height, width, 3]`` as the detector's input ``[3, h, w]`` (PROTOCOL.md, Masks).

    The picture is resized so that its short side has ``short_side`` pixels, or fewer where the long side would exceed
    ``long_side``; then it is normalised as for ImageNet.
    """
    transforms = gsam_module("groundingdino.datasets.transforms")
    resized, _ = transforms.resize(Pictures.fromarray(image), None, short_side, long_side)
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


class GroundingDINODetector:
    """A loaded detector.

    Args:
        model: the package's model.
        device: where it runs, always in float32.
    """

    def __init__(self, model: Any, device: str) -> None:
        self.model = model.eval().requires_grad_(False).to(device)
        self.device = device

    @torch.no_grad()
    def detect(
        self, image: Image, phrase: str, threshold: float, short_side: int = 800, long_side: int = 1333
    ) -> NDArray[np.float32]:
        """The boxes of a phrase: those whose best token scores above a threshold (PROTOCOL.md, Masks).

        Args:
            image: ``[height, width, 3]``.
            phrase: names the objects.
            threshold: 0 to 1.
            short_side: see :func:`prepare`.
            long_side: see :func:`prepare`.

        Returns:
            ``[n, 4]``: centre x, centre y, width and height as fractions of the picture, in the order of the model's
            queries.

        Raises:
            PairError: if the phrase is too long, or if the model's output is not a number.
        """
        caption = caption_of(phrase)
        count = len(self.model.tokenizer(caption)["input_ids"])
        if count > self.model.max_text_len:
            raise PairError(f"a phrase has {count} tokens, of at most {self.model.max_text_len}", where="masks")
        with quiet():
            output = self.model(prepare(image, short_side, long_side)[None].to(self.device), captions=[caption])
        tokens = output["pred_logits"][0].sigmoid().cpu()
        boxes = output["pred_boxes"][0].cpu()
        if bool(tokens.isnan().any() | boxes.isnan().any()):
            raise PairError("Grounding DINO's output is not a number", where="masks")
        return np.asarray(boxes[tokens.amax(1) > threshold].numpy())


def read_sizes(checkpoint: Path) -> DetectorSizes:
    """The sizes beside a checkpoint, or the published ones.

    Raises:
        UserError: if the file holds anything but sizes.
    """
    path = checkpoint.with_suffix(".json")
    if not path.is_file():
        return DetectorSizes()
    try:
        return DetectorSizes.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path}: {where or 'the file'}: {first['msg']}; expected sizes of a detector") from None


def build_detector(sizes: DetectorSizes, text_encoder_folder: Path) -> Any:
    """The package's model with random weights: its published settings at these sizes.

    Raises:
        UserError: if a package is missing, or a file of the text encoder.
    """
    package = "groundingdino.models.GroundingDINO"
    backbones, swin = gsam_module(f"{package}.backbone.backbone"), gsam_module(f"{package}.backbone.swin_transformer")
    published = {name: value for name, value in vars(gsam_module(PUBLISHED)).items() if not name.startswith("_")}
    # Checkpointing saves memory in training only.
    own = sizes.model_dump() | {"use_checkpoint": False, "use_transformer_ckpt": False}
    settings = SimpleNamespace(**(published | own))
    with quiet(), text_encoder(read_tokenizer(text_encoder_folder), random_bert(text_encoder_folder)):
        trunk = swin.SwinTransformer(
            embed_dim=sizes.swin_width,
            depths=sizes.swin_depths,
            num_heads=sizes.swin_heads,
            window_size=sizes.swin_window,
            out_indices=tuple(settings.return_interm_indices),
        )
        backbone = backbones.Joiner(trunk, backbones.build_position_encoding(settings))
        backbone.num_channels = [trunk.num_features[level] for level in settings.return_interm_indices]
        return gsam_module(f"{package}.groundingdino").GroundingDINO(
            backbone,
            gsam_module(f"{package}.transformer").build_transformer(settings),
            num_queries=sizes.num_queries,
            aux_loss=True,
            iter_update=True,
            query_dim=settings.query_dim,
            num_feature_levels=settings.num_feature_levels,
            nheads=sizes.nheads,
            dec_pred_bbox_embed_share=settings.dec_pred_bbox_embed_share,
            two_stage_type=settings.two_stage_type,
            two_stage_bbox_embed_share=settings.two_stage_bbox_embed_share,
            two_stage_class_embed_share=settings.two_stage_class_embed_share,
            num_patterns=settings.num_patterns,
            sub_sentence_present=settings.sub_sentence_present,
            max_text_len=settings.max_text_len,
        )


def load_detector(checkpoint: Path, text_encoder_folder: Path, device: str = "cpu") -> GroundingDINODetector:
    """Load a detector from its checkpoint and the folder of its text encoder.

    Raises:
        UserError: if a package or a file is missing, or if the checkpoint does not fit.
    """
    gsam_module("groundingdino.models")
    state = read_state(checkpoint, ADDRESS)
    sizes = read_sizes(checkpoint)
    try:
        model = build_detector(sizes, text_encoder_folder)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{checkpoint.with_suffix('.json')}: there is no detector of these sizes ({error})") from None
    fit(model, state, checkpoint, HARMLESS)
    if len(model.tokenizer) > model.bert.config.vocab_size:
        raise UserError(
            f"the tokenizer in {text_encoder_folder} has more words than its config.json says; get it again"
        )
    return GroundingDINODetector(model, device)
