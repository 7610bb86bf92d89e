"""What system calls could do for an intruder. Reports of refused calls quote it, and the policy for CUDA refuses them.

Not every refused call is listed: most are of no use to an intruder.
"""

from __future__ import annotations

from typing import Final

from appliance.isolation.rules import Danger

FOREIGN: Final = ("32-bit call", "x32 call")  # calls of other ABIs are named like this, followed by their number
DANGERS: Final = (
    Danger("reach somebody by a socket", "connect bind io_uring_setup io_uring_enter io_uring_register"),
    Danger("open a socket or address somebody", "socket socketpair sendto sendmsg sendmmsg", cuda=False),
    Danger("set an option of a connection that could send or re-route", "setsockopt", cuda=False),
    Danger("wait for connections", "listen accept accept4", cuda=False),
    Danger("shut a socket for all who share it", "shutdown", cuda=False),
    Danger("control a device, an interface or a terminal", "ioctl", cuda=False),
    Danger("run another program", "execve execveat"),
    Danger("start a process or enter a namespace", "clone fork vfork", cuda=False),
    Danger(
        "enter another namespace or change what is mounted",
        "setns unshare mount umount2 pivot_root chroot open_tree open_tree_attr move_mount fsopen fsconfig fsmount "
        "fspick mount_setattr open_by_handle_at swapon swapoff quotactl quotactl_fd",
    ),
    Danger(
        "reach into another process",
        "ptrace process_vm_readv process_vm_writev process_madvise process_mrelease pidfd_open pidfd_getfd "
        "pidfd_send_signal kcmp move_pages migrate_pages rt_sigqueueinfo rt_tgsigqueueinfo",
    ),
    Danger("signal another process", "kill tkill tgkill", cuda=False),
    Danger("use the kernel's keyrings, which resolve names", "add_key request_key keyctl"),
    Danger(
        "run code in the kernel or take it over",
        "bpf perf_event_open userfaultfd init_module finit_module delete_module kexec_load kexec_file_load iopl ioperm "
        "modify_ldt personality",
    ),
    Danger("make memory that can be run without a file", "memfd_create memfd_secret", cuda=False),
    Danger("make a device", "mknod mknodat", cuda=False),
    Danger("let others use a file, which Landlock allows", "chmod fchmodat fchmodat2 chown lchown fchownat"),
    Danger("let others use a file that it may only read, which Landlock allows", "fchmod fchown", cuda=False),
    Danger(
        "become somebody else or change its own confinement",
        "setuid setgid setreuid setregid setresuid setresgid setfsuid setfsgid setgroups capset "
        "landlock_create_ruleset landlock_add_rule landlock_restrict_self",
    ),
    Danger("change its own confinement", "seccomp prctl", cuda=False),
    Danger(
        "change the machine",
        "reboot acct syslog sethostname setdomainname settimeofday clock_settime adjtimex clock_adjtime vhangup "
        "nfsservctl fanotify_init fanotify_mark lookup_dcookie",
    ),
)


def danger_of(call: str) -> str | None:
    """What a refused call could have done; None if it could do no harm."""
    if call.startswith(FOREIGN):
        return "be another call than the filter takes it for"
    return next((danger.what for danger in DANGERS if call in danger.calls.split()), None)


def dangerous_to_cuda() -> frozenset[str]:
    """The calls that are refused to an engine on CUDA whatever their arguments."""
    return frozenset(name for danger in DANGERS if danger.cuda for name in danger.calls.split())
