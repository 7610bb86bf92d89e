"""Small real archives for the tests, with real keys, real wheels and a real self-test; and tools to unpack them."""

from __future__ import annotations

import base64
import csv
import functools
import hashlib
import importlib.metadata
import io
import json
import os
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bundler.archive import digest_tree, write_archive
from bundler.keys import SigningKeys, generate_keys, load_keys
from bundler.ledger import decide_signing
from installer.archive import END_OF_ARCHIVE, member_header, padding_bytes
from installer.formats.known_answers import FILE as KNOWN_ANSWERS
from installer.formats.release import DESCRIPTOR, ModelCard, Release, Target, encode_release, parse_release
from installer.formats.vocabulary import PATH as VOCABULARY

CHECKER = "installer/formats/manifest.py"
PROJECT = Path(__file__).parents[2]
NOW = datetime.now(UTC).replace(microsecond=0)
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
PLATFORM = f"manylinux_2_17_{os.uname().machine}"

# The fixture's `appliance/cli.py`. Its "model" is a file of numbers; a known answer is the sum of some of them.
_APPLIANCE = """
import json, pathlib, sys

def main():
    if sys.argv[1] != "selftest" or sys.argv[2] != "--release":
        sys.exit("usage: appliance selftest --release DIR")
    release = pathlib.Path(sys.argv[3])
    model = (release / "model" / "weights-00001.bin").read_bytes()
    answers = json.loads((release / "known_answers.json").read_bytes())
    for case in answers["cases"]:
        got = sum(model[i] for i in case["prompt"])
        if got != case["answer"]:
            sys.exit(f"prompt {case['prompt']}: expected {case['answer']}, got {got}")
"""


@dataclass(frozen=True)
class Sender:
    """A sender on the connected side: a directory with keys, and the archives made with them."""

    directory: Path

    @classmethod
    def make(cls, directory: Path, *, days: int = 30) -> Sender:
        directory.mkdir(parents=True)
        generate_keys(directory / "keys", expires=NOW + timedelta(days=days))
        return cls(directory)

    @property
    def keys(self) -> SigningKeys:
        return load_keys(self.directory / "keys")

    @property
    def root(self) -> bytes:
        return self.keys.roots[-1]

    @property
    def root_path(self) -> Path:
        return self.directory / "keys" / "root.json"

    def archive(self, files: Mapping[str, bytes], name: str = "test", *, version: int | None = None) -> Path:
        """A sealed archive of these files, written and verified by the bundler."""
        tree = self.directory / f"tree-{name}"
        write_tree(tree, files)
        digested = digest_tree(tree)
        signing = decide_signing(
            self.keys, digested.targets, lifetime_end=NOW + timedelta(days=9), version=version, now=NOW
        )
        out = self.directory / f"{name}.airgap"
        write_archive(out, digested, self.keys, signing)
        return out


def release_files(
    version: str = "1.0", *, passes: bool = True, extra: Mapping[str, bytes] | None = None, bulk_bytes: int = 0
) -> dict[str, bytes]:
    """The files of a small release that can be installed and that tests itself.

    Args:
        passes: whether the model gives its known answers.
        bulk_bytes: size of a data file inside the wheel; zeros, so that the wheel itself stays small.
    """
    weights = bytes(range(256)) * 8 + version.encode()
    own_name, own = appliance_wheel(bulk_bytes)
    digest = hashlib.sha256(own).hexdigest()
    prompts = [[1, 2, 3], [250, 251]]
    cases = [{"prompt": p, "answer": sum(weights[i] for i in p) + (not passes)} for p in prompts]
    described = Release(
        name="test", version=version, accelerators=("cpu",), graphs={"cpu": "model/cpu/model.onnx"}, dense="int8",
        config="model/config.json", vocabulary=VOCABULARY, known_answers=KNOWN_ANSWERS,
        target=Target((PYTHON,), PLATFORM), model=ModelCard("test", "Test model", "A file of numbers.", 16, (), None),
    )  # fmt: skip
    return {
        DESCRIPTOR: encode_release(described),
        "model/weights-00001.bin": weights,
        KNOWN_ANSWERS: json.dumps({"cases": cases}).encode(),
        f"wheels/{own_name}": own,
        "wheels/requirements.lock": f"appliance-fixture==1.0 --hash=sha256:{digest}\n".encode(),
        **(extra or {}),
    }


