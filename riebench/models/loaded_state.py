"""The state that a loaded model is in: the one it was loaded in, or a later one; and marks of SAEs."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from riebench.models.change_mark import ChangeMark
from riebench.models.devices import USER_WEIGHTS
from riebench.sae.layouts import outer_files
from riebench.util.tensor_bits import TensorBits

if TYPE_CHECKING:
    from riebench.sae.sae import SAE


class LoadedState:
    """The state of a loaded model.

    Args:
        watched: what the model is made of; see :class:`ChangeMark`.
        fingerprint: of the weights that were loaded.

    Attributes:
        changes: how often the model was found changed.
    """

    def __init__(self, watched: Any, fingerprint: str) -> None:
        self._loaded = self._mark = ChangeMark(watched)
        self._loaded_fingerprint = fingerprint
        self._fingerprint: str | None = fingerprint
        self._paused = 0
        self.changes = 0

    def follow(self, watched: Callable[[], Any], renew: Callable[[], None]) -> None:
        """Call ``renew`` if the model has changed since this function was last called.

        Args:
            watched: returns what the model is made of.
            renew: drops what the model keeps; the next call does so again if it raises.
        """
        if self._paused or not self._mark.changed():
            return
        mark = ChangeMark(watched())
        renew()
        self.changes += 1
        self._mark = mark
        self._fingerprint = self._loaded_fingerprint if mark.is_of_state(self._loaded) else None

    def settle(self, watched: Any) -> None:
        """Take what the model is made of now for the state that it was in, after its first call.

        Networks of diffusers make tables and buffers at their first call.

        Args:
            watched: what the model is made of.
        """
        mark = ChangeMark(watched)
        if self._mark is self._loaded:
            self._loaded = mark
        self._mark = mark

    def fingerprint(self, computed: Callable[[], str]) -> str:
        """The fingerprint of the weights as they are now; ``computed`` hashes changed ones."""
        if self._fingerprint is not None:
            return self._fingerprint
        fingerprint = f"{USER_WEIGHTS}{computed()}"
        if not self._mark.has_functions:  # what these refer to may change at any time
            self._fingerprint = fingerprint
        return fingerprint

    @property
    def own(self) -> bool:
        """Whether the weights are those that were loaded, and not a user's."""
        return self._fingerprint is not None and not self._fingerprint.startswith(USER_WEIGHTS)

    def __enter__(self) -> None:
        """Compare nothing inside the ``with`` statement."""
        self._paused += 1

    def __exit__(self, *error: object) -> None:
        self._paused -= 1


def sae_mark(sae: Path | SAE) -> Hashable:
    """A mark of an SAE, or of its folder's files, that differs after a change; taken without reading weights."""
    if not isinstance(sae, Path):
        tensors = [tensor for tensor in sae.state_dict(keep_vars=True).values() if tensor.numel()]
        return (
            id(sae),
            sae.k,
            tuple((id(tensor), tensor._version) for tensor in tensors),
            TensorBits(tensors, ()).read(),
        )
    try:
        files = [(str(file), file.stat()) for file in (*sae.iterdir(), *outer_files(sae))]
    except OSError:
        return None
    return tuple(sorted((name, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, s in files))
