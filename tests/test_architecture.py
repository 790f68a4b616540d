"""The structure of the code base: no import cycles, small rooms, independent test modules."""

import ast
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
# Rooms with more modules than this are split.
MAX_MODULES = 13


def import_cycles(graph: grimp.ImportGraph) -> list[set[str]]:
    """Return the strongly connected components of more than one module (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    cycles: list[set[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for imported in graph.find_modules_directly_imported_by(module):
            if imported not in index:
                visit(imported)
                low[module] = min(low[module], low[imported])
            elif imported in stack:
                low[module] = min(low[module], index[imported])
        if low[module] == index[module]:
            component = set(stack[stack.index(module) :])
            del stack[stack.index(module) :]
            if len(component) > 1:
                cycles.append(component)

    for module in sorted(graph.modules):
        if module not in index:
            visit(module)
    return cycles


def test_service_has_no_import_cycles():
    assert import_cycles(grimp.build_graph("service")) == []


def test_import_cycles_are_found():
    graph = grimp.ImportGraph()
    for importer, imported in [("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")]:
        graph.add_import(importer=importer, imported=imported)
    assert import_cycles(graph) == [{"a", "b", "c"}]


@pytest.mark.parametrize("package", ["service", "training", "client/src/ganymede_client"])
def test_rooms_are_small(package):
    for folder in [ROOT / package, *(ROOT / package).rglob("*/")]:
        modules = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(modules) <= MAX_MODULES, f"{folder.relative_to(ROOT)}: {sorted(modules)}"


def test_test_modules_do_not_import_each_other():
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tests"):
                name = node.module.rpartition(".")[2]
                assert not name.startswith("test_"), f"{path.relative_to(ROOT)}: {node.module}"
                assert name != "conftest", f"{path.relative_to(ROOT)}: {node.module}"
