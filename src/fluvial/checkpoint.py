"""A checkpoint's envelope: signed bytes that say what they are before anything in them is parsed.

    magic, format, length of the key id      10 bytes
    key id                                   empty when unsigned
    lengths of header, payload and answers   3 x 8 bytes
    header                                   JSON, a `Header`
    payload                                  a pickle made by `models.unpickle.dumps`
    answers                                  doubles: what a loaded copy said to the probe events
    MAC                                      HMAC-SHA256 over all of the above, when signed

**Probes.** The last events served travel in the payload. Before it seals, the worker loads the dump it is
about to seal, asks the *copy* for its answers to these events, and puts them here; asking the live model
would change it. Whoever unseals loads the payload, asks another copy the same in the same order, and gives
both to `compare`: bit for bit, or within 1e-9 where the platform or the interpreter differs
(`Opened.portable` is then False). Pickles are not canonical, so two checkpoints are never compared by
their bytes.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import math
import platform
import struct
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Final

import msgspec

from fluvial import __version__
from fluvial.config import Secret
from fluvial.errors import CheckpointRefused, CheckpointTooLarge, SettingsError
from fluvial.types import Answer, Version

MAGIC: Final = b"FLUVIAL\x00"
FORMAT: Final = 1
MIN_KEY: Final = 32
"""Bytes of a signing key: as many as the digest has."""
MAX_HEADER: Final = 1_000_000
"""Bytes; a topic of 10,000 partitions needs a quarter of it."""
NEAR: Final = 1e-9
"""How far answers may lie apart on another platform, relative and absolute."""
_PREFIX: Final = struct.Struct(">8sBB")
_LENGTHS: Final = struct.Struct(">QQQ")
_MAC: Final = hashlib.sha256().digest_size


class SigningKey(msgspec.Struct, frozen=True):
    """A key and the name it goes by in envelopes; the key itself never shows."""

    id: str
    secret: Secret

    def __post_init__(self) -> None:
        if not 1 <= len(self.id.encode()) <= 64 or not self.id.isprintable():
            raise SettingsError("checkpoint.key_id: give the key a name of 1 to 64 printable characters")
        if len(self.secret.reveal().encode()) < MIN_KEY:
            raise SettingsError(f"checkpoint.key: a signing key has at least {MIN_KEY} bytes")

    def mac(self, *parts: bytes | memoryview) -> bytes:
        """HMAC-SHA256 over the parts, one after the other."""
        digest = hmac.new(self.secret.reveal().encode(), digestmod=hashlib.sha256)
        for part in parts:
            digest.update(part)
        return digest.digest()


class Runtime(msgspec.Struct, frozen=True):
    """What a checkpoint's bytes and answers depend on, beside its content."""

    fluvial: str
    river: str
    python: str
    """`3.12`: patch releases do not change answers."""
    numpy: str
    platform: str
    """System, machine and C library."""

    @property
    def numbers(self) -> tuple[str, str, str]:
        """What floating-point answers may depend on in the last bits."""
        return (self.python, self.numpy, self.platform)


class Served(msgspec.Struct, frozen=True):
    """What a replaced model is, in the header of its envelope."""

    version: Version
    """The one that it served as."""
    metrics: Mapping[str, float] = {}
    """The fading prequential metrics at its end."""


class Header(msgspec.Struct, frozen=True):
    """What the envelope says of its payload; readable without loading a model."""

    service: str
    shard: str
    epoch: int
    sequence: int
    offsets: dict[int, int]
    """The next offset of each partition."""
    cluster: str
    topic: str | None
    """The topic's id, where the broker tells it."""
    settings: str
    """Fingerprint of the settings that the fold depends on."""
    schema: str
    """`Schema.hash`."""
    model: str
    """Fingerprint of the model's settings and blank."""
    model_class: str
    created_at: float
    """Wall time, seconds since the epoch, UTC."""
    size: int
    """Bytes of the payload."""
    runtime: Runtime
    lineage: tuple[Version, ...] = ()
    """The versions so far, as far as the state keeps them, so that they can be read without the model."""
    served: Served | None = None
    """None: a checkpoint; else a replaced model, whose `offsets` are those up to which it had learned."""


class Expectation(msgspec.Struct, frozen=True):
    """What the worker knows of the checkpoint that it asks for; None: not compared."""

    service: str
    shard: str
    schema: str
    river: str
    """The installed release: pickles of another one may mispredict in silence."""
    sequence: int | None = None
    """The stored head's."""
    offsets: dict[int, int] | None = None
    """The stored head's."""
    cluster: str | None = None
    topic: str | None = None
    version: int | None = None
    """A replaced model's; None, which is compared too: a checkpoint."""
    max_bytes: int = 256_000_000


