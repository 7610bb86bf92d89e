"""The ledger `signed.json` of a keys directory: which contents were signed under which version, and until when.

Contents that were signed before under the same root get the version and expiry date of the first time, so the same
contents give the same bytes. Other contents get a new version, by which a site refuses an older archive. It is the time
of signing, so that two build places whose ledgers know nothing of each other do not both sign version 2; and it is
always higher than what the ledger knows.

The ledger is written before anything is signed. A command that is killed in between leaves a version that nobody used;
the other order could leave two contents under one version, and sites would take that for theft.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from bundler.errors import KeysError
from bundler.keys import SigningKeys
from installer.durable import write_durably
from installer.formats.clock import has_lost_its_time
from installer.targets import Target, contents_digest

LEDGER = "signed.json"


@dataclass(frozen=True)
class Signing:
    """Version and expiry date under which some contents are signed."""

    version: int
    expires: datetime


def decide_signing(
    keys: SigningKeys, targets: Sequence[Target], *, lifetime_end: datetime, version: int | None, now: datetime
) -> Signing:
    """Decide version and expiry for these contents: as signed before if that has not expired, else a new version.

    Args:
        lifetime_end: expiry for contents that the ledger does not know.
        version: use exactly this version and `lifetime_end`, whatever the ledger says.
    Raises:
        KeysError: the ledger is unreadable, knows other contents under `version`, or the clock has lost its time.
    """
    contents, root = contents_digest(targets), len(keys.roots)
    with _ledger(keys.directory) as entries:
        if version is not None:
            signing = Signing(version, lifetime_end)
        else:
            for known in entries:
                if (known.contents, known.root) == (contents, root) and datetime.fromisoformat(known.expires) > now:
                    return Signing(known.version, datetime.fromisoformat(known.expires))
            signing = Signing(max(_time_version(now), 1 + max((e.version for e in entries), default=0)), lifetime_end)
        _enter(entries, _Entry(contents, signing.expires.isoformat(), signing.version, root))
    return signing


def enter_signing(directory: Path, targets: Sequence[Target], signing: Signing, root: int) -> None:
    """Remember in a person's directory what that person signs.

    Raises:
        KeysError: the ledger is unreadable, or knows other contents under this version.
    """
    with _ledger(directory) as entries:
        _enter(entries, _Entry(contents_digest(targets), signing.expires.isoformat(), signing.version, root))


def _enter(entries: list[_Entry], entry: _Entry) -> None:
    if any(e.version == entry.version and e.contents != entry.contents for e in entries):
        raise KeysError(
            f"version {entry.version} was already signed with these keys for other contents: build it with a higher "
            "--metadata-version, or without one"
        )
    if entry not in entries:
        entries.append(entry)


def _time_version(now: datetime) -> int:
    """The second of signing as digits that people can read: 20261130174500."""
    if has_lost_its_time(now):
        raise KeysError(f"this machine's clock says {now:%Y-%m-%d}, and the version comes from the time: set the clock")
    return int(f"{now.astimezone(UTC):%Y%m%d%H%M%S}")


@dataclass(frozen=True)
class _Entry:
    """One line of the ledger."""

    contents: str  # see contents_digest
    expires: str  # ISO 8601
    version: int
    root: int = 1  # version of the root under which they were signed


def _parse_ledger(data: bytes) -> list[_Entry]:
    """Raises ValueError or TypeError if the file is not what `_ledger` writes."""
    entries = [_Entry(**entry) for entry in json.loads(data)]
    for entry in entries:
        numbers = isinstance(entry.version, int) and isinstance(entry.root, int)
        if not numbers or datetime.fromisoformat(entry.expires).tzinfo is None:
            raise ValueError(f"not an entry: {entry}")
    return entries


@contextmanager
def _ledger(directory: Path) -> Iterator[list[_Entry]]:
    """The ledger's entries, under a lock of the directory. When the block ends, appended entries are on disk."""
    path = directory / LEDGER
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        entries = _parse_ledger(path.read_bytes()) if path.exists() else []
        known = len(entries)
        yield entries
        if len(entries) > known:
            write_durably(path, (json.dumps([asdict(entry) for entry in entries], indent=1) + "\n").encode())
    except (ValueError, TypeError, OSError) as exc:
        raise KeysError(f"the ledger {path} cannot be used: {exc}") from exc
    finally:
        os.close(lock)
