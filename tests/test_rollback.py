"""Going back to an earlier version: in the fold, in the worker, over crashes."""

import threading
import time
from importlib import metadata

import msgspec
import pytest

from fluvial import rollback
from fluvial.adapters.memory_store import MemoryStore
from fluvial.adapters.versions import outdated
from fluvial.checkpoint import Expectation
from fluvial.codec import Codec
from fluvial.config.settings import VersionSettings
from fluvial.drift.error import CLOCK
from fluvial.errors import Fenced, StoreError, StoreFull, StoreUnavailable
from fluvial.kept import open_kept
from fluvial.learner import PROBES
from fluvial.models import unpickle
from fluvial.relearning import Relearning
from fluvial.shard import model_fingerprint, signing_keys
from fluvial.types import Kept, Rollback
from fluvial.worker import SHARD
from support import fold
from test_worker import Bench

BACK = Rollback("r1", 1, "ann", "the labels were wrong", 1e9)
CASES = {
    "linear": (lambda: fold.drifting(2_400), "linear"),
    "five classes": (lambda: fold.five(1_500), "softmax"),
    "regression": (lambda: fold.numbers(2_400), "regression"),
    "auto": (lambda: fold.five(1_200), {"preset": "auto"}),
}


def folded(case, policy, at):
    """A fold up to `at`, its settings, all events and what was retired by the way."""
    make, factory = CASES[case]
    log = make()
    settings = fold.settings(log, factory, policy)
    learner, retired = fold.genesis(settings), []
    events = fold.decoded(settings, log.values)
    for event in events[:at]:
        outcome = learner.step(event)
        retired += outcome.rare.retired if outcome.rare else ()
    return settings, learner, events, retired


def kept_now(learner):
    """What would be kept of it if it were replaced at this moment."""
    return fold.copied(learner).retired()


# --- the fold --------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("policy", ["observe", "reset", "reweight"])
@pytest.mark.parametrize("at", [CLOCK * 20, CLOCK * 20 + 7])
def test_what_answers_after_a_roll_back_is_the_kept_model(case, policy, at):
    """From there on it is the fold of the one that never left, whatever was learned meanwhile."""
    _, learner, events, _ = folded(case, policy, at)
    kept = kept_now(learner)
    members = learner.spec.load(kept.blob)
    for event in events[at : at + 150]:
        learner.step(event)
    judged = repr(learner.metrics())
    rare = learner.roll_back(kept, BACK)
    assert repr(learner.metrics()) == judged, "what was served stays judged"
    champions = [m for m in learner.mixture.members if m.champion]
    assert [m.lane for m in champions] == list(members)
    x = events[at].x
    asked = learner.crew.load(learner.crew.dump(champions))
    for member, copy in zip(champions, asked, strict=True):
        assert member.ask(x) == copy.ask(x)
        alone = learner.crew.member(member.lane, True, 0, members[member.lane])
        assert alone.ask(x) == member.ask(x)
    assert {m.lane: learner.events - m.born for m in champions} == dict(kept.ages)
    (version,) = rare.versions
    assert (version.cause, version.offset, version.events) == ("rollback", at + 150, learner.events)
    assert (version.detail["to"], version.detail["by"]) == (kept.version, "ann")
    assert version.detail["because"] == "the labels were wrong"
    assert [r.version for r in rare.retired] == [version.parent]
    broken = fold.copied(learner)
    assert broken.step(events[at + 150]).version == version.number
    fold.assert_same_fold(fold.copied(learner), learner, events[at + 150 : at + 500])


def test_a_roll_back_can_be_rolled_back():
    _, learner, events, _ = folded("linear", "observe", 1_000)
    kept = kept_now(learner)
    for event in events[1_000:1_300]:
        learner.step(event)
    before = fold.copied(learner)
    (left,) = learner.roll_back(kept, BACK).retired
    learner.roll_back(left, msgspec.structs.replace(BACK, id="r2", version=2))
    assert [v.cause for v in learner.lineage.versions] == ["genesis", "rollback", "rollback"]
    for event in events[1_300:1_500]:
        assert learner.step(event).answer == before.step(event).answer