class Opened(msgspec.Struct, frozen=True):
    """An envelope whose MAC and header hold. The payload is still to be loaded, by `models.unpickle`."""

    header: Header
    payload: bytes
    answers: tuple[Answer, ...]
    key: str
    """Id of the key under which the signature holds; empty: nothing was checked."""
    portable: bool
    """False: made on another platform or interpreter; compare answers with `exact=False` and say so."""


@functools.cache
def runtime() -> Runtime:
    """This process's; asking costs ten milliseconds of looking through files, so once."""
    libc = " ".join(platform.libc_ver()).strip()
    return Runtime(
        fluvial=__version__,
        river=metadata.version("river"),
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        numpy=metadata.version("numpy"),
        platform=" ".join(part for part in (platform.system(), platform.machine(), libc) if part),
    )


def seal(
    payload: bytes, header: Header, answers: Sequence[Answer], key: SigningKey | None, max_bytes: int
) -> bytes:
    """The envelope. Raises CheckpointTooLarge when it is over `max_bytes`."""
    text = msgspec.json.encode(header)
    told = _pack(answers)
    name = key.id.encode() if key else b""
    prefix = _PREFIX.pack(MAGIC, FORMAT, len(name))
    parts = [prefix, name, _LENGTHS.pack(len(text), len(payload), len(told)), text, payload, told]
    if key:
        parts.append(key.mac(*parts))
    size = sum(map(len, parts))
    if size > max_bytes:
        msg = f"{size} bytes are over checkpoint.max_bytes = {max_bytes}; the last good one is kept"
        raise CheckpointTooLarge(msg)
    return b"".join(parts)


def unseal(blob: bytes, expect: Expectation, keys: Sequence[SigningKey]) -> Opened:
    """Check the envelope and take it apart; the payload is not loaded.

    `keys`: all that may have signed it (the first one signs new ones); empty: signatures are neither
    asked for nor checked. Raises CheckpointRefused, which says what to do next.
    """
    if len(blob) > expect.max_bytes:
        msg = f"the checkpoint has {len(blob)} bytes: raise checkpoint.max_bytes ({expect.max_bytes})"
        raise CheckpointRefused(msg)
    body, key = _authentic(memoryview(blob), keys)
    text, payload, told = _sections(body)
    try:
        header = msgspec.json.decode(text, type=Header)
        answers = _unpack(told)
    except (msgspec.MsgspecError, struct.error, ValueError) as error:
        msg = f"the checkpoint's header or answers cannot be read ({error}): it was altered or is damaged"
        raise CheckpointRefused(msg) from None
    if header.size != len(payload):
        raise CheckpointRefused("the checkpoint's header tells another size: it was altered")
    _agrees(header, expect)
    portable = header.runtime.numbers == runtime().numbers
    return Opened(header, bytes(payload), answers, key, portable)


def _authentic(blob: memoryview, keys: Sequence[SigningKey]) -> tuple[memoryview, str]:
    """What follows the key id, once the MAC over everything holds, and under which key it does."""
    if len(blob) < _PREFIX.size or bytes(blob[: len(MAGIC)]) != MAGIC:
        raise CheckpointRefused(
            "this is not a checkpoint of Fluvial: is another program writing to these keys?"
        )
    _, version, named = _PREFIX.unpack_from(blob)
    if version != FORMAT:
        raise CheckpointRefused(
            f"the checkpoint has format {version}, this release reads {FORMAT}: run the release that wrote it"
        )
    start = _PREFIX.size + named
    name = bytes(blob[_PREFIX.size : start]).decode("utf-8", "replace")
    if not keys:
        return blob[start : len(blob) - (_MAC if named else 0)], ""
    if not named:
        raise CheckpointRefused(
            "the checkpoint is not signed although a key is configured: rebuild it from the log "
            '(checkpoint.on_refused = "replay"), or start once without a key if you trust the store'
        )
    known = [key for key in keys if key.id == name]
    if not known:
        have = ", ".join(repr(key.id) for key in keys)
        raise CheckpointRefused(
            f"the checkpoint is signed with key {name!r}; configured: {have}. Add that key"
        )
    end = len(blob) - _MAC
    mac = bytes(blob[max(end, 0) :])
    if end < start or not any(hmac.compare_digest(key.mac(blob[:end]), mac) for key in known):
        raise CheckpointRefused(
            f"the checkpoint's signature does not hold under key {name!r}: it was altered, or the key differs"
        )
    return blob[start:end], name


