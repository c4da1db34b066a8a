"""Names and formats of figures, and the colour and marker of each method in all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from riebench.records.schema import ALL_STEPS

# Okabe and Ito's palette, then darker tones, for the methods that come with riebench: they never change colour.
FIXED = {
    "steering": "#0072B2",
    "sae": "#D55E00",
    "sae-adaptive": "#CC79A7",
    "neurons": "#009E73",
    "random": "#8A8A8A",
    "prompt": "#E69F00",
    "none": "#56B4E9",
    "caa": "#000000",
    "sae-random": "#7B4B2A",
    "sdedit": "#00504A",
    "paste": "#C2185B",
    "noise": "#C4C4C4",
    "pca": "#5B8C2A",
    "probe": "#2F4B9A",
    "sae-feature": "#F0A070",
    "sae-sum": "#A63A00",
    "loreft": "#6A3D9A",
    "k-steer": "#1FA3A3",
    "per": "#B8860B",
}
# From blue to yellow, for intervals of the steps, the shortest first; dark enough to be seen on white.
GROWING = ("#440154", "#3B528B", "#21918C", "#5EC962", "#C8B900", "#E07B00", "#B40426")
# For strangers' methods: tones that colour-blind readers can tell from those above.
SPARE = ("#332288", "#882255", "#117733", "#999933", "#AA4499", "#661100", "#6699CC")
Marker: TypeAlias = str | tuple[int, Literal[0, 1, 2], int]
"""As matplotlib takes it."""
MARKERS: tuple[Marker, ...] = (
    *("o", "s", "^", "D", "v", "X", "P", "p", "h", "d", "*", "H"),
    *("8", (4, 1, 0), (4, 1, 45), (3, 1, 0), (6, 1, 0), (8, 1, 0), (5, 0, 180)),  # stars, and a pentagon on its head
    *("<", ">"),
)
DASHES: tuple[str | tuple[int, tuple[int, ...]], ...] = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 2)))
FIGURE_NAMES = (
    "curves-by-category",
    "blocks-by-category",
    "curves-by-block",
    "curves-by-steps",
    "blocks-by-steps",
    "dose-response",
    "failures",
)
"""What takes longest comes first, for processes that share the work."""
FORMATS = ("png", "svg", "pdf")
# Without the date, so that the same figure twice is the same file.
METADATA: dict[str, dict[str, Any]] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
PAPER: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "legend.fontsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.formatter.limits": (-4, 5),  # powers of ten outside
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "text.parse_math": False,  # a dollar in a stranger's name is a dollar
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "riebench",  # the same figure twice is the same file
    "pdf.fonttype": 42,
    "savefig.dpi": 200,
}
"""matplotlib settings of every figure."""


class Look(NamedTuple):
    """How an arm is drawn."""

    colour: str
    marker: Marker
    line: str | tuple[int, tuple[int, ...]]


def _hash(name: str) -> int:
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)


def colour(method: str) -> str:
    """The colour of a method, from its canonical name alone."""
    return FIXED.get(method) or SPARE[_hash(method) % len(SPARE)]


def marker(method: str) -> Marker:
    """The marker of a method, from its canonical name alone."""
    names = list(FIXED)
    return MARKERS[names.index(method) if method in FIXED else len(names) + _hash(method) % 2]


def looks_of(methods: Mapping[str, str]) -> dict[str, Look]:
    """The look of each label, by the canonical name of its method.

    Labels of one colour (variants of a method) differ in their lines.
    """
    looks: dict[str, Look] = {}
    for label, method in methods.items():
        tone = colour(method)
        earlier = sum(look.colour == tone for look in looks.values())
        looks[label] = Look(tone, marker(method), DASHES[earlier % len(DASHES)])
    return looks


def looks_of_intervals(intervals: Sequence[str]) -> dict[str, Look]:
    """The look of each interval of the steps, by its name; ``all`` is black."""
    looks = {}
    for number, interval in enumerate(intervals):
        tone = "#000000" if interval == ALL_STEPS else GROWING[number % len(GROWING)]
        looks[interval] = Look(tone, MARKERS[number % len(MARKERS)], DASHES[number // len(GROWING) % len(DASHES)])
    return looks
