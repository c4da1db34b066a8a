"""The interface of a method: :class:`Observed` goes in, :class:`Plan` comes out. :mod:`riebench.methods` says how to
write one."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import Field, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, runtime_checkable
from typing import Protocol as TypeProtocol

from riebench.models.sae_sites import read_site
from riebench.models.sites import NEURONS, Change, Edit, Run, Values, block_of
from riebench.pairs import Pair
from riebench.records.schema import ACTS, INSIDE, OUTSIDE, fits_a_record
from riebench.settings.protocols import RIEBENCH, Protocol
from riebench.util.errors import PairError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from riebench.sae.sae import SAE

    Picture = NDArray[np.uint8]

T = TypeVar("T")
RunName = Literal["base", "source"]


class Generate(TypeProtocol):
    """Makes further runs."""

    def __call__(
        self, prompts: Sequence[str], seeds: Sequence[int], capture: Collection[str], edits: Sequence[Edit] = ()
    ) -> Iterable[Run]:
        """The run of each prompt and seed, one by one, with the values at some sites; ``edits`` has one a run."""
        ...


Masks = Mapping[str, "Tensor"]
"""Site to a mask on its grid, boolean ``[positions]``."""


def _no_model(
    prompts: Sequence[str], seeds: Sequence[int], capture: Collection[str], edits: Sequence[Edit] = ()
) -> Iterable[Run]:
    raise NotImplementedError("no model is at hand; give Observed(generate=...)")


def _no_masker(pair: Pair, base: Picture, source: Picture) -> tuple[Masks, Masks]:
    raise NotImplementedError("no masker is at hand; give Observed(locate=...)")


def _no_clip(pictures: Sequence[Picture], prompt: str) -> list[float]:
    raise NotImplementedError("no CLIP is at hand; give Observed(similarity=...)")


@dataclass(frozen=True)
class Observed:
    """One pair as a method sees it. Other methods see the same tensors, so change a clone.

    Attributes:
        pair: prompts, category, phrases.
        sites: the blocks to edit, in the order in which they run.
        base: site to the values ``[steps, positions, width]`` of the base run; for a method that needs neurons, also
            those of :attr:`neuron_sites`, and for one of SAEs those of :meth:`read_site`.
        source: the same of the source run.
        base_masks: site to boolean ``[positions]``: True where the original phrase is in the base image.
        source_masks: site to boolean ``[positions]``: True where the edit phrase is in the source image.
        saes: site to its SAE, for a method that needs SAEs.
        seed: of the pair, for methods that draw at random.
        protocol: the rules of the run, see :data:`riebench.settings.protocols.PROTOCOLS`.
        pictures: of the base and the source run, uint8 ``[height, width, 3]``; read-only.
        regions: masks of the two phrases in pixels, boolean ``[height, width]``; read-only.
        generate: a function of prompts, seeds and sites, and of edits if there are any. It generates further runs and
            yields them one by one, with the values at these sites.
        locate: a function of a pair, its base and its source picture, both of further runs. It returns the masks
            (base, source) of the pair's phrases on the sites' grids; PairError if a phrase is not found.
        similarity: a function of pictures and a prompt that returns the CLIP similarity of each.
    """

    pair: Pair
    sites: tuple[str, ...]
    base: Mapping[str, Values]
    source: Mapping[str, Values]
    base_masks: Mapping[str, Tensor]
    source_masks: Mapping[str, Tensor]
    saes: Mapping[str, SAE]
    seed: int
    protocol: Protocol = RIEBENCH
    pictures: Mapping[RunName, Picture] = field(default_factory=dict)
    regions: Mapping[RunName, NDArray[np.bool_]] = field(default_factory=dict)
    generate: Generate = _no_model
    locate: Callable[[Pair, Picture, Picture], tuple[Masks, Masks]] = _no_masker
    similarity: Callable[[Sequence[Picture], str], list[float]] = _no_clip
    _on_disk: Callable[[str, Callable[[], Mapping[str, Tensor]]], Mapping[str, Tensor]] | None = None
    _kept: dict[Hashable, Any] = field(default_factory=dict)
    _kept_for_all: dict[Hashable, Any] = field(default_factory=dict)

    @property
    def neuron_sites(self) -> tuple[str, ...]:
        """The sites of the neurons of every layer of the blocks to edit, in the order in which they run."""
        return tuple(site for site in self.base if NEURONS in site and block_of(site) in self.sites)

    def read_site(self, site: str) -> str:
        """The site whose values the SAE of a site encodes: the MLP's input for a transcoder, else the site itself."""
        return read_site(site, self.saes[site])

    def codes(self, run: RunName, site: str) -> Tensor:
        """SAE codes ``[steps, positions, features]`` of the base or the source run; encoded once for a pair."""
        values, at = self.base if run == "base" else self.source, self.read_site(site)
        return self.once(("codes", run, site, self.saes[site]), lambda: self.saes[site].encode(values[at]))

    def once(self, key: Hashable, make: Callable[[], T], for_all_pairs: bool = False) -> T:
        """The value of ``make()``, computed once for a pair (or for all pairs); methods with the same key share it."""
        kept = self._kept_for_all if for_all_pairs else self._kept
        if key not in kept:
            kept[key] = make()
        value: T = kept[key]
        return value

    def learnt(self, key: str, make: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """The tensors of ``make()`` by name, computed once for a run and kept in its folder for a restart.

        Args:
            key: names all that they depend on and that ``make`` chooses: prompts, seeds, sites, options. Weights,
                conditions, steps and the files of the method are added.
            make: learns them from further runs alone, never from the pair.
        """
        if self._on_disk is not None:
            return self._on_disk(key, make)
        return self.once(("learnt", key), make, for_all_pairs=True)

    def generator(self) -> torch.Generator:
        """A new random generator with the pair's seed."""
        import torch

        return torch.Generator().manual_seed(self.seed)


@dataclass(frozen=True)
class Plan:
    """One pair's intervention at strength 1; the engine scales it.

    Attributes:
        changes: site to the values that are added there, ``[steps, positions, width]``. A function in their place gets
            the values of one step, ``[positions, width]``, and the number of the step from 0; it returns the change
            of that step in the same shape. A site that is left out stays as it is; without changes, the edited picture
            is the base picture.
        prompt: the prompt of the edited run; None for the original prompt.
        notes: figures to keep in the record, such as the k that was used.
        redo: share of the denoising steps to do again, above 0 and at most 1: the edited run starts from the finished
            base picture, noised for that many last steps. Strength multiplies the share. Steps keep their numbers:
            with ``redo=0.5`` of 4 steps, steps 2 and 3 run, and a change for steps 0 and 1 has no effect.
        picture: the edited picture itself, uint8 ``[height, width, 3]``; nothing is generated. Strength multiplies its
            difference from the base picture. A plan with a picture has no changes, prompt or redo.
    """

    changes: Mapping[str, Change] = field(default_factory=dict)
    prompt: str | None = None
    notes: Mapping[str, float | int | str] = field(default_factory=dict)
    redo: float | None = None
    picture: Picture | None = None

    def first_step(self, strength: float, steps: int) -> int:
        """The number, from 0, of the first step of the edited run; ``steps`` if no step is done again."""
        if self.redo is None:
            return 0
        return steps - min(steps, max(0, math.floor(self.redo * strength * steps + 0.5)))

    def blended(self, base: Picture, strength: float) -> Picture:
        """``base + strength * (picture - base)`` as uint8 ``[height, width, 3]``, rounded and clipped to 0..255."""
        import numpy as np

        assert self.picture is not None
        moved = base + strength * (self.picture.astype(np.float64) - base)
        return moved.round().clip(0, 255).astype(np.uint8)


class Method(TypeProtocol):
    """An intervention method: a class decorated with :func:`riebench.methods.method` that has this function."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def plan(self, seen: Observed) -> Plan:
        """Plan the intervention for one pair; called without gradients, once for all strengths.

        Args:
            seen: the pair, its two runs, masks and SAEs; not to be changed.
        """
        ...


@runtime_checkable
class RunChecker(TypeProtocol):
    """A method that cannot do every run."""

    def check(self, pairs: Sequence[Pair], steps: int) -> None:
        """Refuse a run before anything is loaded (UserError)."""
        ...


@runtime_checkable
class FileReader(TypeProtocol):
    """A method that reads files: records are made again when they change."""

    @property
    def files(self) -> Sequence[str]:
        """Paths of the files."""
        ...


@runtime_checkable
class NamedByItself(TypeProtocol):
    """A method whose name in records differs from the name of its class."""

    @property
    def record_name(self) -> str:
        """The name in records."""
        ...


def check_plan(plan: Any, seen: Observed) -> None:
    """Check that a method returned a plan for the sites of its condition, with notes that a record can keep.

    Shapes and numbers are checked by the model when the changes are used.

    Raises:
        PairError: if it did not.
    """
    if not isinstance(plan, Plan):
        raise _fault(f"returned {type(plan).__name__}, expected a Plan")
    for part, content in (("changes", plan.changes), ("notes", plan.notes)):
        if not isinstance(content, Mapping):
            raise _fault(f"returned a Plan whose {part} are {type(content).__name__}, expected a mapping")
    if not isinstance(plan.prompt, str | None):
        raise _fault(f"returned a Plan whose prompt is {type(plan.prompt).__name__}, expected text")
    for site in plan.changes:
        whole = block_of(site) if isinstance(site, str) and NEURONS in site else site
        if site not in seen.sites and whole not in seen.sites:
            raise _fault(f"changes {site!r}; its sites are {', '.join(seen.sites)}")
    if plan.redo is not None and not (isinstance(plan.redo, int | float) and 0 < plan.redo <= 1):
        raise _fault(f"returned a Plan whose redo is {plan.redo!r}, expected a number above 0 and at most 1")
    if plan.picture is not None:
        _check_picture(plan, seen.pictures["base"])
    for name, value in plan.notes.items():
        if not isinstance(name, str) or not isinstance(value, int | float | str):
            raise _fault(f"notes {name!r} as {type(value).__name__}, expected a name with a number or text")
        if isinstance(value, int) and not fits_a_record(value):
            raise _fault(f"notes {name!r} as a whole number beyond 64 bits; expected a smaller one, or text")
        if name == "k" and not (isinstance(value, int | float) and math.isfinite(value)):
            raise _fault(f"notes 'k' as {value!r}; expected the number of features or neurons, or another name")
        if name == ACTS and value not in (INSIDE, OUTSIDE):
            raise _fault(f"notes {ACTS!r} as {value!r}; expected {INSIDE} or {OUTSIDE}, or another name")
        try:
            f"{name}{value}".encode()
        except UnicodeEncodeError:  # Python's strings may hold halves of letters
            raise _fault(f"notes {name!r} as {value!r}, expected text in Unicode") from None


def _check_picture(plan: Plan, base: Picture) -> None:
    picture: Any = plan.picture
    if plan.changes or plan.prompt is not None or plan.redo is not None:
        raise _fault("returned a Plan with a picture and changes, a prompt or redo; expected the picture alone")
    dtype, shape = getattr(picture, "dtype", type(picture).__name__), getattr(picture, "shape", ())
    if (dtype, shape) != (base.dtype, base.shape):
        raise _fault(f"returned a picture of {dtype} {list(shape)}, expected uint8 {list(base.shape)}")


def _fault(wrong: str) -> PairError:
    return PairError(wrong, where="method")
