"""Kafka and Redis that let nobody in by themselves: the documented rights are enough, and none is too much.

Users, rights and settings are read from docs/security.md, so that the page stays true.
"""

import contextlib
import json
import logging
import re
import subprocess
import threading
import time
import traceback
import urllib.error
import urllib.request
import uuid
from importlib.resources import files
from pathlib import Path

import msgspec
import pytest

from fluvial.adapters import redis as adapter
from fluvial.app import App
from fluvial.cli import check, main
from fluvial.config import RedisSettings, ScoreSettings, Secret, describe, load
from fluvial.errors import Fenced, SourceFatal, StoreError, StoreUnavailable
from fluvial.keys import Keys
from fluvial.scoring import Scores
from fluvial.types import Entry, Reply, Rollback, Trip
from support import fold, web
from support import service as service_module
from support.kafka_broker import read_topic
from support.parts import missing
from support.redis_server import RedisServer, free_port
from support.secured_kafka import SecuredKafka
from support.secured_page import (
    CLUSTER,
    KAFKA_ON_CALL,
    KAFKA_RIGHTS,
    KAFKA_TABLE,
    ON_CALL,
    OPERATOR,
    READER,
    REDIS_PASSWORD,
    REDIS_TABLE,
    WORKER,
    acl_for,
)
from support.secured_tls import Certificates
from support.service import KEY, Service, assert_scores
from support.stores import SHARD, score

COMMANDS = [word for word in WORKER if word.startswith("+")]
ADMIN_PASSWORD = "admin-hunter2"
KAFKA_PASSWORD = "kafka-hunter2/+="
RUN = "import sys; from fluvial.cli import main; sys.exit(main(['run', sys.argv[1]]))"
DRIFT = Entry(kind="drift", partition=0, offset=7, time=7.0)
TRIP = Trip(partition=0, offset=7, because="too many")
BACK = Rollback("r1", 1, "ann", "why not", 1e9)


def assert_hidden(*texts):
    for text in texts:
        for secret in ("hunter2", KEY):
            assert secret not in text, text[max(0, text.find(secret) - 300) :][:400]


@pytest.fixture(autouse=True)
def nothing_secret_is_shown(caplog, capfd):
    """Whatever a test does, no secret is in the log at any level nor on the terminal."""
    caplog.set_level(logging.DEBUG)
    yield
    assert_hidden(*(record.getMessage() for record in caplog.get_records("call")), *capfd.readouterr())


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def secured_kafka(certificates):
    broker = SecuredKafka(certificates)
    yield broker
    broker.stop()


class SecuredRedis:
    """A redis-server with TLS on a port of its own; the plain one is the tests' way in, by a password too."""

    def __init__(self, certificates, certificate):
        import redis

        self.certificates = certificates
        self.tls = free_port()
        options = {
            "tls-port": self.tls,
            "tls-cert-file": certificate,
            "tls-key-file": certificates.key,
            "tls-ca-cert-file": certificates.ca,
            "tls-auth-clients": "no",
            "requirepass": ADMIN_PASSWORD,
        }
        flat = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        self.server = RedisServer(*flat)
        self.server.cli = redis.Redis(port=self.server.port, password=ADMIN_PASSWORD, socket_timeout=5)
        self.server.start()
        self.cli = self.server.cli

    url = property(lambda self: f"rediss://127.0.0.1:{self.tls}/0")

    def set_user(self, name, words, service):
        """As an `ACL SETUSER` of the page, for another service."""
        self.cli.execute_command("ACL", "SETUSER", name, *acl_for(service, words))

    def settings(self, user, **changes):
        values = {
            "url": Secret(self.url),
            "username": user,
            "password": Secret(REDIS_PASSWORD),
            "ca_file": str(self.certificates.ca),
            "timeout_seconds": 2.0,
        }
        return RedisSettings(**{**values, **changes})


@pytest.fixture(scope="module")
def secured_redis(redis_binary, certificates):
    asked = [redis_binary, "--port", "0", "--tls-port", "1"]  # no certificate: it ends at once either way
    if b"Bad directive" in subprocess.run(asked, capture_output=True, check=False, timeout=20).stdout:
        missing("this redis-server was built without TLS")
    redis = SecuredRedis(certificates, certificates.server)
    yield redis
    redis.server.stop()


