"""LPIPS (Zhang et al., 2018) by the lpips package; the features of each picture are computed once."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers.initialization import no_init_weights

from riebench.util.batches import in_batches
from riebench.util.errors import UserError
from riebench.util.lean_imports import lean_imports

with lean_imports():
    import lpips

Image = NDArray[np.uint8]
Features = list[Tensor]


class LpipsScorer:
    """LPIPS distances of pictures, whole and by region.

    Args:
        name: name of the metric in records and tables; only the published trunk is plain ``lpips``.
        trunk: file with the trunk's convolutions under torchvision's names, safetensors or torchvision's own ``.pth``.
        fingerprint: names the weights in records.
        net: the trunk, ``alex``, ``vgg`` or ``squeeze``; its linear layers (v0.1) come with the lpips package.
        device: device of the network.
        batch: largest number of pictures in one pass.

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
        # The package prints what it loads, and torchvision warns of how the package calls it. The random weights that
        # files replace are not drawn: those of AlexNet's classifier, which LPIPS leaves out, alone take a second.
        with redirect_stdout(StringIO()), warnings.catch_warnings(), no_init_weights():
            warnings.simplefilter("ignore")
            self.model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
        try:
            self._load_trunk(read_trunk(trunk))
        except (OSError, KeyError, RuntimeError, ValueError, AttributeError, UnpicklingError, SafetensorError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"{trunk} does not hold the trunk {net!r} of LPIPS: {reason}") from None
        self.model.to(self.device).eval().requires_grad_(False)

    def _load_trunk(self, state: dict[str, Tensor]) -> None:
        # The package cuts torchvision's layers into slices and keeps each layer's number as its name.
        for slice_ in (getattr(self.model.net, f"slice{i + 1}") for i in range(self.model.net.N_slices)):
            for number, layer in slice_.named_children():
                for name, parameter in layer.named_parameters():
                    weights = state[f"{number}.{name}"]
                    if weights.shape != parameter.shape:
                        shapes = f"{list(weights.shape)}, expected {list(parameter.shape)}"
                        raise ValueError(f"features.{number}.{name} has the shape {shapes}")
                    parameter.data.copy_(weights)

    @torch.no_grad()
    def features(self, images: Sequence[Image]) -> list[Features]:
        """Unit-length features of each picture ``[height, width, 3]``: one ``[channels, h, w]`` for each layer."""

        def work(rows: slice) -> list[Features]:
            part = torch.from_numpy(np.stack(images[rows])).to(self.device).permute(0, 3, 1, 2).float()
            part.div_(127.5).sub_(1)
            layers = [lpips.normalize_tensor(f) for f in self.model.net(self.model.scaling_layer(part))]
            return [[layer[i] for layer in layers] for i in range(len(part))]

        return in_batches(self, len(images), work)

    @torch.no_grad()
    def layers(self, a: Features, b: Features) -> list[Tensor]:
        """Weighted squared difference ``[h, w]`` of each layer."""
        lins = self.model.lins
        return [lin((x - y).square()[None])[0, 0] for lin, x, y in zip(lins, a, b, strict=True)]

    def totals(self, pictures: Sequence[Sequence[Tensor]]) -> list[float]:
        """The published distance of each picture: means of its layers' differences ``[h, w]``, summed."""
        return [float(sum(layer.cpu().double().mean() for layer in layers)) for layers in pictures]

    def means_by_region(
        self, pictures: Sequence[Sequence[Tensor]], region: NDArray[np.bool_]
    ) -> tuple[Sequence[float | None], Sequence[float | None]]:
        """Means of each picture's distance map inside a region ``[height, width]`` and outside it; None where empty.

        The map of a picture is the sum of its layers' differences ``[h, w]``, each resized to the region.
        """
        by_layer = [torch.stack(layers)[:, None] for layers in zip(*pictures, strict=True)]
        maps = sum(lpips.upsample(layer, out_HW=region.shape)[:, 0] for layer in by_layer).cpu()
        parts = [maps[:, torch.from_numpy(part.copy())].double() for part in (region, ~region)]
        inside, outside = (part.mean(1).tolist() if part.shape[1] else [None] * len(pictures) for part in parts)
        return inside, outside


def read_trunk(path: Path) -> dict[str, Tensor]:
    """Tensors of a trunk's convolutions, without torchvision's prefix ``features``."""
    if path.suffix == ".safetensors":
        state = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    return {name.removeprefix("features."): value for name, value in state.items()}
