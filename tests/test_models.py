"""A model of SDXL's shape with random weights: its sites, what is captured, added and left behind."""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from riebench.instruments.loading import Instruments
from riebench.models import Edit, Site, Start, neuron_sites
from riebench.models.diffusers_entry import folder_fingerprint
from riebench.models.mini import MINI
from riebench.models.sdxl import BASE, FOUR, SDXL, TURBO, module_path
from riebench.settings.settings import Settings, parse_settings
from riebench.util.errors import PairError, UserError
from riebench.util.files import fingerprint

ELEVEN = [
    *("down.1.0", "down.1.1", "down.2.0", "down.2.1", "mid.0"),
    *("up.0.0", "up.0.1", "up.0.2", "up.1.0", "up.1.1", "up.1.2"),
]


def blocks(sites: Iterable[str]) -> list[str]:
    return [site for site in sites if "/" not in site]


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def random_changes(sites: tuple[str, ...], steps: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {site: torch.randn(steps, 16, 24, generator=generator) for site in sites}


def test_names_of_sdxl_blocks(model: SDXL) -> None:
    assert blocks(model.sites) == ELEVEN
    assert module_path("mid.0") == "mid_block.attentions.0"
    assert module_path("down.2.1") == "down_blocks.2.attentions.1"
    assert model.sites["up.0.1"] == Site(24, (4, 4))
    assert neuron_sites(model.sites, "up.0.1") == [f"up.0.1/neurons.{layer}" for layer in range(3)]
    assert {model.sites[site] for site in neuron_sites(model.sites, "up.0.1")} == {Site(96, (4, 4))}
    assert model.sites["down.1.0"].grid == (8, 8)
    assert model.sites["up.1.0"].grid == (8, 8)


@pytest.mark.parametrize("entry", [TURBO, BASE])
def test_sites_of_sdxl_without_weights(entry: Any, tmp_path: Any) -> None:
    sites = entry.sites(parse_settings({"weights": tmp_path, "size": 512}))
    assert blocks(sites) == ELEVEN
    for block in ELEVEN:
        outer = block.split(".")[:2] in (["down", "1"], ["up", "1"])
        assert sites[block] == (Site(640, (32, 32)) if outer else Site(1280, (16, 16))), block
    for block in FOUR:
        found = neuron_sites(sites, block)
        assert found == [f"{block}/neurons.{layer}" for layer in range(10)]
        assert {sites[site] for site in found} == {Site(5120, (16, 16))}
    # Run order: the parts of a block's layers, then the block and its output; blocks one after the other.
    parts = ("attention.0", "cross.0", "mlp-input.0", "neurons.0", "mlp.0")
    assert [s for s in sites if s.count("/") == 0 or s.endswith((".0", "/output")) or s in ELEVEN] == [
        name for block in ELEVEN for name in (*(f"{block}/{part}" for part in parts), block, f"{block}/output")
    ]
    assert entry.default_sites == FOUR
    assert entry.saes(parse_settings({"weights": tmp_path})) == {}


def test_sites_of_mini_without_weights_are_those_of_its_model(mini: Instruments) -> None:
    known = MINI.sites(Settings())
    assert list(known.items()) == list(mini.model.sites.items())


def test_sites_of_a_pipeline_are_those_of_its_configurations(model: SDXL, tmp_path: Any) -> None:
    for part in ("unet", "vae"):
        getattr(model.pipeline, part).save_config(tmp_path / part)
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionXLPipeline"}')
    assert list(TURBO.sites(parse_settings({"location": tmp_path})).items()) == list(model.sites.items())


def test_modules_of_sites_have_the_widths_that_are_known(model: SDXL) -> None:
    with torch.no_grad():
        (run,) = model.generate(["a"], [1], 1, capture=list(model.sites))
    for site, (width, (height, across)) in model.sites.items():
        assert run.values[site].shape == (1, height * across, width), site


def test_generation_is_the_pipelines_own(model: SDXL) -> None:
    for steps in (1, 4):
        runs = model.generate(["a b", "c"], [5, 6], steps)
        pixels = model.pipeline(
            ["a b", "c"],
            num_inference_steps=steps,
            guidance_scale=0.0,
            generator=[torch.Generator().manual_seed(s) for s in (5, 6)],
            output_type="np",
        ).images
        assert np.array_equal((pixels * 255).round().astype(np.uint8), np.stack([run.image for run in runs]))


def test_threads_do_not_meet_each_others_edits(model: SDXL) -> None:
    work = [(seed, steps) for seed in range(3) for steps in (1, 4)] * 4
    changes = random_changes(FOUR, 4)

    def draw(seed: int, steps: int) -> Any:
        edits = [Edit({site: change[:steps] for site, change in changes.items()}, float(seed))]
        (run,) = model.generate(["a b"], [seed], steps, edits=edits, capture=["mid.0"])
        return run.image.tobytes(), run.values["mid.0"].numpy().tobytes()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda one: draw(*one), work)) == [draw(*one) for one in work]