# ---- a worker with both --------------------------------------------------------------------------


def unique(prefix):
    return f"{prefix}-{uuid.uuid4().hex[:8]}"


def kafka_section(kafka, directory, user, **changes):
    """The page's `[kafka]`, with the names of this run; `changes` to the properties."""
    password = directory / "kafka-password"
    password.write_text(KAFKA_PASSWORD + "\n")
    here = {"sasl.username": user, "ssl.ca.location": str(kafka.certificates.ca)}
    return {
        "bootstrap_servers": kafka.secured,
        "client": {**KAFKA_TABLE["client"], **here, **changes},
        "client_files": dict.fromkeys(KAFKA_TABLE["client_files"], str(password)),
    }


def redis_section(redis, directory, user):
    """The page's `[redis]`, likewise."""
    password = directory / "redis-password"
    password.write_text(REDIS_PASSWORD + "\n")
    here = {"url": redis.url, "username": user, "password_file": str(password)}
    return {**REDIS_TABLE, **here, "ca_file": str(redis.certificates.ca)}


def renamed(rights, service):
    """The page's rights, for this service's topics and group."""
    names = {
        KAFKA_TABLE["topic"]: service.topic,
        f"{KAFKA_TABLE['topic']}.dead-letters": f"{service.topic}.dead-letters",
        "fluvial-fraud": f"fluvial-{service.settings.service}",
    }
    return [(kind, names[name], operation) for kind, name, operation in rights]


def test_the_documented_rights_are_enough_and_secrets_are_in_no_output(
    secured_kafka, secured_redis, tmp_path, monkeypatch, capfd
):
    """The worker as `fluvial run`, at the most talkative: secrets in no log, metric, error or answer."""
    monkeypatch.setattr(service_module, "RUN", RUN)
    monkeypatch.setenv("FLUVIAL__KAFKA__CLIENT__SASL_PASSWORD", KAFKA_PASSWORD)
    user, log = unique("u"), fold.drifting(3_000)
    kafka = kafka_section(secured_kafka, tmp_path, user, debug="security,conf,broker")
    del kafka["client_files"]  # from the environment this time
    sections = {
        "kafka": kafka,
        "redis": redis_section(secured_redis, tmp_path, user),
        "log": {"level": "debug"},
        "metrics": {"enabled": True, "port": 0},
    }
    with Service(
        tmp_path, secured_kafka.admin, secured_redis, log, "linear", "reweight", **sections
    ) as service:
        name = service.settings.service
        secured_kafka.add_user(user, KAFKA_PASSWORD)
        secured_kafka.allow(user, renamed(KAFKA_RIGHTS, service))
        secured_redis.set_user(user, WORKER, name)
        secured_redis.cli.acl_log_reset()
        service.produce([*log.values, b"{", b"[]"])
        service.start(7)
        service.wait_until_folded()
        address = re.search(r"http://[\d.]+:\d+", service.output.read_text())[0]
        assert_hidden(fetch(f"{address}/metrics"), fetch(f"{address}/readyz"))
        assert service.terminate() == 0
        assert_scores(service, log, fold.fold(service.settings, log.values).outcomes)
        assert len(read_topic(secured_kafka.admin, f"{service.topic}.dead-letters")) == 2
        assert service.learner().ledger.partitions[0].learned == len(log.events)
        said = service.output.read_text()
        assert "DEBUG" in said
        assert user in said, "the client's own log is in it"
        assert_hidden(said, repr(service.settings), json.dumps(describe(service.settings)))
        assert {entry["object"] for entry in secured_redis.cli.acl_log()} <= {"client|setinfo"}
        settings = load(service.config)
        assert check._kafka(settings, create=False) == check._redis(settings) == []
        status(service, secured_redis, user, capfd)
        redrive(service, secured_kafka, secured_redis, user, capfd)


def status(service, redis, user, capfd):
    """`fluvial status` as the page's operator."""
    person = f"{user}-operator"
    redis.set_user(person, OPERATOR, service.settings.service)
    file = service.directory / "operator.toml"
    file.write_text(service.config.read_text().replace(f'"username" = "{user}"', f'"username" = "{person}"'))
    told = json.loads(shell(capfd, "status", str(file), "--json"))
    assert "claimed" in {entry["kind"] for entry in told["journal"]}
    assert [shard["lag"] for shard in told["shards"]] == [{"0": 0}]


