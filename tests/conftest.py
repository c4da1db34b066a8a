"""Fixtures: a small random pipeline of SDXL's shape, and mini loaded once."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from copy import copy
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ["OMP_NUM_THREADS"] = "1"  # pictures are small, and two processes test at a time, with those that they start

import numpy as np
import pytest
from fresh_commands import FreshCommands

# What needs torch is imported where it is used: the process that shares out the tests reads this file too.
if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline
    from transformers import CLIPTextConfig

    from riebench.instruments.loading import Instruments
    from riebench.instruments.mini_instruments import MiniInstruments
    from riebench.models.sdxl import SDXL
    from riebench.paint.studio import Studio

LONGEST = (
    *("test_token_families", "test_documents", "test_paint_page", "test_least", "test_sae_judge", "test_flux"),
    *("test_resume", "test_model_state", "test_other_code", "test_sae_data", "test_run", "test_gpu_check", "test_real"),
    *("test_report", "test_ablation", "test_plugins", "test_api", "test_schedulers", "test_paint_server", "test_audit"),
    *("test_wheel", "test_processes", "test_sae_learners", "test_families", "test_feature_index", "test_gsam"),
)
"""Test files that take half a minute or more, the longest first."""
WIDTHS = (8, 16, 24)
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, so that two processes end together; leave out CUDA's where there is no GPU."""
    import torch

    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))

    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="there is no GPU of CUDA's; see scripts/gpu_check"))

    gc.freeze()  # so that no collection of garbage goes through all modules again
    gc.set_threshold(5_000, 10, 10)  # nor through all loaded models again and again


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An empty working folder; methods and metrics that a test registers are forgotten, so that ``all`` is the rest."""
    from riebench.methods.registry import METHODS
    from riebench.metrics.catalogue import METRICS

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(METHODS, "registered", dict(METHODS.registered))
    monkeypatch.setattr("riebench.util.processes.LONG", float("inf"))  # tests share the cores already
    metrics = set(METRICS)
    yield
    for name in set(METRICS) - metrics:
        del METRICS[name]


def _text_config(tokens: int) -> CLIPTextConfig:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=tokens,
        hidden_size=16,
        intermediate_size=16,
        projection_dim=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=12,
        bos_token_id=tokens - 2,
        eos_token_id=tokens - 1,
        pad_token_id=tokens - 1,
    )


@pytest.fixture(scope="session")
def random_pipeline() -> StableDiffusionXLPipeline:
    """SDXL's classes and topology with random weights; sizes differ from mini's on purpose."""
    import torch
    from diffusers import (
        AutoencoderKL,
        EulerAncestralDiscreteScheduler,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    torch.manual_seed(3)
    letters = [chr(c) for c in range(97, 123)]
    vocab = {t: i for i, t in enumerate([*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"])}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=[], model_max_length=12, pad_token="<|endoftext|>")
    config = _text_config(len(tokenizer))
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=WIDTHS,
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 3),
        attention_head_dim=(1, 2, 3),
        cross_attention_dim=32,
        norm_num_groups=4,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=16 + 48,
        use_linear_projection=True,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 8),
        latent_channels=4,
        norm_num_groups=2,
        force_upcast=False,
    )
    pipeline = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(config),
        text_encoder_2=CLIPTextModelWithProjection(config),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=EulerAncestralDiscreteScheduler(timestep_spacing="trailing"),
        add_watermarker=False,
    )
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
        part.eval().requires_grad_(False)
    return pipeline


@pytest.fixture
def model(random_pipeline: StableDiffusionXLPipeline) -> SDXL:
    """The random pipeline as a model; latents come from the seed alone."""
    from riebench.models.sdxl import SDXL, TURBO
    from riebench.settings.settings import Settings

    return SDXL(random_pipeline, TURBO, Settings(), "random")


@pytest.fixture(scope="session")
def mini() -> Instruments:
    """Mini with all its instruments."""
    from riebench.instruments.loading import load_instruments
    from riebench.settings.settings import Settings

    return load_instruments("mini", Settings(), "riebench")


@pytest.fixture(autouse=True)
def _batch_kept(request: pytest.FixtureRequest) -> Iterator[None]:
    """The shared mini keeps its batch: in batches of another size its values are rounded otherwise."""
    from riebench.models.arguments import batch_kept

    with batch_kept(request.getfixturevalue("mini").model if "mini" in request.fixturenames else None):
        yield


@pytest.fixture(scope="session", autouse=True)
def _networks_once() -> Iterator[None]:
    """Mini's CLIP, LPIPS and masker are loaded once for all; who loads them gets a copy that shares the network."""
    from riebench.instruments.mini_instruments import MiniInstruments
    from riebench.metrics.clip import KEPT_TEXTS

    def once(load: Callable[[MiniInstruments], Any]) -> Callable[[MiniInstruments], Any]:
        loaded: dict[tuple[str, ...], Any] = {}

        def copied(self: MiniInstruments) -> Any:
            key = (self._clip, self._lpips, self._masker, self._device)  # fingerprints of the files
            if key not in loaded:
                loaded[key] = load(self)
            made = copy(loaded[key])
            if hasattr(made, "text"):  # embeddings of texts are kept for each by itself
                made.text = lru_cache(KEPT_TEXTS)(made._text)
            return made

        return copied

    with pytest.MonkeyPatch.context() as patch:
        for name in ("clip", "lpips", "masker"):
            patch.setattr(MiniInstruments, name, once(getattr(MiniInstruments, name)))
        yield


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No curve of a run is drawn, for tests of many runs that look at their records and messages."""
    monkeypatch.setattr("riebench.report.curve_figures.draw_run_curve", lambda *_: [])


@pytest.fixture(scope="session")
def fresh() -> Iterator[FreshCommands]:
    """A function that runs a command of ``riebench`` in a new process."""
    with closing(FreshCommands()) as commands:
        yield commands


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """A function that runs a program of ``scripts/`` in this process and returns its exit code."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "scripts")

    def run(name: str, *words: str) -> int:
        monkeypatch.setattr(sys, "argv", [name, *words])
        return int(import_module(name).main())

    return run


@pytest.fixture(scope="session")
def paint_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache folder in which the first studio leaves its indexes for the others."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def studio(paint_cache: Path) -> Iterator[Studio]:
    """Mini to paint with; its indexes are of few pictures and lie in a cache folder that programs find, too."""
    from riebench.paint.paint_request import PaintRequest

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(paint_cache))
        described = {"up.0.0": {240: "violet <b>paint</b>"}}
        yield PaintRequest("mini", count=24, descriptions=described).open_studio()


@pytest.fixture
def rng() -> np.random.Generator:
    """A seeded generator."""
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, for tests of pages."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium; install it to test the page")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()
