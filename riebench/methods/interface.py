"""What a method sees of a pair, and what it hands back; :mod:`riebench.methods` says how to write one."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from typing import Protocol as TypeProtocol

from riebench.models.sites import NEURONS, Change, Run, Values
from riebench.pairs import Pair
from riebench.settings.protocols import RIEBENCH, Protocol
from riebench.util.errors import PairError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from riebench.sae.topk import TopKSAE

    Picture = NDArray[np.uint8]

T = TypeVar("T")
RunName = Literal["base", "source"]


def _no_model(prompts: Sequence[str], seeds: Sequence[int], capture: Collection[str]) -> Iterable[Run]:
    raise NotImplementedError("no model is at hand; give Observed(generate=...)")


@dataclass(frozen=True)
class Observed:
    """One pair as a method sees it; other methods see the same tensors.

    Attributes:
        pair: prompts, category, phrases.
        sites: the blocks to edit, in the order in which they run.
        base: site to the values ``[steps, positions, width]`` of the base run; for a method that needs neurons, also
            those of :attr:`neuron_sites`.
        source: the same of the source run.
        base_masks: site to boolean ``[positions]``: where the original phrase was found in the base image.
        source_masks: site to boolean ``[positions]``: where the edit phrase was found in the source image.
        saes: site to its SAE, for a method that needs SAEs.
        seed: of the pair, for methods that draw.
        protocol: what is done where the published behaviour is doubtful.
        pictures: of the base and the source run, ``[height, width, 3]``; read-only.
        regions: where their phrases were found, in pixels: boolean ``[height, width]``; read-only.
        generate: prompts, seeds and sites to further runs without edits, one after the other, with the values at
            these sites.
    """

    pair: Pair
    sites: tuple[str, ...]
    base: Mapping[str, Values]
    source: Mapping[str, Values]
    base_masks: Mapping[str, Tensor]
    source_masks: Mapping[str, Tensor]
    saes: Mapping[str, TopKSAE]
    seed: int
    protocol: Protocol = RIEBENCH
    pictures: Mapping[RunName, Picture] = field(default_factory=dict)
    regions: Mapping[RunName, NDArray[np.bool_]] = field(default_factory=dict)
    generate: Callable[[Sequence[str], Sequence[int], Collection[str]], Iterable[Run]] = _no_model
    _kept: dict[Hashable, Any] = field(default_factory=dict)
    _kept_for_all: dict[Hashable, Any] = field(default_factory=dict)

    @property
    def neuron_sites(self) -> tuple[str, ...]:
        """The neurons of every layer of the chosen blocks, in order."""
        return tuple(site for site in self.base if NEURONS in site and site.partition("/")[0] in self.sites)

    def codes(self, run: RunName, site: str) -> Tensor:
        """SAE codes ``[steps, positions, features]`` of the base or the source run, encoded once for a pair."""
        values = self.base if run == "base" else self.source
        return self.once(("codes", run, site, self.saes[site]), lambda: self.saes[site].encode(values[site]))

    def once(self, key: Hashable, make: Callable[[], T], for_all_pairs: bool = False) -> T:
        """What ``make`` gives, once for a pair or for all pairs, shared by all methods that ask for the key."""
        kept = self._kept_for_all if for_all_pairs else self._kept
        if key not in kept:
            kept[key] = make()
        found: T = kept[key]
        return found

    def generator(self) -> torch.Generator:
        """A seeded generator of the pair's own."""
        import torch

        return torch.Generator().manual_seed(self.seed)


