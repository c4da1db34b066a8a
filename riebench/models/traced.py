"""Pipelines of an unknown class with a transformer, whose layout a dry trace finds: a trial, unproven.

Importing it needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from riebench.models.devices import pick_device
from riebench.models.diffusers_entry import class_in, open_pipeline
from riebench.models.diffusers_model import joined
from riebench.models.dry_trace import dry_trace, plain_arguments, unclear
from riebench.models.model import Model
from riebench.models.sites import Batch, Run, Site
from riebench.models.tokens import Guidance, TokenEntry, Tokens, row_of
from riebench.settings.settings import ModelSettings, Settings
from riebench.util.errors import UserError
from riebench.weights.parts import INSTRUMENTS

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class TracedEntry(TokenEntry):
    """A pipeline of any class with a transformer; what the trace finds is put into the fields of the family."""

    traced_kind: Guidance = "none"

    def kinds_of_sites(self) -> tuple[list[str], list[str]]:
        """See :class:`DiffusersEntry`; unknown."""
        return [], []

    def check_settings(self, settings: Settings) -> None:
        """See :class:`TokenEntry`; the guidance is that of the pipeline's call.

        Raises:
            UserError: if there is no folder or no size, too.
        """
        super().check_settings(settings)
        if settings.model.size is None:
            raise UserError("a dry trace needs the side of the pictures; give --set model.size=1024, or another number")

    def kind(self, settings: Settings) -> Guidance:
        """See :class:`TokenEntry`; as traced."""
        return self.traced_kind

    def side(self, transformer: Mapping[str, Any], factor: int, size: int | None) -> int:
        """See :class:`TokenEntry`; the chosen one."""
        return size or self.size

    def folder(self, settings: Settings) -> Path | None:
        """See :class:`DiffusersEntry`.

        Raises:
            UserError: if no folder was named.
        """
        if settings.model.location is None:
            raise UserError(f"{self.name} has no weights of its own; give --model DIR --set model.family={self.name}")
        return super().folder(settings)

    def sites(self, settings: Settings) -> Mapping[str, Site]:
        """See :class:`ModelEntry`; the pipeline is loaded and traced, once in a process."""
        return self._found(settings).sites_for({self.denoiser: {}, "vae": {}}, settings.model.size)

    def saes(self, settings: Settings) -> Mapping[str, Path]:
        """See :class:`TokenEntry`."""
        return {} if settings.sae.folder is None else super(TracedEntry, self._found(settings)).saes(settings)

    def _found(self, settings: Settings) -> TracedEntry:
        if self.blocks:
            return self
        if settings.model not in TRACED_BEFORE:
            self.load(settings.model_copy(update={"sae": type(settings.sae)()}))
        return TRACED_BEFORE[settings.model][1]

    def load(self, settings: Settings) -> Model:
        """See :class:`ModelEntry`."""
        folder = self.folder(settings)
        assert folder is not None  # one was named
        named = replace(self, pipeline_class=class_in(folder))
        pipeline = open_pipeline(named, folder, settings, pick_device(settings.model.device))
        model = named.model_of(pipeline, settings, named.fingerprint_of(folder, settings))
        model.saes = self.saes(settings)
        return model

    def wrap(self, pipeline: Any, settings: Settings) -> Model:
        """See :class:`DiffusersEntry`; of any class."""
        if not hasattr(pipeline, self.denoiser):
            raise unclear(pipeline, f"it has no component {self.denoiser!r}")
        return replace(self, pipeline_class=type(pipeline).__name__).checked_model(pipeline, settings)

    def model_of(self, pipeline: Any, settings: Settings, fingerprint: str) -> Model:
        """See :class:`DiffusersEntry`; the pipeline is traced first, unless the latest of these settings was this."""
        before, found = TRACED_BEFORE.get(settings.model, ("", self)), self
        if not self.blocks:
            again = before[0] == fingerprint and before[1].pipeline_class == self.pipeline_class
            found = before[1] if again else self._traced(pipeline, settings)
        TRACED_BEFORE[settings.model] = fingerprint, found
        return Traced(pipeline, found, settings, fingerprint)

    def _traced(self, pipeline: Any, settings: Settings) -> TracedEntry:
        size = settings.model.size or self.size
        layout = dry_trace(pipeline, self.denoiser, size, {})
        rows, columns = layout.grid
        if rows != columns or size % columns:
            raise unclear(pipeline, f"{size} x {size} px have {rows} x {columns} tokens")
        return replace(
            self,
            blocks=layout.blocks,
            traced_kind=layout.guidance,
            width=lambda config: layout.width,
            factor=lambda vae: 1,
            patch=size // columns,
            size=size,
            arguments=plain_arguments(pipeline),
        )


class Traced(Tokens):
    """A pipeline that was traced: its own call from a prompt, a picture at a time, with noise of its own."""

    entry: TracedEntry

    def _encode_text(self, prompt: str, unconditional: bool = False) -> dict[str, Any]:
        """See :class:`DiffusersModel`; the prompt, which the call encodes."""
        return {"prompt": [prompt]}

    def call_arguments(self, texts: Sequence[Mapping[str, Any]], steps: int, latents: Tensor) -> dict[str, Any]:
        """See :class:`DiffusersModel`; without latents."""
        sides = {"height": self.size, "width": self.size}
        return {**joined(texts, {}), **sides, "num_inference_steps": steps, "output_type": "pt", **self.entry.arguments}

    def latent_shape(self) -> tuple[int, ...]:
        """See :class:`DiffusersModel`; unknown."""
        return 1, 1, 1

    def _initial_latents(self, seeds: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
        """None, so that the call draws its own from the generators."""
        import torch

        return torch.empty(0)

    def _first_step(self, batch: Batch) -> AbstractContextManager[Any]:
        """See :class:`DiffusersModel`; nothing is replayed."""
        return nullcontext()

    def _even_batch(self, batch: Batch) -> list[Run]:
        """See :class:`Tokens`; a row at a time."""
        rows = range(len(batch.prompts))
        return [run for row in rows for run in super(Tokens, self)._batch(row_of(batch, row))]


TRACED_BEFORE: dict[ModelSettings, tuple[str, TracedEntry]] = {}
"""Settings to the fingerprint of the pipeline that was traced in this process, and the entry that was found for it."""
TRACED = TracedEntry(
    "traced",
    (),
    parts=INSTRUMENTS,
    no_start="its layout was found by a trial alone",
    conditions={"family": "traced", "proof": "none, the layout was found by a dry trace alone"},
)
