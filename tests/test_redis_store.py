"""What only a real Redis does: run out of memory, restart, go silent, lose an answer, refuse."""

import contextlib
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

from fluvial.adapters import redis as adapter
from fluvial.config import ScoreSettings, Secret, VersionSettings
from fluvial.errors import Fenced, StoreError, StoreFull, StoreUnavailable
from fluvial.types import Entry, Reply, Rollback
from support.parts import missing
from support.redis_server import BINARY, RedisServer, free_port
from support.stores import SHARD, RedisBench, score
from support.tcp_proxy import TcpProxy

pytestmark = pytest.mark.redis
DRIFT = Entry(kind="drift", partition=0, offset=7, time=7.0)


@pytest.fixture
def bench(fresh_redis):
    bench = RedisBench(fresh_redis.cli, fresh_redis.url)
    yield bench
    bench.close()


@pytest.fixture
def store(bench):
    return bench.open()


@pytest.fixture
def proxy(fresh_redis):
    proxy = TcpProxy(fresh_redis.port)
    yield proxy
    proxy.close()


@pytest.fixture
def proxied(fresh_redis, proxy):
    bench = RedisBench(fresh_redis.cli, f"redis://127.0.0.1:{proxy.port}/0")
    yield bench
    bench.close()


def save(store, claim, sequence, blob=None, entries=(), versions=None):
    store.save(claim, sequence, blob or b"state %d" % sequence, {0: sequence}, list(entries), versions or {})


def digest(script):
    return adapter.Script(script).digests[0].encode()


