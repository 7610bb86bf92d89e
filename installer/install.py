"""Installs a release into a site. A kill at any instant leaves the old release working, and the next run resumes.

    preflight -> verify while copying into quarantine -> store -> assemble -> wheels -> manifest -> self-test
              -> everything on disk -> receipt -> accepted metadata -> the release's name -> switch

Until it has its name, the new release does not count as installed. A refusal or a full disk removes what was made,
so that the site is as it was. If a medium is missing, damaged or pulled out, complete blobs stay in quarantine. A
killed process removes nothing. The next run hashes what was left in quarantine or in the store again, and reuses it.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from installer.accepted import read_copies
from installer.archive import ByteStream
from installer.durable import remove_tree, sync_file_system, write_durably
from installer.environment import environment_files, host_interpreter, members_of, run_self_test
from installer.errors import MediaError, ReleaseConflictError, StorageFullError
from installer.formats.manifest import MANIFEST, Entry, encode_manifest, is_bulk
from installer.formats.release import Release
from installer.formats.trial import begin_trial
from installer.inspection import differences_of
from installer.owner import Owner, find_owner, hand_over
from installer.prefix import check_file_system
from installer.preflight import (
    check_clock,
    check_libraries,
    check_modules,
    check_platform,
    check_proc,
    check_product,
    check_space,
    needed_bytes,
    publisher_of,
    this_host,
)
from installer.progress import SILENT, Progress
from installer.receipt import Receipt, usable_receipt
from installer.site import FULL, Site, open_site
from installer.store import Staging, assemble, collect_garbage, make_directories, missing_bytes
from installer.trust import VerifiedMetadata
from installer.verify import VerifiedArchive, blob_sizes, verify_archive
from installer.wheels import Member

ALLOWED = ("downgrade", "expired", "switch-product")  # what an operator may type; the receipt keeps it


@dataclass(frozen=True)
class Outcome:
    """What an installation did."""

    receipt: Receipt
    switched: bool  # False: this release was current already
    assembled: bool  # False: the release was installed before and is undamaged; at most `current` changed
    reused_blobs: int
    repaired: bool  # the release was installed before but damaged, so it was made anew
    notes: tuple[str, ...] = ()  # what the operator should know of the site's trust; see VerifiedMetadata


def install(
    archive: ByteStream,
    root: bytes,
    prefix: Path,
    *,
    now: datetime,
    environ: Mapping[str, str],
    progress: Progress = SILENT,
    user: str | None = None,
    allowed: Collection[str] = (),
) -> Outcome:
    """Verify `archive` against `root` and make its release the current one of the site at `prefix`.

    Args:
        user: who gets `state/` if root installs; None: its present owner, else a system user.
        allowed: of `ALLOWED`: metadata that is older than what the site has accepted, that has expired, or another
            product than the site serves.
    Raises:
        MediaError: the archive could not be read to its end; the site is as it was before, but for a quarantine with
            what was verified, from which the next run goes on.
        InstallerError: refused or impossible; the site is as it was before.
    """
    with open_site(prefix) as site:
        site.settle()
        staging = Staging(site, _preflight(site, user, now, allowed, progress))
        try:
            verified = verify_archive(
                archive, root, sink=staging, trust_dir=site.trust, kept=read_copies(site),
                allow_downgrade="downgrade" in allowed, allow_expired="expired" in allowed, progress=progress,
            )  # fmt: skip
        except MediaError:
            staging.suspend()
            raise
        except Exception:  # a full disk or memory, too
            staging.discard()
            raise
        version = verified.release.version
        known = site.receipt(version)
        if known is not None:
            progress.stage("Comparing the installed release")
        is_damaged = staging.was_needed or bool(known and differences_of(site, version, hash_all=True))
        repaired = known is not None and (is_damaged or not _can_run(known))
        if known is None or repaired:
            try:
                staging.commit()
                receipt = _assemble(site, verified, now, environ, progress, find_owner(user, site.prefix), allowed)
            except Exception:  # a full disk or memory, too
                staging.discard()
                _remove_unfinished(site, version)
                raise
        else:
            staging.discard()
            site.accept_metadata(verified.metadata.accepted)
            receipt = _keep_allowed(site, known, allowed)
        before = site.pointed("current")
        _switch(site, version, before)
        collect_garbage(site)
        if (owner := find_owner(user, site.prefix)) is not None:
            hand_over(site.prefix, owner)
        return Outcome(
            receipt, before != version, known is None or repaired, staging.reused, repaired, verified.metadata.notes
        )


def _switch(site: Site, version: str, before: str | None) -> None:
    """Make the release the current one, on trial.

    Raises:
        StorageFullError: the disk is full; the release stays installed.
    """
    try:
        begin_trial(site.prefix, version, before)
        site.switch(version)
    except OSError as exc:
        if exc.errno not in FULL:
            raise
        stays = "and no release is current" if before is None else f"and {before} stays the current one"
        raise StorageFullError(
            f"the disk is full: release {version} is installed, {stays}; free some room, then run the command again"
        ) from exc


def _can_run(receipt: Receipt) -> bool:
    """Whether the host's Python that the release was installed for is still there."""
    return os.access(receipt.interpreter, os.X_OK)


