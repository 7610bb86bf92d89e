"""What each kind of process of the appliance may do: filter, Landlock and proof all read it here.

System calls: a kind may make the calls of the groups that name it, and no others. Each group says what the calls are
for. The lists hold the calls that strace saw each program make (over starts, sign-ins, chats, streams, long prompts,
packing, known answers, exports and kills). They also hold the calls that CPython, glibc 2.31 to 2.41, NumPy, ONNX
Runtime, SQLite and argon2 make instead on other kernels and on aarch64, where many older calls do not exist.

What it leaves to others: files, which a filter cannot tell apart (Landlock does). Executable memory is not refused: a
filter cannot see the contents of the file that a descriptor names, so a refusal would stop careless code only, and
executable memory is no way out.
"""

from __future__ import annotations

import fcntl
import os
import socket
import termios
from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from appliance.isolation.dangers import dangerous_to_cuda
from appliance.isolation.kernel import CLONE_NEW_ANY
from appliance.isolation.rules import CallPolicy, Group, Only, Rules


class Kind(StrEnum):
    """The kinds of process that have a policy of their own."""

    SUPERVISOR = "supervisor"
    WATCHER = "watcher"  # holds the listeners of the filters and sees every refused call
    LOG_RELAY = "log-relay"  # copies what the programs print to the log
    RECORDER = "recorder"
    ENGINE_CPU = "engine-cpu"
    ENGINE_CUDA = "engine-cuda"
    WEB = "web"
    PACKER = "packer"  # writes the weights packed for this processor, before an engine starts
    READER = "reader"  # turns files that people attach into text (appliance/attachments)
    ADMINISTRATION = "administration"  # `appliance users`, `audit`, `doctor`, `selftest`


_EVERY: Final = frozenset(Kind) - {Kind.ENGINE_CUDA}
_PROGRAMS: Final = _EVERY - {Kind.WATCHER, Kind.LOG_RELAY}
_LISTED: Final = _PROGRAMS - {Kind.SUPERVISOR}  # programs that the supervisor starts and whose calls are listed
_SUPERVISOR, _ENGINE, _WEB = frozenset({Kind.SUPERVISOR}), frozenset({Kind.ENGINE_CPU}), frozenset({Kind.WEB})
_READER: Final = frozenset({Kind.READER})
_COMPUTING: Final = _ENGINE | {Kind.PACKER, Kind.ADMINISTRATION}

_MSG_FASTOPEN: Final = 0x2000_0000  # opens a connection by sending
_SOCK_TYPE: Final = 0xF  # the other bits of a socket's type are SOCK_CLOEXEC and SOCK_NONBLOCK
_THREAD, _FORK = 0x003D_0F00, 0x0120_0011  # the flags with which glibc makes a thread and a process
_THREAD_DETACHED: Final = 0x007D_0F00  # the same, from libraries that still set a flag that has lost its meaning
_NOTIFY_RECEIVE, _NOTIFY_SEND = 0xC050_2100, 0xC018_2101  # SECCOMP_IOCTL_NOTIF_RECV and _SEND
_TCGETS2: Final = 0x802C_542A  # isatty from glibc 2.42 on
_NO_PEER: Final = (Only(4, (0,)), Only(4, (0,), high=True))  # sendto's address is NULL
_PAIR: Final = (
    Only(0, (int(socket.AF_UNIX),)), Only(1, (int(socket.SOCK_STREAM), int(socket.SOCK_SEQPACKET)), _SOCK_TYPE),
)  # fmt: skip

