"""Log lines as JSON, for machines that collect them."""

from __future__ import annotations

import logging

import msgspec


class JsonFormatter(logging.Formatter):
    """One object a line: time (seconds since the epoch), level, logger, message, and the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        told = {
            "time": record.created,
            "level": record.levelname.lower(),
            "logger": record.name,
            # Half a surrogate pair, as a hostile event may hold, is no UTF-8.
            "message": record.getMessage().encode(errors="replace").decode(),
        }
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(told).decode()
