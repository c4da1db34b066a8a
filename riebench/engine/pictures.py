"""A method that takes finished pictures in place of edited runs, so that any editor is scored beside the methods."""

import numpy as np
from numpy.typing import NDArray

from riebench.methods import Observed, Plan, method
from riebench.pairs.edited_images import PicturedPair
from riebench.pairs.picture_file import WHERE, read_picture
from riebench.records.schema import PICTURE_CHANGES, PICTURE_FORMAT
from riebench.util.errors import PairError


class _AsItIs(Plan):
    """A finished picture, which strength does not change."""

    def blended(self, base: NDArray[np.uint8], strength: float) -> NDArray[np.uint8]:
        assert self.picture is not None
        return self.picture


@method("pictures")
class Pictures:
    """The picture of the pair, recorded under the name of the editor that made it."""

    name: str

    @property
    def record_name(self) -> str:
        """The name in records."""
        return self.name

    def plan(self, seen: Observed) -> Plan:
        assert isinstance(seen.pair, PicturedPair)
        picture = read_picture(seen.pair.file)
        if picture.identity != seen.pair.picture:
            raise PairError(f"{seen.pair.file.name} has changed since the run began; give the command again", WHERE)
        notes = {PICTURE_FORMAT: picture.format} | ({PICTURE_CHANGES: picture.changes} if picture.changes else {})
        return _AsItIs(picture=picture.pixels, notes=notes)
