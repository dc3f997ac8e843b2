"""Checkpoints, scores and the journal in Redis: the `Store` port on a real server.

Three parts, from the socket up: `connect` builds a client for an address, `Server` makes bounded calls
on it and names what went wrong in our words, `RedisStore` keeps the protocol. The scripts beside this
file hold what has to be atomic; each says its keys and answers at its top.

Why calls are made this way: redis-py retries by itself for seconds, which would outlast a lease. Here a
call that timed out is not repeated (the caller does that, and every write may be repeated), and one
whose connection was reset is repeated once, at once.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from typing import Any, NoReturn

import msgspec
from redis import Redis, exceptions
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.retry import Retry
from redis.sentinel import Sentinel

from fluvial.adapters.generations import known_to_the_group, older_generation
from fluvial.adapters.redis_address import Address, address
from fluvial.adapters.versions import MAX_MARKS, MAX_PINS, asking, outdated
from fluvial.config import RedisSettings, ScoreSettings, VersionSettings
from fluvial.errors import CheckpointLost, Fenced, StoreError, StoreFull, StoreUnavailable
from fluvial.keys import KEPT_REDRIVEN, Keys
from fluvial.types import (
    Claim,
    Entry,
    Head,
    Kept,
    Membership,
    Reply,
    Rollback,
    Score,
    StoreReport,
    Trip,
)

BYTES_A_SECOND = 10_000_000
"""Slowest acceptable link: a blob's upload may take this much longer than another call."""
UPLOAD_SECONDS = 300
"""How long an uploaded blob waits for its flip before it expires."""
LOOK_SECONDS = 3_600.0
"""How often kept models are looked through for old ones although none was replaced."""
JOURNAL_LENGTH = 10_000
SCORES_A_CALL = 990
"""Scores in one script call: with the other keys under the thousand that `unpack` surely takes."""
IDS_A_CALL = 990
FULL = 0.8
"""Share of maxmemory at which scores give way to checkpoints."""

_BAD_ERRORS: tuple[type[Exception], ...] = (exceptions.RedisError, exceptions.RedisClusterException)
_TRANSIENT = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.BusyLoadingError,
    exceptions.ReadOnlyError,
    exceptions.ClusterDownError,
    exceptions.TryAgainError,
    exceptions.RedisClusterException,
)
_TRANSIENT_CODE = re.compile(r"(?:^|-|: )(LOADING|BUSY|READONLY|NOREPLICAS|MISCONF|TRYAGAIN|CLUSTERDOWN)\b")
_FULL_CODE = re.compile(r"(?:^|-|: )OOM\b")
_TLS = re.compile(r"\bSSL\b|CERTIFICATE", re.IGNORECASE)
_DENIED_IN_SCRIPT = "The user executing the script can't"
"""What a script that runs a forbidden command comes back with; no NOPERM before it."""
_OLD_SERVER = "unexpected symbol near '#'"


def connect(where: Address, seconds: float, upload_seconds: float = 0.0) -> Any:
    """A client for this address; a cluster is asked for its nodes at once, the others at the first call.

    Connecting takes at most half of `seconds`, an answer `seconds`, and sending `upload_seconds` more.
    The client's own retries are off.
    """
    options: dict[str, Any] = {
        "username": where.username,
        "password": where.password,
        "socket_timeout": seconds + upload_seconds,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,  # RESP3 would add a handshake and push messages that nothing here uses
    }
    if where.kind == "unix":
        return Redis(unix_socket_path=where.path, db=where.db, **options)
    options["socket_connect_timeout"] = seconds / 2
    if where.tls:
        options |= {"ssl": True, "ssl_ca_certs": where.ca_file}
    if where.kind == "cluster":
        nodes: Any = [ClusterNode(*host) for host in where.hosts]  # type: ignore[no-untyped-call]  # redis-py's
        return RedisCluster(startup_nodes=nodes, **options)
    if where.kind == "sentinel":
        # A sentinel answers from memory. The login is the server's; sentinels are taken to have none.
        asking = options | {"username": None, "password": None, "socket_timeout": seconds / 2}
        sentinels: Any = Sentinel(list(where.hosts), sentinel_kwargs=asking, **options)  # type: ignore[no-untyped-call]  # redis-py's
        return sentinels.master_for(where.master, db=where.db)
    host, port = where.hosts[0]
    return Redis(host=host, port=port, db=where.db, **options)


