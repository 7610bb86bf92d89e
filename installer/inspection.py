"""Whether an installed site is what was signed: `installer verify --prefix`, and what `install` and `status` ask.

Two questions of different strength:

- `differences_of` compares a release with its own manifest. That finds damage, and changes by somebody who cannot write
  the manifest.
- `inspect_site` with the operator's root trusts nothing on the site: keys of that root must have signed the kept
  metadata, the release's files must be its targets, and the environment must be what the signed wheels unpack to,
  compiled code and command included. That also finds a manifest that was exchanged together with the files it lists.
  If the site has accepted later roots than the operator's, a key that they revoked counts no more.

Not covered: the host's interpreter and its libraries (`Inspection.interpreter` names the program), `state/`, and what
changes after the inspection.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from installer.accepted import Accepted, parse_accepted, read_copies, read_trust
from installer.archive import MAX_METADATA_BYTES, MAX_ROOTS
from installer.environment import environment_files, host_interpreter, members_of
from installer.errors import (
    MixedMetadataError,
    NoReleaseError,
    ReceiptError,
    ReleaseDescriptorError,
    TrustError,
    WheelInstallError,
)
from installer.formats.manifest import (
    ENVIRONMENT,
    MANIFEST,
    Difference,
    Entry,
    Manifest,
    ManifestError,
    compare_code,
    compare_data,
    file_digest,
    load_manifest,
    printable,
)
from installer.formats.release import DESCRIPTOR, Release
from installer.preflight import this_host
from installer.receipt import Receipt, load_receipt
from installer.release import parse_release
from installer.site import Site
from installer.survey import survey_site
from installer.targets import Target
from installer.trust import verify_kept_metadata

_METADATA = "metadata"


# An installed release from before there were manifests and kept metadata cannot be told from one that lost both.
UNLISTED = (
    "it was installed by a version before 0.2.0, which kept no list of its files, so nothing can be compared: install "
    "a newer release, then remove this one"
)


@dataclass(frozen=True)
class Inspection:
    """What was found in one release."""

    version: str
    files: int
    is_signed: bool  # compared with the signatures; False: with the release's own manifest
    interpreter: str  # the program of the host that runs the release
    differences: tuple[Difference, ...]
    faults: tuple[str, ...]  # sentences about anything but the files: signatures, the receipt

    @property
    def is_well(self) -> bool:
        return not self.differences and not self.faults


@dataclass(frozen=True)
class _Signers:
    """Whose signatures count."""

    root: bytes  # the operator's
    accepted: Accepted  # by the site; it can only take trust away


@dataclass(frozen=True)
class _Expected:
    """The files that a release must have, and sentences about what could not be determined."""

    files: dict[str, Entry]
    faults: tuple[str, ...]


def is_unlisted(release: Path, receipt: Receipt) -> bool:
    """Whether a version before 0.2.0 installed this release, as far as its files tell."""
    return not receipt.manifest_sha256 and not os.path.lexists(release / MANIFEST)


def differences_of(site: Site, version: str, *, hash_all: bool) -> tuple[Difference, ...]:
    """The differences between a release and its manifest. ``hash_all``: hash weights and wheels, too.

    Raises:
        OSError: the release cannot be read.
    """
    release = str(site.release(version))
    try:
        manifest = load_manifest(release)
    except ManifestError:
        return (Difference(MANIFEST, "cannot be used"),)
    return compare_code(release, manifest) + compare_data(release, manifest, hash_all=hash_all)


def inspect_site(site: Site, root: bytes | None) -> tuple[list[Inspection], list[str]]:
    """Inspect every release of the site; also sentences about other faults of the site.

    Args:
        root: the operator's root metadata; None compares with the manifests alone.
    Raises:
        NoReleaseError: none is installed.
    """
    receipts = site.installed()
    if not site.versions():
        raise NoReleaseError(f"no release is installed in {site.prefix}")
    signers = None if root is None else _Signers(root, parse_accepted([*read_copies(site), read_trust(site.trust)]))
    return [_inspect(site, receipt, signers) for receipt in receipts], list(_site_faults(site, receipts))


def _inspect(site: Site, receipt: Receipt, signers: _Signers | None) -> Inspection:
    release = site.release(receipt.version)
    if is_unlisted(release, receipt):
        return Inspection(receipt.version, 0, False, receipt.interpreter, (), (UNLISTED,))
    faults: list[str] = []
    try:
        manifest = load_manifest(str(release))
    except ManifestError as exc:
        faults.append(str(exc))
        manifest = Manifest({}, "")
    expected, is_signed = dict(manifest.files), False
    if signers is not None:
        try:
            signed = _signed_files(site, receipt, signers, manifest)
            expected, is_signed = signed.files, True
            faults += signed.faults
        except (TrustError, ReleaseDescriptorError) as exc:
            faults.append(str(exc))
    found = _differences(release, expected, manifest) if expected else (Difference(MANIFEST, "cannot be used"),)
    if is_signed and any(d.path.endswith(".pyc") for d in found) and receipt.python != _running_python():
        faults.append(f"Python {receipt.python} compiled it, Python {_running_python()} compared it: install it again")
    return Inspection(receipt.version, len(expected), is_signed, receipt.interpreter, found, tuple(faults))


def _differences(release: Path, expected: dict[str, Entry], manifest: Manifest) -> tuple[Difference, ...]:
    """Compare the disk (weights included) and the manifest with what is expected."""
    against = Manifest(expected, "")
    found = compare_code(str(release), against) + compare_data(str(release), against, hash_all=True)
    said = {path: (entry.size_bytes, entry.sha256) for path, entry in manifest.files.items()}
    if said != {path: (entry.size_bytes, entry.sha256) for path, entry in expected.items()}:
        found = (Difference(MANIFEST, "differs"), *found)
    return found


def _signed_files(site: Site, receipt: Receipt, signers: _Signers, manifest: Manifest) -> _Expected:
    """The files that the release must have according to its signed metadata alone.

    Raises:
        TrustError: the metadata is not signed by keys that the root trusts, or is another release's.
        ReleaseDescriptorError: release.json is not the signed one.
    """
    release = site.release(receipt.version)
    members = _read_members(release)
    targets = verify_kept_metadata(members, signers.root, signers.accepted)  # 1. the list of its files is signed
    files = {target.path: Entry(target.size_bytes, target.sha256) for target in targets}
    described = parse_release(_signed_bytes(release, files, DESCRIPTOR), files)
    if described.version != receipt.version:  # 2. and it is the list of this release
        raise MixedMetadataError(f"release {described.version} lies in the place of {receipt.version}")
    files |= {name: Entry(len(data), hashlib.sha256(data).hexdigest()) for name, data in members.items()}
    environment = _signed_environment(site, receipt, described, targets, manifest)  # 3. and so is the environment
    return _Expected(files | environment.files, environment.faults)


def _signed_environment(
    site: Site, receipt: Receipt, described: Release, targets: tuple[Target, ...], manifest: Manifest
) -> _Expected:
    """The files that the wheels unpack to. What they cannot tell comes from the manifest, and a fault says so."""
    release, python = site.release(receipt.version), _installed_python(receipt, described)
    said = {path: entry for path, entry in manifest.files.items() if path.startswith(f"{ENVIRONMENT}/")}
    damaged = [t.path for t in targets if t.path.startswith("wheels/") and not _is_signed_file(release, t)]
    if damaged:
        return _Expected(said, (f"{damaged[0]} differs, so the environment could be compared with its manifest only",))
    faults = []
    if receipt.interpreter != host_interpreter():
        faults.append(
            f"the release is run by {receipt.interpreter or 'an unknown interpreter'}, this command by "
            f"{host_interpreter()}: run it again with the former if you trust that program"
        )
    same_python = this_host().python == python
    if not same_python:
        faults.append(f"compiled code can be compared by Python {python} only: run this command again with it")
    try:
        members = members_of(release, described, targets, python, kept=manifest.files)
        files = environment_files(members, receipt.interpreter, python, with_compiled=same_python)
    except WheelInstallError as exc:
        return _Expected(said, (str(exc),))
    compiled = {} if same_python else {path: entry for path, entry in said.items() if path.endswith(".pyc")}
    return _Expected(compiled | files, tuple(faults))


def _installed_python(receipt: Receipt, described: Release) -> str:
    """Which of the release's Pythons it was installed for. The receipt is not signed, so another one counts as none."""
    said = ".".join(receipt.python.split(".")[:2])
    return said if said in described.target.pythons else described.target.pythons[0]


