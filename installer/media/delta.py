"""A delta: an archive that leaves out what a base release has, and says so in a member `metadata/delta.json`.

    {"absent":["<sha256>",..],"base":{"contents":"<sha256>","name":"..","version":".."},"format":1}

It stands after targets.json. The signed metadata lists every target of the release, as always, so that the signatures
are those of the whole release. The member is not signed and needs no trust: a blob that is left out is taken from the
site's store only if it has the signed digest. The base that it names is a hint for the person who lacks it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass

from installer.archive import DELTA, MAX_TARGETS, ArchiveReader, Sha256Hex
from installer.errors import DeltaError, LimitError
from installer.formats.release import VERSION_PATTERN

FORMAT = 1
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Base:
    """The release that a delta was made against."""

    name: str
    version: str
    contents: Sha256Hex  # see installer.targets.contents_digest

    def __str__(self) -> str:
        return f"{self.name} {self.version} (contents {self.contents[:16]}..)"


@dataclass(frozen=True)
class Delta:
    """What an archive leaves out."""

    base: Base
    absent: tuple[Sha256Hex, ...]  # ascending


def encode_delta(delta: Delta) -> bytes:
    """The member's bytes, in their one spelling."""
    body = {"format": FORMAT, "base": asdict(delta.base), "absent": list(delta.absent)}
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode("ascii")


def parse_delta(data: bytes) -> Delta:
    """Read the member.

    Raises:
        DeltaError: it is none, or not in its one spelling.
        LimitError: it leaves out more targets than an archive may have.
    """
    try:
        body = json.loads(data.decode("ascii"))
        base, absent = body["base"], body["absent"]
        delta = Delta(Base(base["name"], base["version"], base["contents"]), tuple(absent))
        is_lawful = _is_lawful(delta) and encode_delta(delta) == data
    except (ValueError, KeyError, TypeError, RecursionError):
        is_lawful = False
    if not is_lawful:
        raise DeltaError(f"{DELTA} does not say what this archive leaves out; copy the file again")
    if len(delta.absent) > MAX_TARGETS:
        raise LimitError("the number of absent targets", MAX_TARGETS, len(delta.absent))
    return delta


def read_delta(reader: ArchiveReader, order: Sequence[Sha256Hex]) -> Delta | None:
    """What an archive leaves out; None if it is a whole one. Call it after `read_metadata`.

    Args:
        order: the blobs of the signed metadata in the archive's order.
    Raises:
        DeltaError: it leaves out release.json, or a blob that the release does not have.
    """
    data = reader.read_delta()
    if data is None:
        return None
    delta = parse_delta(data)
    if strange := sorted(set(delta.absent) - set(order[1:])):
        raise DeltaError(f"{DELTA} leaves out {strange[0]}, which is not a file that a base can hold for this release")
    return delta


def make_delta(base: Base, old: Collection[Sha256Hex], new: Sequence[Sha256Hex]) -> Delta | None:
    """What an archive with the blobs `new`, in their order, may leave out where `old` is; None if that is nothing."""
    absent = tuple(sorted(digest for digest in new[1:] if digest in old))
    return Delta(base, absent) if absent else None


def _is_lawful(delta: Delta) -> bool:
    base, absent = delta.base, delta.absent
    return (
        bool(absent)
        and all(isinstance(name, str) and VERSION_PATTERN.fullmatch(name) for name in (base.name, base.version))
        and all(isinstance(digest, str) and _DIGEST.fullmatch(digest) for digest in (base.contents, *absent))
        and list(absent) == sorted(set(absent))
    )
