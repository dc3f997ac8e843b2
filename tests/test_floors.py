"""Floors: a module imports only from earlier ones, one adapter a client, no long function, no cycle."""

import ast
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src" / "fluvial"

FLOORS = [
    {"types", "errors"},
    {"schema", "keys", "view", "roc"},
    {"config", "ports", "fused"},
    {"codec", "models", "mixture", "drift", "evaluation", "streams", "breaker"},
    {"policies", "ledger", "lineage", "memory", "trial", "relearning", "late"},
    {"crew", "checkpoint"},
    {"reactions"},
    {"learner", "kept"},
    {"adapters"},
    {"scoring"},
    {"pace", "publisher", "shard", "tally", "patience", "survey", "fitness", "explaining"},
    {"keeper"},
    {"rollback"},
    {"scopes"},
    {"topic_scope", "partition_scope"},
    {"worker", "backtest"},
    {"looking"},
    {"app"},
    {"cli"},
]
ONE_ADAPTER = {
    "confluent_kafka": "adapters/kafka/",
    "redis": "adapters/redis.py",
    "prometheus_client": "adapters/prometheus.py",
}
MODULES = sorted(SRC.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def floor(name: str) -> int:
    for number, rooms in enumerate(FLOORS):
        if name in rooms:
            return number
    return -1


def imported(tree: ast.AST) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SRC)))
def test_imports_only_from_earlier_floors(path):
    here = room(path)
    if here == "__init__":
        return
    assert floor(here) >= 0, f"{here} has no floor"
    for name in imported(ast.parse(path.read_text())):
        if not name.startswith("fluvial."):
            continue
        there = name.split(".")[1]
        if there in {here, "__version__"}:
            continue
        assert floor(there) < floor(here), f"{here} imports {there}"


@pytest.mark.parametrize("client", ONE_ADAPTER)
def test_each_client_is_imported_by_one_adapter(client):
    users = {
        str(path.relative_to(SRC))
        for path in MODULES
        if any(name.split(".")[0] == client for name in imported(ast.parse(path.read_text())))
    }
    assert all(user.startswith(ONE_ADAPTER[client]) for user in users), users


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SRC)))
def test_no_function_over_forty_lines(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        body = node.body[1:] if ast.get_docstring(node) is not None else node.body
        length = node.end_lineno - body[0].lineno + 1 if body else 0
        assert length <= 40, f"{path.name}:{node.lineno} {node.name} has {length} lines"


def test_no_import_cycle():
    graph = {}
    for path in MODULES:
        module = ".".join(["fluvial", *path.relative_to(SRC).with_suffix("").parts]).removesuffix(".__init__")
        names = imported(ast.parse(path.read_text()))
        graph[module] = {n for n in names if n.startswith("fluvial.")}
    edges = {
        m: {t for t in graph if t != m and any(n == t or n.startswith(t + ".") for n in names)}
        for m, names in graph.items()
    }
    for names in edges.values():
        names.discard("fluvial")
    done, path_now = set(), []

    def visit(module):
        assert module not in path_now, f"cycle: {' -> '.join([*path_now, module])}"
        if module in done:
            return
        path_now.append(module)
        for target in sorted(edges[module]):
            if not target.startswith(module + ".") and not module.startswith(target + "."):
                visit(target)
        path_now.pop()
        done.add(module)

    for module in edges:
        visit(module)
