"""Stop a run between two pairs when somebody asks for it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stopping() -> Iterator[list[signal.Signals]]:
    """Inside the ``with`` statement a first Ctrl-C or SIGTERM is a wish, and a second stops at once.

    Gives a list that holds the signal once somebody has asked for an end. Outside the main thread, where Python takes
    no signals, nothing changes.
    """
    asked: list[signal.Signals] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(signal.Signals(number))
        # Not print: the signal may have come in the middle of one.
        os.write(2, b"\nriebench: stopping after this pair; Ctrl-C again stops at once\n")

    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, ask) for number in SIGNALS} if main else {}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