def test_update_is_output_minus_input(model: SDXL) -> None:
    seen: dict[str, list[Tensor]] = {"in": [], "out": []}

    def remember(module: nn.Module, args: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        seen["in"].append(args[0].clone())
        seen["out"].append(output[0].clone())

    handle = model.modules["up.0.0"].register_forward_hook(remember)
    (run,) = model.generate(["a b"], [5], 3, capture=["up.0.0", *neuron_sites(model.sites, "up.0.0")])
    handle.remove()
    update = run.values["up.0.0"]
    assert update.shape == (3, 16, 24)
    for step in range(3):
        by_channel = (seen["out"][step] - seen["in"][step])[0]
        for row, column in ((0, 0), (1, 3), (3, 1)):  # positions are counted row by row
            assert torch.equal(update[step, 4 * row + column], by_channel[:, row, column])
    assert run.values["up.0.0/neurons.2"].shape == (3, 16, 96)


def test_strength_zero_is_the_base_image_bit_for_bit(model: SDXL) -> None:
    (base,) = model.generate(["a b"], [5], 2)
    changes = random_changes(FOUR, 2)
    (same,) = model.generate(["a b"], [5], 2, edits=[Edit(changes, 0.0)])
    assert np.array_equal(base.image, same.image)
    (other,) = model.generate(["a b"], [5], 2, edits=[(changes, 5.0)])
    assert not np.array_equal(base.image, other.image)


@pytest.mark.parametrize("block", FOUR)
def test_delta_lands_where_it_says_and_nowhere_else(model: SDXL, block: str) -> None:
    (base,) = model.generate(["a b"], [5], 2, capture=[block])
    delta = torch.zeros(2, 16, 24)
    delta[:, 4 * 1 + 2] = 3.0
    (edited,) = model.generate(["a b"], [5], 2, edits=[Edit({block: delta}, 0.5)], capture=[block])
    # At the first step the block's input is still the same, so its update differs by the delta alone.
    change = edited.values[block][0] - base.values[block][0]
    assert torch.allclose(change, 0.5 * delta[0], atol=1e-5)
    assert torch.equal(change.abs().sum(1) > 1e-4, delta[0].abs().sum(1) > 0)


@pytest.mark.parametrize("replay", [True, False])
def test_what_follows_a_block_receives_the_delta_at_its_place(model: SDXL, replay: bool) -> None:
    model.replay = replay
    model.generate(["a b"], [5], 1, capture=["mid.0"])
    delta = torch.zeros(1, 16, 24)
    delta[0, 4 * 1 + 2] = 3.0
    received: list[Tensor] = []
    after = model.pipeline.unet.mid_block.resnets[1]
    handle = after.register_forward_pre_hook(lambda module, args: received.append(args[0].clone()))
    for strength in (0.0, 0.5):
        model.generate(["a b"], [5], 1, edits=[Edit({"mid.0": delta}, strength)])
    handle.remove()
    wanted = torch.zeros(24, 4, 4)
    wanted[:, 1, 2] = 1.5
    assert torch.allclose((received[1] - received[0])[0], wanted, atol=1e-5)


def test_rows_of_a_batch_do_not_mix(model: SDXL) -> None:
    changes = {"mid.0": random_changes(("mid.0",), 1)["mid.0"] * 4}
    edits = [Edit(changes, 0.0), Edit(changes, 1.0), Edit({}, 1.0)]
    together = model.generate(["a b"] * 3, [5, 5, 6], 1, edits=edits)
    for i, seed in enumerate([5, 5, 6]):
        (alone,) = model.generate(["a b"], [seed], 1, edits=[edits[i]])
        assert np.abs(alone.image.astype(int) - together[i].image).max() <= 1


@pytest.mark.parametrize(
    ("site", "path"),
    [
        ("mid.0/attention.1", "mid_block.attentions.0.transformer_blocks.1.attn1"),
        ("up.0.0/cross.0", "up_blocks.0.attentions.0.transformer_blocks.0.attn2"),
        ("up.1.1/mlp.0", "up_blocks.1.attentions.1.transformer_blocks.0.ff"),
        ("down.2.1/output", "down_blocks.2.attentions.1"),
    ],
)
def test_outputs_and_parts_of_blocks_are_what_a_hook_sees_and_changes(model: SDXL, site: str, path: str) -> None:
    shape, seen = model.sites[site], []
    change = torch.randn(2, shape.positions, shape.width, generator=torch.Generator().manual_seed(1))

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        value = output if torch.is_tensor(output) else output[0]
        flat = value.flatten(2).transpose(1, 2) if value.ndim == 4 else value
        edited = flat + 2 * change[len(seen)]
        seen.append(edited[0])
        edited = edited.transpose(1, 2).reshape(value.shape) if value.ndim == 4 else edited
        return edited if torch.is_tensor(output) else (edited, *output[1:])

    with model.unwatched():
        handle = model.denoiser.get_submodule(path).register_forward_hook(hook)
        (own,) = model.generate(["a cat"], [1], 2)
        handle.remove()
    (run,) = model.generate(["a cat"], [1], 2, edits=[({site: change}, 2.0)], capture=[site])
    assert np.array_equal(run.image, own.image)
    assert torch.equal(run.values[site], torch.stack(seen))
    none, base = model.generate(["a cat"] * 2, [1, 1], 2, edits=[({site: change}, 0.0), ({}, 1.0)])
    assert np.array_equal(none.image, base.image)
    assert not np.array_equal(run.image, base.image)


def test_neurons_are_added_to(model: SDXL) -> None:
    site = "up.0.1/neurons.1"
    delta = torch.zeros(1, 16, 96)
    delta[:, 3, 7] = 2.0
    (base,) = model.generate(["a"], [1], 1, capture=[site])
    (edited,) = model.generate(["a"], [1], 1, edits=[Edit({site: delta})], capture=[site])
    assert torch.allclose(edited.values[site] - base.values[site], delta, atol=1e-5)


def test_functions_see_the_update_as_it_passes(model: SDXL) -> None:
    (base,) = model.generate(["a"], [1], 2, capture=["mid.0"])
    passed: list[Tensor] = []

    def remember(update: Tensor, step: int) -> Tensor:
        assert step == len(passed)
        passed.append(update.clone())
        return torch.zeros_like(update)

    model.generate(["a"], [1], 2, edits=[Edit({"mid.0": remember})])
    assert torch.allclose(torch.stack(passed), base.values["mid.0"], atol=1e-6)


def test_a_function_is_not_called_at_strength_zero(model: SDXL) -> None:
    called: list[int] = []

    def note(now: Tensor, step: int) -> Tensor:
        called.append(step)
        return now

    silent = Edit({"mid.0": note}, 0.0)
    other = Edit({"mid.0": torch.ones(1, 16, 24)})
    base, shifted = model.generate(["a"] * 2, [1, 1], 1, edits=[silent, other])
    assert not called
    assert not np.array_equal(base.image, shifted.image)


def test_an_ablated_block_adds_nothing(model: SDXL) -> None:
    (run,) = model.generate(["a"], [1], 2, edits=[Edit({"mid.0": lambda now, step: -now})], capture=["mid.0"])
    # Half a rounding of the block's input may be left: what is taken away is output minus input.
    assert run.values["mid.0"].abs().max() <= 1e-6


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            torch.zeros(1, 20, 24),
            r"mid.0 is of the shape \[1, 20, 24\], expected \[1, 16, 24\], or \[24\] for all of them",
        ),
        (torch.zeros(2, 16, 24), r"mid.0 is of the shape \[2, 16, 24\], expected \[1, 16, 24\]"),
        (torch.full((1, 16, 24), torch.nan), "mid.0 is not finite"),
        (torch.zeros(1, 16, 24, dtype=torch.complex64), "expected dense real numbers"),
        (torch.zeros(1, 16, 24).to_sparse(), "expected dense real numbers"),
        (np.zeros((1, 16, 24)), "mid.0 is a ndarray, expected a tensor"),
        (lambda now, step: now[:5], r"mid.0 is of the shape \[5, 24\], expected \[16, 24\]"),
        (lambda now, step: now * torch.nan, "mid.0 is not finite"),
        (lambda now, step: None, "mid.0 is a NoneType, expected a tensor"),
    ],
)
def test_bad_changes_are_named_and_no_hook_stays(model: SDXL, change: Any, said: str) -> None:
    (before,) = model.generate(["a"], [1], 1)
    with pytest.raises(PairError, match=said) as raised:
        model.generate(["a"], [1], 1, edits=[Edit({"mid.0": change})], capture=["mid.0"])
    assert raised.value.where == "method"
    assert hooks(model.pipeline.unet) == 0
    (after,) = model.generate(["a"], [1], 1)
    assert np.array_equal(before.image, after.image)


