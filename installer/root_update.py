"""Roots that travel alone: how a site learns of changed and revoked keys before the next archive.

The site's own newest root decides, so the operator needs no root of another way: a new root must be signed by enough of
the keys before it and of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tuf.api.metadata import Metadata, Root

from installer.accepted import Place, parse_accepted, read_copies, read_trust
from installer.archive import MAX_ROOTS, TARGETS, root_name
from installer.errors import NoReleaseError, RootUpdateError, TrustError
from installer.root_chain import CANONICAL, continues, parse_canonical, parse_root
from installer.signers import count_signers
from installer.site import Site


@dataclass(frozen=True)
class RootUpdate:
    """What an update did."""

    before: int  # version of the site's newest root
    after: int
    notes: tuple[str, ...]  # sentences: releases that today's keys did not sign, a root that has expired


def site_roots(site: Site) -> list[Metadata[Root]]:
    """The roots that the site has accepted, without a gap, oldest first.

    Raises:
        NoReleaseError: it has accepted none.
    """
    known = parse_accepted(_places(site)).roots
    if not known:
        raise NoReleaseError(f"{site.prefix} has accepted no root yet; `installer install` brings the first one")
    chain = [known[min(known)]]
    while (after := known.get(chain[-1].signed.version + 1)) is not None and continues(after, chain[-1]):
        chain.append(after)
    return chain


def _places(site: Site) -> list[Place]:
    return [*read_copies(site), read_trust(site.trust)]


def update_roots(site: Site, files: Sequence[bytes], now: datetime) -> RootUpdate:
    """Accept the given roots, in any order, if they continue the site's.

    Raises:
        RootUpdateError: one does not follow, or is another one than the site has under its version.
        TrustError: one is no root, or is not signed. Nothing was accepted.
    """
    chain = site_roots(site)
    before = chain[-1].signed.version
    for root in sorted((parse_root(data) for data in files), key=lambda r: r.signed.version):
        _follow(chain, root)
    newest = chain[-1].signed
    notes = list(_releases_of_revoked_keys(site, [root.signed for root in chain]))
    if newest.is_expired(now):  # it is accepted all the same: whoever comes late must still learn of a revoked key
        notes.append(
            f"root {newest.version} expired on {newest.expires:%Y-%m-%d}, so no archive is accepted until the next root"
        )
    if newest.version > MAX_ROOTS:
        raise RootUpdateError(f"root {newest.version} is beyond the {MAX_ROOTS} that an archive can carry")
    places = (read_trust(site.trust_copy), read_trust(site.trust))  # a kill may have left one of them behind
    fresh = [root for root in chain if any(root_name(root.signed.version) not in place for place in places)]
    site.accept_metadata({f"root_history/{r.signed.version}.root.json": r.to_bytes(CANONICAL) for r in fresh})
    return RootUpdate(before, newest.version, tuple(notes))


def _follow(chain: list[Metadata[Root]], root: Metadata[Root]) -> None:
    """Append the root to the chain, unless the site has it."""
    version, oldest, newest = root.signed.version, chain[0].signed.version, chain[-1]
    if oldest <= version <= newest.signed.version:
        if chain[version - oldest].signed_bytes != root.signed_bytes:
            raise RootUpdateError(f"this is another root {version} than the one that this site has accepted")
        return
    if version != newest.signed.version + 1:
        raise RootUpdateError(
            f"this is root {version}, and this site has root {newest.signed.version}: give every root from "
            f"{newest.signed.version + 1} on"
        )
    root.signatures = dict(sorted(root.signatures.items()))
    if not continues(root, newest):
        signers = count_signers([newest.signed], root)
        raise RootUpdateError(f"{root_name(version)} is not signed by enough keys of root {version - 1}: {signers}")
    chain.append(root)


def _releases_of_revoked_keys(site: Site, roots: Sequence[Root]) -> list[str]:
    """A release that is installed stays; whoever revoked a key must know that it is served."""
    notes = []
    for receipt in site.installed():
        try:
            data = (site.release(receipt.version) / TARGETS).read_bytes()
            targets: Metadata[Any] = parse_canonical(TARGETS, data)
        except (OSError, TrustError):
            continue  # `installer verify --prefix` says what is damaged
        signers = count_signers(roots, targets)
        if not signers.is_enough and signers.revoked:
            key, version = signers.revoked[0]
            notes.append(
                f"release {receipt.version} stays installed, and is signed by {key}, which root {version} revoked: "
                "install an archive that was signed since"
            )
    return notes
