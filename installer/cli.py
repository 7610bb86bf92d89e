"""The command `installer`. The modules that it calls do not print, exit or read the environment."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import click

from installer.errors import InstallerError, NoReleaseError, OwnerError
from installer.formats.manifest import damage
from installer.inspection import Inspection, differences_of, inspect_site
from installer.install import install
from installer.owner import find_owner, hand_over
from installer.site import Receipt, Site, open_site
from installer.terminal import StageLines
from installer.verify import DiscardingSink, VerifiedArchive, verify_archive

_FILE = click.argument("file", type=click.Path(path_type=Path))
_ROOT_HELP = "The sender's root.json, brought by another way than the archive."
_ROOT = click.option("--root", required=True, type=click.Path(path_type=Path), help=_ROOT_HELP)
_PREFIX = click.option(
    "--prefix", required=True, type=click.Path(path_type=Path), help="Directory of the site, which holds the releases."
)
_USER = click.option(
    "--user", help="Unprivileged user (name or uid) who gets state/.  [default: its present owner, else gpt-oss]"
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of sentences.")


class _Group(click.Group):
    """Turns the installer's errors into one line on stderr and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except InstallerError as exc:
            click.echo(f"installer: {type(exc).__name__}: {exc}", err=True)
        except OSError as exc:  # outside a site: for example no room for temporary files
            click.echo(f"installer: {exc.strerror}: {exc.filename}", err=True)
        sys.exit(1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="gpt-oss-appliance")
def main() -> None:
    """Verify and install signed release archives on a host without a network.

    Nothing from an archive is used before its bytes match metadata signed by keys that --root trusts.
    """
    os.umask(0o022)  # others may read a site and never write it; state/ is 0700 whatever the umask is


@main.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--root", type=click.Path(path_type=Path), help=_ROOT_HELP)
@click.option("--prefix", type=click.Path(path_type=Path), help="Check what is installed in this site, not an archive.")
@_JSON
def verify(file: Path | None, root: Path | None, prefix: Path | None, as_json: bool) -> None:
    """Check every byte of archive FILE against the trusted root, or everything installed in a site. Writes nothing.

    With --prefix, the command names each file that differs, is missing or is not listed, and exits with 1 if there is
    one. With --root as well, it compares what is installed with the signatures. Without --root it compares with the
    installer's own manifest, which anybody who can write to the site can change, too.
    """
    if (file is None) == (prefix is None):
        raise click.UsageError("give either FILE or --prefix")
    if file is not None:
        if root is None:
            raise click.UsageError("--root is needed to verify an archive")
        _verify_file(file, root, as_json)
    elif prefix is not None:
        _verify_prefix(prefix, root, as_json)


def _verify_file(file: Path, root: Path, as_json: bool) -> None:
    with _open(file) as stream, StageLines() as progress:
        progress.stage("Verifying", file.stat().st_size)
        verified = verify_archive(stream, _read_root(root), sink=DiscardingSink(), progress=progress)
    if as_json:
        click.echo(json.dumps(_describe(verified)))
        return
    release, signed = verified.release, verified.metadata
    click.echo(f"{file.name}: verified. {release.name} {release.version} ({release.model.title})")
    click.echo(
        f"  {len(signed.targets)} files, {verified.size_bytes:,} bytes, for Python {release.target.python} on "
        f"{release.target.platform}, {' and '.join(release.accelerators)}; signatures valid until {signed.expires}"
    )


def _verify_prefix(prefix: Path, root: Path | None, as_json: bool) -> None:
    inspections, site_faults = inspect_site(Site(prefix), None if root is None else _read_root(root))
    is_well = not site_faults and all(inspection.is_well for inspection in inspections)
    if as_json:
        releases = [asdict(inspection) for inspection in inspections]
        click.echo(json.dumps({"is_well": is_well, "faults": site_faults, "releases": releases}))
    else:
        for line in (*site_faults, *(line for inspection in inspections for line in _found(inspection))):
            click.echo(line)
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
        yield f"{inspection.version}: to do: install its archive again, which repairs it."
    program = inspection.interpreter or "an unknown interpreter"
    yield f"{inspection.version}: it is run by {program}, which is the host's and was not checked."


