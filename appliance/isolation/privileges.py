"""Gives up what could undo the isolation: inherited descriptors, root, capabilities and core dumps."""

from __future__ import annotations

import ctypes
import errno
import os
import pwd
import resource
import socket
import stat
import struct
import sys
from collections.abc import Collection
from pathlib import Path

from appliance.isolation.kernel import (
    PR_CAP_AMBIENT,
    PR_CAP_AMBIENT_CLEAR_ALL,
    PR_CAPBSET_DROP,
    PR_SET_DUMPABLE,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_SECUREBITS,
    SilenceError,
    prctl,
    syscall,
)

_CAPABILITY_VERSION_3 = 0x20080522
# SECBIT_NOROOT, NO_SETUID_FIXUP and NO_CAP_AMBIENT_RAISE, each with its lock: execve treats uid 0 like any other.
_ROOT_IS_NOBODY_SPECIAL = 0b1100_1111


def keep_only(descriptors: Collection[int]) -> None:
    """Close every descriptor but 0, 1, 2 and those given; standard input becomes /dev/null.

    An inherited socket is a way out that no filter on ``socket`` sees.

    Raises:
        SilenceError: a socket that stays open leads out: it is no Unix stream or packet socket and no given listener.
    """
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    for fd in open_descriptors() - {0, 1, 2, *descriptors}:
        os.close(fd)
    for fd in {1, 2, *descriptors}:
        if not _is_harmless(fd, may_listen=fd in descriptors):
            raise SilenceError(f"descriptor {fd} is a socket that leads out; send output to a file or a pipe")


def open_descriptors() -> set[int]:
    """The open descriptors of this process."""
    listed = {int(name) for name in os.listdir("/proc/self/fd")}  # includes the one that listed them, closed by now
    return {fd for fd in listed if _is_open(fd)}


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError as exc:
        if exc.errno != errno.EBADF:
            raise
        return False
    return True


def _is_harmless(fd: int, *, may_listen: bool) -> bool:
    if not _is_open(fd) or not stat.S_ISSOCK(os.fstat(fd).st_mode):
        return True
    with socket.socket(fileno=os.dup(fd)) as inherited:
        family = inherited.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN)
        kind = inherited.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
        if may_listen and is_listener(inherited):
            return True
    return family == socket.AF_UNIX and kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET)


def is_listener(sock: socket.socket) -> bool:
    """Whether this is a listener for TCP or Unix streams.

    Other listeners lead out. A listening SCTP socket sends to any address. Multipath TCP opens further connections, to
    addresses that the peer names. Sockets to a hypervisor (AF_VSOCK) or cluster (AF_TIPC) ignore network namespaces.
    """
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return False
    if sock.family == socket.AF_UNIX:
        return True
    protocol = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL)
    return sock.family in (socket.AF_INET, socket.AF_INET6) and protocol == socket.IPPROTO_TCP


def drop_privileges(*, become: tuple[int, int] | None) -> None:
    """Give up every capability, the means to gain one, and core dumps (which would carry prompts to a crash collector).

    ``become`` is the (uid, gid) that root changes to; None keeps the present ids.

    Raises:
        SilenceError: this process may not become that user, or a capability is left.
    """
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    try:
        prctl(PR_SET_SECUREBITS, _ROOT_IS_NOBODY_SPECIAL)
        for capability in range(int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1):
            prctl(PR_CAPBSET_DROP, capability)
    except OSError as exc:
        # Both need CAP_SETPCAP, which an ordinary user lacks; its bounding set is inert under no_new_privs.
        if exc.errno != errno.EPERM:
            raise
    if become is not None:
        become_user(*become)
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0))
    syscall("capset", header, ctypes.create_string_buffer(24))  # effective, permitted, inheritable: all empty
    hide_memory()
    # 1 byte, not 0: a core_pattern that is a pipe ignores the limit unless it is 1 (fs/coredump.c).
    resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    held = process_status()
    if any(int(held[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")) or held["NoNewPrivs"] != "1":
        raise SilenceError("a capability is left after dropping all of them")


def hide_memory() -> None:
    """Hide the memory and open files of this process, in /proc, from other processes of this user.

    The kernel undoes this when the process becomes another program. A hidden process can enter no user namespace.
    """
    prctl(PR_SET_DUMPABLE, 0)


def owner_to_become(state_dir: Path) -> tuple[int, int] | None:
    """The (uid, gid) of the site's owner, which root changes to; None if the owner is root, or this process is not.

    The group is that of ``state/``, or the owner's first group if ``state/`` has root's.
    """
    owner = state_dir.stat()
    if os.geteuid() != 0 or owner.st_uid == 0:
        return None
    return owner.st_uid, owner.st_gid or _first_group(owner.st_uid)


def _first_group(uid: int) -> int:
    try:
        return pwd.getpwuid(uid).pw_gid or uid
    except KeyError:  # a uid without an account
        return uid


def refuse_root(state_dir: Path) -> None:
    """Refuse to serve as uid 0, which root would do if ``state/`` is root's or does not exist yet.

    Raises:
        RootError: names the one command that mends it.
    """
    if os.geteuid() == 0 and (not state_dir.exists() or state_dir.stat().st_uid == 0):
        raise RootError(state_dir.parent)


class RootError(SilenceError):
    """The appliance would serve as root."""

    def __init__(self, home: Path) -> None:
        beside = Path(sys.executable).with_name("installer")
        installer = beside if beside.exists() else "installer"
        super().__init__(
            f"the appliance never serves as root, and {home / 'state'} is root's; give it to a user of its own with: "
            f"{installer} own --prefix {home}"
        )


def become_user(uid: int, gid: int) -> None:
    """Change from root to ``uid`` for good, with the groups that the host gives that user.

    Raises:
        SilenceError: this process may not do that.
    """
    try:
        try:
            os.initgroups(pwd.getpwuid(uid).pw_name, gid)
        except KeyError:  # a uid without an account, as in containers
            os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError as exc:
        raise SilenceError(f"cannot leave root for uid {uid}: {exc.strerror}") from exc


def check_access(path: Path, mode: int) -> None:
    """Refuse a path that only root's dropped privileges could reach, before a later failure says so less clearly.

    Raises:
        SilenceError: it is missing, or this user may not use it in the ``mode`` of os.access.
    """
    for step in (*reversed(path.parents), path):
        if os.access(step, mode if step == path else os.X_OK):
            continue
        if not os.path.lexists(step):
            raise SilenceError(f"{path} is missing")
        who = "root without its privileges" if os.getuid() == 0 else f"uid {os.getuid()}"
        raise SilenceError(f"{step} is closed to {who}; open it to them, or start as its owner")


def process_status() -> dict[str, str]:
    """The kernel's view of this process: /proc/self/status, field by field."""
    lines = (line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: value.strip() for name, value in lines}
