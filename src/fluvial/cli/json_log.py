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
            "message": _clean(record.getMessage()),
        }
        if record.exc_info:
            told["traceback"] = _clean(self.formatException(record.exc_info))
        return msgspec.json.encode(told).decode()


def _clean(text: str) -> str:
    """Without halves of surrogate pairs, as a hostile event may hold: they are no UTF-8."""
    return text.encode(errors="replace").decode()
