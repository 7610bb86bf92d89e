"""Somebody starts the appliance from a prepared environment: closed descriptors, ignored signals, limits so low that
the record would end, variables that make libraries load code, a socket that leads out in place of the listener.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.config import load_config
from appliance.isolation.files import library_path
from appliance.isolation.policy import Kind
from appliance.isolation.privileges import is_listener
from appliance.runtime.listener import ListenError, listen
from tests.appliance.supervised import Site, is_alive, supervised
from tests.attacks.test_clean_start import Scene, installed, scene
from tests.conftest import require
from tests.unprivileged import SERVICE_UID, give_to_user

__all__ = ["installed", "scene"]
_PR_SET_PDEATHSIG = 1
_IPPROTO_MPTCP, _IPPROTO_SCTP = 262, 132

# Runs before the supervisor's file: what a caller does to the process that then becomes ours.
_PREPARE = {
    "no descriptors": "for fd in (0, 1, 2): os.close(fd)",
    "no output": "os.close(1); os.close(2)",
    "ends of children ignored": "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
    "signals ignored": "[signal.signal(n, signal.SIG_IGN) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGPIPE)]",
    "signals blocked": "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
    "files for everybody": "os.umask(0)",
    "a directory that is gone": "os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')",
}


def prepared(how: str, *command: str) -> list[str]:
    """The command of a caller who has done this first."""
    code = f"import os, resource, signal, sys\n{how}\nos.execv(sys.argv[1], sys.argv[1:])"
    return [sys.executable, "-c", code, *command]


def children_named(site: Site, text: str) -> list[int]:
    found = []
    for pid in site.descendants():
        with contextlib.suppress(OSError):
            if text.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def recorded(site: Site, event: str) -> bool:
    with contextlib.suppress(OSError):
        return any(note["event"] == event for note in site.recorded())
    return False


@pytest.mark.parametrize("how", _PREPARE)
def test_serves_notices_deaths_and_ends_however_it_was_started(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with supervised(tmp_path / "site", launched=prepared(_PREPARE[how], sys.executable)) as site:
        site.until(lambda: recorded(site, "started"))
        (engine,) = site.until(lambda: children_named(site, "recv_fds"))
        again = subprocess.run(
            prepared("", sys.executable, str(Path(__file__).parents[1] / "appliance" / "supervised.py"),
                     str(site.home), "{}"), capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip
        assert "already being served" in again.stderr  # the lock is still the same file
        os.kill(engine, signal.SIGKILL)
        site.until(lambda: recorded(site, "process_ended"))
        made = [path for path in (site.home / "state").rglob("*") if not path.is_symlink()]
        assert [path for path in made if path.stat().st_mode & 0o077] == []
        site.process.terminate()
        assert site.process.wait(20) == 0
        assert not is_alive(engine)


LIMITS = {
    "few files": (resource.RLIMIT_NOFILE, 24, "which is too few to serve"),
    "short files": (resource.RLIMIT_FSIZE, 0, "as the record must"),
}


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_that_would_end_the_record_is_one_sentence(name: str) -> None:
    limit, value, words = LIMITS[name]
    code = (
        f"import resource; resource.setrlimit({limit}, ({value}, {value}))\n"
        "from appliance.runtime.inherited import InheritedError, check_limits\n"
        "try:\n    check_limits()\nexcept InheritedError as exc:\n    print(exc)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert words in done.stdout


@pytest.mark.parametrize("command", ["serve", "doctor"])
def test_a_user_who_may_start_no_further_process_is_told_so_in_one_sentence(scene: Scene, command: str) -> None:
    """A limit on processes counts threads, too, which compare the release before anything else runs."""
    give_to_user(scene.site)
    uid = SERVICE_UID if os.geteuid() == 0 else None
    done = subprocess.run(
        [scene.site / "current/venv/bin/appliance", command, "--home", scene.site],
        capture_output=True, text=True, check=False, timeout=60, user=uid, group=uid,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NPROC, (1, 1)),
    )  # fmt: skip
    assert done.returncode == 1
    assert "no further process can be started: Resource temporarily unavailable" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert command == "doctor" or len(done.stderr.splitlines()) == 1, done.stderr


def test_a_limit_that_the_caller_may_raise_is_raised() -> None:
    code = (
        "import resource; most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (24, most))\n"
        "from appliance.runtime.inherited import check_limits\ncheck_limits()\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0] == most)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def listeners() -> Iterator[tuple[str, socket.socket]]:
    """Sockets that listen, or seem to, and that a service manager could hand over; only those that this kernel has."""
    made: dict[str, Callable[[], socket.socket]] = {
        "Multipath TCP": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, _IPPROTO_MPTCP),
        "SCTP": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, _IPPROTO_SCTP),
        "SCTP to many": lambda: socket.socket(socket.AF_INET, socket.SOCK_SEQPACKET, _IPPROTO_SCTP),
        "vsock": lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM),
        "Unix packets": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET),
    }
    for name, make in made.items():
        with contextlib.suppress(OSError):
            sock = make()
            with contextlib.suppress(OSError):
                if sock.family == socket.AF_INET:
                    sock.bind(("127.0.0.1", 0))
                elif sock.family == socket.AF_UNIX:
                    sock.bind("")
                sock.listen()
            yield name, sock


def test_a_socket_that_leads_out_is_no_listener(tmp_path: Path) -> None:
    """An SCTP socket sends to any address. A Multipath TCP connection opens others, to addresses the peer names."""
    config, tried = load_config(tmp_path), []
    for name, sock in listeners():
        with sock:
            tried.append(name)
            assert not is_listener(sock), name
            with pytest.raises(ListenError, match="does not listen for TCP or Unix streams"):
                listen(config, os.dup(sock.fileno()))
    assert "Unix packets" in tried
    assert "Multipath TCP" in tried or not Path("/proc/sys/net/mptcp").exists()
    with socket.create_server(("127.0.0.1", 0)) as plain, socket.socket() as silent:
        assert is_listener(plain)
        assert not is_listener(silent)


_ARRIVES = """
#include <fcntl.h>
#include <unistd.h>
__attribute__((constructor)) static void arrive(void) { close(open("MARK", O_CREAT | O_WRONLY, 0600)); }
"""
_OPENSSL = """
openssl_conf = start
[start]
providers = all
[all]
evil = evil
[evil]
module = LIBRARY
activate = 1
"""


@pytest.fixture
def openssl_conf(tmp_path: Path, scene: Scene) -> Path:
    """A configuration that makes OpenSSL load code, which leaves a mark."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    require(compiler is not None, "a C compiler")
    assert compiler is not None
    source, library, conf = (tmp_path / name for name in ("arrives.c", "arrives.so", "openssl.cnf"))
    source.write_text(_ARRIVES.replace("MARK", str(scene.marker)))
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    conf.write_text(_OPENSSL.replace("LIBRARY", str(library)))
    return conf


