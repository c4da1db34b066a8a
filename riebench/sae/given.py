"""An SAE that is an object in Python: one of ours, one of another library's, or any with ``encode`` and ``decode``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from riebench.sae.sae import SAE, at_least_float32
from riebench.sae.saelens import HONOURED, OF_TRANSCODERS, TRANSCODER
from riebench.util.errors import UserError

PROBES, CHUNK = 32, 512
"""Random vectors on which an object is tried; codes that are decoded at once."""
AMPLE = {torch.float16: 256.0, torch.bfloat16: 256.0}
"""The code at which a direction is measured in half precision, so that the bias does not round it away; else 1."""
LOUD = 1000
"""A factor by which vectors pass any threshold, so that more than k features are active unless k is their limit."""
CLOSE = {torch.float32: 1e-3, torch.float64: 1e-3}
"""The relative difference of two results that are to be the same; half precision, which has ties, has :data:`ROUGH`."""
ROUGH = 0.2


class GivenSAE(SAE):
    """An object with ``encode`` (vectors ``[m, d]`` to codes ``[m, n]``) and ``decode``, which is affine.

    It computes on its own device and in its own type; results are at least float32, on the device of the vectors.
    Where its codes have signs, features ``n..2n-1`` are its features below zero. A transcoder may have a matrix
    ``W_skip [d, d]`` that its own call applies to its input.

    Args:
        given: the object.
        width: d.
        name: of the object, for messages.

    Raises:
        UserError: if it lacks something, fails, gives numbers that are not finite or tensors of other
            shapes, or if its codes or reconstructions are of another kind than that of an SAE.
    """

    def __init__(self, given: Any, width: int, name: str) -> None:
        super().__init__()
        for part in ("encode", "decode"):
            if not callable(getattr(given, part, None)):
                raise UserError(
                    f"{name} is a {type(given).__name__} without {part}; expected the folder of an SAE, an SAE of "
                    "riebench, or an object with encode and decode"
                )
        refuse_unhonoured(given, name)
        self.transcodes = is_transcoder(given)
        self.given, self.name, self._width, self._signed = given, name, width, False
        weights = [t for t in (*_tensors(given), getattr(given, "W_dec", None)) if isinstance(t, Tensor)]
        weight = next((t for t in weights if t.is_floating_point()), torch.zeros(()))
        self._dtype, self._tried_on = weight.dtype, weight.device
        self._measured: tuple[Any, Tensor] | None = None
        self.kind, self.k = type(given).__name__, None
        self._try()

    def _try(self) -> None:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(PROBES, self._width, generator=generator).to(self._tried_on)
        try:
            codes, rebuilt = self._tried(x)
            alone = self._encoded(x[:1])
            again = self._decoded(codes)  # after other vectors were encoded
        except UserError:
            raise
        except Exception as error:  # noqa: BLE001 - a stranger's code may raise anything
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(f"{self.name} cannot encode and decode vectors {list(x.shape)} ({reason})") from None
        if not self._alike(codes[:1], alone):
            raise UserError(
                f"{self.name} encodes a vector otherwise in a batch than alone, as in training; save its form for "
                "inference"
            )
        if bool(codes.any()) and self._alike(codes, self._encoded(2 * x)):
            raise UserError(
                f"{self.name} gives vectors of twice the length the same codes, as an SAE of normalised values; "
                "expected one of the values themselves"
            )
        if not self._alike(rebuilt, again):
            raise UserError(f"{self.name} decodes by what it encoded before, not by codes alone; switch that off")
        self._signed = bool((codes < 0).any())
        codes = self._split(codes)
        self._features = codes.shape[-1]
        affine = codes @ self.W_dec + self._decoded(self._joined(torch.zeros_like(codes[:1])))
        if not self._alike(rebuilt, affine):
            raise UserError(
                f"{self.name} decodes not by a sum of directions; expected codes times a matrix plus a bias"
            )
        self._refuse_another_call(x, codes)
        active = int((self._split(self._encoded(LOUD * x)) > 0).sum(-1).max())
        for holder in (self.given, getattr(self.given, "cfg", None)):
            k = getattr(holder, "k", None)
            k = k.item() if isinstance(k, Tensor) and k.numel() == 1 else k
            if isinstance(k, int) and not isinstance(k, bool) and active <= k:
                self.k = k

    def _refuse_another_call(self, x: Tensor, codes: Tensor) -> None:
        """Refuse a transcoder whose own call gives something else than its decoder and ``W_skip`` do (UserError)."""
        if not self.transcodes or not callable(self.given):
            return
        try:
            with torch.no_grad():
                whole = self.given(x.to(self._dtype))
        except Exception:  # noqa: BLE001 - as in _try
            whole = None
        if not isinstance(whole, Tensor) or not self._alike(at_least_float32(whole), self.rebuild(x, codes)):
            raise UserError(
                f"{self.name} is a transcoder whose call gives something else than what it decodes and W_skip [d, d] "
                "make; give it as the folder that its library saves"
            )

    def _tried(self, x: Tensor) -> tuple[Tensor, Tensor]:
        before = x.clone()
        codes = self._encoded(x)
        if not torch.equal(x, before):
            raise UserError(f"{self.name} changes in place the vectors that it encodes; let it change a copy")
        if not isinstance(codes, Tensor) or codes.ndim != 2 or len(codes) != len(x):
            shape = list(codes.shape) if isinstance(codes, Tensor) else f"a {type(codes).__name__}"
            raise UserError(
                f"{self.name} makes {shape} of vectors {list(x.shape)}; expected a tensor of codes [m, n]: give the "
                "folder that its library saves, or an object around it whose encode returns its codes alone"
            )
        rebuilt = self._decoded(codes)
        if rebuilt.shape != x.shape:
            raise UserError(
                f"{self.name} makes vectors {list(rebuilt.shape)} of the codes {list(codes.shape)} of vectors "
                f"{list(x.shape)}; expected vectors of the same shape"
            )
        if not bool(codes.isfinite().all() and rebuilt.isfinite().all()):
            raise UserError(f"{self.name} gives codes or reconstructions that are not finite; check it")
        return codes, rebuilt

    def _alike(self, one: Tensor, other: Tensor) -> bool:
        most = CLOSE.get(self._dtype, ROUGH)
        return float((one - other).norm()) <= most * max(float(one.norm()), 1e-6)

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self._features

    @property
    def d_model(self) -> int:
        """Width of the vectors."""
        return self._width

    @property
    def device(self) -> torch.device:
        """Where the object computes."""
        tensors = _tensors(self.given)
        return tensors[0].device if tensors else self._tried_on

    @property
    def W_dec(self) -> Tensor:
        """What each feature adds to the reconstruction at code 1 ``[n, d]``; measured anew after the weights change."""
        mark = (self.device, *((id(tensor), tensor._version) for tensor in _tensors(self.given)))
        if self._measured is None or self._measured[0] != mark:
            n, device, code = self._features, self.device, AMPLE.get(self._dtype, 1.0)
            zero = self._decoded(self._joined(torch.zeros(1, n, device=device)))
            chunks = torch.arange(n, device=device).split(CHUNK)
            rows = [
                self._decoded(self._joined(code * torch.nn.functional.one_hot(chunk, n).float())) - zero
                for chunk in chunks
            ]
            self._measured = mark, torch.cat(rows) / code
        return self._measured[1]

    def codes(self, x: Tensor) -> Tensor:
        """Codes ``[..., n]`` of vectors ``[..., d]``."""
        rows = self._split(self._encoded(x.reshape(-1, self._width)))
        return rows.reshape(*x.shape[:-1], self._features)

    def decode(self, z: Tensor) -> Tensor:
        """Reconstruction ``[..., d]`` of codes ``[..., n]``."""
        rows = self._decoded(self._joined(z.reshape(-1, self._features)))
        return rows.reshape(*z.shape[:-1], self._width)

    def kept_numbers(self) -> list[str]:
        """The numbers and tensors that the object keeps, as a threshold or k; tensors by their hash."""
        numbers: list[str] = []
        for name, value in _kept(self.given):
            if isinstance(value, Tensor):
                values = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
                numbers.append(f"{name} {hashlib.sha256(values.numpy().data).hexdigest()[:16]}")
            else:
                numbers.append(f"{name} {value}")
        return sorted(numbers)

    def rebuild(self, x: Tensor, codes: Tensor) -> Tensor:
        """See :class:`SAE`."""
        rebuilt, skip = self.decode(codes), getattr(self.given, "W_skip", None)
        if not self.transcodes or not isinstance(skip, Tensor):
            return rebuilt
        return rebuilt + x.to(rebuilt) @ skip.detach().to(rebuilt).T

    def _split(self, codes: Tensor) -> Tensor:
        return torch.cat([codes, -codes], -1).relu() if self._signed else codes

    def _joined(self, codes: Tensor) -> Tensor:
        if not self._signed:
            return codes
        above, below = codes.chunk(2, -1)
        return above - below

    @torch.no_grad()
    def _encoded(self, x: Tensor) -> Tensor:
        codes = self.given.encode(x.to(self.device, self._dtype))
        if not isinstance(codes, Tensor):
            return codes  # refused by the caller
        return at_least_float32(codes.to_dense() if codes.is_sparse else codes)

    @torch.no_grad()
    def _decoded(self, codes: Tensor) -> Tensor:
        return at_least_float32(self.given.decode(codes.to(self.device, self._dtype)))


def as_sae(given: Any, width: int, name: str) -> SAE:
    """An object as an SAE of vectors of a width: itself, or a :class:`GivenSAE` around it.

    Raises:
        UserError: if it can be none.
    """
    if isinstance(given, SAE):
        for tensor_name, tensor in given.state_dict().items():
            if not bool(tensor.isfinite().all()):
                raise UserError(f"{tensor_name} of {name} has numbers that are not finite; train it anew")
        return given
    return GivenSAE(given, width, name)


def trained_on(given: Any) -> str | None:
    """The module on whose values an object says that it was trained, as SAELens' own do; None where it does not."""
    config = getattr(given, "cfg", None)
    holders = (getattr(config, "metadata", None), config)
    keys = ("hook_name_out", "hook_name")  # a transcoder is used where it writes
    names = (getattr(holder, key, None) for holder in holders for key in keys)
    return next((name for name in names if isinstance(name, str) and name), None)


