"""Silence: how a process of the appliance gives up every way out, and proves it, before it does anything else.

    silence, watch = shut_the_door_for_programs(keep=[listener.fileno()], become=None, programs=[Kind.WEB, ..], ..)

What it guarantees when it returns: this process and everything that it starts cannot open, connect, address or borrow a
socket that leads anywhere. Each kind of process made every attempt and was refused. Nothing can undo this. The system
call filter (seccomp) is always in force. The other layers (a network namespace, Landlock, the watcher that sees refused
calls) are added where the host grants them; the report says what the host does not grant.
If the caller names the places of the site, only the files that its programs need stay open, and each kind of program
has tried to reach the other files.
What it leaves to others: inbound connections, which the listener is for. See docs/silence.md.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from appliance.child import fork
from appliance.isolation.attempts import Props, open_props
from appliance.isolation.confinement import confine
from appliance.isolation.file_proof import prove_files
from appliance.isolation.files import Places, file_rules
from appliance.isolation.kernel import PR_SET_DUMPABLE, SilenceError, prctl
from appliance.isolation.landlock import FILES_ABI, TCP_ABI, TRUNCATE_ABI, Rule, landlock_abi, restrict_self
from appliance.isolation.namespace import enter_network_namespace
from appliance.isolation.policy import Kind, call_policy
from appliance.isolation.privileges import (
    become_user,
    check_access,
    drop_privileges,
    keep_only,
    open_descriptors,
    owner_to_become,
    refuse_root,
)
from appliance.isolation.proof import (
    AttemptResult,
    prove_alone,
    prove_kind,
    prove_self,
    reach_into_memory,
    refused_before,
)
from appliance.isolation.recipients import keep_signals
from appliance.isolation.seccomp import Refusal, install_filter
from appliance.isolation.watch import Watch, start_watch

__all__ = [
    "AttemptResult",
    "Layer",
    "Silence",
    "SilenceError",
    "Watch",
    "become_user",
    "check_access",
    "owner_to_become",
    "refuse_root",
    "shut_the_door",
    "shut_the_door_for_programs",
]


@dataclass(frozen=True)
class Layer:
    """One mechanism of the kernel. ``remedy`` says how to enable it; None if it is in force."""

    name: str
    in_force: bool
    detail: str
    remedy: str | None = None


@dataclass(frozen=True)
class Silence:
    """What is in force in this process, and the proof."""

    kernel: str
    uid: int
    layers: tuple[Layer, ...]
    attempts: tuple[AttemptResult, ...]
    files_abi: int = 0  # the Landlock ABI that limits each program to its own files; 0: no program is limited

    def summary(self) -> str:
        """The proof in a few words."""
        kinds, ways = {attempt.kind for attempt in self.attempts}, {attempt.way for attempt in self.attempts}
        tries = f"{len(self.attempts)} tries by {len(kinds)} kinds of process"
        return f"{len(ways)} ways out tried, each refused by the kernel ({tries})"


def shut_the_door(
    *,
    keep: Collection[int],
    become: tuple[int, int] | None,
    kind: Kind,
    rules: tuple[Rule, ...] | None = None,
    leave_out: Collection[str] = (),
) -> Silence:
    """Give up every way out for ever, prove it, and report: for a process of ``kind`` that starts no other program.

    Must be called in a process of one thread. Descriptors other than 0, 1, 2 and ``keep`` are closed.

    Args:
        keep: descriptors to keep; a socket among them must be a listener, or a Unix stream or packet socket.
        become: (uid, gid) that root changes to; None: the ids stay (root then has no capabilities).
        rules: the only files that stay open; None: all files do.
        leave_out: "namespace", "landlock" and "watcher" behave as if the host refused them. "files" leaves out the
            rules on files. Any other name is a system call that stays unfiltered; the proof must then fail. For tests
            and for measuring what one layer does alone.
    Raises:
        SilenceError: the filter could not be installed or a way out was found open. The process must end.
        NoProcessError: no child can be started for the attempts.
    """
    with _outside(keep, become, rules, leave_out) as outside:
        policy = keep_signals(call_policy(kind), kind, never={os.getppid()})
        install_filter(policy, Refusal.ERRNO, leave_out=leave_out)
        attempts = prove_self(outside.props, kind, errno.EPERM)  # of two filters that answer an error, ours is newer
        memory_open = reach_into_memory(outside.pid)
    return _silence(keep, outside, attempts, memory_open)


def shut_the_door_for_programs(
    *,
    keep: Collection[int],
    become: tuple[int, int] | None,
    programs: Collection[Kind],
    places: Places | None,
    leave_out: Collection[str] = (),
) -> tuple[Silence, Watch | None]:
    """Do the same for the supervisor. For each kind of ``programs``, a child under the policy of that kind tries, too.

    ``places`` are those of the site that will be served. `confine` needs the watcher that this returns; it is None
    where the host does not allow one, and the report says so.
    """
    engine = Kind.ENGINE_CUDA if Kind.ENGINE_CUDA in programs else Kind.ENGINE_CPU
    rules = None if places is None or "files" in leave_out else file_rules(Kind.SUPERVISOR, places)
    with _outside(keep, become, rules, leave_out) as outside:
        watch = None if "watcher" in leave_out else start_watch()
        foreseen = refused_before(outside.props)
        if foreseen:
            _prove_alone(outside.props, programs, engine, leave_out)
        install_filter(call_policy(Kind.SUPERVISOR, engine=engine), Refusal.TRACE, leave_out=leave_out)
        attempts = prove_self(outside.props, Kind.SUPERVISOR, errno.ENOSYS, starts=programs, foreseen=foreseen)
        for kind in programs:
            attempts += prove_kind(outside.props, kind, watch, lambda kind=kind: confine(  # type: ignore[misc]
                kind, places=None, watch=watch, program_follows=False, leave_out=leave_out
            ), foreseen)  # fmt: skip
        if outside.landlock_abi and places is not None:
            attempts += prove_files(outside.landlock_abi, places, leave_out=leave_out)
        memory_open = reach_into_memory(outside.pid)
    kept = [*keep, *([] if watch is None else [watch.fileno()])]
    more = [_watch_layer(watch, len(foreseen)), *([] if places is None else [_files_layer(outside.landlock_abi)])]
    silence = _silence(kept, outside, attempts, memory_open, *more)
    return dataclasses.replace(silence, files_abi=0 if places is None else outside.landlock_abi), watch


def _prove_alone(props: Props, programs: Collection[Kind], engine: Kind, leave_out: Collection[str]) -> None:
    """Prove the filters one by one, because the host's own filter hides their answers in the proof that follows."""
    cuda = {Kind.ENGINE_CUDA} & set(programs)
    prove_alone(props, Kind.SUPERVISOR, lambda: call_policy(Kind.SUPERVISOR, engine=engine), spared=cuda,
                leave_out=leave_out)  # fmt: skip
    for kind in programs:
        prove_alone(
            props, kind, lambda kind=kind: keep_signals(  # type: ignore[misc]
                call_policy(kind), kind, never={os.getppid()}
            ), spared=(), leave_out=leave_out,
        )  # fmt: skip


