"""What the supervisor starts: the programs of a running appliance, their environment, and one way of starting them.

A program gets only the descriptors named for it, an environment of known variables, a session of its own (Ctrl-C in the
terminal reaches the supervisor alone, which then ends its programs in order) and a signal that it gets when the
supervisor dies. SIGTERM tells it to end; it ignores other signals (`appliance.signals`).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from appliance.child import fork
from appliance.config import Config
from appliance.cpus import logical_cpus
from appliance.engine.host import wants_cuda
from appliance.isolation import SilenceError, Watch
from appliance.isolation.administration import CONFINED_ENVIRON
from appliance.isolation.confinement import HIDE_ENVIRON, SEAL_ENVIRON, confine
from appliance.isolation.files import Places, library_path, scratch_dir
from appliance.isolation.kernel import PR_SET_PDEATHSIG, prctl
from appliance.isolation.policy import Kind
from appliance.runtime.installed import is_launched
from appliance.runtime.listener import LISTENER_FD
from appliance.signals import ignore_all_but
from installer.formats.fields import FormatError
from installer.formats.release import DESCRIPTOR, parse_release

GRACEFUL_STOP_S = 4  # for streams that are still open when gunicorn is asked to stop
_CANNOT_START = 127  # exit status, the same as a shell's

# Passed on from the supervisor's environment. Proxies, NOTIFY_SOCKET, PYTHON* and TMPDIR are left out on purpose.
_PASSED_ON = (
    *("PATH", "HOME", "LANG", "LC_ALL", "TZ", "APPLIANCE_OPERATOR"),
    *("LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"),
)


@dataclass(frozen=True)
class Program:
    """One program to run. ``fds`` are passed on under the numbers they have here."""

    name: str
    kind: Kind
    argv: tuple[str, ...]
    environ: Mapping[str, str]
    fds: tuple[int, ...] = ()
    death_signal: signal.Signals = signal.SIGTERM  # when the supervisor dies
    places: Places | None = None  # what files it may use; None: this host has no Landlock


@dataclass(frozen=True)
class Programs:
    """The command lines of the appliance; tests put others in their place."""

    packer: tuple[str, ...]  # packs weights for this processor; ends before the engine starts
    engine: tuple[str, ...]
    web: tuple[str, ...]
    reader: tuple[str, ...]  # turns attached files into text
    recorder: tuple[str, ...]
    first_admin: tuple[str, ...]  # prints the first administrator's one-time link; the appliance's URL is appended
    environ: Mapping[str, str] = field(default_factory=dict)


def programs_of(config: Config, environ: Mapping[str, str]) -> Programs:
    """The programs of the interpreter that runs now, with what they may see of ``environ``."""
    python = _python()
    ours = {"APPLIANCE_HOME": str(config.home), "APPLIANCE_CPUS": str(logical_cpus())}
    return Programs(
        packer=(*python, "-m", "appliance.engine.packer"),
        engine=(*python, "-m", "appliance.engine.server"),
        web=(*python, "-m", "gunicorn", *_gunicorn_options(config), "webui.wsgi:app"),
        reader=(*python, "-m", "appliance.attachments.server"),
        recorder=(*python, "-m", "appliance.runtime.recorder"),
        first_admin=(*python, "-m", "appliance.cli", "users", "first-admin-link", "--home", str(config.home), "--url"),
        environ={name: environ[name] for name in _PASSED_ON if name in environ} | ours,
    )


def _python() -> tuple[str, ...]:
    """The command line to which `-m MODULE` is added.

    -I: neither the working directory nor PYTHON* variables nor the user's site-packages can add code. -B: running a
    release does not write into it. An installed release adds -S and its launcher, which compares the code with the
    manifest in every process, restarted ones included; a development checkout is importable through a `.pth`
    file, which -S would leave out.
    """
    if is_launched():
        return (sys.executable, "-I", "-S", "-B", "-u", str(Path(__file__).parents[5] / "bin" / "appliance"))
    return (sys.executable, "-I", "-B", "-u")


def _gunicorn_options(config: Config) -> tuple[str, ...]:
    options = {
        "config": "python:appliance.runtime.gunicorn_hooks",  # also keeps ./gunicorn.conf.py from being read
        "chdir": Path(__file__).parents[2],  # gunicorn imports from here first, not from the site's directory
        "worker-class": "webui.serving.worker.SiteWorker",
        "workers": config.web_workers,
        "threads": config.web_threads,
        "timeout": 60,  # of the worker's heartbeat, which goes on while answers stream
        "graceful-timeout": GRACEFUL_STOP_S,
        "worker-tmp-dir": scratch_dir(config.state_dir, Kind.WEB),  # heartbeat files
        "log-level": "warning",  # and no access log: addresses and paths belong in the record alone
    }
    return (*(f"--{name}={value}" for name, value in options.items()), "--no-control-socket")


def program_for(
    kind: Kind, argv: tuple[str, ...], programs: Programs, places: Places | None, named_fds: Mapping[str, int],
    *fds: int, death_signal: signal.Signals = signal.SIGTERM,
) -> Program:  # fmt: skip
    """A program that reads the numbers of ``named_fds`` from its environment and knows those of ``fds`` beforehand."""
    scratch = str(scratch_dir(Path(programs.environ["APPLIANCE_HOME"], "state"), kind))
    environ = {**programs.environ, "TMPDIR": scratch, **{name: str(fd) for name, fd in named_fds.items()}}
    if "LD_LIBRARY_PATH" in environ:
        environ["LD_LIBRARY_PATH"] = library_path(kind, environ["LD_LIBRARY_PATH"])
    if kind is Kind.ADMINISTRATION:
        environ[CONFINED_ENVIRON] = "1"
    name = kind.value.partition("-")[0]
    return Program(name, kind, argv, environ, (*fds, *named_fds.values()), death_signal, places)


def engine_kind(config: Config) -> Kind:
    """The kind of engine that will run, chosen as the engine itself chooses it. If the release cannot be read, the
    engine says so when it starts."""
    return Kind.ENGINE_CUDA if wants_cuda(config.accelerator, graphs_of(config.release_dir)) else Kind.ENGINE_CPU


def graphs_of(release: Path) -> tuple[str, ...]:
    """The accelerators that a release has a graph for, before anything heavy may be imported to read all of it."""
    try:
        return tuple(parse_release((release / DESCRIPTOR).read_bytes()).graphs)
    except (OSError, FormatError):
        return ()


def spawn(program: Program, *, watch: Watch | None, output: int, stdin: int = 0, stdout: int | None = None) -> int:
    """Start a program and return its pid. The caller must have one thread.

    ``stdin`` and ``stdout`` become its standard input and output. ``output`` takes standard error, and standard output
    where ``stdout`` is None. ``watch`` sees each call that the program is refused; None where the host allows no
    watching.
    """
    parent = os.getpid()
    pid = fork()
    if pid:
        return pid
    try:
        _become_program(program, watch, stdin, output if stdout is None else stdout, output, parent)
    except SilenceError as exc:
        os.write(2, f"{program.name}: {exc}\n".encode())
    except OSError as exc:
        os.write(2, f"{program.name}: {program.argv[0]}: {exc.strerror}\n".encode())
    finally:
        os._exit(_CANNOT_START)


def _become_program(
    program: Program, watch: Watch | None, stdin: int, stdout: int, stderr: int, parent: int
) -> None:  # fmt: skip
    os.setsid()
    prctl(PR_SET_PDEATHSIG, program.death_signal)
    if os.getppid() != parent:  # the supervisor died before the line above
        return
    os.dup2(stdin, 0)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    for fd in program.fds:
        os.set_inheritable(fd, True)
    ignore_all_but({signal.SIGTERM})
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    environ = dict(program.environ)
    if LISTENER_FD in program.fds:
        environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}  # sd_listen_fds(3)
    if watch is None:
        environ[SEAL_ENVIRON] = "1"
    if program.kind is not Kind.ENGINE_CUDA:  # CUDA's driver must be able to write into /proc/self
        environ[HIDE_ENVIRON] = "1"
    confine(program.kind, places=program.places, watch=watch)
    os.execve(program.argv[0], program.argv, environ)  # noqa: S606 - no shell wanted
