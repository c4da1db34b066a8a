"""The base classes of a model family: its entry, known without weights, and its loaded model, which generates pictures.

A family subclasses :class:`Model` with three methods: sample pictures, read a site's values from the arguments of a
forward hook, and add to them. Hooks are removed at the end of each :meth:`Model.generate`, after an error too.
"""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from riebench.models.arguments import check_saes, edits_of_call, whole
from riebench.models.devices import fitting_threads, types_as_loaded, weights_fingerprint
from riebench.models.sites import Batch, Change, Edit, Run, Site, Start, check_edits, default_blocks
from riebench.prompts import GRAMMAR, Prompted, Split, read_prompts
from riebench.settings.settings import refuse_without_effect
from riebench.util.batches import in_batches
from riebench.util.errors import PairError, UserError, unknown

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from riebench.pairs import Pair
    from riebench.sae.sae import SAE
    from riebench.settings.settings import Settings
    from riebench.weights import Part


log = logging.getLogger(__name__)
DENOISER, DECODER, TEXT = "denoiser", "decoder", "text encoder"
"""The networks of :meth:`Model.networks` whose passes ``riebench bench`` compares with the least possible number."""


@dataclass(frozen=True)
class ModelEntry(ABC):
    """A model by name: the facts that need no weights, and how the weights are loaded. A family subclasses it.

    Attributes:
        name: of the model, for ``--model``.
        default_sites: the blocks that ``--block all`` names, as far as the model has them; see :func:`default_blocks`.
        steps: default number of denoising steps.
        least_steps: the smallest number of steps that the pipeline makes.
        most_steps: the largest number of steps that the sampler takes.
        guidance: default guidance scale.
        pairs: the model's own pair file; None if it has none.
        pair_sets: further pair files that come with the package, by name: ``mini:entangled`` is the set ``entangled``.
        prompts: the model's own source of prompts, see :func:`riebench.prompts.read_prompts`; None if it has none.
        blur_kernel: side of the blur of masks before they go to a site's grid, pixels.
        parts: weights that must be on this machine, the pipeline first; empty if they come with a package.
        instruments: the masker and scorers of the model: ``published``, ``mini``, or the ``module:class`` of a
            :class:`riebench.instruments.loading.ModelInstruments`.
        scorers: names of the parts that single metrics need and that can judge the model's pictures.
        pipeline_class: the pipeline's class in ``model_index.json``, so that a folder can be loaded by its path.
        light: whether its weights come with the package and load on the CPU unless told otherwise.
        pipeline_parameters: number of weights in the pipeline, for forecasts; 0 where it is small.
        row_bytes: approximate memory of the activations of one row of a forward pass in float32, bytes.
        standin: the writer of random weights in the model's layout: ``sdxl``, ``flux``, or a ``module:function``, see
            :func:`riebench.standin.write.write_standin`; empty if there is none.
    """

    light: ClassVar[bool] = False
    name: str
    default_sites: tuple[str, ...]
    steps: int = 1
    least_steps: int = 1
    most_steps: int = 1000
    guidance: float = 0.0
    pairs: Path | None = None
    pair_sets: Mapping[str, Path] = field(default_factory=dict)
    prompts: str | None = None
    blur_kernel: int = 31
    parts: tuple[Part, ...] = ()
    instruments: str = "published"
    scorers: tuple[str, ...] = ("dino", "lpips-squeeze")
    pipeline_class: str = ""
    pipeline_parameters: float = 0.0
    row_bytes: float = 0.0
    standin: str = ""

    def is_of(self, folder: Path) -> bool:
        """Whether this entry is the one for a folder with a pipeline of its class, where several have the class."""
        return True

    def check_settings(self, settings: Settings) -> None:  # noqa: B027 - most families have nothing to refuse
        """Check settings before anything is loaded; the base class accepts all.

        Raises:
            UserError: if the model does not have a setting.
        """

    def scale(self, settings: Settings) -> float:
        """The guidance scale of a run."""
        return self.guidance if settings.model.guidance is None else settings.model.guidance

    def passes_a_step(self, settings: Settings) -> int:
        """How many passes of the denoiser a picture takes in a step: 2 with an unconditional part, else 1."""
        return 2 if self.scale(settings) > 1 else 1

    @abstractmethod
    def sites(self, settings: Settings) -> Mapping[str, Site]:
        """Name to site, in the order in which they run; read from configurations, without weights."""

    def saes(self, settings: Settings) -> Mapping[str, Path]:
        """Site to the folder of its SAE; empty if there are no SAEs."""
        return {}

    @abstractmethod
    def load(self, settings: Settings) -> Model:
        """Load the model with its weights.

        Raises:
            UserError: if weights are missing or do not fit.
        """

    def wrap(self, pipeline: Any, settings: Settings) -> Model:
        """A model of this name around a loaded pipeline.

        Raises:
            UserError: if this family takes none.
        """
        raise UserError(f"{self.name} takes no loaded pipeline; leave out pipeline=")

    def prompts_location(self, chosen: str | None) -> str:
        """The location of prompts: the user's choice, else the model's own.

        Raises:
            UserError: if there is neither.
        """
        location = chosen or self.prompts
        if location is None:
            raise UserError(f"{self.name} has no prompts of its own; give --prompts FILE")
        return location

    def read_prompts(
        self, location: str, count: int | None, split: Split, column: str | None, own: bool = True
    ) -> Sequence[Prompted]:
        """The prompts of a file or of the grammar, see :func:`riebench.prompts.read_prompts`, checked for this model.

        Args:
            location: of the prompts, as are ``count``, ``split`` and ``column``.
            own: whether the model has the weights of this entry, so that what they cannot draw is refused.

        Raises:
            UserError: if they cannot be read, or the model cannot draw one of them.
        """
        prompted = read_prompts(location, count, split, column)
        if own and location != GRAMMAR:
            self.check_prompts([prompt for prompt, _ in prompted])
        return prompted

    def check_prompts(self, prompts: Sequence[str]) -> None:  # noqa: B027 - most families have nothing to refuse
        """Check prompts before anything is loaded; the base class accepts all.

        Raises:
            UserError: if the model cannot draw one of them.
        """

    def check_pairs(self, pairs: Sequence[Pair]) -> None:  # noqa: B027 - most families have nothing to refuse
        """Check pairs before anything is loaded; the base class accepts all.

        Raises:
            UserError: if the model's instruments cannot judge a pair.
        """


