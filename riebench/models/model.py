"""What every loaded model can do: generate pictures while the values at its sites are read and added to.

A family subclasses :class:`Model` and says how it samples, and how the values at a site are found in what a forward
hook is given. Hooks live inside one call of :meth:`Model.generate` alone, so a model is as it was after any error.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any

from riebench.models.hooks import check_edits, site_hook
from riebench.models.sites import Batch, Change, Edit, Run, Site, Start
from riebench.util.batches import in_batches
from riebench.util.errors import PairError, UserError, unknown

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from riebench.pairs import Pair
    from riebench.sae.topk import TopKSAE
    from riebench.settings.settings import Settings
    from riebench.weights import Part


USER_WEIGHTS = "given-"
"""The start of the fingerprint of weights that a user hands in."""
DENOISER, DECODER, TEXT = "denoiser", "decoder", "text encoder"
"""The networks of :meth:`Model.networks` whose passes ``riebench bench`` compares with the least possible number."""


@dataclass(frozen=True)
class ModelEntry(ABC):
    """A model by name: what is known of it without its weights, and how they are loaded. A family subclasses it.

    Attributes:
        name: as given to ``--model``.
        default_sites: the blocks that ``--block all`` stands for.
        steps: denoising steps unless told otherwise.
        most_steps: the most that its sampler takes.
        guidance: guidance scale unless told otherwise.
        pairs: its own pair file, if it has one.
        prompts: where prompts come from unless a user names a file, see :func:`riebench.prompts.read_prompts`.
        blur_kernel: side of the blur that masks get before they go to a site's grid, pixels.
        parts: weights that must be found on this machine, the pipeline first; none if they come with a package.
        instruments: the masker and scorers that belong to it: ``published``, ``mini``, or ``module:class`` of
            :class:`riebench.instruments.model_instruments.ModelInstruments`.
        scorers: networks that single metrics need and that can judge its pictures, by the names of their parts.
        pipeline_class: name of its pipeline in a ``model_index.json``, so that a folder can be loaded by its path.
        pipeline_parameters: number of weights in the pipeline, for plans; 0 where it is small.
        row_bytes: memory of the activations of one row of a forward pass in float32, about.
        standin: what writes random weights in its layout: ``sdxl``, ``flux``, or ``module:function`` as
            :func:`riebench.standin.write.write_standin` says; none if empty.
    """

    name: str
    default_sites: tuple[str, ...]
    steps: int = 1
    most_steps: int = 1000
    guidance: float = 0.0
    pairs: Path | None = None
    prompts: str | None = None
    blur_kernel: int = 31
    parts: tuple[Part, ...] = ()
    instruments: str = "published"
    scorers: tuple[str, ...] = ("dino", "lpips-squeeze")
    pipeline_class: str = ""
    pipeline_parameters: float = 0.0
    row_bytes: float = 0.0
    standin: str = ""

    def check_settings(self, settings: Settings) -> None:  # noqa: B027 - most families have nothing to refuse
        """Refuse settings that this model does not have (UserError); any will do unless a family says otherwise."""

    @abstractmethod
    def sites(self, settings: Settings) -> Mapping[str, Site]:
        """Every site in the order in which they run, read from configurations alone."""

    def saes(self, settings: Settings) -> Mapping[str, Path]:
        """Site to the folder of its SAE; empty where there are none."""
        return {}

    @abstractmethod
    def load(self, settings: Settings) -> Model:
        """The model with its weights.

        Raises:
            UserError: if weights are missing or do not fit.
        """

    def wrap(self, pipeline: Any, settings: Settings) -> Model:
        """A pipeline that is loaded already, as a model of this name.

        Raises:
            UserError: if this family takes none.
        """
        raise UserError(f"{self.name} takes no loaded pipeline; leave out pipeline=")

    def prompts_location(self, chosen: str | None) -> str:
        """Where prompts come from: the user's choice, else the model's own.

        Raises:
            UserError: if there is neither.
        """
        location = chosen or self.prompts
        if location is None:
            raise UserError(f"{self.name} has no prompts of its own; give --prompts FILE")
        return location

    def check_pairs(self, pairs: Sequence[Pair]) -> None:  # noqa: B027 - most families have nothing to refuse
        """Refuse pairs that this model cannot judge (UserError); any will do unless a family says otherwise."""


class Model(ABC):
    """A loaded model.

    Attributes:
        entry: what is known of it without its weights.
        fingerprint: names the weights in records.
        sites: every site by name, in the order in which they run.
        modules: site to the module whose output holds its values.
        device: where values lie.
        size: side of the pictures, pixels.
        conditions: settings that can change what it generates, as the type of its weights.
        saes: site to its SAE, or to the folder that holds it.
        batch: rows in one forward pass at most; halved when memory runs out.
        own: whether these are the weights that the entry loads, and not somebody's own under its name.
        guided: whether a batch has an unconditional half, so that each picture takes two rows of the denoiser.
        replay: whether edited runs take what the base run has computed already, in families that can do so.
    """

    guided = False
    replay = False

    def __init__(
        self,
        entry: ModelEntry,
        fingerprint: str,
        sites: Mapping[str, Site],
        modules: Mapping[str, nn.Module],
        device: torch.device,
        size: int,
        conditions: Mapping[str, str | float],
    ) -> None:
        import torch

        if device.type == "cuda":
            # PyTorch's default gives convolutions of float32 ten bits of mantissa on the GPUs that can do so, which
            # moves metrics ten to three hundred times as far as rounding does (standin/GPU.md).
            torch.backends.cudnn.allow_tf32 = False
        self.entry = entry
        self.fingerprint = fingerprint
        self.sites = sites
        self.modules = modules
        self.device = device
        self.size = size
        self.conditions = conditions
        self.saes: Mapping[str, Path | TopKSAE] = {}
        self.batch = 8
        self.own = not fingerprint.startswith(USER_WEIGHTS)
        self._loaded_saes: dict[tuple[str, Path | TopKSAE], TopKSAE] = {}
        self._turn = RLock()  # hooks sit on the modules, where every thread would meet them

    @property
    def default_sites(self) -> tuple[str, ...]:
        """The blocks that ``--block all`` stands for."""
        return self.entry.default_sites

    def runs(self, prompted: Iterable[tuple[str, int]], steps: int, capture: Collection[str]) -> Iterator[Run]:
        """One run after the other of prompts with their seeds, generated ``batch`` at a time.

        The values of no more than one batch are in memory.
        """
        queue = list(prompted)
        while queue:
            part, queue = queue[: self.batch], queue[self.batch :]
            yield from self.generate([p for p, _ in part], [s for _, s in part], steps, capture=capture)

    @abstractmethod
    def read(self, site: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Tensor:
        """The values ``[rows, positions, width]`` of a site in what its module was given and put out."""

    @abstractmethod
    def add(self, site: str, output: Any, delta: Tensor) -> Any:
        """The module's output with ``delta`` ``[rows, positions, width]`` added to the values of a site."""

    @abstractmethod
    def sample(self, batch: Batch) -> Tensor:
        """The pictures ``[rows, 3, height, width]`` of a batch, 0..1. Edits and captures happen in hooks, not here."""

    def finished(self, prompt: str, seed: int, steps: int) -> Tensor:
        """The finished latents of a run without edits, ``[1, ...]``, in families whose :meth:`sample` can begin there.

        Raises:
            UserError: if the family cannot.
        """
        raise UserError(f"{self.entry.name} cannot begin from a finished picture; its family has no finished()")

    def networks(self) -> Mapping[str, tuple[Any, str]]:
        """The networks that ``riebench bench`` counts and times: name to an object and the name of its function.

        The first tensor that such a function is given holds a row for each picture or prompt; one that is given none
        works on one. The names :data:`DENOISER`, :data:`DECODER` and :data:`TEXT` (given a prompt, or its tokens) must
        be among them; others are counted, too.

        Raises:
            UserError: if the family does not say.
        """
        raise UserError(f"the family of {self.entry.name} does not say which networks to measure; give it networks()")

    def keeping_nothing(self) -> AbstractContextManager[None]:
        """Inside the ``with`` statement nothing is kept from one call to the next, for the bench's plain loop.

        A family that keeps something, as the text states of a prompt, says here how not to.
        """
        return nullcontext()

    def generate(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        steps: int,
        *,
        edits: Sequence[Edit | tuple[Mapping[str, Change], float]] = (),
        capture: Collection[str] = (),
        on_steps: Collection[int] | None = None,
        start: Start | None = None,
    ) -> list[Run]:
        """Generate one picture for each prompt and seed, in batches; threads wait for each other.

        Args:
            prompts: one a row.
            seeds: one a row; they alone decide the initial latents and the sampler's noise.
            steps: denoising steps.
            edits: one a row; none edits nothing.
            capture: sites whose values are wanted, edits included.
            on_steps: the steps, from 0, in which edits that name no steps are on; all unless given.
            start: where the runs begin if not with noise. Steps are numbered as in the whole run; values of earlier
                steps are of a run that is discarded, and edits that are on in these alone do nothing.

        Raises:
            UserError: if the numbers of rows differ, a site or step does not exist, or the family has no such start.
            PairError: if a change has the wrong shape or is not finite, a prompt is too long for the text encoder, or
                a picture is not finite.
        """
        import torch

        rows = [Edit(*edit) for edit in edits]
        rows = [edit._replace(on_steps=on_steps) if edit.on_steps is None else edit for edit in rows]
        if not len(prompts) == len(seeds) == (len(rows) or len(prompts)):
            raise UserError(
                f"{len(prompts)} prompts, {len(seeds)} seeds and {len(rows)} edits; expected one each a row"
            )
        if start is not None and start.step not in range(1, steps):
            raise UserError(f"the start is before step {start.step}; expected 1 to {steps - 1}")
        check_edits(rows, self.sites, steps, self.device)
        for site in capture:
            if site not in self.sites:
                raise unknown("site", site, self.sites)

        def work(part: slice) -> list[Run]:
            begin = None
            if start is not None:
                begin = torch.cat([self.finished(start.prompt, seed, steps) for seed in seeds[part]]), start.step
            return self._batch(Batch(prompts[part], seeds[part], steps, rows[part], capture, begin))

        with self._turn, torch.no_grad():
            return in_batches(self, len(prompts), work)

    def sae(self, site: str) -> TopKSAE:
        """The SAE of a site on the model's device; it is loaded when it is asked for first.

        Raises:
            UserError: if there is none, it cannot be read, or it does not fit the site.
        """
        from riebench.sae.store import load_sae

        if site not in self.saes:
            raise unknown("SAE", site, self.saes)
        found = self.saes[site]
        if (site, found) not in self._loaded_saes:
            sae = (load_sae(found) if isinstance(found, Path) else found).to(self.device)
            if sae.d_model != self.sites[site].width:
                wrong = f"{sae.d_model} wide, the values there are {self.sites[site].width} wide"
                raise UserError(f"the SAE of {site} is {wrong}; give SAEs of this model with --set sae.folder=DIR")
            self._loaded_saes[site, found] = sae
        return self._loaded_saes[site, found]

    def forget_saes(self) -> None:
        """Read SAEs from their folders again when they are asked for next, as somebody has changed their weights."""
        self._loaded_saes.clear()

    def _batch(self, batch: Batch) -> list[Run]:
        import torch

        edited = {site for edit in batch.edits if edit.strength != 0 for site in edit.changes}
        values: dict[str, Tensor] = {}
        with ExitStack() as hooks:
            for site in self.sites:
                if site in edited or site in batch.capture:
                    hook = site_hook(site, batch, self.read, self.add, values)
                    hooks.callback(self.modules[site].register_forward_hook(hook, with_kwargs=True).remove)
            pixels = self.sample(batch)
        if not bool(pixels.isfinite().all()):
            raise PairError("the picture has values that are not finite", where="model")
        images = pixels.float().mul_(255).round_().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        return [Run(image, {site: values[site][i] for site in batch.capture}) for i, image in enumerate(images)]
