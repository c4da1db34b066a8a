"""The benchmark from Python, with loaded parts handed in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import StableDiffusionXLPipeline

import riebench
from riebench.engine.instruments import Instruments
from riebench.models.mini import PAIRS
from riebench.models.sdxl import FOUR
from riebench.pairs import Pair, load_pairs, select
from riebench.sae import TopKSAE
from riebench.util.errors import UserError

PAIR = Pair(
    id="mine",
    editing_type_id=1,
    original_prompt="a [b] c",
    editing_prompt="a [d] c",
    original_gsam_prompt="b",
    editing_gsam_prompt="d",
)


def left(size: int) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[:, : size // 2] = True
    return mask


def test_all_that_the_command_does(tmp_path: Path) -> None:
    result = riebench.run(
        "steering", "all", strength=[1, 2], category=["colour"], limit=1, out=tmp_path / "o", quiet=True
    )
    assert [r.setting.strength for r in result.records] == [1, 2]
    assert all(r.status == "ok" for r in result.records)
    assert (result.session.folder / "run.json").exists()


def test_a_pipeline_of_ones_own(mini: Instruments, random_pipeline: StableDiffusionXLPipeline, tmp_path: Path) -> None:
    saes = {b: TopKSAE(24, 48, 4).requires_grad_(False) for b in FOUR}
    result = riebench.run(
        ["sae", "neurons"],
        model=riebench.load("sdxl-turbo", pipeline=random_pipeline, saes=saes),
        pairs=[PAIR],
        strength=1,
        k=5,
        steps=2,
        masks={"mine": (left(32), ~left(32))},
        scorers=mini.scorers,
        out=tmp_path / "o",
        quiet=True,
    )
    sae, neurons = result.records
    assert (sae.status, neurons.status) == ("ok", "ok"), (sae.reason, neurons.reason)
    assert sae.model == "sdxl-turbo"
    assert sae.parts["model"].startswith("given-")
    assert sae.parts["sae"] not in ("none", mini.parts["sae"])
    assert sae.notes["k"] == 5
    assert "edit_success" not in sae.metrics


def test_masks_from_a_function(mini: Instruments, tmp_path: Path) -> None:
    seen = []

    def halves(pair: Pair, base: np.ndarray, source: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen.append((pair.id, base.shape))
        return left(128), left(128)[None]

    pairs = select(load_pairs(PAIRS), categories=[6], limit=1)
    result = riebench.run("steering", "mid.0", pairs=pairs, strength=1, masks=halves, out=tmp_path / "o", quiet=True)
    assert seen == [(pairs[0].id, (128, 128, 3))]
    assert result.records[0].status == "ok"
    assert result.records[0].parts["masker"].endswith("halves")


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        ({}, "no masks were given"),
        ({"x": 1}, "no masks were given"),
        ({"PAIR": (left(128), left(64))}, r"the shape \[64, 64\], expected bool and \[128, 128\]"),
        ({"PAIR": (left(128), left(128).astype(int))}, "the type int64"),
        ({"PAIR": (left(128), np.zeros((128, 128), bool))}, "a mask is empty"),
    ],
)
def test_masks_that_do_not_fit(mini: Instruments, tmp_path: Path, masks: dict[str, Any], said: str) -> None:
    pairs = select(load_pairs(PAIRS), categories=[6], limit=1)
    masks = {pairs[0].id if name == "PAIR" else name: value for name, value in masks.items()}
    if "x" in masks:
        masks["x"] = (left(128), left(128))
    result = riebench.run("steering", "mid.0", pairs=pairs, strength=1, masks=masks, out=tmp_path / "o", quiet=True)
    (record,) = result.records
    assert record.status == "failed"
    assert record.where == "masks"
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(record.reason)


def test_bad_calls(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no method was named"):
        riebench.run()
    with pytest.raises(UserError, match="no pairs of its own"):
        riebench.run("none", model="sdxl-base")
    with pytest.raises(UserError, match="parts are missing"):
        riebench.run("none", model="sdxl-base", pairs=[PAIR], settings={"weights": str(tmp_path)}, out=tmp_path / "o")