@pytest.mark.parametrize("policy", ["observe", "reset", "reweight"])
@pytest.mark.parametrize("batch", [1, 7, 500])
def test_learning_again_teaches_the_log_less_the_bad_span(policy, batch):
    """The kept model, taught what came since but for the span; nothing is served or judged a second time."""
    at, now, skip = 1_000, 1_500, ((0, 1_100, 1_250),)
    _, learner, events, _ = folded("linear", policy, at)
    kept = kept_now(learner)
    for event in events[at:now]:
        learner.step(event)
    metrics, seen = repr(learner.metrics()), learner.events
    learner.roll_back(kept, msgspec.structs.replace(BACK, relearn=True, skip=skip))
    assert learner.ledger.partitions[0].next == at
    plain = learner.crew.member("model", True, 0, learner.spec.load(kept.blob)["model"])
    for event in events[at:now]:
        if not 1_100 <= event.offset < 1_250:
            plain.teach(event.x, event.y)
    outcomes = []
    for start in range(at, now, batch):
        learner = fold.copied(learner)
        outcomes += learner.steps(events[start : min(start + batch, now)])
    assert not any(o.known for o in outcomes)
    assert repr(learner.metrics()) == metrics
    ledger = learner.ledger.partitions[0]
    assert (ledger.next, ledger.skipped, ledger.learned) == (now, 150, now - 150)
    assert ledger.balanced()
    assert learner.events == seen + now - at - 150
    told = [e.kind for o in outcomes if o.rare for e in o.rare.entries]
    assert told == ["relearned"]
    assert learner.relearning is None
    champion = learner.mixture.members[0]
    for event in events[now : now + 100]:
        assert champion.ask(event.x) == plain.ask(event.x)
    assert learner.steps(events[now : now + 1])[0].known


def test_what_a_roll_back_leaves_out_is_learned_by_nobody_later():
    """A refit takes the newest events that are remembered: those of the bad span are not among them."""
    _, learner, events, _ = folded("linear", "observe", 1_000)
    kept = kept_now(learner)
    learner.steps(events[1_000:1_400])
    learner.roll_back(kept, msgspec.structs.replace(BACK, relearn=True, skip=((0, 1_000, 1_400),)))
    learner = fold.copied(learner)
    learner.steps(events[1_000:1_600])
    assert [x for x, _, _ in learner._newest(500)] == [event.x for event in events[1_400:1_599]]


def test_a_model_that_is_replaced_has_not_learned_the_event_at_which_it_was():
    """Learning again from there begins with that event: taught once, by whoever comes back."""
    _, learner, events, retired = folded("linear", "reset", 2_400)
    assert retired
    number = retired[0].served.number
    made = next(v for v in learner.lineage.versions if v.parent == number)
    ledger = retired[0].ledger["partitions"][0]
    assert ledger[1] == made.offset - 1
    again = fold.copied(learner)
    again.roll_back(retired[0], msgspec.structs.replace(BACK, relearn=True))
    assert again.ledger.partitions[0].balanced()
    again.step(events[made.offset - 1])
    assert again.ledger.partitions[0].next == made.offset
    assert again.ledger.partitions[0].balanced()


def test_several_partitions_come_back_each_by_itself():
    log = fold.drifting(1_200)
    settings = fold.settings(log, "linear", "observe")
    learner = fold.genesis(settings, partitions=2)
    halves = [fold.decoded(settings, log.values[:600], 0), fold.decoded(settings, log.values[600:], 1)]
    for pair in zip(halves[0][:300], halves[1][:300], strict=True):
        for event in pair:
            learner.step(event)
    kept = kept_now(learner)
    for event in (*halves[0][300:500], *halves[1][300:350]):
        learner.step(event)
    learner.roll_back(kept, msgspec.structs.replace(BACK, relearn=True))
    assert learner.ledger.offsets() == {0: 300, 1: 300}
    assert not learner.step(halves[1][300]).known
    for event in halves[1][301:350]:
        assert not learner.step(event).known
    assert learner.step(halves[1][350]).known, "that partition is back where it was"
    outcomes = [learner.step(event) for event in halves[0][300:500]]
    assert not any(o.known for o in outcomes)
    assert [e.kind for o in outcomes if o.rare for e in o.rare.entries] == ["relearned"]
    assert learner.ledger.offsets() == {0: 500, 1: 351}
    assert all(ledger.balanced() for ledger in learner.ledger.partitions.values())


