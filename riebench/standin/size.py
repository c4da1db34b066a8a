"""The sizes of stand-ins, and what writes their parts."""

from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

Size = Literal["tiny", "true"]
"""``true`` keeps every shape; ``tiny`` has smaller widths and depths under the same names."""
Writers: TypeAlias = Mapping[str, Callable[[], None]]
"""Name of a part, with what is smaller than the published one, to the function that writes it."""
