"""Fixtures that start the real parts, each in a file of its own."""

import signal

pytest_plugins = ["support.redis_server", "support.kafka_broker", "support.prometheus_server"]

# Begun with `nohup` or by a script's `&`, the tests would hand the ignored Ctrl-C on to what they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
