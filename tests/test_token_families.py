"""Each family of transformers on tiny random weights, against its pipeline's own call; see ``family_proofs.py``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import family_proofs as proofs
import numpy as np
import pytest
import torch
from diffusers.models.modeling_utils import no_init_weights

import riebench
from riebench.instruments.loading import Instruments
from riebench.models import Start
from riebench.models.diffusers_entry import DiffusersEntry
from riebench.models.dry_trace import dry_trace
from riebench.models.entries import FAMILIES, entry_named
from riebench.models.sdxl import SDXL
from riebench.models.sites import block_of, block_sites
from riebench.models.tokens import TokenEntry, Tokens
from riebench.standin.flux_pipeline import FLUX_SHAPES, write_flux
from riebench.standin.newer_tiny_pipelines import NEWER
from riebench.standin.tiny_pipelines import TINY, write_tiny_model, write_tiny_pipeline
from riebench.util.errors import PairError, UserError

STEPS = 2
BLOCKS = {"HunyuanDiTPipeline": 4}
WHOLE = {
    "StableDiffusion3Pipeline": "rows",
    "ZImagePipeline": "rows, conditional first",
    "ChromaPipeline": "calls",
    "FluxPipeline": "embedded",
}
"""Pipelines of which nearly all is proven here, and how they are guided; ``scripts/check_families`` proves the rest."""
DEV = "FluxPipeline"
PAIR = proofs.PAIR


@pytest.fixture(scope="module", params=[*(kind for kind in TINY if kind in proofs.LAYOUT.keys() - NEWER), DEV])
def family(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Tokens, str, Path]]:
    kind, folder = request.param, tmp_path_factory.mktemp("family") / "pipeline"
    if kind == DEV:
        write_flux(folder, replace(FLUX_SHAPES["tiny"], double=2, single=2), seed=1, guided=True)
    else:
        write_tiny_pipeline(folder, kind, seed=1, blocks=BLOCKS.get(kind, 2))
    model = proofs.load(folder, kind)
    yield model, kind, folder
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.denoiser.modules())


def test_the_picture_is_the_pipelines_own(family: tuple[Tokens, str, Path]) -> None:
    model, kind, _ = family
    proofs.check_picture(model, kind, STEPS)
    proofs.check_passes(model, kind, STEPS)
    proofs.check_fingerprint(model)


def test_values_and_edits_are_of_the_pictures_conditional_tokens(family: tuple[Tokens, str, Path]) -> None:
    model, kind, _ = family
    proofs.check_values(model, kind, STEPS)
    proofs.check_edits(model, kind)
    if kind in WHOLE or kind == "HunyuanDiTPipeline":  # whose attention to the text is a site
        proofs.check_inner(model, kind)
    if kind not in WHOLE:
        return
    assert model.kind == ("none" if kind == "ZImagePipeline" else WHOLE[kind])  # it is distilled: off by default
    proofs.check_text(model, kind, STEPS)
    proofs.check_cells(model, kind, STEPS)
    proofs.check_strength_zero(model, kind, STEPS)


def test_batches_sizes_starts_and_replay(family: tuple[Tokens, str, Path]) -> None:
    model, kind, folder = family
    proofs.check_batches(model, kind, model.entry.least_steps, proofs.PROMPTS[: 3 if kind in WHOLE else 2])
    proofs.check_sizes(model, kind, folder)
    if kind in WHOLE or model.entry.no_start:
        proofs.check_start(model, kind)
    if kind in WHOLE:
        proofs.check_replay(model, kind, STEPS)


@pytest.fixture
def no_instruments(mini: Instruments) -> dict[str, Any]:
    """Masks and scorers that need no published weights."""
    mask = np.zeros((64, 64), bool)
    mask[8:40, 16:48] = True
    return {"masks": {PAIR.id: (mask, mask)}, "scorers": mini.scorers}


def test_methods_run(family: tuple[Tokens, str, Path], mini: Instruments, tmp_path: Path) -> None:
    model, kind, _ = family
    if WHOLE.get(kind) in ("rows, conditional first", "embedded"):
        proofs.check_methods(model, kind, STEPS, mini.scorers, tmp_path / "o")


def test_another_guidance_reads_and_changes_the_conditional_part(family: tuple[Tokens, str, Path]) -> None:
    """Guidance that is off by default is switched on, and one that is on by default is switched off."""
    model, kind, folder = family
    if kind in WHOLE:
        proofs.check_guidance(model, kind, STEPS, folder)


def test_subtract_changes_the_other_rows_by_the_opposite(family: tuple[Tokens, str, Path]) -> None:
    model, kind, folder = family
    if WHOLE.get(kind) == "rows, conditional first":  # ERNIE's, below, are the usual rows
        proofs.check_subtract(model, kind, folder)


def test_a_distilled_klein_is_not_guided(tmp_path: Path) -> None:
    kind, folder = "Flux2KleinPipeline", tmp_path / "pipe"
    write_tiny_model(folder, entry_named("flux2-klein-distilled"), seed=1, blocks=2)
    model = proofs.load(folder, kind)
    assert (model.entry.name, model.kind, "guidance" in model.conditions) == ("flux2-klein-distilled", "none", False)
    proofs.check_picture(model, kind, STEPS)
    proofs.check_passes(model, kind, STEPS)
    with pytest.raises(UserError, match=r"no setting model\.guidance: its pipeline is distilled, and ignores guidance"):
        proofs.load(folder, kind, guidance=4)
    with pytest.raises(UserError, match=r"has is_distilled=True, and flux2-klein expects False; give another --model"):
        riebench.load("flux2-klein", pipeline=model.pipeline, size=64)


def test_a_distilled_krea_is_not_guided_by_default(tmp_path: Path) -> None:
    kind, folder = "Krea2Pipeline", tmp_path / "pipe"
    write_tiny_model(folder, entry_named("krea2-turbo"), seed=1, blocks=2)
    model = proofs.load(folder, kind)
    assert (model.entry.name, model.entry.steps, model.kind, model.conditions["guidance"]) == (
        "krea2-turbo",
        8,
        "none",
        0,
    )
    proofs.check_picture(model, kind, STEPS)
    proofs.check_passes(model, kind, STEPS)
    with pytest.raises(UserError, match=r"has is_distilled=True, and krea2 expects False; give another --model"):
        riebench.load("krea2", pipeline=model.pipeline, size=64)


@pytest.mark.parametrize("kind", [kind for kind in NEWER if kind in proofs.LAYOUT])
def test_newer_pipelines(tmp_path: Path, kind: str, mini: Instruments) -> None:
    """A part of what ``scripts/check_families`` checks of them."""
    write_tiny_pipeline(tmp_path / "pipe", kind, seed=1, blocks=2)
    model, steps = proofs.load(tmp_path / "pipe", kind), 1 if kind == "HiDreamImagePipeline" else STEPS
    proofs.check_picture(model, kind, steps)
    proofs.check_passes(model, kind, steps)
    proofs.check_values(model, kind, 1)
    proofs.check_fingerprint(model)
    proofs.check_sizes(model, kind, tmp_path / "pipe")
    if model.entry.no_start:
        proofs.check_start(model, kind)
    if model.entry.text.within:
        proofs.check_kept_text(model, steps)
    if kind not in ("HunyuanImagePipeline", "HiDreamImagePipeline"):  # of a thousand tokens of text, of experts
        proofs.check_edits(model, kind)
    if kind == "Krea2Pipeline":
        proofs.check_text(model, kind, 1)
    if kind == "HunyuanImagePipeline":
        proofs.check_batches(model, kind, 1, ["a newt", 'a sign that says "newt"'])
    if kind == "ErnieImagePipeline":  # whose tensors have the tokens first
        proofs.check_inner(model, kind)
        proofs.check_subtract(model, kind, tmp_path / "pipe")
        proofs.check_trace(model, kind)
    if kind == "PRXPipeline":
        proofs.check_batches(model, kind, 1)
        with pytest.raises(UserError, match=r"model\.guidance is 0\.5, and prx takes 1 or more"):
            proofs.load(tmp_path / "pipe", kind, guidance=0.5)
    if kind == "LongCatImagePipeline":
        proofs.check_trace(model, kind)
        with pytest.raises(PairError, match="takes 512"):
            model.generate([f"a sign '{'newt ' * 100}' in a pond"], [1], 1)
    if kind == "NucleusMoEImagePipeline":
        proofs.check_methods(model, kind, 1, mini.scorers, tmp_path / "m")
        with pytest.raises(UserError, match=r"no neurons can be read at block\.1; give another block"):
            riebench.run("neurons", "block.1", model=model, pairs=[PAIR], out=tmp_path / "o", quiet=True)


PRUNED: dict[str, dict[str, Any]] = {
    "LatentConsistencyModelPipeline": {"mid_block_type": None},
    "KolorsPipeline": {
        "mid_block_type": "UNetMidBlock2D",
        "transformer_layers_per_block": [0, [2, 1], [1, 1]],
        "reverse_transformer_layers_per_block": [[1, 2, 3], [1, 1, 1], 0],
    },
}
"""Settings of U-Nets without attention in the middle, and with blocks of other numbers of layers in one stage."""


@pytest.mark.parametrize("kind", ["StableDiffusionPipeline", "LatentConsistencyModelPipeline", "KolorsPipeline"])
def test_u_nets_with_one_text_encoder(tmp_path: Path, kind: str) -> None:
    if kind == "KolorsPipeline":
        pytest.importorskip("sentencepiece")
    write_tiny_pipeline(tmp_path / "pipe", kind, seed=1, changes=PRUNED.get(kind, {}))
    model = proofs.load(tmp_path / "pipe", kind)
    assert isinstance(model, SDXL)
    assert ("mid.0" in model.sites) != (kind in PRUNED)
    layers = [sum(site.startswith(f"up.0.{number}/mlp.") for site in model.sites) for number in range(3)]
    assert kind != "KolorsPipeline" or layers == [1, 2, 3]
    assert model.guided == (kind != "LatentConsistencyModelPipeline")
    proofs.check_picture(model, kind, STEPS)
    if kind not in PRUNED:
        proofs.check_u_net_sites(model, kind, 1)
    proofs.check_strength_zero(model, kind, 1)
    if kind != "KolorsPipeline":
        proofs.check_start(model, kind)
    assert model.own


def test_a_guider_of_some_steps_is_refused_by_name(tmp_path: Path) -> None:
    write_tiny_pipeline(tmp_path / "pipeline", "HunyuanImagePipeline", seed=1, blocks=1)
    model = proofs.load(tmp_path / "pipeline", "HunyuanImagePipeline")
    model.pipeline.guider = diffusers.AdaptiveProjectedMixGuidance(stop=0.5)
    with pytest.raises(UserError, match=r"guider guides from 0\.0 to 0\.5 of the steps.* stop=1"):
        model.generate(["a cat"], [1], 4)


def test_a_scheduler_with_a_pass_too_many_is_refused(tmp_path: Path) -> None:
    write_tiny_pipeline(tmp_path / "pipe", "StableDiffusionPipeline", seed=1)
    file = tmp_path / "pipe" / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text()) | {"_class_name": "PNDMScheduler", "skip_prk_steps": True}
    file.write_text(json.dumps(config))
    index = tmp_path / "pipe" / "model_index.json"
    index.write_text(index.read_text().replace("EulerDiscreteScheduler", "PNDMScheduler"))
    with pytest.raises(UserError, match="makes 5 passes of the denoiser for 4 steps"):
        riebench.load(tmp_path / "pipe", device="cpu")


def test_sites_without_weights_are_those_of_the_published_shape() -> None:
    """On the meta device: the modules of all sites, their number and widths, and the number of weights."""
    networks: dict[str, Any] = {}
    for name in ("flux-schnell", *FAMILIES):
        entry = entry_named(name)
        assert isinstance(entry, DiffusersEntry)
        sites = entry.sites_for(entry.published, None)
        assert set(entry.default_sites) <= sites.keys(), name
        if not isinstance(entry, TokenEntry):
            continue
        kind, config = entry.pipeline_class, entry.published[entry.denoiser]
        made = getattr(diffusers, "FluxTransformer2DModel" if kind == DEV else TINY[kind].denoiser[0])
        with torch.device("meta"), no_init_weights():
            network = networks.get(f"{kind} {config}") or made(**config)  # a distilled model has another's shape
        networks[f"{kind} {config}"] = network
        weights = sum(tensor.numel() for tensor in network.state_dict().values())
        assert weights == pytest.approx(entry.denoiser_parameters, rel=0.05), (name, weights / 1e9)
        for blocks in entry.blocks:
            held = len(network.get_submodule(blocks.path))
            assert held == blocks.number(config) or kind == "HunyuanDiTPipeline", (name, blocks.name)
        for site, shape in sites.items():
            blocks, inner = entry.place(site)
            network.get_submodule(inner.path)
            if site != block_of(site):
                continue
            taker = proofs.LAYOUT[kind][blocks.path][2] or "attn.to_out.0"
            out, taken = network.get_submodule(f"{inner.path}.{taker}").weight.shape[:2]
            assert out == shape.width, (name, site)
            neurons = f"{site}/neurons.0"
            assert neurons not in sites or taken - sites[neurons].width in (0, shape.width), (name, site)


def test_what_a_family_declares_is_what_a_dry_trace_finds(family: tuple[Tokens, str, Path]) -> None:
    model, kind, _ = family
    if kind in WHOLE:
        proofs.check_trace(model, kind)


def test_a_pipeline_of_a_hidden_family_is_tried_by_a_trace(
    family: tuple[Tokens, str, Path],
    no_instruments: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, kind, folder = family
    if kind != "StableDiffusion3Pipeline":
        return
    traces: list[Any] = []
    monkeypatch.setattr("riebench.models.traced.dry_trace", lambda *how: traces.append(how) or dry_trace(*how))
    capsys.readouterr()
    traced = proofs.check_hidden(model, kind, STEPS, folder)
    assert "it/s]" not in capsys.readouterr().err  # no bars of the trace's short runs
    names = block_sites(traced.sites)
    assert traced.default_sites == (names[len(names) // 2],)
    assert {"family": "traced"}.items() <= traced.conditions.items()
    assert "by a dry trace alone" in str(traced.conditions["proof"])
    assert traced.fingerprint.startswith("traced-")
    with pytest.raises(UserError, match=r"cannot begin with a finished picture: its layout was found by a trial alone"):
        traced.generate(proofs.PROMPTS[:1], [1], STEPS, start=Start(proofs.PROMPTS[1], 1))
    settings = {"model.family": "traced", "model.size": model.size, "model.device": "cpu"}
    how = {"pairs": [PAIR], "strength": 2, "steps": STEPS, "quiet": True, "settings": settings, **no_instruments}
    [record] = riebench.run("steering", "transformer_blocks.1", model=str(folder), out=tmp_path / "o", **how).records
    assert (record.status, record.model) == ("ok", "traced"), record.reason
    assert record.conditions["proof"] == traced.conditions["proof"]
    assert record.conditions["family"] == "traced"
    assert len(traces) == 1  # the run takes the first one's layout


def test_what_a_dry_trace_cannot_conclude_is_refused(family: tuple[Tokens, str, Path]) -> None:
    model, kind, folder = family
    if kind != "StableDiffusion3Pipeline":
        return
    with pytest.raises(UserError, match=r"a dry trace needs the side of the pictures; give --set model.size=1024"):
        riebench.load(folder, device="cpu", family="traced")
    with pytest.raises(UserError, match=r"model.family is for the folder of a pipeline, and mini is none"):
        riebench.load("mini", family="traced")
    with pytest.raises(UserError, match="traced has no weights of its own; give --model DIR"):
        riebench.load("traced", size=64)
    with pytest.raises(UserError, match=r"traced has no setting model.guidance"):
        riebench.load(folder, device="cpu", family="traced", size=64, guidance=3)
    blocks = model.denoiser.transformer_blocks
    trace = partial(dry_trace, model.pipeline, "transformer", model.size, {})
    doubled = lambda m, a, k: (a, k | {"hidden_states": 2 * k["hidden_states"]})  # noqa: E731
    wrongs: dict[str, Any] = {
        "blocks of transformer_blocks do not take the picture as the block before puts it out": partial(
            blocks[1].register_forward_pre_hook, doubled, with_kwargs=True
        ),
        "a step has 1 calls of 2 rows, of which 2 follow the prompt": partial(
            blocks[-1].register_forward_hook, lambda m, a, output: (output[0], output[1] + output[1].flip(0))
        ),
        "its call with a prompt fails .RuntimeError": partial(
            blocks[0].register_forward_hook, lambda m, a, output: (output[0], output[1][..., :-1])
        ),
    }
    with model.unwatched():
        model.pipeline.set_progress_bar_config(disable=True, desc="a user's")
        for words, register in wrongs.items():
            handle = register()
            with pytest.raises(UserError, match=f"StableDiffusion3Pipeline is not conclusive: .*{words}"):
                trace()
            handle.remove()
        assert model.pipeline._progress_bar_config == {"disable": True, "desc": "a user's"}
        model.pipeline.set_progress_bar_config(disable=True)
        with pytest.raises(UserError, match="it has no component 'unet'"):
            dry_trace(model.pipeline, "unet", model.size, {})
