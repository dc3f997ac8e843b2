"""Dead letters, whole: the flood breaker in the worker, the lease during an outage, and the commands."""

import base64
import contextlib
import json
import time

import pytest
from confluent_kafka import KafkaError

from fluvial.adapters.kafka import KafkaSink
from fluvial.adapters.memory_log import MemorySink, MemorySource, MemoryTopic
from fluvial.adapters.memory_store import MemoryStore
from fluvial.adapters.redis import RedisStore
from fluvial.cli import check, main, redrive
from fluvial.codec import Codec
from fluvial.config import load
from fluvial.errors import BadEvent, Reason, SourceUnavailable, StoreFull, StoreUnavailable
from fluvial.keys import Keys
from fluvial.looking import look
from fluvial.types import DeadLetter, Trip
from fluvial.worker import SHARD
from support import fold
from support.kafka_broker import create_topic, produce_values, read_topic, unique_topic
from support.service import Service
from test_worker import Bench

BROKEN = b"{broken"


@pytest.fixture
def bench():
    made = []

    def make(*args, **sections):
        made.append(Bench(*args, **sections))
        return made[-1]

    yield make
    for one in made:
        for running in one.running:
            running.worker.stop()
            running.thread.join(20)


def flooded(make, good=300, bad=100, more=200, **limits):
    """A bench whose topic has so many good events, a flood, and good ones again."""
    values = list(fold.drifting(good + bad + more).values)
    values[good : good + bad] = [BROKEN] * bad
    b = make(fold.drifting(0), "linear", dead_letters=limits, kafka={"batch": 64})
    b.append(values)
    return b


def paused(b, running, offset):
    """Wait until it is paused behind this offset."""
    running.until(lambda: b.backing.tripped.get(SHARD) is not None, "the trip")
    running.until(lambda: b.offset() == offset + 1, "its checkpoint")


def tripped(running):
    """It stands before a trip, and its loop turns."""
    keeper = running.worker.keeper
    return keeper is not None and keeper.trip is not None and running.worker.patience.waiting_for is None


def person(b):
    store = MemoryStore(b.backing)
    assert store.resume(SHARD, store.tripped()[SHARD])


def as_undisturbed(b):
    """But for what the breaker and the person journalled."""
    kept = [row for row in b.backing.journal if row[2].kind not in {"tripped", "resumed"}]
    b.backing.journal.clear()
    b.backing.journal.extend(kept)
    b.assert_as_undisturbed()


def settle(running, seconds=0.3):
    """Let the loop turn for a while."""
    until = time.monotonic() + seconds
    turned = running.worker.patience.turned_at
    while time.monotonic() < until:
        time.sleep(0.02)
    assert running.worker.patience.turned_at > turned
    assert running.thread.is_alive()


# ---- the flood breaker -------------------------------------------------------------------------


def test_a_flood_pauses_the_worker_at_a_definite_event_until_a_person_resumes_it(bench, monkeypatch):
    monkeypatch.setattr("fluvial.keeper.ASK_SECONDS", 0.05)
    b = flooded(bench, max_run=30)
    running = b.start()
    paused(b, running, 329)
    settle(running)
    view = look(running.worker, running.source)
    assert (view.ready, view.paused, view.alive) == (False, True, True)
    assert "30 events in a row were refused" in view.not_ready[0]
    assert "fluvial resume" in view.not_ready[0]
    assert (view.shards[0].tripped, view.shards[0].trips) == (True, 1)
    assert (b.offset(), len(b.sink.letters)) == (330, 30)
    assert b.backing.leases[SHARD][0] == "one"
    for pause in (329, 359, 389):
        paused(b, running, pause)
        person(b)
    running.until(lambda: b.offset() == b.end(), "the end")
    view = look(running.worker, running.source)
    assert (view.ready, view.not_ready, view.shards[0].tripped) == (True, (), False)
    assert view.shards[0].trips == 3
    assert running.worker.tally.events == b.end()
    running.stop()
    assert b.kinds().count("tripped") == b.kinds().count("resumed") == 3
    as_undisturbed(b)