def test_what_was_refused_is_refused_again_or_left_out():
    _, learner, events, _ = folded("linear", "observe", 100)
    kept = kept_now(learner)
    learner.refuse(0, 100)
    learner.refuse(0, 101)
    learner.roll_back(kept, msgspec.structs.replace(BACK, relearn=True, skip=((0, 101, 102),)))
    learner.refuse(0, 100)
    assert learner.left_out(0, 101)
    learner.refuse(0, 101)
    ledger = learner.ledger.partitions[0]
    assert (ledger.dead, ledger.skipped, ledger.balanced()) == (1, 1, True)
    assert learner.step(events[102]).known


def unsaid(learner):
    return [(e.kind, e.partition, e.offset, e.detail) for e in learner.unsaid]


def plain_again(learner):
    """A roll-back without learning again is not refused any more."""
    rollback._check_what_is_learned(learner, kept_now(learner), BACK)


@pytest.mark.parametrize("left_out", [False, True])
def test_learning_again_ends_at_a_last_event_that_is_refused(left_out):
    """Nothing good may come for hours, and until then no roll-back without learning again was possible."""
    _, learner, events, _ = folded("linear", "observe", 100)
    kept = kept_now(learner)
    learner.step(events[100])
    learner.refuse(0, 101)
    skip = ((0, 101, 102),) if left_out else ()
    learner.roll_back(kept, msgspec.structs.replace(BACK, relearn=True, skip=skip))
    assert learner.step(events[100]).rare is None
    assert learner.relearning is not None
    learner.refuse(0, 101)
    assert learner.relearning is None
    assert unsaid(learner) == [("relearned", 0, 101, {"version": 2})]
    plain_again(learner)
    outcome = learner.step(events[102])
    assert outcome.known
    assert outcome.rare is None, "it is said once"


def test_learning_again_ends_at_offsets_that_left_the_log():
    _, learner, events, _ = folded("linear", "observe", 100)
    kept = kept_now(learner)
    for event in events[100:150]:
        learner.step(event)
    learner.roll_back(kept, msgspec.structs.replace(BACK, relearn=True))
    learner.skip(0, 140)
    assert (learner.relearning is not None, learner.unsaid) == (True, [])
    learner.skip(0, 150)
    assert learner.relearning is None
    assert unsaid(learner) == [("relearned", 0, 149, {"version": 2})]
    plain_again(learner)
    assert learner.step(events[150]).known


def test_with_nothing_to_learn_again_it_is_over_at_once():
    """The model that comes back was left at this very offset."""
    _, learner, events, _ = folded("linear", "observe", 200)
    (left,) = learner.roll_back(kept_now(learner), BACK).retired
    rare = learner.roll_back(left, msgspec.structs.replace(BACK, id="r2", version=2, relearn=True))
    assert [e.kind for e in rare.entries] == ["version", "relearned"]
    assert learner.relearning is None
    assert len(learner.memory) == 200, "nothing is learned again, so what is remembered stays"
    plain_again(learner)
    outcome = learner.step(events[200])
    assert (outcome.known, outcome.rare) == (True, None)


def test_a_state_that_never_ended_learning_again_ends_it_when_it_is_loaded():
    """Those of an earlier release, which asked for the end at good events alone."""
    _, learner, _, _ = folded("linear", "observe", 100)
    state = learner.state()
    loaded = type(learner)(learner.spec, {**state, "relearning": {"until": {0: 100}, "skip": []}})
    assert loaded.relearning is None
    assert unsaid(loaded) == [("relearned", 0, 99, {"version": 1})]
    under_way = type(learner)(learner.spec, {**state, "relearning": {"until": {0: 101}, "skip": []}})
    assert (under_way.relearning.until, under_way.unsaid) == ({0: 101}, [])


def test_an_older_state_has_nothing_to_learn_again():
    _, learner, _, _ = folded("linear", "observe", 100)
    state = learner.state()
    del state["relearning"]
    assert type(learner)(learner.spec, state).relearning is None


# --- the worker ------------------------------------------------------------------------------------


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.setattr(rollback, "ASK_SECONDS", 0.02)
    made = []

    def make(*args, **sections):
        made.append(Bench(*args, **sections))
        return made[-1]

    yield make
    for running in (r for b in made for r in b.running):
        running.worker.stop()
        running.thread.join(30)


