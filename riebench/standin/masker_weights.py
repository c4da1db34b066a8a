"""Stand-ins for the weights of Grounded SAM 2."""

from __future__ import annotations

import json
import string
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import BertConfig

from riebench.masks.dino_bert import read_tokenizer
from riebench.masks.grounding_dino import DetectorSizes, build_detector
from riebench.masks.gsam import DETECTOR, SEGMENTER, TEXT_ENCODER
from riebench.masks.gsam_loading import gsam_module, quiet
from riebench.masks.sam import build_sam2
from riebench.standin.size import Size

WIDTH = 256  # of the detector's transformer, which the package fixes

TINY_DETECTOR = DetectorSizes(
    swin_width=16,
    swin_depths=(1, 1, 1, 1),
    swin_heads=(1, 1, 2, 2),
    enc_layers=1,
    dec_layers=2,
    nheads=4,
    dim_feedforward=64,
    num_queries=32,
)
TINY_SEGMENTER = {
    "image_encoder": {
        "trunk": {"embed_dim": 16, "num_heads": 1, "stages": [1, 1, 2, 1], "global_att_blocks": [3]},
        "neck": {
            "d_model": 64,
            "position_encoding": {"num_pos_feats": 64},
            "backbone_channel_list": [128, 64, 32, 16],
        },
    },
    "memory_attention": {
        "d_model": 64,
        "layer": {
            "d_model": 64,
            "self_attention": {"embedding_dim": 64},
            "cross_attention": {"embedding_dim": 64},
        },
        "num_layers": 1,
    },
    "memory_encoder": {"fuser": {"num_layers": 1}},
}

# A query's score for a token is the dot product of two layer-normalised vectors of width 256. Their norms' weights
# a, b and constant biases c, d give  score = a b (n . m) + 256 c d,  for a normalised vector sums to zero, with
# |n . m| <= 256 and about 16 as its deviation. So scores are spread by SPREAD around a chosen centre, and none
# can exceed centre + 16 SPREAD < 4.595, where the sigmoid is 0.99. A threshold of 0.35 is a score of -0.62: with
# these centres 3 to 24 of 32 queries pass it, and about as many of 900.
SPREAD = 0.34
CENTRES: dict[Size, float] = {"tiny": -1.1, "true": -1.5}
COVERAGE = 0.3  # of the picture, by a mask


