"""What the journal and the ring of recent events say about one drift."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from fluvial.adapters.redis import RedisStore
from fluvial.cli.loaded_state import Loaded
from fluvial.config import PolicySettings, Settings
from fluvial.errors import CheckpointError, SettingsError
from fluvial.explaining import Moved, moved
from fluvial.keys import Keys

JOURNAL = 10_000
"""Newest entries that are searched."""
KNOWN = ("kind", "plane", "detector", "events", "before", "after", "since")
"""A signal's fields that every plane has; others are of its own."""

Entry = Mapping[str, Any]


def explain_drift(settings: Settings, number: int, state: Callable[[str], Loaded]) -> dict[str, Any]:
    """The Nth newest drift: when, how much, since when, what was done, which features moved.

    `state`: the newest state of a shard. Raises SettingsError where there is no such drift, StoreError.
    """
    store = RedisStore(settings.redis, Keys(settings.service), settings.scores)
    try:
        entries = list(store.entries(JOURNAL))
    finally:
        store.close()
    drift, done = nth_drift(entries, number)
    signal = dict(drift["detail"])
    told = {
        "number": number,
        "at": drift["at"],
        "shard": drift["shard"],
        "partition": drift.get("partition"),
        "offset": drift.get("offset"),
        "event_time": drift.get("time"),
        **{name: signal.get(name) for name in KNOWN if name != "kind"},
        "own": {name: value for name, value in signal.items() if name not in KNOWN},
        "done": [{"kind": one["kind"], "detail": one.get("detail") or {}} for one in done],
        "not_done": None if done else why_nothing(settings.policy, str(signal["plane"])),
    }
    try:
        found, covered = features_moved(
            state(str(drift["shard"])), int(signal["since"]), int(signal["events"])
        )
        told |= {"moved": msgspec.to_builtins(found), "covered": covered, "not_covered": None}
    except (CheckpointError, SettingsError) as error:
        told |= {"moved": [], "covered": [0, 0], "not_covered": str(error)}
    return told


def why_nothing(policy: PolicySettings, plane: str) -> str:
    """Why a drift of this plane may have been left at that, as far as the present settings tell."""
    if policy.factory is not None:
        return "your policy made no version at it"
    if plane == "error":
        return "the policy only watches, or the answer is no version"
    if policy.name == "ladder" and any((rung.plane, rung.on) == (plane, "drift") for rung in policy.rungs):
        return "it reached no rung of the ladder, or the answer is no version"
    return f"policy {policy.name} does not react to the {plane}: whether it matters, the error tells"


def nth_drift(entries: Sequence[Entry], number: int) -> tuple[Entry, Sequence[Entry]]:
    """The Nth newest drift of a journal, newest first, and what was done about it at the same event."""
    drifts = [entry for entry in entries if entry["kind"] == "drift"]
    if number < 1 or number > len(drifts):
        raise SettingsError(
            f"--drift {number}: the journal tells of {len(drifts)} "
            f"{'drift' if len(drifts) == 1 else 'drifts'} in its newest {len(entries):,} entries"
        )
    drift = drifts[number - 1]
    place = ("shard", "partition", "offset")
    same = [
        e
        for e in entries
        if e["kind"] in {"version", "hold"} and all(e.get(k) == drift.get(k) for k in place)
    ]
    return drift, same


def features_moved(state: Loaded, since: int, fired: int) -> tuple[Sequence[Moved], tuple[int, int]]:
    """Which features moved at labelled event `since`, by the ring of recent events, as far as it reaches.

    Returns as well how many events before and after the change were compared. What came after the drift
    fired is compared too: the more, the better.
    """
    memory, newest = state.learner.memory, state.learner.events - state.pending
    rows = [row[0] for row in memory.newest(len(memory))]
    first = newest - len(rows)
    """Labelled events before the ring's first one."""
    at = max(0, min(len(rows), since - first))
    before, after = rows[:at], rows[at:]
    if since <= first or fired > state.learner.events:
        before = []
    return moved(before, after), (len(before), len(after))
