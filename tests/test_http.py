"""The probes, and clients that mean no good."""

import json
import logging
import socket
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager

import pytest

from fluvial.adapters import http
from fluvial.adapters.prometheus import MetricsServer
from fluvial.errors import SettingsError
from fluvial.models import unpickle
from support.fake_worker import FakeWorker


@contextmanager
def serving(worker=None):
    worker = worker or FakeWorker()
    server = MetricsServer(worker.view, port=0)
    server.start()
    try:
        yield server
    finally:
        server.close()


def get(server, path, timeout=10):
    """(status, body)."""
    host, port = server.address
    try:
        with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=timeout) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def say(server, data):
    """Everything that comes back for these bytes, until the server closes."""
    with socket.create_connection(server.address, timeout=10) as client:
        client.sendall(data)
        received = b""
        while more := client.recv(65_536):
            received += more
        return received


def test_livez_follows_the_loop():
    worker = FakeWorker()
    with serving(worker) as server:
        assert get(server, "/livez") == (200, b"alive\n")
        worker.alive = False
        assert get(server, "/livez")[0] == 503


def test_readyz_says_why_not():
    worker = FakeWorker()
    with serving(worker) as server:
        assert get(server, "/readyz")[0] == 200
        worker.ready, worker.not_ready = False, ("stands by: worker-2 holds the lease",)
        status, body = get(server, "/readyz")
        assert status == 503
        assert json.loads(body) == {
            "ready": False,
            "paused": False,
            "reasons": ["stands by: worker-2 holds the lease"],
            "warnings": [],
        }


def test_metrics_are_text_that_names_its_format():
    with serving() as server:
        answer = say(server, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain")
        assert b"\nfluvial_alive{" in body
        assert f"Content-Length: {len(body)}".encode() in head


def test_port_zero_tells_its_port_and_loopback_is_the_default():
    with serving() as server:
        host, port = server.address
        assert host == "127.0.0.1"
        assert port > 0


def test_a_taken_port_is_said_with_its_setting():
    with serving() as server:
        second = MetricsServer(FakeWorker().view, port=server.address[1])
        with pytest.raises(SettingsError, match=r"metrics\.port"):
            second.start()
        second.close()


def test_closing_gives_the_port_back_and_ends_the_thread():
    with serving() as server:
        address = server.address
        server.close()
        server.close()
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(address, timeout=2).close()
    assert not [t for t in threading.enumerate() if t.name == "fluvial-http"]


def test_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 on this machine")
    server = MetricsServer(FakeWorker().view, host="::1", port=0)
    server.start()
    try:
        assert b"200 OK" in say(server, b"GET /livez HTTP/1.1\r\n\r\n")
    finally:
        server.close()


def test_a_view_that_raises_costs_one_answer(caplog):
    worker = FakeWorker()
    with serving(worker) as server:
        worker.broken = RuntimeError("dictionary changed size during iteration")
        with caplog.at_level(logging.ERROR):
            assert get(server, "/metrics")[0] == 500
            assert get(server, "/readyz")[0] == 500
        assert "dictionary changed size" in caplog.text
        worker.broken = None
        assert get(server, "/metrics")[0] == 200


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", b"405"),
        (b"GET /secrets HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /../../etc/passwd HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /livez?verbose=1 HTTP/1.1\r\n\r\n", b"200"),
        (b"HEAD /livez HTTP/1.0\r\n\r\n", b"200"),
        (b"\xff\xfe\x00\x01\r\n\r\n", b"400"),
        (b"GET\r\n\r\n", b"400"),
        (b"\r\n\r\n", b"400"),
        (b"GET /livez HTTP/2.0\r\n\r\n", b"400"),
    ],
)
def test_odd_requests(request_bytes, status):
    with serving() as server:
        assert say(server, request_bytes).split(b" ")[1] == status
        assert get(server, "/livez")[0] == 200


def test_head_has_no_body():
    with serving() as server:
        assert say(server, b"HEAD /metrics HTTP/1.1\r\n\r\n").endswith(b"\r\n\r\n")