@dataclass(frozen=True)
class _Outside:
    """A process that stays outside, props for the proof, and the other layers that are in force."""

    pid: int
    props: Props
    namespace: str | None
    landlock_abi: int


@contextmanager
def _outside(
    keep: Collection[int],
    become: tuple[int, int] | None,
    rules: tuple[Rule, ...] | None,
    leave_out: Collection[str],
) -> Iterator[_Outside]:
    """Inside this context every layer but the filter is in force. Its end removes what only the proof needed."""
    if len(os.listdir("/proc/self/task")) != 1:
        raise SilenceError("silence must be entered by a process of one thread")
    keep_only(keep)
    with _outside_process(become) as outside, open_props() as props:
        namespace = None if "namespace" in leave_out else enter_network_namespace()
        drop_privileges(become=become)
        abi = 0 if "landlock" in leave_out else landlock_abi()
        if abi:
            restrict_self(abi, rules)
        yield _Outside(outside, props, namespace, abi)


def _silence(
    keep: Collection[int], outside: _Outside, attempts: tuple[AttemptResult, ...], memory_open: bool, *more: Layer
) -> Silence:
    left = open_descriptors() - {0, 1, 2, *keep}
    if left:
        raise SilenceError(f"descriptors {sorted(left)} are open and not accounted for")
    layers = (
        _SECCOMP, *more, _namespace_layer(outside.namespace), _landlock_layer(outside.landlock_abi),
        _memory_layer(memory_open), _user_layer(),
    )  # fmt: skip
    return Silence(os.uname().release, os.getuid(), layers, attempts)


