"""A state as Python code that generates its picture. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from riebench.paint.state import Layer, State


@dataclass(frozen=True)
class Origin:
    """The call that loaded the model of the page.

    Attributes:
        model: first argument of :func:`riebench.load`.
        settings: keyword arguments of that call.
        saes: site to the folder of its SAE, for SAEs of ``--sae``.
    """

    model: str
    settings: Mapping[str, Any]
    saes: Mapping[str, Path]


def python_code(state: State, origin: Origin) -> str:
    """A program that uses the public API to generate the picture of a state and save it.

    Texts of the state are written as Python literals, so that none of them runs as code.
    """
    names = ["BrushMask", "Layer", "State", *(["StepInterval"] if any(layer.steps for layer in state.layers) else [])]
    paths = ["from pathlib import Path", ""] if origin.saes else []
    keywords = "".join(f", {name}={value!r}" for name, value in origin.settings.items())
    return "\n".join(
        [
            *paths,
            "from PIL import Image",
            "",
            "import riebench",
            f"from riebench.paint import {', '.join(names if state.layers else ['State'])}, picture",
            "",
            f"model = riebench.load({origin.model!r}{keywords})",
            *_own_saes(origin),
            "state = State(",
            f"    model={state.model!r},",
            *([f"    weights={state.weights!r},"] if state.weights else []),
            *([f"    conditions={state.conditions!r},"] if state.conditions else []),
            f"    prompt={state.prompt!r},",
            f"    seed={state.seed},",
            f"    steps={state.steps},",
            "    layers=[",
            *(line for layer in state.layers for line in _layer(layer)),
            "    ],",
            ")",
            'Image.fromarray(picture(model, state)).save("picture.png")',
            "",
        ]
    )


def _own_saes(origin: Origin) -> list[str]:
    if not origin.saes:
        return []
    folders = (f"    {site!r}: Path({str(folder)!r})," for site, folder in origin.saes.items())
    return ["model.saes = {", *folders, "}"]


def _layer(layer: Layer) -> list[str]:
    mask = layer.mask
    steps = (
        [f"            steps=StepInterval(first={layer.steps.first}, last={layer.steps.last}),"] if layer.steps else []
    )
    return [
        "        Layer(",
        f"            site={layer.site!r},",
        f"            feature={layer.feature},",
        *([f"            sae={layer.sae!r},"] if layer.sae else []),
        f"            unit={layer.unit!r},  # the feature's mean active value",
        f"            strength={layer.strength!r},",
        f"            mask=BrushMask(rows={mask.rows}, columns={mask.columns}, runs={mask.runs}),",
        *steps,
        *([] if layer.on else ["            on=False,"]),
        "        ),",
    ]
