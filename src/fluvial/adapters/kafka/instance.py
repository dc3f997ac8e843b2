"""The name of a static group member: the same after a restart, another one for each worker on the host."""

from __future__ import annotations

import fcntl
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from fluvial.errors import SettingsError

MOST = 256
"""Workers of one service on one host."""


class Instance(NamedTuple):
    """A member's name (empty: none) and how it is given back."""

    name: str
    release: Callable[[], None]


def instance_id(wanted: str, service: str) -> Instance:
    """Take `wanted`, or for `auto` the host's name and the first number that no process here has.

    The number is a locked file in the temporary directory: it is free again when its process is gone,
    however it went. Raises SettingsError when all are taken.
    """
    if wanted != "auto":
        return Instance(wanted, lambda: None)
    for number in range(MOST):
        path = Path(tempfile.gettempdir()) / f"fluvial-{service}-{number}.lock"
        file = path.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            continue
        return Instance(f"fluvial-{service}-{socket.gethostname()}-{number}", file.close)
    raise SettingsError(f"kafka.instance_id: {MOST} workers of {service!r} run on this host already")
