"""The parts that a real model needs, with their sources (PROTOCOL: Generation, Masks, SAE, Metrics)."""

from __future__ import annotations

from dataclasses import dataclass

GB = 10**9


@dataclass(frozen=True)
class HubFiles:
    """Files of a repository on the Hugging Face hub.

    Attributes:
        repo: as ``stabilityai/sdxl-turbo``.
        revision: commit; ``main`` is resolved when it is fetched first, and kept from then on.
        patterns: which files.
        sha256: of single files whose published hash is known; the hub's own is checked for the others.
    """

    repo: str
    revision: str
    patterns: tuple[str, ...]
    sha256: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Download:
    """One file at an address, with the start of its SHA-256."""

    url: str
    sha256: str

    @property
    def name(self) -> str:
        """File name."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Part:
    """One part of a model's instruments.

    Attributes:
        name: as ``doctor`` calls it.
        folder: where it lies under the weights folder.
        needs: files (or folders) in it without which it cannot be loaded.
        source: where it comes from.
        size: of the download, bytes.
        packages: distributions that read it.
    """

    name: str
    folder: str
    needs: tuple[str, ...]
    source: HubFiles | Download
    size: int
    packages: tuple[str, ...]


SAE_SUFFIX = "_k160_hidden5120_auxk256_bs4096_lr0.0001"
"""RIEBench's choice among the published SAEs: k 160, 5120 features."""
SAE_BLOCKS = (
    "unet.down_blocks.2.attentions.1",
    "unet.mid_block.attentions.0",
    "unet.up_blocks.0.attentions.0",
    "unet.up_blocks.0.attentions.1",
)
PIPELINE_FILES = (
    "model_index.json",
    "scheduler/*.json",
    "tokenizer/*",
    "tokenizer_2/*",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "text_encoder_2/config.json",
    "text_encoder_2/model.safetensors",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
)
_PIPELINE_NEEDS = ("model_index.json", "unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "scheduler")
ALEXNET = "alexnet-owt-7be5be79.pth"

_INSTRUMENTS = (
    Part(
        "sae",
        "sdxl-turbo-saes",
        tuple(f"{block}{SAE_SUFFIX}/final" for block in SAE_BLOCKS),
        HubFiles("wendlerc/sdxl-turbo-saes", "main", tuple(f"{block}{SAE_SUFFIX}/final/*" for block in SAE_BLOCKS)),
        210_000_000,
        ("torch",),
    ),
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
        # The detector's checkpoint holds the weights of its text encoder; what lacks is its shape and tokenizer.
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

_MODELS = {
    "sdxl-turbo": Part(
        "model",
        "sdxl-turbo",
        _PIPELINE_NEEDS,
        HubFiles("stabilityai/sdxl-turbo", "71153311d3dbb46851df1931d3ca6e939de83304", PIPELINE_FILES),
        int(13.9 * GB),
        ("diffusers", "transformers"),
    ),
    "sdxl-base": Part(
        "model",
        "sdxl-base",
        _PIPELINE_NEEDS,
        HubFiles(
            "stabilityai/stable-diffusion-xl-base-1.0", "462165984030d82259a11f4367a4eed129e94a7b", PIPELINE_FILES
        ),
        int(13.9 * GB),
        ("diffusers", "transformers"),
    ),
}


def parts_of(model: str) -> tuple[Part, ...]:
    """The parts of a model by name, the pipeline first; empty for a model whose weights are in the package."""
    return (_MODELS[model], *_INSTRUMENTS) if model in _MODELS else ()
