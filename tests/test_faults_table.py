"""The table of faults names tests that exist, settings that exist, and what the code really says."""

import ast
import re
from pathlib import Path

import pytest

from fluvial.adapters.metric_catalogue import VALUES
from fluvial.config import showing

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "faults.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith("| id ")
]


def names_in(path):
    """Names of the test functions of a file."""
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def test_each_row_is_whole_and_its_id_its_own():
    ids = [row[0] for row in ROWS]
    assert len(ids) == len(set(ids)) >= 55
    for row in ROWS:
        assert len(row) == 6, row[0]
        assert all(row), row[0]
        assert re.fullmatch(r"[a-z-]+", row[0])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_tests_of_a_row_exist(row):
    named = re.findall(r"`([^`]+\.py)::(test_\w+)`", row[5])
    assert named, "no test"
    for file, name in named:
        path = ROOT / "tests" / file
        assert path.is_file(), file
        assert name in names_in(path), f"{file} has no {name}"


def test_every_test_of_a_fault_is_in_the_table():
    for path in (ROOT / "tests").glob("test_faults_*.py"):
        if path.name != Path(__file__).name:
            for name in names_in(path):
                assert not name.startswith("test_") or f"`{path.name}::{name}`" in PAGE, (
                    f"{path.name}::{name}"
                )


def test_the_deciding_settings_exist():
    known = showing.json_schema()
    for row in ROWS:
        for name in re.findall(r"`([a-z]+)\.([a-z_]+)`", row[3]):
            section, key = name
            assert key in properties(known, section), f"{row[0]}: no setting {section}.{key}"


def properties(schema, section):
    """The keys of one section in the settings' JSON schema."""
    settings = schema["$defs"]["SettingsFile"]["properties"][section]
    reference = next(re.finditer(r"#/\$defs/(\w+)", repr(settings)))
    return schema["$defs"][reference[1]]["properties"]


def test_incidents_are_those_that_are_counted():
    for row in ROWS:
        if "counted" in row[4]:
            assert set(re.findall(r"`([a-z-]+)`", row[4])) & set(VALUES["incident"]), row[0]
