"""A random change of the picture: what any change of some LPIPS does to the other metrics."""

from typing import Annotated, ClassVar

from pydantic import Field

from riebench.methods import Observed, Plan, method

Deviation = Annotated[float, Field(gt=0, description="Standard deviation at strength 1, in grey levels of 255.")]
Everywhere = Annotated[bool, Field(description="Change all pixels; else those inside either mask.")]


@method("noise")
class Noise:
    """Adds Gaussian noise to the base picture's pixels inside either mask; strength sets how much, so any LPIPS."""

    acts_outside: ClassVar[bool] = True

    deviation: Deviation = 32.0
    everywhere: Everywhere = False

    def plan(self, seen: Observed) -> Plan:
        import numpy as np

        base, inside = seen.pictures["base"], seen.regions["base"] | seen.regions["source"] | self.everywhere
        noise = np.random.default_rng(seen.seed).normal(scale=self.deviation, size=base.shape)
        noisy = (base + noise).round().clip(0, 255).astype(np.uint8)
        return Plan(picture=np.where(inside[..., None], noisy, base))
