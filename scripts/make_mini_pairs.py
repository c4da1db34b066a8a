"""Make mini's pair files: held-out scenes that the model draws as prompted on both sides, and whose masks are found.

python scripts/make_mini_pairs.py                # the default set
python scripts/make_mini_pairs.py --entangled    # the edit prompt changes one more attribute of the object
"""

from __future__ import annotations

import argparse
import json

import numpy as np

import riebench
from riebench.instruments.mini_instruments import MiniInstruments
from riebench.masks import MaskRules, pair_regions
from riebench.mini.grammar import ATTRIBUTES, DEFAULTS, Scene, grounding_phrases, held_out, prompt, random_scene
from riebench.mini.layout import layout_of_seed
from riebench.mini.masker import MiniMasker
from riebench.mini.reader import read_all
from riebench.models import Model
from riebench.models.mini import ENTANGLED, PAIRS
from riebench.pairs import Pair
from riebench.util.errors import PairError

EDITED = {
    1: "shape",
    2: "addition",
    3: "addition",
    4: "inside",
    5: "pose",
    6: "colour",
    7: "material",
    8: "background",
    9: "style",
}


OF_THE_OBJECT = ("colour", "material", "pose", "inside")
"""The attributes of which an entangled pair changes one more, which must not come along."""
ENTANGLED_SEEDS = 100_000
"""Added to the seeds of entangled pairs, whose layouts are others than those of the default set."""


def entangled(category: int, base: Scene, source: Scene, rng: np.random.Generator) -> Scene | None:
    """The scene of an edit prompt that changes one more attribute of the object; None if it is not held out."""
    sketch = "sketch" in (base.style, source.style)  # which has no colours
    names = [name for name in OF_THE_OBJECT if name != EDITED[category] and not (sketch and name == "colour")]
    name = str(rng.choice(names))
    values = [value for value in ATTRIBUTES[name] if value != getattr(source, name)]
    both = source.changed(**{name: str(rng.choice(values))})
    return both if held_out(both) else None


def candidate(category: int, rng: np.random.Generator) -> tuple[Scene, Scene]:
    """Two held-out scenes that differ in the attribute of a category, both of which show it."""
    name = EDITED[category]
    while True:
        base = random_scene(rng)
        if rng.random() < 0.5:
            base = base.changed(style="flat")
        if category in (6, 8) and base.style == "sketch":
            continue
        if category in (1, 5, 9):
            base = base.changed(addition="nothing")
        values = [v for v in ATTRIBUTES[name] if v != getattr(base, name)]
        source = base.changed(**{name: str(rng.choice(values))})
        adds, deletes = base.addition == "nothing", source.addition == "nothing"
        if (category == 2 and not adds) or (category == 3 and not deletes):
            continue
        if category == 4 and "nothing" in (base.inside, source.inside):
            continue
        if held_out(base) and held_out(source):
            return base, source


def instruction(category: int, base: Scene, source: Scene) -> str:
    """The edit in words."""
    name = EDITED[category]
    if category == 2:
        return f"add a {source.addition} to the {base.shape}"
    if category == 3:
        return f"remove the {base.addition} from the {base.shape}"
    return f"change the {name} from {getattr(base, name)} to {getattr(source, name)}"


def written(scene: Scene, edited: str) -> str:
    """The prompt with its change in brackets; other attributes are left out where they are the default."""
    silent = {n for n in ATTRIBUTES if n not in ("shape", edited) and getattr(scene, n) == getattr(DEFAULTS, n)}
    return prompt(scene, leave_out=silent - {"colour"}, mark=edited)


def drawn_right(model: Model, masker: MiniMasker, pair: dict[str, object], base: Scene, source: Scene) -> bool:
    """Whether both pictures show what their prompts say, and the masks are found."""
    seed = int(str(pair["seed"]))
    texts = [str(pair[k]).replace("[", "").replace("]", "") for k in ("original_prompt", "editing_prompt")]
    runs = model.generate(texts, [seed, seed], 1)
    for scene, run in zip((base, source), runs, strict=True):
        read = read_all(run.image.astype(np.float32) / 255, scene, layout_of_seed(seed))
        if any(value != getattr(scene, name) for name, value in read.items()):
            return False
    try:
        pair_regions(masker, MaskRules(), Pair.model_validate(pair), runs[0].image, runs[1].image)
    except PairError:
        return False
    return True


def main() -> None:
    """Write the pair file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-category", type=int, default=20)
    parser.add_argument("--entangled", action="store_true")
    args = parser.parse_args()
    count, prefix, first, out = args.per_category, "mini", 0, PAIRS
    if args.entangled:
        prefix, first, out = "entangled", ENTANGLED_SEEDS, ENTANGLED
    model, masker = riebench.load("mini"), MiniInstruments().masker()
    pairs: list[dict[str, object]] = []
    for category, edited in EDITED.items():
        kept, tried = 0, 0
        while kept < count:
            seed = first + category * 1000 + tried
            tried += 1
            rng = np.random.default_rng([seed, 17])
            base, source = candidate(category, rng)
            shown = entangled(category, base, source, rng) if args.entangled else source
            if shown is None:
                continue
            before, after = grounding_phrases(edited, base, source)
            pair: dict[str, object] = {
                "id": f"{prefix}-{category}-{kept:02d}",
                "editing_type_id": str(category),
                "original_prompt": written(base, edited),
                "editing_prompt": written(shown, edited),
                "editing_instruction": instruction(category, base, source),
                "original_gsam_prompt": before,
                "editing_gsam_prompt": after,
                "seed": seed,
            }
            if drawn_right(model, masker, pair, base, shown):
                pairs.append(pair)
                kept += 1
        print(f"category {category}: {count} pairs out of {tried} candidates", flush=True)
    out.write_text(json.dumps(pairs, indent=1) + "\n")


if __name__ == "__main__":
    main()
