"""Pictures from elsewhere in the place of edited runs, so that any editor can be scored beside the methods."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from riebench.methods import Observed, Plan, method
from riebench.pairs.edited_images import PicturedPair
from riebench.util.errors import PairError

WHERE = "pictures"


class _AsItIs(Plan):
    """A picture that is done already: strength says what it was made with, and changes nothing."""

    def blended(self, base: NDArray[np.uint8], strength: float) -> NDArray[np.uint8]:
        assert self.picture is not None
        return self.picture


@method("pictures")
class Pictures:
    """The picture that belongs to the pair, under a name of its own."""

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
            said = str(error).splitlines()[0]
            raise PairError(f"{file.name} cannot be read as a picture ({said})", WHERE) from None
