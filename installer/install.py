"""Install a release into a site, so that a kill at any instant leaves the old one working and the next run resumes.

    preflight -> verify while copying into quarantine -> store -> assemble -> wheels -> self-test
              -> accepted metadata -> receipt -> switch

Up to the receipt the new release does not count as installed; a refusal or a full disk removes what was made, so that
the site is as it was. A killed process removes nothing: what it left in quarantine or in the store is hashed again
and reused.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from installer.environment import make_environment, run_self_test
from installer.errors import InstallerError, ReleaseConflictError
from installer.owner import Owner, find_owner, hand_over
from installer.preflight import check_platform, check_space, this_host
from installer.release import Release
from installer.site import Receipt, Site, open_site, remove_tree
from installer.store import Staging, assemble, collect_garbage, missing_bytes
from installer.trust import VerifiedMetadata
from installer.verify import Progress, VerifiedArchive, verify_archive

Step = Callable[[str], None]  # told the name of each step as it begins


@dataclass(frozen=True)
class Outcome:
    """What an installation did."""

    receipt: Receipt
    switched: bool  # False: this release was current already
    assembled: bool  # False: the release was installed before; at most `current` moved
    reused_blobs: int


def install(
    archive: BinaryIO,
    root: bytes,
    prefix: Path,
    *,
    now: datetime,
    environ: Mapping[str, str],
    progress: Progress,
    step: Step,
    user: str | None = None,
) -> Outcome:
    """Verify `archive` against `root` and make its release the current one of the site at `prefix`.

    Args:
        user: who `state/` is to belong to when root installs; None: whose it is, else a system user.
    Raises:
        InstallerError: refused or impossible; the site is as it was before.
    """
    with open_site(prefix) as site:
        staging = Staging(site, _preflight(site, user))
        try:
            step("Verifying and copying")
            verified = verify_archive(archive, root, sink=staging, trust_dir=site.trust, progress=progress)
        except (InstallerError, OSError):
            staging.discard()
            raise
        version = verified.release.version
        known = site.receipt(version)
        if known is None:
            try:
                staging.commit()
                receipt = _assemble(site, verified, now, environ, step, find_owner(user, site.prefix))
            except (InstallerError, OSError):
                staging.discard()
                _remove_unfinished(site, version)
                raise
        else:
            staging.discard()
            site.accept_metadata(verified.metadata.accepted)
            receipt = known
        before = site.pointed("current")
        site.switch(version)
        collect_garbage(site)
        if (owner := find_owner(user, site.prefix)) is not None:
            hand_over(site.prefix, owner)
        return Outcome(receipt, before != version, known is None, staging.reused)


def _preflight(site: Site, user: str | None) -> Callable[[Release, VerifiedMetadata], None]:
    def check(release: Release, metadata: VerifiedMetadata) -> None:
        check_platform(release, this_host())
        find_owner(user, site.prefix)
        known = site.receipt(release.version)
        if known is not None and known.contents_sha256 != metadata.contents:
            raise ReleaseConflictError(
                f"another release {release.version} is already installed here; build this one with another --version"
            )
        if known is None:
            wheels = sum(t.size_bytes for t in metadata.targets if t.path.startswith("wheels/"))
            blobs = missing_bytes(site, metadata.targets)
            check_space(site.prefix, blob_bytes=blobs, wheel_bytes=wheels)

    return check


def _assemble(
    site: Site, verified: VerifiedArchive, now: datetime, environ: Mapping[str, str], step: Step, owner: Owner | None
) -> Receipt:
    """Make the release directory complete, from its files to its receipt."""
    release, metadata = verified.release, verified.metadata
    step("Assembling the release")
    directory = assemble(site, release.version, metadata.targets)
    step("Installing its Python packages")
    if site.lock is None:
        raise RuntimeError("internal error: a release is assembled in a site that is not held")
    make_environment(directory, environ, site.lock)
    if release.known_answers is not None:
        step("Testing it with its known answers")
        run_self_test(directory, environ, owner)
    site.accept_metadata(metadata.accepted)
    receipt = Receipt(
        name=release.name,
        version=release.version,
        model=release.model_title,
        metadata_version=metadata.version,
        contents_sha256=metadata.contents,
        expires=metadata.expires,
        files=len(metadata.targets),
        size_bytes=verified.size_bytes,
        python=sys.version.split()[0],
        self_test="not recorded in this release" if release.known_answers is None else "passed",
        installed_at=now.isoformat(timespec="seconds"),
    )
    site.write_receipt(receipt)
    return receipt


def _remove_unfinished(site: Site, version: str) -> None:
    """Take away the release directory and the blobs that only it used."""
    release = site.release(version)
    remove_tree(release)
    if release.parent.is_dir() and not any(release.parent.iterdir()):
        release.parent.rmdir()
    collect_garbage(site)
