"""What others wrote, on a terminal: shown as it is and never obeyed."""

from __future__ import annotations

from rich.text import Text


def printable(text: str) -> str:
    """With escapes in the place of what could move the cursor; lines stay lines."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def cell(text: str) -> Text:
    """Of a table: no part of it is a style, and what is too wide goes on below instead of being cut."""
    return Text(printable(text), overflow="fold")
