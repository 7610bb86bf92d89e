"""The `venv/bin/appliance` of an installed release: compares the release with its manifest before any of it runs.

    #!/usr/bin/python3.11 -IS      the installer puts this line, with this host's interpreter, before this file
    appliance serve ..             the command line
    appliance -m MODULE ..         a program of the appliance, as the supervisor starts it

-I and -S: no environment variable, working directory, `pyvenv.cfg`, `.pth` file, sitecustomize or usercustomize adds
code. The interpreter and its standard library are the host's and are trusted; so is this file, which only the release's
owner can write. `installer verify --prefix`, run from a trusted medium, trusts neither the release nor this file.
The dynamic loader obeys its variables (`LD_PRELOAD`, `LD_LIBRARY_PATH`) before the first line of this file runs; they
are up to the caller.

The order: 0. drop the variables that no command needs, before a library that reads them is loaded (OpenSSL); 1. hash
the module that compares (`installer/formats/manifest.py`) and run the hashed bytes; 2. that module compares every file
below venv/; 3. only then make the release's packages importable.
"""

from __future__ import annotations

import json
import os
import sys
from types import ModuleType

_CHECKER = "installer/formats/manifest.py"
_REMEDY = "install the same archive again to repair it, and tell your security officer if nobody knows why"
# Who is at the terminal and how it draws, what service managers pass, where the site is, and how CUDA is found.
_KNOWN_VARIABLES = frozenset({
    *("PATH", "HOME", "USER", "LOGNAME", "SUDO_USER", "LANG", "LANGUAGE", "TZ", "TERM", "COLUMNS", "LINES", "NO_COLOR"),
    *("LISTEN_FDS", "LISTEN_PID", "APPLIANCE_HOME", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"),
})  # fmt: skip


class RefusedError(Exception):
    """The release is not as it was installed; ``str()`` says what differs."""


def main() -> None:
    sys.dont_write_bytecode = True
    if sys.argv[1:2] != ["-m"]:  # the supervisor has chosen its programs' variables already
        _forget_variables()
    release = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = os.path.join(release, "venv", "lib", version, "site-packages")
    try:
        check_code(release, f"venv/lib/{version}/site-packages", is_installed=sys.argv[1:2] != ["selftest"])
    except RefusedError as exc:
        _refuse(release, str(exc))
    sys.path.append(packages)
    _run(sys.argv[1:])


def _forget_variables() -> None:
    """Drop all but the known variables. If the loader was told to load code, dropping them would gain nothing, because
    that code runs already."""
    if "LD_PRELOAD" in os.environ or "LD_AUDIT" in os.environ:
        return
    for name in set(os.environ) - _KNOWN_VARIABLES:
        if not name.startswith("LC_"):
            del os.environ[name]


def check_code(release: str, packages: str, *, is_installed: bool) -> None:
    """Compare all code of the release with its manifest.

    Args:
        packages: the directory of its packages, relative to the release.
        is_installed: False while the installer tests the release, before it writes the receipt.
    Raises:
        RefusedError: something differs.
    """
    checker = _load_checker(release, f"{packages}/{_CHECKER}")
    try:
        manifest = checker.load_manifest(release, has_receipt=is_installed)
        differences = checker.compare_code(release, manifest)
    except (checker.ManifestError, OSError) as exc:
        raise RefusedError(str(exc)) from exc
    if differences:
        raise RefusedError(checker.damage(differences))


def _load_checker(release: str, path: str) -> ModuleType:
    """Load the module that compares, from bytes with the digest that the manifest lists."""
    import hashlib  # not earlier: OpenSSL, which it loads, reads variables

    try:
        with open(os.path.join(release, "manifest.json"), "rb", opener=_at_once) as file:
            expected = json.load(file)["files"][path][1]
        with open(os.path.join(release, path), "rb", opener=_at_once) as file:
            source = file.read()
    except (OSError, ValueError, KeyError, IndexError, TypeError, RecursionError) as exc:
        raise RefusedError(f"manifest.json or {path} cannot be used ({type(exc).__name__})") from exc
    if hashlib.sha256(source).hexdigest() != expected:
        raise RefusedError(f"{path} differs")
    module = ModuleType("installer.formats.manifest")
    sys.modules[module.__name__] = module  # dataclasses look their module up
    exec(compile(source, path, "exec"), module.__dict__)  # noqa: S102 - the bytes that were just hashed
    return module


def _at_once(path: str, flags: int) -> int:
    """Open a file without waiting; a named pipe in its place would otherwise block until somebody writes."""
    return os.open(path, flags | os.O_NONBLOCK)


def _refuse(release: str, why: str) -> None:
    """Say that nothing runs, and exit; for `doctor`, in the form of its report."""
    sentence = f"release {os.path.basename(release)} is not as it was installed: {why}"
    if sys.argv[1:2] == ["doctor"]:
        advice = {"subject": "release", "is_well": False, "detail": sentence, "remedy": _REMEDY}
        if "--json" in sys.argv:
            print(json.dumps({"is_well": False, "findings": [advice], "silence": None}, indent=2))
        else:
            print(f"FAIL  release: {sentence}\n      to do: {_REMEDY}")
        sys.exit(1)
    sys.exit(f"Error: {sentence}; {_REMEDY}")


def _run(arguments: list[str]) -> None:
    if arguments[:1] == ["-m"]:
        import runpy

        sys.argv[:] = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        return
    from appliance.cli import main as command
    from appliance.runtime.inherited import begin_afresh

    begin_afresh()
    command()


if __name__ == "__main__":
    main()