# fcntl may set descriptors and their flags, locks, and the size of a pipe. It may not choose who gets signals
# (F_SETOWN, F_SETSIG), nor use F_NOTIFY.
_FCNTL: Final = (
    *(fcntl.F_DUPFD, fcntl.F_DUPFD_CLOEXEC, fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL, fcntl.F_SETFL),
    *(fcntl.F_GETLK, fcntl.F_SETLK, fcntl.F_SETLKW, fcntl.F_OFD_GETLK, fcntl.F_OFD_SETLK, fcntl.F_OFD_SETLKW),
    *(fcntl.F_GETPIPE_SZ, fcntl.F_SETPIPE_SZ),
)
# ioctl may set whether a descriptor blocks or closes, and read the settings and size of a terminal. It may not reach an
# interface (SIOC..), a tunnel (TUN..) or a device, nor type into a terminal (TIOCSTI, TIOCLINUX).
_IOCTL: Final = (
    *(termios.FIONBIO, termios.FIOCLEX, termios.FIONCLEX, termios.FIONREAD),
    *(termios.TCGETS, _TCGETS2, termios.TIOCGWINSZ),
)
# prctl may set names and the signal for the parent's end, and read. It may not change capabilities, seccomp or maps.
_PRCTL: Final = (
    *(1, 2),  # PR_SET_PDEATHSIG, PR_GET_PDEATHSIG
    *(3, 15, 16),  # PR_GET_DUMPABLE, PR_SET_NAME, PR_GET_NAME
    *(21, 23, 39),  # PR_GET_SECCOMP, PR_CAPBSET_READ, PR_GET_NO_NEW_PRIVS
    *(51, 64),  # PR_SVE_GET_VL, PR_SME_GET_VL: how wide an aarch64 vector is
    0x53564D41,  # PR_SET_VMA: names of memory areas, from glibc 2.38 on
)
_HIDE_MEMORY: Final = (Only(0, (4,)), Only(1, (0,)))  # PR_SET_DUMPABLE, only to 0
# These options of a connection are those that any HTTP server uses. None of them sends a packet to anybody but the peer
# that connected, chooses a route or an interface, or loads code.
_SO: Final = (
    *(socket.SO_REUSEADDR, socket.SO_REUSEPORT, socket.SO_KEEPALIVE, socket.SO_LINGER, socket.SO_RCVLOWAT),
    *(socket.SO_RCVBUF, socket.SO_SNDBUF, socket.SO_RCVTIMEO, socket.SO_SNDTIMEO),
)
_TCP: Final = (
    *(socket.TCP_NODELAY, socket.TCP_CORK, socket.TCP_QUICKACK, socket.TCP_DEFER_ACCEPT, socket.TCP_NOTSENT_LOWAT),
    *(socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT),
)
_SO_READ: Final = (
    *_SO, socket.SO_TYPE, socket.SO_ERROR, socket.SO_DOMAIN, socket.SO_PROTOCOL, socket.SO_ACCEPTCONN,
)  # fmt: skip

