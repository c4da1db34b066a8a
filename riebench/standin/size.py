"""The sizes of stand-ins."""

from typing import Literal

Size = Literal["tiny", "true"]
"""``true`` keeps every shape; ``tiny`` has smaller widths and depths under the same names."""
