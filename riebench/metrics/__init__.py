"""How well an edit arrived (CLIP), what it cost (LPIPS), and, where it is known, the truth. Needs no torch.

Importing a module of metrics registers them, in the order of their columns.
"""

from riebench.metrics import whole, regions  # isort: skip
from riebench.metrics import drawn  # isort: skip
from riebench.metrics import directional, outside, structure  # isort: skip
from riebench.metrics.catalogue import METRICS, Metric, chosen, metric, scorers_of
from riebench.metrics.scoring import score_images
from riebench.metrics.seen import Reference, Scorers, Scores, Seen, Truth

__all__ = [
    "METRICS",
    "Metric",
    "Reference",
    "Scorers",
    "Scores",
    "Seen",
    "Truth",
    "chosen",
    "directional",
    "drawn",
    "metric",
    "outside",
    "regions",
    "score_images",
    "scorers_of",
    "structure",
    "whole",
]
