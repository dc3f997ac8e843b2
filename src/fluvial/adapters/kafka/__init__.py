"""Kafka through confluent-kafka: the only package that imports the client.

The service never lets the client decide where to read. Offsets are assigned by hand, nothing is
committed or reset by itself (`auto.offset.reset=error`: with `earliest` a jump over expired events is
silent), and a report that an offset is outside the log becomes an exception that the worker decides on.
"""

from fluvial.adapters.kafka.client import OWNED, client_libraries, mock_in_client
from fluvial.adapters.kafka.group import KafkaMember
from fluvial.adapters.kafka.letters import KafkaLetters, Letter, Seen
from fluvial.adapters.kafka.producer import KafkaProducer
from fluvial.adapters.kafka.sink import KafkaSink, letter_headers
from fluvial.adapters.kafka.source import KafkaSource
from fluvial.adapters.kafka.stretch import Stretch

__all__ = [
    "OWNED",
    "KafkaLetters",
    "KafkaMember",
    "KafkaProducer",
    "KafkaSink",
    "KafkaSource",
    "Letter",
    "Seen",
    "Stretch",
    "client_libraries",
    "letter_headers",
    "mock_in_client",
]