@main.command("install")
@_FILE
@_ROOT
@_PREFIX
@_USER
@_JSON
def install_command(file: Path, root: Path, prefix: Path, user: str | None, as_json: bool) -> None:
    """Verify archive FILE while copying it, test the release, and make it the current one of the site.

    The previous release stays installed; `installer rollback` returns to it. The command may be interrupted at any
    moment: the old release keeps working, and the same command resumes. If root runs it, the release belongs to root,
    and state/ to an unprivileged user, as whom the appliance then runs.
    """
    if os.geteuid() == 0:
        os.umask(0o022)  # the release is for another user to read
    with _open(file) as stream, StageLines() as progress:
        outcome = install(
            stream, _read_root(root), prefix, now=datetime.now(UTC), environ=os.environ, progress=progress, user=user
        )
    receipt = outcome.receipt
    if as_json:
        click.echo(json.dumps({**asdict(outcome), "current": receipt.version}))
        return
    if outcome.repaired:
        click.echo(f"{receipt.name} {receipt.version} was damaged and is repaired. Restart the appliance to serve it.")
        return
    if not outcome.switched:
        click.echo(f"{receipt.name} {receipt.version} is already the current release; nothing was changed.")
        return
    done = "installed" if outcome.assembled else "was installed before"
    click.echo(f"{receipt.name} {receipt.version} ({receipt.model}) {done} and is now the current release.")
    if receipt.self_test == "passed":
        click.echo("Its self-test passed: the model gives its known answers on this machine.")
    else:
        click.echo("No self-test was run: this release was built without known answers.")


@main.command()
@_PREFIX
@_JSON
def status(prefix: Path, as_json: bool) -> None:
    """Show the releases of a site: which is current, which is the previous one, which is damaged.

    The command compares weights and wheels by size and time and all other files by digest; `installer verify --prefix`
    reads everything. The exit code is 1 if a release is damaged.
    """
    site = Site(prefix)
    current, previous = site.pointed("current"), site.pointed("previous")
    releases = site.installed()
    looks = {receipt.version: differences_of(site, receipt.version, hash_all=False) for receipt in releases}
    damaged = {version: found for version, found in looks.items() if found}
    if as_json:
        body = {"current": current, "previous": previous, "releases": [asdict(r) for r in releases],
                "damaged": {version: [asdict(d) for d in found] for version, found in damaged.items()}}  # fmt: skip
        click.echo(json.dumps(body))
    elif not releases:
        raise NoReleaseError(f"no release is installed in {prefix}")
    else:
        for receipt in releases:
            mark = {current: "current ", previous: "previous"}.get(receipt.version, "        ")
            click.echo(f"{mark}  {_line(receipt)}")
        for version, found in damaged.items():
            click.echo(f"FAIL  release {version} is not as it was installed: {damage(found)}")
            click.echo("      to do: install its archive again, which repairs it")
    if damaged:
        sys.exit(1)


@main.command()
@_PREFIX
@click.option("--to", "version", help="Make this installed version current instead of the previous one.")
@_JSON
def rollback(prefix: Path, version: str | None, as_json: bool) -> None:
    """Make the previous release the current one, by one rename. Run it again to return to the newer release."""
    if not (prefix / "releases").is_dir():
        raise NoReleaseError(f"no release is installed in {prefix}")
    with open_site(prefix) as site:
        before, after = site.roll_back(version)
    if as_json:
        click.echo(json.dumps({"current": after, "previous": before}))
    else:
        click.echo(f"The current release is now {after} (was {before}). Restart the appliance to serve it.")


@main.command()
@_PREFIX
@_USER
@_JSON
def own(prefix: Path, user: str | None, as_json: bool) -> None:
    """Give the state/ of a site to an unprivileged user, and its releases to root. Only root can do so."""
    if os.geteuid() != 0:
        raise OwnerError("only root can give a site to another user")
    if not (prefix / "state").is_dir() and not (prefix / "releases").is_dir():
        raise NoReleaseError(f"{prefix} is not a site")
    with open_site(prefix) as site:
        owner = find_owner(user, site.prefix)
        if owner is None:
            raise RuntimeError("internal error: root has no owner to choose")
        hand_over(site.prefix, owner)
    text = f"{site.state} belongs to {owner.name} now, as whom the appliance runs; the releases are root's."
    click.echo(json.dumps({"user": owner.name, "uid": owner.uid}) if as_json else text)


def _describe(verified: VerifiedArchive) -> dict[str, Any]:
    """What `verify --json` prints."""
    return {
        "release": asdict(verified.release),
        "metadata_version": verified.metadata.version,
        "expires": verified.metadata.expires,
        "contents_sha256": verified.metadata.contents,
        "size_bytes": verified.size_bytes,
        "targets": [asdict(target) for target in verified.metadata.targets],
    }


def _line(receipt: Receipt) -> str:
    return f"{receipt.version}  {receipt.model}  installed {receipt.installed_at}  self-test {receipt.self_test}"


def _open(file: Path) -> BinaryIO:
    try:
        return file.open("rb")
    except OSError as exc:
        raise InstallerError(f"cannot read {file}: {exc.strerror}") from exc


def _read_root(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise InstallerError(f"cannot read the root {path}: {exc.strerror}") from exc


if __name__ == "__main__":
    main()