def redrive(service, kafka, redis, user, capfd):
    """`fluvial dead-letters` and `fluvial resume` as the page's person on call."""
    person = f"{user}-oncall"
    redis.set_user(person, ON_CALL, service.settings.service)
    kafka.add_user(person, KAFKA_PASSWORD)
    kafka.allow(person, renamed(KAFKA_ON_CALL, service))
    file = service.directory / "oncall.toml"
    file.write_text(service.config.read_text().replace(f'"{user}"', f'"{person}"'))
    before = service.ends()[0]
    listed = shell(capfd, "dead-letters", "list", "--config", str(file), "--json")
    assert len(listed.splitlines()) == 2
    assert "2 events written" in shell(capfd, "dead-letters", "redrive", "--config", str(file), "--yes")
    assert service.ends()[0] == before + 2
    assert "nothing to redrive" in shell(capfd, "dead-letters", "redrive", "--config", str(file), "--yes")
    assert "not paused" in shell(capfd, "resume", str(file))
    assert "genesis" in shell(capfd, "versions", "list", "--config", str(file))
    assert "annotated" in shell(capfd, "versions", "annotate", "1", "a note", "--config", str(file))
    assert "request" in shell(
        capfd, "versions", "rollback", "77", "--wait", "0", "--json", "--config", str(file)
    )


def shell(capfd, *words):
    """A command's standard output, once it is sure that it shows no secret."""
    capfd.readouterr()
    assert main(words) == 0, capfd.readouterr().err
    out, err = capfd.readouterr()
    assert_hidden(out, err)
    return out


def fetch(url):
    with urllib.request.urlopen(url, timeout=web.SECONDS) as answer:
        return answer.read().decode()


# ---- Kafka: each right taken away, each login refused ----------------------------------------------


class InThread:
    """An App in a thread; what it raised, and what it shows."""

    def __init__(self, settings):
        self.app = App(settings)
        self.error = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            self.app.run()
        except Exception as error:  # noqa: BLE001 -- whatever it is, the test looks at it
            self.error = error

    def wait(self, ready, what):
        until = time.monotonic() + 40
        while not ready():
            assert self.error is None, self.shown()
            assert time.monotonic() < until, f"{what} did not come about: {self.reasons()}"
            time.sleep(0.02)

    def reasons(self):
        return " ".join(self.app.view().not_ready)

    def shown(self):
        return "".join(traceback.format_exception(self.error))


@pytest.fixture
def started():
    running = []

    def start(settings):
        running.append(InThread(settings))
        return running[-1]

    yield start
    for each in running:
        each.app.worker.stop()
    for each in running:
        each.thread.join(30)
        assert not each.thread.is_alive()


def small(directory, broker, redis, user, section=None):
    """A service that has one good event and one bad one to work on. `section`: another `[kafka]`."""
    log = fold.drifting(200)
    sections = {"kafka": section or kafka_section(broker, directory, user), "worker": {"grace_seconds": 4.0}}
    service = Service(directory, broker.admin, redis, log, "linear", **sections)
    service.produce([log.values[0], b"{"])
    return service


@pytest.fixture
def impatient(monkeypatch):
    """Questions that nobody answers cost ten seconds each; here two."""
    monkeypatch.setattr("fluvial.shard.SECONDS", 2.0)


REFUSALS = {
    ("topic", "Read"): "Read on the topic, or Write where it writes",
    ("topic", "Write"): "Write on the topic that it writes to",
    ("group", "Read"): "Read on the group",
}


@pytest.mark.kafka
@pytest.mark.redis
@pytest.mark.parametrize("instead", [None, "Describe"])
@pytest.mark.parametrize("right", KAFKA_RIGHTS, ids=lambda right: f"{right[0]} {right[2]}")
def test_without_a_right_in_kafka_the_worker_ends_and_names_it(
    right, instead, secured_kafka, redis_server, tmp_path, impatient
):
    """Also when the weaker right, to describe, is left."""
    kind, name, operation = right
    user = unique("u")
    service = small(tmp_path, secured_kafka, redis_server, user)
    left = [each for each in KAFKA_RIGHTS if each != right]
    if instead is not None:
        left.append((kind, name, instead))
    secured_kafka.add_user(user, KAFKA_PASSWORD)
    secured_kafka.allow(user, renamed(left, service))
    app = App(service.settings)
    with pytest.raises(SourceFatal, match=REFUSALS[kind, operation]) as caught:
        app.run()
    assert "security.md" in str(caught.value)
    assert_hidden("".join(traceback.format_exception(caught.value)))


