"""The form of a checkpoint: what the log was, at a time, signed with the log's key.

A signed checkpoint is a C2SP signed note (c2sp.org/signed-note, c2sp.org/tlog-checkpoint): the log's name, its size
and root, one line with the time, one with the hash of the note that its signer wrote before it (ledger.py; notes of
earlier releases lack this line), and an Ed25519 signature.

    gpt-oss-appliance/audit/0123456789abcdef
    12402
    qINS1GRFhWHwdkUeqLEoP4yEMkTBBzxBkGwGQlVlVcs=
    time 2026-11-23T01:37:24.123456Z
    previous 5a0c..

    — gpt-oss-appliance/audit/0123456789abcdef d8pPtB...

What this covers: a checkpoint shows whether the log still holds what it held then. What it does not: the holder of the
signing key can sign another history; only a checkpoint that has left the machine shows that.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from appliance.audit.merkle import HASH_BYTES
from appliance.database.transactions import as_iso, from_iso
from appliance.errors import ApplianceError
from appliance.plain_file import read_plain

_ED25519 = b"\x01"  # signature type of signed-note
_KEY_ID_BYTES = 4


class CheckpointError(ApplianceError):
    """A checkpoint, or a key for one, is not what it is said to be."""


@dataclass(frozen=True)
class SignedCheckpoint:
    """The first ``size`` events had ``root``, said at ``time_us``.

    ``previous`` is the `note_hash` of the entry before it in its signer's ledger; empty in notes of earlier releases.
    """

    origin: str
    size: int
    root: bytes
    time_us: int
    previous: str = ""

    def body(self) -> str:
        """The text that is signed."""
        root = base64.b64encode(self.root).decode()
        previous = f"previous {self.previous}\n" if self.previous else ""
        return f"{self.origin}\n{self.size}\n{root}\ntime {as_iso(self.time_us)}\n{previous}"


@dataclass(frozen=True)
class Verifier:
    """A public key with the name it signs for; `str` gives signed-note's form ``name+keyid+key``."""

    name: str
    key: Ed25519PublicKey

    @property
    def key_id(self) -> bytes:
        """Four bytes that name the key."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self._raw()).digest()[:_KEY_ID_BYTES]

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(_ED25519 + self._raw()).decode()}"

    def _raw(self) -> bytes:
        return self.key.public_bytes(Encoding.Raw, PublicFormat.Raw)


@dataclass(frozen=True)
class Signer:
    """The private key of one log."""

    name: str
    key: Ed25519PrivateKey

    @property
    def verifier(self) -> Verifier:
        return Verifier(self.name, self.key.public_key())

    def sign(self, checkpoint: SignedCheckpoint) -> str:
        """The signed note."""
        return self.sign_text(checkpoint.body())

    def sign_text(self, body: str) -> str:
        """The signed note of any text that ends its last line."""
        signature = base64.b64encode(self.verifier.key_id + self.key.sign(body.encode())).decode()
        return f"{body}\n\N{EM DASH} {self.name} {signature}\n"


def verify_checkpoint(note: str, verifier: Verifier) -> SignedCheckpoint:
    """The checkpoint of a note that `verifier` signed; signatures by other keys are ignored.

    Raises:
        CheckpointError: no good signature by this key, another log, or not a checkpoint.
    """
    return parse_checkpoint(verify_note(note, verifier), verifier.name)


def verify_note(note: str, verifier: Verifier) -> str:
    """The text of a note that `verifier` signed; signatures by other keys are ignored.

    Raises:
        CheckpointError: it is not a note, or has no good signature by this key.
    """
    body, separator, signatures = note.rpartition("\n\n")
    if not separator or not signatures.endswith("\n"):
        raise CheckpointError("not a signed note")
    body += "\n"
    prefix = f"\N{EM DASH} {verifier.name} "
    for line in signatures.split("\n"):
        value = _unbase64(line.removeprefix(prefix)) if line.startswith(prefix) else b""
        if value[:_KEY_ID_BYTES] != verifier.key_id:
            continue
        try:
            verifier.key.verify(value[_KEY_ID_BYTES:], body.encode())
        except InvalidSignature as exc:
            raise CheckpointError("the checkpoint's signature is wrong") from exc
        return body
    raise CheckpointError(f"the checkpoint is not signed by {verifier.name}+{verifier.key_id.hex()}")


def parse_verifier(text: str) -> Verifier:
    """The public key in signed-note's form.

    Raises:
        CheckpointError: the text is not one, or its key id is wrong.
    """
    name, _, rest = text.strip().partition("+")
    key_id, _, encoded = rest.partition("+")
    raw = _unbase64(encoded)
    if not name or raw[:1] != _ED25519 or len(raw) != 33:
        raise CheckpointError("not the public key of a log")
    verifier = Verifier(name, Ed25519PublicKey.from_public_bytes(raw[1:]))
    if verifier.key_id.hex() != key_id:
        raise CheckpointError("the public key's id does not fit the key")
    return verifier


def note_hash(note: str) -> str:
    """SHA-256 of a whole note, signatures included, in hexadecimal."""
    return hashlib.sha256(note.encode()).hexdigest()


def load_verifier(keys_dir: Path) -> Verifier | None:
    """The public key in audit.pub; None before the first checkpoint.

    Raises:
        CheckpointError: it cannot be read, or is not a key.
    """
    path = keys_dir / "audit.pub"
    try:
        return parse_verifier(read_plain(path).decode())
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as exc:
        raise CheckpointError(f"{path}: cannot be read: {exc}") from exc


def parse_checkpoint(body: str, origin: str) -> SignedCheckpoint:
    """The checkpoint that the text of a note states, for the log called `origin`.

    Raises:
        CheckpointError: it is not a checkpoint, or one of another log.
    """
    try:
        name, size, root, time_line, *more, _ = body.split("\n")
        previous = more[0].removeprefix("previous ") if more else ""
        checkpoint = SignedCheckpoint(
            name, int(size), _unbase64(root), from_iso(time_line.removeprefix("time ")), previous
        )
    except ValueError as exc:
        raise CheckpointError("the signed text is not a checkpoint") from exc
    if len(checkpoint.root) != HASH_BYTES or checkpoint.body() != body:
        raise CheckpointError("the signed text is not a checkpoint")
    if name != origin:
        raise CheckpointError(f"the checkpoint is of another log, {name}")
    return checkpoint


def _unbase64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise CheckpointError("not base64") from exc
