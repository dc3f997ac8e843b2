"""docs/security.md as the tests use it: the settings, the users and the rights that it shows."""

import itertools
import re
import shlex
import tomllib
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
TABLES = [tomllib.loads(text) for text in re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)]
KAFKA_TABLE = next(table["kafka"] for table in TABLES if "kafka" in table)
REDIS_TABLE = next(table["redis"] for table in TABLES if "redis" in table)


def kafka_rights(text, user):
    """What the `kafka-acls.sh` lines grant to a user: (kind, name, operation) each."""
    rights = []
    for line in text.splitlines():
        if line.startswith("kafka-acls.sh"):
            options = dict(itertools.pairwise(shlex.split(line)))
            if options["--allow-principal"] != f"User:{user}":
                continue
            kind = next(kind for kind in ("topic", "group", "cluster") if f"--{kind}" in options)
            rights.append((kind, options[f"--{kind}"], options["--operation"]))
    return rights


def acl_words(text):
    """The words after the user's name, of each `ACL SETUSER` line in turn."""
    return [line.split()[3:] for line in text.splitlines() if line.startswith("ACL SETUSER")]


KAFKA_RIGHTS = kafka_rights(PAGE, "fraud")
KAFKA_ON_CALL = kafka_rights(PAGE, "fraud-oncall")
WORKER, CLUSTER, READER, OPERATOR, ON_CALL = acl_words(PAGE)
REDIS_PASSWORD = "redis-hunter2@:%"


def acl_for(service, words):
    """The page's words for another service than its example."""
    return [word.replace("fraud", service).replace("PASSWORD", REDIS_PASSWORD) for word in words]
