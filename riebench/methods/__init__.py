"""The door through which every method comes in: a decorator, a registry, and what a method is given."""

from riebench.lens import Addition, Place
from riebench.methods.choosing import k_of_share, rank, relative_score
from riebench.methods.observed import Observed
from riebench.methods.plan import Method, Plan
from riebench.methods.registry import MethodClass, create, find, method, names
from riebench.methods.spread import spread

__all__ = [
    "Addition",
    "Method",
    "MethodClass",
    "Observed",
    "Place",
    "Plan",
    "create",
    "find",
    "k_of_share",
    "method",
    "names",
    "rank",
    "relative_score",
    "spread",
]