def test_no_hook_stays_after_an_exception_of_a_method(model: SDXL) -> None:
    def broken(update: Tensor, step: int) -> Tensor:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        model.generate(["a"], [1], 1, edits=[Edit({"mid.0": broken})])
    assert hooks(model.pipeline.unet) == 0


@pytest.mark.parametrize("site", ["mid.0", "up.0.0/neurons.1"])
def test_on_steps_is_a_change_that_is_zero_elsewhere(model: SDXL, site: str) -> None:
    width, prompts, seeds = model.sites[site].width, ["a b"] * 2, [5, 5]
    change = torch.randn(3, 16, width, generator=torch.Generator().manual_seed(2)) * 3
    once = torch.zeros_like(change)
    once[1] = change[1]
    limited = model.generate(
        prompts, seeds, 3, edits=[Edit({site: change}, s) for s in (1.0, 2.0)], on_steps=[1], capture=[site]
    )
    zeroed = model.generate(prompts, seeds, 3, edits=[Edit({site: once}, s) for s in (1.0, 2.0)], capture=[site])
    everywhere = model.generate(prompts, seeds, 3, edits=[Edit({site: change}, s) for s in (1.0, 2.0)])
    for some, same, all_steps in zip(limited, zeroed, everywhere, strict=True):
        assert np.array_equal(some.image, same.image)
        assert torch.equal(some.values[site], same.values[site])
        assert not np.array_equal(some.image, all_steps.image)