@pytest.mark.kafka
@pytest.mark.redis
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
@pytest.mark.parametrize("member", [True, False], ids=["member", "no member"])
def test_a_group_wants_no_other_rights(protocol, member, secured_kafka, redis_server, tmp_path, started):
    """Scope partition: joining, too, is Read on the group."""
    user = unique("u")
    section = {"scope": "partition", "protocol": protocol}
    section |= kafka_section(secured_kafka, tmp_path, user)
    service = small(tmp_path, secured_kafka, redis_server, user, section)
    secured_kafka.add_user(user, KAFKA_PASSWORD)
    secured_kafka.allow(user, [r for r in renamed(KAFKA_RIGHTS, service) if member or r[0] != "group"])
    running = started(service.settings)
    if member:
        head = service.keys.head("partition-0")
        running.wait(lambda: redis_server.cli.hget(head, "offsets") == b'{"0":2}', "the work")
    else:
        running.thread.join(40)
        assert type(running.error) is SourceFatal
        assert REFUSALS["group", "Read"] in str(running.error)


@pytest.mark.kafka
@pytest.mark.redis
def test_a_dead_letter_topic_that_refuses_holds_back_and_drops_nothing(
    secured_kafka, redis_server, tmp_path, started
):
    """The user may write elsewhere, so the producer itself is not refused."""
    user = unique("u")
    service = small(tmp_path, secured_kafka, redis_server, user)
    rights = renamed(KAFKA_RIGHTS, service)
    (letters,) = [right for right in rights if right[2] == "Write"]
    left = [right for right in rights if right is not letters]
    secured_kafka.add_user(user, KAFKA_PASSWORD)
    secured_kafka.allow(user, [*left, ("topic", "elsewhere", "Write")])
    running = started(service.settings)
    running.wait(lambda: letters[1] in running.reasons(), "the hold")
    assert "uthoriz" in running.reasons()
    assert service.checkpointed() != {0: 2}
    secured_kafka.allow(user, [*left, ("topic", "elsewhere", "Write"), letters])
    running.wait(lambda: service.checkpointed() == {0: 2}, "the letter's way out")
    assert len(read_topic(secured_kafka.admin, letters[1])) == 1


@pytest.mark.kafka
@pytest.mark.redis
def test_a_login_that_kafka_refuses_is_said_with_the_setting(
    secured_kafka, redis_server, tmp_path, started, impatient
):
    """All at once, since each waits for its brokers."""
    user = unique("u")
    secured_kafka.add_user(user, KAFKA_PASSWORD)
    stranger, expired = str(secured_kafka.certificates.stranger), secured_kafka.expired

    def start(name, user, **changes):
        (tmp_path / name).mkdir()
        section = kafka_section(secured_kafka, tmp_path / name, user)
        section |= {key: value for key, value in changes.items() if key == "bootstrap_servers"}
        section["client"] |= {key: value for key, value in changes.items() if key in section["client"]}
        if "password" in changes:
            Path(section["client_files"]["sasl.password"]).write_text(changes["password"])
        return started(small(tmp_path / name, secured_kafka, redis_server, user, section).settings)

    wrong = start("wrong password", user, password="other-hunter2")
    unknown = start("unknown user", "nobody")
    authority = start("wrong authority", user, **{"ssl.ca.location": stranger})
    outdated = start("expired certificate", user, bootstrap_servers=expired)
    for refused in (wrong, unknown):
        refused.thread.join(40)
        assert type(refused.error) is SourceFatal
        assert re.search(r"sasl\.username, sasl\.password", str(refused.error)), str(refused.error)
        assert_hidden(refused.shown())
    for waiting in (authority, outdated):
        waiting.wait(lambda waiting=waiting: "ssl.ca.location" in waiting.reasons(), "the reason")
        assert_hidden(waiting.reasons())


