"""The denoisers: how to load one, how a seed becomes initial latents, how to generate."""

from riebench.models.denoiser import Denoiser, Run
from riebench.models.entries import ModelEntry, entry_named, model_names

__all__ = ["Denoiser", "ModelEntry", "Run", "entry_named", "model_names"]
