"""A release runs in a Python of the host that fits: which one is found, and that the same command continues in it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from installer.errors import OtherPythonError, PlatformError
from installer.formats.release import DESCRIPTOR, Target, encode_release, parse_release
from installer.interpreters import command_in, find_interpreter, is_running, named_interpreter, probe
from tests.installer.archives import PLATFORM, PYTHON, Sender, release_files
from tests.unprivileged import USER_OPTION, let_through

BASE = os.path.realpath(getattr(sys, "_base_executable", sys.executable))


@pytest.fixture(scope="module")
def sender(tmp_path_factory: pytest.TempPathFactory) -> Sender:
    """A sender of our own: what it signs takes no version that another test wants."""
    return Sender.make(tmp_path_factory.mktemp("interpreters") / "a")


def fake_python(directory: Path, version: str, *, name: str = "", says: str = "") -> Path:
    """A program that says it is a Python, and otherwise writes down how it was started."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / (name or f"python{version}")
    said = says or json.dumps(["CPython", version, str(path)])
    path.write_text(
        f"#!/bin/sh\ncase \"$4\" in import*) echo '{said}'; exit 0;; esac\necho \"$@\" >>'{path}.started'\n"
    )
    path.chmod(0o755)
    return path


def for_pythons(sender: Sender, *pythons: str) -> Path:
    """An archive of a release for these Pythons."""
    files = release_files("1.0")
    described = replace(parse_release(files[DESCRIPTOR]), target=Target(pythons, PLATFORM))
    files[DESCRIPTOR] = encode_release(described)
    lock = files.pop("wheels/requirements.lock")
    files |= {described.target.lock(python): lock for python in pythons}
    return sender.archive(files, f"for-{'-'.join(pythons)}")


def started(python: Path) -> list[str]:
    record = Path(f"{python}.started")
    return record.read_text().splitlines() if record.exists() else []


def test_the_newest_fitting_python_is_found(tmp_path: Path) -> None:
    environ = {"PATH": f"{tmp_path / 'a'}:{tmp_path / 'b'}"}
    older, newer = fake_python(tmp_path / "a", "3.98"), fake_python(tmp_path / "b", "3.99")
    found = find_interpreter(("3.98", "3.99"), environ)
    assert found is not None
    assert (found.path, found.python) == (str(newer), "3.99")
    found = find_interpreter(("3.97", "3.98"), environ)
    assert found is not None
    assert found.path == str(older)
    assert find_interpreter(("3.97",), environ) is None


def test_the_system_s_python_comes_before_a_newer_one_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The appliance's user can run it; one in somebody's home is often closed to others."""
    system, newer = fake_python(tmp_path / "system", "3.98"), fake_python(tmp_path / "home", "3.99")
    monkeypatch.setattr("installer.interpreters._SYSTEM_DIRECTORIES", (str(system.parent),))
    found = find_interpreter(("3.98", "3.99"), {"PATH": f"{newer.parent}:{system.parent}"})
    assert found is not None
    assert found.path == str(system)


@pytest.mark.parametrize(
    ("version", "says"),
    [("3.99", '["PyPy", "3.99", "/x"]'), ("3.99", '["CPython", "3.98", "/x"]'), ("3.99", "no JSON"), ("3.99", "[]")],
    ids=["PyPy", "another version", "no answer", "half an answer"],
)
def test_a_program_that_is_no_fitting_python_is_passed_over(version: str, says: str, tmp_path: Path) -> None:
    fake_python(tmp_path / "a", version, says=says)
    right = fake_python(tmp_path / "b", version)
    found = find_interpreter((version,), {"PATH": f"{tmp_path / 'a'}:{tmp_path / 'b'}"})
    assert found is not None
    assert found.path == str(right)


@pytest.mark.parametrize("path", [".", "", "stick", "./stick", ":stick:", "../here/stick"])
def test_no_python_of_a_relative_directory_is_started(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever works on a stick has it as the working directory, and PATH may contain that."""
    here = tmp_path / "here"
    monkeypatch.chdir(fake_python(here, "3.99").parent)
    fake_python(here / "stick", "3.99")
    assert find_interpreter(("3.99",), {"PATH": path}) is None
    assert not list(here.rglob("*.started"))


