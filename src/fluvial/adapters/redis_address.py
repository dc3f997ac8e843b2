"""What a Redis URL means: one server, a socket, a cluster or a sentinel's master, and who is calling.

| URL | what |
|---|---|
| `redis://[user:password@]host[:port][/db]` | one server; `rediss://` with TLS |
| `unix:///path/to/socket[?db=0]` | one server on this machine |
| `redis+cluster://host:port[,host:port]` | a cluster, asked for its nodes; `rediss+cluster://` with TLS |
| `redis+sentinel://host:port[,host:port]/name[/db]` | that name's master; `rediss+sentinel://` with TLS |

A user name or password in a URL is percent-encoded. Nothing here shows one: not `repr`, not an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from fluvial.config import RedisSettings
from fluvial.errors import SettingsError

Kind = Literal["server", "unix", "cluster", "sentinel"]
_SCHEMES: dict[str, tuple[Kind, bool]] = {
    "redis": ("server", False),
    "rediss": ("server", True),
    "unix": ("unix", False),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
}
_DEFAULT_PORT = {"server": 6379, "cluster": 6379, "sentinel": 26379, "unix": 0}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a Redis is and how to log in."""

    kind: Kind
    tls: bool
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    """Of the socket."""
    master: str = ""
    """The name that the sentinels know it by."""
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: str | None = None

    @property
    def label(self) -> str:
        """How errors and logs name it: never with a password."""
        hosts = ",".join(f"{host}:{port}" for host, port in self.hosts)
        return self.path or (f"{hosts}/{self.master}" if self.master else hosts)


def address(settings: RedisSettings) -> Address:
    """Read the URL; `username`, `password`, `password_file` and `ca_file` go over what it says.

    Raises SettingsError, without a word of the URL after its scheme (a part of a password that was
    not percent-encoded can end up anywhere in it).
    """
    try:
        url = urlsplit(settings.url.reveal())
        kind, tls = _SCHEMES[url.scheme]
    except (ValueError, KeyError):
        known = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
        msg = f"redis.url: not a Redis URL; write one of {known}"
        raise SettingsError(msg) from None
    login, _, netloc = url.netloc.rpartition("@")
    username, _, password = login.partition(":")
    master, db = _master_and_db(url, kind)
    hosts = () if kind == "unix" else tuple(_host(part, _DEFAULT_PORT[kind]) for part in netloc.split(","))
    return Address(
        kind=kind,
        tls=tls,
        hosts=hosts,
        path=url.path if kind == "unix" else "",
        master=master,
        db=db,
        username=settings.username or unquote(username) or None,
        password=_password(settings) or unquote(password) or None,
        ca_file=settings.ca_file,
    )


def _password(settings: RedisSettings) -> str | None:
    if settings.password is not None:
        return settings.password.reveal()
    if settings.password_file is None:
        return None
    try:
        return Path(settings.password_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        msg = f"redis.password_file: {settings.password_file} cannot be read ({type(error).__name__})"
        raise SettingsError(msg) from None


def _host(part: str, default: int) -> tuple[str, int]:
    """Host and port of `host`, `host:port` or `[v6]:port`."""
    host, bracket, rest = part.partition("]")
    if bracket:
        host, port = host.removeprefix("["), rest.removeprefix(":")
    else:
        host, _, port = part.partition(":")
    if not host or (port and not (port.isdecimal() and 0 < int(port) < 65_536)):
        msg = "redis.url: write host:port; a user name or password in it must be percent-encoded"
        raise SettingsError(msg)
    return host, int(port or default)


def _master_and_db(url: SplitResult, kind: Kind) -> tuple[str, int]:
    """The sentinels' name for the master, and the database's number."""
    parts = [] if kind == "unix" else [part for part in url.path.split("/") if part]
    master = ""
    if kind == "sentinel":
        if not parts:
            msg = "redis.url: redis+sentinel:// needs the master's name: host:port,host:port/name"
            raise SettingsError(msg)
        master = parts.pop(0)
    db = (parts.pop(0) if parts else "") or parse_qs(url.query).get("db", ["0"])[0]
    if parts or not db.isdecimal() or (kind == "cluster" and int(db)):
        msg = "redis.url: the database is one number at its end (a cluster has only 0)"
        raise SettingsError(msg)
    return master, int(db)
