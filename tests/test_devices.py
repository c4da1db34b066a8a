"""What differs on a GPU, as far as a CPU can show it; and what needs CUDA, where there is some."""

from __future__ import annotations

import copy
import logging
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pytest
import torch

import riebench
from riebench.engine.counting import CLIP_TEXT, counting
from riebench.instruments.loading import Instruments
from riebench.instruments.mini_instruments import MiniInstruments
from riebench.models import Model
from riebench.models.devices import second_stream
from riebench.models.diffusers_entry import open_pipeline
from riebench.models.diffusers_model import DiffusersModel
from riebench.models.pipeline_state import state_fingerprint
from riebench.models.sdxl import SDXL, TURBO
from riebench.models.sites import Batch
from riebench.sae.topk import TopKSAE
from riebench.settings.settings import parse_settings
from riebench.standin.on_device import model_on
from riebench.standin.pipeline import write_pipeline
from riebench.util.batches import is_out_of_memory

CPU = torch.device("cpu")


def test_work_beside_another_thread_s_has_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch keeps freed memory by stream: with a stream for each pair a GPU would hold it thirty times."""
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: object())
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    gpu = torch.device("cuda:7")
    with second_stream(gpu) as first, second_stream(gpu) as again:
        assert first is again


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "sdxl-turbo"
    write_pipeline(folder, "sdxl-turbo", "tiny", seed=1)
    return folder


def loaded(folder: Path, dtype: str) -> SDXL:
    settings = parse_settings({"dtype": dtype, "size": 64})
    return SDXL(open_pipeline(TURBO, folder, settings, CPU), TURBO, settings, "tiny")


def offloaded(pipeline: Any) -> Any:
    """A copy whose weights lie elsewhere than in its modules, as sequential offloading keeps them."""
    moved = copy.deepcopy(pipeline)
    for part in (moved.unet, moved.vae, moved.text_encoder, moved.text_encoder_2):
        accelerate.cpu_offload(part, CPU, offload_buffers=len(part._parameters) > 0)
    assert moved.unet.conv_in.weight.is_meta
    return moved


def test_a_fault_while_decoding_in_float16_leaves_the_decoder_as_it_was(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipeline decodes in float32 and casts back afterwards; memory runs out between the two."""
    model = loaded(tiny, "float16")
    wanted = model.generate(["a newt", "a toad"], [1, 1], 1)
    decode, calls = model.pipeline.vae.decode, []

    def cramped(*args: Any, **kwargs: Any) -> Any:
        calls.append(model.pipeline.vae.dtype)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(*args, **kwargs)

    monkeypatch.setattr(model.pipeline.vae, "decode", cramped)
    found = model.generate(["a newt", "a toad"], [1, 1], 1)
    assert calls == [torch.float32] * 3
    assert model.pipeline.vae.dtype == torch.float16
    assert np.abs(np.stack([r.image for r in found]).astype(int) - [r.image for r in wanted]).mean() < 1


