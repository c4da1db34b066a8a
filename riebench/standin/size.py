"""The sizes of stand-ins, and the type of the functions that write their parts."""

from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

Size = Literal["tiny", "true"]
"""``true`` has the published shapes; ``tiny`` has smaller widths and depths under the same names."""
Writers: TypeAlias = Mapping[str, Callable[[], None]]
"""Name of a part, with a note where it is smaller than published, to the function that writes it."""
