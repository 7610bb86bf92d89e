"""The confinement of an administrator's command: no way out, no files but those of its work, no privileges.

    confine_command(config, signs=True)      # then import what is heavy, and work; cannot be undone

The command opens the files that a person names on the command line before this, with the rights of that person. This
module proves nothing: `appliance doctor` makes the attempts and says what this host grants. Without Landlock, the
system call filter is still in force.
"""

from __future__ import annotations

import os
import tempfile
from typing import Final

from appliance.config import Config
from appliance.isolation.files import administration_rules, places_of, reader_rules
from appliance.isolation.kernel import SilenceError
from appliance.isolation.landlock import Rule, landlock_abi, restrict_self
from appliance.isolation.policy import Kind, call_policy
from appliance.isolation.privileges import drop_privileges, owner_to_become, process_status
from appliance.isolation.seccomp import Refusal, install_filter

CONFINED_ENVIRON: Final = "APPLIANCE_CONFINED"  # set for a command that the supervisor starts already confined


def confine_command(config: Config, *, signs: bool = False) -> None:
    """Change from root to the owner of ``state/``, whose site it is, and close everything but the record of the site.

    Args:
        signs: the command signs checkpoints and so needs the signing key.
    Raises:
        SilenceError: the record is in a database server, or the kernel refuses what it offers.
    """
    places = places_of(config)
    if places.database is None:
        raise SilenceError("a record in PostgreSQL needs a way to connect that this version does not open; use SQLite")
    os.environ["TMPDIR"] = str(places.state / "tmp" / Kind.ADMINISTRATION)
    tempfile.tempdir = None  # the directory that Python may have chosen before is closed to this process now
    _close(owner_to_become(config.state_dir), administration_rules(places, signs=signs))


def confine_reader() -> None:
    """Confine a command that needs no site and has read all its input: from here on it only computes and prints."""
    _close(None, reader_rules())


def _close(become: tuple[int, int] | None, rules: tuple[Rule, ...]) -> None:
    if os.environ.get(CONFINED_ENVIRON) == "1":
        _check_confined()
        return
    if len(os.listdir("/proc/self/task")) != 1:  # Landlock restricts only the thread that calls it
        raise SilenceError("a command must be confined before it has a second thread")
    drop_privileges(become=become)
    abi = landlock_abi()
    if abi:
        restrict_self(abi, rules)
    install_filter(call_policy(Kind.ADMINISTRATION), Refusal.ERRNO)


def _check_confined() -> None:
    """Believe that this process is confined only if the kernel says so.

    Raises:
        SilenceError: it is not.
    """
    held = process_status()
    if held["NoNewPrivs"] != "1" or held["Seccomp"] != "2" or int(held["CapEff"], 16) != 0:
        raise SilenceError(f"{CONFINED_ENVIRON} is set, but this command is not confined; unset the variable")
