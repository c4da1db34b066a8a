"""The renderer draws what it says, and the reader reads it."""

import numpy as np
import pytest

from riebench.mini.grammar import ATTRIBUTES, Scene, random_scene, visible
from riebench.mini.layout import canvas_of_seed, layout_of_seed
from riebench.mini.reader import judge, read_all
from riebench.mini.render import COLOURS, NOUNS, box_distance, draw, noun_mask, polygon_distance


def test_masks_are_where_the_colour_is() -> None:
    layout = layout_of_seed(4)
    drawing = draw(Scene(shape="square", colour="blue", background="grey"), layout)
    inner = np.abs(drawing.image - np.array(COLOURS["blue"], np.float32)).max(-1) < 0.01
    assert (inner & ~drawing.masks["object"]).sum() == 0
    # A square of half side 0.8 r, seen at any angle, covers (1.6 r)^2 pixels.
    assert drawing.masks["object"].sum() == pytest.approx((1.6 * layout.r) ** 2, rel=0.03)


def test_masks_part_the_picture(rng: np.random.Generator) -> None:
    for seed in range(20):
        masks = draw(random_scene(rng), layout_of_seed(seed)).masks
        total = masks["object"].astype(int) + masks["addition"] + masks["background"]
        assert (total == 1).all()
        assert not (masks["inside"] & ~masks["object"]).any()


def test_additions_stay_in_the_picture(rng: np.random.Generator) -> None:
    for seed in range(60):
        for addition in ("hat", "ball", "stand"):
            scene = random_scene(rng).changed(addition=addition)
            assert draw(scene, layout_of_seed(seed)).masks["addition"].sum() > 60


def test_distances_by_hand() -> None:
    points = [(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)]
    u, v = np.array([0.0, 2.0, 2.0], np.float32), np.array([0.0, 0.0, 2.0], np.float32)
    expected = [-1.0, 1.0, np.sqrt(2)]
    assert polygon_distance(u, v, points) == pytest.approx(expected, abs=1e-6)
    assert box_distance(u, v, 0, 0, 1, 1) == pytest.approx(expected, abs=1e-6)


def test_seed_decides_the_layout_and_the_prompt_the_rest() -> None:
    scene = Scene(shape="star")
    assert (draw(scene, layout_of_seed(1)).image == draw(scene, layout_of_seed(1)).image).all()
    assert (draw(scene, layout_of_seed(1)).image != draw(scene, layout_of_seed(2)).image).any()
    assert (canvas_of_seed(1) == canvas_of_seed(1)).all()
    assert (canvas_of_seed(1) != canvas_of_seed(2)).any()
    peak = np.unravel_index(canvas_of_seed(3)[0].argmax(), (32, 32))
    layout = layout_of_seed(3)
    assert peak == pytest.approx((layout.cy / 4, layout.cx / 4), abs=3.5)


def test_reader_is_right_about_noisy_drawings(rng: np.random.Generator) -> None:
    right: dict[str, list[bool]] = {name: [] for name in ATTRIBUTES}
    for seed in range(30):
        scene, layout = random_scene(rng, held=True), layout_of_seed(seed)
        image = draw(scene, layout).image + rng.normal(0, 0.1, (128, 128, 3)).astype(np.float32)
        for name, value in read_all(image, scene, layout).items():
            right[name].append(value == getattr(scene, name))
    assert all(np.mean(found) >= 0.97 for found in right.values())


def test_judge_on_true_drawings() -> None:
    layout = layout_of_seed(7)
    base = Scene(shape="heart", colour="red", inside="dot", background="sky")
    source = base.changed(colour="green")
    arrived = judge(draw(source, layout).image, base, source, layout)
    assert (arrived.edit_success, arrived.kept, arrived.read_as) == (True, 1.0, "green")
    stayed = judge(draw(base, layout).image, base, source, layout)
    assert (stayed.edit_success, stayed.kept) == (False, 1.0)
    spoilt = judge(draw(source.changed(background="night"), layout).image, base, source, layout)
    assert spoilt.edit_success
    assert spoilt.kept == pytest.approx(6 / 7)
    became_sketch = judge(draw(source.changed(style="sketch"), layout).image, base, source, layout)
    assert (became_sketch.edit_success, became_sketch.read_as) == (False, None)
    assert became_sketch.kept == pytest.approx(5 / 7)  # style and background are lost
    with pytest.raises(ValueError, match="differ in one attribute"):
        judge(draw(base, layout).image, base, source.changed(shape="star"), layout)


def test_sketches_hide_colour_and_background() -> None:
    sketch, layout = Scene(shape="star", colour="blue", background="night", style="sketch"), layout_of_seed(5)
    other = sketch.changed(colour="red", background="meadow")
    assert (draw(sketch, layout).image == draw(other, layout).image).all()
    assert not visible(sketch, "colour")
    assert visible(sketch, "shape")


def test_nouns_have_masks_only_where_they_are() -> None:
    scene = Scene(shape="house", inside="ring", addition="stand", background="night")
    drawing = draw(scene, layout_of_seed(2))
    there = {noun for noun in NOUNS if noun_mask(scene, drawing, noun).any()}
    assert there == {"house", "ring", "stand", "night", "background", "foreground", "object"}
