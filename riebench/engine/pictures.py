"""A method that takes finished pictures in place of edited runs, so that any editor is scored beside the methods."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from riebench.methods import Observed, Plan, method
from riebench.pairs.edited_images import PicturedPair
from riebench.util.errors import PairError

WHERE = "pictures"


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
        file = seen.pair.file
        try:
            with Image.open(file) as picture:
                return _AsItIs(picture=np.asarray(picture.convert("RGB")))
        except FileNotFoundError:
            raise PairError(f"there is no picture {file.name} in {file.parent}", WHERE) from None
        except (OSError, UnidentifiedImageError, SyntaxError) as error:
            reason = str(error).splitlines()[0]
            raise PairError(f"{file.name} cannot be read as a picture ({reason})", WHERE) from None
