"""receipt.json of an installed release: what was installed and checked. The installer writes it last, so a directory
without it is not an installed release.

A reader ignores fields that it does not know. Another number in `format` means that a newer installer wrote the file
and that this one must not decide anything by it.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from installer.errors import DamagedReceiptError, NewerReceiptError

RECEIPT = "receipt.json"
FORMAT = 1
_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Receipt:
    """What was installed and checked. A release is complete if it has this file."""

    name: str
    version: str
    model: str
    metadata_version: int
    contents_sha256: str  # see installer.targets.contents_digest
    expires: str
    files: int
    size_bytes: int
    python: str
    self_test: str  # "passed" or "not recorded in this release"
    installed_at: str  # UTC, ISO 8601
    format: int = FORMAT
    manifest_sha256: str = ""  # empty: installed by a version that wrote no manifest
    interpreter: str = ""  # the host's Python that runs the release
    publisher: str = ""  # SHA-256 of the chain's first root; empty: installed by a version that did not keep it
    allowed: tuple[str, ...] = ()  # what the operator typed to allow: "downgrade", "expired", "switch-product"


def encode_receipt(receipt: Receipt) -> bytes:
    """The file's bytes."""
    return (json.dumps(asdict(receipt), indent=2) + "\n").encode()


def load_receipt(release: Path) -> Receipt | None:
    """The receipt of the release in this directory; None if there is none.

    Raises:
        DamagedReceiptError: the file is no receipt, or that of another release.
        NewerReceiptError: a newer installer wrote it.
    """
    name = release.name
    if release.is_symlink():  # what it leads to belongs to no release, and can be changed from elsewhere
        raise DamagedReceiptError(name, "its directory is a link")
    try:
        with open(release / RECEIPT, "rb", opener=_plainly) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise DamagedReceiptError(name, "it is no plain file")
            data = file.read(_MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise DamagedReceiptError(name, f"it cannot be read: {exc.strerror}") from exc
    receipt = _parse(name, data)
    if receipt.version != name:
        raise DamagedReceiptError(name, f"it is the receipt of release {receipt.version}")
    return receipt


def usable_receipt(release: Path) -> Receipt | None:
    """The receipt of the release in this directory; None if it is missing or damaged.

    Raises:
        NewerReceiptError: a newer installer must repair this release.
    """
    try:
        return load_receipt(release)
    except DamagedReceiptError:
        return None


def _parse(name: str, data: bytes) -> Receipt:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise DamagedReceiptError(name, "it is no JSON") from exc
    if not isinstance(body, dict):
        raise DamagedReceiptError(name, "it is no JSON object")
    found = body.get("format", FORMAT)
    if type(found) is int and found > FORMAT:
        raise NewerReceiptError(name, found)
    if type(found) is not int or found != FORMAT:
        raise DamagedReceiptError(name, f"its format is {found!r:.40}")
    try:
        return _from_fields(body)
    except ValueError as exc:
        raise DamagedReceiptError(name, str(exc)) from exc


def _from_fields(body: dict[str, Any]) -> Receipt:
    """Raises ValueError with the field that is missing or of another type."""
    known: dict[str, Any] = {}
    for field in fields(Receipt):
        if field.name not in body:
            if field.default is MISSING:
                raise ValueError(f"its field {field.name} is missing")
            continue
        value = body[field.name]
        if field.name == "allowed":
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                raise ValueError("its field allowed is no list of texts")
            value = tuple(value)
        elif type(value) is not (int if field.type == "int" else str):
            raise ValueError(f"its field {field.name} has another type")
        known[field.name] = value
    return Receipt(**known)


def _plainly(path: str, flags: int) -> int:
    """Open without following a link and without waiting for the writer of a FIFO."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
