"""Checks on pictures and on the values at sites, for one model in one type of number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpu_checks.checking import Numbers, Skipped, expect
from gpu_checks.place import BASE, SOURCE, Place
from riebench.models import Edit, Model, Run
from riebench.models.sites import NEURONS

STEPS, SEED = 2, 1
ROUNDING = {"float32": (1e-3, 0.1), "float16": (1e-2, 0.5), "bfloat16": (5e-2, 2.0)}
"""How far apart two ways of computing the same may be: values as a share of their norm, and pictures as a mean over all
their numbers, of 255 levels. Twice as far as the type is from float32 on the same weights will also do."""


def blocks(model: Model) -> list[str]:
    """The blocks that have an SAE: a model's own four, or what is left of them in a shallow one."""
    return list(model.saes)


def rewrapped(model: Any, place: Place, **settings: Any) -> Model:
    """A model's pipeline as another model, which has computed nothing yet."""
    chosen = place.settings(dtype=model.conditions["dtype"], **settings)
    made: Model = model.entry.model_of(model.pipeline, chosen, model.fingerprint)
    made.saes = model.saes
    return made


def observe(model: Model) -> tuple[Run, Run]:
    """Source run and base run, captured at all blocks and at the neurons of the last."""
    capture = [*blocks(model), f"{blocks(model)[-1]}{NEURONS}0"]
    source, base = model.generate([SOURCE, BASE], [SEED, SEED], STEPS, capture=capture)
    return source, base


def steering(model: Model) -> dict[str, Tensor]:
    """The update of the source minus that of the base in the last block, which leaves most to be replayed."""
    source, base = observe(model)
    block = blocks(model)[-1]
    return {block: source.values[block] - base.values[block]}


def edited(model: Model, edits: Sequence[Any]) -> list[Run]:
    """Edited runs of the base prompt, with the values of the last block."""
    count = len(edits)
    return model.generate([BASE] * count, [SEED] * count, STEPS, edits=edits, capture=blocks(model)[-1:])


@contextmanager
def without_replay(model: Model) -> Iterator[None]:
    """Inside the ``with`` statement everything is computed."""
    model.replay = False
    try:
        yield
    finally:
        model.replay = True


def apart(observed: Sequence[Run], other: Sequence[Run]) -> tuple[float, float]:
    """How far runs are apart: their values, as a share of the norm, and their pictures, in levels."""
    values, pictures = [], []
    for a, b in zip(observed, other, strict=True):
        pictures.append(float(np.abs(a.image.astype(int) - b.image).mean()))
        for site, value in a.values.items():
            expected = b.values[site].float()
            values.append(float((value.float() - expected).norm() / expected.norm()))
    return max(values, default=0.0), max(pictures)


def same(observed: Sequence[Run], other: Sequence[Run]) -> bool:
    """Whether pictures and values are the same, bit for bit."""
    return all(
        np.array_equal(a.image, b.image) and all(torch.equal(a.values[s], b.values[s]) for s in a.values)
        for a, b in zip(observed, other, strict=True)
    )


def near(place: Place, model: Model, numbers: Numbers, observed: Sequence[Run], other: Sequence[Run]) -> None:
    """Note how far runs of a model are apart, and fail if it is more than rounding."""
    dtype = str(model.conditions["dtype"])
    own = place.rounding.get((model.entry.name, dtype), (0.0, 0.0))
    limits = zip(ROUNDING[dtype], own, strict=True)
    for name, distance, (limit, known) in zip(("values", "levels"), apart(observed, other), limits, strict=True):
        numbers[f"{name} apart"] = distance
        most = max(limit, 2 * known)
        expect(distance <= most, f"{name} are {distance:.2g} apart, at most {most:.2g} by rounding")


def finite(name: str, dtype: str, place: Place, numbers: Numbers) -> None:
    """Pictures and values are finite numbers of the right types in the right place; the VAE decodes as it should."""
    model, number = place.model(name, dtype), getattr(torch, dtype)
    vae = model.pipeline.vae
    decoded: list[tuple[torch.dtype, str]] = []
    hook = vae.decoder.register_forward_pre_hook(lambda _, args: decoded.append((args[0].dtype, args[0].device.type)))
    try:
        observe(model)  # the first call also chooses kernels
        decoded.clear()
        runs, seconds = place.timed(lambda: observe(model))
    finally:
        hook.remove()
    numbers["seconds a picture"] = seconds / len(runs)
    upcast = dtype == "float16" and vae.config.force_upcast and name != "flux-schnell"
    expected = torch.float32 if upcast else number
    expect(set(decoded) == {(expected, place.device.type)}, f"the VAE decoded {set(decoded)}, expected {expected}")
    expect(vae.dtype == number, f"the VAE is left in {vae.dtype}, expected {number}")
    for site, values in ((site, values) for run in runs for site, values in run.values.items()):
        kind = number if NEURONS in site else torch.float32
        observed = (values.dtype, values.device.type)
        message = f"the values at {site} are {observed}, expected {kind} on the device"
        expect(observed == (kind, place.device.type), message)
        expect(bool(values.isfinite().all()), f"the values at {site} are not finite")
    deviations = [float(run.image.std()) for run in runs]
    expect(min(deviations) > 1, f"a picture is of one colour (deviations {deviations})")
    if dtype == "float32":
        place.exact[name] = [Run(run.image, {site: v.cpu() for site, v in run.values.items()}) for run in runs]
    elif name in place.exact:
        place.rounding[name, dtype] = values, levels = apart(
            [Run(run.image, {site: v.cpu() for site, v in run.values.items()}) for run in runs], place.exact[name]
        )
        numbers |= {"values from float32": values, "levels from float32": levels}
        expect(values < 0.2 and levels < 8, f"values are {values:.2g} from float32, and pictures {levels:.2g} levels")


