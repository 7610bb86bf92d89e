"""The checks with and without pydantic give the same record or the same fault, on the files of a release."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from appliance.config import Config
from installer.formats import checks, plain
from installer.formats.about import About
from installer.formats.advisories import Advisories
from installer.formats.checks import Choose, FaultError, Length, Must, Rule
from installer.formats.known_answers import KnownAnswers
from installer.formats.packing import _Plan
from installer.formats.release import Release

ROOT = Path(__file__).parents[2]


def _short(text: str | None) -> str | None:
    if text is not None and len(text) > 3:
        raise FaultError("is too long", kind="length", at=("text",))
    return text


@dataclass(frozen=True)
class Inner:
    whole: int
    real: float = 0.5
    text: Annotated[Optional[str], Rule(_short)] = "x"  # noqa: UP045 - as the files of a release write it


@dataclass(frozen=True)
class Everything:
    """Each kind of declaration that a file may have."""

    yes: bool
    several: Annotated[tuple[Inner, ...], Length(least=1, most=3)]
    words: Mapping[str, Annotated[str, Must("must be a word", min_length=1)]]
    kind: Literal["a", "b"] = "a"
    inner: Inner | None = None
    limited: Annotated[float | None, Must("must be from 0 to 1", ge=0, lt=1)] = None
    more: list[list[int]] | None = None
    number: Annotated[int, Rule(int, "must be digits", takes=str)] = 0
    either: Annotated[Any, Choose(lambda value: "text" if type(value) is str else "whole",
                                  {"text": str, "whole": Annotated[int, Must("must be whole")]})] = 1  # fmt: skip
    anything: Any = None


EVERYTHING: dict[str, Any] = {
    "yes": True, "several": [{"whole": 1, "real": 2}, {"whole": 3, "text": "abc"}], "words": {"a": "b", "c": "d"},
    "kind": "b", "inner": {"whole": 1, "text": None}, "limited": 0.5, "more": [[1, 2], []], "number": "12",
    "either": "text", "anything": {"a": [1]},
}  # fmt: skip
RELEASE: dict[str, Any] = {
    "format": 1, "name": "demo", "version": "1.0", "accelerators": ["cpu"], "graphs": {"cpu": "model/cpu/model.onnx"},
    "dense": "int8", "config": "model/config.json", "vocabulary": "tokenizer/v", "known_answers": None,
    "target": {"pythons": ["3.11", "3.12"], "platform": "manylinux_2_28_x86_64"},
    "model": {"id": "a", "title": "b", "description": "c", "context_tokens": 16, "example_prompts": ["d"]},
}  # fmt: skip
ANSWERS: dict[str, Any] = {
    "parts": [
        {
            "name": "wanted",
            "operator": "Gather",
            "node_sha256": "ab",
            "decoded": 0.01,
            "prompt": 0.5,
            "answer": "MTIzNA==",
        }
    ],
}
_SOURCE = {"file": "w.bin", "offset": 0, "bytes": 64}
PLAN: dict[str, Any] = {
    "entries": [
        {"key": 0, "kind": "mxfp4", "experts": 4, "hidden": 64, "inner": 32, "sources": [_SOURCE] * 4},
        {"key": 1, "kind": "int8", "rows": 100, "inner": 64, "sources": [_SOURCE]},
    ]
}
ABOUT: dict[str, Any] = {"schema": "0003", "settings": {"listen.port": "8080", "site.name": '"x"'}}
ADVISORIES: dict[str, Any] = {
    "parts": 3, "compared": 2, "sources": [{"kind": "osv", "sha256": "ab", "newest": "2026-11-20T00:00:00Z"}],
    "affected": [{
        "type": "cargo", "name": "openssl", "version": "1", "within": "cryptography", "id": "GHSA-1",
        "aliases": ["CVE-1"], "severity": None, "fixed_in": "2", "summary": "",
    }],
}  # fmt: skip
FILES = [
    (Everything, EVERYTHING),
    (Release, RELEASE),
    (KnownAnswers, ANSWERS),
    (_Plan, PLAN),
    (About, ABOUT),
    (Advisories, ADVISORIES),
]
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 4), st.sampled_from([10**400, 2**63, -(2**70)]), st.floats(),
    st.sampled_from(["", "a", "/etc", "../x", "3.11", "abcd", "mxfp4", "\ud800", "x" * 100]),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "whole"]), inner),
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, below in inner for place in places(below, (*at, key)))]


def changed(body: Any, place: tuple[Any, ...], how: str, value: Any) -> Any:
    """A copy with one place exchanged or removed, or with a name beside it."""
    if not place:
        return value
    whole = copy.deepcopy(body)
    inner = whole
    for step in place[:-1]:
        inner = inner[step]
    if how == "remove":
        del inner[place[-1]]
    elif how == "add" and isinstance(inner, dict):
        inner["more"] = value
    elif how == "add":
        inner.append(value)
    else:
        inner[place[-1]] = value
    return whole


def told(check: Any, kind: Any, value: Any) -> object:
    """The record, or all that its fault says."""
    try:
        return check(kind, value)
    except FaultError as fault:
        return (fault.said, fault.kind, fault.at, repr(fault.value))


@pytest.mark.parametrize(("kind", "body"), FILES, ids=lambda given: getattr(given, "__name__", ""))
def test_a_right_file_is_the_same_record(kind: type, body: dict[str, Any]) -> None:
    read: object = plain.check(kind, body)
    assert type(read) is kind
    assert read == checks.check(kind, body)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize(("kind", "body"), FILES, ids=lambda given: getattr(given, "__name__", ""))
def test_a_changed_file_is_the_same_record_or_the_same_fault(kind: type, body: dict[str, Any], data: Any) -> None:
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.sampled_from(places(body)))
        body = changed(body, at, data.draw(st.sampled_from(["exchange", "remove", "add"])), data.draw(VALUES))
    assert repr(told(plain.check, kind, body)) == repr(told(checks.check, kind, body))


SETTINGS: dict[str, Any] = {
    "site_name": "Ours", "site_addresses": ["https://chat.example"], "banner_text": "OFFICIAL",
    "banner_colour": "#B91C1C", "listen_host": "::1", "listen_port": 8443, "tls_certificate": "/x.pem",
    "tls_names": ["chat.example", "10.0.0.7"],
    "proxy_trusted": ["10.0.0.0/8"], "proxy_headers": "any", "accelerator": "cpu", "slots": 4, "longest_pause_s": 0.5,
    "endless_api_keys": True, "database_url": "sqlite:///x", "checkpoint_interval_s": 30,
}  # fmt: skip
PLACES = {"home": Path("/srv"), "release_dir": Path("/srv/current")}  # which our own code puts there


def test_right_settings_are_the_same_record() -> None:
    read = plain.check(Config, SETTINGS | PLACES)
    assert read == checks.check(Config, SETTINGS | PLACES)
    assert read.banner_colour == "#b91c1c"
    with pytest.raises(FaultError, match="at most 50 host names"):
        plain.check(Config, SETTINGS | PLACES | {"tls_names": ["a.example"] * 51})


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_changed_settings_are_the_same_record_or_the_same_fault(data: Any) -> None:
    body = SETTINGS
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.sampled_from([place for place in places(body) if place]))
        body = changed(body, at, data.draw(st.sampled_from(["exchange", "remove"])), data.draw(VALUES))
    assume(r"\ud800" not in repr(body))  # no file of settings can hold it: TOML is UTF-8
    assert repr(told(plain.check, Config, body | PLACES)) == repr(told(checks.check, Config, body | PLACES))


def test_what_no_file_declares_is_a_fault_of_ours() -> None:
    with pytest.raises(RuntimeError, match="internal error"):
        plain.check(bytes, "text")


def test_marks_of_others_say_nothing_here() -> None:
    assert plain.check(Annotated[int, "the name of a setting"], 1) == 1  # type: ignore[arg-type]


def test_the_files_of_a_release_are_read_without_pydantic() -> None:
    code = (
        "import sys\n"
        "sys.modules['pydantic'] = sys.modules['pydantic_core'] = None\n"
        "from installer.formats.fields import FormatError\n"
        "from installer.formats.release import parse_release\n"
        "try:\n"
        "    parse_release(b'{\"format\": 1}')\n"
        "except FormatError as exc:\n"
        "    assert 'name is missing' in str(exc), exc\n"
    )
    subprocess.run([sys.executable, "-I", "-c", code], check=True, timeout=60, cwd=ROOT)
