"""Benchmark items: pairs of prompts, their categories, and their files. Needs no torch."""

from riebench.pairs.contrasts import Contrast, change_of, read_contrasts
from riebench.pairs.grounding import grounding_phrases
from riebench.pairs.pair import CATEGORIES, Pair, categories_named, category_named, select
from riebench.pairs.pair_files import check_pairs, load_pairs, remarks_on
from riebench.pairs.piebench import build_pairs, read_piebench

__all__ = [
    "CATEGORIES",
    "Contrast",
    "Pair",
    "build_pairs",
    "categories_named",
    "category_named",
    "change_of",
    "check_pairs",
    "grounding_phrases",
    "load_pairs",
    "read_contrasts",
    "read_piebench",
    "remarks_on",
    "select",
]