def small_files(version: str = "9.9") -> dict[str, bytes]:
    """A release that verifies but is too small to install: for tests of the file alone."""
    described = replace(parse_release(release_files(version)[DESCRIPTOR]), known_answers=None)
    return {
        DESCRIPTOR: encode_release(described),
        "wheels/requirements.lock": b"",
        "model/weights-00001.bin": bytes(range(200)),
    }


@functools.cache
def appliance_wheel(bulk_bytes: int = 0) -> tuple[str, bytes]:
    """A wheel with a package `appliance`, and with what the installed command runs before that package."""
    info = "appliance_fixture-1.0.dist-info"
    ours = (
        *("appliance/runtime/launch.py", "appliance/runtime/inherited.py", "appliance/errors.py"),
        *("installer/__init__.py", "installer/formats/__init__.py", CHECKER),
    )
    files = {
        "appliance/__init__.py": b"",
        "appliance/cli.py": _APPLIANCE.encode(),
        **{name: (PROJECT / name).read_bytes() for name in ours},
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: appliance-fixture\nVersion: 1.0\nLicense: Apache-2.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/licenses/LICENSE": b"Apache-2.0\n",
    }
    if bulk_bytes:
        files["appliance/data.bin"] = bytes(bulk_bytes)
    return "appliance_fixture-1.0-py3-none-any.whl", make_wheel(files, info)


@functools.cache
def installed_wheel(name: str) -> tuple[str, bytes]:
    """A pure wheel, rebuilt from what is installed in this environment."""
    distribution = importlib.metadata.distribution(name)
    files = {
        str(path): Path(str(distribution.locate_file(path))).read_bytes()
        for path in distribution.files or []
        if not str(path).startswith("..") and not str(path).endswith((".pyc", "RECORD"))
    }
    stem = f"{name}-{distribution.version}"
    return f"{stem}-py3-none-any.whl", make_wheel(files, f"{stem}.dist-info")


@functools.cache
def our_wheel() -> tuple[str, bytes]:
    """A wheel of this project's own packages for the isolated side, without the compiled operators."""
    info = "gpt_oss_appliance-0.1.0.dist-info"
    sources = [path for package in ("appliance", "installer") for path in sorted((PROJECT / package).rglob("*.py"))]
    files = {str(path.relative_to(PROJECT)): path.read_bytes() for path in sources}
    files[f"{info}/METADATA"] = b"Metadata-Version: 2.1\nName: gpt-oss-appliance\nVersion: 0.1.0\n"
    return "gpt_oss_appliance-0.1.0-py3-none-any.whl", make_wheel(files, info)


def make_wheel(files: Mapping[str, bytes], info: str) -> bytes:
    """A wheel of these files and the RECORD that belongs to them."""
    record = io.StringIO()
    rows = [(name, f"sha256={_record_digest(data)}", len(data)) for name, data in files.items()]
    csv.writer(record, lineterminator="\n").writerows([*rows, (f"{info}/RECORD", "", "")])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, data in {**files, f"{info}/RECORD": record.getvalue().encode()}.items():
            wheel.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED, 1)
    return buffer.getvalue()


def _record_digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def write_tree(tree: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(data)


def members(archive: bytes) -> dict[str, bytes]:
    """Name -> contents of every member, as stock tar sees them."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]


def pack(parts: Iterable[tuple[str, bytes]]) -> bytes:
    """An archive of these members, in this order, in the format's own encoding."""
    return b"".join(member_bytes(name, data) for name, data in parts) + END_OF_ARCHIVE


def member_bytes(name: str, data: bytes) -> bytes:
    return member_header(name, len(data)) + data + bytes(padding_bytes(len(data)))


def listing(directory: Path) -> dict[str, str]:
    """Everything below a directory: path -> kind, mode and digest or link target; {} if it does not exist."""
    found = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_dir():
            found[name] = f"directory {path.stat().st_mode:o}"
        else:
            found[name] = f"{path.stat().st_mode:o} {hashlib.sha256(path.read_bytes()).hexdigest()}"
    return found
