"""The service manager of this host, through `systemctl`."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from installer.errors import ServiceError

_LIMIT_S = 300.0  # stopping waits for answers that are still being written
_RUNNING = Path("run/systemd/system")  # exists while systemd is the service manager, sd_booted(3)


def has_systemd(root: Path = Path("/")) -> bool:
    """Whether systemd runs this host."""
    return (root / _RUNNING).is_dir()


@dataclass(frozen=True)
class Manager:
    """systemd, as the manager of the host or of this user."""

    of_user: bool

    @classmethod
    def here(cls) -> Manager:
        return cls(of_user=os.geteuid() != 0)

    def enable(self, name: str) -> None:
        """Have socket and service start with the host, and start them now.

        Raises:
            ServiceError: systemctl says why not.
        """
        self._run("daemon-reload")
        self._run("enable", "--now", f"{name}.socket", f"{name}.service")

    def reload(self) -> None:
        """Read changed units. What runs goes on as it is until it is restarted."""
        self._run("daemon-reload")

    def disable(self, name: str) -> None:
        """Stop socket and service, and start them no more."""
        self._run("disable", "--now", f"{name}.socket", f"{name}.service")

    def command(self, verb: str, unit: str) -> str:
        """What a person types."""
        return f"systemctl {'--user ' if self.of_user else ''}{verb} {unit}"

    def _run(self, *arguments: str) -> None:
        command = ["systemctl", *(["--user"] if self.of_user else []), *arguments]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", check=False, timeout=_LIMIT_S
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise ServiceError(f"{' '.join(command)}: {exc}") from exc
        if done.returncode:
            why = " | ".join(line.strip() for line in done.stderr.splitlines() if line.strip())
            raise ServiceError(f"{' '.join(command)} failed: {why or done.returncode}")
