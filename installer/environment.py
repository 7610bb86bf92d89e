"""The release's own Python environment and its self-test: the two places where the installer starts other programs.

The environment is made without ensurepip (Debian and others ship it apart); pip runs out of its own verified wheel.
Nothing is fetched: --no-index, and every wheel's hash must be in the release's signed requirements.lock.
"""

from __future__ import annotations

import subprocess
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

from installer.errors import SelfTestError, StorageFullError, WheelInstallError
from installer.owner import Owner
from installer.release import REQUIREMENTS

_QUOTED_LINES = 4
SELF_TEST_TIMEOUT_S = 3600  # loading 120b from a slow disk takes many minutes


class _User(TypedDict, total=False):
    """Arguments of ``subprocess.run``."""

    user: int
    group: int
    extra_groups: tuple[int, ...]
    cwd: str


def make_environment(release: Path, environ: Mapping[str, str], lock: int) -> None:
    """Make release/venv and install the release's wheels into it.

    Args:
        environ: the process environment; what could redirect Python or pip is left out of it.
        lock: the descriptor that holds the site; pip inherits it, so that it never writes without it.
    Raises:
        WheelInstallError: pip refused, with its last lines.
        StorageFullError: the disk filled up.
    """
    venv.EnvBuilder(with_pip=False, symlinks=True).create(release / "venv")
    pips = sorted((release / "wheels").glob("pip-*.whl"))
    if len(pips) != 1:
        raise WheelInstallError("the release must contain exactly one wheel of pip")
    command = [
        str(release / "venv" / "bin" / "python"), "-I", str(pips[0] / "pip"),
        "install", "--isolated", "--disable-pip-version-check", "--no-input", "--no-cache-dir",
        "--no-index", "--find-links", str(release / "wheels"), "--only-binary", ":all:",
        "--require-hashes", "--requirement", str(release / REQUIREMENTS),
    ]  # fmt: skip
    done = subprocess.run(
        command, env=_clean(environ), capture_output=True, text=True, errors="replace", check=False, pass_fds=(lock,)
    )
    if done.returncode:
        if "No space left on device" in done.stderr or "File too large" in done.stderr:
            raise StorageFullError("the disk is full; the new release was removed and the current one is unchanged")
        raise WheelInstallError(f"pip could not install the release's wheels: {_last_lines(done.stderr)}")


def run_self_test(release: Path, environ: Mapping[str, str], owner: Owner | None) -> None:
    """Run the release's own `appliance selftest`: the model must give its known answers on this machine.

    Args:
        owner: the user to run it as; None: the present one. The installed release never runs as root.
    Raises:
        SelfTestError: it did not, could not be started, or took longer than an hour.
    """
    command = [str(release / "venv" / "bin" / "appliance"), "selftest", "--release", str(release)]
    try:
        done = subprocess.run(
            command, env=_clean(environ), capture_output=True, text=True, errors="replace", check=False,
            timeout=SELF_TEST_TIMEOUT_S, **_as_user(owner),
        )  # fmt: skip
    except OSError as exc:
        raise SelfTestError(f"the release's self-test cannot be started: {exc.strerror}") from exc
    except subprocess.TimeoutExpired as exc:
        raise SelfTestError(f"the release's self-test took longer than {SELF_TEST_TIMEOUT_S} s") from exc
    if done.returncode:
        raise SelfTestError(f"the release failed its self-test: {_last_lines(done.stderr or done.stdout)}")


def _as_user(owner: Owner | None) -> _User:
    return {} if owner is None else {"user": owner.uid, "group": owner.gid, "extra_groups": (), "cwd": "/"}


def _clean(environ: Mapping[str, str]) -> dict[str, str]:
    kept = {key: value for key, value in environ.items() if not key.startswith(("PIP_", "PYTHON", "VIRTUAL_ENV"))}
    return kept | {"LC_ALL": "C.UTF-8"}  # messages are compared and quoted


def _last_lines(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return " | ".join(lines[-_QUOTED_LINES:]) or "no output"
