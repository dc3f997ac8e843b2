"""A loop by hand around confluent-kafka.

`--decode orjson` is what a careful author writes: batches of 500 and orjson. `--decode json` is what
the client's tutorial shows: one poll per event and the standard library's json.
"""

from __future__ import annotations

import common
from confluent_kafka import Consumer, KafkaException, TopicPartition


def main() -> None:
    options = common.arguments(__doc__, decoders=("orjson", "json"))
    consumer = Consumer(
        {
            "bootstrap.servers": options.bootstrap_servers,
            "group.id": common.group(),
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe([options.topic])

    def commit(offset: int) -> None:
        consumer.commit(offsets=[TopicPartition(options.topic, 0, offset)], asynchronous=False)

    handle = common.work(options, commit)
    loads = common.loads(options.decode)
    if options.decode == "orjson":
        while True:
            for message in consumer.consume(500, 0.1):
                if message.error():
                    raise KafkaException(message.error())
                handle(loads(message.value()), message.offset())
    while True:
        message = consumer.poll(1.0)
        if message is None:
            continue
        if message.error():
            raise KafkaException(message.error())
        handle(loads(message.value()), message.offset())


if __name__ == "__main__":
    main()
