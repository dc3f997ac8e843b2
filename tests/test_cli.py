"""The command as people meet it: real processes, their words and their exit codes."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib

import pytest

from fluvial.cli import COMMANDS, score, status
from fluvial.types import Score
from support.redis_server import RedisServer, free_port

FLUVIAL = [sys.executable, "-c", "import sys; from fluvial.cli import main; sys.exit(main())"]
SECRET = "hunter2-and-more"
MODULE = """
from river import forest, linear_model, preprocessing

def good():
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()

def unseeded():
    return forest.ARFClassifier(n_models=3)

def failing():
    raise RuntimeError("no model today")
"""


@pytest.fixture
def here(tmp_path):
    """A working directory with a settings file and a module beside it."""
    (tmp_path / "mine.py").write_text(MODULE)
    assert fluvial(tmp_path, "init", "--preset", "linear").returncode == 0
    return tmp_path


def fluvial(directory, *words, seconds=60, **environ):
    done = subprocess.run(
        [*FLUVIAL, *words],
        cwd=directory,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert "Traceback" not in done.stderr + done.stdout, done.stderr
    return done


def use(directory, factory):
    path = directory / "fluvial.toml"
    path.write_text(path.read_text().replace('preset = "linear"', f'factory = "mine:{factory}"'))


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_loads_no_river(command):
    program = f"""
import sys
from fluvial.cli import main
try:
    main({[*filter(None, [command]), "--help"]!r})
except SystemExit as end:
    assert end.code == 0
