"""The edit prompt itself: what a perfect edit by words alone would give."""

from typing import ClassVar

from riebench.methods import Observed, Plan, method


@method("prompt")
class Prompt:
    """Generation from the edit prompt; the ceiling of CLIP similarity."""

    acts_outside: ClassVar[bool] = True

    def plan(self, seen: Observed) -> Plan:
        return Plan(prompt=seen.pair.edit_prompt)
