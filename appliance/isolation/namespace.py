"""A network namespace that leads nowhere. The listener was bound before and still works.

Our own is empty: not even loopback is up. A service manager's (PrivateNetwork) holds loopback alone; its settings also
forbid to make another one.
"""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

from appliance.child import errno_of_child
from appliance.isolation.kernel import CLONE_NEWNET, CLONE_NEWUSER, SilenceError, syscall


def enter_network_namespace() -> str | None:
    """Move to an empty network namespace and return how; None where the host does not grant one.

    Root (CAP_SYS_ADMIN) enters it directly. Another user enters it through a user namespace that keeps the uid and gid.
    On some hosts that fails half way and cannot be undone, so a child tries it first.

    Raises:
        SilenceError: the namespace was granted, yet a datagram has somewhere to go.
    """
    try:
        syscall("unshare", CLONE_NEWNET)
        how = "empty, entered as root"
    except OSError:
        if errno_of_child(_unshare_as_user):
            return "made by the service manager: it holds loopback alone" if _is_private() else None
        _unshare_as_user()
        how = f"empty, entered in a user namespace, as uid {os.getuid()}"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        refusal = probe.connect_ex(("127.0.0.1", 9))
    if refusal != errno.ENETUNREACH:
        raise SilenceError("the new network namespace is not empty: loopback can be reached")
    return how


def _is_private() -> bool:
    """Whether this is not the host's network namespace, and loopback is its only interface. Some settings of the kernel
    exist in the first network namespace alone."""
    interfaces = [line.partition(":")[0].strip() for line in Path("/proc/self/net/dev").read_text().splitlines()[2:]]
    return interfaces == ["lo"] and not Path("/proc/sys/net/core/netdev_max_backlog").exists()


def _unshare_as_user() -> None:
    uid, gid = os.geteuid(), os.getegid()
    syscall("unshare", CLONE_NEWUSER | CLONE_NEWNET)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
