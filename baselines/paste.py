"""The source picture's masked pixels laid on the base picture: no representation at all."""

from typing import ClassVar

from riebench.methods import Observed, Plan, method


@method("paste")
class Paste:
    """Takes the source picture's pixels inside either mask, the base picture's elsewhere; nothing is generated."""

    acts_outside: ClassVar[bool] = True

    def plan(self, seen: Observed) -> Plan:
        import numpy as np

        inside = seen.regions["base"] | seen.regions["source"]
        return Plan(picture=np.where(inside[..., None], seen.pictures["source"], seen.pictures["base"]))
