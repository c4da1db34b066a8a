"""Stop a run between two pairs when somebody asks for it."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Stopping:
    """Inside the ``with`` statement a first Ctrl-C or SIGTERM is a wish, and a second stops at once.

    Outside the main thread, where Python takes no signals, nothing changes.

    Attributes:
        signal: the one that asked for an end; None while none did.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._asked) for number in self.SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt the second time."""
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
        # Not print: the signal may have come in the middle of one.
        os.write(2, b"\nriebench: stopping after this pair; Ctrl-C again stops at once\n")