def test_on_steps_of_a_function(model: SDXL) -> None:
    called: list[int] = []

    def shift(now: Tensor, step: int) -> Tensor:
        called.append(step)
        return torch.ones_like(now)

    (run,) = model.generate(["a"], [1], 3, edits=[Edit({"mid.0": shift})], on_steps={0, 2})
    assert called == [0, 2]
    fixed = torch.ones(3, 16, 24)
    fixed[1] = 0
    (same,) = model.generate(["a"], [1], 3, edits=[Edit({"mid.0": fixed})])
    assert np.array_equal(run.image, same.image)
    (base,) = model.generate(["a"], [1], 3)
    (none,) = model.generate(["a"], [1], 3, edits=[Edit({"mid.0": shift})], on_steps=[])
    assert np.array_equal(base.image, none.image)


def test_edits_of_other_steps_share_a_batch_and_are_each_what_they_are_alone(model: SDXL) -> None:
    change = torch.randn(3, 16, 24, generator=torch.Generator().manual_seed(2)) * 3
    wanted: list[tuple[int, ...] | None] = [(1,), (0, 2), None, ()]
    edits = [Edit({"mid.0": change}, 2.0, on_steps) for on_steps in wanted]
    (base,) = model.generate(["a b"], [5], 3, capture=["mid.0"])
    together = model.generate(["a b"] * 4, [5] * 4, 3, edits=edits, capture=["mid.0"])
    for edit, run in zip(edits, together, strict=True):
        (alone,) = model.generate(["a b"], [5], 3, edits=[edit], capture=["mid.0"])
        assert np.abs(alone.image.astype(int) - run.image).max() <= 1
        assert torch.allclose(alone.values["mid.0"], run.values["mid.0"], atol=1e-4)
    later, ends, _, never = (run.values["mid.0"] for run in together)
    # Until an edit has been on, the values are the base run's; in its first step they differ by the change alone.
    assert torch.allclose(later[0], base.values["mid.0"][0], atol=1e-5)
    assert torch.allclose(later[1] - base.values["mid.0"][1], 2 * change[1], atol=1e-4)
    assert torch.allclose(ends[0] - base.values["mid.0"][0], 2 * change[0], atol=1e-4)
    assert torch.allclose(never, base.values["mid.0"], atol=1e-5)
    assert np.array_equal(together[3].image, base.image)


