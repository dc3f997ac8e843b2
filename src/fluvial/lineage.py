"""The steps of a model's lineage that scorers can tell apart, and how often it was reacted lately."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import msgspec

from fluvial.types import Event, Signal, Version

KEPT = 100
"""Versions kept in the state; the journal and the store keep more."""


class Lineage:
    """Versions by number, the newest last."""

    def __init__(self, versions: list[Version], reactions: deque[int]) -> None:
        self.versions = versions
        self.reactions = reactions
        """Labelled-event counts of the latest reactions."""

    @classmethod
    def genesis(cls, number: int = 1) -> Lineage:
        """The first version: a blank model."""
        first = Version(number, cause="genesis", parent=None, partition=0, offset=0, events=0, time=0.0)
        return cls([first], deque(maxlen=1_000))

    @property
    def current(self) -> int:
        """Number of the version that answers now."""
        return self.versions[-1].number

    def advance(
        self,
        cause: str,
        event: Event,
        events: int,
        detail: Mapping[str, Any],
        metrics: Mapping[str, float],
    ) -> Version:
        """Add a version made at `event`, which is labelled event number `events`."""
        version = Version(
            number=self.current + 1,
            cause=cause,
            parent=self.current,
            partition=event.partition,
            offset=event.offset + 1,
            events=events,
            time=event.time,
            detail=detail,
            metrics=metrics,
        )
        self.versions = [*self.versions[-(KEPT - 1) :], version]
        return version

    def reacted(self, events: int, window: int) -> None:
        """Count a reaction towards cooldown and storm breaker, and forget those before the window."""
        self.reactions.append(events)
        while self.reactions[0] <= events - window:
            self.reactions.popleft()

    def since_reaction(self, events: int) -> int:
        """Labelled events since the last reaction, or since genesis."""
        return events - (self.reactions[-1] if self.reactions else 0)

    def recent(self, events: int, window: int) -> int:
        """Reactions within the last `window` labelled events."""
        return sum(1 for at in self.reactions if at > events - window)

    def state(self) -> dict[str, Any]:
        """As primitives."""
        return {"versions": msgspec.to_builtins(self.versions), "reactions": list(self.reactions)}

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> Lineage:
        """Undo `state`."""
        versions = msgspec.convert(state["versions"], list[Version])
        return cls(versions, deque(state["reactions"], maxlen=1_000))


def told(signal: Signal) -> dict[str, Any]:
    """A signal as journal detail."""
    made: dict[str, Any] = msgspec.to_builtins(signal)
    return made