@dataclass(frozen=True)
class Plan:
    """One pair's intervention at strength 1; the engine scales it.

    Attributes:
        changes: site to what is added there: values ``[steps, positions, width]``, or a function of the values that
            pass in one step ``[positions, width]`` and of the step's number from 0, which returns the same shape.
            Sites that are left out are left alone; a plan without changes gives the base image.
        prompt: the prompt of the edited run, if it is not the original one.
        notes: figures to keep in the record, as the k that was used.
        redo: share of the steps, above 0 up to 1, that are done again: the edited run begins with the finished base
            run, noised for the first of its last steps. Strength multiplies it, to at most all steps. Changes and
            intervals number the steps as in the whole run: of 4 steps of which 2 are done again, these are 2 and 3,
            and what is on in 0 and 1 alone does nothing.
        picture: the edited picture itself, ``[height, width, 3]`` in uint8, so that nothing is generated. Strength
            multiplies its difference from the base picture. It stands alone, without changes, prompt and redo.
    """

    changes: Mapping[str, Change] = field(default_factory=dict)
    prompt: str | None = None
    notes: Mapping[str, float | int | str] = field(default_factory=dict)
    redo: float | None = None
    picture: Picture | None = None

    def first_step(self, strength: float, steps: int) -> int:
        """The step, from 0, that the edited run begins with; ``steps`` where none is done again."""
        if self.redo is None:
            return 0
        return steps - min(steps, max(0, math.floor(self.redo * strength * steps + 0.5)))

    def blended(self, base: Picture, strength: float) -> Picture:
        """``base + strength * (picture - base)``, rounded and cut off at black and white."""
        import numpy as np

        assert self.picture is not None
        moved = base + strength * (self.picture.astype(np.float64) - base)
        return moved.round().clip(0, 255).astype(np.uint8)


class Method(TypeProtocol):
    """An intervention method: any class decorated with :func:`riebench.methods.method` that has this function."""

    def plan(self, seen: Observed) -> Plan:
        """Plan the intervention for one pair; called without gradients, once for all strengths.

        Args:
            seen: the pair, its two runs, masks and SAEs; not to be changed.
        """
        ...


def check_plan(plan: Any, seen: Observed) -> None:
    """See that a method returned a plan for the sites of its condition, with notes that a record can keep.

    Shapes and numbers are checked by the model when the changes are used.

    Raises:
        PairError: if it did not.
    """
    if not isinstance(plan, Plan):
        raise _fault(f"returned {type(plan).__name__}, expected a Plan")
    for part, found in (("changes", plan.changes), ("notes", plan.notes)):
        if not isinstance(found, Mapping):
            raise _fault(f"returned a Plan whose {part} are {type(found).__name__}, expected a mapping")
    if not isinstance(plan.prompt, str | None):
        raise _fault(f"returned a Plan whose prompt is {type(plan.prompt).__name__}, expected text")
    for site in plan.changes:
        if not isinstance(site, str) or site.partition("/")[0] not in seen.sites:
            raise _fault(f"changes {site!r}; its sites are {', '.join(seen.sites)}")
    if plan.redo is not None and not (isinstance(plan.redo, int | float) and 0 < plan.redo <= 1):
        raise _fault(f"returned a Plan whose redo is {plan.redo!r}, expected a number above 0 up to 1")
    if plan.picture is not None:
        _check_picture(plan, seen.pictures["base"])
    for name, value in plan.notes.items():
        if not isinstance(name, str) or not isinstance(value, int | float | str):
            raise _fault(f"notes {name!r} as {type(value).__name__}, expected a name with a number or text")
        try:
            f"{name}{value}".encode()
        except UnicodeEncodeError:  # Python's strings may hold halves of letters
            raise _fault(f"notes {name!r} as {value!r}, expected text in Unicode") from None


def _check_picture(plan: Plan, base: Picture) -> None:
    found: Any = plan.picture
    if plan.changes or plan.prompt is not None or plan.redo is not None:
        raise _fault("returned a Plan with a picture and what to generate; expected one of them")
    if getattr(found, "dtype", None) != base.dtype or getattr(found, "shape", None) != base.shape:
        wrong = f"{getattr(found, 'dtype', type(found).__name__)} {list(getattr(found, 'shape', []))}"
        raise _fault(f"returned a picture of {wrong}, expected uint8 {list(base.shape)}")


def _fault(wrong: str) -> PairError:
    return PairError(wrong, where="method")
