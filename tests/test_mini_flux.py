"""The second embedded model: it meets its bars, and the whole benchmark runs on it."""

from __future__ import annotations

from pathlib import Path

import pytest

import riebench
from riebench.instruments import mini_quality as quality
from riebench.models import Model
from riebench.models.mini import FLUX_WEIGHTS, MINI_FLUX
from riebench.settings.settings import Settings
from riebench.util.errors import UserError


@pytest.fixture(scope="module")
def mini_flux() -> Model:
    model = riebench.load("mini-flux")
    model.batch = 20
    return model


def test_weights_are_small() -> None:
    assert sum(path.stat().st_size for path in FLUX_WEIGHTS.rglob("*") if path.is_file()) <= 12e6


def test_pictures(mini_flux: Model) -> None:
    measures = {m.name: m.value for m in quality.accuracy(mini_flux, 60, 1)}
    assert measures["1 step: all at once"] >= 0.6
    assert measures["1 step: PSNR, dB"] >= 22


def test_saes(mini_flux: Model) -> None:
    measures = quality.saes(mini_flux, 60)
    assert not [m for m in measures if "explained" in m.name and not m.passed]


def test_sites_are_known_without_weights(mini_flux: Model) -> None:
    assert list(MINI_FLUX.sites(Settings()).items()) == list(mini_flux.sites.items())
    assert mini_flux.sites["double.0"] == (128, (16, 16))
    assert set(MINI_FLUX.default_sites) <= set(mini_flux.sites)


def test_edits_arrive(mini_flux: Model, tmp_path: Path) -> None:
    methods = ["sae", "steering", "neurons"]
    result = riebench.run(
        methods, "all", model=mini_flux, category="color", strength=2, limit=6, out=tmp_path, keep_images=0, quiet=True
    )
    assert {record.status for record in result.records} == {"ok"}
    arrived = {
        method: [record.metrics["edit_success"] for record in result.records if record.setting.method == method]
        for method in methods
    }
    assert [len(edits) for edits in arrived.values()] == [6] * 3
    assert all(sum(arrived[method]) >= 3 for method in ("sae", "steering"))


def test_settings_that_it_lacks() -> None:
    with pytest.raises(UserError, match=r"the setting model\.guidance is not for mini-flux"):
        riebench.load("mini-flux", guidance=3.0)
    with pytest.raises(UserError, match=r"unknown block 'mid\.0'"):
        riebench.run("steering", "mid.0", model="mini-flux")
