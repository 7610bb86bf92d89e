"""`installer service`: the systemd units of a site; and what `installer install` does and says about starting it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from installer.commands.options import JSON, PREFIX, USER
from installer.commands.output import say, say_json
from installer.environment import host_interpreter
from installer.errors import NoReleaseError, PreflightError, ServiceError
from installer.formats.fields import FormatError
from installer.formats.release import DESCRIPTOR, parse_release
from installer.owner import find_owner
from installer.service import ServiceFiles, find_service, has_systemd, plan_service, remove, write_keeper, write_service
from installer.service.fapolicyd import trust_lines
from installer.service.manager import Manager
from installer.service.units import LISTEN, NAME
from installer.site import Site, open_existing_site

DESTDIR = click.option(
    "--destdir", type=click.Path(path_type=Path, file_okay=False), default=Path("/"),
    help="Write units below this directory instead of /, for an image that is being built. Starts nothing.",
)  # fmt: skip


@click.group()
def service() -> None:
    """The systemd service of a site: make, show or remove it.

    Root's service starts with the host, runs as the site's own user in a sandbox, and returns to the release before if
    a new one does not become healthy. Any other user gets units of their own (systemctl --user), without a sandbox.
    """


@service.command("install")
@PREFIX
@USER
@click.option("--name", help=f"Name of the units.  [default: the present one, else {NAME}]")
@click.option("--listen", help=f"Address and port to listen on.  [default: the present one, else {LISTEN}]")
@DESTDIR
@JSON
def install_service(
    prefix: Path, user: str | None, name: str | None, listen: str | None, destdir: Path, as_json: bool
) -> None:
    """Make or change the service of an installed site, and start it if it is new. Run it again at any time."""
    site = _site(prefix)
    present = find_service(site.prefix, destdir)
    files, changed = _make(site, user, destdir, present, name, listen)
    lines = _activate(files, destdir, changed=changed, is_new=present is None)
    body = {"name": files.name, "listen": files.listen, "units": [str(files.socket), str(files.service)],
            "changed": [str(path) for path in changed]}  # fmt: skip
    if as_json:
        say_json(body)
        return
    for line in lines:
        say(line)


@service.command("show")
@PREFIX
@DESTDIR
@JSON
def show_service(prefix: Path, destdir: Path, as_json: bool) -> None:
    """Show the units that serve a site. The exit status is 1 if there are none."""
    site = _site(prefix)
    found = find_service(site.prefix, destdir)
    if found is None:
        raise NoReleaseError(f"no service serves {site.prefix}; make one with: installer service install")
    if as_json:
        units = {"socket": str(found.socket), "service": str(found.service)}
        say_json({"name": found.name, "listen": found.listen, **units})
        return
    for path in (found.socket, found.service):
        say(f"# {path}")
        for line in path.read_text().splitlines() if path.is_file() else ["# is missing"]:
            say(line)


@service.command("remove")
@PREFIX
@DESTDIR
@JSON
def remove_service(prefix: Path, destdir: Path, as_json: bool) -> None:
    """Stop the service of a site and remove its units. Releases and state/ stay as they are."""
    prefix = Path(os.path.abspath(prefix))
    present = stop_and_remove(prefix, destdir)
    if as_json:
        say_json({"removed": None if present is None else present.name})
    elif present is None:
        say(f"No service serves {prefix}; nothing was changed.")
    else:
        say(f"The service {present.name} is stopped and removed. {prefix} stays as it is.")
        for path in present.changed():
            say(f"Your own changes in {path} stay, too.")


@service.command("fapolicyd")
@PREFIX
def fapolicyd(prefix: Path) -> None:
    """Print what fapolicyd must trust to run the current release, for a file in /etc/fapolicyd/trust.d."""
    site = _site(prefix)
    for line in trust_lines(site.prefix, str(site.pointed("current"))):
        say(line)


def stop_and_remove(prefix: Path, destdir: Path) -> ServiceFiles | None:
    """Stop the service of a site, if it has one, and remove its units. What the service was."""
    present = find_service(prefix, destdir)
    if present is not None and destdir == Path("/") and has_systemd():
        Manager.here().disable(present.name)
    remove(prefix, destdir)
    if present is not None and destdir == Path("/") and has_systemd():
        Manager.here().reload()
    return present


def after_install(prefix: Path, user: str | None, *, wanted: bool) -> tuple[dict[str, Any], list[str]]:
    """What `installer install` does about starting the release: facts for a script, and lines for a person.

    Root gets a service where systemd runs. The keeper is part of every site. If the service cannot be made, the release
    stays installed, and the lines say why there is no service.

    Raises:
        ServiceError: the keeper cannot be written; the release stays installed.
    """
    site = Site(Path(os.path.abspath(prefix)))
    try:
        write_keeper(site.prefix, _interpreter(site))
    except OSError as exc:
        raise ServiceError(
            f"the release is installed and current, but the keeper that starts it cannot be written ({exc.strerror}): "
            "mend this, then run the command again"
        ) from exc
    present = find_service(site.prefix)
    by_hand = f"Start it with: {site.prefix}/service/keeper serve"
    if present is None and (not wanted or os.geteuid() != 0 or not has_systemd()):
        lines = [by_hand]
        if os.geteuid() != 0 and has_systemd():
            lines.append(f"Or as a service of yours: installer service install --prefix {site.prefix}")
        elif wanted and os.geteuid() == 0:
            lines = [f"This host has no systemd, so no service was made. {by_hand}"]
        return {"service": None}, lines
    try:
        files, changed = _make(site, user, Path("/"), present, None, None)
        lines = _activate(files, Path("/"), changed=changed, is_new=present is None)
    except (ServiceError, PreflightError) as exc:
        return {"service": None, "service_error": str(exc)}, [f"No service: {exc}", by_hand]
    return {"service": files.name}, lines


def _site(prefix: Path) -> Site:
    site = Site(Path(os.path.abspath(prefix)))
    if site.pointed("current") is None:
        raise NoReleaseError(f"no release is installed in {prefix}")
    return site


def _make(
    site: Site, user: str | None, root: Path, present: ServiceFiles | None, name: str | None, listen: str | None
) -> tuple[ServiceFiles, list[Path]]:
    """Write keeper and units. What the options leave open stays as it is at present."""
    with open_existing_site(site.prefix):  # refuses a prefix that others could exchange: root runs what lies in it
        return _write(site, user, root, present, name, listen)


def _write(
    site: Site, user: str | None, root: Path, present: ServiceFiles | None, name: str | None, listen: str | None
) -> tuple[ServiceFiles, list[Path]]:
    owner = find_owner(user, site.prefix)
    interpreter = _interpreter(site)
    plan = plan_service(
        site.prefix, user=None if owner is None else owner.name, group=None if owner is None else str(owner.gid),
        gpu=_has_gpu(site), interpreter=interpreter, packages=interpreter.parents[1] / "lib",
        name=name or (NAME if present is None else present.name),
        listen=listen or (LISTEN if present is None or not present.listen else present.listen),
    )  # fmt: skip
    write_keeper(site.prefix, interpreter)
    changed = write_service(plan, root)
    if present is not None and present.name != plan.name:
        if root == Path("/") and has_systemd():
            Manager.here().disable(present.name)
        for path in (present.service, present.socket):
            path.unlink(missing_ok=True)
    files = find_service(site.prefix, root)
    if files is None:
        raise RuntimeError("internal error: the units that were just written are not there")
    return files, changed


def _interpreter(site: Site) -> Path:
    """The host's Python that runs the current release, and so its keeper."""
    receipt = site.receipt(str(site.pointed("current")))
    return Path(host_interpreter() if receipt is None or not receipt.interpreter else receipt.interpreter)


def _has_gpu(site: Site) -> bool:
    """Whether the current release has a graph for a GPU."""
    descriptor = site.prefix / "current" / DESCRIPTOR
    try:
        return "cuda" in parse_release(descriptor.read_bytes()).accelerators
    except (OSError, FormatError) as exc:
        raise ServiceError(f"{descriptor} cannot be read: {exc}; install the archive again, which repairs it") from exc


def _activate(files: ServiceFiles, root: Path, *, changed: list[Path], is_new: bool) -> list[str]:
    """Tell the service manager, and say what a person does next."""
    units = f"{files.socket} and {files.service.name}"
    if root != Path("/") or not has_systemd():
        return [f"Wrote {units}; {'nothing was started' if root != Path('/') else 'systemd does not run here'}."]
    manager = Manager.here()
    if is_new:
        manager.enable(files.name)
        return [f"The service {files.name} is enabled and started; it listens on {files.listen}."]
    if changed:
        manager.reload()
    unit = files.socket if files.socket in changed else files.service  # a restart of the socket restarts both
    restart = manager.command("restart", unit.name)
    return [f"The service {files.name} listens on {files.listen}. Serve the new state with: {restart}"]