@pytest.mark.parametrize("batch", [1, 7, 500])
def test_where_it_trips_does_not_depend_on_batches(bench, batch):
    b = flooded(bench)
    limits = {"max_run": 0, "max_share": 0.5, "window": 100}
    settings = b.with_settings("linear", dead_letters=limits, kafka={"batch": batch})
    running = b.start(settings=settings)
    paused(b, running, 350)
    assert len(b.sink.letters) == 51


def test_inference_does_not_run_ahead_of_the_pause(bench, monkeypatch):
    """Events of a batch that are dropped at the trip decide nothing until they are read again."""
    monkeypatch.setattr("fluvial.keeper.ASK_SECONDS", 0.02)
    log = fold.drifting(200)
    log.schema["infer"] = True
    del log.schema["features"]
    b = bench(log, "linear", dead_letters={"max_run": 5}, kafka={"batch": 500})
    b.topic = MemoryTopic()
    values = list(log.values)
    values[10:20] = [BROKEN] * 10
    b.append(values)
    running = b.start()
    for pause in (14, 19):
        paused(b, running, pause)
        person(b)
    running.until(lambda: b.offset() == b.end(), "the end")
    state = running.worker.shard.codec.state()
    running.stop()
    undisturbed = Codec(b.settings.schema)
    for offset, value in enumerate(values):
        with contextlib.suppress(BadEvent):
            undisturbed.decode(value, None, 0, offset, 0)
    assert state == undisturbed.state()


def test_neither_a_restart_nor_a_standby_starts_it_over(bench):
    b = flooded(bench, max_run=30)
    first = b.start()
    paused(b, first, 329)
    first.stop()
    for owner in ("two", "three"):
        running = b.start(owner=owner)
        running.until(lambda running=running: tripped(running), "the pause")
        settle(running)
        assert (b.offset(), len(b.sink.letters)) == (330, 30)
        if owner == "two":
            running.stop()
    running.until(lambda: b.backing.leases[SHARD][0] == "three", "the lease")
    for pause in (329, 359, 389):
        paused(b, running, pause)
        person(b)
    running.until(lambda: b.offset() == b.end(), "the end")
    running.stop()
    as_undisturbed(b)


def test_counts_survive_a_crash_so_that_restarts_are_no_way_around_it(bench):
    """A worker that dies after every few events trips at the same one as a healthy one."""
    b = flooded(bench, max_run=30)
    until = {"offset": 305}

    class Dying(MemorySource):
        """Gives nothing from that offset on, and dies when a checkpoint holds what came before."""

        def poll(self, limit, seconds):
            if b.offset() >= until["offset"]:
                raise LookupError("killed")
            return super().poll(min(limit, max(0, until["offset"] - self._next[0])), seconds)

    lives = 0
    while SHARD not in b.backing.tripped:
        running, lives = b.start(source=Dying(b.topic, "orders")), lives + 1
        while running.thread.is_alive() and SHARD not in b.backing.tripped:
            time.sleep(0.01)
        until["offset"] += 5
        assert lives < 20
    assert lives > 3
    assert b.backing.tripped[SHARD].id == "0/329"


def test_a_crash_before_the_checkpoint_trips_at_the_same_event_and_is_resumed_once(bench, monkeypatch):
    """The trip is stored, the checkpoint behind it never was: the flood is folded again, and known."""
    monkeypatch.setattr("fluvial.keeper.ASK_SECONDS", 0.05)
    b = flooded(bench, bad=40, max_run=30)

    class Full(MemoryStore):
        def save(self, *args):
            if args[3][0] > 300:
                raise StoreFull("full")
            super().save(*args)

    running = b.start(store=Full(b.backing))
    running.until(lambda: b.backing.tripped.get(SHARD) is not None, "the trip")
    running.stop()
    assert b.offset() <= 300
    again = b.start()
    again.until(lambda: tripped(again), "the pause")
    settle(again)
    assert b.offset() <= 300
    person(b)
    again.until(lambda: b.offset() == b.end(), "the end, without another word from a person")
    again.stop()
    assert b.kinds().count("tripped") == 1
    as_undisturbed(b)


