"""A user's story with real processes, Kafka and Redis: from a CSV to scores, and what goes wrong there."""

import contextlib
import gzip
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from fluvial import streams
from fluvial.config import load
from fluvial.scoring import Scores
from support import web
from support.kafka_broker import create_topic, produce_values, read_topic, unique_topic
from support.prometheus_server import assert_every_panel_has_data
from support.redis_server import RedisServer

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

FLUVIAL = [sys.executable, "-c", "import sys; from fluvial.cli import main; sys.exit(main())"]
DEPLOYED = Path(__file__).parents[1] / "deploy" / "fluvial.toml"
CARDS = 300


def fluvial(directory, *words, **environ):
    """Run a command to its end; its output."""
    done = subprocess.run(
        [*FLUVIAL, *words],
        cwd=directory,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def orders(n, seed=1):
    """Rows of a CSV: an order is fraud when it is large, by a margin that a linear model finds."""
    made = random.Random(seed)
    for _ in range(n):
        amount = made.uniform(0.0, 100.0)
        fraud = amount + made.gauss(0.0, 5.0) > 60.0
        channel = made.choice(["web", "shop"])
        yield f"card-{made.randrange(CARDS)},{amount:.2f},{made.randrange(24)},{channel},{str(fraud).lower()}"


def write_csv(path, rows):
    with gzip.open(path, "wt") as file:
        file.write("\n".join(["card,amount,hour,channel,fraud", *rows, ""]))


class Running:
    """`fluvial run` in the background, its log as JSON, its metrics on a free port."""

    def __init__(self, directory, *, command=None, **environ):
        self.log = directory / f"run-{uuid.uuid4().hex[:6]}.log"
        settings = {
            "FLUVIAL__METRICS__PORT": "0",
            "FLUVIAL__LOG__FORMAT": "json",
            "FLUVIAL__WORKER__LEASE_SECONDS": "2",
            "FLUVIAL__CHECKPOINT__EVERY_SECONDS": "0.3",
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command or [*FLUVIAL, "run"],
                cwd=directory,
                env={**os.environ, **settings, **environ},
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def said(self):
        return self.log.read_text(errors="replace")

    def wait(self, ready, what, seconds=60):
        """Until `ready()` is truthy, which comes back."""
        until = time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError):
                found = ready()
                if found:
                    return found
            assert self.process.poll() is None, f"it ended with {self.process.poll()}:\n{self.said()}"
            assert time.monotonic() < until, f"{what} did not come about:\n{self.said()}"
            time.sleep(0.05)

    def address(self):
        found = self.wait(lambda: re.search(r"metrics at http://([^:]+):(\d+)/", self.said()), "an address")
        return found[1], int(found[2])

    def get(self, path):
        """Status and body."""
        return web.get(self.address(), path)

    def metric(self, name, **labels):
        """The sum of a metric's samples with these labels."""
        total, wanted = 0.0, [f'{key}="{value}"' for key, value in labels.items()]
        for line in self.get("/metrics")[1].splitlines():
            if re.match(rf"{name}[{{ ]", line) and all(label in line for label in wanted):
                total += float(line.split()[-1])
        return total

    def ready(self):
        return self.get("/readyz")[0] == 200

    def wait_until_learned(self, events):
        self.wait(self.ready, "readiness")
        self.wait(lambda: self.learned() == events, f"{events} learned")

    def learned(self):
        """Of the whole lineage, as the ledger in the state says."""
        return self.metric("fluvial_ledger_offsets", outcome="learned")

    def wait_for_checkpoint(self, directory, offsets):
        """Until the newest one holds these next offsets."""

        def saved():
            [shard] = json.loads(fluvial(directory, "status", "--json", "--no-kafka").stdout)["shards"]
            told = shard["checkpoint"]
            return told and told["offsets"] == {str(p): o for p, o in offsets.items()}

        self.wait(saved, f"a checkpoint at {offsets}")

    def end(self, number=signal.SIGTERM):
        """Send a signal and wait; the exit status."""
        self.process.send_signal(number)
        return self.process.wait(30)


@pytest.fixture
def place(tmp_path, kafka_broker, fresh_redis):
    """A directory with what a user has after `fluvial init`: settings for a topic that is not there yet."""
    write_csv(tmp_path / "orders.csv.gz", orders(2_000))
    topic = unique_topic("orders")
    made = fluvial(
        tmp_path,
        *("init", "--from", "orders.csv.gz", "--label", "fraud", "--preset", "linear"),
        *("--topic", topic, "--service", topic, "--bootstrap-servers", kafka_broker),
    )
    assert made.returncode == 0, made.stderr
    path = tmp_path / "fluvial.toml"
    text = re.sub(r'^"card" = .*\n', "", path.read_text(), flags=re.MULTILINE)  # it is the key
    path.write_text(re.sub(r'^#?url = "[^"]*"', f'url = "{fresh_redis.url}"', text, flags=re.MULTILINE))
    assert fresh_redis.url in path.read_text()
    return tmp_path


def topic_of(place):
    return load(place / "fluvial.toml", {}).kafka.topic


def feed(place, file="orders.csv.gz", partitions=1):
    done = fluvial(
        place,
        *("produce", file, "--config", "fluvial.toml", "--create-topic", str(partitions)),
        *("--key", "card", "--label", "fraud", "--partition-by", "round-robin"),
    )
    assert done.returncode == 0, done.stderr


def test_from_a_csv_to_scores(place, kafka_broker, fresh_redis):
    feed(place)
    dead = create_topic(kafka_broker, f"{topic_of(place)}.dead-letters")
    assert fluvial(place, "check").returncode == 0

    with Running(place) as worker:
        worker.wait_until_learned(2_000)
        # What cannot be read goes to the dead-letter topic with where from and why; the loop lives.
        produce_values(kafka_broker, topic_of(place), [(b'{"features": ', b"card-1", 0, None)])
        write_csv(place / "more.csv.gz", orders(500, seed=2))
        feed(place, "more.csv.gz")
        worker.wait_until_learned(2_500)
        worker.wait_for_checkpoint(place, {0: 2_501})
        assert worker.metric("fluvial_dead_letters_total", reason="malformed") == 1
        assert worker.metric("fluvial_prequential", metric="accuracy", horizon="total") > 0.8

        status = json.loads(fluvial(place, "status", "--json").stdout)
        [shard] = status["shards"]
        assert shard["lag"] == {"0": 0}
        assert shard["active"]
        assert {"started", "claimed"} <= {entry["kind"] for entry in status["journal"]}
        assert_scores(place, fresh_redis)
        assert worker.end() == 0

    [letter] = read_topic(kafka_broker, dead)
    headers = dict(letter.headers())
    assert (letter.value(), letter.key()) == (b'{"features": ', b"card-1")
    assert headers["__connect.errors.offset"] == b"2000"
    assert headers["__connect.errors.exception.class.name"] == b"malformed"
    # The lease was given back, and what was shown before can be shown still.
    [shard] = json.loads(fluvial(place, "status", "--json").stdout)["shards"]
    assert (shard["active"], shard["checkpoint"]["offsets"]) == (None, {"0": 2_501})
    assert "nobody holds the lease" in fluvial(place, "status").stdout

    with Running(place) as again:
        again.wait(again.ready, "readiness")
        assert again.learned() == 2_500
        assert again.metric("fluvial_next_offset") == 2_501
        assert again.metric("fluvial_events_total") == 0  # by this process
        write_csv(place / "last.csv.gz", orders(100, seed=3))
        feed(place, "last.csv.gz")
        again.wait_until_learned(2_600)
        assert again.end(signal.SIGINT) == 0


def assert_scores(place, redis):
    done = fluvial(place, "score", "card-1", "nobody", "--json")
    assert done.returncode == 1  # one has none
    first, second = map(json.loads, done.stdout.splitlines())
    assert second is None
    with Scores(redis.url, topic_of(place)) as scores:
        score = scores.get("card-1")
        assert len(scores.get_many(f"card-{i}" for i in range(CARDS))) == CARDS
    assert (first["prediction"], first["offset"]) == (score.prediction, score.offset)
    assert sum(score.probabilities.values()) == pytest.approx(1.0)
    shown = fluvial(place, "score", "card-1")
    assert (shown.returncode, "card-1" in shown.stdout) == (0, True)


def test_a_standby_takes_over_from_a_killed_worker(place, kafka_broker):
    feed(place, partitions=3)
    create_topic(kafka_broker, f"{topic_of(place)}.dead-letters")
    with Running(place) as first:
        first.wait_until_learned(2_000)
        with Running(place) as second:
            second.wait(lambda: "standing by" in second.get("/readyz")[1], "standing by")
            assert (second.get("/readyz")[0], second.get("/livez")[0]) == (503, 200)
            assert first.ready()
            first.end(signal.SIGKILL)
            write_csv(place / "more.csv.gz", orders(700, seed=2))
            feed(place, "more.csv.gz")
            second.wait_until_learned(2_700)
            # Every offset of the three partitions is accounted for once.
            following = second.metric("fluvial_next_offset")
            accounted = second.metric("fluvial_ledger_offsets")
            assert (following, accounted) == (2_700, 2_700)
            assert second.metric("fluvial_dead_letters_total") == 0
            assert second.end() == 0


@pytest.fixture
def own_redis(redis_binary):
    server = RedisServer().start()
    yield server
    with contextlib.suppress(OSError, TypeError):
        server.resume()
    server.stop()


@pytest.mark.parametrize("signals", [1, 2])
def test_a_shutdown_while_redis_is_silent(place, kafka_broker, own_redis, signals):
    """One signal: waits half the grace for Redis, leaves without a checkpoint, 0. Two: ends at once."""
    feed(place)
    create_topic(kafka_broker, f"{topic_of(place)}.dead-letters")
    grace = "8" if signals == 1 else "600"
    environ = {"FLUVIAL__REDIS__URL": own_redis.url, "FLUVIAL__WORKER__GRACE_SECONDS": grace}
    environ["FLUVIAL__REDIS__TIMEOUT_SECONDS"] = "0.5"
    with Running(place, **environ) as worker:
        worker.wait_until_learned(2_000)
        own_redis.pause()
        produce_values(
            kafka_broker,
            topic_of(place),
            [(b'{"features":{"amount":1,"hour":1,"channel":"web"},"label":false}', b"k", 0, None)],
        )
        worker.wait(lambda: worker.get("/readyz")[0] == 503, "not ready")
        assert "redis at" in worker.get("/readyz")[1]
        assert worker.get("/livez")[0] == 200
        if signals == 1:
            assert worker.end() == 0
            assert "stopping without a last checkpoint" in worker.said()
        else:
            worker.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            assert worker.process.poll() is None
            assert worker.end() == 128 + signal.SIGTERM
    own_redis.resume()
    with Running(place, **environ) as again:
        again.wait_until_learned(2_001)


HANGING = """
import time
from river import linear_model

class Hanging(linear_model.LogisticRegression):
    def learn_one(self, x, y):
        while x["amount"] == 13.0:
            time.sleep(0.01)
        super().learn_one(x, y)

def model():
    return Hanging()
"""
WATCHED = """
import sys
from fluvial import app, config
from fluvial.cli import find_modules_here
find_modules_here()
app.run(config.load("fluvial.toml"), stuck_seconds=5.0)
"""


def test_the_watchdog_ends_a_hung_process(place, kafka_broker):
    create_topic(kafka_broker, topic_of(place))
    create_topic(kafka_broker, f"{topic_of(place)}.dead-letters")
    (place / "mine.py").write_text(HANGING)
    path = place / "fluvial.toml"
    text = path.read_text().replace("[schema.features]", '[schema.features]\nx = "number"', 1)
    text = text.replace('preset = "linear"', 'factory = "mine:model"\nallow = ["mine:Hanging"]')
    path.write_text(re.sub(r'^("(hour|channel)"|x) = .*\n', "", text, flags=re.MULTILINE))
    values = [b'{"features":{"amount":%d},"label":false}' % amount for amount in (1, 2, 13)]
    with Running(place, command=[sys.executable, "-c", WATCHED], FLUVIAL__METRICS__ENABLED="false") as worker:
        produce_values(kafka_broker, topic_of(place), [(value, None, 0, None) for value in values])
        assert worker.process.wait(60) == 70
        assert "the loop has not turned for 5 s" in worker.said()
        assert "in learn_one" in worker.said()  # where it hung


@pytest.mark.prometheus
@pytest.mark.slow
def test_every_panel_of_the_dashboard_shows_the_running_service(tmp_path, kafka_broker, fresh_redis):
    """The deployed settings, with the servers in the environment as the compose file does it."""
    topic = create_topic(kafka_broker, unique_topic("events"))
    dead = create_topic(kafka_broker, f"{topic}.dead-letters")
    events = [
        (value, key.encode(), None, None)
        for key, value in streams.wire(streams.named("market"), seed=3, n=24_000, every=4_000)
    ]
    environ = {
        "FLUVIAL__KAFKA__BOOTSTRAP_SERVERS": kafka_broker,
        "FLUVIAL__KAFKA__TOPIC": topic,
        "FLUVIAL__KAFKA__DEAD_LETTERS": dead,
        "FLUVIAL__REDIS__URL": fresh_redis.url,
    }
    with Running(tmp_path, command=[*FLUVIAL, "run", str(DEPLOYED)], **environ) as worker:
        worker.wait(worker.ready, "readiness")
        produce_values(kafka_broker, topic, [*events, (b"nonsense", None, None, None)])
        worker.wait_until_learned(24_000)
        for kind in ("drift", "warning"):
            assert worker.metric("fluvial_drift_signals_total", kind=kind) > 0
        assert worker.metric("fluvial_reactions_total") > 0
        assert worker.metric("fluvial_versions_total") > 0
        with generating(kafka_broker, topic):
            assert_every_panel_has_data(worker.address())
        assert worker.end() == 0


@contextlib.contextmanager
def generating(bootstrap, topic):
    """The stack's generator beside the worker: rates and latencies need events that come now."""
    command = [*FLUVIAL, "generate", "--forever", "--rate", "200"]
    process = subprocess.Popen([*command, "--bootstrap-servers", bootstrap, "--topic", topic])
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)
