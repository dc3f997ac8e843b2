"""A roll-back that a person asks for, carried out between two batches by the shard's owner.

    look        the request is in the store; asked for once a second
    refuse      whatever cannot be done is answered with its reason, and nothing is changed
    take        from here on the person cannot take it back
    carry out   in memory, as a version with the cause `rollback` that names the request
    save        at once; a crash before it leaves the request standing, for whoever owns the shard next
    answer      a crash before it: the next owner finds the request in its lineage, and answers

So it takes effect exactly once, at the position of the checkpoint that first holds it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from importlib import metadata

from fluvial.checkpoint import Expectation
from fluvial.errors import (
    CheckpointRefused,
    FluvialError,
    SourceUnavailable,
    StoreError,
    StoreUnavailable,
)
from fluvial.keeper import ASK_SECONDS, Keeper, Parts
from fluvial.kept import load_kept, open_kept
from fluvial.learner import Learner
from fluvial.ledger import Ledger
from fluvial.models import unpickle
from fluvial.shard import LARGE, SECONDS, extra_classes, model_fingerprint, signing_keys
from fluvial.types import Reply, Retired, Rollback

log = logging.getLogger("fluvial.worker")


SAY_AGAIN_SECONDS = 60.0
"""Between two words about a request that cannot be read."""
MOST_WORDS, MOST_SPANS = 500, 100
"""What a request may say stays in the lineage, and so in each checkpoint."""


class RollbackRefused(FluvialError):
    """What was asked for cannot be done; nothing was changed."""


def _asked(parts: Parts, keeper: Keeper) -> Rollback | None:
    """What is asked for, looked up once a second."""
    now = time.monotonic()
    if now < keeper.look_for_requests_at:
        return None
    keeper.look_for_requests_at = now + ASK_SECONDS
    try:
        return parts.store.asked(keeper.shard.claim.shard)
    except StoreUnavailable:
        return None  # who has to write says it, and waits
    except StoreError as error:  # what stands there is no request
        log.warning("a roll-back is asked for that cannot be read: %s", error)
        keeper.look_for_requests_at = now + SAY_AGAIN_SECONDS
        return None


def heed(parts: Parts, keeper: Keeper, stretch: Callable[[str, int], None]) -> bool:
    """Look for a request and deal with it; True: read again from the shard's offsets. Raises Fenced."""
    request, moved = _asked(parts, keeper), False
    if request is None:
        return False
    if _made(keeper, request) is None:
        taken = _carry_out(parts, keeper, request, stretch)
        if taken is None:
            return False
        request, moved = taken, taken.relearn
    if keeper.unsaved:
        keeper.checkpoint()
    if not keeper.unsaved:  # else it could not be saved: tried again in a second
        _answer(parts, keeper, request, Reply(request.id, _made(keeper, request)))
    return moved


def _carry_out(
    parts: Parts, keeper: Keeper, request: Rollback, stretch: Callable[[str, int], None]
) -> Rollback | None:
    """Look at the kept model and let it answer, in memory; the request as it stands then, or None."""
    try:
        kept = _prepared(parts, keeper, request, stretch)
    except RollbackRefused as error:
        log.warning("no roll-back to version %d: %s", request.version, error)
        _answer(parts, keeper, request, Reply(request.id, None, str(error)))
        return None
    except SourceUnavailable as error:
        log.warning("the roll-back to version %d waits: %s", request.version, error)
        return None
    taken = keeper.persist(lambda: parts.store.take(keeper.shard.claim, request))
    if taken is None:
        log.warning("no roll-back to version %d: it was taken back", request.version)
        return None
    log.warning("rolling back to version %d, as %s asked", request.version, request.by)
    keeper.roll_back(kept, taken)
    return taken


def _answer(parts: Parts, keeper: Keeper, request: Rollback, reply: Reply) -> None:
    keeper.persist(lambda: parts.store.answer(keeper.shard.claim, request, reply))


def _made(keeper: Keeper, request: Rollback) -> int | None:
    """The version that this request made already."""
    versions = keeper.shard.learner.lineage.versions
    return next((v.number for v in reversed(versions) if v.detail.get("request") == request.id), None)