def test_an_outage_of_the_store_during_the_pause_reads_nothing(bench, monkeypatch):
    monkeypatch.setattr("fluvial.keeper.ASK_SECONDS", 0.02)
    b = flooded(bench, max_run=30)
    errors = []

    class Flaky(MemoryStore):
        def trip(self, *args):
            if len(errors) < 3 and b.offset() == 330:
                errors.append(1)
                raise StoreUnavailable("away")
            return super().trip(*args)

    running = b.start(store=Flaky(b.backing))
    paused(b, running, 329)
    running.until(lambda: len(errors) == 3, "the outage")
    settle(running)
    assert (b.offset(), len(b.sink.letters)) == (330, 30)


def test_a_paused_worker_that_loses_its_lease_stands_by(bench):
    b = flooded(bench, max_run=30)
    running = b.start()
    paused(b, running, 329)
    with b.backing.lock:
        b.backing.leases[SHARD] = ("another", b.backing.clock() + 60)
    running.until(lambda: running.worker.shard is None, "the drop")
    running.until(lambda: "another" in (running.worker.patience.waiting_for or ""), "standing by")
    assert not look(running.worker, running.source).paused


def test_a_stop_ends_the_pause(bench):
    b = flooded(bench, max_run=30)
    running = b.start()
    paused(b, running, 329)
    running.stop()
    assert SHARD in b.backing.tripped
    assert b.backing.leases == {}


# ---- back-pressure -----------------------------------------------------------------------------


def test_the_lease_is_kept_while_the_dead_letter_topic_refuses(bench):
    b = flooded(bench, bad=5)
    b.sink.available = False
    b.sink.room = 2
    running = b.start()
    running.until(lambda: "dead letters wait" in (running.worker.patience.waiting_for or ""), "back-pressure")
    renewed = b.backing.leases[SHARD][1]
    other = b.start(owner="two", sink=MemorySink())
    running.until(lambda: b.backing.leases[SHARD][1] > renewed + 1.0, "renewals")  # the lease is 0.3 s long
    assert b.backing.leases[SHARD][0] == "one"
    assert other.worker.shard is None
    b.sink.available = True
    running.until(lambda: b.offset() == b.end(), "the end")
    running.stop()
    assert running.worker.patience.errors["fenced"] == 0


def test_being_fenced_ends_the_wait_for_the_dead_letter_topic(bench):
    b = flooded(bench, bad=5)
    b.sink.available = False
    b.sink.room = 2
    running = b.start()
    running.until(lambda: "dead letters wait" in (running.worker.patience.waiting_for or ""), "back-pressure")
    with b.backing.lock:
        b.backing.leases[SHARD] = ("another", b.backing.clock() + 60)
    running.until(lambda: running.worker.shard is None, "the drop")
    assert running.worker.patience.errors["fenced"] == 1


# ---- the commands ------------------------------------------------------------------------------


class Desk:
    """A settings file, a mock Kafka with both topics and a real Redis; `fluvial` runs in the process."""

    def __init__(self, directory, kafka, redis, capsysbinary):
        self.kafka, self.redis, self._capture = kafka, redis, capsysbinary
        self.config = directory / "fluvial.toml"
        assert main(["init", str(self.config), "--preset", "linear"]) == 0
        text = self.config.read_text().replace("localhost:9092", kafka.bootstrap_servers)
        self.config.write_text(text.replace('#url = "redis://127.0.0.1:6379/0"', f'url = "{redis.url}"'))
        self.settings = load(self.config, {})
        self.keys = Keys(self.settings.service)
        kafka.create_topic("events", 2)
        self.said()

    def said(self):
        out, err = self._capture.readouterr()
        return out.decode(), err.decode()

    def fluvial(self, *words, status=0):
        """What it wrote to standard output and standard error."""
        self.said()
        config = ["--config", str(self.config)] if words[0] == "dead-letters" else [str(self.config)]
        got = main([*words, *config])
        out, err = self.said()
        assert got == status, (got, out, err)
        return out, err

    def send(self, *letters, copies=1):
        sink = KafkaSink(self.settings.kafka, "events.dead-letters")
        try:
            for _ in range(copies):
                sink.send(letters)
            sink.flush(20)
        finally:
            sink.close(2)

    def list(self, *words):
        return [
            json.loads(line)
            for line in self.fluvial("dead-letters", "list", "--json", *words)[0].splitlines()
        ]

    def redriven(self):
        return read_topic(self.kafka.bootstrap_servers, "events")

    def store(self):
        return RedisStore(self.settings.redis, self.keys, self.settings.scores)


