"""The Pythons of a host: which of them a release can run with, and how the installer continues in it.

A release has wheels for several Pythons and no Python of its own (docs/decisions/0013). If the installer runs in one
that does not fit, or an operator names another one, the same command starts again in that one. By then it has written
nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipimport
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import installer
from installer.errors import PlatformError
from installer.formats.release import python_number

PROBE_LIMIT_S = 30
_SYSTEM_DIRECTORIES = ("/usr/bin", "/usr/local/bin")  # before PATH: everybody can run and read what lies there
# Runs in any Python 3, so that an old one is told apart too.
_PROBE = (
    "import json, os, platform, sys; print(json.dumps(["
    "platform.python_implementation(), '%d.%d' % sys.version_info[:2], os.path.realpath(sys.executable)]))"
)


@dataclass(frozen=True)
class Interpreter:
    """A Python of this host that starts."""

    path: str
    implementation: str  # "CPython"
    python: str  # "3.12"
    real_path: str

    def fits(self, pythons: Sequence[str]) -> bool:
        return self.implementation == "CPython" and self.python in pythons


def find_interpreter(pythons: Sequence[str], environ: Mapping[str, str]) -> Interpreter | None:
    """The newest Python of the host's system that a release can run with, else the newest on PATH."""
    newest_first = sorted(pythons, key=python_number, reverse=True)
    on_path = [name for name in environ.get("PATH", "").split(os.pathsep) if name not in _SYSTEM_DIRECTORIES]
    for directories in (_SYSTEM_DIRECTORIES, tuple(dict.fromkeys(on_path))):
        for python in newest_first:
            for path in _candidates(f"python{python}", directories):
                found = probe(path, environ)
                if found is not None and found.fits([python]):
                    return found
    return None


def _candidates(name: str, directories: Sequence[str]) -> Iterator[str]:
    """A relative directory of PATH may be the media, from which nothing runs unchecked."""
    for directory in directories:
        path = os.path.join(directory, name)
        if os.path.isabs(path) and os.access(path, os.X_OK) and os.path.isfile(path):
            yield path


def probe(path: str, environ: Mapping[str, str]) -> Interpreter | None:
    """Ask a Python what it is; None if it is none, or does not answer."""
    try:
        done = subprocess.run(
            [path, "-I", "-S", "-c", _PROBE], env=dict(environ), capture_output=True, check=True, timeout=PROBE_LIMIT_S
        )
        implementation, python, real_path = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return Interpreter(path, str(implementation), str(python), str(real_path))


def named_interpreter(path: str, environ: Mapping[str, str]) -> Interpreter:
    """The Python that an operator names.

    Raises:
        PlatformError: it is none.
    """
    found = probe(os.path.abspath(path), environ)
    if found is None:
        raise PlatformError(f"{path} is not a Python that starts: name another one with --interpreter")
    return found


def command_in(interpreter: Interpreter, arguments: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """The command that runs this installer with these arguments in another Python.

    Raises:
        PlatformError: this installer is no kit, and the other Python does not have its packages.
    """
    kit = _kit()
    if kit is not None:
        return [interpreter.path, "-I", "-S", "-B", kit, *arguments]
    program = [interpreter.path, "-m", "installer.cli"]
    done = subprocess.run([*program, "--version"], env=dict(environ), capture_output=True, check=False)
    if done.returncode:
        raise PlatformError(
            f"{interpreter.path} lacks the packages that this installer needs: run installer.pyz with it instead"
        )
    return [*program, *arguments]


def _kit() -> str | None:
    """The path of the kit that this installer runs from; None: it is installed as packages."""
    loader = getattr(installer.__spec__, "loader", None)
    return os.path.abspath(loader.archive) if isinstance(loader, zipimport.zipimporter) else None


def is_running(interpreter: Interpreter) -> bool:
    """Whether this process runs in it, perhaps through a virtual environment."""
    return interpreter.real_path == os.path.realpath(getattr(sys, "_base_executable", sys.executable))