def is_transcoder(given: Any) -> bool:
    """Whether an object is a transcoder, as ``transcodes`` or its configuration says."""
    config = getattr(given, "cfg", None)
    architecture = getattr(config, "architecture", "")
    architecture = architecture() if callable(architecture) else architecture
    return (
        getattr(given, "transcodes", False) is True
        or getattr(config, "transcode", False) is True
        or (isinstance(architecture, str) and architecture.endswith(TRANSCODER))
    )


def refuse_unhonoured(given: Any, name: str) -> None:
    """Refuse an object whose configuration says what its ``encode`` and ``decode`` do not do; files are refused, too.

    Raises:
        UserError: if it was trained on normalised values, or states what transcoders alone have and is none.
    """
    config = getattr(given, "cfg", None)
    normalised = getattr(config, "normalize_activations", None)
    if normalised not in HONOURED["normalize_activations"]:
        raise UserError(
            f"normalize_activations of {name} is {normalised!r}, expected 'none'; fold it into the weights, as its "
            "library does"
        )
    for key in sorted(OF_TRANSCODERS) if not is_transcoder(given) else ():
        stated = [getattr(holder, key, None) for holder in (config, getattr(config, "metadata", None))]
        value = next((value for value in stated if value is not None), None)
        if value is not None:
            raise UserError(
                f"{key} of {name} is {value!r}, as of a transcoder, but it does not say that it is one; set its "
                "transcodes to True, or remove the key"
            )


