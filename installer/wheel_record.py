"""RECORD of a wheel: the size and SHA-256 of each of its files, which the installer compares with what it unpacks.

Format: binary distribution format 1 (PyPA specification). The signed digest of a wheel covers all of its bytes already;
RECORD also shows a wheel that was put together wrongly, or whose directory and contents disagree.
"""

from __future__ import annotations

import base64
import binascii
import csv
import io
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from installer.errors import WheelInstallError

MAX_RECORD_BYTES = 16 << 20
_UNLISTED = ("RECORD", "RECORD.jws", "RECORD.p7s")  # cannot hold digests of themselves
_DIGEST_BYTES = 32


@dataclass(frozen=True)
class Recorded:
    """What RECORD says of one file."""

    size_bytes: int | None
    sha256: str


def parse_record(wheel: str, info: str, data: bytes) -> dict[str, Recorded]:
    """Name in the wheel -> what RECORD says of it; without RECORD and its signatures.

    Args:
        wheel: its file name, for errors.
        info: the wheel's dist-info directory.
    Raises:
        WheelInstallError: RECORD is damaged, or names a file twice or without SHA-256.
    """
    found: dict[str, Recorded] = {}
    try:
        for name, digest, size in csv.reader(io.StringIO(data.decode(), newline="")):
            if name in (f"{info}/{unlisted}" for unlisted in _UNLISTED):
                continue
            if name in found:
                raise WheelInstallError(f"{wheel}: RECORD names {name!r} twice")
            found[name] = Recorded(int(size) if size else None, _sha256(digest))
    except (ValueError, csv.Error) as exc:
        raise WheelInstallError(f"{wheel}: RECORD is no list of files with their SHA-256 and size") from exc
    return found


def _sha256(digest: str) -> str:
    """Hexadecimal digits of ``sha256=URL-SAFE-BASE64``.

    Raises:
        ValueError: it is no SHA-256.
    """
    kind, _, encoded = digest.partition("=")
    try:
        value = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except binascii.Error as exc:
        raise ValueError(str(exc)) from exc
    if kind != "sha256" or len(value) != _DIGEST_BYTES:
        raise ValueError(f"not a SHA-256: {digest}")
    return value.hex()


def compare_with_record(wheel: str, info: str, recorded: Mapping[str, Recorded], names: Collection[str]) -> None:
    """Require that RECORD lists exactly the files of the wheel.

    Args:
        names: of all files in the wheel.
    Raises:
        WheelInstallError: with the first file that is too many or missing.
    """
    listed = set(recorded) | {f"{info}/{unlisted}" for unlisted in _UNLISTED}
    if extra := sorted(set(names) - listed):
        raise WheelInstallError(f"{wheel}: {extra[0]!r} is not in its RECORD")
    if missing := sorted(set(recorded) - set(names)):
        raise WheelInstallError(f"{wheel}: its RECORD names {missing[0]!r}, which it does not hold")
