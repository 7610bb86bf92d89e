"""What CONTRIBUTING.md promises: the lock, the hooks before a commit, and complete lists."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from appliance.audit.event import ACTIONS
from tests.conftest import LONGEST, SLOW, TESTS, require
from webui.review.present.words import ACTION_GROUPS, ACTION_WORDS

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = (ROOT / ".ci" / "constraints.txt").read_text().splitlines()[1:]
MAKEFILE = (ROOT / "Makefile").read_text()
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
RENEW = "run `make lock` and commit .ci/constraints.txt"
GOOD_PYTHON, BAD_PYTHON, UNUSED_IMPORT = "X = 1\n", "X = {  'a':1 }\n", "import os\n"
GOOD_CPP, BAD_CPP = "int f(int x) { return x; }\n", "int f( int x )\n{\n      return x;}\n"


def locked() -> dict[str, str]:
    return {str(canonicalize_name(name)): number for name, number in (line.split("==") for line in LOCK)}


def wanted() -> Iterator[Requirement]:
    """What the test environment needs, according to pyproject.toml and the Makefile."""
    (extras,) = re.findall(r"^TEST_EXTRAS := (.*)$", MAKEFILE, re.MULTILINE)
    optional = PROJECT["project"]["optional-dependencies"]
    for needs in (PROJECT["project"]["dependencies"], *(optional[extra] for extra in extras.split(","))):
        yield from map(Requirement, needs)


def test_the_lock_holds_versions_and_nothing_else() -> None:
    assert [line for line in LOCK if not re.fullmatch(r"[\w.-]+(\[[\w,-]+\])?==[\w.!]+", line)] == []


@pytest.mark.parametrize("requirement", sorted(wanted(), key=str), ids=str)
def test_the_lock_is_what_the_project_works_with(requirement: Requirement) -> None:
    number = locked().get(canonicalize_name(requirement.name))
    assert number is not None, RENEW
    assert requirement.specifier.contains(number), RENEW


@pytest.mark.parametrize("name", sorted(locked()))
def test_what_is_installed_is_what_is_locked(name: str) -> None:
    assert version(name).partition("+")[0] == locked()[name], "run `make check`, which installs what is locked"


def releases() -> list[tuple[str, str]]:
    """Each heading of the changelog with the paragraph below it, the newest first."""
    return re.findall(r"^## (.*)\n\n(.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_the_changelog_knows_the_version() -> None:
    """A release's heading is its version. Between releases the version is the next one's `.dev0`."""
    heading, below = releases()[0]
    number = PROJECT["project"]["version"]
    if number.endswith(".dev0"):
        assert (heading, below) == ("Unreleased", f"Becomes {number.removesuffix('.dev0')}.")
    else:
        assert heading == number


def test_every_release_of_the_changelog_has_a_higher_number_than_the_one_before_and_a_date() -> None:
    released = [(heading, below) for heading, below in releases() if heading != "Unreleased"]
    numbers = [Version(PROJECT["project"]["version"]), *(Version(heading) for heading, _ in released)]
    assert len(released) >= 1
    assert numbers == sorted(numbers, reverse=True)
    assert len({heading for heading, _ in released}) == len(released)
    assert [heading for heading, below in released if not re.search(r"\b\d{4}-\d{2}-\d{2}\b", below)] == []


@pytest.mark.parametrize("command", sorted(PROJECT["project"]["scripts"]))
def test_every_command_says_the_version(command: str) -> None:
    module, name = PROJECT["project"]["scripts"][command].split(":")
    said = CliRunner().invoke(getattr(import_module(module), name), ["--version"]).output
    assert said.split()[-1] == PROJECT["project"]["version"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A separate repository with our hooks."""
    require(shutil.which("git") is not None, "git")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    for name in (".pre-commit-config.yaml", ".clang-format", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for program in ("ruff", "clang-format"):
        (tmp_path / ".venv" / "bin" / program).symlink_to(Path(sys.executable).with_name(program))
    return tmp_path


def hook_passes(checkout: Path, hook: str, file: str, text: str) -> bool:
    (checkout / file).write_text(text)
    command = [sys.executable, "-m", "pre_commit", "run", hook, "--files", file]
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PRE_COMMIT_HOME": str(checkout / "cache")}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=120)
    assert re.search("Passed|Failed", done.stdout), done.stdout + done.stderr
    return done.returncode == 0


@pytest.mark.parametrize(
    ("hook", "file", "good", "bad"),
    [
        ("ruff-check", "a.py", GOOD_PYTHON, UNUSED_IMPORT),
        ("ruff-format", "a.py", GOOD_PYTHON, BAD_PYTHON),
        ("clang-format", "a.cc", GOOD_CPP, BAD_CPP),
        ("clang-format", "a.h", GOOD_CPP, BAD_CPP),
    ],
)
def test_a_hook_refuses_what_lint_refuses(checkout: Path, hook: str, file: str, good: str, bad: str) -> None:
    assert hook_passes(checkout, hook, file, good)
    assert not hook_passes(checkout, hook, file, bad)


def test_no_hook_is_fetched_from_anywhere() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert re.findall(r"^\s*-? *repo: (.*)$", hooks, re.MULTILINE) == ["local"]
    assert set(re.findall(r"language: (.*)$", hooks, re.MULTILINE)) == {"system"}
    assert all(entry.startswith(".venv/bin/") for entry in re.findall(r"entry: (.*)$", hooks, re.MULTILINE))


def test_every_command_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`?make ([a-z-]+)", PAGE))
    assert len(named) > 5
    assert named <= set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))


def test_every_file_that_the_page_names_exists() -> None:
    named = {name for name in re.findall(r"`([\w./-]+/[\w./-]*)`", PAGE) if not re.search(r"NAME|SECTION", name)}
    assert len(named) > 20
    assert {name for name in named if not (ROOT / name).exists()} == set()


@pytest.mark.parametrize("name", PROJECT["tool"]["ruff"]["format"]["exclude"])
def test_what_is_not_formatted_exists(name: str) -> None:
    assert list(ROOT.glob(name)), "take it off the list in pyproject.toml"


def test_what_is_slow_exists() -> None:
    assert {name for name in (*SLOW, *LONGEST) if not (TESTS / name).exists()} == set()


DIRECTORY_OF_A_RUN = """
import sys
from tests.temporary import own_temporary_directory
own = own_temporary_directory()
(own.path / "file").write_text("kept")
print(own.path)
own.end(keep=sys.argv[1] == "True")
"""


@pytest.mark.parametrize("keep", [True, False], ids=["failed", "passed"])
def test_the_files_of_a_run_are_on_the_disk_if_a_test_failed(keep: bool, tmp_path: Path) -> None:
    require(os.geteuid() == 0, "root, whose runs have a directory of their own")
    environ = {name: value for name, value in os.environ.items() if name != "PYTEST_DEBUG_TEMPROOT"}
    done = subprocess.run(
        [sys.executable, "-c", DIRECTORY_OF_A_RUN, str(keep)], env=environ | {"TMPDIR": str(tmp_path)}, cwd=ROOT,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    directory = Path(done.stdout.strip())
    assert directory.parent == tmp_path
    assert directory.exists() is keep
    assert (directory / "file").exists() is keep


def test_every_action_of_the_record_has_words_a_group_and_a_line_on_its_page() -> None:
    page = (ROOT / "docs" / "record.md").read_text().partition("## All actions")[2]
    assert set(ACTIONS) == set(ACTION_WORDS)
    assert set(ACTIONS) == {action for _, _, actions in ACTION_GROUPS for action in actions}
    assert dict(re.findall(r"^\| `(\w+)` \| (.*?) \| .* \|$", page, re.MULTILINE)) == ACTION_WORDS


TOP_LEVEL = {
    ".ci", ".clang-format", ".gitignore", ".pre-commit-config.yaml", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE",
    "Makefile", "README.md", "SECURITY.md", "appliance", "bench", "bundler", "docs", "installer", "package-lock.json",
    "package.json", "pyproject.toml", "tests", "tsconfig.json", "webui",
}  # fmt: skip


def test_nothing_was_committed_beside_the_rooms_of_the_project() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {name.partition("/")[0] for name in listed.stdout.split("\0") if name} == TOP_LEVEL
