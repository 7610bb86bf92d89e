"""Runs a program as the supervisor does: under the file rules and system call filters of its kind.

    python -m bench.confined KIND SITE PROGRAM ARGUMENT..

A kind is one of `appliance.isolation.policy.Kind`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from appliance.config import load_config
from appliance.isolation.confinement import confine
from appliance.isolation.files import places_of, scratch_dir
from appliance.isolation.kernel import PR_SET_NO_NEW_PRIVS, prctl
from appliance.isolation.policy import Kind, call_policy
from appliance.isolation.seccomp import Refusal, install_filter


def main() -> None:
    """Become the program. It has both filters: the supervisor's, which every program inherits, and its own."""
    kind, site, *argv = sys.argv[1:]
    config = load_config(Path(site))
    scratch = scratch_dir(config.state_dir, Kind(kind))
    scratch.mkdir(parents=True, exist_ok=True)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    install_filter(call_policy(Kind.SUPERVISOR), Refusal.TRACE)
    confine(Kind(kind), places=places_of(config), watch=None)
    os.execve(argv[0], argv, {**os.environ, "TMPDIR": str(scratch)})  # noqa: S606 - no shell wanted


if __name__ == "__main__":
    main()
