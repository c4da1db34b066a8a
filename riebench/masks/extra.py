"""The optional packages of Grounded SAM 2, imported only when it is asked for."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from riebench.util.errors import UserError

INSTALL = 'SAM2_BUILD_CUDA=0 pip install --no-build-isolation "riebench[gsam]"'
HEADLESS = "pip uninstall -y opencv-python && pip install --force-reinstall --no-deps opencv-python-headless"


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the warnings of other libraries, and of transformers' log, that these packages cause by deprecated names."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)


def gsam_module(name: str) -> Any:
    """A module of groundingdino, sam2 or what they need.

    Raises:
        UserError: if a package is not installed, or if OpenCV lacks a library of the system.
    """
    try:
        with quiet():
            return import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(f"Grounded SAM 2 needs the package {error.name!r}, which is not here; run: {INSTALL}") from None
    except ImportError as error:
        # OpenCV is the one part that wants libraries which a server may not have.
        raise UserError(f"Grounded SAM 2 cannot start ({error}); if a system library is missing: {HEADLESS}") from None
