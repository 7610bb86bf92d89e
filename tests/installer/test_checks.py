"""Data against declared types: what is taken, which fault is named first, and that no text of the library gets out."""

from __future__ import annotations

import ast
import subprocess
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest

from installer.formats.checks import Choose, FaultError, Length, Must, Rule, check, closed, prepare, words_of

ROOT = Path(__file__).parents[2]
PORT = Must("must be a port", ge=1, le=65535)


def _even(number: int) -> int:
    if number % 2:
        raise FaultError("must be even", kind="odd", at=("below",))
    return number


@dataclass(frozen=True)
class Inner:
    whole: int
    real: float = 0.5


@dataclass(frozen=True)
class Outer:
    port: Annotated[int, PORT]
    inner: Inner | None = None
    several: Annotated[tuple[Inner, ...], Length(most=2)] = ()
    words: Mapping[str, str] | None = None
    even: Annotated[int | None, Rule(_even)] = None
    path: Annotated[Path | None, Rule(Path, "must be a path", takes=str)] = None
    either: Annotated[Any, Choose(lambda value: type(value).__name__, {"str": str, "int": Annotated[int, PORT]})] = ""
    yes: bool = False


@closed
@dataclass(frozen=True)
class Closed:
    port: Annotated[int, PORT]
    word: str = ""


def test_what_fits_becomes_the_record_with_tuples_for_lists() -> None:
    given = {"port": 8080, "several": [{"whole": 1, "real": 2}], "path": "/a", "either": 5, "even": 4, "more": [1]}
    expected = Outer(8080, several=(Inner(1, 2.0),), path=Path("/a"), either=5, even=4)
    found = check(Outer, given)
    assert found == expected
    assert type(found.several[0].real) is float


@pytest.mark.parametrize(
    ("given", "at", "kind", "said"),
    [
        ({}, ("port",), "missing", "is missing"),
        ([], (), "type", "must be an object"),
        ({"port": True}, ("port",), "type", "must be a port"),
        ({"port": "80"}, ("port",), "type", "must be a port"),
        ({"port": 1.0}, ("port",), "type", "must be a port"),
        ({"port": 65536}, ("port",), "type", "must be a port"),
        ({"port": 10**400}, ("port",), "type", "must be a port"),
        ({"port": 1, "inner": {"whole": "1"}}, ("inner", "whole"), "type", "must be a whole number"),
        ({"port": 1, "inner": {"whole": None}}, ("inner", "whole"), "type", "must be a whole number"),
        ({"port": 1, "inner": {"whole": 1, "real": True}}, ("inner", "real"), "type", "must be a number"),
        ({"port": 1, "inner": {"whole": 1, "real": "1"}}, ("inner", "real"), "type", "must be a number"),
        (
            {"port": 1, "inner": {"whole": 1, "real": float("nan")}},
            ("inner", "real"),
            "value",
            "must be a finite number",
        ),
        ({"port": 1, "inner": {"whole": 1, "real": 1e999}}, ("inner", "real"), "value", "must be a finite number"),
        (
            {"port": 1, "inner": {"whole": 1, "real": 10**400}},
            ("inner", "real"),
            "value",
            "must be a number that a float can hold",
        ),
        ({"port": 1, "several": {}}, ("several",), "type", "must be a list"),
        ({"port": 1, "several": "ab"}, ("several",), "type", "must be a list"),
        ({"port": 1, "several": [{"whole": 1}] * 3}, ("several",), "value", "must have at most 2 entries"),
        ({"port": 1, "several": [{"whole": 1}, 5]}, ("several", 1), "type", "must be an object"),
        ({"port": 1, "words": {"a": 1}}, ("words", "a"), "type", "must be a string"),
        ({"port": 1, "words": []}, ("words",), "type", "must be an object"),
        ({"port": 1, "inner": {"whole": 1, "\ud800": 1}}, ("inner",), "value", "has a key that is not Unicode text"),
        ({"port": 1, "even": 3}, ("even", "below"), "odd", "must be even"),
        ({"port": 1, "path": 3}, ("path",), "type", "must be a path"),
        ({"port": 1, "path": None}, ("path",), "type", "must be a path"),
        ({"port": 1, "either": 0}, ("either",), "type", "must be a port"),
        ({"port": 1, "yes": 1}, ("yes",), "type", "must be true or false"),
    ],
)
def test_names_the_place_and_says_what_must_be(given: object, at: tuple[Any, ...], kind: str, said: str) -> None:
    with pytest.raises(FaultError) as caught:
        check(Outer, given)
    fault = caught.value
    assert (fault.at[: len(at)], fault.kind, fault.said) == (at, kind, said)