class Model(ABC):
    """A loaded model.

    Attributes:
        entry: the facts that need no weights.
        sites: name to site, in the order in which they run.
        modules: site to the module whose output holds its values.
        device: of the values.
        size: side of the pictures, pixels.
        conditions: settings that can change the pictures, as the type of the weights.
        saes: site to its SAE, or to the SAE's folder.
        saes_given: whether a user says of which site each SAE is; else the names of the folders do.
        batch: largest number of rows in one forward pass; halved when memory runs out.
        guided: whether a batch has an unconditional half, so that each picture takes two rows of the denoiser.
        replay: whether edited runs reuse what the base run has computed, in families that can do so.
        small: whether one thread computes it sooner than several.
    """

    guided = False
    replay = False
    small = False
    saes_given = False
    fixed: ClassVar[frozenset[str]] = frozenset({"entry", "sites", "modules", "device", "size", "conditions", "guided"})
    """Attributes that the constructor alone sets."""

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

        from riebench.models.loaded_state import LoadedState

        if device.type == "cuda":
            # By default PyTorch rounds the inputs of float32 convolutions to ten bits of mantissa on GPUs that can,
            # which moves metrics ten to three hundred times as far as rounding does (standin/GPU.md).
            torch.backends.cudnn.allow_tf32 = False
        self.entry = entry
        self.sites = sites
        self.modules = modules
        self.device = device
        self.size = size
        self.conditions = MappingProxyType(dict(conditions))
        self.saes: Mapping[str, Path | SAE] = {}
        self.batch = 8
        self._loaded_saes: dict[str, tuple[Any, SAE, Any]] = {}
        self._turn = RLock()  # hooks are on the modules, which all threads share
        self._state = LoadedState(self.watched(), fingerprint)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute.

        Raises:
            UserError: if it is one of :attr:`fixed` of a loaded model, whose records name what it was loaded with; or
                if the batch is no whole number of at least 1, or the SAEs are none.
        """
        if name == "batch":
            value = whole("batch", value, 1)
        elif name == "saes":
            from riebench.models.sae_sites import given_sae

            check_saes(value)
            value = {site: given_sae(site, sae, self.sites, self.device) for site, sae in value.items()}
        if name in self.fixed and name in vars(self) and "_state" in vars(self):
            raise UserError(f"{name} of a loaded model cannot be set; load the model anew, with this setting")
        super().__setattr__(name, value)

    def refuse_other_settings(self, settings: Settings) -> None:
        """Refuse settings that a model which is loaded already cannot follow; those that it has are no others.

        Raises:
            UserError: if there is such a setting.
        """
        same = {f"model.{name}": value for name, value in self.conditions.items()}
        same |= {"model.device": self.device.type, "model.replay": self.replay}
        why = "the model is loaded already; give it to riebench.load, or leave it out"
        refuse_without_effect(settings, ("model.", "sae."), why, same=same)

    @property
    def fingerprint(self) -> str:
        """Hash of the weights with the model's name, as records have it; of the weights as they are now."""
        with self._turn:
            self._follow()
            return self._state.fingerprint(self.state_fingerprint)

    @property
    def own(self) -> bool:
        """Whether the weights are the entry's own; False for weights that a user hands in or changes."""
        with self._turn:
            self._follow()
            return self._state.own

    def watched(self) -> Any:
        """The modules whose changes change pictures, or the pipeline that holds them.

        The base class returns the modules of the sites. A family returns all of its networks; it is called by the
        constructor of :class:`Model`.
        """
        return list(self.modules.values())

    def state_fingerprint(self) -> str:
        """A hash of all that can change pictures, for a model that differs from what was loaded."""
        weights = [weights_fingerprint(module) for module in self.watched()]
        return hashlib.sha256(repr(weights).encode()).hexdigest()[:16]

    def renew(self) -> None:  # noqa: B027 - most families keep nothing
        """Become what a model around the changed networks is; a family drops here what it keeps between calls.

        Raises:
            UserError: if there can be no such model.
        """

    def stamp(self) -> Hashable:
        """A value that differs after a change of the model or of an SAE's files; it takes little time."""
        from riebench.models.loaded_state import sae_mark

        with self._turn:
            self._follow()
            return self._state.changes, tuple((site, sae_mark(sae)) for site, sae in self.saes.items())

    def unwatched(self) -> AbstractContextManager[None]:
        """Compare nothing inside the ``with`` statement, whose caller sees changes by :meth:`stamp`."""
        return self._state

    def _follow(self) -> None:
        self._state.follow(self.watched, self.renew)

    def __repr__(self) -> str:
        sites = f"{len(self.sites)} sites, by default {', '.join(self.default_sites)}"
        return f"<model {self.entry.name}: {self.size} px, {sites}; {self.fingerprint} on {self.device}>"

    @property
    def default_sites(self) -> tuple[str, ...]:
        """The blocks that ``--block all`` names."""
        return default_blocks(self.entry.default_sites, self.sites)

    def runs(self, prompted: Iterable[tuple[str, int]], steps: int, capture: Collection[str]) -> Iterator[Run]:
        """Yield the run of each prompt and seed; no more than one batch's values are in memory.

        Args:
            prompted: prompts with their seeds.
            steps: denoising steps.
            capture: sites whose values are kept.
        """
        queue = list(prompted)
        while queue:
            part, queue = queue[: self.batch], queue[self.batch :]
            yield from self.generate([p for p, _ in part], [s for _, s in part], steps, capture=capture)

    @abstractmethod
    def read(self, site: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Tensor:
        """The values ``[rows, positions, width]`` of a site, from the arguments and the output of its module."""

    @abstractmethod
    def add(self, site: str, output: Any, delta: Tensor) -> Any:
        """A module's output with ``delta`` ``[rows, positions, width]`` added to the values of its site."""

    @abstractmethod
    def sample(self, batch: Batch) -> Tensor:
        """The pictures ``[rows, 3, height, width]`` of a batch, 0 to 1; hooks edit and capture meanwhile."""

    def calls_a_step(self, site: str) -> int:
        """How often a site's module is called in each step; the first call is that of the prompt and the picture."""
        return 1

    def is_input(self, site: str) -> bool:
        """Whether a site's values are the input of its module, and not its output; ``read`` is then given the input."""
        return False

    def finished(self, prompt: str, seed: int, steps: int) -> Tensor:
        """The finished latents ``[1, ...]`` of a run without edits, for a :class:`Start`.

        Raises:
            UserError: if the family's :meth:`sample` cannot begin with latents.
        """
        raise UserError(f"{self.entry.name} cannot begin from a finished picture; its family has no finished()")

    def networks(self) -> Mapping[str, tuple[Any, str]]:
        """The networks that ``riebench bench`` counts and times: name to an object and the name of its method.

        The first tensor among a method's arguments has a row for each picture or prompt; a call without a tensor
        counts as one row. :data:`DENOISER`, :data:`DECODER` and :data:`TEXT` must be among the names.

        Raises:
            UserError: if the family does not name its networks.
        """
        raise UserError(f"the family of {self.entry.name} does not say which networks to measure; give it networks()")

    def keeping_nothing(self) -> AbstractContextManager[None]:
        """Keep nothing from one call to the next inside the ``with`` statement, for the bench's plain loop.

        A family that keeps results, as the text states of a prompt, overrides this.
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
            edits: one a row; empty edits nothing.
            capture: sites whose values are returned, edits included.
            on_steps: the steps, from 0, of edits that name no steps; None for all.
            start: a finished picture that the runs begin with, in place of noise. Steps keep their numbers; the values
                of earlier steps are of a run that is discarded, and edits in these steps do nothing.

        Raises:
            UserError: if an argument has another type, the numbers of rows differ, a site or step does not exist, or
                the family has no such start.
            PairError: if a change has the wrong shape or is not finite, a prompt is too long for the text encoder, or
                a picture is not finite.
        """
        import torch

        rows, start = edits_of_call(prompts, seeds, steps, edits, capture, on_steps, start)
        prompts, seeds, steps = [*map(str, prompts)], [*map(int, seeds)], int(steps)  # numpy's too
        with self._turn, fitting_threads(self.small), torch.no_grad(), types_as_loaded(self.device):
            self._follow()
            check_edits(rows, self.sites, steps, self.device)
            for site in capture:
                if site not in self.sites:
                    raise unknown("site", site, self.sites)

            def work(part: slice) -> list[Run]:
                begin = None
                if start is not None:
                    begin = torch.cat([self.finished(start.prompt, seed, steps) for seed in seeds[part]]), start.step
                return self._batch(Batch(prompts[part], seeds[part], steps, rows[part], capture, begin))

            with self._state:
                return in_batches(self, len(prompts), work)

    def sae(self, site: str) -> SAE:
        """The SAE of a site, on the model's device; it is loaded at the first call, and again when its files change.

        An SAE of a folder that a caller has changed in memory is loaded again, too: records name the files.

        Raises:
            UserError: if the site has no SAE, or the SAE cannot be read or does not fit the site.
        """
        from riebench.models.loaded_state import sae_mark
        from riebench.models.sae_sites import placed_sae

        if not isinstance(site, str) or site not in self.saes:
            raise unknown("SAE", site, self.saes)
        own, mark = self.saes[site], sae_mark(self.saes[site])
        kept = self._loaded_saes.get(site)
        changed = kept is not None and isinstance(own, Path) and sae_mark(kept[1]) != kept[2]
        if changed:
            log.warning(
                "the SAE of %s was changed in memory and is read from %s again; give another with saes=", site, own
            )
        if kept is None or kept[0] != mark or changed:
            sae = placed_sae(site, own, self.sites, self.device)
            self._loaded_saes[site] = mark, sae, sae_mark(sae)
        return self._loaded_saes[site][1]

    def forget_saes(self) -> None:
        """Load each SAE anew at its next use, after a caller has changed its weights."""
        self._loaded_saes.clear()

    def _batch(self, batch: Batch) -> list[Run]:
        import torch

        from riebench.models.site_hooks import SiteHooks

        with SiteHooks(self, batch) as hooks:
            pixels = self.sample(batch)
        hooks.check_calls()
        if not bool(pixels.isfinite().all()):
            raise PairError("the picture has values that are not finite", where="model")
        images = pixels.float().mul_(255).round_().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        return [Run(image, {site: hooks.values[site][i] for site in batch.capture}) for i, image in enumerate(images)]
