"""The denoisers: how to load one, how a seed becomes initial latents, how to generate."""

from riebench.catalog import ModelEntry, entry_named, model_names
from riebench.models.denoiser import Denoiser, Run

__all__ = ["Denoiser", "ModelEntry", "Run", "entry_named", "model_names"]
