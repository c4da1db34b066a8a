"""Run by the Python that has a library of SAEs: save SAEs of each of its kinds by its own call, with what it computes.

    python saes_side.py LIBRARY FOLDER

``FOLDER/LIBRARY-CASE`` then holds the SAE below ``mid.0`` and ``expected.safetensors``: vectors ``x``, the library's
``codes`` and its reconstruction ``rebuilt``, computed by an SAE that the library has read from these files. SAELens
also reads the SAEs that ``compare_saes.py --make`` has trained, ``FOLDER/ours-KIND``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

D, N, K = 6, 12, 3
Case = tuple[str, Callable[[Path], Any], Callable[[Any, Tensor], tuple[Tensor, Tensor]]]
"""Its name, a function that saves and reads an SAE below a folder, and one that gives its codes and reconstruction."""


def at_random(sae: Any) -> Any:
    """Give an SAE's parameters random values, a threshold small positive ones."""
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            parameter.copy_(torch.randn(parameter.shape) / 2)
            if name == "threshold":
                parameter.abs_()
    return sae


def usual(sae: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    codes = sae.encode(x)
    return codes, sae.decode(codes)


def whole(sae: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """The codes and the reconstruction of a transcoder, whose call may add a linear term."""
    return sae.encode(x), sae(x)


def saelens() -> Iterator[Case]:
    from sae_lens import SAE, TrainingSAE
    from sae_lens.registry import get_sae_class, get_sae_training_class

    def inference(architecture: str, **more: Any) -> Callable[[Path], Any]:
        def make(folder: Path) -> Any:
            sae_class, config_class = get_sae_class(architecture)
            at_random(sae_class(config_class(d_in=D, d_sae=N, **more))).save_model(folder)
            return SAE.load_from_disk(folder, device="cpu", dtype="float32")

        return make

    def trained(architecture: str, for_inference: bool, **more: Any) -> Callable[[Path], Any]:
        def make(folder: Path) -> Any:
            sae_class, config_class = get_sae_training_class(architecture)
            sae = at_random(sae_class(config_class(d_in=D, d_sae=N, **more)))
            if hasattr(sae, "topk_threshold"):
                sae.topk_threshold.fill_(0.7)
            if for_inference:
                sae.save_inference_model(folder)
                return SAE.load_from_disk(folder, device="cpu")
            sae.save_model(folder)
            if "batchtopk" not in architecture:
                return SAE.load_from_disk(folder, device="cpu")
            with TemporaryDirectory() as beside:
                TrainingSAE.load_from_disk(folder, device="cpu").save_inference_model(beside)
                return SAE.load_from_disk(beside, device="cpu")

        return make

    raw = {"apply_b_dec_to_input": False}
    yield "topk", inference("topk", k=K), usual
    yield "topk-raw", inference("topk", k=K, rescale_acts_by_decoder_norm=True, **raw), usual
    yield "standard", inference("standard"), usual
    yield "jumprelu", inference("jumprelu"), usual
    yield "jumprelu-raw", inference("jumprelu", **raw), usual
    yield "jumprelu-bfloat16", inference("jumprelu", dtype="bfloat16"), usual
    yield "gated", inference("gated"), usual
    yield "gated-raw", inference("gated", **raw), usual
    yield "abstopk", inference("abstopk", k=K), usual
    for architecture in ("topk", "batchtopk", "matryoshka_batchtopk", "jumprelu", "gated", "standard", "abstopk"):
        more: dict[str, Any] = {"k": K} if "topk" in architecture else {}
        if architecture == "matryoshka_batchtopk":
            more["matryoshka_widths"] = [4, N]
        yield f"trained-{architecture}", trained(architecture, for_inference=False, **more), usual
        yield f"inference-{architecture}", trained(architecture, for_inference=True, **more), usual
    for kind in ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"):
        yield kind, inference(kind, d_out=D, **raw), whole


def dictionary_learning() -> Iterator[Case]:
    from dictionary_learning import dictionary, utils
    from dictionary_learning.trainers import batch_top_k, matryoshka_batch_top_k, top_k

    def saved(
        make: Callable[[], Any], with_config: bool, buffer: dict[str, str] | None = None, **trainer: Any
    ) -> Callable[[Path], Any]:
        def save(folder: Path) -> Any:
            folder = folder / "trainer_0"  # as its training names it
            folder.mkdir(parents=True)
            sae = at_random(make())
            if "threshold" in dict(sae.named_buffers()):
                sae.threshold.fill_(0.4)
            torch.save(sae.state_dict(), folder / "ae.pt")
            config = {"trainer": {"dict_class": type(sae).__name__, "activation_dim": D, "dict_size": N, **trainer}}
            more = {} if buffer is None else {"buffer": buffer}
            (folder / "config.json").write_text(json.dumps(config | more))
            read, _ = utils.load_dictionary(str(folder), "cpu")
            if not with_config:
                (folder / "config.json").unlink()
            return read

        return save

    several = {
        "AutoEncoder": lambda: dictionary.AutoEncoder(D, N),
        "AutoEncoderNew": lambda: dictionary.AutoEncoderNew(D, N),
        "GatedAutoEncoder": lambda: dictionary.GatedAutoEncoder(D, N),
        "JumpReluAutoEncoder": lambda: dictionary.JumpReluAutoEncoder(D, N),
        "MatryoshkaBatchTopKSAE": lambda: matryoshka_batch_top_k.MatryoshkaBatchTopKSAE(D, N, K, [4, 8]),
    }
    for name, make in several.items():
        trainer = {"k": K} if "TopK" in name else {}
        yield name, saved(make, with_config=True, **trainer), usual
        yield f"{name}-bare", saved(make, with_config=False, **trainer), usual
    yield "BatchTopKSAE", saved(lambda: batch_top_k.BatchTopKSAE(D, N, K), with_config=True, k=K), usual
    for name in ("AutoEncoder", "JumpReluAutoEncoder"):
        both = {"io": "in_and_out"}  # as its buffer states for a transcoder
        yield f"{name}-transcoder", saved(several[name], with_config=True, buffer=both), usual
    yield "AutoEncoderTopK", saved(lambda: top_k.AutoEncoderTopK(D, N, K), with_config=True, k=K), usual


def sparsify() -> Iterator[Case]:
    from sparsify import SparseCoder, SparseCoderConfig

    def saved(**config: Any) -> Callable[[Path], Any]:
        def make(folder: Path) -> Any:
            sae = SparseCoder(D, SparseCoderConfig(num_latents=N, k=K, **config))
            at_random(sae).save_to_disk(folder)
            return SparseCoder.load_from_disk(folder)

        return make

    def of_pairs(sae: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        values, indices, _ = sae.encode(x)
        return torch.zeros(len(x), N).scatter(1, indices, values), sae.decode(values, indices)

    yield "topk", saved(), of_pairs
    yield "groupmax", saved(activation="groupmax"), of_pairs

    def transcoded(sae: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        codes, _ = of_pairs(sae, x)
        return codes, sae(x).sae_out

    yield "transcoder", saved(transcode=True), transcoded
    yield "skip-transcoder", saved(transcode=True, skip_connection=True), transcoded
    yield "groupmax-transcoder", saved(transcode=True, activation="groupmax"), transcoded


def overcomplete() -> Iterator[Case]:
    # Left out: parts beside its SAEs that need a torchvision for this PyTorch and an old matplotlib.
    for name in ("models", "visualization"):
        left_out = sys.modules[f"overcomplete.{name}"] = ModuleType(name)
        left_out.__getattr__ = lambda name: None  # type: ignore[method-assign]
    from overcomplete.sae import SAE, BatchTopKSAE, JumpSAE, TopKSAE

    def saved(
        sae_class: Any, whole: bool = True, evaluating: bool = True, tied: bool = False, **more: Any
    ) -> Callable[[Path], Any]:
        def make(folder: Path) -> Any:
            folder.mkdir(parents=True)
            sae = sae_class(D, N, **more)
            sae = at_random(sae.tied(bias=True) if tied else sae)
            if sae_class is BatchTopKSAE:
                sae.running_threshold = torch.tensor(0.5)
            if evaluating:
                sae.eval()
            if whole:
                torch.save(sae, folder / "sae.pt")
            else:
                torch.save(sae.state_dict(), folder / "sae.pt")
                config = {"class": sae_class.__name__, "normalization": "l2", "top_k": getattr(sae, "top_k", None)}
                (folder / "config.json").write_text(json.dumps(config))
            return sae.eval()

        return make

    def of_pairs(sae: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        _, codes = sae.encode(x)
        return codes, sae.decode(codes)

    multiplied = {"dictionary_params": {"use_multiplier": True}}
    yield "TopKSAE", saved(TopKSAE, top_k=K), of_pairs
    yield "TopKSAE-training", saved(TopKSAE, evaluating=False, top_k=K, **multiplied), of_pairs
    yield "TopKSAE-state", saved(TopKSAE, whole=False, top_k=K), of_pairs
    yield "TopKSAE-tied", saved(TopKSAE, tied=True, top_k=K), of_pairs
    yield "TopKSAE-tied-state", saved(TopKSAE, whole=False, tied=True, top_k=K), of_pairs
    yield "BatchTopKSAE", saved(BatchTopKSAE, top_k=K), of_pairs
    yield "JumpSAE", saved(JumpSAE), of_pairs
    yield "SAE", saved(SAE, **multiplied), of_pairs


LIBRARIES = {
    "sae-lens": saelens,
    "dictionary-learning": dictionary_learning,
    "eai-sparsify": sparsify,
    "overcomplete": overcomplete,
}


def main(library: str, root: Path) -> None:
    """Save the SAEs of a library below a folder."""
    torch.manual_seed(1)
    for name, make, compute in LIBRARIES[library]():
        case = root / f"{library}-{name}"
        write_expected(case, make(case / "mid.0"), torch.randn(40, D) * 2, compute)
    for case in root.glob("ours-*") if library == "sae-lens" else ():
        from sae_lens import SAE

        x = load_file(case / "x.safetensors")["x"]
        write_expected(case, SAE.load_from_disk(case / "mid.0", device="cpu"), x, usual)


def write_expected(case: Path, sae: Any, x: Tensor, compute: Callable[[Any, Tensor], tuple[Tensor, Tensor]]) -> None:
    """Write what an SAE computes of vectors ``[m, d]``."""
    with torch.no_grad():
        codes, rebuilt = compute(sae, x)
    expected = {"x": x, "codes": codes.float(), "rebuilt": rebuilt.float()}
    save_file({key: tensor.contiguous() for key, tensor in expected.items()}, case / "expected.safetensors")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
