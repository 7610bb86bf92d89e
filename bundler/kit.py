"""The kit: `installer.pyz`, one file that runs the installer on a host with nothing but Python 3.9 or newer.

It is an executable zip of sources: `installer/` of this very bundler, which has just verified the archive, and the pure
Python packages of the kit's own lock (`locks/kit.txt`). The same sources and lock give the same bytes: the zip is not
compressed, because compressors differ, and has no times.

Nothing is unpacked, so the kit also runs where /tmp is mounted noexec. It runs with -I -S -B: no environment variable,
directory or package of the host adds code, and nothing is written beside it.

The targets key signs the kit (`sign_kit`), because whoever may say what a release contains may also say what installs
it. Its signatures cannot be mistaken for each other: metadata begin with `{`, a kit with `#!`.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator, Sequence
from importlib.metadata import distribution
from pathlib import Path, PurePosixPath

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from securesystemslib.signer import Signer
from tuf.api.metadata import Targets

import installer
from bundler.errors import BuildError, KeysError, WheelError
from bundler.keys import ROOT, SigningKeys
from bundler.lock import PROJECT

KIT = "installer.pyz"
_FIRST_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can say
_UNIX = 3  # the system whose modes the zip has
_FILE, _DIRECTORY = 0o100644, 0o040755
_WANTED = re.compile(
    r"(?!(?:.*/)?tests?/)(.*\.py|[^/]+\.dist-info/(METADATA|licen[cs]es/.*|(LICEN[CS]E|NOTICE|COPYING)[^/]*))"
)
_COMPILED = (".so", ".pyd", ".a", ".dylib")
# These lines stand before the zip, where Python does not see them. `sh installer.pyz` looks for a Python, and says what
# to do where there is none.
_SHELL = b"""\
#!/bin/sh
for python in python3 python3.13 python3.12 python3.11 python3.10 python3.9; do
    if "$python" -I -S -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null; then
        exec "$python" -I -S -B "$0" "$@"
    fi
done
echo "installer: PlatformError: this host has no Python 3.9 or newer: install python3 from your distribution's medium" \
     "(Debian and Ubuntu: apt install python3; RHEL: dnf install python3.12), then run this again" >&2
exit 1
"""
# Python 2.7 and later can read these lines, so that an old one says what is wrong instead of "invalid syntax".
_MAIN = b"""\
import os
import sys

if sys.version_info < (3, 9):
    sys.exit("installer: PlatformError: this kit needs Python 3.9 or newer, this is Python %d.%d: "
             "run it with a newer one, such as python3.11" % sys.version_info[:2])
if not sys.executable:
    sys.exit("installer: PlatformError: this Python does not know its own path: start it by its full path")
if not (sys.flags.isolated and sys.flags.no_site and sys.dont_write_bytecode):
    os.execv(sys.executable, [sys.executable, "-I", "-S", "-B", os.path.abspath(sys.argv[0])] + sys.argv[1:])

try:
    from installer.cli import main
except ImportError as exc:
    if (exc.name or "").partition(".")[0] in ("", "click", "installer", "rich", "securesystemslib", "tuf"):
        raise
    sys.exit("installer: PlatformError: %s lacks the module %s of the standard library: install the whole package "
             "python3 (python3-minimal is a part of it) from your distribution's medium" % (sys.executable, exc.name))

main(prog_name="installer")
"""


def build_kit(wheels: Sequence[Path]) -> bytes:
    """The bytes of installer.pyz.

    Args:
        wheels: those that the kit's lock names.
    Raises:
        WheelError: a wheel holds compiled code, or two hold the same file.
    """
    members = {"__main__.py": _MAIN, **dict(_installer_members())}
    for wheel in wheels:
        for name, data in _wheel_members(wheel):
            if name in members:
                raise WheelError(f"{wheel.name}: another part of the kit has a file {name}, too")
            members[name] = data
    # Python imports a package without __init__.py from a zip only if the zip has an entry for its directory.
    directories = {f"{parent}/": b"" for name in members for parent in PurePosixPath(name).parents if parent.name}
    out = io.BytesIO()
    out.write(_SHELL)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as kit:
        for name, data in sorted((directories | members).items()):
            info = zipfile.ZipInfo(name, _FIRST_TIME)
            info.create_system, info.external_attr = _UNIX, (_DIRECTORY if info.is_dir() else _FILE) << 16
            kit.writestr(info, data)
    return out.getvalue()


def _installer_members() -> Iterator[tuple[str, bytes]]:
    """Our own code, and what tells its version."""
    package = Path(str(installer.__file__)).parent
    for path in package.rglob("*.py"):
        yield f"{package.name}/{path.relative_to(package).as_posix()}", path.read_bytes()
    ours = distribution(PROJECT)
    info = f"{PROJECT.replace('-', '_')}-{ours.version}.dist-info"
    yield f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {PROJECT}\nVersion: {ours.version}\n".encode()
    licence = ours.read_text("licenses/LICENSE")
    if licence is None:
        raise BuildError("the installed project has no licence file, which the kit must carry: install it again")
    yield f"{info}/licenses/LICENSE", licence.encode()


def _wheel_members(wheel: Path) -> Iterator[tuple[str, bytes]]:
    """Sources, metadata and licences; no tests, scripts or data."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.endswith(_COMPILED):
                    raise WheelError(f"{wheel.name} holds compiled code ({name}), which a kit cannot run")
                if _WANTED.fullmatch(name) and ".data/" not in name:
                    yield name, archive.read(name)
    except zipfile.BadZipFile as exc:
        raise WheelError(f"{wheel.name} is not a wheel: {exc}") from exc


def sign_kit(keys: SigningKeys, kit: bytes) -> bytes:
    """The detached signature: 64 bytes, as `openssl pkeyutl -verify -rawin` takes them.

    Raises:
        KeysError: the directory has no Ed25519 key that root.json trusts for the targets.
    """
    return bytes.fromhex(_signer(keys).sign(kit).signature)


def public_key_pem(keys: SigningKeys) -> bytes:
    """installer-key.pem: the public half of the targets key, as openssl reads it.

    Raises:
        KeysError: the directory has no Ed25519 key that root.json trusts for the targets.
    """
    raw = bytes.fromhex(_signer(keys).public_key.keyval["public"])
    return Ed25519PublicKey.from_public_bytes(raw).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _signer(keys: SigningKeys) -> Signer:
    """The first key of the directory that root.json trusts for the targets."""
    trusted = keys.newest.roles[Targets.type].keyids
    signer = next((signer for signer in keys.signers if signer.public_key.keyid in trusted), None)
    if signer is None:
        raise KeysError(f"{keys.directory} has no key that {ROOT} trusts for the targets, which must sign the kit")
    if signer.public_key.scheme != "ed25519":
        raise KeysError(f"the targets key is of the kind {signer.public_key.scheme}; a kit needs an Ed25519 key")
    return signer
