"""The table of imports in docs/architecture.md matches the code, and no imports form a circle."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("appliance", "bundler", "installer", "webui")
ALL = (*ROOMS, "bench", "tests")
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def rules() -> dict[str, set[str]]:
    """Each package, and the packages that the page lets it import."""
    table = PAGE.partition("| package | may import | because |\n|---|---|---|\n")[2].partition("\n\n")[0]
    rows = [line.strip("|").split("|") for line in table.splitlines()]
    return {re.findall(r"`([\w.]+)`", row[0])[0]: set(re.findall(r"`([\w.]+)`", row[1])) for row in rows}


RULES = rules()


@cache
def modules() -> dict[str, Path]:
    """Every module of the repository by its name."""
    found = {}
    for room in ALL:
        for path in (ROOT / room).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def statements(tree: ast.Module, *, types: bool) -> Iterator[ast.AST]:
    """Every node of a source. Without `types`, leave out those that only a type checker reads."""
    for node in ast.iter_child_nodes(tree):
        if types or not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield from ast.walk(node)


def imported(source: str, known: set[str], *, types: bool = True) -> Iterator[str]:
    """The modules of ours that a source imports, at its top or later."""
    for node in statements(ast.parse(source), types=types):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in known or node.module in known:
                    yield inner if inner in known else str(node.module)


@cache
def imports(*, types: bool = True) -> dict[str, set[str]]:
    known = set(modules())
    sources = {name: path.read_text(encoding="utf-8") for name, path in modules().items()}
    return {name: set(imported(source, known, types=types)) for name, source in sources.items()}


def package_of(module: str) -> str:
    """The longest package of the table that contains the module."""
    fitting = [package for package in RULES if f"{module}.".startswith(f"{package}.")]
    return max(fitting, key=len)


def crossings() -> set[tuple[str, str]]:
    """Each pair of different packages of which one imports the other, with the places."""
    pairs = {(module, target) for module, targets in imports().items() for target in targets}
    return {(m, t) for m, t in pairs if m.partition(".")[0] in ROOMS and package_of(m) != package_of(t)}


def test_the_table_names_every_room_and_packages_that_exist() -> None:
    assert set(ROOMS) <= set(RULES)
    for package in RULES:
        assert (ROOT / Path(*package.split("."))).is_dir(), package


def test_nobody_imports_what_the_table_does_not_grant() -> None:
    forbidden = [f"{m} imports {t}" for m, t in sorted(crossings()) if package_of(t) not in RULES[package_of(m)]]
    assert forbidden == [], "change the code, or the table in docs/architecture.md with its reason"


def test_the_table_grants_nothing_that_nobody_needs() -> None:
    used = {(package_of(m), package_of(t)) for m, t in crossings()}
    granted = {(package, target) for package, targets in RULES.items() for target in targets}
    assert granted - used == set()


def test_no_import_goes_round_in_a_circle() -> None:
    """Imports within functions count; those for type checkers alone do not. Tests are left out."""
    graph = {name: targets for name, targets in imports(types=False).items() if not name.startswith("tests")}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


@pytest.mark.parametrize("source", ["import a.b", "from a import b", "from a.b import c", "def f():\n    import a.b"])
def test_an_import_is_seen_wherever_it_stands(source: str) -> None:
    assert list(imported(source, {"a", "a.b"})) == ["a.b"]


def test_an_import_for_type_checkers_alone_is_told_apart() -> None:
    source = "if TYPE_CHECKING:\n    import a.b\nimport a"
    assert list(imported(source, {"a", "a.b"})) == ["a.b", "a"]
    assert list(imported(source, {"a", "a.b"}, types=False)) == ["a"]


def foreign(path: Path) -> set[str]:
    """The top-level packages that a source imports, without ours and Python's own."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) - set(ALL)


def test_what_runs_before_a_release_is_compared_needs_the_standard_library_alone() -> None:
    """The launcher runs manifest.py before any package may be imported; docs/decisions/0010 says what else is bare."""
    for name in ("installer.formats.manifest", "installer.formats.clock"):
        assert (foreign(modules()[name]), imports()[name]) == (set(), set()), name


def test_one_module_of_the_formats_needs_a_library() -> None:
    sources = sorted((ROOT / "installer" / "formats").glob("*.py"))
    needing = {path.name: foreign(path) for path in sources if foreign(path)}
    assert needing == {"checks.py": {"pydantic", "pydantic_core"}}


def test_one_module_imports_onnx_runtime() -> None:
    """That module silences telemetry first."""
    importing = {name for name, path in modules().items() if "onnxruntime" in foreign(path)}
    assert {name for name in importing if name.partition(".")[0] in ROOMS} == {"appliance.engine.model.runtime"}