def test_float16_says_nothing_at_each_picture(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("diffusers").addHandler(caplog.handler)
    try:
        loaded(tiny, "float16").generate(["a newt"], [1], 1)
    finally:
        logging.getLogger("diffusers").removeHandler(caplog.handler)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_weights_have_the_same_fingerprint_wherever_they_lie(random_pipeline: Any) -> None:
    moved = offloaded(random_pipeline)
    assert state_fingerprint(moved) == state_fingerprint(random_pipeline)
    assert moved.unet.conv_in.weight.is_meta
    changed = copy.deepcopy(random_pipeline)
    changed.unet.conv_in.weight.data[0, 0, 0, 0] += 1
    assert state_fingerprint(offloaded(changed)) != state_fingerprint(random_pipeline)


def test_offloaded_weights_give_the_same(random_pipeline: Any) -> None:
    """Captured, edited and replayed, as a pipeline that somebody hands in."""
    found = []
    for pipeline in (random_pipeline, offloaded(random_pipeline)):
        model = riebench.load("sdxl-turbo", pipeline=pipeline)
        (base,) = model.generate(["a b"], [5], 2, capture=["up.0.1"])
        edits = [({"up.0.1": base.values["up.0.1"]}, strength) for strength in (1.0, 2.0)]
        found.append([base.image, *(run.image for run in model.generate(["a b"] * 2, [5] * 2, 2, edits=edits))])
    assert np.array_equal(*found)
    assert not np.array_equal(found[0][0], found[0][2])


def test_float32_means_float32_on_a_gpu(mini: Instruments, monkeypatch: pytest.MonkeyPatch) -> None:
    for device, allowed in (("cpu", True), ("cuda", False)):
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
        _Nothing(mini.model.entry, "none", {}, {}, torch.device(device), 8, {})
        assert torch.backends.cudnn.allow_tf32 is allowed


class _Nothing(Model):
    """A model that does nothing, anywhere."""

    def read(self, *args: Any) -> Any: ...

    def add(self, *args: Any) -> Any: ...

    def sample(self, *args: Any) -> Any: ...


def test_times_of_networks_include_what_the_device_does_after_the_call(
    mini: Instruments, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    for device in (CPU, torch.device("cuda", 0)):
        monkeypatch.setitem(vars(mini.model), "device", device)
        with counting(mini) as counts:
            mini.scorers.clip.texts(["a red heart"])
        assert counts[CLIP_TEXT].passes == 1
        assert waited == ([] if device == CPU else [device] * 2)


def test_minis_instruments_go_where_its_model_goes() -> None:
    for name, device in (("auto", "cpu"), ("cpu", "cpu"), ("meta", "meta")):
        parts = MiniInstruments(settings=parse_settings({"device": name}))
        networks = parts.masker().net, parts.clip().model, parts.lpips().model
        assert {parameter.device.type for net in networks for parameter in net.parameters()} == {device}
        assert {part().device.type for part in (parts.masker, parts.clip, parts.lpips)} == {device}


def test_a_small_model_is_computed_in_one_thread(mini: Instruments, monkeypatch: pytest.MonkeyPatch) -> None:
    threads, sample = [], DiffusersModel.sample

    def counting_threads(model: DiffusersModel, batch: Batch) -> torch.Tensor:
        threads.append(torch.get_num_threads())
        return sample(model, batch)

    monkeypatch.setattr(DiffusersModel, "sample", counting_threads)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert mini.model.small
        mini.model.generate(["a red heart"], [1], 1)
        monkeypatch.setattr(mini.model, "small", False)
        mini.model.generate(["a red heart"], [1], 1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert threads == [1, 2]


def test_codes_of_half_precision_values() -> None:
    sae = TopKSAE(8, 16, 3).requires_grad_(False)
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float16, torch.bfloat16):
        assert torch.equal(sae.encode(x.to(dtype)), sae.encode(x.to(dtype).float()))


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "GET was unable to find an engine to execute this computation",
    ],
)
def test_memory_that_runs_out_below_pytorch(said: str) -> None:
    assert is_out_of_memory(RuntimeError(said))
    assert not is_out_of_memory(ValueError(said))


@pytest.mark.parametrize("name", ["sdxl-turbo", "flux-schnell"])
def test_random_models_without_files_are_the_same_in_any_type(name: str) -> None:
    images = {}
    for dtype in ("float32", "bfloat16"):
        model = model_on(CPU, name, "tiny", parse_settings({"dtype": dtype, "size": 64}))
        assert model.conditions["dtype"] == dtype
        (run,) = model.generate(["a newt"], [1], 1, capture=list(model.saes))
        for site in model.saes:
            codes = model.sae(site).encode(run.values[site])
            assert 0 < int((codes > 0).sum(-1).max()) <= model.sae(site).k
        images[dtype] = run.image.astype(int)
    assert images["float32"].std() > 1
    assert np.abs(images["float32"] - images["bfloat16"]).mean() < 4


def test_random_networks_have_the_types_and_shapes_of_files(tiny: Path) -> None:
    made = model_on(CPU, "sdxl-turbo", "tiny", parse_settings({"dtype": "float16", "size": 64})).pipeline  # type: ignore[attr-defined]
    read = loaded(tiny, "float16").pipeline
    assert made.scheduler.config == read.scheduler.config
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        one, other = ({n: (v.shape, v.dtype) for n, v in getattr(p, part).state_dict().items()} for p in (made, read))
        assert one == other


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("offload", ["none", "model", "sequential"])
def test_files_on_cuda(tiny: Path, dtype: str, offload: str) -> None:
    load = partial(riebench.load, tiny, dtype=dtype, size=64)
    wanted, model = load(device="cpu"), load(device="cuda", offload=offload)
    for one, other in zip(*(m.generate(["a newt"] * 2, [1, 2], 2) for m in (wanted, model)), strict=True):
        assert np.abs(one.image.astype(int) - other.image).mean() < 4


@pytest.mark.cuda
def test_batches_are_halved_on_cuda(tiny: Path) -> None:
    model = riebench.load(tiny, device="cuda", size=512)
    model.batch = 64  # at 512 pixels their activations are far more than the weights
    asked = ["a newt"] * 64, list(range(64)), 1
    model.generate(*asked)
    most, total = torch.cuda.max_memory_allocated(), torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.6 * most / total)
    try:
        assert len(model.generate(*asked)) == 64
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert model.batch < 64
