"""Puts a forked child under the policy of its kind, on top of the supervisor's, before it becomes its program.

    confine(Kind.WEB, places=places, watch=watch)      # then execve; raises SilenceError; cannot be undone

The order is fixed: files (Landlock) come first, because the system call filter refuses Landlock's own calls. Without a
watcher the filter must allow the execve that follows, and so every execve. The entry of the program therefore calls
`seal`, which refuses them, before it does anything else.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Mapping
from typing import Final

from appliance.isolation.files import Places, file_rules
from appliance.isolation.kernel import SilenceError
from appliance.isolation.landlock import landlock_abi, restrict_program
from appliance.isolation.policy import Kind, call_policy
from appliance.isolation.privileges import hide_memory, process_status
from appliance.isolation.recipients import keep_signals
from appliance.isolation.seccomp import Refusal, install_filter, install_watched_filter, refuse_also
from appliance.isolation.watch import Watch

SEAL_ENVIRON: Final = "APPLIANCE_SEAL"  # set for a program that has no watcher
HIDE_ENVIRON: Final = "APPLIANCE_HIDE"  # set for a program whose memory is to be hidden
_UNTIL_SEALED: Final = ("execve", "seccomp")
_SEALED: Final = (*_UNTIL_SEALED, "execveat")


def confine(
    kind: Kind,
    *,
    places: Places | None,
    watch: Watch | None,
    program_follows: bool = True,
    leave_out: Collection[str] = (),
) -> None:
    """Put this process and its descendants under the policy of ``kind``, for ever. The caller must have one thread.

    Args:
        places: the places that the rules for files name; None if the kernel has no such rules, as the start reported.
        watch: the watcher, which answers and reports refused calls; None if the host allows none.
        program_follows: True if one execve is still to come. False for a proof: refused calls are only counted.
        leave_out: system calls that stay unfiltered, for tests.
    Raises:
        SilenceError: the policy cannot be put in force. The process must end.
    """
    if process_status()["NoNewPrivs"] != "1":
        raise SilenceError(f"the process that becomes the {kind} could still gain privileges; shut the door first")
    # 1. Files: what this kind may read, write and execute, and signals only to its own processes (Landlock).
    if places is not None:
        restrict_program(landlock_abi(), file_rules(kind, places))
    # 2. System calls: what this kind may call, and with which arguments (seccomp).
    never = {os.getppid()} if watch is None else {os.getppid(), watch.pid}
    policy = keep_signals(call_policy(kind), kind, never=never)
    if watch is not None:
        listener = install_watched_filter(policy, leave_out=leave_out)
        watch.adopt(listener, kind, programs=int(program_follows), report=program_follows)
        return
    if program_follows:
        policy = dataclasses.replace(
            policy,
            allowed={**policy.allowed, **{name: () for name in _UNTIL_SEALED}},
            refused=policy.refused - set(_UNTIL_SEALED),
        )
    install_filter(policy, Refusal.ERRNO, leave_out=leave_out)


def seal(environ: Mapping[str, str], *, confines_copies: bool = False) -> None:
    """Finish what `confine` could not do before the program began. The entry of a program calls this first.

    This hides the memory of the program from other processes of its user. Without a watcher, it also forbids the
    program to become another one.

    Args:
        confines_copies: the program puts copies of itself under a further filter, so it may still install one.
    Raises:
        SilenceError: the kernel refuses the filter. The process must end.
    """
    if environ.get(HIDE_ENVIRON) == "1":
        hide_memory()
    if environ.get(SEAL_ENVIRON) == "1":
        refuse_also(set(_SEALED) - ({"seccomp"} if confines_copies else set()))
