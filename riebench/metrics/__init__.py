"""How well an edit arrived (CLIP), what it cost (LPIPS), and, where it is known, the truth. Needs no torch.

``riebench/metrics/README.md`` says how to write a metric of your own.
"""

# Importing a module registers its metrics: the order of this line is that of the columns of records.
from riebench.metrics import default, directional, outside, structure  # isort: skip
from riebench.metrics.catalogue import METRICS, Metric, chosen, measured_by, metric, metrics_of, scorers_of
from riebench.metrics.scoring import doubts_of_texts, score_images
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
    "default",
    "directional",
    "doubts_of_texts",
    "measured_by",
    "metric",
    "metrics_of",
    "outside",
    "score_images",
    "scorers_of",
    "structure",
]
