"""Exports a site's record before its state is removed, by the release's own `appliance audit export`."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path

from installer.child import run_child
from installer.durable import write_durably
from installer.errors import ExportError
from installer.formats.manifest import LAUNCHER
from installer.site import Site

EXPORT_TIMEOUT_S = 24 * 3600  # a record may have hundreds of millions of events
_KEPT_VARIABLES = ("PATH", "SUDO_USER", "LOGNAME", "USER", "HOME", "TZ")  # the record names who exports
_MAX_KEY_BYTES = 64 << 10
_OTHERWISE = "repair the release, or give --without-record to lose the record for good"


def has_record(site: Site) -> bool:
    """Whether the appliance ever made a record here: its first use makes a database and a key that signs."""
    return any(any(site.state.glob(f"{name}/*")) for name in ("database", "signer"))


def export_record(site: Site, out: Path, environ: Mapping[str, str]) -> None:
    """Write the whole record to `out`, and the log's public key beside it to `out`.pub.

    Raises:
        ExportError: `out` or `out`.pub exists, or lies in the site, there is no usable release, or its command fails.
            Neither file is left.
    """
    out = Path(os.path.realpath(out))
    public = out.with_name(f"{out.name}.pub")
    for path in (out, public):
        if os.path.lexists(path):
            raise ExportError(f"{path} exists: name a new file for the record")
    if Path(os.path.realpath(site.prefix)) in out.parents:
        raise ExportError(f"{out} lies in the site that is removed: name a file elsewhere")
    version = site.pointed("current") or site.pointed("previous")
    if version is None:
        raise ExportError(f"no release of this site can export its record: {_OTHERWISE}")
    try:
        _export(site, version, out, environ)
        _keep_key(site, public)
    except BaseException:
        for path in (out, public):
            path.unlink(missing_ok=True)
        raise


def _export(site: Site, version: str, out: Path, environ: Mapping[str, str]) -> None:
    launcher = site.release(version) / LAUNCHER
    command = [str(launcher), "audit", "export", "--jsonl", "--home", str(site.prefix), "--out", str(out)]
    kept = {name: environ[name] for name in _KEPT_VARIABLES if name in environ}
    try:
        done = run_child(command, {**kept, "LC_ALL": "C.UTF-8"}, owner=None, timeout_s=EXPORT_TIMEOUT_S)
    except OSError as exc:
        raise ExportError(f"release {version} cannot export the record ({exc.strerror}): {_OTHERWISE}") from exc
    except subprocess.TimeoutExpired as exc:
        raise ExportError(f"release {version} did not export the record within a day: {_OTHERWISE}") from exc
    if done.status or not out.is_file():
        raise ExportError(f"release {version} did not export the record ({done.said}): {_OTHERWISE}")


def _keep_key(site: Site, out: Path) -> None:
    """Copy the public key, without which nobody can check the record. `state/` belongs to the appliance's user."""
    try:
        descriptor = os.open(site.state / "keys" / "audit.pub", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as exc:
        raise ExportError(f"the record's public key cannot be read: {exc.strerror}; {_OTHERWISE}") from exc
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ExportError(f"the record's public key is no plain file; {_OTHERWISE}")
        key = file.read(_MAX_KEY_BYTES)
    try:
        write_durably(out, key)
    except OSError as exc:
        raise ExportError(f"the record's public key cannot be written to {out}: {exc.strerror}") from exc