@pytest.mark.kafka
@pytest.mark.redis
def test_a_user_removed_while_it_runs_ends_the_worker(secured_kafka, redis_server, tmp_path, started):
    user = unique("u")
    service = small(tmp_path, secured_kafka, redis_server, user)
    secured_kafka.add_user(user, KAFKA_PASSWORD)
    secured_kafka.allow(user, renamed(KAFKA_RIGHTS, service))
    running = started(service.settings)
    running.wait(lambda: service.checkpointed() == {0: 2}, "the work")
    secured_kafka.remove_user(user)
    running.thread.join(40)
    assert type(running.error) is SourceFatal
    assert "sasl.password" in str(running.error)


# ---- Redis: each command taken away, each login refused --------------------------------------------


@pytest.fixture
def service_name():
    return unique("s")


def open_store(settings, name, scores=None):
    return adapter.RedisStore(settings, Keys(name), scores or ScoreSettings())


@contextlib.contextmanager
def acting(settings, name):
    store = open_store(settings, name)
    try:
        yield store
    finally:
        store.close()


def everything(settings, name):
    """All that the worker asks of Redis: two owners, many checkpoints, a limit on scores, a fresh start."""
    scores = ScoreSettings(max_keys=2)
    store = open_store(settings, name, scores)
    try:
        report = store.report()
        assert store.lease(SHARD, "a", 60_000)
        assert not store.lease(SHARD, "b", 60_000)
        assert store.lease_holder(SHARD) == "a"
        claim = store.claim(SHARD, "a")
        for sequence in range(1, 14):
            models = {sequence: b"model"}
            store.save(claim, sequence, b"%d" % sequence, {0: sequence}, [DRIFT], models)
        store.save(claim, 13, b"13", {0: 13}, [DRIFT], {13: b"model"})
        store.publish(claim, [(f"k{i}", score(i)) for i in range(4)])
        store.publish(claim, [("k0", score(9)), ("new", score(10))])
        store.journal(claim, [DRIFT])
        assert store.trip(claim, TRIP)
        assert store.tripped() == {SHARD: TRIP}
        assert store.load(SHARD) == [b"13", b"12"]
        assert store.version_blob(SHARD, 13) == b"model"
        assert store.asked(SHARD) is None
        store.answer(claim, BACK, Reply("r1", None, "no"))
        newer = store.claim(SHARD, "b")
        with pytest.raises(Fenced):
            store.save(claim, 14, b"14", {0: 14}, [], {})
        store.forget(newer)
        store.unlease(SHARD, "a")
        return report
    finally:
        store.close()


@pytest.mark.redis
def test_the_documented_commands_are_enough(secured_redis, service_name):
    user = unique("u")
    secured_redis.set_user(user, WORKER, service_name)
    secured_redis.cli.script_flush()
    report = everything(secured_redis.settings(user), service_name)
    assert (report.persistent, report.eviction) == (True, "noeviction")


@pytest.mark.redis
@pytest.mark.parametrize("command", COMMANDS)
def test_without_a_command_the_error_leads_to_the_page(secured_redis, service_name, command):
    user = unique("u")
    secured_redis.set_user(user, [word for word in WORKER if word != command], service_name)
    secured_redis.cli.script_flush()
    settings = secured_redis.settings(user)
    if command == "+info":
        report = everything(settings, service_name)
        assert (report.version, report.persistent) == ("unknown", False)
        return
    with pytest.raises(StoreError, match=r"redis\.username may not do that; docs/security\.md") as caught:
        everything(settings, service_name)
    assert type(caught.value) is StoreError
    assert_hidden("".join(traceback.format_exception(caught.value)))


@pytest.mark.redis
def test_the_keys_of_another_service_are_out_of_reach(secured_redis, service_name):
    user = unique("u")
    secured_redis.set_user(user, WORKER, service_name)
    with acting(secured_redis.settings(user), unique("other")) as store:
        for call in (lambda: store.load(SHARD), lambda: store.claim(SHARD, "a")):
            with pytest.raises(StoreError, match=r"docs/security\.md"):
                call()