def _tensors(given: Any) -> list[Tensor]:
    """The tensors of a module, or those that another object and the objects and modules in it keep."""
    if isinstance(given, nn.Module):
        return [*given.state_dict(keep_vars=True).values()]
    return [value for _, value in _kept(given) if isinstance(value, Tensor)]


def _kept(holder: Any) -> list[tuple[str, Tensor | float]]:
    """The numbers and tensors that an object keeps, in it and in the objects that it holds, with their names."""
    kept: list[tuple[str, Tensor | float]] = []
    holders, seen = [("", holder)], {id(holder)}
    while holders:
        path, holder = holders.pop()
        for name, value in _attributes(holder).items():
            if isinstance(value, Tensor | int | float):
                kept += [] if name == "training" else [(f"{path}{name}", value)]
            elif id(value) not in seen:
                seen.add(id(value))
                holders.append((f"{path}{name}.", value))
    return kept


def _attributes(holder: Any) -> dict[str, Any]:
    """What an object, a list or a dictionary holds, by name; nothing of functions, classes and Python's modules."""
    if isinstance(holder, Mapping):
        return {str(name): value for name, value in holder.items()}
    if isinstance(holder, list | tuple):
        return {str(number): value for number, value in enumerate(holder)}
    if isinstance(holder, type | FunctionType | MethodType | ModuleType):
        return {}
    return getattr(holder, "__dict__", {})
