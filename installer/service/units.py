"""The systemd units of a site: what they say, and why.

A socket unit binds the address and hands the listening socket over, so the appliance itself needs no network: it runs
in a network namespace that holds loopback alone. The service unit gives it nothing that it does not need. Both are
checked by `systemd-analyze security`, and a real systemd starts them in tests/scenarios/test_service.py.

The settings that would break the appliance, or blind it, are left out on purpose:

- MemoryDenyWriteExecute: ONNX Runtime and CUDA map code; executable memory is no way out (appliance/isolation/policy).
- RestrictAddressFamilies without AF_INET: the proof of silence opens loopback before the door is shut.
- SystemCallFilter as a list of what is allowed: the appliance has such lists, for each kind of process, and its watcher
  reports what they refuse. What systemd's filter refuses first, the watcher cannot see. So that filter holds only what
  a process without capabilities could not do anyway; @debug (ptrace) stays visible.
- Type=notify: nothing of the appliance may connect to systemd's socket. `keeper wait` waits for readiness instead.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from installer.errors import ServiceError
from installer.formats.units import SITE_MARK

NAME = "gpt-oss"
LISTEN = "127.0.0.1:8080"
_PLAIN = re.compile(r"/[A-Za-z0-9._+@,=~/-]*")  # needs no quoting in a unit, in any place of it
_NAME = re.compile(r"[a-z][a-z0-9-]{0,47}")
_ADDRESS = re.compile(r"(?:(?P<host>[0-9.]+)|\[(?P<host6>[0-9a-fA-F:.]+)\]):(?P<port>[0-9]{1,5})")
# Directories that the sandbox empties; what a site needs of them is bound back.
_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 - names, nothing is made there
_HEADER = "# Written by `installer service install`, which replaces it. Put changes into a drop-in (systemctl edit).\n"


@dataclass(frozen=True)
class ServicePlan:
    """The service of one site."""

    prefix: Path
    name: str  # of the units
    listen: str  # ListenStream=
    user: str | None  # None: a service of the installing user's own service manager
    group: str | None
    gpu: bool
    interpreter: Path  # the host's Python, which runs release and keeper
    packages: Path  # its standard library


def plan_service(
    prefix: Path, *, user: str | None, group: str | None, gpu: bool, interpreter: Path, packages: Path,
    name: str = NAME, listen: str = LISTEN,
) -> ServicePlan:  # fmt: skip
    """Raises: ServiceError: the site cannot be served by these units; nothing was written."""
    for path in (prefix, interpreter, packages):
        if _PLAIN.fullmatch(str(path)) is None:
            raise ServiceError(
                f"{str(path)!r} cannot stand in a systemd unit; choose a path of letters, digits and . _ + @ , = -, or "
                "start the appliance by a command (--no-service)"
            )
    if _NAME.fullmatch(name) is None:
        raise ServiceError(f"{name!r} is no name for a service: begin with a small letter, go on with these, digits, -")
    _check_address(listen)
    return ServicePlan(prefix, name, listen, user, group, gpu, interpreter, packages)


def _check_address(listen: str) -> None:
    found = _ADDRESS.fullmatch(listen)
    if found is None or not 0 < int(found["port"]) < 65536:
        raise ServiceError(f"{listen!r} is no address to listen on: write 127.0.0.1:8080, 0.0.0.0:443 or [::]:443")


def socket_unit(plan: ServicePlan) -> str:
    """The unit that listens. FreeBind: an address that comes up later must not fail the boot."""
    return f"""{_HEADER}{SITE_MARK}{plan.prefix}
[Unit]
Description=Listening socket of the gpt-oss appliance in {plan.prefix}

[Socket]
ListenStream={plan.listen}
Backlog=1024
FreeBind=yes

