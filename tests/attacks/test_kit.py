"""The kit carries other versions of tuf and securesystemslib than we do, and no compiled code: it must refuse the same.

Every attack of `test_tamper` and some on the signatures themselves are tried on the kit, by each Python that is here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata

from bundler.kit import build_kit
from bundler.lock import KitTarget, load_kit_lock
from bundler.wheelhouse import fetch_wheels
from installer.archive import SNAPSHOT, TARGETS, TIMESTAMP, root_name
from installer.errors import InstallerError
from installer.root_chain import CANONICAL
from installer.verify import DiscardingSink, verify_archive
from tests.attacks.test_tamper import ATTACKS, Scene
from tests.attacks.test_tamper import scene as scene
from tests.conftest import MakeOnce

_ORDER = 2**252 + 27742317777372353535851937790883648493  # of the group of Ed25519, RFC 8032, section 5.1
_DRIVER = """
import io, json, sys
kit, root, *names = sys.argv[1:]
sys.path.insert(0, kit)
from installer.errors import InstallerError
from installer.verify import DiscardingSink, verify_archive
assert "cryptography" not in sys.modules
with open(root, "rb") as file:
    trusted = file.read()
for name in names:
    try:
        with open(name, "rb") as stream:
            verify_archive(stream, trusted, sink=DiscardingSink())
        print(json.dumps("taken"))
    except InstallerError as exc:
        print(json.dumps(type(exc).__name__))
"""


def pythons() -> list[str]:
    """The oldest and the newest Python of this machine that the kit supports, and the one that runs the tests."""
    found = {sys.executable: sys.executable}
    for place in ("/usr/bin", "/usr/local/bin", *map(str, Path.home().glob(".pyenv/versions/*/bin"))):
        for name in ("python3.9", "python3.13"):
            if Path(place, name).exists():
                found[name] = f"{place}/{name}"
    return list(found.values())


@pytest.fixture(scope="module")
def kit(once: MakeOnce) -> Path:
    """The kit with the locked packages, as `bundler build` makes it."""

    def make(directory: Path) -> None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gpt-oss-appliance" / "wheels"
        kit = build_kit(fetch_wheels(load_kit_lock(), KitTarget(), cache))
        (directory / "installer.pyz").write_bytes(kit)

    return once("locked-kit", make) / "installer.pyz"


def heavier(scene: Scene, name: str) -> bytes:
    """A signature with the order of the group added to its second half: the same equation holds, the bytes differ."""
    metadata: Metadata[Any] = Metadata.from_bytes(dict(scene.parts)[name])
    for keyid, signature in metadata.signatures.items():
        raw = bytes.fromhex(signature.signature)
        scalar = int.from_bytes(raw[32:], "little") + _ORDER
        metadata.signatures[keyid].signature = (raw[:32] + scalar.to_bytes(32, "little")).hex()
    return scene.replaced(name, metadata.to_bytes(CANONICAL))


def signature_attacks(scene: Scene) -> dict[str, bytes]:
    """Signatures that only a careless check takes."""
    found = {}
    for name in (root_name(1), TIMESTAMP, SNAPSHOT, TARGETS):
        data = dict(scene.parts)[name]
        (keyid, signature), *_ = Metadata.from_bytes(data).signatures.items()
        raw = signature.signature.encode()
        found[f"{name}, heavier"] = heavier(scene, name)
        found[f"{name}, of zeros"] = scene.replaced(name, data.replace(raw, b"0" * 128))
        found[f"{name}, of the neutral point"] = scene.replaced(name, data.replace(raw, b"01" + b"0" * 126))
        found[f"{name}, cut short"] = scene.replaced(name, data.replace(raw, raw[:-2]))
        found[f"{name}, made longer"] = scene.replaced(name, data.replace(raw, raw + b"00"))
        found[f"{name}, under another key id"] = scene.replaced(name, data.replace(keyid.encode(), b"0" * 64, 1))
    return found


def verdict(archive: Path, root: bytes) -> str:
    try:
        with archive.open("rb") as stream:
            verify_archive(stream, root, sink=DiscardingSink())
    except InstallerError as exc:
        return type(exc).__name__
    return "taken"


def test_the_kit_refuses_what_we_refuse(scene: Scene, kit: Path, tmp_path: Path) -> None:
    made = {attack: make(scene) for attack, (_, make) in ATTACKS.items()}
    archives = {name: data if isinstance(data, bytes) else next(iter(data)) for name, data in made.items()}
    archives |= signature_attacks(scene) | {"genuine": scene.genuine}
    files = {name: tmp_path / f"{number}.airgap" for number, name in enumerate(archives)}
    for name, data in archives.items():
        files[name].write_bytes(data)
    ours = {name: verdict(file, scene.sender.root) for name, file in files.items()}
    assert ours["genuine"] == "taken"
    assert [name for name in signature_attacks(scene) if ours[name] == "taken"] == []
    driver = tmp_path / "driver.py"
    driver.write_text(_DRIVER)
    for python in pythons():
        done = subprocess.run(
            [python, "-I", "-S", "-B", driver, kit, scene.sender.root_path, *files.values()],
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        theirs = dict(zip(files, map(json.loads, done.stdout.splitlines()), strict=True))
        assert theirs == ours, python