@pytest.fixture
def desk(tmp_path, mock_kafka, fresh_redis, capsysbinary):
    mock_kafka.create_topic("events.dead-letters", 2)
    return Desk(tmp_path, mock_kafka, fresh_redis, capsysbinary)


def letter(offset, partition=0, reason=Reason.SCHEMA, **more):
    fields = {
        "topic": "events",
        "partition": partition,
        "offset": offset,
        "key": b"k%d" % offset,
        "value": b'{"n": %d}' % offset,
        "headers": (("trace", b"\xff%d" % offset), ("empty", None)),
        "timestamp_ms": 1_700_000_000_000 + 1_000 * offset,
        "reason": reason,
        "message": "$.a: expected a number",
        "topic_id": "one",
    }
    return DeadLetter(**(fields | more))


def ids(rows):
    return [row["id"] for row in rows]


def test_the_list_shows_the_newest_first_and_each_once(desk):
    desk.send(*(letter(n, n % 2) for n in range(30)), copies=2)
    assert ids(desk.list("--limit", "3")) == ["events/1/29", "events/0/28", "events/1/27"]
    assert len(desk.list("--limit", "100")) == 30
    out, err = desk.fluvial("dead-letters", "list", "--limit", "3")
    assert out.count("events/") == 3
    assert "30 letters (schema 30)" in err
    assert "30 repeated" in err


def test_letters_of_a_topic_made_anew_are_others(desk):
    desk.send(letter(1), letter(1, topic_id="two"), letter(1, topic_id="two"))
    assert [row["topic_id"] for row in desk.list()] == ["one", "two"]


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (["--reason", "label"], [4, 3]),
        (["--reason", "label", "--reason", "model"], [5, 4, 3]),
        (["--partition", "1"], [5, 3, 1]),
        (["--since", "2023-11-14T22:13:23"], [5, 4, 3]),
        (["--since", "2023-11-14T23:13:23+01:00"], [5, 4, 3]),
        (["--until", "2023-11-14T22:13:23"], [2, 1, 0]),
        (["--reason", "label", "--partition", "0"], [4]),
        (["--since", "2h"], []),
        (["--until", "2h", "--limit", "2"], [5, 4]),
    ],
)
def test_filters(desk, words, left):
    reasons = [Reason.SCHEMA] * 3 + [Reason.LABEL] * 2 + [Reason.MODEL]
    desk.send(*(letter(n, n % 2, reason) for n, reason in enumerate(reasons)))
    assert [row["offset"] for row in desk.list(*words)] == left


def test_what_is_no_letter_is_left_out_and_said(desk):
    records = [(b"not ours", None, 0, None)]
    produce_values(desk.kafka.bootstrap_servers, "events.dead-letters", records)
    produce_values(
        desk.kafka.bootstrap_servers, "events.dead-letters", records, [("__connect.errors.topic", b"x")]
    )
    desk.send(letter(1))
    out, err = desk.fluvial("dead-letters", "list")
    assert "events/0/1" in out
    assert "2 records of others" in err


