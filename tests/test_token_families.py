"""Each family of transformers on tiny random weights, against its pipeline's own call; see ``family_proofs.py``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import family_proofs as proofs
import pytest

from riebench.models.entries import FAMILIES, entry_named
from riebench.models.tokens import TokenEntry, Tokens
from riebench.standin.tiny_pipelines import TINY, write_tiny_pipeline

STEPS = 2
BLOCKS = {"HunyuanDiTPipeline": 4}


@pytest.fixture(scope="module", params=list(TINY))
def family(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Tokens, str, Path]]:
    kind, folder = request.param, tmp_path_factory.mktemp("family") / "pipeline"
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
    proofs.check_cells(model, kind, STEPS)
    proofs.check_strength_zero(model, kind, STEPS)


def test_batches_sizes_starts_and_replay(family: tuple[Tokens, str, Path]) -> None:
    model, kind, folder = family
    proofs.check_batches(model, kind, STEPS)
    proofs.check_sizes(model, kind, folder)
    proofs.check_start(model, kind)
    proofs.check_replay(model, kind, STEPS)


def test_sites_without_weights_are_those_of_the_published_shape() -> None:
    for name in FAMILIES:
        entry = entry_named(name)
        assert isinstance(entry, TokenEntry)
        sites = entry.sites_for(entry.published, None)
        assert set(entry.default_sites) <= sites.keys(), name