GROUPS: Final = (
    Group(
        "read and write what is open",
        _EVERY,
        "read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek close close_range dup dup2 "
        "dup3 pipe pipe2 fstat fsync fdatasync sync_file_range ftruncate fallocate fadvise64 readahead "
        "copy_file_range flock",
        {"fcntl": ((Only(1, _FCNTL),),), "ioctl": ((Only(1, _IOCTL),),)},
    ),
    Group(
        "name files; Landlock decides which",
        _PROGRAMS,
        "open openat openat2 creat stat lstat newfstatat statx statfs fstatfs access faccessat faccessat2 readlink "
        "readlinkat getdents getdents64 getcwd chdir fchdir mkdir mkdirat rmdir rename renameat renameat2 link linkat "
        "unlink unlinkat truncate umask utime utimes "
        "futimesat utimensat getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr",
    ),
    Group("the process's own memory", _EVERY, "brk mmap munmap mprotect mremap madvise msync mincore mseal membarrier"),
    Group(
        "threads, locks, signals, time and the process's own end",
        _EVERY,
        "futex futex_waitv set_robust_list get_robust_list rseq set_tid_address arch_prctl sched_yield "
        "rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend sigaltstack tgkill "
        "restart_syscall nanosleep clock_nanosleep clock_gettime clock_getres gettimeofday time times wait4 waitid "
        "exit exit_group",
        {"clone": ((Only(0, (_THREAD, _THREAD_DETACHED)),),)},
    ),
    Group(
        "what the process is and what the machine is",
        _EVERY,
        "getpid gettid getppid getpgid getpgrp getsid getuid geteuid getgid getegid getgroups getresuid getresgid "
        "uname sysinfo getrandom getcpu getrlimit getrusage getpriority sched_getaffinity sched_getparam "
        "sched_getscheduler sched_getattr sched_get_priority_max sched_get_priority_min",
        {"prlimit64": ((Only(0, (0,)),),), "prctl": ((Only(0, _PRCTL),), _HIDE_MEMORY)},
    ),
    Group(
        "wait for several things at once",
        _EVERY,
        "poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 "
        "eventfd eventfd2",
    ),
    Group(
        "send the listener of the filter to the watcher; sendmsg on a connection names no peer",
        _EVERY,
        partly={"sendmsg": ((Only(2, (0,), _MSG_FASTOPEN),),)},
    ),
    Group(
        "talk over sockets that another process opened",
        _SUPERVISOR | _ENGINE | _WEB | _READER | {Kind.WATCHER},
        "recvfrom recvmsg getsockname getpeername",
        {
            "sendto": ((Only(3, (0,), _MSG_FASTOPEN), *_NO_PEER),),
            "getsockopt": ((Only(1, (socket.SOL_SOCKET,)), Only(2, _SO_READ)),),
        },
    ),
    Group("make a socket pair for the doorbell or a turn", _SUPERVISOR | _WEB, partly={"socketpair": (_PAIR,)}),
    Group(
        "serve people who connect",
        _WEB,
        "accept accept4 listen sendfile timerfd_create timerfd_settime timerfd_gettime",
        {
            "setsockopt": (
                (Only(1, (socket.SOL_SOCKET,)), Only(2, _SO)),
                (Only(1, (socket.IPPROTO_TCP,)), Only(2, _TCP)),
            ),
            "getsockopt": ((Only(1, (socket.IPPROTO_TCP,)), Only(2, (*_TCP, socket.TCP_INFO))),),
            "shutdown": ((Only(1, (socket.SHUT_WR,)),),),  # ends a connection; SHUT_RD would end a listener
        },
    ),
    Group(
        "start copies of itself; administration verifies with every core, under the same filter; the reader has a copy "
        "for each file",
        _SUPERVISOR | _WEB | _READER | {Kind.ADMINISTRATION},
        partly={"clone": ((Only(0, (_FORK,)),),)},
    ),
    Group(
        "end processes, never a whole group: the web ends gunicorn's workers, the reader a copy that is late",
        _SUPERVISOR | _WEB | _READER,
        partly={"kill": ((Only(0, (0,), 0x8000_0000), Only(0, (0,), unless=True)),)},
    ),
    Group(
        "place memory and threads where they are fast",
        _COMPUTING,
        "get_mempolicy mbind set_mempolicy sched_setaffinity",
    ),
    Group(
        "give the comparison of the release the lowest priority",
        frozenset({Kind.RECORDER}),
        partly={"setpriority": ((Only(0, (os.PRIO_PROCESS,)), Only(1, (0,))),)},
    ),
    Group(
        "refuse more calls to a copy of itself (SECCOMP_SET_MODE_FILTER, for all threads, without a listener)",
        _READER,
        partly={"seccomp": ((Only(0, (1,)), Only(1, (1,))),)},
    ),
    Group(
        "confine a child and become another program",
        _SUPERVISOR,
        "execve kill setsid seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self",
        {"prctl": ((Only(0, (38,)),),)},  # PR_SET_NO_NEW_PRIVS
    ),
    Group(
        "take all rights from its own pipe, so that no process can open it again",
        _SUPERVISOR,
        partly={"fchmod": ((Only(1, (0,)),),)},
    ),
    Group(
        "receive and answer what a filter refuses",
        frozenset({Kind.WATCHER}),
        partly={"ioctl": ((Only(1, (_NOTIFY_RECEIVE, _NOTIFY_SEND)),),)},
    ),
)

