"""The files that rooms hand each other: what one writes the other reads, and faults are named."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
import threading
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from installer.formats import manifest
from installer.formats.about import About, encode_about, parse_about
from installer.formats.advisories import Advisories, Affected, Export, encode_advisories, parse_advisories
from installer.formats.fields import FormatError
from installer.formats.graph import GraphFacts, encode_graph_facts, parse_graph_facts
from installer.formats.known_answers import KnownAnswer, KnownAnswers, encode_known_answers, parse_known_answers
from installer.formats.manifest import _fault_of
from installer.formats.packing import Entry, Source, encode_packing, parse_packing
from installer.formats.release import Converted, ModelCard, Release, Target, encode_release, parse_release

CARD = ModelCard("demo", "Demo", "Small.", 2048, ("a", "b"), None)
RELEASE = Release(
    name="demo",
    version="1.0+ab",
    accelerators=("cpu",),
    graphs={"cpu": "model/cpu/model.onnx"},
    dense="int8",
    config="model/config.json",
    vocabulary="tokenizer/v",
    known_answers="known.json",
    target=Target(("3.11",), "manylinux_2_28_x86_64"),
    model=CARD,
)
ANSWERS = KnownAnswers(
    (KnownAnswer("wanted", "Gather", "ab" * 32, 0.01, 0.5, base64.b64encode(b"1234" * 3).decode()),),
)
SOURCE = Source("weights-00001.bin", 4096, 64)
PLAN = (
    Entry(0, "mxfp4", {"experts": 4, "hidden": 64, "inner": 32}, (SOURCE,) * 4),
    Entry(1, "int8", {"rows": 100, "inner": 64}, (SOURCE,)),
)
CPU = GraphFacts("cpu", 24, 64, 8, 64, 201_088, 131_072, "int8", 128)
CUDA = GraphFacts("cuda", 24, 64, 8, 64, 201_088, 131_072)


CONVERTED = Converted("tune", "MXFP4", {"0": 0.1, "23": 0.0}, {"0": 0.02, "23": 0.0}, "float16")
REQUANTISED = replace(RELEASE, model=replace(CARD, converted=CONVERTED))


@pytest.mark.parametrize("release", [RELEASE, replace(RELEASE, known_answers=None, dense=None), REQUANTISED])
def test_a_release_is_read_as_it_was_written(release: Release) -> None:
    assert parse_release(encode_release(release)) == release


def test_a_release_for_one_python_is_read_as_releases_before_0_2_wrote_it() -> None:
    body = json.loads(encode_release(RELEASE))
    body["target"] = {"python": "3.11", "platform": "manylinux_2_28_x86_64"}
    read = parse_release(json.dumps(body).encode())
    assert read == RELEASE
    assert read.target.lock("3.11") == "wheels/requirements.lock"
    several = Target(("3.11", "3.12"), "any")
    assert [several.lock(python) for python in several.pythons] == [
        "wheels/requirements-3.11.lock", "wheels/requirements-3.12.lock",
    ]  # fmt: skip
    body["target"] = {"pythons": ["3.13", "3.9", "3.13"], "platform": "any"}
    assert parse_release(json.dumps(body).encode()).target.pythons == ("3.9", "3.13")


@pytest.mark.parametrize(
    "target",
    [{"platform": "any"}, {"platform": "any", "pythons": []}, {"platform": "any", "pythons": ["3"]},
     {"platform": "any", "python": None}, {"pythons": ["3.11"]}, {"platform": "any", "pythons": "3.11"},
     {"platform": "any", "pythons": ["3.11", "../3.12"]}, []],
)  # fmt: skip
def test_a_release_without_a_python_it_was_made_for_is_refused(target: object) -> None:
    body = json.loads(encode_release(RELEASE)) | {"target": target}
    with pytest.raises(FormatError, match=r"^target"):
        parse_release(json.dumps(body).encode())


def test_known_answers_are_read_as_they_were_written() -> None:
    assert parse_known_answers(encode_known_answers(ANSWERS)) == ANSWERS


def test_a_packing_plan_is_read_as_it_was_written() -> None:
    assert parse_packing(encode_packing(PLAN)) == PLAN


def test_what_a_release_says_of_its_application_is_read_as_it_was_written() -> None:
    about = About("0003", {"listen.port": "8080", "site.name": '"x"'})
    assert parse_about(encode_about(about)) == about
    for wrong in (
        b"{}",
        b"[]",
        encode_about(about).replace(b"0003", b""),
        encode_about(about).replace(b'"8080"', b"8"),
    ):
        with pytest.raises(FormatError):
            parse_about(wrong)


def test_advisories_are_read_as_they_were_written() -> None:
    flaw = Affected("pypi", "flask", "3.0", None, "GHSA-1", ("CVE-1",), None, "3.1", "")
    known = Advisories(170, 64, (Export("osv", "0" * 64, "2026-11-20T00:00:00Z"),), (flaw,))
    data = encode_advisories(known)
    assert parse_advisories(data) == known
    for wrong in (
        b"{}",
        data.replace(b'"GHSA-1"', b"1"),
        data.replace(b'"osv"', b'""'),
        data.replace(b"2026-11-20T", b"2026-13-20T"),
        encode_advisories(replace(known, sources=())),
    ):
        with pytest.raises(FormatError):
            parse_advisories(wrong)


@pytest.mark.parametrize("facts", [CPU, CUDA])
def test_what_a_graph_says_of_itself_is_read_as_it_was_written(facts: GraphFacts) -> None:
    assert parse_graph_facts(encode_graph_facts(facts), facts.accelerator) == facts


@pytest.mark.parametrize("parse", [parse_release, parse_known_answers, parse_packing])
@pytest.mark.parametrize(
    "data",
    [b"", b"null", b"[]", b"\xff", b"[" * 100_000, b"{}", b'{"format": 2}', b'{"format": true}', b'{"format": 1}'],
    ids=lambda data: data[:20],
)
def test_what_is_no_such_file_is_refused(parse: Any, data: bytes) -> None:
    with pytest.raises(FormatError):
        parse(data)


def changed(data: bytes, path: list[str | int], value: object) -> bytes:
    """The JSON file with one value exchanged."""
    body: Any = json.loads(data)
    inner = body
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return json.dumps(body).encode()


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (["name"], "", "name must be a text"),
        (["name"], "a/b", "not a usable name"),
        (["version"], 1, "version must be a text"),
        (["version"], "../up", "not a usable name or version"),
        (["accelerators"], "cpu", "accelerators must be a list"),
        (["accelerators"], [1], "accelerators must be a list of texts"),
        (["accelerators"], [], "accelerators must name at least one"),
        (["accelerators"], ["cpu", "tpu"], "is 'tpu', which is none of cpu, cuda"),
        (["graphs"], [], "graphs must be an object"),
        (["graphs", "cpu"], "/etc/passwd", "does not stay inside"),
        (["config"], "a/../../b", "does not stay inside"),
        (["vocabulary"], 5, "vocabulary must be a text"),
        (["known_answers"], "..", "does not stay inside"),
        (["dense"], 8, "dense must be a text"),
        (["target"], None, "target must be an object"),
        (["target", "python"], "3.x", "not a Python version"),
        (["model"], [], "model must be an object"),
        (["model", "context_tokens"], True, "context_tokens must be a whole number from 1 on"),
        (["model", "context_tokens"], 0, "context_tokens must be a whole number from 1 on"),
        (["model", "example_prompts"], [""], "example_prompts must be a list of texts"),
        (["model", "notice"], 4, "notice must be a text"),
        (["model", "converted"], "no", "model.converted must be an object"),
        (["model", "converted"], {"adapter": ""}, "model.converted.adapter must be a text"),
        (["model", "converted"], {"expert_errors": {"0": "1"}}, "expert_errors.0 must be a finite number"),
        (["model", "converted"], {"expert_errors": [0.1]}, "expert_errors must be an object"),
    ],
)  # fmt: skip
def test_a_release_is_refused_by_the_name_of_the_field(path: list[str | int], value: object, says: str) -> None:
    with pytest.raises(FormatError, match=says):
        parse_release(changed(encode_release(RELEASE), path, value))


@pytest.mark.parametrize("field", sorted({field.name for field in fields(Release)} - {"dense"}))
def test_a_release_without_a_field_is_refused(field: str) -> None:
    body = json.loads(encode_release(RELEASE))
    del body[field]
    with pytest.raises(FormatError, match=f"{field} is missing"):
        parse_release(json.dumps(body).encode())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["parts"], []), (["parts"], {}), (["parts", 0, "name"], ""), (["parts", 0, "operator"], None),
        (["parts", 0, "decoded"], 1), (["parts", 0, "decoded"], float("nan")), (["parts", 0, "prompt"], "0.1"),
        (["parts", 0, "prompt"], 0), (["parts", 0, "prompt"], 10**400), (["parts", 0, "node_sha256"], 5),
        (["parts", 0, "answer"], "x"), (["parts", 0, "answer"], ""), (["parts", 0, "answer"], "QUJD"),
        (["parts", 0, "answer"], [1.5]),
    ],
)  # fmt: skip
def test_known_answers_of_another_form_are_refused(path: list[str | int], value: object) -> None:
    with pytest.raises(FormatError):
        parse_known_answers(changed(encode_known_answers(ANSWERS), path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["entries", 0, "kind"], "int4"), (["entries", 0, "experts"], 0), (["entries", 0, "key"], "0"),
        (["entries", 0, "sources"], []), (["entries", 1, "rows"], -1), (["entries", 1, "inner"], 1.5),
        (["entries", 1, "sources", 0, "file"], "../weights"), (["entries", 1, "sources", 0, "file"], "a/b"),
        (["entries", 1, "sources", 0, "file"], ".."), (["entries", 1, "sources", 0, "offset"], -1),
        (["entries", 1, "sources", 0, "bytes"], 0),
    ],
)  # fmt: skip
def test_a_packing_plan_of_another_form_is_refused(path: list[str | int], value: object) -> None:
    with pytest.raises(FormatError):
        parse_packing(changed(encode_packing(PLAN), path, value))


@pytest.mark.parametrize(
    ("change", "accelerator"),
    [
        ({"gpt_oss.format": "3"}, "cpu"), ({"gpt_oss.accelerator": "cuda"}, "cpu"), ({}, "cuda"), ({}, "tpu"),
        ({"gpt_oss.layers": ""}, "cpu"), ({"gpt_oss.window": "-1"}, "cpu"), ({"gpt_oss.heads": "\u0661"}, "cpu"),
    ],
)  # fmt: skip
def test_a_graph_of_another_kind_is_refused(change: dict[str, str], accelerator: str) -> None:
    with pytest.raises(FormatError):
        parse_graph_facts(encode_graph_facts(CPU) | change, accelerator)


@pytest.mark.parametrize(
    ("mode", "uid", "closed"),
    [
        (0o755, 0, False), (0o750, 0, True), (0o705, 0, False), (0o754, 0, True),
        (0o755, 1000, False), (0o750, 1000, False), (0o700, 1000, False), (0o655, 1000, True),
    ],
)  # fmt: skip
def test_a_directory_is_closed_by_its_mode_for_the_user_as_whom_the_appliance_runs(
    mode: int, uid: int, closed: bool
) -> None:
    status = os.stat_result((stat.S_IFDIR | mode, 1, 1, 2, uid, uid, 0, 0, 0, 0))
    assert (_fault_of("model", status, None, {"model"}, {uid}) == "cannot be read") is closed


def test_a_user_who_may_start_no_thread_compares_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    files = {}
    for number in range(4):
        data = bytes([number]) * 100_000
        (tmp_path / f"{number}").write_bytes(data)
        files[f"{number}"] = manifest.Entry(len(data), hashlib.sha256(data).hexdigest())
    (tmp_path / "2").write_bytes(bytes(100_000))
    for path in tmp_path.iterdir():
        path.chmod(0o444)
    found = manifest.compare_data(str(tmp_path), manifest.Manifest(files, ""))
    assert [str(difference) for difference in found] == ["2 differs"]
