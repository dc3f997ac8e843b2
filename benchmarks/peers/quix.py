"""Quix Streams: a streaming dataframe whose `update` holds the model. It decodes with orjson by itself."""

from __future__ import annotations

import tempfile

import common
from quixstreams import Application, message_context


def main() -> None:
    options = common.arguments(__doc__)
    same = options.work == "same"
    app = Application(
        broker_address=options.bootstrap_servers,
        consumer_group=common.group(),
        auto_offset_reset="earliest",
        commit_every=common.SAVE_EVERY if same else 0,  # the commit is the library's own, at the same pace
        commit_interval=3_600.0,
        state_dir=tempfile.mkdtemp(prefix="bench-quix-"),
        auto_create_topics=False,
        loglevel="ERROR",
    )
    handle = common.work(options)

    def update(event: dict[str, object]) -> None:
        handle(event, message_context().offset if same else 0)

    frame = app.dataframe(app.topic(options.topic, value_deserializer="json"))
    frame.update(update)
    app.run()


if __name__ == "__main__":
    main()
