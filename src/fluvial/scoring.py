"""What applications import to read scores: no River, no Kafka client, no model.

    from fluvial.scoring import Scores

    scores = Scores("redis://localhost:6379/0", service="fraud")
    score = scores.get("card-4711")                    # None: no score, or it expired
    if score is not None and score.probabilities["fraud"] > 0.9:
        block(since=score.event_time, model=score.version)
    many = scores.get_many(["card-1", "card-2"])       # only the keys that have one

A score is the latest that the service made for the key; within a partition it never goes back in
offset. It says which model answered (`version`) and how fresh it is (`event_time`, `made_at`): an
application decides by these what is too old for it. Reading needs no other part of the service; any
Redis client in any language does the same by `docs/redis-keys.md`.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

import msgspec

from fluvial.adapters.redis import Server
from fluvial.adapters.redis_address import address
from fluvial.config import RedisSettings, Secret
from fluvial.errors import StoreError
from fluvial.keys import Keys
from fluvial.types import Score

KEYS_A_CALL = 500
"""A thousand would not be faster, and would hold the server for longer."""


class Scores:
    """Latest scores of one service. Safe to share between threads; connects at the first call.

    `redis` is a URL as in `[redis] url`, the service's `RedisSettings`, or a client of the application's
    own (which `close` leaves open). Raises StoreUnavailable when Redis cannot answer now, within about
    `timeout_seconds`, and StoreError for anything else; neither shows the password.
    """

    def __init__(self, redis: Any, service: str, *, timeout_seconds: float = 2.0) -> None:
        client = None
        if isinstance(redis, str):
            redis = RedisSettings(url=Secret(redis), timeout_seconds=timeout_seconds)
        elif not isinstance(redis, RedisSettings):
            client, redis = redis, RedisSettings(timeout_seconds=timeout_seconds)
        self._server = Server(address(redis), redis.timeout_seconds, client)
        self._prefix = Keys(service).score_prefix
        self._decode = msgspec.json.Decoder(Score).decode

    def get(self, key: str) -> Score | None:
        """The key's latest score; None where it has none or it expired."""
        return self._score(key, self._server.call("GET", self._prefix + key))

    def get_many(self, keys: Iterable[str]) -> dict[str, Score]:
        """The latest score of each key that has one, 500 keys a call."""
        wanted = list(dict.fromkeys(keys))
        found = {}
        for start in range(0, len(wanted), KEYS_A_CALL):
            chunk = wanted[start : start + KEYS_A_CALL]
            values = self._server.call("MGET", *(self._prefix + key for key in chunk))
            for key, value in zip(chunk, values, strict=True):
                score = self._score(key, value)
                if score is not None:
                    found[key] = score
        return found

    def _score(self, key: str, value: bytes | str | None) -> Score | None:
        if value is None:
            return None
        try:
            return self._decode(value)
        except msgspec.DecodeError as error:
            msg = f"the score of {key!r} was not written by this release of Fluvial: {error}"
            raise StoreError(msg) from error

    def close(self) -> None:
        """Close the connections that were opened here."""
        self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
