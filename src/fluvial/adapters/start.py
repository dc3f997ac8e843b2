"""Where a new shard starts, when that is a time: one reading of it for every source."""

from __future__ import annotations

from datetime import UTC, datetime

from fluvial.errors import SettingsError


def parse_start(start: str) -> int:
    """Milliseconds of an ISO 8601 time, UTC unless it says otherwise. Raises SettingsError."""
    try:
        moment = datetime.fromisoformat(start)
    except ValueError:
        msg = f"kafka.start: {start!r} is neither earliest, latest nor a time such as 2026-01-31T12:00:00Z"
        raise SettingsError(msg) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1_000)