def _read_members(release: Path) -> dict[str, bytes]:
    """The signed metadata that was kept with the release, by its names in the archive.

    Raises:
        MixedMetadataError: it is not there.
    """
    try:
        names = sorted(os.listdir(release / _METADATA))[: MAX_ROOTS + 4]
        return {f"{_METADATA}/{name}": _read(release / _METADATA / name, MAX_METADATA_BYTES) for name in names}
    except OSError as exc:
        raise MixedMetadataError(f"the release's signed metadata cannot be read: {exc.strerror}") from exc


def _signed_bytes(release: Path, files: dict[str, Entry], name: str) -> bytes:
    """The contents of a small file of the release, compared with the signed digest.

    Raises:
        ReleaseDescriptorError: they are not.
    """
    try:
        data = _read(release / name, MAX_METADATA_BYTES)
    except OSError as exc:
        raise ReleaseDescriptorError(f"{name} cannot be read: {exc.strerror}") from exc
    if name not in files or hashlib.sha256(data).hexdigest() != files[name].sha256:
        raise ReleaseDescriptorError(f"{name} is not the signed one")
    return data


def _is_signed_file(release: Path, target: Target) -> bool:
    path = release / target.path
    try:
        return path.is_file() and file_digest(str(path), None, keep_cached=True) == target.sha256
    except OSError:
        return False


def _read(path: Path, limit: int) -> bytes:
    """At most ``limit`` bytes of a plain file. It follows no link and does not wait for a FIFO in its place."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        return file.read(limit)


def _running_python() -> str:
    return sys.version.split()[0]


def _site_faults(site: Site, receipts: list[Receipt]) -> Iterator[str]:
    """Faults around the releases: receipts, where `current` leads, what lies beside them, who may write."""
    for version in set(site.versions()) - {receipt.version for receipt in receipts}:
        try:
            load_receipt(site.release(version))
        except ReceiptError as exc:
            yield str(exc)
    survey = survey_site(site)
    yield from survey.links
    for other in survey.others:
        yield f"{printable(other.path)} is {other.what}"
    for directory in (site.prefix, site.prefix / "releases"):
        if directory.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            yield f"{directory} can be written by others"
