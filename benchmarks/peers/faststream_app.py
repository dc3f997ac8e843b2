"""FastStream: a batch subscriber with acknowledgement by hand; it decodes JSON by itself."""

from __future__ import annotations

import asyncio
from typing import Any

import common
from faststream import AckPolicy, FastStream
from faststream.confluent import KafkaBroker, KafkaMessage


def main() -> None:
    options = common.arguments(__doc__)
    same = options.work == "same"
    handle = common.work(options)
    broker = KafkaBroker(options.bootstrap_servers, logger=None)
    app = FastStream(broker, logger=None)
    saved = 0

    @broker.subscriber(
        options.topic,
        group_id=common.group(),
        auto_offset_reset="earliest",
        batch=True,
        max_records=common.PIPELINE,
        ack_policy=AckPolicy.MANUAL,
    )
    async def learn(events: list[dict[str, Any]], message: KafkaMessage) -> None:
        nonlocal saved
        first = message.raw_message[0].offset()
        for number, event in enumerate(events):
            handle(event, first + number)
        if same and handle.meter.events // common.SAVE_EVERY > saved:
            saved = handle.meter.events // common.SAVE_EVERY
            await message.ack()  # commits the batch's position, once per 10,000 events

    asyncio.run(app.run())


if __name__ == "__main__":
    main()
