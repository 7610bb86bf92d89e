"""A real systemd in namespaces of its own, for tests of the service: it is process 1 there, and has /etc, /run, /dev,
/tmp and the network for itself. Nothing of the host changes.

    with booted(keep=[site.parent]) as host:
        host.run("systemctl", "start", "gpt-oss.service")

It boots a target of the tests and no service of the host but the journal. ``/tmp`` is empty there, except for the
directories in ``keep``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.waiting import wait_for

SYSTEMD = next((path for path in ("/usr/lib/systemd/systemd", "/lib/systemd/systemd") if os.path.exists(path)), "")
# Targets that units with default dependencies name. Those of the host would start the host's services.
_TARGETS = (
    *("basic", "sysinit", "shutdown", "sockets", "multi-user", "local-fs", "umount", "exit", "paths", "timers"),
    *("slices", "emergency", "rescue", "poweroff", "reboot", "halt", "final"),
)
_JOURNAL = ("systemd-journald.service", "systemd-journald.socket", "systemd-journald-dev-log.socket")
# What root has after signing in; nothing of the environment of the tests.
_ENVIRON = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
_BOOT = """
set -e
here=$1; shift
mount --make-rprivate /
mount -t tmpfs tmpfs /run
for kept in "$@"; do
    mkdir -p "/run/kept$kept"
    mount --bind "$kept" "/run/kept$kept"
done
mount -t tmpfs tmpfs /tmp
for place in /var/tmp /var/log /srv /media; do mount -t tmpfs tmpfs "$place"; done
for kept in "$@"; do
    mkdir -p "$kept"
    mount --bind "/run/kept$kept" "$kept"
done
cp -a /etc /run/etc
rm -rf /run/etc/systemd/system /run/etc/systemd/user
mkdir -p /run/etc/systemd/system /run/etc/systemd/user /run/units
echo 0123456789abcdef0123456789abcdef > /run/etc/machine-id
mount --bind /run/etc /etc

mkdir /run/dev
for name in null zero full random urandom tty ptmx; do cp -a "/dev/$name" "/run/dev/$name"; done

mkdir /run/dev/shm /run/dev/pts
mount --bind /run/dev /dev
ln -s /proc/self/fd /dev/fd
umount -l /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
mount -t proc proc /proc
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
cp "$here"/units/* /run/units/
export container=tests SYSTEMD_UNIT_PATH=/etc/systemd/system:/run/units
unset NOTIFY_SOCKET
exec "@MANAGER@" --system --unit=multi-user.target --show-status=no --log-target=journal --log-level=notice
"""


@dataclass(frozen=True)
class Host:
    """The booted system."""

    pid: int  # of its process 1, outside

    def run(self, *command: str | Path, check: bool = True, limit_s: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command there as root."""
        done = subprocess.run(
            self._inside(command),
            capture_output=True,
            text=True,
            check=False,
            timeout=limit_s,
            stdin=subprocess.DEVNULL,
            env=_ENVIRON,
        )
        if check and done.returncode:
            words = " ".join(map(str, command))
            raise AssertionError(
                f"{words} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}\n{self.journal()}"
            )
        return done

    def journal(self) -> str:
        """What systemd and the services have said."""
        command = ("journalctl", "--no-pager", "--output=cat", "--directory=/run/log/journal")
        return subprocess.run(self._inside(command), capture_output=True, text=True, check=False).stdout

    def property(self, unit: str, name: str) -> str:
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).stdout.strip()

    def _inside(self, command: Sequence[str | Path]) -> list[str]:
        namespaces = ("--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup")
        return ["nsenter", f"--target={self.pid}", *namespaces, "--", *map(str, command)]


@contextlib.contextmanager
def booted(here: Path, *, keep: Sequence[Path]) -> Iterator[Host]:
    """Boot; ``here`` is a directory for units, log and script. Everything that was started ends with the block."""
    _write_units(here / "units")
    script, log = here / "boot.sh", here / "boot.log"
    script.write_text(_BOOT.replace("@MANAGER@", SYSTEMD))
    group = _own_cgroup()
    command = ["unshare", "--pid", "--mount", "--cgroup", "--uts", "--ipc", "--net", "--fork", "--kill-child"]
    inside = ["sh", "-c", 'echo $$ > "$0"/cgroup.procs; exec "$@"', group, *command, "sh", script, here, *keep]
    with log.open("w") as output:
        process = subprocess.Popen(
            list(map(str, inside)), stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
    try:
        host = Host(
            wait_for(lambda: _first_child(process.pid), alive=lambda: process.poll() is None, said=log.read_text)
        )
        wait_for(lambda: _is_up(host), alive=lambda: process.poll() is None, said=log.read_text)
        yield host
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        _remove_cgroup(group)


def can_boot(here: Path) -> bool:
    """Whether this machine lets a test boot systemd: root, namespaces, and the unified hierarchy of control groups."""
    if os.geteuid() != 0 or not SYSTEMD or shutil.which("nsenter") is None:
        return False
    try:
        with booted(here, keep=[here]):
            return True
    except (AssertionError, OSError):
        return False


def _write_units(units: Path) -> None:
    units.mkdir(parents=True, exist_ok=True)
    for name in _TARGETS:
        units.joinpath(f"{name}.target").write_text(f"[Unit]\nDescription={name}\nDefaultDependencies=no\n")
    wants = "\n".join(f"Wants={name}" for name in _JOURNAL)
    multi_user = f"[Unit]\nDescription=tests\nDefaultDependencies=no\n{wants}\nWants=sockets.target\n"
    units.joinpath("multi-user.target").write_text(multi_user)
    for name in _JOURNAL:
        shutil.copy(Path(SYSTEMD).parent / "system" / name, units / name)


def _own_cgroup() -> Path:
    """A new control group below our own, in the unified hierarchy."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    place = next((Path(fields[1]) for fields in mounts if fields[2] == "cgroup2"), None)
    if place is None:
        raise AssertionError("no unified hierarchy of control groups is mounted")
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    own = next(line.partition("::")[2] for line in lines if line.startswith("0::"))
    group = place / own.lstrip("/") / f"booted-{os.getpid()}"
    group.mkdir(exist_ok=True)
    return group


def _remove_cgroup(group: Path) -> None:
    for directory, _, _ in os.walk(group, topdown=False):
        wait_for(partial(_is_removed, Path(directory)))


def _is_removed(directory: Path) -> bool:
    """Its processes are killed, and may take a moment to end."""
    with contextlib.suppress(OSError):
        directory.rmdir()
    return not directory.exists()


def _first_child(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else 0


def _is_up(host: Host) -> bool:
    done = host.run("systemctl", "is-system-running", check=False)
    return done.stdout.strip() in ("running", "degraded")