@contextlib.contextmanager
def config(cli, **values):
    names = {name.replace("_", "-"): value for name, value in values.items()}
    before = {name: cli.config_get(name)[name] for name in names}
    for name, value in names.items():
        cli.config_set(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            cli.config_set(name, value)


# What stays behind


def test_a_checkpoint_has_no_expiry_and_an_upload_has_one(bench, store):
    claim = store.claim(SHARD, "a")
    save(store, claim, 1, versions={1: b"model"})
    assert set(bench.blobs().values()) == {-1}
    script = store._server.script
    store._server.script = lambda name, keys, args: script(name, keys, args) if name != "flip" else b"missing"
    with pytest.raises(StoreError, match="gone before it was live"):
        save(store, claim, 2, versions={2: b"model"})
    assert sorted(ttl > 0 for ttl in bench.blobs().values()) == [False, False, True, True]


def test_a_late_duplicate_of_an_upload_cannot_put_the_expiry_back(bench, store):
    sent = []
    call = store._server.call
    store._server.call = lambda *command, **options: sent.append(command) or call(*command, **options)
    claim = store.claim(SHARD, "a")
    save(store, claim, 1)
    save(store, claim, 2)
    for command in sent:
        if command[0] == "SET":
            bench.cli.execute_command(*command)
    assert set(bench.blobs().values()) == {-1}
    assert store.load(SHARD) == [b"state 2", b"state 1"]


def test_a_late_duplicate_of_a_flip_changes_nothing(bench, store):
    sent = []
    script = store._server.script
    store._server.script = lambda *call: sent.append(call) or script(*call)
    claim = store.claim(SHARD, "a")
    for sequence in (1, 2, 3):
        save(store, claim, sequence, entries=[DRIFT])
    for call in sent:
        if call[0] == "flip":
            script(*call)
    assert store.load(SHARD) == [b"state 3", b"state 2"]
    assert bench.cli.xlen(bench.keys.journal) == 3


def test_a_late_duplicate_of_a_forget_leaves_the_new_lineage_alone(bench, store):
    sent = []
    script = store._server.script
    store._server.script = lambda *call: sent.append(call) or script(*call)
    claim = store.claim(SHARD, "a")
    save(store, claim, 1, b"old")
    store.forget(claim)
    save(store, claim, 1, b"new")
    for call in sent:
        if call[0] == "forget":
            script(*call)
    assert store.load(SHARD) == [b"new"]


def test_what_will_be_fenced_is_not_uploaded(bench, store):
    claim = store.claim(SHARD, "a")
    save(store, claim, 1)
    sent = []
    call = store._server.call
    store._server.call = lambda *command, **options: sent.append(command[0]) or call(*command, **options)
    for sequence in (1, 3):
        with pytest.raises(Fenced):
            save(store, claim, sequence, b"other")
    bench.open().claim(SHARD, "b")
    with pytest.raises(Fenced):
        save(store, claim, 2)
    assert "SET" not in sent


def test_a_writer_fenced_between_its_two_steps_takes_its_own_blobs_away(bench, store):
    claim = store.claim(SHARD, "a")
    save(store, claim, 1)
    call = store._server.call

    def claimed_after_the_upload(*command, **options):
        answer = call(*command, **options)
        if command[0] == "SET":
            bench.open().claim(SHARD, "b")
        return answer

    store._server.call = claimed_after_the_upload
    with pytest.raises(Fenced):
        save(store, claim, 2, entries=[DRIFT], versions={1: b"model"})
    assert list(bench.blobs().values()) == [-1]
    assert store.load(SHARD) == [b"state 1"]
    assert store.entries(5) == []


def test_a_fenced_twin_of_the_same_epoch_leaves_the_live_blob_alone(bench, store):
    # A failover lost the claim of "a"; "b" reached the same epoch and saved the same bytes first.
    claim = store.claim(SHARD, "a")
    bench.cli.hset(bench.keys.head(SHARD), "token", "b")
    twin = bench.open().claim(SHARD, "b")
    assert twin.epoch == claim.epoch
    save(bench.open(), twin, 1, b"same")
    store._head = lambda shard: adapter._StoredHead(str(claim.epoch), "a", 0, "", "", "", [])
    with pytest.raises(Fenced):
        save(store, claim, 1, b"same")
    assert store.load(SHARD) == [b"same"]


def test_an_expired_upload_is_uploaded_again(bench, store):
    claim = store.claim(SHARD, "a")
    script = store._server.script
    losses = iter([True, False])

    def losing(name, keys, args):
        if name == "flip" and next(losses):
            bench.cli.unlink(keys[2])
        return script(name, keys, args)

    store._server.script = losing
    save(store, claim, 1)
    assert store.load(SHARD) == [b"state 1"]


def test_a_flip_that_cannot_tell_the_journal_does_not_flip(bench, store):
    claim = store.claim(SHARD, "a")
    save(store, claim, 1)
    bench.cli.set(bench.keys.journal, "a stranger's")
    with pytest.raises(StoreError, match="WRONGTYPE"):
        save(store, claim, 2, entries=[DRIFT])
    bench.cli.unlink(bench.keys.journal)
    assert store.load(SHARD) == [b"state 1"]
    save(store, claim, 2, entries=[DRIFT])


def test_every_key_carries_the_services_hash_tag(bench, store):
    claim = store.claim(SHARD, "a")
    store.lease(SHARD, "a", 60_000)
    for sequence in (1, 2, 3):
        save(store, claim, sequence, entries=[DRIFT], versions={sequence: b"model"})
    store.publish(claim, [("k", score(1))])
    names = bench.cli.keys("*")
    assert len(names) == 12
    assert all(name.startswith(b"fluvial:{orders}:") for name in names)


# Memory


def test_a_full_server_refuses_scores_and_blobs_and_takes_claims_and_flips(bench, store):
    claim = store.claim(SHARD, "a")
    save(store, claim, 1)
    store.publish(claim, [("k", score(0))])
    call = store._server.call

    def full_after_the_upload(*command, **options):
        answer = call(*command, **options)
        if command[0] == "SET" and b"model" in command:  # the last of the uploads
            bench.cli.config_set("maxmemory", 1)
        return answer

    store._server.call = full_after_the_upload
    save(store, claim, 2, entries=[DRIFT], versions={1: b"model"})  # the flip frees more than it takes
    assert store.load(SHARD) == [b"state 2", b"state 1"]
    with pytest.raises(StoreFull, match="maxmemory"):
        save(store, claim, 3)
    with pytest.raises(StoreFull):
        store.publish(claim, [("k", score(1))])
    other = bench.open()
    claim = other.claim(SHARD, "b")
    assert other.lease(SHARD, "b", 60_000)
    other.journal(claim, [DRIFT])
    other.unlease(SHARD, "b")
    assert store.load(SHARD) == [b"state 2", b"state 1"]
    assert bench.score("k") == score(0)
    bench.cli.config_set("maxmemory", 0)
    save(other, claim, 3)
    assert other.publish(claim, [("k", score(1))]) == 1
    assert store.store_errors == 2


def test_scores_stop_at_80_percent_where_a_checkpoint_still_fits(bench):
    store = bench.open()
    claim = store.claim(SHARD, "a")
    bench.cli.config_set("maxmemory", int(bench.cli.info("memory")["used_memory"] / 0.85))
    with pytest.raises(StoreFull, match="80 %"):
        store.publish(claim, [("k", score(1))])
    save(store, claim, 1)
    assert bench.score("k") is None


def test_a_score_script_on_a_full_server_is_full_and_not_fenced(bench, store):
    claim = store.claim(SHARD, "a")
    store.publish(claim, [("k", score(0))])  # has just looked at the memory
    bench.cli.config_set("maxmemory", 1)
    with pytest.raises(StoreFull):
        store.publish(claim, [("k", score(1))])


# Lost answers, silence, restarts


@pytest.mark.parametrize("script", ["claim", "flip", "publish", "journal", "forget", "lease"])
def test_a_lost_answer_is_repeated_and_changes_nothing(proxied, proxy, script):
    store = proxied.open()
    store.claim(SHARD, "z")
    proxy.swallow(digest(script))
    assert store.lease(SHARD, "a", 60_000)
    claim = store.claim(SHARD, "a")
    save(store, claim, 1, entries=[DRIFT], versions={1: b"model"})
    assert store.publish(claim, [("k", score(0))]) == 1
    store.journal(claim, [DRIFT])
    assert (claim.epoch, store.claim(SHARD, "a").head.sequence) == (2, 1)
    assert proxied.cli.xlen(proxied.keys.journal) == 2
    store.forget(claim)
    assert proxy._swallow == []
    assert store.load(SHARD) == []


def test_a_flip_whose_answers_keep_getting_lost_is_repeated_by_the_caller(proxied, proxy):
    store = proxied.open()
    claim = store.claim(SHARD, "a")
    proxy.swallow(digest("flip"), times=2)
    with pytest.raises(StoreUnavailable):
        save(store, claim, 1, entries=[DRIFT])
    save(store, claim, 1, entries=[DRIFT])
    save(store, claim, 2)
    assert store.load(SHARD) == [b"state 2", b"state 1"]
    assert proxied.cli.xlen(proxied.keys.journal) == 1


def test_a_publish_whose_answers_get_lost_can_be_sent_again_with_more(proxied, proxy):
    store = proxied.open()
    claim = store.claim(SHARD, "a")
    store.publish(claim, [("k", score(0))])
    proxy.swallow(digest("publish"), times=2)
    batch = [("k", score(1)), ("m", score(5, partition=1))]
    with pytest.raises(StoreUnavailable):
        store.publish(claim, batch)
    assert store.publish(claim, [*batch, ("l", score(2))]) == 1
    assert dict(store.claim(SHARD, "a").published) == {0: 3, 1: 6}


def test_in_a_black_hole_each_call_is_tried_once(proxied, proxy):
    store = proxied.open(timeout_seconds=0.2)
    claim = store.claim(SHARD, "a")
    save(store, claim, 1)
    store.publish(claim, [("k", score(0))])
    proxy.go_silent()
    for call in (
        lambda: store.claim(SHARD, "b"),
        lambda: store.load(SHARD),
        lambda: save(store, claim, 2),
        lambda: store.publish(claim, [("k", score(1))]),
        lambda: store.lease(SHARD, "a", 1_000),
        store.report,
    ):
        connections, requests = proxy.connections, proxy.requests
        with pytest.raises(StoreUnavailable):
            call()
        # One wait for an answer: a call is bounded by the timeout, not by a number of retries.
        assert proxy.requests - requests <= 1
        assert proxy.connections - connections <= 1
    proxy.heal()
    save(store, claim, 2)
    assert store.publish(claim, [("k", score(1))]) == 1


def test_a_large_blob_gets_time_to_travel(bench):
    server = bench.open(timeout_seconds=2.0)._server

    def patience(size):
        return server._client(size).get_connection_kwargs()["socket_timeout"]

    assert [patience(size) for size in (0, 1_000_000, 10_000_000, 90_000_000)] == [2, 2, 3, 18]
    assert server._client(10_000_000) is server._client(9_000_000)


def test_a_blob_of_thirty_megabytes(bench, store):
    blob = os.urandom(1_000_000) * 30
    save(store, store.claim(SHARD, "a"), 1, blob)
    assert store.load(SHARD) == [blob]


def test_nobody_there(redis_binary):
    bench = RedisBench(None, f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(StoreUnavailable, match=r"redis at 127\.0\.0\.1:\d+ is not available"):
        bench.open().claim(SHARD, "a")


def test_a_restart_keeps_everything_and_forgets_the_scripts(fresh_redis, bench, store):
    claim = store.claim(SHARD, "a")
    save(store, claim, 1)
    store.publish(claim, [("k", score(0))])
    fresh_redis.kill()
    with pytest.raises(StoreUnavailable):
        save(store, claim, 2)
    fresh_redis.start()
    save(store, claim, 2)
    assert store.publish(claim, [("k", score(1)), ("k", score(0))]) == 1
    assert store.load(SHARD) == [b"state 2", b"state 1"]


def test_flushed_scripts_load_themselves(bench, store):
    claim = store.claim(SHARD, "a")
    bench.cli.script_flush()
    save(store, claim, 1)
    bench.cli.script_flush()
    assert store.publish(claim, [("k", score(0))]) == 1
    assert store.store_errors == 0


# Refusals, told apart


def everything(store, claim):
    yield lambda: store.claim(SHARD, "b")
    yield lambda: save(store, claim, 2)
    yield lambda: store.publish(claim, [("k", score(1))])
    yield lambda: store.journal(claim, [DRIFT])
    yield lambda: store.lease(SHARD, "a", 1_000)
    yield lambda: store.forget(claim)


def refused(store, claim, kind, match):
    for call in everything(store, claim):
        with pytest.raises(kind, match=match) as caught:
            call()
        assert type(caught.value) is kind


def test_a_replica_is_unavailable(bench, store):
    claim = store.claim(SHARD, "a")
    save(store, claim, 1)
    bench.cli.execute_command("REPLICAOF", "127.0.0.1", free_port())
    try:
        refused(store, claim, StoreUnavailable, "read only|stale|MASTERDOWN|READONLY")
    finally:
        bench.cli.execute_command("REPLICAOF", "NO", "ONE")
    save(store, claim, 2)


def test_too_few_replicas_is_unavailable(bench, store):
    claim = store.claim(SHARD, "a")
    save(store, claim, 1)
    with config(bench.cli, min_replicas_to_write=1):
        refused(store, claim, StoreUnavailable, "NOREPLICAS")


def test_a_server_that_cannot_write_its_files_is_unavailable(fresh_redis, bench, store):
    claim = store.claim(SHARD, "a")
    save(store, claim, 1)
    dump = Path(fresh_redis.directory, "dump.rdb")
    dump.unlink(missing_ok=True)  # another test may have had one written
    dump.mkdir()
    try:
        with config(bench.cli, save="3600 1000000"):
            bench.cli.bgsave()
            while bench.cli.info("persistence")["rdb_last_bgsave_status"] != "err":
                time.sleep(0.01)
            refused(store, claim, StoreUnavailable, "MISCONF")
    finally:
        dump.rmdir()
        bench.cli.bgsave()
        while bench.cli.info("persistence")["rdb_last_bgsave_status"] != "ok":
            time.sleep(0.01)


def forever(call):
    while True:
        call()


def test_a_busy_server_is_unavailable(bench, store):
    claim = store.claim(SHARD, "a")
    save(store, claim, 1)
    with config(bench.cli, lua_time_limit=20):

        def spin():
            with contextlib.suppress(Exception):
                bench.cli.eval("while true do end", 0)

        thread = threading.Thread(target=spin)
        thread.start()
        try:
            with pytest.raises(StoreUnavailable, match="BUSY"):
                forever(lambda: store.lease_holder(SHARD))
            refused(store, claim, StoreUnavailable, "BUSY")
        finally:
            bench.cli.script_kill()
            thread.join()


@pytest.mark.parametrize(
    "text", ["LOADING Redis is loading the dataset in memory", "TRYAGAIN x", "CLUSTERDOWN x"]
)
def test_other_passing_states_are_unavailable(store, text):
    from redis._parsers import _RESP2Parser

    error = store._server._error(_RESP2Parser.parse_error(text))
    assert type(error) is StoreUnavailable


def test_old_servers_name_the_cause_inside_the_scripts_error(store):
    from redis.exceptions import ResponseError

    said = "Error running script (call to f_1): @user_script:12: @user_script: 12: -%s command not allowed"
    assert type(store._server._error(ResponseError(said % "OOM"))) is StoreFull
    assert type(store._server._error(ResponseError(said % "READONLY"))) is StoreUnavailable
    assert type(store._server._error(ResponseError("WRONGTYPE no"))) is StoreError


def test_a_wrong_type_is_an_error_and_neither_fenced_nor_unavailable(bench, store):
    claim = store.claim(SHARD, "a")
    bench.cli.unlink(bench.keys.head(SHARD))
    bench.cli.set(bench.keys.head(SHARD), "a stranger's")
    bench.cli.lpush(bench.keys.lease(SHARD), "a stranger's")
    refused(store, claim, StoreError, "WRONGTYPE")


# Secrets and users


@pytest.mark.parametrize(
    "settings",
    [
        {"url": "redis://app:s3cr%2Ft@127.0.0.1:{port}/0"},
        {"url": "redis://127.0.0.1:{port}/0", "username": "app", "password": Secret("s3cr/t")},
        {"url": "redis://wrong:wrong@127.0.0.1:{port}/0", "username": "app", "password": Secret("s3cr/t")},
    ],
)
def test_users_log_in_and_need_neither_config_nor_info(fresh_redis, settings):
    rights = ["~fluvial:*", "+@all", "-@admin", "-@dangerous"]
    fresh_redis.cli.execute_command("ACL", "SETUSER", "app", "reset", "on", ">s3cr/t", *rights)
    try:
        bench = RedisBench(fresh_redis.cli, settings.pop("url").format(port=fresh_redis.port))
        store = bench.open(**settings)
        claim = store.claim(SHARD, "a")
        save(store, claim, 1)
        assert store.publish(claim, [("k", score(0))]) == 1
        report = store.report()
        assert (report.version, report.persistent, report.eviction) == ("unknown", False, "unknown")
        assert not report.embedded
        bench.close()
    finally:
        fresh_redis.cli.execute_command("ACL", "DELUSER", "app")


def test_what_the_server_says_of_itself(store):
    report = store.report()
    assert int(report.version.split(".")[0]) >= 7
    assert (report.persistent, report.eviction, report.embedded) == (True, "noeviction", False)


def test_a_server_that_reads_its_files_cannot_say_what_it_is(redis_binary):
    """INFO answers while it loads, and says that the append-only file is off."""
    server = RedisServer().start()
    bench = RedisBench(server.cli, server.url)
    store = bench.open()
    try:
        server.cli.mset({f"filler-{i}": b"x" for i in range(1_000)})
        server.kill_and_load_slowly()
        server.launch()
        refused = []
        until = time.monotonic() + 20
        while time.monotonic() < until:
            try:
                report = store.report()
                break
            except StoreUnavailable as error:
                refused.append(str(error))
                time.sleep(0.01)
        assert any("it is loading its data" in said for said in refused)
        assert report.persistent
    finally:
        bench.close()
        server.stop()


def test_a_wrong_password_is_said_without_showing_it(fresh_redis, caplog):
    bench = RedisBench(None, f"redis://app:hunter2@127.0.0.1:{fresh_redis.port}/0")
    store = bench.open()
    with pytest.raises(StoreUnavailable, match="refused the login") as caught:
        store.claim(SHARD, "a")
    hidden(store, caught, caplog)
    bench.close()


def test_a_server_that_echoes_the_login_does_not_make_us_show_it(redis_binary, caplog):
    # It does not know AUTH, and quotes the arguments of what it does not know.
    server = RedisServer("--rename-command", "AUTH", "nothing").start()
    try:
        bench = RedisBench(None, f"redis://app:hunter2@127.0.0.1:{server.port}/0")
        store = bench.open()
        with pytest.raises(StoreError) as caught:
            store.claim(SHARD, "a")
        hidden(store, caught, caplog)
        bench.close()
    finally:
        server.stop()


def hidden(store, caught, caplog):
    import traceback

    shown = "".join(traceback.format_exception(caught.value))
    for text in (shown, caplog.text, repr(store), repr(store._server.where), repr(vars(store))):
        assert "hunter2" not in text
    assert "127.0.0.1:" in str(caught.value)


# Other ways to be reached


def test_a_unix_socket(redis_binary, tmp_path):
    path = tmp_path / "r.sock"
    server = RedisServer("--unixsocket", str(path)).start()
    try:
        bench = RedisBench(server.cli, f"unix://{path}?db=3")
        store = bench.open()
        save(store, store.claim(SHARD, "a"), 1)
        assert store.load(SHARD) == [b"state 1"]
        assert server.cli.info("keyspace")["db3"]["keys"] == 2
        bench.close()
    finally:
        server.stop()


def test_a_sentinels_master(fresh_redis, tmp_path):
    port = free_port()
    conf = tmp_path / "sentinel.conf"
    conf.write_text(f"port {port}\ndir {tmp_path}\nsentinel monitor main 127.0.0.1 {fresh_redis.port} 1\n")
    process = subprocess.Popen(
        [BINARY, str(conf), "--sentinel"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        bench = RedisBench(
            fresh_redis.cli, f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{port}/main/2"
        )
        store = bench.open()
        claim = eventually(lambda: store.claim(SHARD, "a"))
        save(store, claim, 1)
        assert store.publish(claim, [("k", score(0))]) == 1
        assert fresh_redis.cli.info("keyspace")["db2"]["keys"] >= 4
        bench.close()
        bench = RedisBench(None, f"redis+sentinel://127.0.0.1:{port}/other")
        with pytest.raises(StoreUnavailable, match="other"):
            bench.open().claim(SHARD, "a")
        bench.close()
    finally:
        process.kill()
        process.wait()


def test_tls_with_a_certificate_of_ones_own(redis_binary, tmp_path):
    if shutil.which("openssl") is None:
        missing("no openssl here to make a certificate with")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout {key} -out {cert}".split()
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    tls = free_port()
    options = ["--tls-port", str(tls), "--tls-cert-file", str(cert), "--tls-key-file", str(key)]
    server = RedisServer(*options, "--tls-auth-clients", "no", "--tls-ca-cert-file", str(cert)).start()
    try:
        bench = RedisBench(server.cli, f"rediss://127.0.0.1:{tls}/0")
        store = bench.open(ca_file=str(cert))
        save(store, store.claim(SHARD, "a"), 1)
        assert store.load(SHARD) == [b"state 1"]
        with pytest.raises(StoreUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            bench.open().claim(SHARD, "a")
        bench.close()
    finally:
        server.stop()


def eventually(call):
    until = time.monotonic() + 20
    while True:
        try:
            return call()
        except StoreUnavailable:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


# Two threads


def test_scores_and_checkpoints_from_two_threads(bench):
    store = bench.open(ScoreSettings(ttl_seconds=100))
    claim = store.claim(SHARD, "a")
    failures = []

    def publish():
        try:
            for start in range(0, 20_000, 200):
                store.publish(claim, [(f"k{n % 50}", score(n)) for n in range(start, start + 200)])
        except StoreError as error:
            failures.append(error)

    thread = threading.Thread(target=publish)
    thread.start()
    for sequence in range(1, 101):
        save(store, claim, sequence, entries=[DRIFT])
    thread.join()
    assert failures == []
    last = store.claim(SHARD, "a")
    assert (last.head.sequence, dict(last.published)) == (100, {0: 20_000})
    assert bench.score("k49") == score(19_999)
    assert bench.permanent() == 2


def test_a_request_that_is_none_is_said(bench, store):
    bench.cli.hset(bench.keys.asked, SHARD, b'{"id": 7}')
    with pytest.raises(StoreError, match="asked all: this is no request"):
        store.asked(SHARD)
    bench.cli.hset(bench.keys.asked, SHARD, b"garbage")
    assert not store.ask(SHARD, Rollback("r1", 3, "ann", "", 1e9)), "something stands"


@pytest.mark.parametrize("ends", ["taken", "withdrawn", "refused"])
def test_a_request_of_an_earlier_release_is_known_by_its_id(bench, store, ends):
    """Its JSON has not the fields that were added since."""
    old = b'{"id":"r1","version":3,"by":"ann","because":"","at":1e9,"relearn":false,"skip":[]}'
    bench.cli.hset(bench.keys.asked, SHARD, old)
    request, claim = store.asked(SHARD), store.claim(SHARD, "a")
    assert store.ask(SHARD, request)
    if ends == "taken":
        assert store.take(claim, request).taken
        store.answer(claim, request, Reply("r1", 4))
    elif ends == "withdrawn":
        assert store.withdraw(SHARD, request)
    else:
        store.answer(claim, request, Reply("r1", None, "no"))
    assert store.asked(SHARD) is None


def test_what_an_earlier_release_kept_goes_with_the_next_model(bench, store):
    claim = store.claim(SHARD, "a")
    bench.cli.hset(bench.keys.head(SHARD), "versions", "[1,2]")
    for number in (1, 2):
        bench.cli.set(bench.keys.version(SHARD, number), b"unsigned")
    save(store, claim, 1, versions={3: b"model"})
    assert [store.version_blob(SHARD, n) for n in (1, 2, 3)] == [None, None, b"model"]
    assert bench.cli.hget(bench.keys.head(SHARD), "versions") is None


def test_a_model_that_was_pinned_just_now_stays(bench, store):
    """Between the writer's look and its flip: the script looks again."""
    narrow = bench.open(versions=VersionSettings(keep=1))
    claim = narrow.claim(SHARD, "a")
    save(narrow, claim, 1, versions={1: b"first"})
    look = narrow.kept

    def look_and_lose(shard):
        found = look(shard)
        assert store.pin(SHARD, 1, "ann")
        return found

    narrow.kept = look_and_lose
    save(narrow, claim, 2, versions={2: b"second"})
    assert narrow.version_blob(SHARD, 1) == b"first"
    assert store.kept(SHARD)[1].pinned == "ann"
