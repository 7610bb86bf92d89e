"""Hosts with Python and nothing else: the kit verifies and installs there, and the release serves.

Roots of Debian are unpacked, not set up: no shell is used, and there is no pip, venv, compiler or user database. They
are kept in the user's cache directory. Debian 11 has Python 3.9, as RHEL 9 does.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bundler.keys import INSTALLER_KEY
from tests.conftest import require
from tests.scenarios.conftest import START_LIMIT_S, Installation
from tests.unprivileged import SERVICE_UID

# What python3 depends on, and what every Debian has: its directories, and the library that apt needs, too.
PACKAGES = "base-files,libstdc++6,python3"
ORDINARY = f"{SERVICE_UID}:{SERVICE_UID}"
ROOT = "0:0"


def debian(suite: str) -> Path | str:
    """The root of a Debian, made once on this machine, or why it cannot be made."""
    require(os.geteuid() == 0, "root, who may enter another root directory")
    require(shutil.which("mmdebstrap") is not None, "mmdebstrap")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gpt-oss-appliance" / "roots"
    cache.mkdir(parents=True, exist_ok=True)
    made = cache / f"{suite}-{PACKAGES}"
    with (cache / f"{suite}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            fresh = cache / f".{suite}.new"
            shutil.rmtree(fresh, ignore_errors=True)
            done = subprocess.run(
                ["mmdebstrap", "--quiet", "--variant=extract", f"--include={PACKAGES}", suite, fresh],
                capture_output=True, text=True, check=False, timeout=540,
            )  # fmt: skip
            if done.returncode:
                return f"a root of Debian {suite} ({done.stderr.strip()[-300:]})"
            fresh.rename(made)
    return made


@contextlib.contextmanager
def bare_host(suite: str, demo: Installation, place: Path) -> Iterator[Path]:
    """A copy of the root, with the media and what came by another way in /media, and an empty /home."""
    host, pristine = place / suite, debian(suite)
    require(isinstance(pristine, Path), str(pristine))
    subprocess.run(["cp", "-a", pristine, host], check=True)
    for directory in (place, *place.parents[:2]):
        directory.chmod(directory.stat().st_mode | 0o055)
    host.chmod(0o755)
    media, home = host / "media" / "stick", host / "home" / "operator"
    for directory in (media, home):
        directory.mkdir(parents=True)
    os.link(demo.archive, media / demo.archive.name)
    for path in (demo.archive.parent / "installer.pyz", demo.root, demo.root.parent / INSTALLER_KEY):
        shutil.copyfile(path, media / path.name)
    for path in (demo.archive.parent / "installer.pyz", demo.root):
        (media / path.name).chmod(0o644)
    os.chown(home, SERVICE_UID, SERVICE_UID)
    try:
        yield host
    finally:
        shutil.rmtree(host)


def inside(host: Path, who: str, *command: str, proc: bool) -> list[str]:
    """The command that runs another in this root as somebody; with ``proc`` /proc is mounted there, for it alone."""
    enter = ["chroot", f"--userspec={who}", str(host), *command]
    if not proc:
        return enter
    mount = 'mount -t proc proc "$0/proc" && exec "$@"'
    return ["unshare", "--mount", "--fork", "--kill-child", "sh", "-c", mount, str(host), *enter]


def kit(host: Path, who: str, *arguments: str, proc: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        inside(host, who, "/usr/bin/python3", "/media/stick/installer.pyz", *arguments, proc=proc),
        capture_output=True, text=True, check=False, timeout=300, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip


ARCHIVE = ("/media/stick/gpt-oss-demo.airgap", "--root", "/media/stick/root.json")
SITES = {ORDINARY: "/home/operator/site", ROOT: "/srv/site"}  # root takes no place that another user could exchange


@contextlib.contextmanager
def served(host: Path, who: str, log: Path) -> Iterator[str]:
    """Run the installed command until the block ends; the address that it printed."""
    site = SITES[who]
    command = inside(host, who, f"{site}/current/venv/bin/appliance", "serve", "--home", site, "--port", "0", proc=True)
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env={"PATH": os.environ["PATH"]})
    try:
        deadline_s = time.monotonic() + START_LIMIT_S
        while not (ready := re.search(r"Appliance ready at (\S+)", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline_s, log.read_text()
            time.sleep(0.1)
        yield ready[1]
    finally:
        for child in subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True
        ).stdout.split():
            os.kill(int(child), signal.SIGINT)
        process.wait(timeout=60)


@pytest.mark.parametrize(
    ("suite", "python", "who"),
    [("bookworm", "3.11", ROOT), ("trixie", "3.13", ORDINARY)],
    ids=["Debian 12", "Debian 13"],
)
def test_the_kit_installs_and_the_release_serves_where_there_is_only_python(
    suite: str, python: str, who: str, demo: Installation, tmp_path: Path
) -> None:
    user, site = ("--user", str(SERVICE_UID)) if who == ROOT else (), SITES[who]
    with bare_host(suite, demo, tmp_path) as host:
        assert list((host / "proc").iterdir()) == []
        verified = kit(host, ORDINARY, "verify", *ARCHIVE, "--json", proc=False)
        assert verified.returncode == 0, verified.stderr
        assert python in json.loads(verified.stdout)["release"]["target"]["pythons"]
        refused = kit(host, ORDINARY, "install", *ARCHIVE, "--prefix", SITES[ORDINARY], proc=False)
        assert "/proc is not mounted here" in refused.stderr
        assert not (host / SITES[ORDINARY][1:]).exists()
        installed = kit(host, who, "install", *ARCHIVE, "--prefix", site, *user)
        assert installed.returncode == 0, installed.stderr
        assert "Its self-test passed" in installed.stdout
        release = next((host / site[1:] / "releases").iterdir())
        assert json.loads((release / "receipt.json").read_bytes())["python"].startswith(f"{python}.")
        if who == ORDINARY:  # once is enough: it compiles every package again
            whole = kit(host, who, "verify", "--prefix", site, "--root", "/media/stick/root.json")
            assert whole.returncode == 0, whole.stdout
        with served(host, who, tmp_path / "log") as url, urllib.request.urlopen(f"{url}/healthz", timeout=60) as answer:  # noqa: S310
            assert json.load(answer) == {"status": "ok"}


# What is taken away from Debian 12, the line of preflight that says so (None: the kit does not start), and its words.
LACKING: dict[str, tuple[str | None, str | None, str]] = {
    "no /proc": (None, "/proc", "/proc is not mounted here"),
    "no libstdc++": (
        "usr/lib/x86_64-linux-gnu/libstdc++.so.6",
        "libraries",
        "this host lacks the library libstdc++.so.6",
    ),
    "a Python without SQLite": (
        "usr/lib/python3.11/lib-dynload/_sqlite3.cpython-311-x86_64-linux-gnu.so",
        "platform",
        "lacks the module sqlite3 of the",
    ),
    "python3-minimal": ("usr/lib/python3.11/gettext.py", None, "lacks the module gettext of the standard library"),
}


@pytest.mark.parametrize("lacking", LACKING)
def test_what_a_bare_host_lacks_is_a_sentence_before_anything_is_copied(
    lacking: str, demo: Installation, tmp_path: Path
) -> None:
    part, subject, words = LACKING[lacking]
    site = SITES[ORDINARY]
    with bare_host("bookworm", demo, tmp_path) as host:
        if part is not None:
            (host / part).unlink()  # one of its links: the root in the cache stays whole
        asked = kit(host, ORDINARY, "preflight", *ARCHIVE, proc=part is not None)
        refused = kit(host, ORDINARY, "install", *ARCHIVE, "--prefix", site, proc=part is not None)
        assert (asked.returncode, refused.returncode) == (1, 1)
        if subject is not None:
            (line, remedy) = asked.stdout[asked.stdout.index(f"FAIL  {subject}: ") :].splitlines()[:2]
            assert words in line
            assert ("processor: " in asked.stdout) == (part is not None), "/proc tells it"
            assert re.match("      to do: (install the|mount it)", remedy)
        else:
            assert asked.stderr == refused.stderr
        assert re.fullmatch(
            f"installer: PlatformError: .*{re.escape(words)}.*: (install the|mount it).*\n", refused.stderr
        )
        assert not (host / site[1:]).exists()


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def python_3_9(demo: Installation, tmp_path: Path) -> Iterator[tuple[Run, Path]]:
    """Runs the kit with the archive, its root and more arguments in Python 3.9; and where a site would be.

    Debian's mirrors will drop Debian 11 some day. Then a Python 3.9 of this machine does.
    """
    if isinstance(debian("bullseye"), Path):
        with bare_host("bullseye", demo, tmp_path) as host:
            yield lambda name, *more: kit(host, ORDINARY, name, *ARCHIVE, *more), host / SITES[ORDINARY][1:]
        return
    here = [
        path for path in (Path("/usr/bin"), *Path.home().glob(".pyenv/versions/*/bin")) if (path / "python3.9").exists()
    ]
    require(bool(here), "Debian 11, or a Python 3.9")
    command: list[str | Path] = [here[0] / "python3.9", demo.archive.parent / "installer.pyz"]
    archive: list[str | Path] = [demo.archive, "--root", demo.root]
    yield (
        lambda name, *more: subprocess.run(
            [*command, name, *archive, *more], capture_output=True, text=True, check=False, env={"PATH": "/nonexistent"}
        ),
        Path(SITES[ORDINARY]),
    )


def test_python_3_9_alone_verifies_and_is_told_which_python_to_add(python_3_9: tuple[Run, Path]) -> None:
    run, site = python_3_9
    verified = run("verify")
    assert verified.returncode == 0, verified.stderr
    refused = run("install", "--prefix", SITES[ORDINARY])
    assert refused.returncode == 1
    (said,) = refused.stderr.splitlines()
    assert re.match(
        r"installer: OtherPythonError: the release needs CPython 3\.11.* this is CPython 3\.9: install", said
    )
    assert not site.exists()
