"""Checks on memory: weights that wait on the CPU, and batches that no longer fit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import accelerate
import numpy as np
import torch

import riebench
from gpu_checks.checking import Numbers, Skipped, expect
from gpu_checks.pictures import SEED, edited, near, observe, rewrapped, steering
from gpu_checks.place import BASE, Place
from riebench.engine.counting import put_in
from riebench.models import Model, Run
from riebench.models.diffusers_entry import prepared
from riebench.standin.pipeline import write_pipeline

ROWS = 16
SLACK = 0.4  # of what a full batch needs more than one row; half a batch needs 0.47


def work_of(model: Model) -> list[Run]:
    """Base and source run, and edited runs that start from them."""
    return [*observe(model), *edited(model, [(steering(model), 1.0)] * 2)]


def offload(kind: str, dtype: str, place: Place, numbers: Numbers) -> None:
    """With weights on the CPU until they are used, the same comes out, and less of the device's memory is in use."""
    model = place.model("sdxl-turbo", dtype)
    place.start_measuring()
    expected, numbers["seconds without"] = place.timed(lambda: work_of(model))
    resident = place.peak()
    moved = offloaded(model, kind, place)
    place.start_measuring()
    observed, numbers["seconds with"] = place.timed(lambda: work_of(moved))
    peak = place.peak()
    near(place, moved, numbers, observed, expected)
    if resident is not None and peak is not None:
        numbers |= {"GB without": resident / 1e9, "GB with": peak / 1e9}
        expect(peak < resident, f"{peak / 1e9:.1f} GB were in use, without offloading {resident / 1e9:.1f} GB")
    place.forget()


def offloaded(model: Any, kind: str, place: Place) -> Model:
    """A model's pipeline with its weights offloaded; on the CPU they go from there to there."""
    pipeline = model.pipeline
    if place.cuda or kind == "model":
        prepared(pipeline, kind, place.device)
    else:  # diffusers' own call insists on a device with a number, which a CPU's parameters do not keep
        for part in pipeline.components.values():
            if isinstance(part, torch.nn.Module):
                accelerate.cpu_offload(part, place.device, offload_buffers=len(part._parameters) > 0)
    return rewrapped(model, place)


def offload_of_files(kind: str, place: Place, numbers: Numbers) -> None:
    """The same through the loader of files, tiny, in float16."""
    if not place.cuda:
        raise Skipped("the loader refuses offloading without a GPU, as it should")
    folder = place.work / "tiny"
    if not folder.exists():
        write_pipeline(folder, "sdxl-turbo", "tiny", 0)
    runs = {}
    for chosen in ("none", kind):
        settings: dict[str, Any] = {"dtype": "float16", "size": 128, "offload": chosen}
        model = riebench.load(folder, device=str(place.device), **settings)
        model.saes = dict.fromkeys(model.default_sites)  # of them the names alone are asked for
        runs[chosen] = work_of(model)
    near(place, model, numbers, runs[kind], runs["none"])


def halves(dtype: str, place: Place, numbers: Numbers) -> None:
    """A batch that does not fit is halved until it does, and the pictures are the same to rounding."""
    model = place.model("sdxl-turbo", dtype)
    with ExitStack() as stack:
        put_in(stack, model, "batch", ROWS)
        place.start_measuring()
        expected = _many(model)
        with _little_memory(model, place, numbers):
            observed = _many(model)
        numbers["rows that fit"] = model.batch
        expect(model.batch < ROWS, f"{ROWS} rows fitted at once; memory was to run out")
    near(place, model, numbers, observed, expected)
    expect(bool(np.stack([run.image for run in observed]).std() > 1), "the pictures are of one colour")


def _many(model: Model) -> list[Run]:
    return model.generate([BASE] * ROWS, [SEED + row for row in range(ROWS)], 1)


@contextmanager
def _little_memory(model: Model, place: Place, numbers: Numbers) -> Iterator[None]:
    """Inside the ``with`` statement a full batch does not fit: by a cap, or on the CPU by pretence."""
    if not place.cuda:
        sample = model.sample

        def short(batch: Any) -> torch.Tensor:
            if len(batch.prompts) > ROWS // 4:
                raise torch.OutOfMemoryError("out of memory (pretended)")
            return sample(batch)

        numbers["cap"] = "pretended"
        with ExitStack() as stack:
            put_in(stack, model, "sample", short)
            yield
        return
    full, single = place.peak() or 0, _peak_of_one(model, place)
    cap = single + SLACK * (full - single)
    total = torch.cuda.get_device_properties(place.device).total_memory
    numbers |= {"GB for a row": single / 1e9, f"GB for {ROWS}": full / 1e9, "GB allowed": cap / 1e9}
    expect(full > 1.05 * single, f"{ROWS} rows take {full / 1e9:.2f} GB, one {single / 1e9:.2f} GB: no cap fits")
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(cap / total, place.device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, place.device)


def _peak_of_one(model: Model, place: Place) -> int:
    place.start_measuring()
    model.generate([BASE], [SEED], 1)
    return place.peak() or 0
