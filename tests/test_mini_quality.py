"""Mini meets its bars, on samples small enough for a test; ``riebench mini check`` measures all of them."""

from __future__ import annotations

from riebench.instruments import mini_quality as quality
from riebench.instruments.loading import Instruments
from riebench.models.mini import WEIGHTS


def missed(measures: list[quality.Measure]) -> list[str]:
    return [f"{m.name}: {m.value:.3f}" for m in measures if not m.passed]


def test_weights_are_small() -> None:
    assert sum(p.stat().st_size for p in WEIGHTS.rglob("*") if p.is_file()) < 40e6


def test_masker(mini: Instruments) -> None:
    assert not missed(quality.masks(30))


def test_clip(mini: Instruments) -> None:
    # One hundred pictures put a bar of .90 within .85 to .95; the bars themselves are for the full quality.
    measures = {m.name: m.value for m in quality.captions(40)}
    assert measures["CLIP: right one of 100"] >= 0.9
    assert min(measures.values()) >= 0.8


def test_saes(mini: Instruments) -> None:
    measures = quality.saes(mini.model, 60)
    assert not [m for m in measures if "explained" in m.name and not m.passed]


def test_pictures(mini: Instruments) -> None:
    measures = {m.name: m.value for m in quality.accuracy(mini.model, 60, 1)}
    assert measures["1 step: all at once"] >= 0.6
    assert measures["1 step: PSNR, dB"] >= 24
