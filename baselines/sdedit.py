"""SDEdit (arXiv 2108.01073): the finished base picture is noised, and the edit prompt does the last steps again."""

from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import Field

from riebench.methods import Observed, Plan, method
from riebench.pairs import Pair
from riebench.util.errors import UserError

Redo = Annotated[
    float,
    Field(gt=0, le=1, description="Share of the steps that are done again at strength 1; strength multiplies it."),
]


@method("sdedit")
class SDEdit:
    """Noises the finished base latents and does the last steps again with the edit prompt; needs several steps."""

    acts_outside: ClassVar[bool] = True

    redo: Redo = 0.5

    def check(self, pairs: Sequence[Pair], steps: int) -> None:
        if steps < 2:
            raise UserError("the method 'sdedit' does some of the steps again and needs 2 or more; give --steps 4")

    def plan(self, seen: Observed) -> Plan:
        return Plan(prompt=seen.pair.edit_prompt, redo=self.redo)
