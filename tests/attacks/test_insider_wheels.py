"""Wheels that are rightly signed and hostile, from somebody who holds the keys: zip files that no tool makes, names
that no host takes, sources that no compiler takes. Each is refused by name, and nothing stays behind.
"""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from installer.environment import environment_files
from installer.errors import WheelInstallError
from installer.install import install
from installer.wheels import environment_members
from tests.installer.archives import NOW, PYTHON, Sender, make_wheel, release_files
from tests.unprivileged import SERVICE_USER, let_through

NAME = "evil-1.0-py3-none-any.whl"
INFO = "evil-1.0.dist-info"


def wheel(files: dict[str, bytes]) -> bytes:
    return make_wheel(files, INFO)


def zipped(name: str, data: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    """A wheel of one file, compressed in this way."""
    record = (
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}"
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr(name, data)
        archive.writestr(f"{INFO}/RECORD", f"{record}\n{INFO}/RECORD,,\n")
    return buffer.getvalue()


def damaged(data: bytes, name: str) -> bytes:
    """The same with other bytes in the compressed contents of this file."""
    start = data.index(name.encode()) + len(name) + 10
    return data[:start] + bytes(byte ^ 0xFF for byte in data[start : start + 12]) + data[start + 12 :]


def badly_named() -> bytes:
    """The directory says that this name is UTF-8, and it is not."""
    return zipped("évil.py", b"x = 1").replace("é".encode(), b"\xff\xfe")


def unpack(data: bytes, directory: Path) -> None:
    (directory / NAME).write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    members = environment_members({digest: directory / NAME}, f"evil==1.0 --hash=sha256:{digest}\n", PYTHON)
    environment_files(members, "/usr/bin/python3", PYTHON, write_to=directory / "release")


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "one place for two files": (
        lambda: wheel({"evil.py": b"1", "evil-1.0.data/purelib/evil.py": b"2"}), "holds two files for the place",
    ),
    "a RECORD by its data directory": (
        lambda: wheel({f"evil-1.0.data/purelib/{INFO}/RECORD": b""}), "holds two files for the place",
    ),
    "bytes that do not decompress": (
        lambda: damaged(zipped("evil.bin", bytes(5000), zipfile.ZIP_DEFLATED), "evil.bin"), "is damaged",
    ),
    "compressed by LZMA": (
        lambda: zipped("evil.bin", bytes(5000), zipfile.ZIP_LZMA), "is compressed in a way that no wheel is",
    ),
    "compressed by bzip2": (
        lambda: zipped("evil.bin", bytes(5000), zipfile.ZIP_BZIP2), "is compressed in a way that no wheel is",
    ),
    "a name that is not the UTF-8 it says": (badly_named, "is damaged"),
    "a name of 300 characters": (lambda: wheel({f"evil/{'x' * 300}.py": b""}), "is too long for a host"),
    "a name whose compiled form is too long": (lambda: wheel({f"evil/{'x' * 245}.py": b""}), "is too long for a host"),
    "directories 1500 deep": (lambda: wheel({f"evil/{'d/' * 1500}x.py": b""}), "is too long for a host"),
    "a sum of 200,000 numbers": (lambda: wheel({"evil.py": b"x=1" + b"+1" * 200_000}), "nested too deeply"),
    "100,000 signs": (lambda: wheel({"evil.py": b"x=" + b"-" * 100_000 + b"1"}), "nested too deeply"),
    "100,000 attributes": (lambda: wheel({"evil.py": b"x=a" + b".b" * 100_000}), "nested too deeply"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_signed_and_hostile_wheel_is_refused(case: str, tmp_path: Path) -> None:
    make, words = HOSTILE[case]
    with pytest.raises(WheelInstallError, match=words):
        unpack(make(), tmp_path)


@pytest.mark.parametrize("case", ["bytes that do not decompress", "100,000 signs"])
def test_an_installation_leaves_nothing_of_it(case: str, tmp_path: Path) -> None:
    sender = Sender.make(tmp_path / "sender")
    data = HOSTILE[case][0]()
    files = release_files("6.6", extra={f"wheels/{NAME}": data})
    files["wheels/requirements.lock"] += f"evil==1.0 --hash=sha256:{hashlib.sha256(data).hexdigest()}\n".encode()
    archive = sender.archive(files, f"insider-{case.split()[0]}")
    let_through(prefix := tmp_path / "site" / "new")
    with archive.open("rb") as stream, pytest.raises(WheelInstallError):
        install(stream, sender.root, prefix, now=NOW, environ={}, user=SERVICE_USER)
    assert not (tmp_path / "site").exists()