def test_steps_of_the_call_are_for_edits_without_their_own(model: SDXL) -> None:
    edits = [Edit(random_changes(("mid.0",), 2), 3.0, on_steps) for on_steps in (None, (0,), (1,))]
    of_call, first, second = model.generate(["a b"] * 3, [5] * 3, 2, edits=edits, on_steps=[1])
    assert np.array_equal(of_call.image, second.image)
    assert not np.array_equal(first.image, second.image)


def test_a_captured_run_that_is_edited_in_later_steps_is_replayed_rightly(model: SDXL) -> None:
    """The first step of the edited run is the base run's, and the edit begins after it."""
    model.generate(["a b"], [5], 3, capture=["up.0.0"])
    edits = [Edit(random_changes(("up.0.0",), 3), 3.0)]
    images = []
    for model.replay in (True, False):
        (run,) = model.generate(["a b"], [5], 3, edits=edits, on_steps=[2])
        images.append(run.image)
    assert np.array_equal(images[0], images[1])


def test_a_batch_of_edits_of_other_sites_and_steps_is_replayed_rightly(model: SDXL) -> None:
    """A row that is off in the first step may begin before one that is on, or after it."""
    (base,) = model.generate(["a b"], [5], 3, capture=FOUR)
    rows = [("down.2.1", (1,)), ("up.0.0", (0,)), ("up.0.1", (1, 2)), ("mid.0", None)]
    edits = [Edit(random_changes((site,), 3), 300.0, on_steps) for site, on_steps in rows]
    images = []
    for model.replay in (True, False):
        images.append([run.image for run in model.generate(["a b"] * 4, [5] * 4, 3, edits=edits)])
    assert np.array_equal(images[0], images[1])
    assert all((image != base.image).any() for image in images[0])


@pytest.mark.parametrize("step", [3, -1])
def test_steps_that_do_not_exist_are_refused(model: SDXL, step: int) -> None:
    with pytest.raises(UserError, match=rf"on_steps names the step {step}; expected steps from 0 to 2"):
        model.generate(["a"], [1], 3, edits=[Edit({}, 1.0)], on_steps=[0, step])
    with pytest.raises(UserError, match=rf"on_steps names the step {step}; expected steps from 0 to 2"):
        model.generate(["a"], [1], 3, edits=[Edit({}, 1.0, [1, step])])


def test_unknown_sites_are_refused_with_the_nearest(model: SDXL) -> None:
    with pytest.raises(UserError, match=r"unknown site 'down\.2\.11'; did you mean 'down\.2\.1'\?"):
        model.generate(["a"], [1], 1, capture=["down.2.11"])
    with pytest.raises(UserError, match=r"unknown site 'mid\.0/neuron\.1'; did you mean 'mid\.0/neurons\.1'\?"):
        model.generate(["a"], [1], 1, edits=[Edit({"mid.0/neuron.1": torch.zeros(1, 16, 96)})])
    with pytest.raises(UserError, match=r"unknown SAE 'mid\.0'"):
        model.sae("mid.0")
    assert hooks(model.pipeline.unet) == 0


@pytest.mark.parametrize(("seeds", "edits"), [([1], []), ([1, 2, 3], []), ([1, 2], [Edit({})]), ([1], [Edit({})])])
def test_rows_that_do_not_go_together_are_refused(model: SDXL, seeds: list[int], edits: list[Edit]) -> None:
    counts = f"2 prompts and {len(seeds)} seeds{f' and {len(edits)} edits' if edits else ''} were given"
    with pytest.raises(UserError, match=f"{counts}; expected as many of each"):
        model.generate(["a", "b"], seeds, 1, edits=edits)


