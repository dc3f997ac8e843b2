"""Every Redis key in one place. A service has one hash tag, as scripts on a cluster need.

| key | type | what |
|---|---|---|
| `fluvial:{service}:shard:<shard>` | hash | the head: who may write, and what the newest checkpoint is |
| `fluvial:{service}:lease:<shard>` | string, PX | the active worker's name |
| `fluvial:{service}:blob:<shard>:<epoch>-<sequence>-<digest>` | string | one checkpoint |
| `fluvial:{service}:version:<shard>:<number>` | string | a replaced model, signed as a checkpoint is |
| `fluvial:{service}:versions:<shard>` | hash | which models are kept since when, which are pinned, notes |
| `fluvial:{service}:published:<shard>` | hash | partition -> next offset without a published score |
| `fluvial:{service}:journal` | stream, capped | everything rare that happened |
| `fluvial:{service}:score:<key>` | string, EX | the latest score of a key, as JSON |
| `fluvial:{service}:tripped` | hash | shard -> what the flood breaker paused it for |
| `fluvial:{service}:asked` | hash | shard -> the roll-back that a person asks for |
| `fluvial:{service}:answered` | hash | shard -> what became of the last one |
| `fluvial:{service}:redriven` | sorted set, capped | dead letters that were written back, by time |
| `fluvial:{service}:scored:<bucket>` | HyperLogLog, EX | how many keys have a score, about |
"""

from __future__ import annotations

import re

KEPT_REDRIVEN = 100_000
"""Dead letters that are remembered as redriven: about ten megabytes."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def valid_name(name: str) -> bool:
    """Whether a service or shard may be called so (no braces, colons, white space; at most 64)."""
    return _NAME.fullmatch(name) is not None


class Keys:
    """The keys of one service."""

    def __init__(self, service: str) -> None:
        if not valid_name(service):
            msg = f"{service!r} is not a service name: letters, digits, '.', '_' and '-', at most 64"
            raise ValueError(msg)
        self._root = "fluvial:{" + service + "}:"
        self.journal = self._root + "journal"
        self.tripped = self._root + "tripped"
        self.asked = self._root + "asked"
        self.answered = self._root + "answered"
        self.redriven = self._root + "redriven"
        self.score_prefix = self._root + "score:"

    def head(self, shard: str) -> str:
        """The shard's head."""
        return f"{self._root}shard:{shard}"

    def lease(self, shard: str) -> str:
        """The active worker's lease."""
        return f"{self._root}lease:{shard}"

    def blob(self, shard: str, epoch: int, sequence: int, digest: str) -> str:
        """One checkpoint; the name says who wrote it, so two writers never share one."""
        return f"{self._root}blob:{shard}:{epoch}-{sequence}-{digest[:16]}"

    def version(self, shard: str, number: int) -> str:
        """A replaced model."""
        return f"{self._root}version:{shard}:{number}"

    def versions(self, shard: str) -> str:
        """Which replaced models are kept."""
        return f"{self._root}versions:{shard}"

    def published(self, shard: str) -> str:
        """Per partition, the next offset without a published score."""
        return f"{self._root}published:{shard}"

    def score(self, key: str) -> str:
        """The latest score of a key."""
        return self.score_prefix + key

    def scored(self, bucket: int) -> str:
        """Approximate count of the keys scored in one TTL-long bucket of time."""
        return f"{self._root}scored:{bucket}"
