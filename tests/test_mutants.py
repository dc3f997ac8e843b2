"""The builds that are broken on purpose still apply, and what tells a dead one from a living one works."""

import json
import re

import pytest

from mutants import ROOT, Edit, Mutant, Stale, __main__, copy_tree
from mutants.catalogue import MUTANTS

LEDGER = "src/fluvial/ledger.py"
A_TEST = "tests/test_learner.py::test_an_offset_never_comes_twice"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_it_applies(mutant):
    """Each text is found exactly once, and its tests exist. Has the code moved on? Then mend the mutant."""
    texts = {}
    for edit in mutant.edits:
        text = texts.get(edit.path) or (ROOT / edit.path).read_text()
        assert text.count(edit.old) == 1, f"{edit.path}: {edit.old!r}"
        assert edit.new != edit.old
        texts[edit.path] = text.replace(edit.old, edit.new)
        if edit.path.endswith(".py"):
            compile(texts[edit.path], edit.path, "exec")
    assert mutant.tests
    for test in mutant.tests:
        path, _, name = test.partition("::")
        name = re.escape(name.partition("[")[0])
        assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.MULTILINE), test


def test_names_are_unique_and_say_what_is_lost():
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert all(len(mutant.loses) > 20 for mutant in MUTANTS)


SLOW = (
    "test_fuzz.py::test_a_short",
    "test_attacks.py",
    "test_worker.py",
    "test_partition_scope.py",
    "test_planes.py",
    "test_rollback.py",
)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_unbroken_copy_passes():
    """What must fail on a mutant passes without one, in the copy and on its code.

    `make mutants` begins with all of them; the slow ones are run once already, beside this one.
    """
    quick = [m for m in MUTANTS if not any(slow in test for test in m.tests for slow in SLOW)]
    assert len(quick) > len(MUTANTS) / 2
    ran = __main__.baseline(quick)
    assert ran.code == 0, ran.output
    assert " passed" in ran.output


def test_a_mutant_that_goes_stale_is_said(tmp_path):
    root = copy_tree(tmp_path)
    for old in ("no such text", "def "):
        with pytest.raises(Stale, match="not once"):
            Edit(LEDGER, old, "x").apply(root)
    with pytest.raises(Stale):
        Edit("src/fluvial/no_such_file.py", "x", "y").apply(root)


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        ("if offset < ledger.next:", "if False:", "dies"),
        ("if offset < ledger.next:", "if ledger.next > offset:", "lives"),
        ("if offset < ledger.next:", "if this is no Python", "lives"),
        ("no such text", "", "stale"),
    ],
)
def test_dead_living_and_stale_are_told_apart(monkeypatch, capsys, old, new, verdict):
    made = Mutant("made-up", "nothing, it is a test", (Edit(LEDGER, old, new),), (A_TEST,))
    monkeypatch.setattr(__main__, "MUTANTS", (made,))
    assert __main__.main(["--json", "--only", "made-up"]) == (verdict != "dies")
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["mutant"], row["verdict"]) == ("made-up", verdict)


def test_an_unknown_name_is_refused(capsys):
    with pytest.raises(SystemExit):
        __main__.main(["--only", "no-such-mutant"])
    assert "--list" in capsys.readouterr().err