class Script:
    """One Lua script: as written, and without its first line for servers below 7.0."""

    def __init__(self, name: str) -> None:
        source = files(__package__).joinpath("scripts", f"{name}.lua").read_text(encoding="utf-8")
        self.sources = (source, source.partition("\n")[2])
        # What EVALSHA calls a script by; no secret depends on it.
        self.digests = tuple(
            hashlib.sha1(s.encode(), usedforsecurity=False).hexdigest() for s in self.sources
        )


@cache
def _script(name: str) -> Script:
    return Script(name)


class Server:
    """Bounded calls on one Redis, whose failures come out as `StoreError`s that name host and port only.

    A client from elsewhere (`client`) is used as it is. Safe to share between threads.
    """

    def __init__(self, where: Address, seconds: float, client: Any = None) -> None:
        self.where = where
        self.errors = 0
        """Calls that failed; being fenced is no failure."""
        self.old = False
        """Below 7.0: it does not know a script's first line, so it cannot refuse on a stale replica."""
        self._seconds = seconds
        self._given = client
        self._clients: dict[float, Any] = {}
        self._lock = threading.Lock()

    def call(self, *command: Any, upload: int = 0) -> Any:
        """Run one command, of which `upload` bytes are a blob."""
        with self._translated():
            return self._execute(self._client(upload), command)

    def script(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run a script by its digest; a server that does not know it (restart, flush) is sent its text."""
        script = _script(name)
        with self._translated():
            client = self._client()
            try:
                return self._execute(client, ("EVALSHA", script.digests[self.old], len(keys), *keys, *args))
            except exceptions.ResponseError as error:
                if not isinstance(error, exceptions.NoScriptError) and not self._is_old(error):
                    raise
            try:
                return self._execute(client, ("EVAL", script.sources[self.old], len(keys), *keys, *args))
            except exceptions.ResponseError as error:
                if not self._is_old(error):
                    raise
            return self._execute(client, ("EVAL", script.sources[self.old], len(keys), *keys, *args))

    def _is_old(self, error: Exception) -> bool:
        """Whether the server stumbled over a script's first line, which it does once."""
        stumbled = not self.old and _OLD_SERVER in str(error)
        self.old = self.old or stumbled
        return stumbled

    def info(self, section: str, key: str) -> Mapping[str, Any]:
        """What the node that holds `key` says of itself; empty where it may not be asked.

        Raises:
            StoreUnavailable: it does not answer, or still loads its data and cannot tell what it will be.
        """
        with self._translated():
            client = self._client()
            node = {"target_nodes": client.get_node_from_key(key)} if self.where.kind == "cluster" else {}
            try:
                answer = client.execute_command("INFO", section, **node)
            except (exceptions.NoPermissionError, exceptions.ResponseError) as error:
                if isinstance(error, _TRANSIENT) or _TRANSIENT_CODE.search(str(error)):
                    raise
                return {}
            about = answer if isinstance(answer, dict) else {}
            if about.get("loading"):  # INFO answers all the same, and says that the append-only file is off
                raise exceptions.BusyLoadingError("it is loading its data")
            return about

    def close(self) -> None:
        """Close every connection that was opened here."""
        with self._lock:
            clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            client.close()

    def failed(self) -> None:
        """Count one failure; two threads may."""
        with self._lock:
            self.errors += 1

    def _client(self, upload: int = 0) -> Any:
        """A client whose timeout fits an upload of so many bytes, one for each power of two of seconds."""
        if self._given is not None:
            return self._given
        extra = 0.0 if upload < BYTES_A_SECOND // 4 else 2.0 ** ((upload - 1) // BYTES_A_SECOND).bit_length()
        with self._lock:
            if extra not in self._clients:
                self._clients[extra] = connect(self.where, self._seconds, extra)
            return self._clients[extra]

    def _execute(self, client: Any, command: tuple[Any, ...]) -> Any:
        """Run it; a connection that was reset gets one more try, while that keeps the call bounded."""
        started = time.monotonic()
        try:
            return client.execute_command(*command)
        except (exceptions.AuthenticationError, exceptions.BusyLoadingError):
            raise
        except exceptions.ConnectionError:
            if time.monotonic() - started > self._seconds / 4:
                raise
        return client.execute_command(*command)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        # The original error is left out on purpose: servers echo the arguments of commands that they do
        # not know, and AUTH may be one of them.
        try:
            yield
        except _BAD_ERRORS as error:
            self.failed()
            raise self._error(error) from None

    def _error(self, error: Exception) -> StoreError:
        text = str(error) or type(error).__name__
        for secret in (self.where.password, self.where.username):
            text = text.replace(secret, "***") if secret else text
        at = f"redis at {self.where.label}"
        if isinstance(error, exceptions.OutOfMemoryError) or _FULL_CODE.search(text):
            return StoreFull(f"{at} is out of memory: raise maxmemory, or lower scores.ttl_seconds")
        if isinstance(error, exceptions.AuthenticationError):
            return StoreUnavailable(
                f"{at} refused the login: check redis.username and redis.password ({text})"
            )
        if isinstance(error, _TRANSIENT) or _TRANSIENT_CODE.search(text):
            return StoreUnavailable(f"{at} is not available: {text}{_hint(text)}")
        if isinstance(error, exceptions.NoPermissionError) or _DENIED_IN_SCRIPT in text:
            return StoreError(
                f"{at}: redis.username may not do that; docs/security.md has the rights that the service "
                f"needs ({text})"
            )
        if isinstance(error, exceptions.AskError | exceptions.ClusterCrossSlotError):
            return StoreError(f"{at} is a cluster: write redis.url as redis+cluster:// ({text})")
        return StoreError(f"{at}: {text}")


def _hint(text: str) -> str:
    """What to look at besides waiting, where the client's own words mislead or fall short."""
    if _TLS.search(text):
        return "; check redis.ca_file, and the server's certificate"
    if "Cluster mode is not enabled" in text:  # what the client makes of a refusal, too
        return ", or redis.username may not ask for the cluster's nodes (docs/security.md)"
    return ""


class RedisStore:
    """`ports.Store` on Redis 7.0 or newer: one server, a sentinel's master, or a cluster.

    Connects at the first call. `publish` may run in one thread while everything else runs in another.
    """

    def __init__(
        self,
        settings: RedisSettings,
        keys: Keys,
        scores: ScoreSettings,
        *,
        versions: VersionSettings | None = None,
        client: Any = None,
    ) -> None:
        self._versions = versions or VersionSettings()
        self._look_at: dict[str, float] = {}
        """By shard, when kept models are looked through again."""
        self.scores_written = 0
        self.scores_refused = 0
        """Scores of new keys left out because `scores.max_keys` have one."""
        self._server = Server(address(settings), settings.timeout_seconds, client)
        self._keys = keys
        self._scores = scores
        self._encode = msgspec.json.Encoder().encode
        self._marks: dict[str, tuple[str, dict[int, int]]] = {}
        """By shard, the claim's token and what this process knows to be published under it."""
        self._looked = float("-inf")
        """When the server was last asked for its memory."""
        self._used = 0.0
        """Share of maxmemory that was in use then."""

    @property
    def store_errors(self) -> int:
        """Calls that the server failed, refused or did not answer."""
        return self._server.errors

    # What it is

    def report(self) -> StoreReport:
        """What the server is, from INFO (managed services forbid CONFIG more often)."""
        about = self._server.info("default", self._keys.journal)
        version = str(about.get("redis_version", "unknown"))
        number = version.partition(".")[0]
        return StoreReport(
            version=version,
            persistent=str(about.get("aof_enabled", 0)) == "1",
            eviction=str(about.get("maxmemory_policy", "unknown")),
            embedded=self._server.old or (number.isdecimal() and int(number) < 7),
            told=bool(about),
        )

    # The lease

    def lease(self, shard: str, owner: str, milliseconds: int) -> bool:
        """Take or renew it; see the port."""
        return bool(self._server.script("lease", [self._keys.lease(shard)], [owner, milliseconds]))

    def unlease(self, shard: str, owner: str) -> None:
        """Give it back if it is ours."""
        self._server.script("unlease", [self._keys.lease(shard)], [owner])

    def lease_holder(self, shard: str) -> str | None:
        """Who holds it."""
        holder = self._server.call("GET", self._keys.lease(shard))
        return None if holder is None else _text(holder)

    # Checkpoints

    def claim(self, shard: str, token: str, membership: Membership | None = None) -> Claim:
        """Become the shard's writer; see the port."""
        keys = [self._keys.head(shard), self._keys.published(shard), self._keys.lease(shard)]
        arguments: list[str | int] = [token]
        if membership is not None:
            known_to_the_group(shard, membership)
            arguments += [membership.group, membership.generation, membership.owner, membership.milliseconds]
        answer = [_text(value) for value in self._server.script("claim", keys, arguments)]
        if answer[0] == "refused" and membership is not None:
            raise Fenced(older_generation(shard, membership, int(answer[1])))
        epoch, sequence, digest, offsets, *marks = answer
        head = None
        if sequence:
            head = Head(int(sequence), digest, msgspec.json.decode(offsets, type=dict[int, int]))
        return Claim(shard, int(epoch), token, head, _pairs(marks))

    def load(self, shard: str, claim: Claim | None = None) -> Sequence[bytes]:
        """Blobs of the kept generations, newest first; see the port."""
        names: list[Any] = []
        blobs: list[bytes] = []
        fields = "epoch", "token", "blob", "previous"
        for _ in range(3):  # a writer may flip between the two reads, and unlink what was just named
            before = names
            epoch, token, *names = self._server.call("HMGET", self._keys.head(shard), *fields)
            # A blob's name has its digest: what is named under the claim is what the claim found.
            if claim is not None and (epoch, token) != (b"%d" % claim.epoch, claim.token.encode()):
                _fenced(claim)
            if names == before:
                break
            blobs = [self._server.call("GET", name) for name in names if name is not None]
            if None not in blobs:
                break
        found = [blob for blob in blobs if blob is not None]
        if blobs and not found:
            named = " and ".join(_text(name) for name in names if name is not None)
            msg = (
                f"shard {shard}: the head names {named}, and neither is left in Redis. Restore Redis from a "
                "backup, or set checkpoint.on_refused = 'replay' to rebuild the model from the log"
            )
            raise CheckpointLost(msg)
        return found

    def save(
        self,
        claim: Claim,
        sequence: int,
        blob: bytes,
        offsets: Mapping[int, int],
        entries: Sequence[Entry],
        versions: Mapping[int, bytes],
    ) -> None:
        """Save in two steps, since a large value inside a script would stall every client.

        1. Upload the blobs under names of their own, expiring. NX: a delayed duplicate of this very
           command must not put the expiry back on a blob that is live by then.
        2. Flip: one small script checks the fence and the sequence, makes them permanent and live.
        """
        shard = claim.shard
        digest = hashlib.sha256(blob).hexdigest()
        head = self._head(shard)
        if head.settled(claim, sequence, digest):
            return
        name = self._keys.blob(shard, claim.epoch, sequence, digest)
        uploads = {name: blob}
        moves: list[str] = []
        told: list[str | bytes] = []
        for number, model in versions.items():
            own = hashlib.sha256(b"%d:" % number)  # two versions may hold the same bytes
            own.update(model)
            upload = self._keys.blob(shard, claim.epoch, sequence, own.hexdigest())
            uploads[upload] = model
            moves += [upload, self._keys.version(shard, number)]
            told += [str(number), self._encode({"at": time.time(), "size": len(model)})]
        let_go = self._outdated(shard, head.versions, versions)
        gone = [self._keys.version(shard, number) for number in let_go]
        keys = [self._keys.head(shard), self._keys.journal, name, head.blob or name, head.previous or name]
        keys += [self._keys.versions(shard), *moves, *gone]
        args = [claim.epoch, claim.token, sequence, digest, msgspec.json.encode(offsets), len(let_go)]
        args += [JOURNAL_LENGTH, shard, len(versions), *told, *let_go, *_told(entries)]
        for _ in range(2):  # an upload that an earlier attempt made may have expired just now
            for key, value in uploads.items():
                self._server.call("SET", key, value, "NX", "EX", UPLOAD_SECONDS, upload=len(value))
            answer = self._server.script("flip", keys, args)
            if answer == b"fenced":
                _fenced(claim)
            if answer != b"missing":
                self._look_at[shard] = time.monotonic() + LOOK_SECONDS
                return
        msg = f"shard {shard}: {name} was gone before it was live; is somebody deleting keys?"
        raise StoreError(msg)

    def _outdated(self, shard: str, unlisted: Sequence[int], new: Mapping[int, bytes]) -> list[int]:
        """Versions whose models are to go with this save; `unlisted`: what an earlier release kept."""
        if not new and not unlisted and time.monotonic() < self._look_at.get(shard, 0.0):
            return []
        now = time.time()
        kept = {**self.kept(shard), **{n: Kept(at=now, size=len(model)) for n, model in new.items()}}
        return sorted({*outdated(kept, self._versions, now), *unlisted})

    def version_blob(self, shard: str, number: int) -> bytes | None:
        """The model that served as this version; see the port."""
        blob: bytes | None = self._server.call("GET", self._keys.version(shard, number))
        return blob

    def forget(self, claim: Claim) -> None:
        """Start a fresh lineage; see the port. Epoch and token stay: the fence does not forget."""
        head = self._head(claim.shard)
        keys = [self._keys.head(claim.shard), self._keys.published(claim.shard)]
        keys += [name for name in (head.blob, head.previous) if name]
        kept = {*head.versions, *self.kept(claim.shard)}
        keys += [self._keys.versions(claim.shard), *(self._keys.version(claim.shard, n) for n in kept)]
        args = [claim.epoch, claim.token, head.sequence, head.digest]
        if self._server.script("forget", keys, args) == b"fenced":
            _fenced(claim)
        self._marks[claim.shard] = (claim.token, {})

    def _head(self, shard: str) -> _StoredHead:
        names = ("epoch", "token", "sequence", "digest", "blob", "previous", "versions")
        fields = self._server.call("HMGET", self._keys.head(shard), *names)
        epoch, token, sequence, digest, blob, previous, versions = (
            "" if f is None else _text(f) for f in fields
        )
        kept = msgspec.json.decode(versions, type=list[int]) if versions else []
        return _StoredHead(epoch, token, int(sequence or 0), digest, blob, previous, kept)

    # Versions

    def kept(self, shard: str) -> Mapping[int, Kept]:
        """What is known of each version; see the port."""
        known: dict[int, dict[str, Any]] = {}
        for field, value in self._pairs_of(self._keys.versions(shard)):
            kind, _, number = field.rpartition(":")
            said = {"pin": "pinned", "note": "note"}.get(kind)
            known.setdefault(int(number), {}).update({said: value} if said else msgspec.json.decode(value))
        return {number: msgspec.convert(known[number], Kept) for number in sorted(known)}

    def pin(self, shard: str, number: int, by: str | None) -> bool:
        """Pin or unpin; see the port."""
        if (
            by is not None
            and sum(version.pinned is not None for version in self.kept(shard).values()) >= MAX_PINS
        ):
            raise StoreError(f"{MAX_PINS} versions are pinned: unpin one first")
        kind, needs = ("unpinned", "") if by is None else ("pinned", str(number))
        return self._mark(shard, f"pin:{number}", by or "", needs, kind, {"version": number, "by": by})

    def annotate(self, shard: str, number: int, text: str, by: str) -> None:
        """Write a note; see the port."""
        detail = {"version": number, "by": by, "note": text}
        self._mark(shard, f"note:{number}", text, "", "annotated", detail)

    def _mark(
        self, shard: str, field: str, value: str, needs: str, kind: str, detail: Mapping[str, Any]
    ) -> bool:
        entry = Entry(kind, time=time.time(), detail=detail)
        keys = [self._keys.versions(shard), self._keys.journal]
        args = [field, value, needs, MAX_MARKS, shard, JOURNAL_LENGTH, *_told([entry])]
        answer = self._server.script("mark", keys, args)
        if answer == b"full":
            raise StoreError(f"shard {shard}: there are {MAX_MARKS} notes on versions: remove some first")
        return bool(answer == b"done")

    def ask(self, shard: str, request: Rollback) -> bool:
        """Ask for a roll-back; see the port."""
        keys = [self._keys.asked, self._keys.answered, self._keys.journal]
        args = [shard, request.id, self._encode(request), JOURNAL_LENGTH]
        answer = self._server.script("ask", keys, [*args, *_told([asking("rollback-asked", request)])])
        return bool(answer == b"asked")

    def asked(self, shard: str) -> Rollback | None:
        """What is asked for; see the port."""
        request = self._server.call("HGET", self._keys.asked, shard)
        try:
            return None if request is None else msgspec.json.decode(request, type=Rollback)
        except msgspec.MsgspecError as error:
            msg = f"{self._keys.asked} {shard}: this is no request ({error}); remove that field"
            raise StoreError(msg) from None

    def withdraw(self, shard: str, request: Rollback) -> bool:
        """Take it back; see the port."""
        # Not asked by the script, which would need the right to write the lease. A worker that comes now
        # takes the request first, and finds it gone.
        alone = "" if self.lease_holder(shard) else "1"
        keys = [self._keys.asked, self._keys.journal]
        args = [shard, request.id, alone, JOURNAL_LENGTH, *_told([asking("rollback-withdrawn", request)])]
        return bool(self._server.script("withdraw", keys, args) == b"withdrawn")

    def take(self, claim: Claim, request: Rollback) -> Rollback | None:
        """Begin to carry it out; see the port."""
        taken = msgspec.structs.replace(request, taken=True)
        keys = [self._keys.head(claim.shard), self._keys.asked]
        args = [claim.epoch, claim.token, claim.shard, request.id, self._encode(taken)]
        answer = self._server.script("take", keys, args)
        if answer == b"fenced":
            _fenced(claim)
        return taken if answer == b"taken" else None

    def answer(self, claim: Claim, request: Rollback, reply: Reply) -> None:
        """Say what became of it; see the port."""
        entries = [asking("rollback-refused", request, reply.because)] if reply.version is None else []
        keys = [self._keys.head(claim.shard), self._keys.asked, self._keys.answered, self._keys.journal]
        args = [claim.epoch, claim.token, claim.shard, request.id, self._encode(reply)]
        if self._server.script("answer", keys, [*args, JOURNAL_LENGTH, *_told(entries)]) == b"fenced":
            _fenced(claim)

    def answered(self, shard: str) -> Reply | None:
        """What became of the newest; see the port."""
        reply = self._server.call("HGET", self._keys.answered, shard)
        return None if reply is None else msgspec.json.decode(reply, type=Reply)

    def _pairs_of(self, key: str) -> list[tuple[str, str]]:
        """A hash, as text."""
        flat = self._server.call("HGETALL", key)
        # A client of redis-py answers with a dictionary, a cluster's or an older one with a list.
        pairs = flat.items() if isinstance(flat, dict) else zip(flat[::2], flat[1::2], strict=True)
        return [(_text(field), _text(value)) for field, value in pairs]

    # Dead letters

    def trip(self, claim: Claim, trip: Trip) -> bool:
        """Store that the flood breaker paused the shard; see the port."""
        entry = Entry("tripped", trip.partition, trip.offset, time.time(), {"because": trip.because})
        keys = [self._keys.head(claim.shard), self._keys.tripped, self._keys.journal]
        args = [claim.epoch, claim.token, claim.shard, trip.id, self._encode(trip), JOURNAL_LENGTH]
        answer = self._server.script("trip", keys, [*args, *_told([entry])])
        if answer == b"fenced":
            _fenced(claim)
        return bool(answer == b"tripped")

    def tripped(self) -> Mapping[str, Trip]:
        """What paused a shard; see the port."""
        pairs = self._pairs_of(self._keys.tripped)
        return {shard: msgspec.json.decode(trip, type=Trip) for shard, trip in pairs}

    def resume(self, shard: str, trip: Trip) -> bool:
        """Let it go on; see the port."""
        entry = Entry("resumed", trip.partition, trip.offset, time.time(), {"because": trip.because})
        keys = [self._keys.head(shard), self._keys.tripped, self._keys.journal]
        args = [shard, trip.id, self._encode(trip), JOURNAL_LENGTH, *_told([entry])]
        return bool(self._server.script("resume", keys, args) == b"resumed")

    def redriven(self, ids: Sequence[str]) -> Collection[str]:
        """Those that were written back; see the port."""
        found: set[str] = set()
        for start in range(0, len(ids), IDS_A_CALL):
            asked = ids[start : start + IDS_A_CALL]
            scores = self._server.call("ZMSCORE", self._keys.redriven, *asked)
            found.update(name for name, score in zip(asked, scores, strict=True) if score is not None)
        return found

    def remember_redriven(self, ids: Sequence[str], run: int, entry: Entry | None) -> None:
        """Remember them; see the port."""
        for start in range(0, len(ids), IDS_A_CALL):
            told = _told([entry]) if entry is not None and start == 0 else ["", ""]
            args = [run, KEPT_REDRIVEN, JOURNAL_LENGTH, *told, *ids[start : start + IDS_A_CALL]]
            self._server.script("redriven", [self._keys.redriven, self._keys.journal], args)

    # Scores

    def publish(self, claim: Claim, scores: Sequence[tuple[str, Score]]) -> int:
        """Write the latest score of each key; see the port. Called from one thread at a time."""
        if not scores:
            return 0
        self._leave_room()
        token, marks = self._marks.get(claim.shard, ("", {}))
        if token != claim.token:
            marks = dict(claim.published)
            self._marks[claim.shard] = (claim.token, marks)
        written = 0
        for start in range(0, len(scores), SCORES_A_CALL):
            written += self._publish(claim, marks, scores[start : start + SCORES_A_CALL])
        return written

    def _publish(self, claim: Claim, marks: dict[int, int], scores: Sequence[tuple[str, Score]]) -> int:
        for _ in range(2):  # twice: the server may know of more than we do (an answer was lost)
            newest, spans = _unpublished(scores, marks)
            if not newest:
                return 0
            answer = self._server.script(
                "publish", self._score_keys(claim, newest), self._args(claim, newest, spans, marks)
            )
            if answer[0] == b"fenced":
                _fenced(claim)
            if answer[0] == b"behind":
                msg = (
                    f"shard {claim.shard}: redis at {self._server.where.label} lost scores that it had "
                    "acknowledged (a restart or a failover); going back to its newest checkpoint"
                )
                raise Fenced(msg)
            if answer[0] == b"marks":
                marks.update(_pairs([_text(value) for value in answer[1:]]))
                continue
            marks.update((partition, span[1]) for partition, span in spans.items())
            refused = int(answer[1]) if answer[0] == b"written" else 0
            self.scores_refused += refused
            self.scores_written += len(newest) - refused
            return len(newest) - refused
        msg = f"shard {claim.shard}: another thread is publishing for the same claim"
        raise StoreError(msg)

    def _score_keys(self, claim: Claim, newest: Mapping[str, Score]) -> list[str]:
        keys, prefix = self._keys, self._keys.score_prefix
        bucket = int(time.time()) // self._scores.ttl_seconds
        first = [
            keys.head(claim.shard),
            keys.published(claim.shard),
            keys.scored(bucket),
            keys.scored(bucket - 1),
        ]
        return first + [prefix + key for key in newest]

    def _args(
        self,
        claim: Claim,
        newest: Mapping[str, Score],
        spans: Mapping[int, list[int]],
        marks: Mapping[int, int],
    ) -> list[Any]:
        args = [claim.epoch, claim.token, self._scores.ttl_seconds, self._scores.max_keys, len(spans)]
        for partition, (first, after) in spans.items():
            args += [partition, first, after, marks.get(partition, 0)]
        encode = self._encode
        return args + [encode(score) for score in newest.values()]

    def _leave_room(self) -> None:
        """Raise StoreFull at 80 % of maxmemory; asks at most once a second."""
        now = time.monotonic()
        if now - self._looked >= 1.0:
            memory = self._server.info("memory", self._keys.journal)
            limit = int(memory.get("maxmemory", 0))
            self._used = int(memory.get("used_memory", 0)) / limit if limit else 0.0
            self._looked = now
        if self._used >= FULL:
            self._server.failed()
            msg = (
                f"redis at {self._server.where.label} uses {self._used:.0%} of maxmemory: scores give way "
                "to checkpoints from 80 % on. Raise maxmemory, or lower scores.ttl_seconds or scores.max_keys"
            )
            raise StoreFull(msg)

    # The journal

    def journal(self, claim: Claim, entries: Sequence[Entry]) -> None:
        """Append entries that belong to no checkpoint; the same ones again at once change nothing."""
        told = _told(entries)
        if not told:
            return
        digest = hashlib.sha256(
            b"\0".join(e if isinstance(e, bytes) else e.encode() for e in told)
        ).hexdigest()
        args = [claim.epoch, claim.token, digest, JOURNAL_LENGTH, claim.shard, *told]
        if (
            self._server.script("journal", [self._keys.head(claim.shard), self._keys.journal], args)
            == b"fenced"
        ):
            _fenced(claim)

    def entries(self, limit: int) -> Sequence[Mapping[str, object]]:
        """The journal's newest entries, newest first; `at` is the server's time."""
        rows = self._server.call("XREVRANGE", self._keys.journal, "+", "-", "COUNT", limit)
        return [
            {
                "at": int(_text(name).partition("-")[0]) / 1000,
                "shard": _text(row[b"shard"]),
                **msgspec.json.decode(row[b"entry"]),
            }
            for name, row in rows or ()  # nothing at all of 0
        ]

    def close(self) -> None:
        """Close every connection."""
        self._server.close()


class _StoredHead(msgspec.Struct, frozen=True):
    """The head as it stood before a save: what to rotate, and whether it is worth uploading anything."""

    epoch: str
    token: str
    sequence: int
    digest: str
    blob: str
    previous: str
    versions: list[int]

    def settled(self, claim: Claim, sequence: int, digest: str) -> bool:
        """Whether this very save was made before; raises Fenced when it can no longer be made."""
        if (self.epoch, self.token) != (str(claim.epoch), claim.token):
            _fenced(claim)
        if sequence == self.sequence and digest == self.digest:
            return True
        if sequence != self.sequence + 1:
            _fenced(claim)
        return False


def _unpublished(
    scores: Sequence[tuple[str, Score]], marks: Mapping[int, int]
) -> tuple[dict[str, Score], dict[int, list[int]]]:
    """The newest score of each key past the marks, and the first and next offset of each partition."""
    newest: dict[str, Score] = {}
    spans: dict[int, list[int]] = {}
    for key, score in scores:
        partition, offset = score.partition, score.offset
        span = spans.get(partition)
        if span is not None:
            span[1] = offset + 1
        elif offset >= marks.get(partition, 0):
            spans[partition] = [offset, offset + 1]
        else:
            continue
        newest[key] = score
    return newest, spans


def _fenced(claim: Claim) -> NoReturn:
    msg = f"shard {claim.shard}: epoch {claim.epoch} is no longer its writer, or not at this sequence"
    raise Fenced(msg)


def _told(entries: Sequence[Entry]) -> list[str | bytes]:
    """Kind and JSON of each entry in turn, as the scripts take them."""
    told: list[str | bytes] = []
    for entry in entries:
        told += [entry.kind, msgspec.json.encode(entry)]
    return told


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _pairs(flat: Sequence[str]) -> dict[int, int]:
    """Partition to mark, from the two in turn."""
    return {int(p): int(mark) for p, mark in zip(flat[::2], flat[1::2], strict=True)}
