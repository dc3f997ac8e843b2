"""How much memory the process held at most since a moment."""

from __future__ import annotations

import contextlib
from pathlib import Path

STATUS = Path("/proc/self/status")
FORGET = Path("/proc/self/clear_refs")


class Footprint:
    """Begins to watch when it is made. Linux only: elsewhere nothing is known of a stretch of time."""

    def __init__(self) -> None:
        with contextlib.suppress(OSError):
            FORGET.write_text("5")  # the kernel forgets the peak until now (proc(5), clear_refs)

    def peak_bytes(self) -> int | None:
        """The peak of the resident set since then."""
        with contextlib.suppress(OSError, ValueError):
            for line in STATUS.read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1_024
        return None
