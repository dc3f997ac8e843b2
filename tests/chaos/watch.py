"""Everything a reader of Redis could have seen while the run went on."""

import threading
import time

import msgspec
import redis

LOOK_SECONDS = 0.03
CHUNK = 1_000


class Watch(threading.Thread):
    """Reads each score as soon as it is out, and each head as often as it can.

    `scores` holds the bytes that were seen first; what is in Redis at the end must be the same. A head
    must never name an older checkpoint than before, nor an older epoch.
    """

    def __init__(self, port, keys, shards, delivered):
        super().__init__(name="watch", daemon=True)
        self.scores = {}
        self.faults = []
        """What no reader may ever see, as it was seen."""
        self.total = 0
        """Offsets whose scores are out, over all partitions."""
        self.claims = {}
        """Per shard, the highest epoch seen."""
        self._cli = redis.Redis(port=port, socket_timeout=5)
        self._keys = keys
        self._shards = shards
        self._delivered = delivered
        self._next = dict.fromkeys(delivered, 0)
        self._heads = {}
        self._over = threading.Event()

    def run(self):
        while not self._over.wait(LOOK_SECONDS):
            try:
                self.look()
            except redis.exceptions.RedisError:
                time.sleep(0.1)  # it was killed, or is loading

    def finish(self):
        """Stop, and see what is there at the end: each key's score, as bytes."""
        self._over.set()
        self.join()
        self.look()
        keys = [key for partition in self._delivered.values() for key in list(partition.values())]
        return self._read(keys)

    def close(self):
        self._over.set()
        if self.is_alive():
            self.join()
        self._cli.close()

    def look(self):
        """One look at heads, marks, and the scores that the marks say are out."""
        for shard in self._shards:
            self._look_at_head(shard)
        marks = {}
        for shard in self._shards:
            found = self._cli.hgetall(self._keys.published(shard))
            marks |= {int(partition): int(offset) for partition, offset in found.items()}
        keys = []
        for partition, mark in marks.items():
            delivered, at = self._delivered[partition], self._next[partition]
            while at < mark and at in delivered:  # the worker may be ahead of the acknowledgement
                keys.append(delivered[at])
                at += 1
            self._next[partition] = at
        self.scores |= self._read(keys)
        self.total = sum(marks.values())

    def _read(self, keys):
        found = {}
        for start in range(0, len(keys), CHUNK):
            chunk = keys[start : start + CHUNK]
            values = self._cli.mget([self._keys.score(key) for key in chunk])
            found |= {key: value for key, value in zip(chunk, values, strict=True) if value is not None}
        return found

    def _look_at_head(self, shard):
        fields = self._cli.hmget(self._keys.head(shard), "epoch", "sequence", "blob", "offsets")
        if None in fields:
            return
        epoch, sequence, blob, told = (field.decode() for field in fields)
        offsets = msgspec.json.decode(told, type=dict[int, int])
        writer = int(blob.rpartition(":")[2].partition("-")[0])
        now = (int(epoch), int(sequence), writer, offsets)
        before = self._heads.get(shard)
        self._heads[shard] = now
        self.claims[shard] = max(int(epoch), self.claims.get(shard, 0))
        if before is None:
            return
        fell = any(offsets.get(p, 0) < offset for p, offset in before[3].items())
        if fell or any(new < old for new, old in zip(now[:3], before[:3], strict=True)):
            self.faults.append(f"the head of {shard} went back from {before} to {now}")
