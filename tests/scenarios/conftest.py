"""One real site for the scenarios: the demo model, built, signed, installed and served by the real commands."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import MakeOnce
from tests.unprivileged import USER_OPTION, let_through

BIN = Path(sys.executable).parent
START_LIMIT_S = 120.0
OWN_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
BARE_PYTHONS = ("3.11", "3.13")  # of the hosts of test_bare_hosts.py


def command(*argv: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run one of the project's commands as a person would. If it fails, show what it said."""
    name, *rest = argv
    done = subprocess.run([BIN / str(name), *map(str, rest)], capture_output=True, text=True, check=False, timeout=600)
    if check and done.returncode != 0:
        pytest.fail(f"{' '.join(map(str, argv))} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done


@dataclass
class Installation:
    """What bundler and installer made."""

    archive: Path
    root: Path
    site: Path

    @property
    def appliance(self) -> Path:
        """The installed release's own command."""
        return self.site / "current" / "venv" / "bin" / "appliance"


@dataclass
class Served:
    """A running appliance."""

    process: subprocess.Popen[str]
    url: str
    lines: list[str] = field(default_factory=list)

    def children(self) -> list[int]:
        """Process ids below the supervisor, at any depth."""
        found, waiting = [], [self.process.pid]
        while waiting:
            parent = waiting.pop()
            listing = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True)
            below = [int(pid) for pid in listing.stdout.split()]
            found += below
            waiting += below
        return found

    def pid_of(self, what: str) -> int:
        """The one child whose command line contains `what`."""
        return next(pid for pid in self.children() if what in Path(f"/proc/{pid}/cmdline").read_text())

    def link(self) -> str:
        """The first administrator's one-time link, as printed."""
        found = re.search(r"https?://\S+/welcome/\S+", "\n".join(self.lines))
        assert found is not None, self.lines
        return found.group(0)


@contextlib.contextmanager
def serving(installation: Installation, *, until: str = "Appliance ready at ") -> Iterator[Served]:
    """Run `appliance serve` on a free port until the block ends."""
    process = subprocess.Popen(
        [installation.appliance, "serve", "--home", installation.site, "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    said: queue.Queue[str] = queue.Queue()
    served = Served(process, "")

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            served.lines.append(line.rstrip())
            said.put(line)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        deadline_s = time.monotonic() + START_LIMIT_S
        while until not in (line := said.get(timeout=max(deadline_s - time.monotonic(), 0.01))):
            pass
        served.url = line.split(until)[1].strip()
        yield served
    except queue.Empty:
        pytest.fail("the appliance did not start:\n" + "\n".join(served.lines))
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        reader.join(timeout=10)
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture(scope="session")
def demo(once: MakeOnce, own_wheel: Path) -> Installation:
    """The demo archive, built and installed by the real commands. All workers share it, so nobody serves this site."""

    def make(here: Path) -> None:
        archive, keys = here / "gpt-oss-demo.airgap", here / "keys"
        command("bundler", "demo-checkpoint", "--out", here / "checkpoint")
        command("bundler", "keygen", "--keys", keys)
        command(
            "bundler", "build", "--checkpoint", here / "checkpoint", "--keys", keys, "--out", archive,
            "--own-wheel", own_wheel, *(f"--python={python}" for python in {OWN_PYTHON, *BARE_PYTHONS}),
        )  # fmt: skip
        let_through(here)
        command("installer", "install", archive, "--root", keys / "root.json", "--prefix", here / "site", *USER_OPTION)

    here = once("demo", make)
    return Installation(here / "gpt-oss-demo.airgap", here / "keys" / "root.json", here / "site")


def installed_again(demo: Installation, home: Path) -> Installation:
    """The same site at ``home``, of hard links. A test must exchange what it alters of store and releases."""
    home.mkdir()
    for name in ("store", "releases"):
        subprocess.run(["cp", "-al", demo.site / name, home / name], check=True)
    subprocess.run(["cp", "-a", demo.site / "state", demo.site / "current", home], check=True)
    let_through(home)
    return Installation(demo.archive, demo.root, home)


@pytest.fixture(scope="session")
def installation(demo: Installation, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """A site of this worker's own, which `appliance` serves."""
    return installed_again(demo, tmp_path_factory.mktemp("scenarios") / "site")


@pytest.fixture(scope="session")
def appliance(installation: Installation) -> Iterator[Served]:
    """The installed appliance, running."""
    with serving(installation) as served:
        yield served