@pytest.mark.redis
def test_a_cluster_wants_two_commands_more(redis_binary, service_name):
    server = RedisServer("--cluster-enabled", "yes", "--cluster-port", str(free_port())).start()
    try:
        server.cli.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        while server.cli.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
            time.sleep(0.02)
        url = Secret(f"redis+cluster://127.0.0.1:{server.port}")
        for words in (CLUSTER, CLUSTER[:1], CLUSTER[1:]):
            user = unique("u")
            server.cli.execute_command("ACL", "SETUSER", user, *acl_for(service_name, [*WORKER, *words]))
            settings = RedisSettings(url=url, username=user, password=Secret(REDIS_PASSWORD))
            if words == CLUSTER:
                assert everything(settings, service_name).persistent
                continue
            with acting(settings, service_name) as store, pytest.raises(StoreError, match=r"security\.md"):
                store.claim(SHARD, "a")
    finally:
        server.stop()


def test_the_page_names_the_commands_that_the_code_has():
    """One more in a script or in the adapter is one more on the page."""
    scripts = files("fluvial.adapters").joinpath("scripts")
    sources = [Path(adapter.__file__).read_text()]
    sources += [path.read_text() for path in scripts.iterdir() if path.name.endswith(".lua")]
    found = {name for text in sources for name in re.findall(r"""call\(\s*['"]([A-Z]+)['"]""", text)}
    found |= {"EVALSHA", "EVAL", "INFO"}
    named = {word[1:].upper() for word in (*WORKER, *OPERATOR, *ON_CALL) if word.startswith("+")}
    assert found == named


@pytest.mark.kafka
@pytest.mark.redis
def test_a_worker_without_a_command_ends_and_says_so(secured_redis, mock_kafka, tmp_path):
    user = unique("u")
    service = embedded(mock_kafka, secured_redis, tmp_path, user)
    secured_redis.set_user(user, [w for w in WORKER if w != "+evalsha"], service.settings.service)
    app = App(service.settings)
    with pytest.raises(StoreError, match=r"docs/security\.md"):
        app.run()


@pytest.mark.redis
def test_a_login_that_redis_refuses_is_said_with_the_setting(
    secured_redis, certificates, redis_binary, service_name
):
    user = unique("u")
    secured_redis.set_user(user, WORKER, service_name)
    outdated = SecuredRedis(certificates, certificates.expired)
    outdated.set_user(user, WORKER, service_name)
    cases = [
        (secured_redis.settings(user, password=Secret("other-hunter2")), r"redis\.password"),
        (secured_redis.settings("nobody"), r"redis\.username"),
        (secured_redis.settings(user, username=None, password=None), r"redis\.username"),
        (secured_redis.settings(user, ca_file=str(certificates.stranger)), r"redis\.ca_file"),
        (outdated.settings(user), r"expired.*redis\.ca_file"),
    ]
    try:
        for settings, expected in cases:
            with acting(settings, service_name) as store:
                with pytest.raises(StoreUnavailable, match=expected) as caught:
                    store.claim(SHARD, "a")
                shown = "".join(traceback.format_exception(caught.value))
                assert_hidden(
                    shown, repr(store), repr(vars(store)), repr(store._server.where), repr(settings)
                )
    finally:
        outdated.server.stop()


def embedded(mock_kafka, redis, directory, user):
    """A service on the mock cluster, which asks nobody who he is."""
    log = fold.drifting(200)
    table = {
        "service": unique("s"),
        "kafka": {"bootstrap_servers": mock_kafka.bootstrap_servers, "topic": unique("t")},
        "redis": redis_section(redis, directory, user),
        "schema": log.schema,
        "model": {"factory": "support.factories:linear", "allow": fold.OWN},
        "worker": {"lease_seconds": 1.0, "grace_seconds": 4.0},
        "metrics": {"enabled": True, "port": 0},
    }
    for topic in (table["kafka"]["topic"], f"{table['kafka']['topic']}.dead-letters"):
        mock_kafka.create_topic(topic, 1)
    return Embedded(table)


class Embedded:
    def __init__(self, table):
        from fluvial.config import parse

        self.settings = parse(table)
        self.keys = Keys(self.settings.service)