[Install]
WantedBy=sockets.target
"""


def service_unit(plan: ServicePlan) -> str:
    """The unit that serves.

    Of a user's own service manager it has no sandbox: without root, systemd could make most of it only in a user
    namespace, and then the appliance could not make its own.
    """
    sections = [
        f"{_HEADER}{SITE_MARK}{plan.prefix}",
        _section("Unit", _about(plan)),
        _section("Service", [*_running(plan), *([] if plan.user is None else _sandbox(plan))]),
        _section("Install", [f"WantedBy={'default' if plan.user is None else 'multi-user'}.target"]),
    ]
    return "\n".join(sections)


def _about(plan: ServicePlan) -> list[str]:
    return [
        f"Description=gpt-oss appliance in {plan.prefix}",
        f"Requires={plan.name}.socket",
        f"After={plan.name}.socket",
        f"RequiresMountsFor={plan.prefix}",
        "# A failed start is tried again for ever: while a release is on trial, the keeper counts the starts.",
        "StartLimitIntervalSec=0",
    ]


def _running(plan: ServicePlan) -> list[str]:
    """`+`: the keeper runs as root, because only root can switch `current`; it opens nothing of the release."""
    as_root = "" if plan.user is None else "+"
    keeper = f"{as_root}{plan.prefix}/service/keeper"
    return [
        "Type=exec",
        *([] if plan.user is None else [f"User={plan.user}", f"Group={plan.group}"]),
        f"ExecStartPre={keeper} before",
        f"ExecStart={plan.prefix}/current/venv/bin/appliance serve --home {plan.prefix}",
        f"ExecStartPost={keeper} wait",
        f"ExecStopPost={keeper} after",
        "Restart=on-failure",
        "RestartSec=5",
        "# The keeper has a limit of its own for a release on trial; loading a large model may take long.",
        "TimeoutStartSec=infinity",
        "TimeoutStopSec=30",
        "# The supervisor ends its programs in order; the recorder is the last.",
        "KillMode=mixed",
        "# The supervisor starts an engine again that ran out of memory.",
        "OOMPolicy=continue",
        "UMask=0077",
        "NoNewPrivileges=yes",
    ]


def _sandbox(plan: ServicePlan) -> list[str]:
    return [*_FIXED, *_files(plan), *(_GPU if plan.gpu else _NO_GPU)]


def _files(plan: ServicePlan) -> list[str]:
    """Everything is read-only but state/. What the site needs below an emptied directory is bound back."""
    bound = [f"BindReadOnlyPaths={path}" for path in (plan.prefix, plan.interpreter, plan.packages) if _is_hidden(path)]
    state = plan.prefix / "state"
    return [*bound, f"{'BindPaths' if _is_hidden(state) else 'ReadWritePaths'}={state}"]


def _is_hidden(path: Path) -> bool:
    return any(str(path).startswith(f"{directory}/") for directory in _HIDDEN)


def _section(name: str, lines: list[str]) -> str:
    return "\n".join([f"[{name}]", *lines, ""])


_FIXED = (
    "CapabilityBoundingSet=",
    "AmbientCapabilities=",
    "# Network: the socket unit has bound the address.",
    "PrivateNetwork=yes",
    "IPAddressDeny=any",
    "IPAddressAllow=localhost",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6",
    "# Files",
    "ProtectSystem=strict",
    "ProtectHome=tmpfs",
    "PrivateTmp=yes",
    "ProtectProc=invisible",
    "# Kernel and host",
    "PrivateUsers=yes",
    "PrivateIPC=yes",
    "PrivateMounts=yes",
    "ProtectHostname=yes",
    "ProtectClock=yes",
    "ProtectKernelTunables=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelLogs=yes",
    "ProtectControlGroups=yes",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "LockPersonality=yes",
    "RemoveIPC=yes",
    "KeyringMode=private",
    "SystemCallArchitectures=native",
    "SystemCallErrorNumber=EPERM",
    "SystemCallFilter=~@clock @cpu-emulation @module @mount @obsolete @raw-io @reboot @swap",
    "# Devices",
    "DevicePolicy=closed",
)
_NO_GPU = ("PrivateDevices=yes",)
_GPU = ("DeviceAllow=char-nvidia* rw", "SystemCallFilter=~@debug")
