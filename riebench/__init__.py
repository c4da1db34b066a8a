"""riebench: a benchmark of representation-based image editing in text-to-image diffusion models."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("riebench")
except PackageNotFoundError:  # run from a bare checkout
    __version__ = "0+unknown"
