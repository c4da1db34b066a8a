"""Prompts and scenes are two ways to say the same."""

import numpy as np
import pytest

from riebench.mini.grammar import (
    ATTRIBUTES,
    PromptError,
    Scene,
    alternatives,
    held_out,
    parse,
    prompt,
    random_prompt,
    random_scene,
)


def test_every_prompt_reads_back(rng: np.random.Generator) -> None:
    for _ in range(300):
        scene = random_scene(rng)
        assert parse(prompt(scene)) == scene
        assert parse(random_prompt(scene, rng)) == scene
        assert parse(prompt(scene, mark="shape")) == scene


def test_words_of_a_prompt() -> None:
    scene = Scene(shape="arrow", colour="orange", pose="tilted", addition="hat", background="meadow", style="sketch")
    assert prompt(scene) == "a tilted plain orange arrow wearing a hat in a meadow in sketch style"
    assert prompt(scene, leave_out={"material"}, mark="addition") == (
        "a tilted orange arrow [wearing a hat] in a meadow in sketch style"
    )
    assert prompt(Scene(), leave_out={"pose", "material", "background", "style", "colour"}) == "a square"
    assert prompt(Scene(colour="orange"), leave_out={"pose", "material", "background", "style"}) == "an orange square"


def test_defaults_fill_what_is_not_said() -> None:
    assert parse("a heart") == Scene(shape="heart")
    with pytest.raises(ValueError, match="cannot be left out"):
        prompt(Scene(colour="blue"), leave_out={"colour"})


@pytest.mark.parametrize(
    ("text", "reason"),
    [("a red dog", "'dog'"), ("a red blue heart", "two values of colour"), ("a red", "names no shape")],
)
def test_prompts_outside_the_grammar(text: str, reason: str) -> None:
    with pytest.raises(PromptError, match=reason):
        parse(text)


def test_held_out_scenes_are_a_tenth(rng: np.random.Generator) -> None:
    share = np.mean([held_out(random_scene(rng)) for _ in range(4000)])
    assert 0.08 < share < 0.12
    assert all(not held_out(random_scene(rng, held=False)) for _ in range(200))


def test_alternatives_cover_an_attribute() -> None:
    found = [s.material for s in alternatives(Scene(shape="star"), "material")]
    assert tuple(found) == ATTRIBUTES["material"]