@contextmanager
def _outside_process(become: tuple[int, int] | None) -> Iterator[int]:
    """A process of the same user that stays outside, as a target for attempts; it ends when its pipe is closed."""
    read_end, write_end = os.pipe()
    pid = fork()
    if pid == 0:
        try:
            os.close(write_end)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            if become is not None:
                os.setresgid(become[1], become[1], become[1])
                os.setresuid(become[0], become[0], become[0])
                prctl(PR_SET_DUMPABLE, 1)  # as a program of that user has it, if the program never was root
            os.read(read_end, 1)
        finally:
            os._exit(0)
    os.close(read_end)
    try:
        yield pid
    finally:
        os.close(write_end)
        os.waitpid(pid, 0)


_SECCOMP = Layer("system call filter (seccomp)", True, "each kind of process makes the calls of its own list")


def _watch_layer(watch: Watch | None, foreseen: int) -> Layer:
    name = "watch over refused calls"
    if watch is not None:
        less = f", except in {foreseen} of the ways, which the service manager or container refuses first"
        return Layer(name, True, f"each becomes an event of the record{less if foreseen else ''}")
    return Layer(
        name,
        False,
        "an intruder's attempts are refused, but not reported",
        "run Linux 5.5 or later; a container or service that listens to refused calls itself must spare the appliance",
    )


def _namespace_layer(how: str | None) -> Layer:
    if how is not None:
        return Layer("network namespace of its own", True, how)
    return Layer(
        "network namespace of its own",
        False,
        "this host does not allow this user to make one",
        "allow unprivileged user namespaces (sysctl user.max_user_namespaces; Debian: "
        "kernel.unprivileged_userns_clone=1; Ubuntu: an AppArmor profile with 'userns'), or let root start it, "
        "which then leaves root by itself",
    )


def _landlock_layer(abi: int) -> Layer:
    if abi >= TCP_ABI:
        return Layer("Landlock", True, f"ABI {abi}: no TCP connect or bind")
    return Layer(
        "Landlock",
        False,
        f"ABI {abi} is in force, which cannot refuse TCP" if abi else "this kernel offers none",
        "run Linux 6.7 or later (Debian 13, Ubuntu 24.04, RHEL 10) with 'landlock' among the boot option lsm=",
    )


def _files_layer(abi: int) -> Layer:
    name = "files of its own for each kind of process (Landlock)"
    if abi >= TRUNCATE_ABI:
        return Layer(name, True, f"ABI {abi}: only the recorder reads the signing key, nothing written can be executed")
    if abi >= FILES_ABI:
        return Layer(
            name,
            False,
            f"ABI {abi} leaves one thing open: an intruder could truncate any file that this user may write",
            "run Linux 6.2 or later",
        )
    return Layer(
        name,
        False,
        "an intruder could read the signing key, rewrite the record's database and state/trust, and change or run "
        "any file that this user may",
        "run Linux 5.13 or later with 'landlock' among the boot option lsm=, and give the appliance a user of its own",
    )


def _memory_layer(memory_open: bool) -> Layer:
    name = "memory of the same user's other processes"
    if not memory_open:
        return Layer(name, True, "cannot be opened")
    return Layer(
        name,
        False,
        "can be opened through /proc",
        "give the appliance a user of its own, or set sysctl kernel.yama.ptrace_scope=1, or enable Landlock",
    )


def _user_layer() -> Layer:
    if os.getuid() != 0:
        return Layer("not root", True, f"uid {os.getuid()}, no capabilities, no_new_privs")
    return Layer(
        "not root",
        False,
        "uid 0 without any capability, no_new_privs",
        "start as an ordinary user, or give state/ to the user that the appliance should become",
    )
