"""A missing real part skips on a laptop, with its reason, and fails in CI."""

import os

import pytest


def missing(reason: str) -> None:
    """Skip here, or fail where nothing may be missing (CI=true)."""
    if os.environ.get("CI", "").lower() in {"1", "true", "yes"}:
        pytest.fail(f"{reason} (CI must have it)", pytrace=False)
    pytest.skip(reason)


def arrow():
    """pyarrow, its readers loaded; it is an extra."""
    try:
        import pyarrow as pa
        from pyarrow import csv, parquet  # noqa: F401 - then they are its attributes
    except ModuleNotFoundError:
        missing("pyarrow is not here")
    return pa
