"""When a member of a consumer group may claim a shard: one reading of it for every store."""

from __future__ import annotations

from fluvial.errors import Fenced
from fluvial.types import Membership


def known_to_the_group(shard: str, membership: Membership) -> None:
    """Raise Fenced for a member that the group does not know (expelled, or never one)."""
    if membership.generation < 0:
        raise Fenced(f"shard {shard}: the group {membership.group} does not know this member")


def older_generation(shard: str, membership: Membership, younger: int) -> str:
    """What a member of an older generation is told."""
    return (
        f"shard {shard}: claimed in generation {younger} of {membership.group}, "
        f"this member is of generation {membership.generation}"
    )
