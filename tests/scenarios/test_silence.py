"""Silence, seen from outside. In a network of the test's own the appliance answers and nothing arrives anywhere, while
every sink sees the same probe unconfined. As root and as an ordinary user, also on a host that grants nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest

from tests.appliance.engine.conftest import release_dir, vocabulary_file  # noqa: F401 - fixtures
from tests.conftest import require

REPOSITORY = Path(__file__).parents[2]
NOBODY = 65534
SINKS = {
    "tcp loopback", "tcp outside", "tcp6 loopback", "udp loopback", "udp outside", "udp6 loopback",
    "unix path", "unix path datagram", "unix abstract",
}  # fmt: skip
# A host whose administrator forbids namespaces: limits of a user namespace around the appliance.
FORBID_NAMESPACES = [
    "unshare", "--user", "--map-current-user", "--keep-caps", "sh", "-c",
    "echo 0 > /proc/sys/user/max_user_namespaces; echo 0 > /proc/sys/user/max_net_namespaces; "
    "exec setpriv --inh-caps=-all --ambient-caps=-all \"$@\"", "sh",
]  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """A directory with the appliance that every user can read; ``setup`` mounts what only root can read."""

    directory: Path
    python: Path
    setup: list[str]


@pytest.fixture(scope="module")
def stage(release_dir: Path) -> Iterator[Stage]:  # noqa: F811
    """Interpreter, code and a release, where an ordinary user can reach them wherever this checkout lies."""
    require(shutil.which("ip") is not None and shutil.which("setpriv") is not None, "iproute2 and util-linux")
    directory = Path(tempfile.mkdtemp(prefix="silence-"))
    directory.chmod(0o755)
    shutil.copytree(release_dir, directory / "release")
    prefix, packages, code = directory / "python", directory / "packages", directory / "code"
    for path in (prefix, packages, code, directory / "venv" / "bin"):
        path.mkdir(parents=True)
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    python = directory / "venv" / "bin" / "python"
    python.symlink_to(prefix / "bin" / name)
    (directory / "venv" / "pyvenv.cfg").write_text(f"home = {prefix}/bin\ninclude-system-site-packages = false\n")
    own_packages = directory / "venv" / "lib" / name / "site-packages"
    own_packages.mkdir(parents=True)
    (own_packages / "shared.pth").write_text(f"{code}\n{packages}\n")
    shutil.copy(Path(sys.executable).with_name("gunicorn"), directory / "venv" / "bin" / "gunicorn")
    mounts = [(sys.base_prefix, prefix), (Path(click.__file__).parents[1], packages), (REPOSITORY, code)]
    binds = " && ".join(f"mount --bind '{source}' '{target}'" for source, target in mounts)
    try:
        yield Stage(directory, python, ["sh", "-c", f'{binds} && exec "$@"', "sh"])
    finally:
        shutil.rmtree(directory)


def confine(stage: Stage, user: str, host: str) -> dict[str, Any]:
    """Run confinement.py in new namespaces, with the appliance as ``user``. Returns what it found."""
    with tempfile.TemporaryDirectory(prefix="sinks-", dir=stage.directory) as name:
        directory = Path(name)
        directory.chmod(0o755)
        launcher: list[str] = []
        if user == "ordinary":
            launcher = ["setpriv", "--inh-caps=-all", "--ambient-caps=-all"]
            if os.geteuid() == 0:
                os.chown(directory, NOBODY, NOBODY)
                launcher += [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        if host == "forbids namespaces":
            launcher += FORBID_NAMESPACES
        options = {
            "directory": name,
            "release": str(stage.directory / "release"),
            "launcher": launcher,
            "python": str(stage.python),
            "leave_out": ["namespace", "landlock"] if host == "grants nothing" else [],
            "owner": NOBODY if user == "root for an owner" else None,
        }
        own = [] if os.geteuid() == 0 else ["--map-current-user", "--keep-caps"]
        command = ["unshare", *own, "--net", "--mount", *stage.setup, str(stage.python)]
        script = ["-m", "tests.scenarios.confinement", json.dumps(options)]
        environ = {
            "PATH": os.environ["PATH"], "HOME": name, "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1",
            "LD_LIBRARY_PATH": str(stage.directory / "python" / "lib"),  # for an interpreter with a shared libpython
        }  # fmt: skip
        done = subprocess.run(
            [*command, *script], cwd=stage.directory, env=environ,
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        if done.returncode != 0:
            require("unshare failed" not in done.stderr, f"a network namespace for the test ({done.stderr.strip()})")
            pytest.fail(done.stderr)
        found: dict[str, Any] = json.loads(done.stdout)
        return found


CASES = [
    ("root for an owner", "grants everything"),
    ("ordinary", "grants everything"),
    ("ordinary", "forbids namespaces"),
    ("ordinary", "grants nothing"),
]


@pytest.mark.parametrize(("user", "host"), [case for case in CASES if os.geteuid() == 0 or case[0] == "ordinary"])
def test_appliance_answers_and_nothing_arrives_but_an_unconfined_probe_does(stage: Stage, user: str, host: str) -> None:
    found = confine(stage, user, host)

    unconfined = found["unconfined"]
    assert set(unconfined["arrived"]) >= SINKS  # the sinks work
    assert any("53" in packet for packet in unconfined["arrived"] if packet.startswith("packet on quiet0"))
    assert set(unconfined["outcomes"].values()) == {"sent"}

    assert found["attempts"] == []  # the programs make only the calls of their lists
    assert found["chat"] == {"finish_reason": "length", "arrived": []}

    confined = found["confined"]
    assert confined["outcomes"].keys() == unconfined["outcomes"].keys()
    assert set(confined["outcomes"].values()) == {"PermissionError"}
    assert confined["arrived"] == []

    no_namespace = "Not in force: network namespace of its own" in confined["said"]
    assert no_namespace == (host != "grants everything")
    yama = Path("/proc/sys/kernel/yama/ptrace_scope")
    guarded = yama.exists() and yama.read_text().strip() != "0"
    memory_open = "Not in force: memory of the same user's other processes" in confined["said"]
    assert memory_open == (host == "grants nothing" and not guarded)
    assert confined["uid"] == (NOBODY if os.geteuid() == 0 else os.geteuid())
