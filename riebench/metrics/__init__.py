"""How well an edit arrived (CLIP), what it cost (LPIPS), and, where it is known, the truth."""

from riebench.metrics.clip import ClipScorer
from riebench.metrics.lpips import LpipsScorer
from riebench.metrics.score import METRICS, Reference, Scorers, score_images

__all__ = ["METRICS", "ClipScorer", "LpipsScorer", "Reference", "Scorers", "score_images"]