def _sections(body: memoryview) -> tuple[memoryview, memoryview, memoryview]:
    lengths = _LENGTHS.unpack_from(body) if len(body) >= _LENGTHS.size else (0, 0, 0)
    if len(body) != _LENGTHS.size + sum(lengths) or not 0 < lengths[0] <= MAX_HEADER:
        raise CheckpointRefused("the checkpoint is cut off or its sections do not add up: it is damaged")
    header = _LENGTHS.size + lengths[0]
    payload = header + lengths[1]
    return body[_LENGTHS.size : header], body[header:payload], body[payload:]


def _agrees(header: Header, expect: Expectation) -> None:
    """The header is of the shard, log, contract and release that the worker expects."""
    number = None if header.served is None else header.served.version.number
    if number != expect.version:
        found, asked = ("a checkpoint" if n is None else f"version {n}" for n in (number, expect.version))
        raise CheckpointRefused(f"this is {found} and not {asked}: one stands in for the other")
    moved = "moved, or the settings name another one"
    pairs = [
        ("service", header.service, expect.service, moved),
        ("shard", header.shard, expect.shard, moved),
        ("sequence", header.sequence, expect.sequence, "an older or foreign one stands in for the head's"),
        ("offsets", header.offsets, expect.offsets, "an older or foreign one stands in for the head's"),
        (
            "cluster",
            header.cluster,
            expect.cluster,
            "it belongs to another Kafka: point the settings there",
        ),
        ("topic id", header.topic, expect.topic, "the topic was created again; its old offsets mean nothing"),
        (
            "schema",
            header.schema,
            expect.schema,
            "put the schema back, or rebuild: its model knows other features",
        ),
        (
            "River",
            header.runtime.river,
            expect.river,
            f"install river=={header.runtime.river}, or rebuild it from the log",
        ),
    ]
    for what, is_, wanted, then in pairs:
        if wanted is not None and is_ is not None and is_ != wanted:
            msg = f"the checkpoint's {what} is {is_!r} and not {wanted!r}: {then}"
            raise CheckpointRefused(msg + ' (checkpoint.on_refused = "replay" rebuilds from the log)')


def compare(expected: Sequence[Answer], got: Sequence[Answer], *, exact: bool) -> None:
    """Hold the loaded copy's answers against the recorded ones. Raises CheckpointRefused."""
    if len(expected) != len(got):
        raise CheckpointRefused(
            f"the loaded model gave {len(got)} probe answers, {len(expected)} are recorded"
        )
    for index, (wanted, answer) in enumerate(zip(expected, got, strict=True)):
        same = len(wanted) == len(answer) and all(
            _same(a, b, exact=exact) for a, b in zip(wanted, answer, strict=True)
        )
        if not same:
            msg = (
                f"the loaded model answers probe {index} with {answer!r}, recorded is {wanted!r}: its state "
                'does not survive loading here; rebuild it from the log (checkpoint.on_refused = "replay")'
            )
            raise CheckpointRefused(msg)


def _same(a: float, b: float, *, exact: bool) -> bool:
    if exact:
        return struct.pack(">d", a) == struct.pack(">d", b)  # tells -0.0 from 0.0 and takes nan for itself
    return a == b or math.isclose(a, b, rel_tol=NEAR, abs_tol=NEAR) or (math.isnan(a) and math.isnan(b))


def _pack(answers: Sequence[Answer]) -> bytes:
    flat = [number for answer in answers for number in answer]
    lengths = [len(answer) for answer in answers]
    return struct.pack(f">I{len(lengths)}I{len(flat)}d", len(lengths), *lengths, *flat)


def _unpack(told: memoryview) -> tuple[Answer, ...]:
    (count,) = struct.unpack_from(">I", told)
    lengths = struct.unpack_from(f">{count}I", told, 4) if 4 * count < len(told) else (len(told),)
    if 4 + 4 * count + 8 * sum(lengths) != len(told):
        msg = "the lengths of the answers do not add up"
        raise ValueError(msg)
    numbers = iter(struct.unpack_from(f">{sum(lengths)}d", told, 4 + 4 * count))
    return tuple(tuple(next(numbers) for _ in range(length)) for length in lengths)