def reset_once(make, **sections):
    """A bench whose model drifted twice: versions 1 and 2 are kept, 3 answers, and nothing more comes."""
    b = make(fold.drifting(1_200), "linear", "reset", **sections)
    running = b.start()
    running.until(lambda: b.offset() == b.end(), "the fold")
    assert list(b.backing.shards[SHARD].kept) == [1, 2]
    return b, running


def person(b, **options):
    """Asks for version 1."""
    request = Rollback(**{"id": "r1", "version": 1, "by": "ann", "because": "why not", "at": 1e9, **options})
    assert MemoryStore(b.backing).ask(SHARD, request)
    return request


def answered(b, running, number="r1"):
    def reply():
        found = b.backing.answered.get(SHARD)
        return found is not None and found.id == number and found

    running.until(reply, "an answer")
    assert SHARD not in b.backing.asked
    return reply()


def rollbacks(b):
    return [v for v in b.learner().lineage.versions if v.cause == "rollback"]


def as_folded(b, version, request, more=()):
    """The state, and every score, is that of a plain fold with the roll-back at the same event."""
    at = version.offset
    values = [m.value() for m in b.topic.read(0, 0, 10**9)]
    codec, oracle = Codec(b.settings.schema), fold.genesis(b.settings)
    retired, scores, offset = {}, {}, 0
    while offset < len(values) or at is not None:
        if offset == at:
            oracle.roll_back(retired[request.version], request)
            at, offset = None, oracle.ledger.partitions[0].next
            continue
        event = codec.decode(values[offset], None, 0, offset, 0)
        outcome = oracle.step(event)
        retired |= {r.version: r for r in outcome.rare.retired} if outcome.rare else {}
        if outcome.known and event.key not in scores:
            scores[event.key] = (offset, outcome.version, outcome.answer)
        offset += 1
    fold.assert_same_fold(b.learner(), oracle)
    found = {k: (s.offset, s.version, tuple(s.probabilities.values())) for k, s in b.scores().items()}
    assert found == scores
    return oracle


def go_on(b, running, count=400):
    begin = b.end()
    b.append([fold.wire(begin + i, *event) for i, event in enumerate(b.log.events[:count])])
    running.until(lambda: b.offset() == b.end(), "the rest")
    running.stop()


def test_a_running_worker_rolls_back_between_two_batches_and_goes_on(bench):
    b, running = reset_once(bench)
    request = person(b)
    reply = answered(b, running)
    (version,) = rollbacks(b)
    assert (reply.version, version.offset) == (version.number, 1_200)
    go_on(b, running)
    as_folded(b, version, request)
    told = [e for _, _, e in b.backing.journal if e.kind in {"rollback-asked", "version"}][-2:]
    assert [e.kind for e in told] == ["rollback-asked", "version"]
    assert (told[1].detail["cause"], told[1].detail["detail"]["by"]) == ("rollback", "ann")
    assert running.worker.tally.happened["version", "rollback"] == 1
    assert version.parent in b.backing.shards[SHARD].kept, "the one that was left can be brought back"


def test_learning_again_is_journalled_as_over_when_the_log_ends_with_a_refused_event(bench):
    b, running = reset_once(bench)
    b.append([b"not json"])
    running.until(lambda: b.offset() == b.end(), "the refused one")
    person(b, relearn=True)
    answered(b, running)
    running.until(lambda: "relearned" in b.kinds() and b.offset() == b.end(), "the end of it")
    person(b, id="r2", version=2)
    assert answered(b, running, "r2").version, "a plain roll-back is not refused"
    running.stop()
    assert b.kinds().count("relearned") == 1


def test_a_request_made_while_nobody_works_waits(bench):
    b, running = reset_once(bench)
    running.stop()
    request = person(b)
    again = b.start()
    answered(b, again)
    (version,) = rollbacks(b)
    go_on(b, again)
    as_folded(b, version, request)


def test_under_load_it_happens_at_one_event(bench):
    b = bench(fold.drifting(4_000), "linear", "reset", kafka={"batch": 16})
    running = b.start()
    running.until(lambda: 1 in getattr(b.backing.shards.get(SHARD), "kept", {}), "a replaced model")
    request = person(b)
    answered(b, running)
    go_on(b, running)
    (version,) = rollbacks(b)
    as_folded(b, version, request)


