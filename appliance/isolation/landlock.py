"""Landlock: an independent layer in the kernel that allows named files and refuses all others, and refuses TCP.

What each ABI adds (Documentation/userspace-api/landlock.rst): 1 (Linux 5.13) files, and a domain whose processes cannot
trace or read the memory of any outside it; 2 (5.19) links and renames from one directory to another can be allowed,
which ABI 1 always refuses; 3 (6.2) truncating files; 4 (6.7) no TCP connect and bind; 5 (6.10) ioctl on devices;
6 (6.12) no connection to an abstract Unix socket of a process outside the domain, and no signal to such a process.

What it covers: opening, making, removing, renaming, truncating and executing. What it does not cover: `stat`; `chmod`,
`chown`, times and extended attributes of the user's own files; descriptors that were opened before; and mapping a
readable file as code, which lets a process do nothing that it could not do before.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import stat
import struct
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path

from appliance.isolation.kernel import SilenceError, syscall

FILES_ABI = 1
TRUNCATE_ABI = 3
TCP_ABI = 4  # the first that handles TCP
_SCOPE_ABI = 6
_BIND_AND_CONNECT_TCP = 1 << 0 | 1 << 1
_ABSTRACT_SOCKETS_AND_SIGNALS = 1 << 0 | 1 << 1
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1


class Right(IntFlag):
    """LANDLOCK_ACCESS_FS_* of linux/landlock.h."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13  # ABI 2
    TRUNCATE = 1 << 14  # ABI 3
    IOCTL_DEV = 1 << 15  # ABI 5


_OF_FILES = Right.EXECUTE | Right.WRITE_FILE | Right.READ_FILE | Right.TRUNCATE | Right.IOCTL_DEV
_ADDED_BY_ABI = {1: (1 << 13) - 1, 2: Right.REFER, TRUNCATE_ABI: Right.TRUNCATE, 5: Right.IOCTL_DEV}


@dataclass(frozen=True)
class Rule:
    """``rights`` on the file ``path``, or on everything beneath it. A path that does not exist allows nothing."""

    path: Path
    rights: Right


def landlock_abi() -> int:
    """The ABI that this kernel offers; 0 when it has none or has it switched off."""
    try:
        return syscall("landlock_create_ruleset", None, 0, _CREATE_RULESET_VERSION)
    except OSError as exc:
        # EPERM: a container's or service's system call profile forbids it.
        if exc.errno in (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
            return 0
        raise


def handled_rights(abi: int) -> int:
    """Every right on files that ``abi`` knows. The kernel refuses those that no rule allows."""
    return sum(rights for since, rights in _ADDED_BY_ABI.items() if since <= abi)


def restrict_self(abi: int, rules: Collection[Rule] | None) -> None:
    """Put this thread and its descendants into a domain that uses everything ``abi`` offers (see the list above).

    Domains nest: inside a second domain, both must allow an action. ``no_new_privs`` must be set.

    Args:
        rules: the only files that stay open; None: all files do, but making device nodes is refused.
    Raises:
        SilenceError: the kernel offers the ABI and refuses the ruleset, or a TCP connection is still possible.
    """
    words = [Right.MAKE_CHAR | Right.MAKE_BLOCK if rules is None else handled_rights(abi)]
    if abi >= TCP_ABI:
        words.append(_BIND_AND_CONNECT_TCP)
    if abi >= _SCOPE_ABI:
        words.append(_ABSTRACT_SOCKETS_AND_SIGNALS)
    _enforce(abi, words, rules or ())
    if abi >= TCP_ABI:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            if probe.connect_ex(("127.0.0.1", 9)) != errno.EACCES:
                raise SilenceError(f"Landlock ABI {abi} is in force but does not refuse a TCP connection")


def restrict_program(abi: int, rules: Collection[Rule]) -> None:
    """Put this thread and its descendants into a further domain. This works behind the supervisor's system call filter.

    Only the files of the rules stay open. Signals stay inside this domain; otherwise the programs, which share the
    outer domain with the supervisor, could stop each other.

    Raises:
        SilenceError: the kernel offers the ABI and refuses the ruleset.
    """
    words = [handled_rights(abi)]
    if abi >= _SCOPE_ABI:
        words += [0, _ABSTRACT_SOCKETS_AND_SIGNALS]
    _enforce(abi, words, rules)


def _enforce(abi: int, words: Iterable[int], rules: Iterable[Rule]) -> None:
    attributes = b"".join(struct.pack("=Q", word) for word in words)
    try:
        ruleset = syscall("landlock_create_ruleset", attributes, len(attributes), 0)
        try:
            for rule in rules:
                _allow(ruleset, rule, handled_rights(abi))
            syscall("landlock_restrict_self", ruleset, 0)
        finally:
            os.close(ruleset)
    except OSError as exc:
        raise SilenceError(f"Landlock ABI {abi} is offered but cannot be used: {exc.strerror}") from exc


def _allow(ruleset: int, rule: Rule, handled: int) -> None:
    try:
        beneath = os.open(rule.path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):  # the path does not exist or cannot be reached
        return
    try:
        rights = rule.rights & handled
        if not stat.S_ISDIR(os.fstat(beneath).st_mode):
            rights &= _OF_FILES
        attribute = ctypes.create_string_buffer(struct.pack("=Qi", rights, beneath), 12)
        syscall("landlock_add_rule", ruleset, _RULE_PATH_BENEATH, attribute, 0)
    finally:
        os.close(beneath)