def test_what_cannot_be_started_is_no_python(tmp_path: Path) -> None:
    (tmp_path / "python3.99").mkdir()
    assert find_interpreter(("3.99",), {"PATH": str(tmp_path)}) is None
    with pytest.raises(PlatformError, match="is not a Python that starts"):
        named_interpreter(str(tmp_path / "absent"), os.environ)
    (tmp_path / "text").write_text("text")
    with pytest.raises(PlatformError, match="is not a Python that starts"):
        named_interpreter(str(tmp_path / "text"), os.environ)


def test_the_running_python_is_known_as_such() -> None:
    running = probe(BASE, os.environ)
    assert running is not None
    assert running.fits([PYTHON])
    assert is_running(running)


def test_without_a_kit_another_python_needs_the_packages(tmp_path: Path) -> None:
    lacking = tmp_path / "python3.99"
    lacking.write_text('#!/bin/sh\ncase "$4" in import*) echo \'["CPython", "3.99", "/x"]\'; exit 0;; esac\nexit 1\n')
    lacking.chmod(0o755)
    named = named_interpreter(str(lacking), os.environ)
    with pytest.raises(PlatformError, match=r"lacks the packages .* run installer\.pyz with it"):
        command_in(named, ["install"], os.environ)


def install(archive: Path, sender: Sender, prefix: Path, *more: str, path: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "installer.cli", "install", archive, "--root", sender.root_path, "--prefix", prefix,
         *more],
        capture_output=True, text=True, check=False, env={**os.environ, "PATH": path},
    )  # fmt: skip


def test_the_command_continues_in_the_python_that_fits(sender: Sender, tmp_path: Path) -> None:
    other = fake_python(tmp_path / "bin", "3.99")
    archive = for_pythons(sender, "3.98", "3.99")
    done = install(archive, sender, tmp_path / "site", "--json", path=str(other.parent))
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == f"Continuing in {other} (Python 3.99)."
    asked, continued = started(other)
    assert asked == "-m installer.cli --version"
    assert continued == (
        f"-m installer.cli install {archive} --root {sender.root_path} --prefix {tmp_path / 'site'} --json"
    )
    assert not (tmp_path / "site").exists(), "nothing has been written before"


def test_the_python_that_is_named_runs_the_command_from_the_beginning(sender: Sender, tmp_path: Path) -> None:
    other = fake_python(tmp_path / "bin", "3.99")
    done = install(tmp_path / "absent", sender, tmp_path / "site", "--interpreter", str(other), path=os.environ["PATH"])
    assert done.returncode == 0, done.stderr
    assert len(started(other)) == 2
    shutil.rmtree(other.parent)
    same = install(tmp_path / "absent", sender, tmp_path / "site", "--interpreter", BASE, path=os.environ["PATH"])
    assert "Continuing" not in same.stderr
    assert "cannot read" in same.stderr


def test_if_none_fits_one_sentence_says_what_would(sender: Sender, tmp_path: Path) -> None:
    for more in ([], ["--interpreter", BASE]):
        done = install(for_pythons(sender, "3.98", "3.99"), sender, tmp_path / "site", *more, path="/nonexistent")
        assert done.returncode == 1
        (said,) = done.stderr.splitlines()
        assert said.startswith(
            "installer: OtherPythonError: the release needs CPython 3.98 or 3.99, this is CPython 3."
        )
        assert "install one of these Pythons" in said
        assert not (tmp_path / "site").exists()


def test_a_release_for_several_pythons_is_installed_with_the_running_one(sender: Sender, tmp_path: Path) -> None:
    let_through(tmp_path)
    done = install(
        for_pythons(sender, PYTHON, "3.99"), sender, tmp_path / "site", *USER_OPTION, path=os.environ["PATH"]
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "site" / "current" / "venv" / "lib").iterdir()] == [f"python{PYTHON}"]
    checked = subprocess.run(
        [sys.executable, "-m", "installer.cli", "verify", "--prefix", tmp_path / "site", "--root", sender.root_path],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout


def test_the_sentence_names_one_or_several_pythons() -> None:
    assert "needs CPython 3.11, this is CPython 3.9" in str(OtherPythonError(("3.11",), "CPython 3.9"))
    assert re.search(r"3\.11, 3\.12 or 3\.13, this", str(OtherPythonError(("3.11", "3.12", "3.13"), "PyPy 3.11")))
