"""Fixtures that start the real parts, each in a file of its own."""

pytest_plugins = ["support.redis_server", "support.kafka_broker", "support.prometheus_server"]