def test_show_gives_the_original_bytes_and_why(desk):
    value = bytes(range(256))
    desk.send(letter(7, value=value), letter(8, value=None, key=None, headers=()))
    told = json.loads(desk.fluvial("dead-letters", "show", "0/7", "--json")[0])
    assert base64.b64decode(told["value_base64"]) == value
    assert (told["key"], told["reason"], told["time_ms"]) == ("k7", "schema", 1_700_000_007_000)
    assert told["headers"] == [
        {"name": "trace", "value_base64": base64.b64encode(b"\xff7").decode()},
        {"name": "empty", "value": None},
    ]
    desk.said()
    assert main(["dead-letters", "show", "events/0/7", "--raw", "--config", str(desk.config)]) == 0
    assert desk._capture.readouterr().out == value
    assert "(none)" in desk.fluvial("dead-letters", "show", "0/8")[0]


def test_nothing_in_a_letter_moves_the_cursor(desk):
    evil = b"\x1b[2J\x1b]0;title\x07\r\x9b1m\xc2\x9b"
    desk.send(
        letter(
            1,
            value=evil,
            key=evil,
            message=evil.decode(errors="replace"),
            headers=((evil.decode(errors="replace"), evil),),
        )
    )
    for words in (["list"], ["show", "0/1"]):
        out, err = desk.fluvial("dead-letters", *words)
        assert not set("\x1b\x07\r\x9b") & set(out + err)


def test_show_without_such_a_letter(desk):
    assert "no letter events/0/7" in desk.fluvial("dead-letters", "show", "0/7", status=1)[1]
    for wrong in ("7", "a/b", "events/0/x", "a/b/c/d"):
        assert "topic/partition/offset" in desk.fluvial("dead-letters", "show", wrong, status=1)[1]


def test_redrive_writes_back_what_came(desk):
    letters = [letter(n, n % 2, value=None if n == 3 else b"\x00\xff%d" % n) for n in range(6)]
    desk.send(*letters, copies=2)
    out, _ = desk.fluvial("dead-letters", "redrive", "--yes")
    assert "6 events written to 'events'" in out
    came = {(m.partition(), m.timestamp()[1]): (m.key(), m.value(), m.headers()) for m in desk.redriven()}
    assert len(desk.redriven()) == 6
    assert came == {(a.partition, a.timestamp_ms): (a.key, a.value, list(a.headers)) for a in letters}
    assert all(row["redriven"] for row in desk.list())


def test_redrive_skips_what_it_wrote_before_unless_again(desk):
    desk.send(*(letter(n) for n in range(4)))
    desk.fluvial("dead-letters", "redrive", "--limit", "1", "--yes")
    _, err = desk.fluvial("dead-letters", "redrive", "--yes")
    assert "1 letter redriven before" in err
    assert sorted(m.key() for m in desk.redriven()) == [b"k0", b"k1", b"k2", b"k3"]
    assert "nothing to redrive" in desk.fluvial("dead-letters", "redrive", "--yes")[0]
    desk.fluvial("dead-letters", "redrive", "0/2", "--again", "--yes")
    assert sorted(m.key() for m in desk.redriven()) == [b"k0", b"k1", b"k2", b"k2", b"k3"]
    store = desk.store()
    details = [entry["detail"] for entry in store.entries(10) if entry["kind"] == "redriven"]
    store.close()
    assert details == [{"events": 1, "ids": ["events/0/2"], "again": True}, {"events": 3}, {"events": 1}]


def test_redrive_goes_in_chunks_and_remembers_each(desk, monkeypatch):
    monkeypatch.setattr("fluvial.cli.redrive.CHUNK", 10)
    monkeypatch.setattr("fluvial.cli.redrive.WAIT_SECONDS", 1.0)
    desk.send(*(letter(n) for n in range(35)))
    refusals, send = [], redrive._send

    def third_fails(producer, letters, *rest, **more):
        refusals.append(len(letters))
        if len(refusals) == 3:
            raise SourceUnavailable("10 of 10 events were not acknowledged")
        send(producer, letters, *rest, **more)

    monkeypatch.setattr("fluvial.cli.redrive._send", third_fails)
    assert "not acknowledged" in desk.fluvial("dead-letters", "redrive", "--yes", status=1)[1]
    assert len(desk.redriven()) == 20
    desk.fluvial("dead-letters", "redrive", "--yes")
    assert sorted(m.key() for m in desk.redriven()) == sorted(b"k%d" % n for n in range(35))