def test_what_is_done_to_captured_values_changes_no_later_run(model: SDXL) -> None:
    edits = [Edit(random_changes(("up.0.0",), 1), 2.0)]
    images = []
    for spoil in (False, True):
        (run,) = model.generate(["a b"], [5], 1, capture=list(model.sites))
        for value in run.values.values():
            value.mul_(0 if spoil else 1)
        (edited,) = model.generate(["a b"], [5], 1, edits=edits)
        images.append(edited.image)
    assert np.array_equal(images[0], images[1])


def test_values_of_mini_at_four_steps(mini: Instruments) -> None:
    model = mini.model
    wanted = [*model.default_sites, *neuron_sites(model.sites, "mid.0")]
    runs = model.generate(["a red circle", "a blue circle"], [3, 3], 4, capture=wanted)
    for run in runs:
        assert list(run.values) == wanted
        for site in wanted:
            assert run.values[site].shape == (4, model.sites[site].positions, model.sites[site].width)
            assert run.values[site].dtype == torch.float32
    assert not torch.equal(runs[0].values["mid.0"], runs[1].values["mid.0"])
    steps = runs[0].values["mid.0"]
    assert not any(torch.equal(steps[i], steps[j]) for i in range(4) for j in range(i))
    (alone,) = model.generate(["a red circle"], [3], 4)
    assert alone.values == {}


def test_sae_of_the_wrong_width(model: SDXL) -> None:
    from riebench.sae.topk import TopKSAE

    model.saes = {"mid.0": TopKSAE(16, 20, 2)}
    with pytest.raises(UserError, match=r"the SAE of mid\.0 is 16 wide, the values there are 24 wide"):
        model.sae("mid.0")


def latents_of(model: SDXL, *asked: Any, **more: Any) -> tuple[list[Tensor], list[np.ndarray]]:
    """What the U-Net is given at each step, without the scheduler's scaling, and the pictures."""
    given: list[Tensor] = []
    hook = model.pipeline.unet.register_forward_pre_hook(lambda module, args: given.append(args[0]))
    try:
        images = [run.image for run in model.generate(*asked, **more)]
    finally:
        hook.remove()
    sigmas = model.pipeline.scheduler.sigmas
    return [latents * (sigma**2 + 1) ** 0.5 for latents, sigma in zip(given[-asked[2] :], sigmas, strict=False)], images


def test_a_run_begins_from_finished_latents_with_the_noise_of_its_step(model: SDXL) -> None:
    steps, first, seeds = 4, 2, [5, 6]
    base = [run.image for run in model.generate(["a cat"] * 2, seeds, steps)]
    finished = [model.finished("a cat", seed, steps) for seed in seeds]
    vae = model.pipeline.vae
    for image, latents in zip(base, finished, strict=True):  # they are those of the base run
        pixels = vae.decode(latents / vae.config.scaling_factor).sample / 2 + 0.5
        assert np.abs(pixels[0].clamp(0, 1).mul(255).permute(1, 2, 0).numpy() - image).max() < 1
    given, images = latents_of(model, ["a dog"] * 2, seeds, steps, start=Start("a cat", first))
    sigma = model.pipeline.scheduler.sigmas[first]
    assert 0 < sigma < model.pipeline.scheduler.sigmas[0]
    for row, seed in enumerate(seeds):
        generator = torch.Generator().manual_seed(seed)
        # The initial latents and the sampler's noise of two steps are drawn before.
        *_, noise = (torch.randn((1, 4, 16, 16), generator=generator) for _ in range(2 + first))
        assert torch.allclose(given[first][row : row + 1], finished[row] + sigma * noise, atol=1e-3)
        assert not np.array_equal(images[row], base[row])
    # The last steps are of the new prompt.
    texts: list[Tensor] = []
    with pytest.MonkeyPatch.context() as patch:
        forward = model.pipeline.unet.forward
        patch.setattr(
            model.pipeline.unet, "forward", lambda *a, **k: texts.append(k["encoder_hidden_states"]) or forward(*a, **k)
        )
        model.generate(["a dog"], [5], steps, start=Start("a cat", first))
    assert torch.equal(texts[-1], model.encode_text("a dog")["prompt_embeds"])
    alone = model.generate(["a dog"], [6], steps, start=Start("a cat", first))
    assert np.abs(alone[0].image.astype(int) - images[1]).max() <= 1
    assert np.array_equal(model.generate(["a cat"], [5], steps)[0].image, base[0])
    for step in (0, 4):
        with pytest.raises(UserError, match=f"the start is before step {step}; expected 1 to 3"):
            model.generate(["a dog"], [5], steps, start=Start("a cat", step))


