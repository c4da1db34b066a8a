"""A state as the fragment of an address, and back: deflated JSON in base64url. Needs no torch."""

from __future__ import annotations

import base64
import binascii
import zlib

from riebench.paint.state import MOST_BYTES, State, checked
from riebench.util.errors import UserError

KEY = "s="


def fragment_of(state: State) -> str:
    """The fragment without ``#``; the page makes the same kind, and reads it."""
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    packed = packer.compress(state.model_dump_json(exclude_defaults=True).encode()) + packer.flush()
    return KEY + base64.urlsafe_b64encode(packed).decode().rstrip("=")


def state_of(fragment: str) -> State:
    """The state in a fragment.

    Raises:
        UserError: if it holds none.
    """
    text = fragment.removeprefix("#").removeprefix(KEY)
    try:
        packed = base64.b64decode(text + "=" * (-len(text) % 4), altchars="-_", validate=True)
        unpacker = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
        raw = unpacker.decompress(packed, MOST_BYTES)
    except (binascii.Error, zlib.error, ValueError) as error:
        raise UserError(f"the address holds no state: {error}; copy all of the link") from None
    return checked(State, raw)
