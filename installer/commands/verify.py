"""`installer verify`: an archive against a root, or what is installed in a site."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click

from installer.commands.options import FILES, JSON, MEDIA, READ, ROOT_HELP, NamedPath, given_media, read_root
from installer.commands.output import say, say_json
from installer.examination import Question, examine_host
from installer.fingerprint import root_fingerprint, spoken
from installer.host import look_at_host
from installer.inspection import Inspection, inspect_site
from installer.site import Site
from installer.terminal import StageLines
from installer.verify import DiscardingSink, VerifiedArchive, verify_archive


@click.command("verify")
@FILES
@MEDIA
@click.option("--root", type=READ, help=ROOT_HELP)
@click.option("--prefix", type=NamedPath(), help="Check what is installed in this site, not an archive.")
@JSON
def verify_command(
    files: tuple[Path, ...], directories: tuple[Path, ...], root: Path | None, prefix: Path | None, as_json: bool
) -> None:
    """Check every byte of archive FILE against the trusted root, or everything installed in a site. Writes nothing.

    FILE is an archive, - for a pipe, or the volumes of an archive in any order.

    With --prefix, the command names each file that differs, is missing or is not listed, and exits with 1 if there is
    one. With --root as well, it compares what is installed with the signatures. Without --root it compares with the
    installer's own manifest, which anybody who can write to the site can change, too.
    """
    if bool(files or directories) == (prefix is not None):
        raise click.UsageError("give either FILE or --prefix")
    if prefix is not None:
        _verify_prefix(prefix, root, as_json)
    elif root is None:
        raise click.UsageError("--root is needed to verify an archive")
    else:
        _verify_files(files, directories, root, as_json)


def _verify_files(files: tuple[Path, ...], directories: tuple[Path, ...], root: Path, as_json: bool) -> None:
    trusted = read_root(root)
    with StageLines() as progress, given_media(files, directories, progress) as media:
        progress.stage("Verifying", media.size_bytes)
        verified = verify_archive(media.stream, trusted, sink=DiscardingSink(), progress=progress)
    question = Question(
        verified.release, verified.metadata, look_at_host(), datetime.now(timezone.utc), os.environ, port=None
    )
    troubles = [check for check in examine_host(question) if check.outcome != "ok"]
    fingerprint = root_fingerprint(trusted)
    if as_json:
        host = [asdict(check) for check in troubles]
        say_json({**_describe(verified), "root_fingerprint": fingerprint, "host": host})
        return
    release, signed = verified.release, verified.metadata
    say(f"{media.name}: verified. {release.name} {release.version} ({release.model.title})")
    say(
        f"  {len(signed.targets)} files, {verified.size_bytes:,} bytes, for Python "
        f"{', '.join(release.target.pythons)} on {release.target.platform}, {' and '.join(release.accelerators)}; "
        f"signatures valid until {signed.expires}"
    )
    if release.model.converted is not None:
        say(f"  {release.model.converted.sentences}")
    say(f"  fingerprint of the root that it was verified with: {fingerprint}")
    for line in spoken(fingerprint):
        say(f"    {line}")
    for check in troubles:
        say(f"  this host: {check.subject}: {check.detail}")
    if verified.delta is not None:
        say(
            f"  It is a delta: {len(verified.delta.absent)} blobs are left out, and could not be checked here. "
            f"The site must have them, for example from {verified.delta.base}."
        )


def _verify_prefix(prefix: Path, root: Path | None, as_json: bool) -> None:
    inspections, site_faults = inspect_site(Site(prefix), None if root is None else read_root(root))
    is_well = not site_faults and all(inspection.is_well for inspection in inspections)
    if as_json:
        releases = [asdict(inspection) for inspection in inspections]
        say_json({"is_well": is_well, "faults": site_faults, "releases": releases})
    else:
        for line in (*site_faults, *(line for inspection in inspections for line in _found(inspection))):
            say(line)
    if not is_well:
        sys.exit(1)


def _found(inspection: Inspection) -> Iterator[str]:
    """The lines about one release, one for each finding."""
    against = "its signatures" if inspection.is_signed else "its manifest (give --root to compare it with signatures)"
    if inspection.is_well:
        yield f"{inspection.version}: as it was installed: {inspection.files:,} files, compared with {against}."
    for fault in inspection.faults:
        yield f"{inspection.version}: FAIL  {fault}"
    for difference in inspection.differences:
        yield f"{inspection.version}: FAIL  {difference}"
    if inspection.differences:
        yield f"{inspection.version}: to do: `installer repair` with its archive, or install the archive again."
    program = inspection.interpreter or "an unknown interpreter"
    yield f"{inspection.version}: it is run by {program}, which is the host's and was not checked."


def _describe(verified: VerifiedArchive) -> dict[str, Any]:
    """What `verify --json` prints."""
    return {
        "release": asdict(verified.release),
        "metadata_version": verified.metadata.version,
        "expires": verified.metadata.expires,
        "contents_sha256": verified.metadata.contents,
        "size_bytes": verified.size_bytes,
        "targets": [asdict(target) for target in verified.metadata.targets],
        "delta": None if verified.delta is None else asdict(verified.delta),
    }