def test_a_request_in_pieces_is_one_request():
    with serving() as server, socket.create_connection(server.address, timeout=10) as client:
        for piece in (b"GET /li", b"vez HT", b"TP/1.1\r\nHo", b"st: x\r\n\r", b"\n"):
            client.sendall(piece)
            time.sleep(0.02)
        assert b"200 OK" in client.recv(4_096)


def test_a_huge_request_line_is_refused_and_the_next_client_served():
    with serving() as server:
        with socket.create_connection(server.address, timeout=10) as client:
            try:
                client.sendall(b"GET /" + b"a" * 10_000_000)
                answer = client.recv(4_096)
            except ConnectionError:
                answer = b""  # refused before it had finished
        assert not answer or b" 431 " in answer
        assert get(server, "/livez")[0] == 200


def test_an_endless_header_is_refused():
    with serving() as server:
        answer = say(server, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1_400)
        assert b" 431 " in answer


def test_silent_and_slow_clients_do_not_keep_others_out():
    with serving() as server, ExitStack() as clients:
        for number in range(50):
            client = clients.enter_context(socket.create_connection(server.address, timeout=10))
            if number % 2:
                client.sendall(b"GET /metrics HT")
            assert number % 10 or get(server, "/livez")[0] == 200
        assert get(server, "/livez")[0] == 200
        assert get(server, "/metrics")[0] == 200
        assert len(server._server._connections) <= http.MAX_CONNECTIONS


def test_a_client_that_drips_is_cut_off(monkeypatch):
    monkeypatch.setattr(http, "DEADLINE", 0.5)
    with serving() as server, socket.create_connection(server.address, timeout=10) as client:
        deadline = time.monotonic() + 20
        try:
            while time.monotonic() < deadline:
                client.sendall(b"x")
                time.sleep(0.1)
        except ConnectionError:
            return
        pytest.fail("it was still being listened to")


def test_a_client_that_never_reads_is_cut_off(monkeypatch):
    monkeypatch.setattr(http, "DEADLINE", 0.5)
    big = http.HttpServer(
        {"/big": lambda accept: http.Answer(http.HTTPStatus.OK, bytes(50_000_000))}, "127.0.0.1", 0
    )
    big.start()
    try:
        with socket.create_connection(big.address, timeout=10) as client:
            client.sendall(b"GET /big HTTP/1.1\r\n\r\n")
            deadline = time.monotonic() + 20
            while not big._connections and time.monotonic() < deadline:
                time.sleep(0.01)
            while big._connections and time.monotonic() < deadline:
                time.sleep(0.05)
            assert not big._connections
    finally:
        big.close()


def test_many_at_once_are_all_answered():
    with serving() as server:
        answers = []

        def ask():
            answers.append(get(server, "/livez", timeout=30)[0])

        threads = [threading.Thread(target=ask) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [200] * 20


def test_the_server_rests_nine_times_as_long_as_it_worked(monkeypatch):
    """So that a flood costs the worker's loop a tenth of a core at most."""
    clock = iter(range(10_000))
    monkeypatch.setattr(http.time, "thread_time", lambda: next(clock) * 0.01)
    with serving() as server:
        rests, closing = [], server._server._closing
        monkeypatch.setattr(closing, "wait", rests.append)
        for _ in range(3):
            get(server, "/livez")
    assert rests
    assert rests == [pytest.approx(0.09)] * len(rests)


def test_a_scrape_is_answered_while_a_large_state_is_saved():
    """A scrape needs the interpreter's lock a dozen times: it must not wait each time for a whole dump."""
    state = [{"a": float(i), "b": {"c": -float(i)}} for i in range(100_000)]
    saves, done = 0, threading.Event()

    def save():
        nonlocal saves
        while not done.is_set():
            unpickle.loads(unpickle.dumps(state), own=True)
            saves += 1

    saving = threading.Thread(target=save)
    with serving() as server:
        saving.start()
        try:
            before = saves
            assert get(server, "/metrics")[0] == 200
            meanwhile = saves - before
        finally:
            done.set()
            saving.join()
    assert meanwhile <= 3
