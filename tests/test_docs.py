"""What the documents name exists: commands, files, links, settings; and they keep their form."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from fluvial import policies
from fluvial.cli import COMMANDS
from fluvial.config import parse
from fluvial.models.presets import PRESETS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SKIPPED = {".venv", ".git", ".pytest_cache", ".hypothesis", "node_modules"}
PAGES = sorted(p for p in ROOT.rglob("*.md") if not SKIPPED & set(p.relative_to(ROOT).parts))
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
OPERATING = (ROOT / "docs" / "operating.md").read_text()


def name(path):
    return str(path.relative_to(ROOT))


def fenced(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def anchors(page):
    """GitHub's: lower case, spaces to dashes, punctuation dropped."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_relative_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), f"{name(page)} links to {target}"
        assert not anchor or anchor in anchors(there), f"{name(page)} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_exist(page):
    named = re.findall(r"(?:`|^|\$ |bin/)fluvial ([a-z-]+)\b", page.read_text(), re.MULTILINE)
    assert set(named) <= set(COMMANDS)


def test_the_readme_shows_what_a_newcomer_needs():
    for command in ("init", "check", "run", "produce", "status", "score"):
        assert f"fluvial {command}" in README
    for word in (*PRESETS, "observe", "reset", "reweight"):
        assert f"| `{word}`" in README, f"no row on {word}"
    assert {p.name for p in (policies.Observe, policies.Reset, policies.Reweight)} == {
        "observe",
        "reset",
        "reweight",
    }


@pytest.mark.parametrize(
    "option", sorted(set(re.findall(r"(?<=\s)--[a-z-]+", "".join(fenced(README, "sh")))))
)
def test_options_in_the_readme_exist(option):
    lines = [line for line in "".join(fenced(README, "sh")).splitlines() if option in line]
    for line in lines:
        words = line.split()
        if words[0] == "fluvial":
            source = (ROOT / "src" / "fluvial" / "cli" / f"{words[1].replace('-', '_')}.py").read_text()
            assert f'"{option}"' in source, f"{words[1]} has no {option}"


def test_the_schema_in_the_readme_is_one():
    table = tomllib.loads(fenced(README, "toml")[0])
    rest = {"service": "s", "kafka": {"bootstrap_servers": "b", "topic": "t"}, "model": {"preset": "tree"}}
    assert len(parse({**rest, **table}).schema.names) == 7


def test_python_in_the_readme_compiles():
    for block in fenced(README, "python"):
        compile(block, "README.md", "exec")


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_make_targets_exist(page):
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake ([a-z-]+)", (ROOT / page).read_text())) - {"sure"}:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"no target {target}"


def test_files_named_in_the_architecture_exist_and_all_modules_are_named():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    named = set(re.findall(r"`((?:src|tests|docs)/[\w/.]+\.\w+)`", text))
    assert named
    assert not [path for path in named if not (ROOT / path).is_file()]
    modules = {name(p) for p in (ROOT / "src" / "fluvial").rglob("*.py") if p.name != "__init__.py"}
    assert {m for m in modules if "/cli/" not in m} <= named
    assert len(text.splitlines()) < 150


def test_floors_in_the_architecture_are_those_of_the_test():
    from test_floors import FLOORS

    text = (ROOT / "ARCHITECTURE.md").read_text()
    rows = re.findall(r"^ ?\d+  ([a-z_ ]+)$", text, re.MULTILINE)
    assert [set(row.split()) for row in rows] == FLOORS


@pytest.mark.parametrize("page", DECISIONS, ids=name)
def test_decisions_keep_their_form(page):
    headings = re.findall(r"^## (.*)$", page.read_text(), re.MULTILINE)
    assert headings == ["Context", "Decision", "Cost"]


def test_every_kind_of_journal_entry_is_explained():
    kinds = {"version", "hold", "warning", "drift", "recovered", "started", "replayed"}
    for module in ("shard.py", "worker.py"):
        source = (ROOT / "src" / "fluvial" / module).read_text()
        kinds |= {a or b for a, b in re.findall(r'kind="([a-z-]+)"|_note\(\s*"([a-z-]+)"', source)}
    rows = set(re.findall(r"`([a-z-]+)`", OPERATING.split("## The journal")[1].split("## ")[0]))
    assert kinds <= rows


def test_what_ends_a_worker_is_explained():
    for error in (
        "LostState", "CheckpointRefused", "TopologyChanged", "OffsetLost", "StoreUnfit",
        "SourceFatal", "OutOfOrder", "SettingsError", "Fenced",
    ):  # fmt: skip
        assert error in OPERATING


def test_no_page_speaks_of_one_machine_or_of_work_left():
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout
    words = ["/" + "root/", "/" + "tmp/w", "/" + "work/", "TO" + "DO", "FIX" + "ME"]
    pages = [ROOT / line for line in tracked.splitlines() if not line.endswith((".svg", ".gz"))] or PAGES
    for page in pages:
        if page.is_file():
            text = page.read_text(errors="replace")
            assert not [word for word in words if word in text], name(page)
