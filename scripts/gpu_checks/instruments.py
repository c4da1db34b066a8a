"""Checks on what scores and finds masks: the device's numbers beside the CPU's."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu_checks.checking import Numbers, Skipped, expect
from gpu_checks.place import Place
from riebench.engine.bench import difference
from riebench.instruments.loading import assemble_scorers
from riebench.instruments.published import PublishedInstruments
from riebench.metrics import Reference, score_images
from riebench.models import entry_named
from riebench.settings.protocols import RIEBENCH
from riebench.settings.settings import parse_settings
from riebench.util.errors import UserError

SCORES, AGREEMENT = 1e-3, 0.98
SIDE = {"tiny": 64, "true": 512}
DETECTION = {"tiny": {"masker.short_side": 224, "masker.long_side": 373}, "true": {}}
"""What the detector is given: at tiny size a smaller picture than published."""


def instruments_on(device: str, place: Place) -> PublishedInstruments:
    """The published instruments with the random weights that are written already."""
    settings = {"weights": place.weights, "device": device, "masker.cache": place.work / "masks"}
    settings |= DETECTION[place.size]
    without = ("model", "sae", *(() if place.has_masker else ("detector", "text-encoder", "segmenter")))
    return PublishedInstruments(entry_named("sdxl-turbo"), parse_settings(settings), RIEBENCH, without)


def scenes(place: Place) -> list[Any]:
    """Three pictures ``[side, side, 3]``: noise, smooth noise, stripes."""
    side = SIDE[place.size]
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3)).astype(np.uint8)
    smooth = np.kron(noise[: side // 16, : side // 16], np.ones((16, 16, 1), np.uint8))
    stripes = np.broadcast_to(np.arange(side, dtype=np.uint8)[:, None, None] * 8, noise.shape)
    return [noise, smooth, np.ascontiguousarray(stripes)]


def scorers(place: Place, numbers: Numbers) -> None:
    """CLIP and LPIPS give the CPU's metrics."""
    place.model("sdxl-turbo", "float32")  # as in a run, where it comes first and settles what float32 means
    place.write_scorers()
    edited, base, source = scenes(place)
    region = np.zeros(base.shape[:2], bool)
    region[: len(region) // 2] = True
    reference = Reference(base, source, "a toad in a hat", "a newt in a hat", region)
    by_device = []
    for device in ("cpu", str(place.device)):
        both = assemble_scorers(instruments_on(device, place))
        expect(both.clip.device.type == both.lpips.device.type == device.partition(":")[0], "scorers lie elsewhere")
        score_images(both, reference, [edited])
        scores, numbers[f"seconds on {device}"] = place.timed(lambda both=both: score_images(both, reference, [edited]))
        by_device.append(scores[0])
    numbers["largest difference"] = difference(*by_device)
    expect(difference(*by_device) <= SCORES, f"a metric differs by {difference(*by_device):.2g}, at most {SCORES}")


def masker(place: Place, numbers: Numbers) -> None:
    """Grounded SAM 2 finds the CPU's masks."""
    place.model("sdxl-turbo", "float32")
    try:
        place.write_masker()
    except UserError as error:
        raise Skipped(str(error)) from None
    image, masks_of = scenes(place)[1], []
    for device in ("cpu", str(place.device)):
        finder = instruments_on(device, place).masker().masker
        finder.find(image, "a hat")
        masks, numbers[f"seconds on {device}"] = place.timed(lambda finder=finder: finder.find(image, "a newt"))
        expect(masks.shape[1:] == image.shape[:2] and len(masks) > 0, f"masks of the shape {masks.shape}")
        masks_of.append(masks)
    counts = [len(masks) for masks in masks_of]
    agreement = float((masks_of[0].any(0) == masks_of[1].any(0)).mean())
    numbers |= {"masks on the CPU": counts[0], "masks on the device": counts[1], "share of pixels alike": agreement}
    expect(abs(counts[0] - counts[1]) <= 0.1 * counts[0], f"{counts[1]} masks, on the CPU {counts[0]}")
    expect(agreement >= AGREEMENT, f"{agreement:.3f} of the pixels are alike, at least {AGREEMENT}")
