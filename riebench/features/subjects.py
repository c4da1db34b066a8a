"""What is judged: a dictionary with its site, or several sites whose features count as one set."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from riebench.models.devices import weights_fingerprint
from riebench.sae.dictionary import Dictionary
from riebench.util.errors import UserError

PROBES = 256


@dataclass(frozen=True)
class Subject:
    """Something to be judged.

    Attributes:
        name: as it is called in tables and file names.
        kind: ``sae``, ``dictionary`` or the name of a baseline.
        block: the site that it is about; baselines stand beside the SAEs of their block.
        parts: site to dictionary; features are counted through in this order. Only a baseline has several.
        config: what else is known of it, as the configuration of an SAE folder.
        reconstructs: whether its reconstruction says anything: plain coordinates are their own.
    """

    name: str
    kind: str
    block: str
    parts: Mapping[str, Dictionary]
    config: Mapping[str, Any] = field(default_factory=dict)
    reconstructs: bool = True

    def named_parts(self) -> dict[str, tuple[str, Dictionary]]:
        """A name for each part, none used twice among the subjects of a call, to its site and dictionary."""
        return {f"{id(self)} {site}": (site, dictionary) for site, dictionary in self.parts.items()}

    def feature(self, number: int) -> Feature:
        """The feature of a number."""
        for site, dictionary in self.parts.items():
            count = len(dictionary.W_dec)
            if number < count:
                return Feature(site, dictionary, number)
            number -= count
        raise IndexError(number)

    def fingerprint(self) -> str:
        """A short hash of what the dictionaries do."""
        return hashlib.sha256("".join(map(dictionary_fingerprint, self.parts.values())).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Feature:
    """One feature of a dictionary.

    Attributes:
        site: of the dictionary.
        dictionary: it.
        index: of the feature in it.
    """

    site: str
    dictionary: Dictionary
    index: int

    def direction(self) -> Tensor:
        """What it writes at code 1 ``[d]``."""
        return self.dictionary.W_dec[self.index]


def dictionary_fingerprint(dictionary: Dictionary) -> str:
    """A short hash of a dictionary: its directions, its parameters if it is a module, its codes of fixed vectors."""
    directions = dictionary.W_dec
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(PROBES, directions.shape[1], generator=generator).to(directions)
    with torch.no_grad():
        codes = dictionary.encode(probe)
        tensors = [directions, codes, dictionary.decode(codes)]
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    if isinstance(dictionary, torch.nn.Module):
        digest.update(weights_fingerprint(dictionary).encode())
    return digest.hexdigest()[:16]


def check_dictionary(name: str, site: str, width: int, dictionary: Any) -> None:
    """See that an object is a dictionary for a site.

    Raises:
        UserError: if it lacks something, has another width than the site, holds or gives numbers that are not finite,
            or gives tensors of other shapes.
    """
    missing = [part for part in ("encode", "decode", "W_dec") if not hasattr(dictionary, part)]
    if missing:
        raise UserError(f"{name} is no dictionary: it has no {missing[0]}; expected encode, decode and W_dec [n, d]")
    directions = dictionary.W_dec
    if not isinstance(directions, Tensor) or directions.ndim != 2 or not len(directions):
        raise UserError(f"W_dec of {name} is no matrix; expected a tensor [n, d]")
    if directions.shape[1] != width:
        raise UserError(
            f"{name} is {directions.shape[1]} wide, the values at {site} are {width} wide; name its site with --site"
        )
    if not bool(directions.isfinite().all()):
        raise UserError(f"W_dec of {name} has numbers that are not finite; save the dictionary again")
    for several in ((2,), (2, 3)):
        _try(name, dictionary, torch.ones(*several, width, device=directions.device), len(directions))


def _try(name: str, dictionary: Dictionary, x: Tensor, features: int) -> None:
    """See that a dictionary encodes and decodes vectors ``[..., d]`` (UserError)."""
    try:
        with torch.no_grad():
            codes = dictionary.encode(x)
            rebuilt = dictionary.decode(codes)
            shapes = [list(codes.shape), list(rebuilt.shape)]
            finite = bool(codes.isfinite().all() and rebuilt.isfinite().all())
    except Exception as error:  # noqa: BLE001 - a stranger's code may raise anything
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{name} cannot encode and decode vectors of float32 {list(x.shape)} ({said})") from None
    wanted = [[*x.shape[:-1], features], list(x.shape)]
    if shapes != wanted:
        raise UserError(
            f"{name} makes of vectors {wanted[1]} codes {shapes[0]} and of these vectors {shapes[1]}; expected codes "
            f"{wanted[0]} and vectors {wanted[1]}"
        )
    if not finite:
        raise UserError(f"{name} gives codes or reconstructions that are not finite; check it")