def test_the_fault_that_stands_first_in_the_data_is_named() -> None:
    with pytest.raises(FaultError) as caught:
        check(Outer, {"yes": 1, "words": 1, "port": 0})
    assert caught.value.at == ("yes",)
    with pytest.raises(FaultError) as caught:
        check(Outer, {"words": 1})
    assert caught.value.at == ("words",), "a missing field comes last"


def test_a_closed_record_refuses_what_it_does_not_declare() -> None:
    with pytest.raises(FaultError) as caught:
        check(Closed, {"port": 1, "colour": "red"})
    assert (caught.value.at, caught.value.kind, caught.value.value) == (("colour",), "unknown", "red")
    assert (words_of(Closed, "port"), words_of(Closed, "word")) == ("must be a port", "")


def test_a_list_is_checked_up_to_its_first_fault() -> None:
    """Otherwise a body of eight megabytes would make millions of errors."""
    met: list[int] = []

    def seen(number: int) -> int:
        met.append(number)
        if number > 1:
            raise FaultError("is too large")
        return number

    with pytest.raises(FaultError):
        check(tuple[Annotated[int, Rule(seen)], ...], [1, 2, 3, 4])
    assert met == [1, 2]


def test_a_traceback_does_not_show_the_data() -> None:
    """pydantic's own error quotes what it was given, which may be a prompt."""
    given = {"port": "".join(("se", "cret"))}
    with pytest.raises(FaultError) as caught:
        check(Outer, given)
    assert "secret" not in "".join(traceback.format_exception(caught.value))
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


def test_a_rule_without_words_is_a_fault_of_ours() -> None:
    def raises(_: int) -> int:
        raise ValueError("unexplained")

    with pytest.raises(RuntimeError, match="internal error"):
        check(tuple[Annotated[int, Rule(raises)], ...], [1])


def test_the_library_is_imported_by_the_first_check_and_no_earlier() -> None:
    """The supervisor and each command read settings, and load nothing heavy before they have shut every way out."""
    code = (
        "import sys, appliance.cli, installer.formats.release, installer.formats.fields\n"
        "assert not [name for name in sys.modules if name.startswith('pydantic')]\n"
        "from installer.formats.checks import check\n"
        "assert check(int, 5) == 5\n"
        "assert 'pydantic' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-I", "-c", code], check=True, timeout=60, cwd=ROOT)


def test_two_modules_know_the_library() -> None:
    importing = set()
    for room in ("appliance", "bundler", "installer", "webui"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
                importing |= {path.name for name in names if name.partition(".")[0].startswith("pydantic")}
    assert importing == {"checks.py", "schemas.py"}  # the other draws JSON Schema of the same declarations


def test_what_is_prepared_needs_pydantic_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A web worker prepares its requests before it is ready; nobody's first request imports a library."""

    @dataclass(frozen=True)
    class Asked:
        number: int

    prepare(Asked)
    monkeypatch.setitem(sys.modules, "pydantic", None)
    assert check(Asked, {"number": 1}) == Asked(1)
    with pytest.raises(FaultError, match="must be a whole number"):
        check(Asked, {"number": "1"})
