"""Writes, finds and removes the units of a site and its keeper. Nothing here starts or stops anything."""

from __future__ import annotations

import io
import os
import pkgutil
import pwd
import zipfile
from dataclasses import dataclass
from pathlib import Path

from installer.durable import write_durably
from installer.errors import ServiceError
from installer.formats.units import SYSTEM_UNITS, USER_UNITS, listen_of, site_of, text_of
from installer.service.units import ServicePlan, service_unit, socket_unit

KEEPER = Path("service", "keeper")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip file can hold: same sources, same bytes
_KEEPER_SOURCES = ("__init__.py", "formats/__init__.py", "formats/serving.py", "formats/trial.py", "service/keeper.py")
_KEEPER_MAIN = "from installer.service.keeper import main\nmain()\n"


@dataclass(frozen=True)
class ServiceFiles:
    """The units of one site."""

    name: str
    socket: Path
    service: Path
    listen: str  # where the socket unit listens

    def changed(self) -> list[Path]:
        """Drop-ins of the operator, which are left alone."""
        return [path for unit in (self.socket, self.service) if (path := unit.with_name(f"{unit.name}.d")).is_dir()]


def units_directory(root: Path = Path("/")) -> Path:
    """Where the units of this user lie: root's for the host, any other user's in their home.

    Raises:
        ServiceError: the host does not know this user, as in containers, so there is no home.
    """
    if os.geteuid() == 0:
        return root / SYSTEM_UNITS
    home = _home()
    if home is None:
        raise ServiceError(f"uid {os.geteuid()} is no user of this host, so it has no directory for units")
    return root / home.relative_to("/") / USER_UNITS


def _home() -> Path | None:
    try:
        return Path(pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:
        return None


def find_service(prefix: Path, root: Path = Path("/")) -> ServiceFiles | None:
    """The units that serve the site ``prefix``; None if there are none."""
    if os.geteuid() != 0 and _home() is None:
        return None
    for service in sorted(units_directory(root).glob("*.service")):
        if _site_of(service) == str(prefix):
            socket = service.with_suffix(".socket")
            return ServiceFiles(service.stem, socket, service, listen_of(text_of(socket)))
    return None


def write_service(plan: ServicePlan, root: Path = Path("/")) -> list[Path]:
    """Write both units, and remove those under another name. Returns the files that changed.

    Raises:
        ServiceError: a unit of that name belongs to another site, or was not written by the installer.
    """
    directory = units_directory(root)
    directory.mkdir(parents=True, exist_ok=True)
    wanted = {
        directory / f"{plan.name}.socket": socket_unit(plan),
        directory / f"{plan.name}.service": service_unit(plan),
    }
    for path in wanted:
        if os.path.lexists(path) and _site_of(path) != str(plan.prefix):
            whose = _site_of(path)
            about = f"serves the site {whose}" if whose else "was not written by this installer"
            raise ServiceError(f"{path} {about}; give this service another name with --name")
    changed = [path for path, text in wanted.items() if text_of(path) != text]
    for path in changed:
        write_durably(path, wanted[path].encode(), mode=0o644)
    return changed


def write_keeper(prefix: Path, interpreter: Path) -> bool:
    """Put `service/keeper` into the site, as one executable file. Returns whether that changed anything.

    Root's service manager runs it as root, so it must be this user's, and nobody else may write it. The caller has
    checked that nobody else can exchange it.
    """
    data = _keeper_bytes(interpreter)
    path = prefix / KEEPER
    if not path.parent.is_dir():
        path.parent.mkdir()
    os.chown(path.parent, os.geteuid(), -1)
    path.parent.chmod(0o755)
    if not path.is_symlink() and path.is_file() and _is_ours(path) and path.read_bytes() == data:
        return False
    write_durably(path, data, mode=0o555)
    return True


def _is_ours(path: Path) -> bool:
    status = path.stat()
    return status.st_uid == os.geteuid() and status.st_mode & 0o7777 == 0o555


def remove(prefix: Path, root: Path = Path("/")) -> ServiceFiles | None:
    """Remove the units of a site, under whatever name. Returns what was removed; None if there was nothing.

    The keeper stays: it belongs to the site and is removed with it. Drop-ins are the operator's and stay, too.
    """
    found = find_service(prefix, root)
    if found is not None:
        for path in (found.service, found.socket):
            path.unlink(missing_ok=True)
    return found


def _keeper_bytes(interpreter: Path) -> bytes:
    """A zip file with a first line, as Python's zipapp makes it: this package's own sources, and nothing else."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo("__main__.py", _EPOCH), _KEEPER_MAIN)
        # The package's own __init__.py would load what the keeper lacks.
        archive.writestr(zipfile.ZipInfo("installer/service/__init__.py", _EPOCH), "")
        for name in _KEEPER_SOURCES:
            source = pkgutil.get_data("installer", name)  # this package may itself lie in a zip file
            if source is None:
                raise RuntimeError(f"internal error: the installer lacks its own {name}")
            archive.writestr(zipfile.ZipInfo(f"installer/{name}", _EPOCH), source)
    return f"#!{interpreter} -IS\n".encode() + buffer.getvalue()


def _site_of(unit: Path) -> str | None:
    return site_of(text_of(unit))