@pytest.mark.redis
def test_a_user_who_is_removed_and_comes_back_only_interrupts_the_worker(
    secured_redis, mock_kafka, tmp_path, started
):
    user = unique("u")
    service = embedded(mock_kafka, secured_redis, tmp_path, user)
    secured_redis.set_user(user, WORKER, service.settings.service)
    running = started(service.settings)
    running.wait(lambda: not running.reasons(), "readiness")
    secured_redis.cli.execute_command("ACL", "DELUSER", user)
    running.wait(lambda: "redis.password" in running.reasons(), "the refusal")
    host, port = running.app.metrics.address
    with pytest.raises(urllib.error.HTTPError) as unready:
        fetch(f"http://{host}:{port}/readyz")
    assert_hidden(unready.value.read().decode(), fetch(f"http://{host}:{port}/metrics"))
    secured_redis.set_user(user, WORKER, service.settings.service)
    running.wait(lambda: not running.reasons(), "readiness")
    epoch = secured_redis.cli.hget(service.keys.head(SHARD), "epoch")
    assert epoch == b"1"


def on_call(redis, user, name):
    """All that a person on call asks of Redis; a worker has paused before."""
    with acting(redis.settings("default", password=Secret(ADMIN_PASSWORD)), name) as store:
        claim = store.claim(SHARD, "a")
        store.save(claim, 1, b"state", {0: 1}, [], {1: b"model"})
        assert store.trip(claim, TRIP)
    with acting(redis.settings(user), name) as store:
        assert store.tripped() == {SHARD: TRIP}
        assert store.resume(SHARD, TRIP)
        assert not store.redriven(["t/0/1"])
        store.remember_redriven(["t/0/1"], 1, DRIFT)
        assert store.version_blob(SHARD, 1) == b"model"
        assert 1 in store.kept(SHARD)
        store.annotate(SHARD, 1, "before the sale", "ada")
        assert store.pin(SHARD, 1, "ada")
        assert store.load(SHARD)
        assert store.ask(SHARD, BACK)
        assert store.asked(SHARD) == BACK
        assert store.answered(SHARD) is None
        assert store.withdraw(SHARD, BACK)


@pytest.mark.redis
@pytest.mark.parametrize("command", [None, *(word for word in ON_CALL if word.startswith("+"))])
def test_the_person_on_call(secured_redis, service_name, command):
    """With the page's commands; and without one of them."""
    user = unique("u")
    secured_redis.set_user(user, [word for word in ON_CALL if word != command], service_name)
    secured_redis.cli.script_flush()
    if command is None:
        on_call(secured_redis, user, service_name)
        return
    with pytest.raises(StoreError, match=r"docs/security\.md"):
        on_call(secured_redis, user, service_name)


# ---- readers ---------------------------------------------------------------------------------------


@pytest.mark.redis
def test_a_reader_may_read_scores_and_nothing_else(secured_redis, service_name):
    import redis

    user = unique("u")
    secured_redis.set_user(user, READER, service_name)
    keys = Keys(service_name)
    for number in (1, 2):
        secured_redis.cli.set(keys.score(f"k{number}"), msgspec.json.encode(score(number)))
    settings = secured_redis.settings(user)
    with Scores(settings, service=service_name) as scores:
        assert scores.get("k1") == score(1)
        assert set(scores.get_many(["k1", "k2", "k3"])) == {"k1", "k2"}
    with Scores(settings, service=unique("other")) as scores:
        for call in (lambda: scores.get("k1"), lambda: scores.get_many(["k1"])):
            with pytest.raises(StoreError, match=r"docs/security\.md"):
                call()
    client = redis.Redis(port=secured_redis.server.port, username=user, password=REDIS_PASSWORD)
    for command in (
        ("SET", keys.score("k1"), "0"),
        ("GET", keys.head(SHARD)),
        ("EVAL", "return 1", 0),
        ("INFO",),
        ("KEYS", "*"),
    ):
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.execute_command(*command)
    client.close()


@pytest.mark.redis
@pytest.mark.parametrize("command", [word for word in READER if word.startswith("+")])
def test_a_reader_without_a_command(secured_redis, service_name, command):
    user = unique("u")
    secured_redis.set_user(user, [word for word in READER if word != command], service_name)
    scores = Scores(secured_redis.settings(user), service=service_name)
    with scores, pytest.raises(StoreError, match=r"docs/security\.md"):
        (scores.get("k1"), scores.get_many(["k1"]))
