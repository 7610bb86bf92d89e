"""What a site has accepted before: roots, and the newest metadata of each role, read from several places.

The places, the most protected first:

1. `PREFIX/trust`, which belongs to whoever installs;
2. the signed metadata that is kept with each installed release;
3. `PREFIX/state/trust`. The appliance's user owns `state/` and could put another directory in this place.

No place is believed. A root counts if the chain of the archive leads to it, and other metadata counts if keys that the
newest root trusts signed it. So somebody who can write to a place can take away what it says, and add nothing.
That metadata stops to count when the keys that signed it are revoked is The Update Framework's recovery from a version
number that a thief made too high (specification, section 5.3.11).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuf.api.metadata import Metadata, Root

from installer.archive import MAX_METADATA_BYTES, MAX_ROOTS, SNAPSHOT, TARGETS, TIMESTAMP, root_name
from installer.errors import OlderVersionError, TrustError, VersionConflictError
from installer.root_chain import continues, parse_canonical
from installer.signers import count_signers
from installer.site import Site

_ROLES = (TIMESTAMP, SNAPSHOT, TARGETS)
_HISTORY = "root_history"  # the layout that python-tuf's updater writes
Place = Mapping[str, bytes]  # name in an archive -> contents


def read_trust(directory: Path) -> dict[str, bytes]:
    """The metadata in a trust directory, by its names in an archive; {} if there is none."""
    names = [f"{_HISTORY}/{version}.root.json" for version in range(1, MAX_ROOTS + 1)]
    names += [name.removeprefix("metadata/") for name in _ROLES]
    found = {f"metadata/{name.rsplit('/', 1)[-1]}": _read(directory / name) for name in names}
    return {name: data for name, data in found.items() if data is not None}


def read_copies(site: Site) -> list[dict[str, bytes]]:
    """The copies outside `state/`: `PREFIX/trust` if it says anything, then one for each installed release, {} if
    that is damaged: a site with releases must remember something."""
    copies = [copy for copy in [read_trust(site.trust_copy)] if copy]
    for receipt in site.installed():
        directory = site.release(receipt.version) / "metadata"
        names = sorted(os.listdir(directory))[: MAX_ROOTS + len(_ROLES)] if directory.is_dir() else []
        found = {f"metadata/{name}": _read(directory / name) for name in names}
        copies.append({name: data for name, data in found.items() if data is not None})
    return copies


def _read(path: Path) -> bytes | None:
    """A small plain file. It follows no link and does not wait for a FIFO in its place."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            return file.read(MAX_METADATA_BYTES)
    except OSError:
        return None


@dataclass(frozen=True)
class Accepted:
    """What the places say, parsed. What cannot be parsed is left out."""

    roots: Mapping[int, Metadata[Root]]  # by version; the first place that has a version decides
    metadata: tuple[tuple[str, Metadata[Any]], ...]  # name in an archive, and one of those accepted under it

    def extend(self, chain: Sequence[Metadata[Root]]) -> list[Metadata[Root]]:
        """The chain, and the later roots that continue it."""
        longer = list(chain)
        while (after := self.roots.get(longer[-1].signed.version + 1)) is not None and continues(after, longer[-1]):
            longer.append(after)
        return longer

    def is_known(self, roots: Sequence[Root]) -> bool:
        """Whether some of the metadata was signed under one of these roots: the site remembers something."""
        return any(
            count_signers([root], metadata).is_enough for _, metadata in self.metadata for root in reversed(roots)
        )

    def require_not_older(self, offered: Mapping[str, Metadata[Any]], roots: Sequence[Root]) -> None:
        """Refuse metadata with a lower version, or with other contents under the same version.

        Raises:
            OlderVersionError, VersionConflictError: as their names say.
        """
        for name, seen in self.metadata:
            if not count_signers(roots, seen).is_enough:
                continue  # its keys were revoked
            version, known = offered[name].signed.version, seen.signed.version
            if version < known:
                raise OlderVersionError(
                    f"{name} is version {version}; this site has already accepted version {known}: to return to an "
                    "installed release use `installer rollback`"
                )
            if version == known and seen.signed_bytes != offered[name].signed_bytes:
                raise _conflict(name, offered[name], seen)


NOTHING_ACCEPTED = Accepted({}, ())


def _conflict(name: str, offered: Metadata[Any], seen: Metadata[Any]) -> VersionConflictError:
    return VersionConflictError(
        f"two archives have version {offered.signed.version} and differ ({name}), and this site has accepted the other "
        "one: two build places signed without one ledger (signed.json beside the keys), or somebody has stolen keys: "
        "ask the sender which archive is theirs, and for one with a newer version"
    )


def parse_accepted(places: Sequence[Place]) -> Accepted:
    """Parse what the places hold, the most protected place first."""
    roots: dict[int, Metadata[Root]] = {}
    metadata: list[tuple[str, Metadata[Any]]] = []
    for place in places:
        for name, data in place.items():
            try:
                parsed = parse_canonical(name, data)
            except (TrustError, ValueError):
                continue
            if name in _ROLES:
                metadata.append((name, parsed))
            elif name == root_name(parsed.signed.version):
                roots.setdefault(parsed.signed.version, parsed)
    return Accepted(roots, tuple(metadata))