def test_a_start_and_on_steps_number_steps_as_in_the_whole_run(model: SDXL) -> None:
    calls: list[int] = []

    def shift(now: Tensor, step: int) -> Tensor:
        calls.append(step)
        return drawn[step]

    drawn = random_changes(("up.0.0",), 4)["up.0.0"]

    def image(*edits: Edit) -> np.ndarray:
        (run,) = model.generate(["a dog"], [5], 4, edits=edits, start=Start("a cat", 2))
        return run.image

    untouched = image()
    before, one, every = (image(Edit({"up.0.0": shift}, 300.0, on_steps)) for on_steps in ((0, 1), (2,), None))
    assert calls == [0, 1, 2, 0, 1, 2, 3]
    assert np.array_equal(before, untouched)  # what is on before the start does nothing
    assert not np.array_equal(one, untouched)
    assert np.array_equal(image(Edit({"up.0.0": shift}, 300.0, (2, 3))), every)


def test_a_guided_run_begins_from_finished_latents(random_pipeline: Any) -> None:
    guided = SDXL(random_pipeline, TURBO, parse_settings({"model.guidance": 4}), "random")
    given, _ = latents_of(guided, ["a dog"], [5], 2, start=Start("a cat", 1))
    generator = torch.Generator().manual_seed(5)
    *_, noise = (torch.randn((1, 4, 16, 16), generator=generator) for _ in range(3))
    expected = guided.finished("a cat", 5, 2) + guided.pipeline.scheduler.sigmas[1] * noise
    assert torch.allclose(given[1], expected.expand(2, -1, -1, -1), atol=1e-3)


def write_component(folder: Path, name: str, weights: bytes) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "model.safetensors").write_bytes(weights)
    (folder / name / "config.json").write_text("{}")


def pipeline_folder(folder: Path, third: bytes = b"T5", **index: Any) -> Path:
    """A pipeline's folder with two components of SDXL's and FLUX's, and with ``text_encoder_3`` if there is one."""
    for name in ("transformer", "text_encoder", *(["text_encoder_3"] if third else [])):
        write_component(folder, name, third if name == "text_encoder_3" else b"weights")
    named = {path.name: ["transformers", "SomeClass"] for path in folder.iterdir()}
    unused = {"image_encoder": [None, None]}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "SomePipeline", **named, **unused, **index}))
    return folder


def test_the_fingerprint_of_a_folder_names_every_component_of_its_index(tmp_path: Path) -> None:
    first, same = pipeline_folder(tmp_path / "first"), pipeline_folder(tmp_path / "same")
    other = pipeline_folder(tmp_path / "other", third=b"another T5")
    assert folder_fingerprint(first) == folder_fingerprint(same) != folder_fingerprint(other)
    (same / "text_encoder_3" / "config.json").write_text('{"layers": 2}')
    assert folder_fingerprint(first) != folder_fingerprint(same)
    setting = pipeline_folder(tmp_path / "setting", is_distilled=True)
    assert folder_fingerprint(setting) != folder_fingerprint(first)


def test_the_fingerprint_of_a_usual_sdxl_or_flux_is_that_of_earlier_records(tmp_path: Path) -> None:
    plain, usual = (
        pipeline_folder(tmp_path / "plain", b""),
        pipeline_folder(
            tmp_path / "usual",
            b"",
            force_zeros_for_empty_prompt=True,
            add_watermarker=None,
            _diffusers_version="0.19.0",
        ),
    )
    components = [file for name in ("transformer", "text_encoder") for file in (plain / name).iterdir()]
    assert folder_fingerprint(plain) == folder_fingerprint(usual) == fingerprint(components, plain)
    zeros = pipeline_folder(tmp_path / "zeros", b"", force_zeros_for_empty_prompt=False)
    assert folder_fingerprint(zeros) != folder_fingerprint(plain)