print("river" in sys.modules, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "False\n"
    assert done.stdout.startswith(f"usage: fluvial {command}".strip())


ODD = "[vip]a[/b] \x1b[2J"
SHOWN = r"[vip]a[/b] \x1b[2J"


def test_what_others_wrote_is_shown_as_it_is_and_never_obeyed(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    shard = {"shard": "all", "active": ODD, "paused": ODD, "asked": None, "checkpoint": None, "lag": ODD}
    entry = {"at": 0.0, "kind": "breaker", "partition": 0, "offset": 1, "detail": {"because": ODD}}
    status._show({"service": "s", "scope": "topic", "shards": [shard], "journal": [entry]})
    told = capsys.readouterr().out
    assert told.count(SHOWN) == 3
    assert "[vip]a[/b]" in told.splitlines()[-1]
    made = Score(ODD, version=1, shard="all", partition=0, offset=1, event_time=0.0, made_at=0.0)
    score._show([ODD, ODD + "?"], {ODD: made})
    told = capsys.readouterr()
    assert told.out.count(SHOWN) == 2
    assert told.err.startswith(f"{SHOWN}?: no score")
    assert "\x1b" not in told.out + told.err


@pytest.mark.parametrize("command", [["check"], ["run"], ["status"], ["score", "a", "--config"]])
def test_an_unknown_setting_is_named_with_the_nearest_one(here, command):
    path = here / "fluvial.toml"
    path.write_text(path.read_text().replace("[policy]", "[policy]\nrestart_evry = 5"))
    done = fluvial(here, *command, "fluvial.toml")
    assert done.returncode == 1
    assert "policy.restart_evry" in done.stderr
    assert "restart_every" in done.stderr
    assert done.stdout == ""


def test_a_missing_file_says_how_to_get_one(tmp_path):
    done = fluvial(tmp_path, "run")
    assert done.returncode == 1
    assert "fluvial init" in done.stderr


def test_wrong_usage_is_two(tmp_path):
    assert fluvial(tmp_path).returncode == 2
    assert fluvial(tmp_path, "frobnicate").returncode == 2
    done = fluvial(tmp_path, "produce", "a.csv", "--delimiter", ";;")
    assert done.returncode == 2
    assert "--delimiter: ';;' is not one character" in done.stderr


# ---- check -----------------------------------------------------------------------------------


def test_what_init_writes_passes_the_check(here):
    done = fluvial(here, "check", "--offline")
    assert (done.returncode, done.stdout.count("ok ")) == (0, 5)


def test_a_factory_beside_the_settings_is_found(here):
    use(here, "good")
    done = fluvial(here, "check", "--offline", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout) == [
        {"check": "model", "faults": []},
        {"check": "model replays in another process", "faults": []},
        {"check": "policy", "faults": []},
        {"check": "drift detector", "faults": []},
    ]


def test_a_policy_that_fails_somewhere_is_a_fault_that_says_where(here):
    (here / "mine.py").write_text(
        "class Mine:\n    def __call__(self, standing):\n        return [standing.signals[0]]\n"
    )
    done = fluvial(here, "check", "--offline", FLUVIAL__POLICY__FACTORY="mine:Mine")
    assert done.returncode == 1
    assert "fault  policy: raised IndexError" in done.stdout
    assert "no signal" in done.stdout
    assert "returned a Signal among its decisions" in done.stdout


def test_a_half_life_for_a_model_without_weights_is_a_fault(here):
    done = fluvial(
        here, "check", "--offline", FLUVIAL__POLICY__HALF_LIFE="100.0", FLUVIAL__MODEL__PRESET="bayes"
    )
    assert done.returncode == 1
    assert "policy.half_life: lane 'bayes' takes no sample weight" in done.stdout


def test_a_step_to_keep_that_the_model_has_not_is_a_fault(here):
    done = fluvial(
        here, "check", "--offline", FLUVIAL__POLICY__KEEP='["Standardize"]', FLUVIAL__MODEL__PRESET="linear"
    )
    assert done.returncode == 1
    assert "fault  policy: policy.keep: the model has no step 'Standardize'; its steps are" in done.stdout


def test_an_unseeded_forest_is_a_fault_that_says_what_to_change(here):
    use(here, "unseeded")
    done = fluvial(here, "check", "--offline")
    assert done.returncode == 1
    assert "ARFClassifier" in done.stdout
    assert "seed=" in done.stdout


@pytest.mark.parametrize(("factory", "says"), [("failing", "no model today"), ("absent", "mine:absent")])
def test_a_factory_that_fails_is_a_fault(here, factory, says):
    use(here, factory)
    done = fluvial(here, "check", "--offline")
    assert done.returncode == 1
    assert says in done.stdout
    assert "replays" not in done.stdout  # what cannot be made cannot be replayed either


def test_servers_that_are_away_are_said_in_bounded_time(here):
    away = f"127.0.0.1:{free_port()}"
    done = fluvial(
        here,
        "check",
        "--json",
        FLUVIAL__KAFKA__BOOTSTRAP_SERVERS=away,
        FLUVIAL__REDIS__URL=f"redis://{away}/0",
    )
    assert done.returncode == 1
    found = {one["check"]: one["faults"] for one in json.loads(done.stdout)}
    assert found["model"] == []
    assert len(found["Kafka"]) == 1
    assert all(away in fault for fault in found["Kafka"] + found["Redis"])


def test_servers_that_say_nothing_are_said_in_bounded_time(here):
    with black_hole() as hole:
        done = fluvial(
            here,
            "check",
            FLUVIAL__KAFKA__BOOTSTRAP_SERVERS=hole,
            FLUVIAL__REDIS__URL=f"redis://{hole}/0",
        )
    assert done.returncode == 1
    assert "fault  Kafka" in done.stdout
    assert "fault  Redis" in done.stdout


@contextlib.contextmanager
def black_hole():
    """An address that takes connections and answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken, open_ = [], True

        def take():
            while open_:
                with contextlib.suppress(OSError):
                    taken.append(server.accept()[0])

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            open_ = False
            with socket.create_connection(server.getsockname()):
                thread.join()
            for one in taken:
                one.close()


# ---- schema ----------------------------------------------------------------------------------


def test_the_schema_takes_what_init_writes(here, tmp_path):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(fluvial(here, "schema").stdout)
    kind = jsonschema.validators.validator_for(schema)
    kind.check_schema(schema)
    settings = tomllib.loads((here / "fluvial.toml").read_text())
    kind(schema).validate(settings)
    settings["kafka"]["topick"] = "x"
    with pytest.raises(jsonschema.ValidationError, match="topick"):
        kind(schema).validate(settings)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_leaves_is_no_fault(tmp_path, unbuffered):
    """`fluvial schema | true`: the pipe's reader has gone before anything is written."""
    read, write = os.pipe()
    os.close(read)
    environ = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with os.fdopen(write, "wb") as pipe:
        done = subprocess.run(
            [*FLUVIAL, "schema"], stdout=pipe, stderr=subprocess.PIPE, env=environ, timeout=30, check=False
        )
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("words", [("generate", "--events", "5000"), ("schema",)])
def test_no_room_for_the_output_is_said(tmp_path, words):
    """As on a full disk: the file may not grow beyond some hundred bytes."""
    shell = ["sh", "-c", 'ulimit -f 1 && exec "$@"', "sh", *FLUVIAL, *words]
    with (tmp_path / "out").open("wb") as out:
        done = subprocess.run(shell, stdout=out, stderr=subprocess.PIPE, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (1, "fluvial: cannot write: File too large\n")


# ---- Ctrl-C ----------------------------------------------------------------------------------


def test_ctrl_c_ends_quietly(here):
    with black_hole() as hole:
        environ = {**os.environ, "FLUVIAL__REDIS__URL": f"redis://{hole}/0"}
        environ["FLUVIAL__REDIS__TIMEOUT_SECONDS"] = "30"
        with subprocess.Popen(
            [*FLUVIAL, "score", "a"],
            cwd=here,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            wait_for_connection(process.pid, hole)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (130, b"", b"")


def wait_for_connection(pid, address):
    import psutil

    until = time.monotonic() + 30
    port = int(address.rpartition(":")[2])
    while not any(c.raddr and c.raddr.port == port for c in psutil.Process(pid).net_connections("tcp")):
        assert time.monotonic() < until
        time.sleep(0.02)


# ---- secrets ---------------------------------------------------------------------------------


@pytest.fixture
def locked_redis(redis_binary):
    server = RedisServer()
    server.start()
    server.cli.config_set("requirepass", "another one")
    yield server
    server.stop()


@pytest.mark.redis
@pytest.mark.parametrize(
    ("command", "in_url"),
    [(["check"], True), (["status"], False), (["score", "a"], True), (["run"], True), (["run"], False)],
)
def test_no_password_is_ever_said(here, locked_redis, command, in_url):
    away = f"127.0.0.1:{locked_redis.port}"
    environ = {
        "FLUVIAL__KAFKA__BOOTSTRAP_SERVERS": f"127.0.0.1:{free_port()}",
        "FLUVIAL__LOG__LEVEL": "debug",
        "FLUVIAL__METRICS__PORT": "0",
        "FLUVIAL__WORKER__GRACE_SECONDS": "2",
        "FLUVIAL__REDIS__URL": f"redis://:{SECRET}@{away}/0" if in_url else f"redis://{away}/0",
    }
    if not in_url:
        environ["FLUVIAL__REDIS__PASSWORD"] = SECRET
    with (here / "fluvial.toml").open("a") as file:
        file.write('\n[kafka.client]\n"security.protocol" = "sasl_plaintext"\n"sasl.mechanism" = "PLAIN"\n')
        file.write(f'"sasl.username" = "me"\n"sasl.password" = "{SECRET}"\n')
    with subprocess.Popen(
        [*FLUVIAL, *command],
        cwd=here,
        env={**os.environ, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        if command == ["run"]:
            said = process.stdout.readline()
            while "refused the login" not in said:
                said += process.stdout.readline()
            process.terminate()
            said += process.communicate(timeout=30)[0]
        else:
            said = process.communicate(timeout=60)[0]
            assert process.returncode == 1
    assert "refused the login" in said
    assert SECRET not in said
    assert "Traceback" not in said
