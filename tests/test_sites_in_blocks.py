"""Sites inside blocks and blocks' outputs, on mini: in runs, SAEs, scores and ablations."""

from __future__ import annotations

from pathlib import Path

import pytest

import riebench
from riebench.cli import main
from riebench.engine.request import resolve
from riebench.engine.run_options import RunOptions
from riebench.features.score_request import score
from riebench.instruments.loading import Instruments
from riebench.sae.store import load_sae
from riebench.training import train
from riebench.util.errors import UserError

SITES = ("mid.0/mlp.0", "mid.0/attention.1", "up.0.1/neurons.0", "up.0.1/output")
LIVE = {"model": "mini", "prompts": "grammar", "count": 8}


@pytest.fixture
def saes(mini: Instruments, tmp_path: Path) -> Path:
    """An SAE for each of two sites, as training writes them."""
    options = {"k": (4,), "batch": 64, "steps": 4, "buffer": 200, "quiet": True}
    train(live={**LIVE, "model": mini.model}, site=["mid.0/output", "mid.0"], out=tmp_path / "s", **options)
    return tmp_path / "s"


def test_methods_edit_any_site(mini: Instruments, tmp_path: Path) -> None:
    result = riebench.run(
        ["steering", "caa"],
        [*SITES],
        model=mini.model,
        category="color",
        alone=True,
        limit=1,
        options={"count": 2},
        strength=[0, 2],
        out=tmp_path / "o",
        keep_images=0,
        quiet=True,
    )
    assert {(r.status, r.reason) for r in result.records} == {("ok", None)}
    assert {"+".join(r.setting.blocks) for r in result.records} == {*SITES, "+".join(SITES)}
    for record in result.records:
        assert ((record.metrics["lpips_base"] or 0) > 0) == (record.setting.strength > 0), record.setting


def test_a_method_of_neurons_takes_blocks() -> None:
    with pytest.raises(UserError, match=r"takes whole blocks, and mid\.0/output is a site inside one; give"):
        resolve(RunOptions("neurons", "mid.0/output"))
    with pytest.raises(UserError, match=r"unknown block 'mid\.0/outptu'; did you mean 'mid\.0/output'"):
        resolve(RunOptions("steering", "mid.0/outptu"))


def test_an_sae_is_of_its_site_alone(mini: Instruments, saes: Path, tmp_path: Path) -> None:
    of_output, of_update = (next(saes.glob(f"{name}_*")) for name in ("mid.0-output", "mid.0"))
    model = riebench.load("mini", sae__folder=str(saes))
    assert model.saes == {"mid.0": of_update, "mid.0/output": of_output}
    result = riebench.run(
        "sae", "mid.0/output", model=model, category="color", limit=1, strength=2, k=2, out=tmp_path / "o", quiet=True
    )
    assert [(r.status, r.setting.blocks) for r in result.records] == [("ok", ("mid.0/output",))]
    for given in (of_output, load_sae(of_output)):
        with pytest.raises(UserError, match=r"given for mid\.0 was trained at mid\.0/output"):
            riebench.load("mini", saes={"mid.0": given})
    least = {"count": 6, "features": 1, "best": 1, "pictures": 1, "downstream": 1, "fit": 4}
    few = {"model": model, "baselines": [], "prompts": "grammar", **least}
    (facts,) = score(of_output, tmp_path / "scores", **few)
    assert facts["block"] == "mid.0/output"
    with pytest.raises(UserError, match=r"says that it is of mid\.0/output, not of mid\.0; leave out --site"):
        score(of_output, tmp_path / "more", site="mid.0", **few)


def test_a_part_of_a_block_is_ablated(mini: Instruments, tmp_path: Path) -> None:
    done = riebench.ablate(
        model=mini.model, blocks="up.0.1/mlp.0,mid.0/output", prompts=2, out=tmp_path / "o", quiet=True
    )
    assert done.table is not None
    assert (done.table.set_index("blocks").loc[["up.0.1/mlp.0", "mid.0/output"], "lpips"] > 0).all()


def test_all_sites_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    parts = ("/attention.1", "/cross.0", "/mlp.0", "/output")
    for more in ([], ["--all"]):
        with pytest.raises(SystemExit):
            main(["blocks", "--model", "mini", *more])
        text = capsys.readouterr().out
        assert [part in text for part in parts] == [bool(more)] * len(parts)
