"""Ctrl-C in a command that writes: it ends between two writes, and says what it did."""

from __future__ import annotations

import signal
import threading
from typing import Any, Self


class Stop:
    """The first Ctrl-C or SIGTERM only says so; the next one ends the process as usual.

    An exception out of a signal could come up inside the client's callbacks.
    """

    def __init__(self) -> None:
        self.said = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, _number: int, _frame: object) -> None:
        self.said = True
        self.__exit__()