@pytest.mark.parametrize("skip", [(), ((0, 1_000, 1_150),)])
def test_the_log_is_learned_again_without_the_bad_span(bench, skip):
    b, running = reset_once(bench)
    before = b.scores()
    request = person(b, relearn=True, skip=skip)
    answered(b, running)
    (version,) = rollbacks(b)
    running.until(lambda: "relearned" in b.kinds() and b.offset() == 1_200, "the end of it")
    assert b.scores() == before, "what was served stays"
    go_on(b, running)
    oracle = as_folded(b, version, request)
    ledger = oracle.ledger.partitions[0]
    assert (ledger.skipped, ledger.balanced()) == (sum(after - first for _, first, after in skip), True)
    assert b.kinds().count("relearned") == 1
    view = running.worker.tally
    assert view.taken[0].start == 0


def opened(b, number):
    """The envelope of a kept model, as a worker opens it."""
    blob, settings = b.backing.shards[SHARD].versions[number], b.settings
    expect = Expectation(
        settings.service, SHARD, settings.schema.hash, metadata.version("river"), version=number
    )
    return open_kept(blob, expect, signing_keys(settings), model_fingerprint(settings))


def test_a_model_that_learning_again_left_is_sealed_with_the_last_events_of_its_time(bench):
    """What is remembered is emptied at that moment: a model sealed without answers is not checked at all."""
    b, running = reset_once(bench)
    last = [event.x for event in fold.decoded(b.settings, b.log.values)[1_200 - PROBES :]]
    person(b, relearn=True)
    answered(b, running)
    running.stop()
    left = rollbacks(b)[0].parent
    envelope = opened(b, left)
    assert unpickle.loads(envelope.payload)["probes"] == last
    (model,) = fold.kept_model(b.settings, b.backing.shards[SHARD].versions[left], left)[1].values()
    said = [model.predict_proba_one(x) for x in last]
    assert [list(answer) for answer in envelope.answers] == [[a[False], a[True]] for a in said]


@pytest.mark.parametrize("at", [0, 5, CLOCK * 20 + 7])
def test_a_replaced_model_has_the_last_events_of_its_time_with_it(at):
    _, learner, events, _ = folded("linear", "observe", at)
    newest = [(e.x, e.y, 1.0) for e in events[max(0, at - PROBES) : at]]
    assert list(learner.retired().probes) == newest
    (left,) = learner.roll_back(kept_now(learner), msgspec.structs.replace(BACK, relearn=True)).retired
    assert list(left.probes) == newest


def test_while_the_log_is_learned_again_only_learning_again_is_allowed(bench):
    """A model that had learned more would learn it twice; and spans may lie in all that was answered."""
    b, running = reset_once(bench)
    learner = running.worker.keeper.shard.learner
    learner.relearning = Relearning({0: 5_000})
    person(b)
    assert "being learned again" in answered(b, running).because
    assert learner.learned_until() == {0: 5_000}
    person(b, id="r2", relearn=True, skip=((0, 4_000, 4_100),))
    assert answered(b, running, "r2").version is not None
    running.stop()


def test_of_versions_kept_the_oldest_go_by_time_whatever_their_numbers():
    """Behind a lineage that began anew the high numbers are the old ones."""
    kept = {n: Kept(at=100.0 + n) for n in (7, 8, 9)} | {n: Kept(at=200.0 + n) for n in (1, 2)}
    assert outdated(kept, VersionSettings(keep=2), 300.0) == [7, 8, 9]
    pinned = kept | {7: Kept(at=107.0, pinned="ann")}
    assert outdated(pinned, VersionSettings(keep=2), 300.0) == [8, 9]
    assert outdated(kept, VersionSettings(keep=0), 300.0) == [7, 8, 9, 1, 2]


def test_what_is_no_request_is_said_and_the_work_goes_on(bench, caplog):
    class Odd(MemoryStore):
        def asked(self, shard):
            raise StoreError("this is no request; remove that field")

    b = bench(fold.drifting(1_200), "linear", "reset")
    b.run_to_the_end(store=Odd(b.backing))
    assert caplog.text.count("cannot be read: this is no request; remove that field") == 1