def _prepared(
    parts: Parts, keeper: Keeper, request: Rollback, stretch: Callable[[str, int], None]
) -> Retired:
    """The kept model, looked at. Raises RollbackRefused, SourceUnavailable, Fenced."""
    settings, shard = parts.settings, keeper.shard
    if request.version == shard.learner.lineage.current:
        raise RollbackRefused(f"version {request.version} is the one that answers now")
    if len(request.because) + len(request.by) > MOST_WORDS or len(request.skip) > MOST_SPANS:
        raise RollbackRefused(f"at most {MOST_WORDS} characters of who and why, and {MOST_SPANS} spans")
    blob = keeper.persist(lambda: parts.store.version_blob(shard.claim.shard, request.version))
    if blob is None:
        raise RollbackRefused(
            f"version {request.version} has no kept model; `fluvial versions list` shows which have one"
        )
    if len(blob) >= LARGE:
        keeper.persist(lambda: stretch(shard.claim.shard, len(blob)))
    expect = Expectation(
        service=settings.service,
        shard=shard.claim.shard,
        schema=settings.schema.hash,
        river=metadata.version("river"),
        cluster=shard.topology.cluster_id if request.relearn else None,
        topic=shard.topology.topic_id if request.relearn else None,
        version=request.version,
        max_bytes=settings.checkpoint.max_bytes,
    )
    extra, limit = extra_classes(settings), settings.checkpoint.max_bytes
    try:
        opened = open_kept(blob, expect, signing_keys(settings), model_fingerprint(settings))
        learner = shard.learner
        kept, _ = load_kept(opened, lambda b: unpickle.loads(b, extra, limit), learner.spec, learner.crew)
    except CheckpointRefused as error:
        raise RollbackRefused(f"version {request.version} cannot be loaded: {error}") from error
    _check_what_is_learned(learner, kept, request)
    if request.relearn:
        _check_the_log(parts, opened.header.offsets, learner.learned_until(), request)
    return kept


def _check_what_is_learned(learner: Learner, kept: Retired, request: Rollback) -> None:
    """No event may be learned twice, and none that waits for its label be lost."""
    late = learner.late.busy or any(p.pending for p in Ledger.restore(kept.ledger).partitions.values())
    if request.relearn and late:
        raise RollbackRefused("labels are late (policy.label_delay): roll back without learning again")
    if learner.relearning is not None and not request.relearn:
        raise RollbackRefused(
            "the log is being learned again, and a model that had learned more would learn it twice: ask "
            "with --relearn, or once that is over"
        )
    known, until = Ledger.restore(kept.ledger).offsets(), learner.learned_until()
    ahead = {p: offset for p, offset in known.items() if offset > until.get(p, offset)}
    if ahead:
        raise RollbackRefused(
            f"version {request.version} had learned up to {ahead}, and this lineage, which began anew, is "
            "not there yet: events would be learned twice. Ask once it is"
        )
    if request.skip and not request.relearn:
        raise RollbackRefused("a span can be left out only of what is learned again")


def _check_the_log(
    parts: Parts, begin: Mapping[int, int], until: Mapping[int, int], request: Rollback
) -> None:
    """The log still has what is to be learned again, and the spans lie in it."""
    if begin.keys() != until.keys():
        more = sorted(until.keys() ^ begin.keys())
        raise RollbackRefused(
            f"version {request.version} is older than partitions {more}: where to read those is not known"
        )
    for partition, offset in begin.items():
        low = parts.source.bounds(partition, SECONDS).low
        if offset < low:
            raise RollbackRefused(
                f"version {request.version} had learned partition {partition} up to offset {offset}, and the "
                f"log begins at {low} now: roll back without learning again"
            )
    for partition, first, after in request.skip:
        if not begin.get(partition, 0) <= first < after <= until.get(partition, 0):
            raise RollbackRefused(
                f"offsets {first} to {after} of partition {partition} are not among what is learned again: "
                f"{begin.get(partition)} to {until.get(partition)}"
            )