def test_a_refused_write_is_not_remembered(desk):
    desk.send(letter(0), letter(1))
    desk.kafka.inject(0, *[KafkaError.TOPIC_AUTHORIZATION_FAILED] * 10)
    assert (
        "2 of 2 events were not acknowledged" in desk.fluvial("dead-letters", "redrive", "--yes", status=1)[1]
    )
    assert not any(row["redriven"] for row in desk.list())


def test_redrive_asks_and_a_dry_run_writes_nothing(desk, monkeypatch):
    desk.send(letter(0))
    assert "--yes" in desk.fluvial("dead-letters", "redrive", status=1)[1]  # nobody sits there
    out, _ = desk.fluvial("dead-letters", "redrive", "--dry-run")
    assert "1 event to topic 'events': schema 1" in out
    assert "model of now" in out
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: "")
    out, _ = desk.fluvial("dead-letters", "redrive", status=1)
    assert "model of now" in out
    assert desk.redriven() == []
    monkeypatch.setattr("builtins.input", lambda _: "y")
    desk.fluvial("dead-letters", "redrive")
    assert len(desk.redriven()) == 1


def test_redrive_refuses_what_is_not_whole_or_not_of_the_topic(desk):
    desk.send(letter(1), letter(2, topic="others"))
    cut = [("__connect.errors.topic", b"events"), ("__connect.errors.partition", b"0")]
    cut += [("__connect.errors.offset", b"9"), ("__connect.errors.exception.class.name", b"schema")]
    cut += [("fluvial.id", b"events/0/9"), ("fluvial.truncated", b"true"), ("fluvial.size", b"9000000")]
    produce_values(desk.kafka.bootstrap_servers, "events.dead-letters", [(b"begi", None, 0, None)], cut)
    assert "truncated" in desk.fluvial("dead-letters", "list")[0]
    out, err = desk.fluvial("dead-letters", "redrive", "--yes")
    assert "1 event written" in out
    assert "1 truncated letter: refused" in err
    assert "events/0/9 (9,000,000 bytes)" in err
    assert "1 letter of other topics" in err
    _, err = desk.fluvial("dead-letters", "redrive", "0/9", "0/77", "--yes", status=1)
    assert "refused" in err
    assert "no such letter: events/0/77" in err
    assert [m.value() for m in desk.redriven()] == [b'{"n": 1}']


def test_a_letter_of_a_redriven_letter_gives_the_original_headers(desk):
    """Its event carried the headers of an earlier letter: the last ones count, the others are its own."""
    earlier = [("trace", b"1"), ("__connect.errors.topic", b"elsewhere"), ("fluvial.id", b"elsewhere/9/9")]
    desk.send(letter(5, headers=tuple(earlier)))
    assert ids(desk.list()) == ["events/0/5"]
    desk.fluvial("dead-letters", "redrive", "--yes")
    assert desk.redriven()[0].headers() == earlier


def test_redrive_now_stamps_the_present(desk):
    desk.send(letter(0))
    desk.fluvial("dead-letters", "redrive", "--now", "--yes")
    assert desk.redriven()[0].timestamp()[1] > 1.7e12 + 10**9


def test_the_list_does_without_redis(desk, fresh_redis):
    desk.send(letter(0))
    desk.config.write_text(desk.config.read_text().replace(fresh_redis.url, "redis://127.0.0.1:1/0"))
    rows, err = desk.fluvial("dead-letters", "list", "--json")
    assert json.loads(rows)["redriven"] is None
    assert "not known" in err


