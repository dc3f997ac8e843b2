"""`fluvial generate` writes what it says, at its pace, and ends cleanly when told to."""

import argparse
import json
import signal
import subprocess
import sys
import time

import pytest

from fluvial.cli import generate, main
from fluvial.streams import named, wire
from support.kafka_broker import read_topic, unique_topic

COMMAND = "import sys; from fluvial.cli import main; sys.exit(main())"


def parsed(*words):
    parser = argparse.ArgumentParser()
    generate.add_arguments(parser)
    return parser.parse_args(words)


def started(*words, **popen):
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            COMMAND,
            "generate",
            *words,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,  # else `communicate` loses a line that `readline` read ahead
        **popen,
    )


def test_lines_are_the_stream(capfdbinary):
    words = ("--stream", "five-classes", "--events", "250", "--drift-every", "100", "--seed", "7")
    assert main(["generate", *words]) == 0
    out, err = capfdbinary.readouterr()
    assert out.splitlines() == [v for _, v in wire(named("five-classes"), 7, 250, 100)]
    assert err.splitlines() == [
        b"drift: the concept changes at event 100",
        b"drift: the concept changes at event 200",
        b"250 events of 'five-classes' written",
    ]


def test_a_topic_receives_them_with_their_keys(mock_kafka):
    topic = unique_topic()
    mock_kafka.create_topic(topic, 1)
    words = ("--bootstrap-servers", mock_kafka.bootstrap_servers, "--topic", topic, "--events", "300")
    assert main(["generate", *words]) == 0
    got = [(m.key().decode(), m.value()) for m in read_topic(mock_kafka.bootstrap_servers, topic)]
    assert got == list(wire(named("market"), 1, 300))


def test_a_missing_topic_is_said(mock_kafka, capsys, monkeypatch):
    monkeypatch.setattr(generate, "WAIT_SECONDS", 2.0)
    words = ("--bootstrap-servers", "127.0.0.1:1", "--topic", "nowhere", "--events", "3")
    assert main(["generate", *words]) == 1
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(number):
    process = started("--forever", "--rate", "200")
    lines = [json.loads(process.stdout.readline()) for _ in range(50)]
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    sent = len(lines) + len(out.splitlines())
    assert f"{sent:,} events" in err.decode()
    assert abs(lines[0]["time"] - time.time()) < 60, "paced events are about now"


def test_a_reader_that_has_enough_is_no_error():
    process = started("--forever")
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=20) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.parametrize("words", [("--rate", "0"), ("--events", "0"), ("--events", "5", "--forever")])
def test_senseless_options_are_refused(words):
    with pytest.raises(SystemExit):
        parsed(*words)
