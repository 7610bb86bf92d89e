"""What a forked child puts on before it becomes its program: the policy of its kind, on top of the supervisor's own.

    confine(Kind.WEB, home=config.home)      # then execve; raises SilenceError; cannot be undone

The order is fixed: files (Landlock) first, because the system call filter that follows refuses Landlock's own calls.
"""

from __future__ import annotations

from pathlib import Path

from appliance.isolation.files import Places, file_rules
from appliance.isolation.kernel import SilenceError
from appliance.isolation.landlock import landlock_abi, restrict_files
from appliance.isolation.policy import Kind
from appliance.isolation.privileges import process_status


def confine(kind: Kind, *, home: Path, places: Places | None) -> None:
    """Put this process and its descendants under the policy of ``kind``, for ever. The caller must have one thread.

    Args:
        home: the site.
        places: what the rules for files name; None where the kernel has no such rules, which the start has said.
    Raises:
        SilenceError: the policy cannot be put on. The process must end.
    """
    if process_status()["NoNewPrivs"] != "1":
        raise SilenceError(f"the process that becomes the {kind} could still gain privileges; shut the door first")
    # 1. Files: what this kind may read, write and execute (Landlock).
    if places is not None:
        restrict_files(landlock_abi(), file_rules(kind, places))
    # 2. System calls: what this kind may call, and with which arguments (seccomp).
