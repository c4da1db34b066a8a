"""Load mini and its instruments from the package's own folder."""

from __future__ import annotations

from pathlib import Path

import torch

from riebench.catalog import MINI_PAIRS
from riebench.mini.layout import canvas_of_seed
from riebench.models.denoiser import Denoiser
from riebench.util.errors import UserError
from riebench.util.files import files_under, fingerprint

WEIGHTS = Path(__file__).parent / "weights"
PIPELINE = WEIGHTS / "pipeline"
PAIRS = MINI_PAIRS
SAES = WEIGHTS / "sae"


def load_denoiser(batch: int = 8, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Denoiser:
    """The pipeline of mini.

    Raises:
        UserError: if the weights are not in the package.
    """
    import diffusers.utils.logging
    import transformers.utils.logging
    from diffusers import StableDiffusionXLPipeline

    if not (PIPELINE / "model_index.json").exists():
        raise UserError(
            f"the weights of mini are not in {PIPELINE}; reinstall riebench or train them (scripts/train_mini.py)"
        )
    # Small files load at once; bars for them would only cover up the run's own.
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    pipeline = StableDiffusionXLPipeline.from_pretrained(
        PIPELINE, dtype=dtype, local_files_only=True, add_watermarker=False
    )
    pipeline.to(device)
    pipeline.unet.to(memory_format=torch.channels_last)
    pipeline.vae.to(memory_format=torch.channels_last)
    return Denoiser(pipeline, f"mini-{fingerprint(files_under(PIPELINE), PIPELINE)}", canvas_of_seed, batch)