def test_resume_says_what_was_paused(desk):
    store = desk.store()
    assert "is not paused" in desk.fluvial("resume")[0]
    for shard in ("partition-0", "partition-1"):
        store.trip(store.claim(shard, "a"), Trip(0, 41, "500 events in a row were refused"))
    status, _ = desk.fluvial("status", "--no-kafka", status=1)
    assert "500 events in a row" in status
    assert "'partition-7' is not paused" in desk.fluvial("resume", "--shard", "partition-7", status=1)[0]
    out, _ = desk.fluvial("resume", "--shard", "partition-0")
    assert "500 events in a row were refused" in out
    assert set(store.tripped()) == {"partition-1"}
    desk.fluvial("resume")
    assert dict(store.tripped()) == {}
    assert "is not paused" in desk.fluvial("resume")[0]
    store.close()


@pytest.mark.kafka
def test_check_names_and_creates_the_dead_letter_topic(tmp_path, kafka_broker, fresh_redis, capsysbinary):
    topic = create_topic(kafka_broker, unique_topic("orders"))
    config = tmp_path / "fluvial.toml"
    assert (
        main(
            ["init", str(config), "--preset", "linear", "--topic", topic, "--bootstrap-servers", kafka_broker]
        )
        == 0
    )
    settings = load(config, {})
    assert check._kafka(settings, create=True) == []
    assert check._kafka(settings, create=True) == []
    assert check._kafka(settings, create=False) == []


def test_check_says_how_to_create_it(tmp_path, mock_kafka):
    mock_kafka.create_topic("events", 1)
    config = tmp_path / "fluvial.toml"
    servers = mock_kafka.bootstrap_servers
    assert main(["init", str(config), "--preset", "linear", "--bootstrap-servers", servers]) == 0
    (fault,) = check._kafka(load(config, {}), create=False)
    assert "--create --topic events.dead-letters" in fault
    assert "fluvial check --create" in fault


# ---- as an operator meets it: processes, a real Kafka, a real Redis ------------------------------


@pytest.mark.kafka
@pytest.mark.redis
def test_every_event_bad_from_the_flood_to_the_redrive(tmp_path, kafka_broker, redis_server, capsysbinary):
    """Killed while paused and started again, it stays paused; a person looks, resumes, redrives."""
    log = fold.drifting(200)
    service = Service(tmp_path, kafka_broker, redis_server, log, "linear", dead_letters={"max_run": 40})
    config, store = str(service.config), service.store()
    with service:
        service.produce([*log.values[:100], *[BROKEN] * 60, *log.values[160:]])
        for hash_seed in (1, 2):
            service.start(hash_seed)
            service.wait(lambda: SHARD in store.tripped(), "the trip")
            service.wait(lambda: service.checkpointed() == {0: 140}, "its checkpoint")
            time.sleep(1.5)
            assert service.checkpointed() == {0: 140}
            service.kill()
        service.start(3)
        assert main(["status", config]) == 0
        assert b"40 events in a row were refused" in capsysbinary.readouterr().out
        assert main(["resume", config]) == 0
        service.wait_until_folded()
        assert main(["dead-letters", "list", "--json", "--limit", "100", "--config", config]) == 0
        rows = [
            json.loads(line) for line in capsysbinary.readouterr().out.splitlines() if line.startswith(b"{")
        ]
        assert sorted(row["offset"] for row in rows) == list(range(100, 160))
        assert {row["reason"] for row in rows} == {"malformed"}
        assert all(row["topic_id"] for row in rows)
        assert main(["dead-letters", "redrive", "0/100", "0/101", "--yes", "--config", config]) == 0
        service.wait_until_folded()
        assert service.ends() == {0: 202}
        assert service.terminate() == 0
    kinds = [kind for kind, _ in service.journal() if kind in {"tripped", "resumed", "redriven"}]
    assert kinds == ["tripped", "resumed", "redriven"]
    ledger = service.learner().ledger.partitions[0]
    assert (ledger.learned, ledger.dead, ledger.gaps) == (140, 62, 0)
    store.close()
