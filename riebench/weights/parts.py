"""The parts of a real model, and the instruments that all real models share (PROTOCOL.md, Masks and Metrics)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HubFiles:
    """Files of a repository on the Hugging Face hub.

    Attributes:
        repo: name of the repository, as ``stabilityai/sdxl-turbo``.
        revision: commit; ``main`` is resolved to a commit at the first fetch, and that commit is kept.
        patterns: of the names of the files.
        sha256: file name and SHA-256 of files whose hash is published elsewhere; others are checked by the hub's hash.
        gated: whether the hub gives the files only to users who have accepted the licence.
    """

    repo: str
    revision: str
    patterns: tuple[str, ...]
    sha256: tuple[tuple[str, str], ...] = ()
    gated: bool = False

    @property
    def address(self) -> str:
        """Address of the repository's page."""
        return f"https://huggingface.co/{self.repo}"

    @property
    def access(self) -> str:
        """Instructions for access to a gated repository."""
        return f"accept its licence at {self.address} and log in with 'hf auth login' (or set HF_TOKEN)"


@dataclass(frozen=True)
class Download:
    """One file at an address.

    Attributes:
        url: the address.
        sha256: the start of the file's SHA-256.
    """

    url: str
    sha256: str

    @property
    def name(self) -> str:
        """File name."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Part:
    """Weights that a model or its instruments need, in one folder.

    Attributes:
        name: of the part, as ``riebench doctor`` prints it.
        folder: path under the weights folder.
        needs: files and folders in it without which the part cannot be loaded.
        source: origin of the download.
        size: of the download, bytes.
        packages: distributions that load the part.
    """

    name: str
    folder: str
    needs: tuple[str, ...]
    source: HubFiles | Download
    size: int
    packages: tuple[str, ...]


ALEXNET = "alexnet-owt-7be5be79.pth"

INSTRUMENTS = (
    Part(
        "detector",
        "grounding-dino",
        ("groundingdino_swint_ogc.pth",),
        HubFiles(
            "ShilongLiu/GroundingDINO",
            "a94c9b567a2a374598f05c584e96798a170c56fb",
            ("groundingdino_swint_ogc.pth",),
            (
                (
                    "groundingdino_swint_ogc.pth",
                    "3b3ca2563c77c69f651d7bd133e97139c186df06231157a64c507099c52bc799",
                ),
            ),
        ),
        693_997_677,
        ("groundingdino-py",),
    ),
    Part(
        "text-encoder",
        "grounding-dino/bert-base-uncased",
        ("config.json", "vocab.txt"),
        # The detector's checkpoint holds the text encoder's weights, but not its configuration and tokenizer.
        HubFiles(
            "google-bert/bert-base-uncased",
            "main",
            ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"),
        ),
        700_000,
        ("transformers",),
    ),
    Part(
        "segmenter",
        "sam2",
        ("sam2.1_hiera_large.pt",),
        HubFiles(
            "facebook/sam2.1-hiera-large",
            "665f8e2ad61cf5f53d65644ff27c8ee525124610",
            ("sam2.1_hiera_large.pt",),
            (("sam2.1_hiera_large.pt", "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318"),),
        ),
        898_083_611,
        ("sam2",),
    ),
    Part(
        "clip",
        "clip/ViT-L-14-openai",
        ("open_clip_config.json", "open_clip_model.safetensors"),
        HubFiles(
            "timm/vit_large_patch14_clip_224.openai",
            "main",
            ("open_clip_config.json", "open_clip_model.safetensors"),
        ),
        1_710_000_000,
        ("open_clip_torch",),
    ),
    Part(
        "lpips",
        "lpips",
        (ALEXNET,),
        Download(f"https://download.pytorch.org/models/{ALEXNET}", "7be5be79"),
        244_408_911,
        ("lpips",),
    ),
)
"""Masker, CLIP and LPIPS as published."""

SQUEEZENET = "squeezenet1_1-b8a52dc0.pth"
DINO = "model.safetensors"

SCORERS = (
    Part(
        "dino",
        "dino",
        (DINO,),
        HubFiles("timm/vit_base_patch8_224.dino", "main", ("config.json", DINO)),
        343_000_000,
        ("timm",),
    ),
    Part(
        "lpips-squeeze",
        "lpips",
        (SQUEEZENET,),
        Download(f"https://download.pytorch.org/models/{SQUEEZENET}", "b8a52dc0"),
        5_000_000,
        ("lpips",),
    ),
)
"""Networks that single metrics need; ``riebench fetch`` downloads them only if they are named."""
