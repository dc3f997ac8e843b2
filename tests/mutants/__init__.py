"""Builds broken on purpose, each of which a stated part of the suite must fail.

`make mutants` tries them all (`python -m mutants --help`). A mutant is an exact replacement of text in a
copy of the tree. Text that is no longer found exactly once is an error, so that none goes stale unnoticed.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("src", "tests", "pyproject.toml")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", ".pytest_cache", ".hypothesis")


class Stale(Exception):
    """The text to replace is not found exactly once: the code has moved on, and the mutant must follow."""


@dataclass(frozen=True)
class Edit:
    """In this file, one text for another."""

    path: str
    old: str
    new: str

    def apply(self, root: Path) -> None:
        """Replace it under `root`. Raises Stale."""
        file = root / self.path
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        if (found := text.count(self.old)) != 1:
            raise Stale(f"{self.path} holds {found} times, not once: {self.old!r}")
        file.write_text(text.replace(self.old, self.new), encoding="utf-8")


@dataclass(frozen=True)
class Mutant:
    """One broken build."""

    name: str
    loses: str
    """What a user would lose."""
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]
    """Node ids, from `tests/` on. Each must fail, in one of its cases at least."""

    def apply(self, root: Path) -> None:
        """Break the copy under `root`. Raises Stale."""
        for edit in self.edits:
            edit.apply(root)


def copy_tree(to: Path, root: Path = ROOT) -> Path:
    """A copy of what the tests need, to be broken; `to`."""
    for name in COPIED:
        if (root / name).is_dir():
            shutil.copytree(root / name, to / name, ignore=LEFT_OUT)
        else:
            shutil.copy2(root / name, to / name)
    return to
