"""The checks of ``scripts/gpu_check``, the most important first."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from gpu_checks import instruments, memory, pictures, runs
from gpu_checks.checking import Check

TURBO, SCHNELL = "sdxl-turbo", "flux-schnell"
FAMILIES = {"sd3": "sd3.5-medium", "flux2": "flux2-dev", "z-image": "z-image-turbo", "qwen-image": "qwen-image"}
"""Name for ``--family`` to the model, which has few blocks at true widths."""
OFFLOADS = ("model", "sequential")
OF_PICTURES = {
    "pictures": pictures.finite,
    "same twice": pictures.same_twice,
    "strength 0": pictures.strength_zero,
    "edit": pictures.edit_arrives,
    "replay": pictures.replay,
    "batch size": pictures.batch_size,
}


def _check(name: str, function: object, *arguments: object) -> Check:
    return Check(name, str(function.__doc__).splitlines()[0], partial(function, *arguments))


def checks_of(families: Sequence[str]) -> list[Check]:
    """The checks of families by their names."""
    return [check for name in families for check in _of_model(FAMILIES[name], "bfloat16")]


def _of_model(model: str, dtype: str) -> list[Check]:
    """What is checked of a model in a type; one after the other, as they share the model."""
    checks = [_check(f"{model} {dtype}: {name}", function, model, dtype) for name, function in OF_PICTURES.items()]
    return [*checks, _check(f"{model} {dtype}: every method", runs.every_method, model, dtype)]


CHECKS = [
    _check("main job", runs.main_job),
    _check("scorers", instruments.scorers),
    _check("masker", instruments.masker),
    *_of_model(TURBO, "float32"),
    _check(f"{TURBO} float32: TF32", pictures.tf32, TURBO),
    _check(f"{TURBO} float32: bench", runs.against_the_plain_loop, "float32"),
    *_of_model(TURBO, "float16"),
    *_of_model(TURBO, "bfloat16"),
    _check(f"{TURBO} bfloat16: scored beside", runs.scored_beside, TURBO, "bfloat16"),
    _check(f"{TURBO} bfloat16: guided", pictures.guided, TURBO, "bfloat16"),
    _check(f"{TURBO} bfloat16: out of memory", memory.halves, "bfloat16"),
    _check(f"{TURBO} bfloat16: bench", runs.against_the_plain_loop, "bfloat16"),
    *(_check(f"{TURBO} bfloat16: offload {kind}", memory.offload, kind, "bfloat16") for kind in OFFLOADS),
    *(_check(f"files: offload {kind}", memory.offload_of_files, kind) for kind in OFFLOADS),
    *_of_model(SCHNELL, "bfloat16"),
]
"""Every check in its order."""
