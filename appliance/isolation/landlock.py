"""Landlock: a second, independent layer in the kernel that refuses TCP connections and abstract Unix sockets.

What each ABI adds (Documentation/userspace-api/landlock.rst): 1 (Linux 5.13) a domain whose processes cannot trace or
read the memory of any outside it; 4 (6.7) no TCP connect and bind; 6 (6.12) no abstract Unix socket of, and no signal
to, a process outside. A ruleset must handle at least one right, so making device nodes, which nobody here does, is
always handled.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

from appliance.isolation.kernel import SilenceError, syscall

TCP_ABI = 4  # the first that handles TCP
_SCOPE_ABI = 6
_MAKE_CHAR_AND_BLOCK = 1 << 6 | 1 << 11
_BIND_AND_CONNECT_TCP = 1 << 0 | 1 << 1
_ABSTRACT_SOCKETS_AND_SIGNALS = 1 << 0 | 1 << 1
_CREATE_RULESET_VERSION = 1


def landlock_abi() -> int:
    """The ABI that this kernel offers; 0 when it has none or has it switched off."""
    try:
        return syscall("landlock_create_ruleset", None, 0, _CREATE_RULESET_VERSION)
    except OSError as exc:
        # EPERM: a container's or service's system call profile forbids it.
        if exc.errno in (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
            return 0
        raise


def restrict_self(abi: int) -> None:
    """Put this process and its descendants into a domain with every right that ``abi`` knows of above and no exception.

    ``no_new_privs`` must be set.

    Raises:
        SilenceError: the kernel offers the ABI and refuses the ruleset, or a TCP connection is still possible.
    """
    words = [_MAKE_CHAR_AND_BLOCK]
    if abi >= TCP_ABI:
        words.append(_BIND_AND_CONNECT_TCP)
    if abi >= _SCOPE_ABI:
        words.append(_ABSTRACT_SOCKETS_AND_SIGNALS)
    attributes = struct.pack(f"={len(words)}Q", *words)
    try:
        ruleset = syscall("landlock_create_ruleset", attributes, len(attributes), 0)
        try:
            syscall("landlock_restrict_self", ruleset, 0)
        finally:
            os.close(ruleset)
    except OSError as exc:
        raise SilenceError(f"Landlock ABI {abi} is offered but cannot be used: {exc.strerror}") from exc
    if abi >= TCP_ABI:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            if probe.connect_ex(("127.0.0.1", 9)) != errno.EACCES:
                raise SilenceError(f"Landlock ABI {abi} is in force but does not refuse a TCP connection")
