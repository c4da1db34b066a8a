"""The grammar of the drawn world: scenes, and the prompts that name them.

A :class:`Scene` has eight attributes. A prompt is a scene in words; words of attributes with their default value may be
left out, so ``"a heart"`` is a complete prompt. Square brackets, which mark the changed
words of an edit, are ignored.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "shape": ("square", "triangle", "star", "heart", "cross", "arrow", "house", "drop"),
    "colour": ("red", "orange", "yellow", "green", "turquoise", "blue", "purple", "pink"),
    "material": ("plain", "striped", "dotted", "checkered"),
    "pose": ("upright", "tilted"),
    "inside": ("nothing", "dot", "bar", "ring"),
    "addition": ("nothing", "hat", "ball", "stand"),
    "background": ("white", "grey", "cream", "sky", "sunset", "night", "meadow", "grid"),
    "style": ("flat", "outlined", "pixelated", "inverted", "sketch"),
}
"""Every attribute with its values; the first value of all but shape and colour is the default."""

PHRASES: dict[str, dict[str, str]] = {
    "inside": {"dot": "with a dot inside", "bar": "with a bar inside", "ring": "with a ring inside"},
    "addition": {"hat": "wearing a hat", "ball": "beside a ball", "stand": "on a stand"},
    "background": {
        "white": "on a white background",
        "grey": "on a grey background",
        "cream": "on a cream background",
        "sky": "against the sky",
        "sunset": "at sunset",
        "night": "at night",
        "meadow": "in a meadow",
        "grid": "on grid paper",
    },
    "style": {value: f"in {value} style" for value in ATTRIBUTES["style"]},
}
"""Attribute to value to its words, where they are more than the value's name."""

BACKGROUND_NOUNS: dict[str, str] = {
    "sky": "sky",
    "sunset": "sunset",
    "night": "night",
    "meadow": "meadow",
    "paper": "grid",
}
"""Noun in a phrase to the background that it names."""

ORDER = ("pose", "material", "colour", "shape", "inside", "addition", "background", "style")
"""The order in which a prompt names the attributes."""


