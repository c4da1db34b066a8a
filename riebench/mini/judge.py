"""The truth about a mini pair, as a judge of edited images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from riebench.mini.grammar import parse
from riebench.mini.layout import layout_of_seed
from riebench.mini.reader import judge
from riebench.pairs import Pair


class PairTruth:
    """Judges edited images of one pair of the drawn world.

    Args:
        pair: its prompts differ in one attribute.
        seed: of the layout.

    Raises:
        PromptError: if a prompt is not in the grammar.
    """

    def __init__(self, pair: Pair, seed: int) -> None:
        self.base, self.source = parse(pair.original_prompt), parse(pair.editing_prompt)
        self.layout = layout_of_seed(seed)

    def __call__(self, image: NDArray[np.uint8]) -> dict[str, float | None]:
        """``edit_success`` and ``kept`` of a picture ``[128, 128, 3]``."""
        verdict = judge(image.astype(np.float32) / np.float32(255), self.base, self.source, self.layout)
        return {"edit_success": float(verdict.edit_success), "kept": verdict.kept}
