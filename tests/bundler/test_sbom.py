"""The bill of materials and the provenance: valid, complete, true, and the same bytes each time."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from bundler import provenance
from bundler.dependencies import Hosts, dependencies_of
from bundler.errors import WheelError
from bundler.model_licence import licence_of, licence_of_model
from bundler.provenance import Input, encode_provenance, model_inputs, source_input
from bundler.sbom import Materials, encode_sbom
from bundler.wheel_facts import BundledLibrary, NativePart, WheelFacts, read_wheel
from installer.archive import Sha256Hex
from installer.formats.vocabulary import PATH as VOCABULARY
from installer.targets import Target
from tests.installer.archives import PROJECT, make_wheel

HOSTS = Hosts(("3.11", "3.13"), "manylinux_2_28_x86_64")
ELF = b"\x7fELF" + b"code"
MIT = "Permission is hereby granted, free of charge, to any person"
APACHE = "\n                                 Apache License\n                           Version 2.0, January 2004\n"


def sha(data: bytes) -> Sha256Hex:
    return Sha256Hex(hashlib.sha256(data).hexdigest())


def facts(
    tmp_path: Path, name: str, version: str = "1.0", *, metadata: str = "", files: dict[str, bytes] | None = None
) -> WheelFacts:
    info = f"{name}-{version}.dist-info"
    head = f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n{metadata}"
    path = tmp_path / f"{name}-{version}-py3-none-any.whl"
    path.write_bytes(make_wheel({f"{info}/METADATA": head.encode(), **(files or {})}, info))
    return read_wheel(path)


@pytest.fixture
def materials(tmp_path: Path) -> Materials:
    bill = json.dumps({"components": [{"name": "libgomp", "version": "8.5.0", "purl": "pkg:rpm/x/libgomp@8.5.0"}]})
    wheels = (
        facts(
            tmp_path, "gpt_oss_appliance", "0.2",
            metadata="Requires-Dist: middle[speed]>=1\nRequires-Dist: onnx; extra == 'cuda'\n"
            "Requires-Dist: extra-cpu; extra == 'cpu'\n",
        ),
        facts(tmp_path, "middle", metadata="License-Expression: MIT OR Apache-2.0\n"
              "Requires-Dist: fast; extra=='speed'\nRequires-Dist: old; python_version < '3.12'\n"
              "Requires-Dist: win; sys_platform == 'win32'\n"
              "Requires-Dist: arm; platform_machine == 'aarch64'\nRequires-Dist: elsewhere\n"),
        facts(tmp_path, "fast", files={
            "fast.libs/libgomp-1.so.1.0.0": ELF, "fast/_c.abi3.so": ELF + b"2", "fast/notes.so": b"no code",
            "fast-1.0.dist-info/sboms/auditwheel.cdx.json": bill.encode(),
            "fast-1.0.dist-info/sboms/other.json": b"[not json"}),
        facts(tmp_path, "old", metadata="License: Some words of its author\n"),
        *(facts(tmp_path, name) for name in ("win", "arm", "onnx", "extra_cpu")),
    )  # fmt: skip
    targets = (
        Target("model/config.json", sha(b"c"), 1), Target("model/cpu/weights-00001.bin", sha(b"w"), 1),
        Target(VOCABULARY, sha(b"v"), 1),
    )  # fmt: skip
    return Materials("gpt-oss", "1.0+ab", "0.2", "gpt-oss-20b", "Apache-2.0", targets, wheels, HOSTS, "cpu")


def components(bom: Any) -> dict[str, Any]:
    return {component["name"]: component for component in bom["components"]}


def test_the_bill_is_valid_by_the_library_s_own_validator(materials: Materials) -> None:
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    text = encode_sbom(materials).decode()
    assert validator.validate_str(text) is None
    broken = text.replace('"type": "library"', '"type": "librarian"', 1)
    assert validator.validate_str(broken) is not None, "the validator must be able to refuse"


def test_weights_vocabulary_and_wheels_are_named_with_digest_version_and_licence(materials: Materials) -> None:
    bom = json.loads(encode_sbom(materials))
    found = components(bom)
    model = found["gpt-oss-20b"]
    assert model["type"] == "machine-learning-model"
    assert model["version"].startswith("sha256:")
    assert {part["name"]: part["hashes"][0]["content"] for part in model["components"]} == {
        "model/config.json": sha(b"c"), "model/cpu/weights-00001.bin": sha(b"w")
    }  # fmt: skip
    assert model["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert found["o200k_base"]["hashes"] == [{"alg": "SHA-256", "content": sha(b"v")}]
    assert found["o200k_base"]["licenses"] == [{"license": {"id": "MIT"}}]
    assert found["middle"]["licenses"] == [{"expression": "MIT OR Apache-2.0"}]
    assert found["old"]["licenses"] == [{"license": {"name": "Some words of its author"}}]
    for wheel in materials.wheels:
        named = found[wheel.name]
        assert (named["version"], named["hashes"][0]["content"]) == (wheel.version, wheel.sha256)
        assert named["purl"] == f"pkg:pypi/{wheel.name}@{wheel.version}?file_name={wheel.file}"
    assert bom["metadata"]["component"]["version"] == "1.0+ab"


def test_native_code_and_what_a_wheel_s_own_bill_names_are_parts_of_the_wheel(materials: Materials) -> None:
    wheel = next(wheel for wheel in materials.wheels if wheel.name == "fast")
    assert wheel.native == (
        NativePart("fast.libs/libgomp-1.so.1.0.0", sha(ELF), "1.0.0"),
        NativePart("fast/_c.abi3.so", sha(ELF + b"2"), None),
    )
    assert wheel.bundled == (BundledLibrary("libgomp", "8.5.0", "pkg:rpm/x/libgomp@8.5.0"),)
    parts = {part["name"]: part for part in components(json.loads(encode_sbom(materials)))["fast"]["components"]}
    assert parts.keys() == {"fast.libs/libgomp-1.so.1.0.0", "fast/_c.abi3.so", "libgomp"}
    assert parts["fast.libs/libgomp-1.so.1.0.0"]["version"] == "1.0.0"
    assert parts["libgomp"]["purl"] == "pkg:rpm/x/libgomp@8.5.0"


def test_the_graph_follows_markers_and_extras_for_the_hosts_and_not_for_the_builder(materials: Materials) -> None:
    extras = {"gpt-oss-appliance": frozenset({"cpu"})}
    graph = dependencies_of(materials.wheels, HOSTS, extras)
    assert graph["gpt-oss-appliance"] == {"middle", "extra-cpu"}
    assert graph["middle"] == {"fast", "old"}, "speed is asked for; old is for 3.11; Windows and arm are no hosts"
    newer = dependencies_of(materials.wheels, Hosts(("3.13",), HOSTS.platform), extras)
    assert newer["middle"] == {"fast"}
    arm = dependencies_of(materials.wheels, Hosts(("3.13",), "manylinux_2_28_aarch64"), extras)
    assert arm["middle"] == {"fast", "arm"}
    cuda = dependencies_of(materials.wheels, HOSTS, {"gpt-oss-appliance": frozenset({"cuda"})})
    assert cuda["gpt-oss-appliance"] == {"middle", "onnx"}


def test_a_requirement_that_cannot_be_read_names_its_wheel(tmp_path: Path) -> None:
    wheel = facts(tmp_path, "odd", metadata="Requires-Dist: x (>=1 or so)\n")
    with pytest.raises(WheelError, match=r"odd-1\.0-py3-none-any\.whl"):
        dependencies_of([wheel], HOSTS, {})


def test_the_graph_in_the_bill_is_this_one_and_every_reference_exists(materials: Materials) -> None:
    bom = json.loads(encode_sbom(materials))
    graph = {edge["ref"]: set(edge.get("dependsOn", [])) for edge in bom["dependencies"]}
    assert graph["middle-1.0-py3-none-any.whl"] == {"fast-1.0-py3-none-any.whl", "old-1.0-py3-none-any.whl"}
    assert {"model", VOCABULARY, "gpt_oss_appliance-0.2-py3-none-any.whl"} <= graph["release"]
    assert "fast-1.0-py3-none-any.whl" not in graph["release"]
    known = {"release", *(component["bom-ref"] for component in bom["components"])}
    assert graph.keys() | {ref for refs in graph.values() for ref in refs} <= known


def test_the_same_release_gives_the_same_bill_in_any_process(materials: Materials, tmp_path: Path) -> None:
    first = encode_sbom(materials)
    assert json.loads(first)["serialNumber"].startswith("urn:uuid:")
    assert b"timestamp" not in first
    (tmp_path / "m").write_text(repr(materials))
    program = (
        "import sys; from pathlib import *; from bundler.sbom import *; from bundler.wheel_facts import *; "
        "from bundler.dependencies import *; from installer.targets import *; "
        f"sys.stdout.buffer.write(encode_sbom(eval(Path({str(tmp_path / 'm')!r}).read_text())))"
    )
    environ = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "PYTHONPATH": str(PROJECT)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, env=environ)
    assert done.stdout == first


LICENCES = {
    "front matter": ({"README.md": "---\nlicense: apache-2.0\nlibrary_name: x\n---\n# A model\n"}, "Apache-2.0"),
    "front matter in quotes": ({"README.md": '---\nlicense: "mit"\n---\n'}, "MIT"),
    "front matter before the text": (
        {"README.md": "---\nlicense: other-words\n---\n", "LICENSE": APACHE},
        "other-words",
    ),
    "the text of Apache": ({"LICENSE": APACHE}, "Apache-2.0"),
    "the text of MIT": ({"LICENSE": f"MIT License\n\nCopyright (c) X\n\n{MIT}"}, "MIT"),
    "a mention is no licence": ({"LICENSE": f"Not under this: {APACHE}", "README.md": "license: mit\n"}, None),
    "nothing": ({}, None),
}


@pytest.mark.parametrize("case", LICENCES)
def test_a_model_s_licence_is_what_its_checkpoint_states(case: str, tmp_path: Path) -> None:
    files, expected = LICENCES[case]
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert licence_of(tmp_path) == expected


def test_a_merged_adapter_s_licence_counts_too(tmp_path: Path) -> None:
    checkpoint, adapter = tmp_path / "checkpoint", tmp_path / "adapter"
    checkpoint.mkdir()
    adapter.mkdir()
    (checkpoint / "LICENSE").write_text(APACHE)
    assert licence_of_model(checkpoint, adapter) == licence_of_model(checkpoint, None) == "Apache-2.0"
    (adapter / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    assert licence_of_model(checkpoint, adapter) == "Apache-2.0"
    (adapter / "README.md").write_text("---\nlicense: mit\n---\n")
    assert licence_of_model(checkpoint, adapter) == "Apache-2.0 AND MIT"


def test_a_wheel_that_names_no_licence_is_told_by_the_texts_that_it_carries(tmp_path: Path) -> None:
    texts = {"x-1.0.dist-info/licenses/LICENSE": APACHE.encode(), "x-1.0.dist-info/licenses/AUTHORS": b"We."}
    assert facts(tmp_path, "x", files=texts).licence == "Apache-2.0"
    assert facts(tmp_path, "y", files={"y-1.0.dist-info/licenses/LICENSE": b"Ours alone."}).licence is None
    assert facts(tmp_path, "x", metadata="License: Words\n", files=texts).licence == "Words"


def test_a_statement_has_the_form_of_in_toto_and_slsa() -> None:
    target, one = Target("a", sha(b"a"), 1), Input("x.whl", sha(b"x"), "pkg:pypi/x@1")
    body = json.loads(
        encode_provenance([target], [one, Input("source", sha(b"s"))], {"dense": "int8", "pythons": ["3.11"]})
    )
    assert (body["_type"], body["predicateType"]) == (
        "https://in-toto.io/Statement/v1", "https://slsa.dev/provenance/v1"
    )  # fmt: skip
    assert body["subject"] == [{"name": "a", "digest": {"sha256": sha(b"a")}}]
    definition, run = body["predicate"]["buildDefinition"], body["predicate"]["runDetails"]
    assert definition["buildType"].startswith("urn:")
    assert definition["externalParameters"] == {"command": "bundler build", "dense": "int8", "pythons": ["3.11"]}
    assert definition["resolvedDependencies"] == [
        {"name": "x.whl", "digest": {"sha256": sha(b"x")}, "uri": "pkg:pypi/x@1"},
        {"name": "source", "digest": {"sha256": sha(b"s")}},
    ]
    assert run["builder"]["id"].startswith("urn:")
    assert run["builder"]["version"]["python"] == sys.version.split()[0]


def test_the_inputs_of_a_checkpoint_are_the_files_at_its_top(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "original").mkdir()
    (tmp_path / "original" / "big.safetensors").write_text("not an input")
    (tmp_path / ".cache").write_text("hidden")
    assert model_inputs("checkpoint", tmp_path) == [Input("checkpoint/config.json", sha(b"{}"))]


def test_a_changed_source_file_is_another_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.scikit-build]\nwheel.packages = ["p"]\n')
    (tmp_path / "p" / "__pycache__").mkdir(parents=True)
    (tmp_path / "p" / "x.py").write_text("1")
    monkeypatch.setattr(provenance, "project_root", lambda: tmp_path)
    monkeypatch.setattr("bundler.own_wheel.project_root", lambda: tmp_path)
    first = source_input()
    (tmp_path / "p" / "__pycache__" / "x.pyc").write_text("2")
    assert source_input() == first
    (tmp_path / "p" / "x.py").write_text("2")
    assert source_input() != first