# These are answered ENOSYS and not reported: libraries try them first and fall back to an older call. The flags of
# clone3 lie behind a pointer, where no filter can see them.
QUIET: Final = frozenset({"clone3", "map_shadow_stack", "futex_wake", "futex_wait", "futex_requeue", "cachestat"})

# The calls of the CUDA driver can only be listed on a GPU, so an engine on CUDA is refused dangerous calls instead. If
# the driver needs part of such a call, the arguments decide: it may use Unix sockets, control its devices, and make
# threads and processes without a namespace.
_CUDA_PARTLY: Final[Mapping[str, Rules]] = MappingProxyType({
    "socket": (_PAIR,),
    "socketpair": (_PAIR,),
    "sendto": ((Only(3, (0,), _MSG_FASTOPEN), *_NO_PEER),),
    "sendmsg": ((Only(2, (0,), _MSG_FASTOPEN),),),
    "sendmmsg": ((Only(3, (0,), _MSG_FASTOPEN),),),
    "clone": ((Only(0, (0,), CLONE_NEW_ANY),),),
    # SO_PASSCRED: credentials over a Unix socket; a confined engine gets no other sort of socket.
    "setsockopt": ((Only(1, (socket.SOL_SOCKET,)), Only(2, (*_SO, socket.SO_PASSCRED))),),
    # Requests of type 0x89 (interfaces), 'T' (tunnels, terminals) and '!' (answering for a filter) are refused, except
    # those that every kind may make.
    "ioctl": ((Only(1, _IOCTL),), (Only(1, (0x8900, 0x5400, 0x2100), 0xFF00, unless=True),)),
    "kill": ((Only(0, (0,), 0x8000_0000), Only(0, (0,), unless=True)),),
    "prlimit64": ((Only(0, (0,)),),),
})  # fmt: skip


def call_policy(kind: Kind, *, engine: Kind = Kind.ENGINE_CPU) -> CallPolicy:
    """The system calls of ``kind``.

    Args:
        engine: the kind of engine that the supervisor starts. Filters add up, so the filter of the supervisor must
            allow the calls of everything that it starts.
    """
    if kind is Kind.ENGINE_CUDA:
        return CallPolicy(_CUDA_PARTLY, dangerous_to_cuda(), others=True)
    if kind is not Kind.SUPERVISOR:
        return CallPolicy(_merged(_of(kind)), frozenset(), others=False)
    allowed = _merged(rules for each in _LISTED | _SUPERVISOR for rules in _of(each))
    if engine is not Kind.ENGINE_CUDA:
        return CallPolicy(allowed, frozenset(), others=False)
    # If CUDA may make part of a call, allow that part and what others need. If CUDA may not, allow what others need.
    partly = {name: rules + allowed.get(name, ()) for name, rules in _CUDA_PARTLY.items() if allowed.get(name) != ()}
    refused = dangerous_to_cuda() - allowed.keys()
    return CallPolicy(partly, refused, others=True)


def _of(kind: Kind) -> Iterable[tuple[str, Rules]]:
    for group in GROUPS:
        if kind in group.kinds:
            yield from ((name, ()) for name in group.calls.split())
            yield from group.partly.items()


def _merged(entries: Iterable[tuple[str, Rules]]) -> dict[str, Rules]:
    """One entry for each call, which allows what any of the entries allows."""
    merged: dict[str, Rules] = {}
    for name, rules in entries:
        known = merged.get(name)
        merged[name] = () if rules == () or known == () else tuple(dict.fromkeys((*(known or ()), *rules)))
    return merged