def _keep_allowed(site: Site, receipt: Receipt, allowed: Collection[str]) -> Receipt:
    """Add what was typed now to the receipt of a release that stays as it is."""
    fresh = replace(receipt, allowed=tuple(sorted({*receipt.allowed, *allowed})))
    if fresh != receipt:
        site.write_receipt(fresh, site.release(receipt.version))
    return fresh


def _preflight(
    site: Site, user: str | None, now: datetime, allowed: Collection[str], progress: Progress
) -> Callable[[Release, VerifiedMetadata], None]:
    def check(release: Release, metadata: VerifiedMetadata) -> None:
        check_platform(release, this_host())
        check_modules()
        check_proc()
        check_libraries()
        installed_at = [receipt.installed_at for receipt in site.installed()]
        check_clock(now, metadata.version, metadata.expires, installed_at)
        check_product(site, release.name, publisher_of(metadata.members), switch_product="switch-product" in allowed)
        check_file_system(site.prefix)
        find_owner(user, site.prefix)
        known = usable_receipt(site.release(release.version))
        if known is not None and known.contents_sha256 != metadata.contents:
            raise ReleaseConflictError(
                f"another release {release.version} is already installed here; build this one with another --version"
            )
        if known is None:
            check_space(site.prefix, needed_bytes(metadata.targets, missing_bytes(site, metadata.targets)))
        progress.stage("Verifying and copying", sum(blob_sizes(metadata.targets).values()))

    return check


def _assemble(
    site: Site,
    verified: VerifiedArchive,
    now: datetime,
    environ: Mapping[str, str],
    progress: Progress,
    owner: Owner | None,
    allowed: Collection[str],
) -> Receipt:
    """Make the release directory complete, from its files to its receipt."""
    release, metadata = verified.release, verified.metadata
    progress.stage("Assembling the release")
    directory = assemble(site, release.version, metadata.targets)
    interpreter = host_interpreter()
    members = members_of(directory, release, metadata.targets, this_host().python)
    progress.stage("Installing its Python packages", sum(member.size_bytes for member in members.values()))
    manifest = _write_manifest(directory, metadata, members, interpreter, progress)
    if release.known_answers is not None:
        progress.stage("Testing it with its known answers")
        run_self_test(directory, environ, owner)
    sync_file_system(directory)
    receipt = replace(make_receipt(verified, manifest, interpreter, now), allowed=tuple(sorted(allowed)))
    site.write_receipt(receipt)  # it counts once the release has its name; what follows needs no more room
    site.accept_metadata(metadata.accepted)
    site.put_in_place(release.version)
    return receipt


def make_receipt(verified: VerifiedArchive, manifest: str, interpreter: str, now: datetime) -> Receipt:
    """The receipt of a release that was just made and has passed its self-test, if it has one.

    Args:
        manifest: SHA-256 of its manifest.json.
        interpreter: the host's Python that runs it.
    """
    release, metadata = verified.release, verified.metadata
    return Receipt(
        name=release.name,
        version=release.version,
        model=release.model.title,
        metadata_version=metadata.version,
        contents_sha256=metadata.contents,
        expires=metadata.expires,
        files=len(metadata.targets),
        size_bytes=verified.size_bytes,
        python=sys.version.split()[0],
        self_test="not recorded in this release" if release.known_answers is None else "passed",
        installed_at=now.isoformat(timespec="seconds"),
        manifest_sha256=manifest,
        interpreter=interpreter,
        publisher=publisher_of(metadata.members),
    )


def _write_manifest(
    directory: Path, metadata: VerifiedMetadata, members: Mapping[str, Member], interpreter: str, progress: Progress
) -> str:
    """Add the environment and the signed metadata to the release, and list all files by their verified bytes.

    Returns:
        SHA-256 of manifest.json.
    """
    entries = environment_files(members, interpreter, this_host().python, write_to=directory, progress=progress)
    for target in metadata.targets:
        mtime_ns = (directory / target.path).stat().st_mtime_ns if is_bulk(target.path) else None
        entries[target.path] = Entry(target.size_bytes, target.sha256, mtime_ns)
    for name, data in metadata.members.items():
        entries[name] = Entry(len(data), hashlib.sha256(data).hexdigest())
        _write(directory, name, data)
    data = encode_manifest(entries)
    _write(directory, MANIFEST, data)
    return hashlib.sha256(data).hexdigest()


def _write(directory: Path, name: str, data: bytes) -> None:
    path = directory / name
    make_directories(directory, path.parent)
    write_durably(path, data)
    path.chmod(0o444)


def _remove_unfinished(site: Site, version: str) -> None:
    """Remove the unfinished release, and the blobs that only it used."""
    remove_tree(site.unfinished(version))
    releases = site.prefix / "releases"
    if releases.is_dir() and not any(releases.iterdir()):
        releases.rmdir()
    collect_garbage(site)
