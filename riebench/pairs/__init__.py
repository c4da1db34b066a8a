"""Benchmark items: pairs of prompts, their categories, and the files they come in."""

from riebench.pairs.files import load_pairs
from riebench.pairs.pair import CATEGORIES, Pair, category_named, select

__all__ = ["CATEGORIES", "Pair", "category_named", "load_pairs", "select"]
