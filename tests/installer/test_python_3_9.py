"""The installer runs on Python 3.9, from the kit: nothing in it that 3.9 lacks, whatever Pythons this machine has."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "installer").rglob("*.py"))
PACKAGES = {"click", "installer", "rich", "securesystemslib", "tuf"}  # what the kit carries
# Names that came after 3.9, as they are written.
LATER = re.compile(
    r"\bdatetime import .*\bUTC\b|\bdatetime\.UTC\b|\bkw_only=|\bslots=True|\bzip\([^\n]*strict=|"
    r"\bhashlib\.file_digest\b|\btomllib\b|\bExceptionGroup\b|\badd_note\(|\bhardlink_to\(|\bTypeAlias\b|"
    r"\bimport .*\b(?:Self|assert_never|override)\b|\bbatched\b|\bpairwise\b|\bbit_count\(|"
    r"\bStrEnum\b|\baiter\b|\banext\b"
)


def names(path: Path) -> str:
    return str(path.relative_to(ROOT))


def runs(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node except annotations, which are not evaluated, and code for type checkers."""
    for field, value in ast.iter_fields(tree):
        if field in ("annotation", "returns"):
            continue
        for node in value if isinstance(value, list) else [value]:
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                continue
            if isinstance(node, ast.AST):
                yield node
                yield from runs(node)


@pytest.mark.parametrize("path", SOURCES, ids=names)
def test_python_3_9_can_read_and_run_the_source(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source, feature_version=(3, 9))
    assert "from __future__ import annotations" in source or not any(
        isinstance(node, ast.AnnAssign | ast.FunctionDef) for node in ast.walk(tree)
    )
    assert LATER.findall(source) == []
    unions = [ast.unparse(node) for node in runs(tree) if isinstance(node, ast.BinOp) and is_union(node)]
    assert unions == [], "isinstance and aliases take a tuple or Union"
    assert not [node for node in ast.walk(tree) if type(node).__name__ in ("Match", "TryStar", "TypeAlias")]


def is_union(node: ast.BinOp) -> bool:
    """Whether it joins two types: ``int | None``. Sets and dictionaries are joined by values, not by names of types."""
    types = {"None", "int", "str", "bytes", "float", "bool", "list", "tuple", "dict", "object", "Path", "Text"}
    return isinstance(node.op, ast.BitOr) and bool({ast.unparse(node.left), ast.unparse(node.right)} & types)


def test_the_records_of_files_have_annotations_that_python_3_9_can_evaluate() -> None:
    """`installer.formats.plain` evaluates them, and there ``X | None`` is an error."""
    for name in ("release", "packing", "known_answers"):
        tree = ast.parse((ROOT / "installer" / "formats" / f"{name}.py").read_text(encoding="utf-8"))
        for record in (node for node in tree.body if isinstance(node, ast.ClassDef)):
            unions = [ast.unparse(node) for node in ast.walk(record) if isinstance(node, ast.BinOp) and is_union(node)]
            assert unions == [], record.name


@pytest.mark.parametrize("path", SOURCES, ids=names)
def test_the_installer_imports_nothing_that_the_kit_lacks(path: Path) -> None:
    """Only `installer.formats.checks` imports pydantic, at its first check; no file of a release is checked there."""
    lacking = set()
    for node in runs(ast.parse(path.read_text(encoding="utf-8"))):
        found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        lacking |= {name.partition(".")[0] for name in found} - PACKAGES - set(sys.stdlib_module_names)
    assert lacking <= ({"pydantic", "pydantic_core"} if path.name == "checks.py" else set())


RECORDS = [path for path in SOURCES if re.search(r"\bparse_(file|fields)\b", path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("path", RECORDS, ids=names)
def test_python_3_9_can_evaluate_the_types_of_records(path: Path) -> None:
    """When a file is checked, they are evaluated: ``Text | None`` is a TypeError there, ``Optional[Text]`` is none."""
    classes = [node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.ClassDef)]
    fields = [node for found in classes for node in found.body if isinstance(node, ast.AnnAssign)]
    unions = [
        ast.unparse(field)
        for field in fields
        if any(isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr) for node in ast.walk(field.annotation))
    ]
    assert unions == []
