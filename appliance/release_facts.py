"""What an installed release says of its installation: its receipt, and who signed its contents.

The installer verified the signatures before it made the directory, and wrote the receipt last. These are its words, for
people to read; nothing is decided by them. `installer verify --prefix --root` proves them again from outside.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_RECEIPT: Final = "receipt.json"
_TARGETS: Final = "metadata/targets.json"
_ROOT: Final = "metadata/root.json"
_MAX_BYTES: Final = 5_000_000
_RECEIPT_FIELDS: Final = ("installed_at", "self_test", "interpreter", "publisher", "manifest_sha256", "expires")


@dataclass(frozen=True)
class Signatures:
    """Who signed the contents: the ids of the keys that did, how many must, and of how many."""

    keys: tuple[str, ...]
    threshold: int
    known: int


@dataclass(frozen=True)
class ReleaseFacts:
    """Each is empty or None where the release does not say it, as one that was never in an archive."""

    installed_at: str = ""
    self_test: str = ""
    interpreter: str = ""
    publisher: str = ""
    manifest_sha256: str = ""
    expires: str = ""
    allowed: tuple[str, ...] = ()
    signatures: Signatures | None = None


def load_facts(release: Path) -> ReleaseFacts:
    """Read what the directory of a release says. A file that cannot be read says nothing."""
    receipt = _object(release / _RECEIPT)
    allowed = receipt.get("allowed")
    return ReleaseFacts(
        **{name: _text(receipt.get(name)) for name in _RECEIPT_FIELDS},
        allowed=tuple(map(str, allowed)) if isinstance(allowed, list) else (),
        signatures=_signatures(release),
    )


def _signatures(release: Path) -> Signatures | None:
    targets, root = _object(release / _TARGETS), _object(release / _ROOT)
    try:
        role = root["signed"]["roles"]["targets"]
        known = frozenset(map(str, role["keyids"]))
        signed = {str(one["keyid"]) for one in targets["signatures"] if one.get("sig")}
        return Signatures(tuple(sorted(signed & known)), int(role["threshold"]), len(known))
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _object(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            found = json.loads(stream.read(_MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _text(value: object) -> str:
    return value[:200] if isinstance(value, str) else ""
