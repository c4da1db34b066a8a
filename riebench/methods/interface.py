"""What a method sees of a pair, and what it hands back; :mod:`riebench.methods` says how to write one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from typing import Protocol as TypeProtocol

import numpy as np
from numpy.typing import NDArray

from riebench.models.sites import NEURONS, Change, Values
from riebench.pairs import Pair
from riebench.spec.protocols import RIEBENCH, Protocol
from riebench.util.errors import PairError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from riebench.sae import TopKSAE

T = TypeVar("T")
RunName = Literal["base", "source"]


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
    _kept: dict[Hashable, Any] = field(default_factory=dict)

    @property
    def neuron_sites(self) -> tuple[str, ...]:
        """The neurons of every layer of the chosen blocks, in order."""
        return tuple(site for site in self.base if NEURONS in site and site.partition("/")[0] in self.sites)

    def codes(self, run: RunName, site: str) -> Tensor:
        """SAE codes ``[steps, positions, features]`` of the base or the source run, encoded once for a pair."""
        values = self.base if run == "base" else self.source
        return self.once(("codes", run, site), lambda: self.saes[site].encode(values[site]))

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` gives, worked out once for a pair and shared by all methods that ask for the key."""
        if key not in self._kept:
            self._kept[key] = make()
        kept: T = self._kept[key]
        return kept

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
        image: the edited image itself ``[height, width, 3]``, of the base image's size; nothing is then generated, and
            strength has no effect.
    """

    changes: Mapping[str, Change] = field(default_factory=dict)
    prompt: str | None = None
    notes: Mapping[str, float | int | str] = field(default_factory=dict)
    image: NDArray[np.uint8] | None = None


class Method(TypeProtocol):
    """An intervention method: any class decorated with :func:`riebench.methods.method` that has this function."""

    def plan(self, seen: Observed) -> Plan:
        """Plan the intervention for one pair; called without gradients, once for all strengths.

        Args:
            seen: the pair, its two runs, masks and SAEs; not to be changed.
        """
        ...


def check_plan(plan: Any, sites: Collection[str], shape: tuple[int, ...]) -> None:
    """See that a method returned a plan for the sites of its condition, with notes that a record can keep.

    An image that it hands back must have the ``shape`` of the base image.

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
    if plan.image is not None:
        _check_image(plan.image, shape)
    for site in plan.changes:
        if not isinstance(site, str) or site.partition("/")[0] not in sites:
            raise _fault(f"changes {site!r}; its sites are {', '.join(sites)}")
    for name, value in plan.notes.items():
        if not isinstance(name, str) or not isinstance(value, int | float | str):
            raise _fault(f"notes {name!r} as {type(value).__name__}, expected a name with a number or text")
        try:
            f"{name}{value}".encode()
        except UnicodeEncodeError:  # Python's strings may hold halves of letters
            raise _fault(f"notes {name!r} as {value!r}, expected text in Unicode") from None


def _check_image(image: Any, shape: tuple[int, ...]) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3:
        raise _fault("returned a Plan whose image is not an array of bytes [height, width, 3]")
    if image.shape != shape:
        height, width = shape[:2]
        raise _fault(f"returned an image of {image.shape[1]} x {image.shape[0]} pixels, expected {width} x {height}")


def _fault(wrong: str) -> PairError:
    return PairError(wrong, where="method")