def test_openssl_is_not_told_what_to_load(scene: Scene, openssl_conf: Path) -> None:
    """hashlib, which compares the release with its manifest, loads OpenSSL, which reads OPENSSL_CONF."""
    environ = {**os.environ, "OPENSSL_CONF": str(openssl_conf)}
    interpreter = (scene.release / "venv/bin/appliance").read_text().partition(" ")[0].removeprefix("#!")
    subprocess.run([interpreter, "-IS", "-c", "import hashlib; hashlib.sha256()"], check=True, env=environ)
    require(scene.marker.exists(), "an interpreter whose hashlib uses the OpenSSL of this host")
    scene.marker.unlink()
    command = [str(scene.site / "current/venv/bin/appliance"), "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    assert done.returncode == 0, done.stderr
    assert not scene.marker.exists()


def test_only_the_engine_on_cuda_is_given_the_callers_libraries(tmp_path: Path) -> None:
    (tmp_path / "libpython3.11.so.1.0").touch()
    assert library_path(Kind.WEB, f"{tmp_path}:/nowhere") == ""
    assert library_path(Kind.ENGINE_CPU, f"{tmp_path}") == ""
    assert library_path(Kind.ENGINE_CUDA, f"{tmp_path}:/nowhere") == f"{tmp_path}:/nowhere"


_READ_ALL = """
import json, os, sys
from pathlib import Path
from appliance.audit import daily, keys, ledger, ledger_file, note
from appliance.audit.fault import LogBrokenError
from appliance.config import Config, load_config
from appliance.errors import ApplianceError
from appliance.runtime.site_lock import is_served
home = Path(sys.argv[1])
state = home / "state"
config = Config(home=home, release_dir=home, database_url="sqlite://")
audit = state / "audit"
readers = [
    ("config/appliance.toml", lambda: load_config(home)),
    ("supervisor.lock", lambda: is_served(config)),
    ("keys/audit.pub", lambda: note.load_verifier(state / "keys")),
    ("signer/audit.key", lambda: keys.load_any_signer(state, "origin")),
    ("audit/ledger.txt", lambda: ledger.read_tail(audit)),
    ("audit/ledger.txt", lambda: ledger.read_ledger(audit)),
    ("audit/ledger.txt", lambda: ledger_file.append_note(audit, "note", follows=None)),
    ("audit/checkpoint-2026-01-01.txt", lambda: daily.daily_notes(audit)),
]
for name, read in readers:
    path = state / name
    path.parent.mkdir(parents=True, exist_ok=True)
    for put in (lambda: os.mkfifo(path), lambda: path.symlink_to("/dev/zero")):
        put()
        try:
            read()
        except (ApplianceError, LogBrokenError):
            pass
        path.unlink()
    print(name, flush=True)
"""


def test_what_is_no_plain_file_in_state_has_no_command_wait(tmp_path: Path) -> None:
    """The owner of state/ can put a named pipe or a link to a device where root's commands read."""
    done = subprocess.run(
        [sys.executable, "-c", _READ_ALL, str(tmp_path)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 8
