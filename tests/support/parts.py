"""A missing real part skips on a laptop, with its reason, and fails in CI."""

import os

import pytest


def missing(reason: str) -> None:
    """Skip here, or fail where nothing may be missing (CI=true)."""
    if os.environ.get("CI", "").lower() in {"1", "true", "yes"}:
        pytest.fail(f"{reason} (CI must have it)", pytrace=False)
    pytest.skip(reason)