def write_grounding_dino(folder: Path, size: Size, seed: int) -> None:
    """Write a random Grounding DINO: its checkpoint, its text encoder's folder and, if tiny, its sizes.

    At a box threshold of 0.35 it finds boxes for any phrase in any picture, at 0.99 none.

    Args:
        folder: for files with the published names.
        size: ``true`` has the published shapes; ``tiny`` has fewer layers and narrower ones.
        seed: of the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sizes = TINY_DETECTOR if size == "tiny" else DetectorSizes()
    text, path = folder / TEXT_ENCODER, folder / DETECTOR
    _write_tokenizer(text, size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = build_detector(sizes, text).state_dict()
        _set_scores(state, sizes, CENTRES[size])
    # The detector's checkpoint has the text encoder within it, under the names of bert-base-uncased's own file.
    save_file(
        {key: value.contiguous() for key, value in state.items() if key.startswith("bert.")},
        text / "model.safetensors",
        metadata={"format": "pt"},
    )
    _save(state, path)
    _write_sizes(path, sizes.model_dump_json(indent=1) if size == "tiny" else None)


def write_sam2(folder: Path, size: Size, seed: int) -> None:
    """Write a random SAM 2.1: its checkpoint and, if tiny, its sizes. Its masks cover a part of the picture.

    Args:
        folder: for files with the published names.
        size: ``true`` has the published shapes; ``tiny`` has fewer layers and narrower ones.
        seed: of the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / SEGMENTER
    _write_sizes(path, json.dumps(TINY_SEGMENTER, indent=1) if size == "tiny" else None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_sam2(sizes=path.with_suffix(".json")).eval()
        _set_masks(model)
    _save(model.state_dict(), path)


def _save(state: dict[str, Tensor], path: Path) -> None:
    """Save tensors as published: a dict under ``model``."""
    torch.save({"model": {key: value.detach() for key, value in state.items()}}, path)


def _write_sizes(checkpoint: Path, sizes: str | None) -> None:
    """Write sizes beside a checkpoint, or remove those of an earlier stand-in."""
    path = checkpoint.with_suffix(".json")
    path.unlink(missing_ok=True)
    if sizes is not None:
        path.write_text(sizes + "\n")


def _set_scores(state: dict[str, Tensor], sizes: DetectorSizes, centre: float) -> None:
    """Bring scores and boxes into a useful range, in place; the package initialises them with ones and zeros."""
    text = f"transformer.encoder.text_layers.{sizes.enc_layers - 1}.norm2"
    queries = "transformer.decoder.norm"
    state[f"{text}.weight"].fill_(SPREAD / 16)
    state[f"{text}.bias"].fill_(1.0)
    state[f"{queries}.weight"].fill_(1.0)
    state[f"{queries}.bias"].fill_(centre / WIDTH)
    for key, value in state.items():
        # Queries stay near their own random vectors, so that they score independently of each other.
        if "decoder.layers" in key and key.endswith(("out_proj.weight", "output_proj.weight", "linear2.weight")):
            value.mul_(0.1)
        # Boxes differ from the grid of proposals in place and shape.
        elif "bbox_embed" in key and key.endswith("layers.2.weight"):
            value.normal_(std=0.1)


@torch.no_grad()
def _set_masks(model: Any) -> None:
    """Make masks blobs, in place; as the package initialises them they cover almost everything or nothing.

    Strong position embeddings make the logits vary over the picture. A mask is the product of fine features
    with a vector for each of four kinds of mask: one feature is held near 4, and its weight lowers the logits by
    as much as leaves COVERAGE of a noise picture above zero.
    """
    model.image_encoder.trunk.pos_embed.normal_(std=4.0)
    decoder = model.sam_mask_decoder
    decoder.output_upscaling[3].bias[0] = 4.0
    decoder.dynamic_multimask_via_stability = False
    with quiet():
        predictor = gsam_module("sam2.sam2_image_predictor").SAM2ImagePredictor(model)
    predictor.set_image(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    boxes = np.array([[4, 4, 24, 24], [16, 16, 48, 48], [32, 8, 60, 60], [0, 0, 64, 64]], np.float32)
    kinds = [predictor.predict(box=boxes, multimask_output=several)[2] for several in (False, True)]
    # [boxes, kinds, height, width]
    for logits, vector in zip(np.concatenate(kinds, 1).swapaxes(0, 1), decoder.output_hypernetworks_mlps, strict=True):
        vector.layers[2].bias[0] -= float(np.quantile(logits, 1 - COVERAGE)) / 4


def _write_tokenizer(folder: Path, size: Size) -> None:
    """Write the tokenizer and the configuration in the layout of bert-base-uncased."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").unlink(missing_ok=True)  # it would take precedence over the vocabulary
    config = BertConfig()
    words = bert_vocabulary(config.vocab_size if size == "true" else None)
    if size == "tiny":
        config = BertConfig(
            vocab_size=len(words), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
        )
    config.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    settings = {"do_lower_case": True, "model_max_length": 512, "tokenizer_class": "BertTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings) + "\n")
    read_tokenizer(folder).save_pretrained(folder)


def bert_vocabulary(entries: int | None) -> list[str]:
    """Word pieces in the order of their ids: special tokens with bert-base-uncased's ids, characters, pairs of letters.

    Args:
        entries: length of the list, filled up with ``[unusedN]``; None adds no filling.
    """
    words = ["[PAD]", *(f"[unused{i}]" for i in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    signs = [c for c in map(chr, range(33, 127)) if c not in string.ascii_uppercase]
    letters = [*string.ascii_lowercase, *string.digits]
    pairs = ["".join(p) for p in product("bcdfghklmnprstw", "aeiou")]
    words += [*signs, *(f"##{c}" for c in letters), *pairs, *(f"##{p}" for p in pairs)]
    return words + [f"[unused{i}]" for i in range(99, 99 + (entries or 0) - len(words))]
