"""Every command of docs/operators-guide.md, in its order and as written, where systemd has just booted."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import require
from tests.installer.archives import PROJECT
from tests.scenarios.booted import Host, booted, can_boot
from tests.scenarios.conftest import Installation
from tests.scenarios.derived import derived_archive, sender_like

PAGE = PROJECT / "docs" / "operators-guide.md"
_FENCE = re.compile(r"^ *```(?P<kind>\w*)\n(?P<text>.*?)^ *```$", re.M | re.S)
_PROMPT = "# "


@dataclass(frozen=True)
class Step:
    """A command and the lines that the page shows below it."""

    command: str
    shown: tuple[str, ...]


def steps_of(page: str) -> list[Step]:
    steps: list[Step] = []
    for block in _FENCE.finditer(page):
        if block["kind"] != "console":
            continue
        lines = [
            line.removeprefix("   ") if block[0].startswith("   ") else line for line in block["text"].splitlines()
        ]
        assert lines[0].startswith(_PROMPT), f"a block begins with {lines[0]!r}"
        for line in lines:
            if line.startswith(_PROMPT):
                steps.append(Step(line.removeprefix(_PROMPT), ()))
            else:
                steps[-1] = Step(steps[-1].command, (*steps[-1].shown, line))
    return steps


def is_shown(line: str, output: str) -> bool:
    """Whether the output has a line such as the page shows; ``..`` stands for anything."""
    pattern = ".*".join(re.escape(part) for part in line.strip().split(".."))
    return any(re.fullmatch(pattern, found.strip()) for found in output.splitlines())


@pytest.fixture(scope="module")
def host(demo: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A machine with a stick in it, and what came by another way; nothing of this project is installed there."""
    place = tmp_path_factory.mktemp("guide")
    trial, here, stick, trust = (place / name for name in ("trial", "host", "stick", "trust"))
    for directory in (trial, here, stick, trust):
        directory.mkdir()
    require(can_boot(trial), "a machine on which a test may boot systemd in namespaces")
    require(shutil.which("openssl") is not None, "openssl")
    fill_stick(stick, trust, demo, place)
    with booted(here, keep=[place] if place.is_relative_to("/tmp") else []) as host:
        host.run("mkdir", "/media/stick", "/media/trust", "/media/backup")
        host.run("mount", "--bind", stick, "/media/stick")
        host.run("mount", "--bind", trust, "/media/trust")
        yield host


def fill_stick(stick: Path, trust: Path, demo: Installation, place: Path) -> None:
    """As the sender does it."""
    made, keys = demo.archive.parent, demo.root.parent
    shutil.copy(demo.archive, stick / "gpt-oss.airgap")
    for name in ("installer.pyz", "installer.pyz.sha256", "installer.pyz.sig"):
        shutil.copy(made / name, stick / name)
    for name in ("root.json", "installer-key.pem"):
        shutil.copy(keys / name, trust / name)
    sender = sender_like(keys, place / "sender")
    shutil.copy(derived_archive(demo.archive, sender, "next", {}), stick / "gpt-oss-next.airgap")
    rotate(sender.directory / "keys", stick / "next-root.json")


def rotate(keys: Path, out: Path) -> None:
    from click.testing import CliRunner

    from bundler.cli import main

    done = CliRunner().invoke(main, ["trust", "rotate", "--role", "timestamp", "--keys", str(keys)], input="y\n")
    assert done.exit_code == 0, done.output
    shutil.copy(keys / "root.json", out)


def test_every_command_of_the_guide_does_what_the_page_shows(host: Host) -> None:
    ran = []
    for step in steps_of(PAGE.read_text()):
        done = host.run("sh", "-c", step.command, check=False, limit_s=300)
        output = done.stdout + done.stderr
        assert done.returncode == 0, f"{step.command}\n{output}\n{host.journal()}"
        for line in step.shown:
            assert is_shown(line, output), f"{step.command}\nshould print\n{line}\nbut printed\n{output}"
        ran.append(step.command)
    assert len(ran) >= 30


def test_what_is_not_run_says_why() -> None:
    page = PAGE.read_text()
    for block in _FENCE.finditer(page):
        assert block["kind"] in ("console", "text")
        if block["kind"] == "text":
            before = page[: block.start()].rstrip().rpartition("\n\n")[2]
            assert re.search(r"Not run by\s.*?,\s+because\s", before, re.S), f"no reason stands before {block['text']}"


@pytest.mark.parametrize(("line", "output", "fits"), [
    ("installer.pyz: OK", "installer.pyz: OK\n", True),
    ("ok    clock: ..", "ok    silence: x\nok    clock: 2026", True),
    ("..  /root/trust/root.json", "abc  /root/trust/root.json", True),
    ("installer.pyz: OK", "installer.pyz: FAILED", False),
    ("installer.pyz: OK", "installerxpyz: OK", False),
    ("active", "inactive", False),
], ids=["same", "rest", "front", "other", "dot", "part"])  # fmt: skip
def test_the_comparison_with_the_page_can_fail(line: str, output: str, *, fits: bool) -> None:
    assert is_shown(line, output) is fits
