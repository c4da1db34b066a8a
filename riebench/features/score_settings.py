"""The settings of scores of dictionaries. Needs no torch."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import inf
from numbers import Real

from riebench.models.arguments import whole
from riebench.util.errors import UserError

BASELINES = ("random", "frozen-decoder", "neurons", "channels")
NO_BASELINE = "none"


@dataclass(frozen=True)
class ScoreSettings:
    """How dictionaries are judged.

    Attributes:
        steps: denoising steps of every picture.
        features: live features that are switched on and off, drawn by the seed.
        best: features that are switched beside them because they detect their value best.
        pictures: pictures on which each of them is switched.
        downstream: pictures that are generated with the reconstruction in place of the values.
        strengths: multiples of a feature's level at which it is switched on everywhere (v1 of the paper).
        area_strength: norm to which it is switched on in the area of its value, in root mean square norms of the values
            at the site. The same for all dictionaries, whatever their features' usual size.
        neutral: the prompt from which features are switched on everywhere; v1's is empty.
        fit: pictures of the training split that the frozen decoder's encoder is trained on.
        seed: of every draw.
    """

    steps: int = 1
    features: int = 16
    best: int = 4
    pictures: int = 3
    downstream: int = 16
    strengths: tuple[float, ...] = (1.0, 2.0, 4.0)
    area_strength: float = 3.0
    neutral: str = ""
    fit: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        lowest = {"steps": 1, "features": 1, "best": 0, "pictures": 1, "downstream": 1, "fit": 1, "seed": 0}
        for name, bound in lowest.items():
            object.__setattr__(self, name, whole(name, getattr(self, name), bound))
        if not isinstance(self.neutral, str):
            raise UserError(f"neutral is {self.neutral!r}; expected a prompt")
        several = isinstance(self.strengths, Collection) and len(self.strengths) > 0
        numbers = [*(self.strengths if several else ()), self.area_strength]
        if not several or not all(isinstance(value, Real) and 0 < value < inf for value in numbers):
            raise UserError(
                f"strengths are {self.strengths} and area_strength is {self.area_strength}; expected finite numbers "
                "above 0, as 1,2,4"
            )
