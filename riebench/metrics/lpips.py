"""LPIPS (Zhang et al., 2018) by the lpips package, with each picture's features computed once."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from pickle import UnpicklingError

import lpips
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from riebench.util.batches import in_batches
from riebench.util.errors import UserError

Image = NDArray[np.uint8]
Features = list[Tensor]


class LpipsScorer:
    """Distances of pictures, whole and by region.

    Args:
        name: how the metric is called wherever it is shown; only the published trunk is plain ``lpips``.
        trunk: file with the trunk's convolutions under torchvision's names, safetensors or torchvision's own ``.pth``.
        fingerprint: names the weights in records.
        net: the trunk, ``alex``, ``vgg`` or ``squeeze``; its linear layers (v0.1) come with the lpips package.
        device: where it runs.
        batch: pictures in one pass at most.

    Raises:
        UserError: if the file does not hold the trunk.
    """

    def __init__(
        self,
        name: str,
        trunk: Path,
        fingerprint: str,
        net: str = "alex",
        device: torch.device | str = "cpu",
        batch: int = 32,
    ) -> None:
        self.name = name
        self.fingerprint = fingerprint
        self.batch = batch
        self.device = torch.device(device)
        # The package prints what it loads, and torchvision warns of how the package calls it.
        with redirect_stdout(StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
        try:
            self._load_trunk(read_trunk(trunk))
        except (OSError, KeyError, RuntimeError, ValueError, AttributeError, UnpicklingError, SafetensorError) as error:
            said = str(error).strip().splitlines()[0]
            raise UserError(f"{trunk} does not hold the trunk {net!r} of LPIPS: {said}") from None
        self.model.to(self.device).eval().requires_grad_(False)

    def _load_trunk(self, state: dict[str, Tensor]) -> None:
        # The package cuts torchvision's layers into slices and keeps each layer's number as its name.
        for slice_ in (getattr(self.model.net, f"slice{i + 1}") for i in range(self.model.net.N_slices)):
            for number, layer in slice_.named_children():
                for name, parameter in layer.named_parameters():
                    given = state[f"{number}.{name}"]
                    if given.shape != parameter.shape:
                        shapes = f"{list(given.shape)}, expected {list(parameter.shape)}"
                        raise ValueError(f"features.{number}.{name} has the shape {shapes}")
                    parameter.data.copy_(given)

    @torch.no_grad()
    def features(self, images: Sequence[Image]) -> list[Features]:
        """For each picture ``[height, width, 3]`` its unit-length features, one ``[channels, h, w]`` a layer."""

        def work(rows: slice) -> list[Features]:
            part = torch.from_numpy(np.stack(images[rows])).to(self.device).permute(0, 3, 1, 2).float()
            part.div_(127.5).sub_(1)
            layers = [lpips.normalize_tensor(f) for f in self.model.net(self.model.scaling_layer(part))]
            return [[layer[i] for layer in layers] for i in range(len(part))]

        return in_batches(self, len(images), work)

    @torch.no_grad()
    def layers(self, a: Features, b: Features) -> list[Tensor]:
        """Weighted squared difference of each layer, ``[h, w]``."""
        lins = self.model.lins
        return [lin((x - y).square()[None])[0, 0] for lin, x, y in zip(lins, a, b, strict=True)]

    def totals(self, pictures: Sequence[Sequence[Tensor]]) -> list[float]:
        """The published distance from the difference of each layer ``[h, w]``: means over positions, summed."""
        return [float(sum(layer.cpu().double().mean() for layer in layers)) for layers in pictures]

    def means_by_region(
        self, pictures: Sequence[Sequence[Tensor]], region: NDArray[np.bool_]
    ) -> tuple[Sequence[float | None], Sequence[float | None]]:
        """Means of each picture's distance map inside a region ``[height, width]`` and outside it; null where empty.

        A picture's map is the sum of its layers' differences ``[h, w]``, each brought to the size of the region.
        """
        by_layer = [torch.stack(layers)[:, None] for layers in zip(*pictures, strict=True)]
        maps = sum(lpips.upsample(layer, out_HW=region.shape)[:, 0] for layer in by_layer).cpu()
        parts = [maps[:, torch.from_numpy(part)].double() for part in (region, ~region)]
        inside, outside = (part.mean(1).tolist() if part.shape[1] else [None] * len(pictures) for part in parts)
        return inside, outside


def read_trunk(path: Path) -> dict[str, Tensor]:
    """Tensors of a trunk's convolutions, without torchvision's prefix ``features``."""
    if path.suffix == ".safetensors":
        state = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    return {name.removeprefix("features."): value for name, value in state.items()}