REFUSED = {
    "not kept": ({"version": 77}, "no kept model"),
    "serving": ({"version": 3}, "answers now"),
    "a span without learning again": ({"skip": ((0, 1_000, 1_100),)}, "only of what is learned again"),
    "a span that was not answered yet": ({"relearn": True, "skip": ((0, 1_100, 9_999),)}, "not among"),
    "a span before the model": ({"relearn": True, "skip": ((0, 3, 9),)}, "not among"),
    "endless words": ({"because": "w" * 501}, "at most 500"),
    "a span of nowhere": ({"relearn": True, "skip": ((4, 3, 9),)}, "not among"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_answered_and_changes_nothing(bench, case):
    options, why = REFUSED[case]
    b, running = reset_once(bench)
    person(b, **options)
    reply = answered(b, running)
    assert reply.version is None
    assert why in reply.because
    go_on(b, running)
    assert "rollback-refused" in b.kinds()
    kept = [row for row in b.backing.journal if not row[2].kind.startswith("rollback")]
    b.backing.journal.clear()
    b.backing.journal.extend(kept)
    b.assert_as_undisturbed()


def test_a_log_that_no_longer_holds_it_is_said(bench):
    b, running = reset_once(bench)
    b.topic.trim(0, 1_150)
    person(b, relearn=True)
    assert "the log begins at 1150" in answered(b, running).because
    person(b, id="r2")
    assert answered(b, running, "r2").version == 4


def forged(b, how):
    """Version 1's blob as somebody else would leave it."""
    shard = b.backing.shards[SHARD]
    good = shard.versions[1]
    if how == "altered":
        middle = len(good) // 2
        return good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :]
    if how == "a checkpoint":
        return shard.blobs[0]
    if how == "another version":
        return shard.versions[2]
    return {"a plain pickle": b"\x80\x05N.", "nothing": b"", "cut off": good[:-40]}[how]


@pytest.mark.parametrize(
    "how", ["altered", "a checkpoint", "another version", "a plain pickle", "nothing", "cut off"]
)
def test_a_forged_version_is_refused(bench, how):
    b, running = reset_once(bench)
    person(b, id="r0")
    answered(b, running, "r0")  # so that version 2 is kept, too
    with b.backing.lock:
        b.backing.shards[SHARD].versions[1] = forged(b, how)
    person(b)
    reply = answered(b, running)
    assert reply.version is None
    assert "version 1 cannot be loaded" in reply.because
    assert len(rollbacks(b)) == 1
    go_on(b, running)


def test_a_lineage_that_begins_anew_takes_no_number_of_a_kept_version(bench):
    """Rebuilt from the log because no checkpoint could be loaded: who asked for version 1 gets that one."""
    b, running = reset_once(bench)
    running.stop()
    shard = b.backing.shards[SHARD]
    shard.blobs, before = [b"spoilt", b"spoilt"], dict(shard.versions)
    b.settings = b.with_settings(checkpoint={"on_refused": "replay"})
    person(b)
    again = b.start()
    early = answered(b, again)
    assert early.version is None, "it would learn twice what is read again"
    assert "not there yet" in early.because
    again.until(lambda: b.offset() == b.end(), "the replay")
    assert {n: shard.versions[n] for n in (1, 2)} == before
    request = person(b, id="r2")
    reply = answered(b, again, "r2")
    again.stop()
    numbers = [v.number for v in b.learner().lineage.versions]
    assert numbers[0] == 4, "3 answered last and was not kept"
    (made,) = rollbacks(b)
    assert (made.number, made.detail["request"], made.detail["to"]) == (reply.version, request.id, 1)


def test_a_kept_version_does_not_stand_in_for_a_checkpoint(bench):
    b, running = reset_once(bench)
    running.stop()
    shard = b.backing.shards[SHARD]
    shard.blobs = [shard.versions[1]]
    again = b.start()
    again.thread.join(30)
    assert "version 1 and not a checkpoint" in str(again.raised) or "digest" in str(again.raised)


# --- over crashes ----------------------------------------------------------------------------------


class Mortal(MemoryStore):
    """Its worker dies (as far as the store can tell) at a chosen call, before or after it had its effect.

    The claim saves, too: only what comes once the request was seen counts.
    """

    def __init__(self, backing, call, *, after):
        super().__init__(backing)
        self.call, self.after, self.dead, self.seen = call, after, threading.Event(), False

    def asked(self, shard):
        self.seen = True
        return super().asked(shard)

    def _dies(self, name, args):
        if self.dead.is_set():
            raise Fenced("dead")
        hit = name == self.call and self.seen
        if hit and self.after:
            getattr(MemoryStore, name)(self, *args)
        if hit:
            self.dead.set()
            raise Fenced("dead")
        return getattr(MemoryStore, name)(self, *args)

    def save(self, *args):
        return self._dies("save", args)

    def take(self, *args):
        return self._dies("take", args)

    def answer(self, *args):
        return self._dies("answer", args)

    def lease(self, *args):
        return False if self.dead.is_set() else super().lease(*args)


@pytest.mark.parametrize("relearn", [False, True])
@pytest.mark.parametrize("call", ["take", "save", "answer"])
@pytest.mark.parametrize("after", [False, True])
def test_a_crash_in_the_middle_takes_effect_once(bench, call, after, relearn):
    """Before and behind each: it cannot be taken back any more, the checkpoint, the answer."""
    b, running = reset_once(bench)
    running.stop()
    request = person(b, relearn=relearn)
    store = Mortal(b.backing, call, after=after)
    first = b.start(store=store)
    first.until(store.dead.is_set, "the crash")
    second = b.start("two")
    reply = answered(b, second)
    (version,) = rollbacks(b)
    assert reply.version == version.number
    go_on(b, second)
    first.worker.stop()
    as_folded(b, version, request)
    made = [e.detail["cause"] for _, _, e in b.backing.journal if e.kind == "version"]
    assert made.count("rollback") == 1
    assert b.kinds().count("rollback-asked") == 1


def test_a_full_store_is_answered_only_when_it_is_durable(bench):
    b, running = reset_once(bench)
    running.stop()
    person(b)

    class Full(MemoryStore):
        full = True

        def save(self, claim, sequence, blob, offsets, entries, versions):
            if self.full and any(entry.kind == "version" for entry in entries):
                raise StoreFull("full")
            super().save(claim, sequence, blob, offsets, entries, versions)

    store = Full(b.backing)
    again = b.start(store=store)
    again.until(lambda: again.worker.keeper and again.worker.keeper.tally.save_failures > 1, "two tries")
    assert SHARD in b.backing.asked
    assert SHARD not in b.backing.answered
    store.full = False
    assert answered(b, again).version == 4
    again.stop()
    assert len(rollbacks(b)) == 1


def test_what_is_taken_back_while_it_is_looked_at_is_not_carried_out(bench):
    b, running = reset_once(bench)
    running.stop()
    request = person(b)

    class Late(MemoryStore):
        """The person takes it back between the look at the kept model and the deed."""

        def version_blob(self, shard, number):
            self.withdraw(SHARD, request)
            return super().version_blob(shard, number)

    again = b.start(store=Late(b.backing))
    again.until(lambda: SHARD not in b.backing.asked, "its end")
    go_on(b, again)
    again.stop()
    assert rollbacks(b) == []
    assert SHARD not in b.backing.answered
    assert b.kinds().count("rollback-withdrawn") == 1


def test_an_outage_while_it_is_asked_changes_nothing(bench):
    b, running = reset_once(bench)
    real = running.store.asked
    running.store.asked = lambda _shard: (_ for _ in ()).throw(StoreUnavailable("away"))
    person(b)
    time.sleep(0.2)
    assert rollbacks(b) == []
    running.store.asked = real
    assert answered(b, running).version == 4
    running.stop()


def test_a_paused_shard_rolls_back_and_stays_paused(bench, monkeypatch):
    """Out of a flood: the version before it, the log again, and the flood left out."""
    monkeypatch.setattr("fluvial.keeper.ASK_SECONDS", 0.02)
    b, running = reset_once(bench, dead_letters={"max_run": 20})
    b.append([b"{broken"] * 20)
    running.until(lambda: b.backing.tripped.get(SHARD) is not None and b.offset() == 1_220, "the trip")
    person(b, relearn=True, skip=((0, 1_195, 1_220),))
    answered(b, running)
    assert SHARD in b.backing.tripped
    store = MemoryStore(b.backing)
    assert store.resume(SHARD, store.tripped()[SHARD])
    running.until(lambda: b.offset() == 1_220, "the way back")
    running.stop()
    ledger = b.learner().ledger.partitions[0]
    assert (ledger.skipped, ledger.dead, ledger.balanced()) == (25, 0, True)
    assert len(b.sink.letters) == 20