def same_twice(name: str, dtype: str, place: Place, numbers: Numbers) -> None:
    """The same call gives the same, bit for bit: no kernel draws lots."""
    model = place.model(name, dtype)
    first, second = observe(model), observe(model)
    numbers |= dict(zip(("values apart", "levels apart"), apart(first, second), strict=True))
    expect(same(first, second), "two calls alike differ")


def strength_zero(name: str, dtype: str, place: Place, numbers: Numbers) -> None:
    """An edit of strength 0 changes no bit, alone and in a batch with another."""
    model = place.model(name, dtype)
    changes = steering(model)
    with without_replay(model):
        plain = model.generate([BASE] * 2, [SEED] * 2, STEPS, capture=blocks(model)[-1:])
        zero = edited(model, [(changes, 0.0)] * 2)
        beside = edited(model, [(changes, 0.0), (changes, 1.0)])
    _, numbers["levels of strength 1"] = apart(beside[1:], plain[1:])
    expect(same(zero, plain), f"strength 0 is {apart(zero, plain)} from no edit (values, levels), expected 0")
    expect(same(beside[:1], plain[:1]), f"strength 0 beside 1 is {apart(beside[:1], plain[:1])} from no edit")
    expect(not same(beside[1:], plain[1:]), "strength 1 changes nothing")


def edit_arrives(name: str, dtype: str, place: Place, numbers: Numbers) -> None:
    """The captured output of an edited block has the edit in it, to rounding."""
    model = place.model(name, dtype)
    block = blocks(model)[-1]
    capture = [block, f"{block}/output"]
    [plain] = model.generate([BASE], [SEED], STEPS, capture=capture)
    direction = torch.nn.functional.normalize(
        torch.linspace(-1, 1, model.sites[block].width, device=model.device), dim=0
    )
    edits = [Edit({block: direction * plain.norm(block)}, 1.0, [0])]
    [run] = model.generate([BASE], [SEED], STEPS, edits=edits, capture=capture)
    outputs = [each.values[f"{block}/output"][0].float() for each in (run, plain)]
    distance = float((outputs[0] - outputs[1] - direction * plain.norm(block)).norm() / outputs[1].norm())
    numbers |= {"values apart": distance, "edit as a share": plain.norm(block) / plain.norm(f"{block}/output")}
    most = ROUNDING[dtype][0]
    expect(distance <= most, f"output and edit are {distance:.2g} apart, at most {most:.2g} by rounding")


def replay(name: str, dtype: str, place: Place, numbers: Numbers) -> None:
    """Edited runs that replay the base run equal those that compute everything, to rounding."""
    model = place.model(name, dtype)
    changes = steering(model)
    edits = [(changes, strength) for strength in (0.5, 1.0, 2.0)]
    edited(model, edits)  # the first call also chooses kernels
    short, numbers["seconds with"] = place.timed(lambda: edited(model, edits))
    with without_replay(model):
        edited(model, edits)
        full, numbers["seconds without"] = place.timed(lambda: edited(model, edits))
    near(place, model, numbers, short, full)


def batch_size(name: str, dtype: str, place: Place, numbers: Numbers) -> None:
    """Pictures made together equal pictures made one by one, to rounding."""
    model = place.model(name, dtype)
    prompts, seeds = [BASE, SOURCE] * 2, [1, 1, 2, 2]
    capture = blocks(model)[-1:]
    together = model.generate(prompts, seeds, STEPS, capture=capture)
    pairs = zip(prompts, seeds, strict=True)
    alone = [model.generate([prompt], [seed], STEPS, capture=capture)[0] for prompt, seed in pairs]
    near(place, model, numbers, together, alone)


def guided(name: str, dtype: str, place: Place, numbers: Numbers) -> None:
    """With guidance, and edits taken away in the unconditional half: strength 0 and replay as above."""
    model = rewrapped(place.model(name, dtype), place, guidance=5.0, unconditional="subtract")
    changes = steering(model)
    edits = [(changes, 0.0), (changes, 1.0)]
    short = edited(model, edits)
    with without_replay(model):
        full = edited(model, edits)
        base = model.generate([BASE] * 2, [SEED] * 2, STEPS, capture=blocks(model)[-1:])
    near(place, model, numbers, short, full)
    expect(same(full[:1], base[:1]), "strength 0 beside 1 differs from no edit")
    expect(not same(full[1:], base[1:]), "strength 1 changes nothing")


def tf32(name: str, place: Place, numbers: Numbers) -> None:
    """What PyTorch's default for convolutions in float32 would cost and give; riebench turns it off."""
    if not place.cuda:
        raise Skipped("only GPUs have TF32")
    model = place.model(name, "float32")
    expect(not torch.backends.cudnn.allow_tf32, "convolutions in float32 may use TF32, expected not")
    observe(model)
    exact, numbers["seconds in float32"] = place.timed(lambda: observe(model))
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=True):
        observe(model)
        coarse, numbers["seconds in TF32"] = place.timed(lambda: observe(model))
    numbers |= dict(zip(("values apart", "levels apart"), apart(coarse, exact), strict=True))
