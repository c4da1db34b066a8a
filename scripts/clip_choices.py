"""Measure what each choice of a scoring script does to CLIP similarity; ``scripts/clip_choices`` fetches photographs.

python scripts/clip_choices.py FOLDER    # with a wheel of scikit-image

Mini's CLIP is trained on drawings, so its similarities mean something: each choice is tried on the source pictures of
mini's pairs with their edit prompts. The CLIP of the stand-ins has random weights. On photographs it shows how far a
choice moves the embedding of the same picture or text, and nothing about their similarity.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from check_lpips import photographs
from numpy.typing import NDArray
from PIL import Image

import riebench
from riebench.instruments.mini_instruments import CLIP_CONFIG, CLIP_NAME, CLIP_WEIGHTS
from riebench.metrics.clip import ClipScorer
from riebench.models.mini import PAIRS
from riebench.pairs import load_pairs
from riebench.standin.scorers import write_clip

Picture = NDArray[np.uint8]
TEXTS = (
    ("a cute little [duck] with big eyes", "a cute little duck with big eyes"),
    ("[a view of]the room with a [red] sofa", "a view of the room with a red sofa"),
    ("a [cat] on the roof at night", "a cat on the roof at night"),
)
"""Prompts with and without their brackets, for the stand-in."""


def coded(picture: Picture, **options: int) -> Picture:
    """A picture written as JPEG and read again."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", **options)
    return np.asarray(Image.open(buffer).convert("RGB"))


def smaller(picture: Picture) -> Picture:
    """A picture that was saved at three quarters of its size and made as large again, without antialiasing."""
    side, (height, width) = Image.Resampling.NEAREST, picture.shape[:2]
    small = Image.fromarray(picture).resize((width * 3 // 4, height * 3 // 4), side)
    return np.asarray(small.resize((width, height), side))


def grey(picture: Picture) -> Picture:
    """A picture in grey."""
    return np.asarray(Image.fromarray(picture).convert("L").convert("RGB"))


def clipped(picture: Picture) -> Picture:
    """A grey picture of 16 bits, as Pillow's ``convert("RGB")`` reads it: values above 255 are white."""
    sixteen = np.asarray(Image.fromarray(picture).convert("L"), np.int32) * 257
    return np.asarray(Image.fromarray(sixteen).convert("L").convert("RGB"))


def on(picture: Picture, colour: int) -> Picture:
    """A picture whose corners are transparent, on a colour; ``convert("RGB")`` shows what lies under them, as black."""
    rows, columns = np.mgrid[-1 : 1 : picture.shape[0] * 1j, -1 : 1 : picture.shape[1] * 1j]
    return np.where((rows**2 + columns**2 < 1)[..., None], picture, np.uint8(colour))


def on_white(picture: Picture) -> Picture:
    """As riebench reads it."""
    return on(picture, 255)


def on_black(picture: Picture) -> Picture:
    """As ``convert("RGB")`` reads it."""
    return on(picture, 0)


PICTURES = {
    "picture saved at 3/4 of its size, resized without antialiasing": (None, smaller),
    "picture saved as JPEG, quality 95": (None, lambda picture: coded(picture, quality=95)),
    "picture saved as JPEG, quality 75": (None, lambda picture: coded(picture, quality=75)),
    "grey picture of 16 bits read by Pillow's convert": (grey, clipped),
    "transparent corners dropped by Pillow's convert": (on_white, on_black),
}
"""A choice to what riebench does to the picture, and what the choice does."""


def row(name: str, changes: Sequence[float], moved: Sequence[float]) -> str:
    """A line of the table: the mean change of the similarity, the largest, and how far embeddings move."""
    values = np.asarray(changes)
    largest = values[np.abs(values).argmax()]
    return f"| {name} | {values.mean():+.4f} | {largest:+.4f} | {np.mean(moved):.1e} |"


def embedded(clip: ClipScorer, pictures: Sequence[Picture]) -> torch.Tensor:
    """Unit embeddings of pictures."""
    return clip.images(list(pictures))


def apart(first: torch.Tensor, second: torch.Tensor) -> list[float]:
    """One minus the cosine of each two embeddings."""
    return (1 - torch.nn.functional.cosine_similarity(first.double(), second.double())).tolist()


def main() -> None:
    """Print the table."""
    photos = [np.asarray(photo) for photo in photographs(next(Path(sys.argv[1]).glob("scikit_image-*.whl"))).values()]
    pairs, model = load_pairs(PAIRS), riebench.load("mini")
    runs = model.generate([pair.edit_prompt for pair in pairs], [pair.seed or 0 for pair in pairs], 1)
    drawings, prompts = [run.image for run in runs], [pair.edit_prompt for pair in pairs]
    mini = {gelu: ClipScorer(CLIP_NAME, CLIP_WEIGHTS, "", CLIP_CONFIG, quick_gelu=gelu) for gelu in (False, True)}
    clip = mini[False]
    texts, images = clip.texts(prompts), embedded(clip, drawings)
    plain = (images * texts).sum(1)
    with TemporaryDirectory() as folder:
        write_clip(Path(folder), "tiny", seed=0)
        standin = {gelu: ClipScorer("ViT-L-14", Path(folder), "", quick_gelu=gelu) for gelu in (False, True)}
    photo = embedded(standin[True], photos)
    bare = standin[True].texts([text for _, text in TEXTS])

    print("| choice | mean change of similarity | largest | stand-in: 1 - cosine |\n| --- | ---: | ---: | ---: |")
    marked = clip.texts([pair.editing_prompt for pair in pairs])
    moved = apart(standin[True].texts([text for text, _ in TEXTS]), bare)
    print(row("brackets left in the prompt", ((images * marked).sum(1) - plain).tolist(), moved))
    filler = "a " * (clip.tokenizer.context_length - 6)
    cut = clip.texts([filler + prompt for prompt in prompts])
    long = standin[True].texts(["and more " * 40 + text for _, text in TEXTS])
    print(
        row(
            "prompt cut: its words are beyond the last token",
            ((images * cut).sum(1) - plain).tolist(),
            apart(long, bare),
        )
    )
    other = (embedded(mini[True], drawings) * mini[True].texts(prompts)).sum(1)
    moved = apart(embedded(standin[False], photos), photo)
    print(row("the other activation (GELU, QuickGELU)", (other - plain).tolist(), moved))
    with torch.autocast("cpu", torch.bfloat16):
        half = (embedded(clip, drawings).float() * clip.texts(prompts).float()).sum(1)
        moved = apart(embedded(standin[True], photos), photo)
    print(row("autocast (bfloat16)", (half - plain).tolist(), moved))
    for name, (ours, theirs) in PICTURES.items():
        first = [drawing if ours is None else ours(drawing) for drawing in drawings]
        before = (embedded(clip, first) * texts).sum(1)
        after = (embedded(clip, [theirs(drawing) for drawing in drawings]) * texts).sum(1)
        base = embedded(standin[True], [one if ours is None else ours(one) for one in photos])
        moved = apart(embedded(standin[True], [theirs(one) for one in photos]), base)
        print(row(name, (after - before).tolist(), moved))
    print(f"{len(drawings)} drawings, mean similarity {plain.mean():.3f}; {len(photos)} photographs")


if __name__ == "__main__":
    main()