@dataclass(frozen=True)
class Scene:
    """The content of a picture: one value for each attribute. Place and size are the layout's."""

    shape: str = "square"
    colour: str = "red"
    material: str = "plain"
    pose: str = "upright"
    inside: str = "nothing"
    addition: str = "nothing"
    background: str = "white"
    style: str = "flat"

    def __post_init__(self) -> None:
        for name, values in ATTRIBUTES.items():
            value = getattr(self, name)
            if value not in values:
                raise ValueError(f"{name} is {value!r}; expected one of {', '.join(values)}")

    def changed(self, **values: str) -> Scene:
        """This scene with some attributes set to other values."""
        return replace(self, **values)

    def differences(self, other: Scene) -> tuple[str, ...]:
        """The attributes in which two scenes differ."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name) != getattr(other, f.name))

    def values(self) -> dict[str, str]:
        """The scene as a mapping from attribute to value."""
        return dict(vars(self))


DEFAULTS = Scene()


def phrase(attribute: str, value: str) -> str:
    """The words for one attribute; empty for "nothing"."""
    if value == "nothing":
        return ""
    return PHRASES.get(attribute, {}).get(value, value)


def prompt(scene: Scene, leave_out: frozenset[str] | set[str] = frozenset(), mark: str | None = None) -> str:
    """Write a scene as a prompt.

    Args:
        scene: to write.
        leave_out: attributes without words; each must have its default value in ``scene``.
        mark: an attribute whose words get square brackets.

    Raises:
        ValueError: if an attribute that is left out does not have its default value.
    """
    words: list[str] = []
    for name in ORDER:
        value = getattr(scene, name)
        if name in leave_out:
            if name == "shape" or value != getattr(DEFAULTS, name):
                raise ValueError(f"{name} is {value!r} and cannot be left out")
            continue
        text = phrase(name, value)
        if text:
            words.append(f"[{text}]" if name == mark else text)
    article = "an" if words[0].lstrip("[")[0] in "aeiou" else "a"
    return " ".join([article, *words])


class PromptError(ValueError):
    """A prompt that the drawn world has no picture for."""


_FILLER = frozenset(
    ["a", "an", "the", "with", "wearing", "beside", "on", "in", "at", "against", "inside", "background", "style"]
)
_WORDS: dict[str, tuple[str, str]] = {
    **{
        value: (name, value)
        for name, values in ATTRIBUTES.items()
        if name != "background"
        for value in values
        if value != "nothing"
    },
    **{value: ("background", value) for value in ("white", "grey", "cream", "grid")},
    **{noun: ("background", value) for noun, value in BACKGROUND_NOUNS.items()},
}
VOCABULARY = sorted(_FILLER | set(_WORDS) | {"foreground", "object"})
"""Every word of the grammar."""


def parse(text: str) -> Scene:
    """Read a prompt; attributes that it does not mention have their default value.

    Raises:
        PromptError: if a word is unknown, an attribute is named twice with different values, or no shape
            is named.
    """
    values: dict[str, str] = {}
    for word in re.findall(r"[^\s\[\],.]+", text.lower()):
        if word in _FILLER:
            continue
        if word not in _WORDS:
            raise PromptError(f"the word {word!r} in the prompt {text!r} is not in the drawn world's grammar")
        name, value = _WORDS[word]
        if values.get(name, value) != value:
            raise PromptError(f"the prompt {text!r} names two values of {name}: {values[name]!r} and {value!r}")
        values[name] = value
    if "shape" not in values:
        raise PromptError(f"the prompt {text!r} names no shape; expected one of {', '.join(ATTRIBUTES['shape'])}")
    return Scene(**values)


def held_out(scene: Scene) -> bool:
    """Whether a scene belongs to the tenth of all scenes that no training ever sees."""
    return zlib.crc32("/".join(scene.values().values()).encode()) % 10 == 0


def random_scene(rng: np.random.Generator, held: bool | None = None) -> Scene:
    """A scene with every attribute drawn uniformly; ``held`` True draws held-out scenes only, False none of them."""
    while True:
        # The same numbers as rng.choice draws, which makes an array of the values at each call.
        scene = Scene(**{name: values[rng.integers(len(values))] for name, values in ATTRIBUTES.items()})
        if held is None or held_out(scene) == held:
            return scene


def random_prompt(scene: Scene, rng: np.random.Generator) -> str:
    """A prompt for the scene that leaves out each default value with probability one half."""
    silent = {
        name
        for name in ATTRIBUTES
        if name != "shape" and getattr(scene, name) == getattr(DEFAULTS, name) and rng.random() < 0.5
    }
    return prompt(scene, leave_out=silent)


def asked_attribute(original: str, edit: str) -> str:
    """The attribute that an edit asks for: the one in which two prompts differ, or that their brackets mark.

    Raises:
        PromptError: if a prompt cannot be read, or the prompts differ in several attributes of which not one is marked.
    """
    names = parse(original).differences(parse(edit))
    if len(names) > 1:
        marked = " ".join(re.findall(r"\[([^\]]*)\]", f"{original} {edit}")).lower()
        asked = {_WORDS[word][0] for word in re.findall(r"[^\s,.]+", marked) if word in _WORDS}
        names = tuple(name for name in names if name in asked)
    if len(names) != 1:
        changed = list(parse(original).differences(parse(edit)))
        raise PromptError(f"the prompts {original!r} and {edit!r} differ in {changed}; expected one attribute")
    return names[0]


def asked_scenes(original: str, edit: str) -> tuple[Scene, Scene]:
    """The scene of an original prompt, and the same with the attribute that the edit asks for changed, and no other.

    Raises:
        PromptError: as :func:`asked_attribute`.
    """
    name, before = asked_attribute(original, edit), parse(original)
    return before, before.changed(**{name: getattr(parse(edit), name)})


def contrasts(original: str, edit: str, count: int) -> list[tuple[str, str]]:
    """Pairs of prompts with the change that two prompts ask for, of random scenes that are not held out.

    Every change of an attribute has the same scenes.

    Raises:
        PromptError: as :func:`asked_attribute`.
    """
    import numpy as np

    before, after = asked_scenes(original, edit)
    name = asked_attribute(original, edit)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = random_scene(rng, held=False)
        if visible(scene, name):
            scenes.append(scene)
    both = [getattr(scene, name) for scene in (before, after)]
    return [(prompt(scene.changed(**{name: both[0]})), prompt(scene.changed(**{name: both[1]}))) for scene in scenes]


def grounding_phrases(attribute: str, before: Scene, after: Scene) -> tuple[str, str]:
    """The grounding phrases of an original and of its edit: the words for what the edit of an attribute changes."""
    if attribute == "background":
        return "background", "background"
    if attribute == "style":
        return "#everything", "#everything"
    if attribute not in ("addition", "inside"):
        return before.shape, after.shape
    words = (getattr(scene, attribute) for scene in (before, after))
    found, made = (
        scene.shape if word == "nothing" else word for scene, word in zip((before, after), words, strict=True)
    )
    return found, made


def alternatives(scene: Scene, attribute: str) -> Iterator[Scene]:
    """The scene with each value of one attribute in turn, its own value included."""
    for value in ATTRIBUTES[attribute]:
        yield scene.changed(**{attribute: value})


def neighbours(scene: Scene) -> list[tuple[str, Scene]]:
    """The alternatives of each visible attribute, with the attribute's name; each includes the scene itself."""
    return [(name, other) for name in ATTRIBUTES if visible(scene, name) for other in alternatives(scene, name)]


def visible(scene: Scene, attribute: str) -> bool:
    """Whether an attribute leaves a trace in the picture: a sketch has neither colour nor background."""
    return not (scene.style == "sketch" and attribute in ("colour", "background"))
