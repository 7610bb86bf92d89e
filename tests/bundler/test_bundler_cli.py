"""The commands `bundler` and `installer` as a person or script meets them, with a small checkpoint and real wheels."""

from __future__ import annotations

import hashlib
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import bundler.lock
from appliance.advisories import load_advisories
from bundler.cli import main as bundler_main
from bundler.known_answers import record_known_answers
from bundler.random_checkpoint import random_config, write_random_checkpoint
from installer.cli import main as installer_main
from tests.bundler.cached import KIT_PACKAGES, cached_wheel
from tests.bundler.checkpoint_forms import fused, take_apart, write_wide
from tests.bundler.lora_adapters import Adapter
from tests.installer.archives import appliance_wheel, listing
from tests.unprivileged import USER_OPTION, let_through

SMALL = random_config(
    layers=1, hidden=32, intermediate=32, experts=4, experts_per_token=2, heads=2, kv_heads=1, head_dim=16, vocab=300
)


def run(command: Any, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cli-checkpoint") / "tiny model"
    write_random_checkpoint(directory, SMALL, seed=3)
    (directory / "LICENSE").write_text("Apache-2.0\n")
    return directory


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cli-keys") / "keys"
    assert run(bundler_main, "keygen", "--keys", directory).exit_code == 0
    return directory


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options that replace the locked wheels by small real ones: locks, a filled cache, and our own wheel."""
    own_name, own = appliance_wheel()
    locks, cache = tmp_path / "locks", tmp_path / "cache"
    locks.mkdir()
    (tmp_path / own_name).write_bytes(own)
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    lock = f"cp{python.replace('.', '')}-manylinux_2_17_x86_64-cpu.txt"
    for name, packages in ((lock, ["pip"]), ("kit.txt", KIT_PACKAGES)):
        (locks / name).write_text("".join(f"{cached_wheel(cache, package)}\n" for package in packages))
    monkeypatch.setattr(bundler.lock, "LOCKS", locks)
    return [
        "--python", python, "--platform", "manylinux_2_17_x86_64", "--wheel-cache", str(cache),
        "--own-wheel", str(tmp_path / own_name), "--no-known-answers",
    ]  # fmt: skip


def sentence(result: Result) -> str:
    """The one line that says what was wrong, after the lines that say how far the command came."""
    (said,) = [line for line in result.stderr.splitlines() if line.startswith(("bundler: ", "installer: "))]
    return said


def build(checkpoint: Path, keys: Path, out: Path, wheels: Sequence[str], *more: object) -> Result:
    return run(bundler_main, "build", "--checkpoint", checkpoint, "--keys", keys, "--out", out, *wheels, *more)


def test_from_a_checkpoint_to_an_installed_release(
    checkpoint: Path, keys: Path, wheels: list[str], tmp_path: Path
) -> None:
    """The whole way with the real commands; only the wheels are small ones."""
    out, again, prefix, root = tmp_path / "a.airgap", tmp_path / "b.airgap", tmp_path / "site", keys / "root.json"
    built = build(checkpoint, keys, out, wheels, "--json")
    assert built.exit_code == 0, built.stderr
    assert json.loads(built.stdout)["release"]["accelerators"] == ["cpu"]
    assert build(checkpoint, keys, again, wheels).exit_code == 0
    assert out.read_bytes() == again.read_bytes(), "the same inputs give the same bytes"
    assert not list(tmp_path.glob(".*"))

    inspected = run(bundler_main, "inspect", out)
    assert inspected.exit_code == 0
    assert "not checked against a root you trust" in inspected.stdout
    assert "attention and head in 8 bits (blocks of 32), and a prompt's activations" in inspected.stdout
    trusted = json.loads(run(bundler_main, "inspect", out, "--root", root, "--json").stdout)
    paths = {target["path"] for target in trusted["targets"]}
    assert {
        "release.json", "about.json", "model/config.json", "model/cpu/model.onnx", "tokenizer/o200k_base.tiktoken",
        "sbom.cdx.json", "provenance.json", "wheels/requirements.lock", "licences/model/LICENSE",
        "licences/appliance-fixture-1.0/LICENSE",
    } <= paths  # fmt: skip

    verified = run(installer_main, "verify", out, "--root", root, "--json")
    assert json.loads(verified.stdout)["release"] == json.loads(built.stdout)["release"]
    let_through(prefix)
    installed = run(installer_main, "install", out, "--root", root, "--prefix", prefix, *USER_OPTION)
    assert installed.exit_code == 0, installed.stderr
    assert "No self-test was run: this release was built without known answers." in installed.stdout
    repeated = run(installer_main, "install", out, "--root", root, "--prefix", prefix, *USER_OPTION)
    assert "already the current release" in repeated.stdout
    status = json.loads(run(installer_main, "status", "--prefix", prefix, "--json").stdout)
    assert status["current"] == json.loads(built.stdout)["release"]["version"]
    assert status["previous"] is None

    release = prefix / "current"
    described = json.loads((release / "release.json").read_bytes())
    assert described["model"]["id"] == "tiny-model"
    assert len(described["model"]["example_prompts"]) == 4
    assert (release / "model" / "config.json").read_bytes() == (checkpoint / "config.json").read_bytes()
    sbom = json.loads((release / "sbom.cdx.json").read_bytes())
    assert {c["name"] for c in sbom["components"]} >= {"pip", "appliance-fixture", "o200k_base", "tiny-model"}
    assert "timestamp" not in json.dumps(sbom)
    assert sbom["metadata"]["component"]["version"] == described["version"]
    (model,) = (c for c in sbom["components"] if c["type"] == "machine-learning-model")
    assert model["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    weights = {c["name"]: c["hashes"][0]["content"] for c in model["components"]}
    shard = release / "model" / "cpu" / "weights-00001.bin"
    assert weights["model/cpu/weights-00001.bin"] == hashlib.sha256(shard.read_bytes()).hexdigest()

    statement = json.loads((release / "provenance.json").read_bytes())
    named = {subject["name"]: subject["digest"]["sha256"] for subject in statement["subject"]}
    assert named.keys() == paths - {"release.json", "provenance.json"}
    assert all(hashlib.sha256((release / name).read_bytes()).hexdigest() == digest for name, digest in named.items())
    used = {one["name"]: one["digest"]["sha256"] for one in statement["predicate"]["buildDefinition"][
        "resolvedDependencies"]}  # fmt: skip
    for name in ("config.json", "LICENSE", *(path.name for path in checkpoint.glob("*.safetensors"))):
        assert used[f"checkpoint/{name}"] == hashlib.sha256((checkpoint / name).read_bytes()).hexdigest()
    assert str(tmp_path) not in json.dumps(statement)


def test_a_delta_in_volumes_from_the_checkpoint_to_an_installed_release(
    checkpoint: Path, keys: Path, wheels: list[str], tmp_path: Path
) -> None:
    old, new, prefix, root = tmp_path / "old.airgap", tmp_path / "new.airgap", tmp_path / "site", keys / "root.json"
    assert build(checkpoint, keys, old, wheels, "--version", "1").exit_code == 0
    advisories = tmp_path / "osv.json"
    advisories.write_text(json.dumps({"id": "X-1", "modified": "2026-11-20T00:00:00Z", "affected": [
        {"package": {"ecosystem": "PyPI", "name": "appliance.fixture"}, "versions": ["1.0"]}]}))  # fmt: skip
    more = ["--version", "2", "--base", old, "--volume-size", "8K", "--json", "--advisories", advisories]
    built = json.loads(build(checkpoint, keys, new, wheels, *more).stdout)
    assert not new.exists()
    volumes = [Path(volume["file"]) for volume in built["volumes"]]
    assert sum(path.stat().st_size for path in volumes) < old.stat().st_size / 10
    assert all(path.stat().st_size < 8192 for path in volumes)
    assert built["delta"]["base"]["version"] == "1"
    assert "a delta: " in run(bundler_main, "inspect", volumes[0]).stdout
    verified = run(installer_main, "verify", *volumes[::-1], "--root", root)
    assert "and could not be checked here" in verified.stdout, verified.stderr
    let_through(prefix)
    install = ["--root", root, "--prefix", prefix, *USER_OPTION]
    refused = run(installer_main, "install", volumes[0], *install)
    assert refused.stderr.splitlines()[-1].startswith("installer: BaseNeededError: ")
    assert run(installer_main, "install", old, *install).exit_code == 0
    assert run(installer_main, "install", volumes[0], *install).exit_code == 0
    assert json.loads(run(installer_main, "status", "--prefix", prefix, "--json").stdout)["current"] == "2"
    changed = run(bundler_main, "diff", old, volumes[0], "--root", root).stdout
    assert "  version: 1 -> 2\n" in changed
    assert "packages: no changes\nweights: the same, " in changed
    assert "settings: no changes\ndatabase: schema " in changed
    assert " parts compared with data of 2026-11-20 (" in changed
    assert "old); 1 with known vulnerabilities\n" in changed
    assert "\n  appliance-fixture 1.0: X-1, no fixed version is known: (not in the old release's data)\n" in changed
    found = load_advisories(prefix / "current")
    assert found is not None
    assert [(one.name, one.version, one.id) for one in found.affected] == [("appliance-fixture", "1.0", "X-1")]
    assert built["advisories"]["affected"][0]["id"] == "X-1"
    used = json.loads((prefix / "current" / "provenance.json").read_bytes())["predicate"]["buildDefinition"]
    assert {"name": "advisories", "digest": {"sha256": hashlib.sha256(advisories.read_bytes()).hexdigest()}} in used[
        "resolvedDependencies"
    ]
    same = build(checkpoint, keys, new, wheels, "--version", "1", "--base", old)
    assert (same.exit_code, "very release" in same.stderr) == (1, True)


def test_people_who_are_elsewhere_sign_what_was_built(checkpoint: Path, wheels: list[str], tmp_path: Path) -> None:
    """The build place holds the keys of snapshot and timestamp; two people hold root and targets."""
    out, place = tmp_path / "a.airgap", tmp_path / "place"
    words: list[object] = []
    for name in ("ada", "bob", "place"):
        made = run(bundler_main, "keygen", "--keys", tmp_path / name, "--person", name, "--no-passphrase")
        assert made.exit_code == 0, made.output
        words += ["--snapshot-key" if name == "place" else "--root-key", tmp_path / name / f"{name}.pub"]
    run(bundler_main, "trust", "new", "--keys", place, *words, "--root-threshold", "2")
    for name in ("ada", "bob"):
        run(bundler_main, "sign", place / "next-root.json", "--keys", tmp_path / name, "--yes")

    built = build(checkpoint, place, out, wheels)
    assert built.exit_code == 0, built.output
    assert "NOT complete" in built.stdout
    assert not (tmp_path / "installer.pyz").exists()
    refused = run(installer_main, "verify", out, "--root", place / "root.json")
    assert "metadata/targets.json lacks signatures, so the archive is not finished: 0 of 2 needed" in sentence(refused)
    for name in ("bob", "ada"):
        signed = run(bundler_main, "sign", out, "--keys", tmp_path / name, "--yes")
        assert signed.exit_code == 0, signed.output
    assert run(installer_main, "verify", out, "--root", place / "root.json").exit_code == 0

    carry = ["carry", out, "--keys", place, "--wheel-cache", wheels[wheels.index("--wheel-cache") + 1]]
    assert "which must sign the kit" in sentence(run(bundler_main, *carry))
    carried = run(bundler_main, *carry, "--signer", tmp_path / "ada", "--json")
    assert carried.exit_code == 0, carried.output
    names = {file["name"]: file["sha256"] for file in json.loads(carried.stdout)["files"]}
    assert names["a.airgap"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert names.keys() == {"a.airgap", "installer.pyz", "installer.pyz.sha256", "installer.pyz.sig"}


def test_a_fine_tune_with_an_adapter_says_what_was_converted(
    checkpoint: Path, keys: Path, wheels: list[str], tmp_path: Path
) -> None:
    rng = np.random.default_rng(2)
    model = take_apart(checkpoint)
    tuned = {at: (w + rng.standard_normal(w.shape) / 8).astype(np.float32) for at, w in model.weights.items()}
    wide = write_wide(tmp_path / "tuned", replace(model, weights=tuned), fused)
    adapter = Adapter(rank=2, alpha=4)
    adapter.linear("base_model.model.model.layers.0.mlp.router", "router", 4, 32)
    options = ["--adapter", adapter.write(tmp_path / "style")]
    out, again = tmp_path / "a.airgap", tmp_path / "b.airgap"
    built = build(wide, keys, out, wheels, *options)
    assert built.exit_code == 0, built.stderr
    assert build(wide, keys, again, wheels, *options).exit_code == 0
    assert out.read_bytes() == again.read_bytes()

    inspected = run(bundler_main, "inspect", out).stdout
    release = json.loads(run(bundler_main, "inspect", out, "--json").stdout)["release"]
    converted = release["model"]["converted"]
    (error,) = converted["expert_errors"].values()
    assert 0.05 < error < 0.14
    assert (converted["adapter"], converted["experts_from"]) == ("style", "bfloat16")
    assert release["model"]["id"] == "style"
    verified = run(installer_main, "verify", out, "--root", keys / "root.json").stdout
    assert "This model was requantised here" in verified
    for text in (built.stdout, inspected):
        assert "experts rounded to MXFP4 here" in text
        assert "The LoRA adapter style was merged into this model here." in text
        assert f"experts from bfloat16 to MXFP4, mean relative error {100 * error:.2g} %" in text
        assert f"experts of layer 0: relative error {100 * error:.2g} %" in text
        assert "as published" not in text


def test_an_adapter_whose_tokenizer_is_another_is_refused(
    checkpoint: Path, keys: Path, wheels: list[str], tmp_path: Path
) -> None:
    adapter = Adapter(rank=2)
    adapter.linear("base_model.model.model.layers.0.mlp.router", "router", 4, 32)
    directory = adapter.write(tmp_path / "style")
    added = [{"id": 200019, "content": "<|im_start|>"}]
    (directory / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {}}, "added_tokens": added}))
    result = build(checkpoint, keys, tmp_path / "a.airgap", wheels, "--adapter", directory)
    assert result.exit_code == 1
    assert "its tokenizer differs from o200k_harmony: it has '<|im_start|>' as token 200019" in result.stderr
    assert not (tmp_path / "a.airgap").exists()


def test_rollback_and_status_of_a_site_without_a_release_are_refused(tmp_path: Path) -> None:
    for command in ("rollback", "status"):
        result = run(installer_main, command, "--prefix", tmp_path / "none")
        assert result.exit_code == 1
        assert result.stderr.startswith("installer: NoReleaseError: ")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "fault", ["config", "tensor", "tokenizer", "card", "keys", "version", "tampered wheel", "no lock"]
)
def test_bad_input_is_one_line_and_leaves_nothing(
    fault: str, checkpoint: Path, keys: Path, wheels: list[str], tmp_path: Path
) -> None:
    copy = tmp_path / "checkpoint"
    subprocess.run(["cp", "-r", checkpoint, copy], check=True)
    more: list[object] = []
    if fault == "config":
        (copy / "config.json").write_text("{")
    elif fault == "tensor":
        shard = next(copy.glob("*.safetensors"))
        shard.write_bytes(shard.read_bytes()[:-100])
    elif fault == "tokenizer":
        stated = json.loads((copy / "config.json").read_bytes())
        (copy / "config.json").write_text(json.dumps({k: v for k, v in stated.items() if k != "harmony_vocabulary"}))
    elif fault == "card":
        (copy / "model_card.json").write_text('{"id": "x"}')
    elif fault == "version":
        more = ["--version", "../1"]
    elif fault == "tampered wheel":
        next((tmp_path / "cache").rglob("pip-*.whl")).write_bytes(b"evil")
    elif fault == "no lock":
        more = ["--python", "3.99"]
    used = tmp_path / "nokeys" if fault == "keys" else keys
    before = listing(tmp_path)
    result = build(copy, used, tmp_path / "out.airgap", wheels, *more)
    assert result.exit_code == 1
    assert sentence(result).startswith("bundler: ")
    assert "Traceback" not in result.output
    assert listing(tmp_path) == before


@pytest.mark.parametrize(("limit", "error"), [(1_000_000, "BuildError"), (3_000_000, "ExportError")])
def test_a_full_disk_while_building_is_one_line_and_leaves_nothing(
    limit: int, error: str, checkpoint: Path, keys: Path, wheels: list[str], tmp_path: Path
) -> None:
    """The kernel refuses to write past `limit`: one limit meets a wheel of 2 MB, the other a shard of the graph."""
    before = listing(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        result = build(checkpoint, keys, tmp_path / "out.airgap", wheels)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert result.exit_code == 1
    assert sentence(result).startswith(f"bundler: {error}: ")
    assert listing(tmp_path) == before


def test_known_answers_need_a_graph_for_cpus(checkpoint: Path, keys: Path, wheels: list[str], tmp_path: Path) -> None:
    wheels[wheels.index("--platform") + 1] = "manylinux_2_28_x86_64"
    more = ["--accelerator", "cuda"]
    result = build(checkpoint, keys, tmp_path / "out.airgap", [w for w in wheels if w != "--no-known-answers"], *more)
    assert result.exit_code == 1
    assert "recorded with the CPU graph" in result.stderr


def test_a_release_that_fails_its_self_test_is_not_signed(
    checkpoint: Path, keys: Path, wheels: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights change between the recording and the signature."""
    wheels = [option for option in wheels if option != "--no-known-answers"]

    def record_and_damage(tree: Path) -> None:
        record_known_answers(tree)
        with (tree / "model" / "cpu" / "weights-00001.bin").open("r+b") as weights:
            weights.seek(-1, 2)
            weights.write(b"\x41")

    monkeypatch.setattr("bundler.contents.record_known_answers", record_and_damage)
    before, signed = listing(tmp_path), listing(keys)
    result = build(checkpoint, keys, tmp_path / "out.airgap", wheels)
    assert result.exit_code == 1
    assert "KnownAnswersError: the release fails its self-test and is not signed" in result.stderr
    assert listing(tmp_path) == before
    assert listing(keys) == signed


def test_usage_errors_exit_with_2(tmp_path: Path) -> None:
    assert run(bundler_main, "build").exit_code == 2
    assert run(installer_main, "install", tmp_path).exit_code == 2


@pytest.mark.parametrize("arguments", [["verify"], ["install", "--prefix", "{tmp}/site"]])
def test_unreadable_files_are_one_line(arguments: list[str], keys: Path, tmp_path: Path) -> None:
    arguments = [argument.replace("{tmp}", str(tmp_path)) for argument in arguments]
    result = run(installer_main, *arguments, tmp_path / "absent.airgap", "--root", keys / "root.json")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "absent.airgap" in result.stderr
    (tmp_path / "empty.airgap").touch()
    result = run(installer_main, *arguments, tmp_path / "empty.airgap", "--root", tmp_path / "absent.json")
    assert result.exit_code == 1
    assert "absent.json" in result.stderr
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize("command", [bundler_main, installer_main])
def test_every_command_and_option_has_a_help_text(command: Any) -> None:
    for name, sub in command.commands.items():
        assert sub.help, name
        for parameter in sub.params:
            assert parameter.param_type_name == "argument" or parameter.help, f"{name} {parameter.name}"
