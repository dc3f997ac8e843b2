"""Which replaced models stay, and what the journal says of a request: read one way by every store."""

from __future__ import annotations

import time
from collections.abc import Mapping

from fluvial.config import VersionSettings
from fluvial.types import Entry, Kept, Rollback

MAX_PINS = 100
"""Of a shard: a pinned model is never dropped, and each may have megabytes."""
MAX_MARKS = 5_000
"""Fields of the hash that holds what is known of a shard's versions."""
_DAY = 86_400.0


def outdated(kept: Mapping[int, Kept], settings: VersionSettings, now: float) -> list[int]:
    """Versions whose models are to go: too many newer ones, or replaced too long ago, and not pinned."""
    # By time: behind a lineage that began anew (checkpoint.on_refused) high numbers are the old ones.
    loose = sorted(
        (n for n, version in kept.items() if version.at is not None and version.pinned is None),
        key=lambda n: (kept[n].at or 0.0, n),
    )
    stay = set(loose[-settings.keep :] if settings.keep else ())
    oldest = now - settings.keep_days * _DAY
    return [n for n in loose if n not in stay or (kept[n].at or 0.0) < oldest]


def asking(kind: str, request: Rollback, refused: str = "") -> Entry:
    """What is journalled of a request; what was carried out is a version."""
    detail = {"to": request.version, "by": request.by, "because": request.because, "request": request.id}
    if request.relearn:
        detail |= {"relearn": True, "skip": [list(span) for span in request.skip]}
    return Entry(kind, time=time.time(), detail=detail | ({"refused": refused} if refused else {}))
