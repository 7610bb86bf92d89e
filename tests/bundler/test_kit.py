"""The kit: the same bytes each time, a signature that stock openssl checks, and nothing of the host when it runs."""

from __future__ import annotations

import ast
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

import installer
from bundler.carrying import write_carriage
from bundler.errors import KeysError, WheelError
from bundler.keys import INSTALLER_KEY as KEY
from bundler.kit import KIT, build_kit, public_key_pem, sign_kit
from bundler.lock import LOCKS, KitTarget, parse_lock
from bundler.sheet import check_commands, install_commands
from bundler.wheelhouse import fetch_wheels
from installer.fingerprint import WORDS, root_fingerprint, spoken
from installer.verify import DiscardingSink, verify_archive
from tests.bundler.cached import KIT_PACKAGES, cached_wheel
from tests.conftest import require
from tests.installer.archives import PYTHON, Sender, make_wheel, release_files
from tests.unprivileged import USER_OPTION, let_through


@pytest.fixture(scope="module")
def sender(tmp_path_factory: pytest.TempPathFactory) -> Sender:
    return Sender.make(tmp_path_factory.mktemp("kit-sender") / "a")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The kit's packages in the versions that are installed here."""
    cache = tmp_path_factory.mktemp("kit-wheels")
    return fetch_wheels([cached_wheel(cache, package) for package in KIT_PACKAGES], KitTarget(), cache)


@pytest.fixture(scope="module")
def carried(sender: Sender, wheels: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as it comes off a stick, with what came by another way beside it."""
    directory = tmp_path_factory.mktemp("stick")
    archive = Path(shutil.copyfile(sender.archive(release_files("1.0"), "kit"), directory / "test model.airgap"))
    lock = "".join(f"{name}\n" for name in (cached_wheel(wheels[0].parents[1], package) for package in KIT_PACKAGES))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bundler.lock.LOCKS", directory)
        (directory / "kit.txt").write_text(lock)
        with archive.open("rb") as stream:
            verified = verify_archive(stream, sender.root, sink=DiscardingSink())
        write_carriage([archive], verified, sender.keys, wheels[0].parents[1])
    (directory / "kit.txt").unlink()
    for name in ("root.json", KEY):
        shutil.copyfile(sender.directory / "keys" / name, directory / name)
    let_through(directory)
    return directory


def ran(directory: Path, *command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=directory, timeout=120,
        env={"PATH": os.environ["PATH"], **environ},
    )  # fmt: skip


def test_the_same_sources_and_wheels_are_the_same_bytes(wheels: list[Path]) -> None:
    kit = build_kit(wheels)
    assert build_kit(list(reversed(wheels))) == kit
    with zipfile.ZipFile(io.BytesIO(kit)) as archive:
        infos = archive.infolist()
    assert {info.date_time for info in infos} == {(1980, 1, 1, 0, 0, 0)}
    assert {info.compress_type for info in infos} == {zipfile.ZIP_STORED}
    names = [info.filename for info in infos]
    assert names == sorted(names)
    assert "installer/formats/release.py" in names
    assert not [
        name for name in names if re.search(r"\.so$|\.pyc$|/tests/|^appliance|^bundler|^webui|^cryptography", name)
    ]
    for package in KIT_PACKAGES:
        assert [name for name in names if name.startswith(package) and "/licenses/" in name], f"{package} has a licence"


def test_the_committed_lock_names_the_packages_of_the_kit_alone() -> None:
    assert sorted(wheel.name for wheel in parse_lock((LOCKS / "kit.txt").read_text(), "kit.txt")) == list(KIT_PACKAGES)


@pytest.mark.parametrize(
    ("files", "said"),
    [({"a/b.cpython-39-x86_64-linux-gnu.so": b""}, "compiled code"), ({"click/__init__.py": b"evil"}, "a file"),
     ({"installer/cli.py": b"evil"}, "a file"), ({"__main__.py": b"evil"}, "a file")],
    ids=["compiled", "another's", "ours", "entry"],
)  # fmt: skip
def test_a_wheel_that_may_not_be_in_a_kit_is_refused(
    files: dict[str, bytes], said: str, wheels: list[Path], tmp_path: Path
) -> None:
    stranger = tmp_path / "stranger-1.0-py3-none-any.whl"
    stranger.write_bytes(make_wheel(files, "stranger-1.0.dist-info"))
    with pytest.raises(WheelError, match=said):
        build_kit([*wheels, stranger])


def test_the_kit_is_signed_by_the_targets_key_and_no_other(sender: Sender) -> None:
    keys = sender.keys
    (targets,) = (s for s in keys.signers if s.public_key.keyid in keys.newest.roles["targets"].keyids)
    signature = sign_kit(keys, b"#! a kit")
    assert len(signature) == 64
    assert bytes.fromhex(targets.sign(b"#! a kit").signature) == signature
    assert public_key_pem(keys).startswith(b"-----BEGIN PUBLIC KEY-----\n")
    with pytest.raises(KeysError, match=r"no key that root\.json trusts for the targets"):
        sign_kit(replace(keys, signers=tuple(s for s in keys.signers if s is not targets)), b"#! a kit")
    targets.public_key.scheme = "ecdsa-sha2-nistp256"
    with pytest.raises(KeysError, match="Ed25519"):
        sign_kit(keys, b"#! a kit")


class Commands(HTMLParser):
    """The text of each <pre> of a page, by its class."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = str(dict(attrs)["class"]) if tag == "pre" else ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.found[self._inside] = self.found.get(self._inside, "") + data


def sheet_of(carried: Path) -> str:
    (sheet,) = carried.glob("*.sheet.html")
    return sheet.read_text()


def test_the_sheet_has_every_file_with_its_digest_and_the_fingerprint(carried: Path, sender: Sender) -> None:
    page = sheet_of(carried)
    for name in ("test model.airgap", KIT, f"{KIT}.sha256", f"{KIT}.sig", "root.json", KEY):
        digest = hashlib.sha256((carried / name).read_bytes()).hexdigest()
        assert name in page
        assert " ".join(digest[start : start + 8] for start in range(0, 64, 8)) in page, name
        assert f"{(carried / name).stat().st_size:,} bytes" in page
    for line in spoken(root_fingerprint(sender.root)):
        assert line in page
    assert not re.search(r"<script|<img|<link|https?:|url\(", page), "it needs nothing else, and runs nothing"


def test_the_sheet_s_commands_check_verify_and_install_as_written(carried: Path, tmp_path: Path) -> None:
    require(shutil.which("openssl") is not None, "openssl")
    found = Commands(sheet_of(carried)).found
    assert found["check"].splitlines() == check_commands()
    assert found["install"].splitlines() == install_commands("test model.airgap")
    for line in found["check"].splitlines():
        done = ran(carried, "sh", "-ec", line)
        assert done.returncode == 0, done.stderr
    let_through(tmp_path)
    python = str(Path(sys.executable).resolve())
    lines = found["install"].replace("/srv/gpt-oss", str(tmp_path / "site")).replace("python3 ", f"{python} ")
    lines = lines.strip() + " " + " ".join(USER_OPTION)
    for line in lines.splitlines():
        done = ran(carried, "sh", "-ec", line)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "current" / "receipt.json").exists()


@pytest.mark.parametrize("what", ["kit", "signature", "key"])
def test_openssl_and_sha256sum_refuse_a_changed_kit(what: str, carried: Path, tmp_path: Path) -> None:
    require(shutil.which("openssl") is not None, "openssl")
    shutil.copytree(carried, tmp_path / "stick")
    stick = tmp_path / "stick"
    changed = stick / {"kit": KIT, "signature": f"{KIT}.sig", "key": KEY}[what]
    data = bytearray(changed.read_bytes())
    if what == "key":
        changed.write_bytes(public_key_pem(Sender.make(tmp_path / "stranger").keys))
    else:
        data[len(data) // 2] ^= 1
        changed.write_bytes(data)
    digest, signature = (ran(stick, "sh", "-ec", line).returncode for line in check_commands())
    assert signature != 0
    assert (digest != 0) == (what == "kit")


def test_nothing_of_the_host_is_in_the_kit_when_it_runs(carried: Path, tmp_path: Path) -> None:
    """Modules in PYTHONPATH, in the working directory, beside the kit and in the user's packages are not imported."""
    stick = tmp_path / "stick"
    shutil.copytree(carried, stick)
    evil = "raise SystemExit('the host spoke')\n"
    for name in ("click", "rich", "tuf", "urllib3", "cryptography", "json"):
        (stick / f"{name}.py").write_text(evil)
    packages = tmp_path / "lib" / f"python{PYTHON}" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "cryptography.py").write_text(evil)
    done = ran(
        stick, str(Path(sys.executable).resolve()), KIT, "verify", "test model.airgap", "--root", "root.json",
        PYTHONPATH=f"{stick}:{packages}", PYTHONUSERBASE=str(tmp_path), PYTHONSTARTUP=str(stick / "click.py"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "verified" in done.stdout
    assert not list(stick.rglob("__pycache__")), "and nothing is written beside it"


def test_the_kit_says_which_version_it_is(carried: Path) -> None:
    done = ran(carried, sys.executable, KIT, "--version")
    assert re.fullmatch(r"installer, version [0-9][^ ]*\n", done.stdout)


def old_pythons() -> Iterator[str]:
    """Pythons of this machine that are too old for a kit."""
    for place in ("/usr/bin", "/usr/local/bin", *map(str, Path.home().glob(".pyenv/versions/*/bin"))):
        for name in ("python2.7", "python3.6", "python3.8"):
            if Path(place, name).exists():
                yield f"{place}/{name}"


def test_a_python_that_is_too_old_is_told_so(carried: Path) -> None:
    """If this machine has none, the lines before the check must at least be such that every Python can read them."""
    with zipfile.ZipFile(carried / KIT) as kit:
        source = kit.read("__main__.py").decode()
    assert not re.search(r"\bf\"|:=|->|: (str|int)\b|print ", source)
    for python in old_pythons():
        done = ran(carried, python, KIT, "--version")
        assert done.returncode == 1
        assert done.stderr.startswith("installer: PlatformError: this kit needs Python 3.9 or newer, this is Python ")


def test_a_shell_finds_a_python_or_says_which_one_to_install(carried: Path, tmp_path: Path) -> None:
    (tmp_path / "python3").write_text("#!/bin/sh\nexit 1\n")  # too old
    (tmp_path / "python3").chmod(0o755)
    done = ran(carried, "/bin/sh", KIT, "--version", PATH=str(tmp_path))
    assert done.returncode == 1
    assert re.fullmatch(r"installer: PlatformError: this host has no Python 3\.9 or newer: install .*\n", done.stderr)
    (tmp_path / "python3.11").symlink_to(sys.executable)
    done = ran(carried, "/bin/sh", KIT, "--version", PATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("installer, version ")


def test_words_of_a_fingerprint_cannot_be_mistaken_for_each_other() -> None:
    assert len(WORDS) == 256
    assert len({word[:3] for word in WORDS}) == 256
    assert all(re.fullmatch(r"[a-z]{4,9}", word) for word in WORDS)


def test_the_fingerprint_is_what_sha256sum_prints_and_its_words_are_its_first_bytes(sender: Sender) -> None:
    fingerprint = root_fingerprint(sender.root)
    assert fingerprint == hashlib.sha256(sender.root_path.read_bytes()).hexdigest()
    words = " ".join(spoken(fingerprint)).split()
    assert bytes(WORDS.index(word) for word in words).hex() == fingerprint[:32]


def test_the_kit_calls_no_editor_and_no_pager() -> None:
    """In click 8.1.8, the last for Python 3.9, both start a shell with words of the environment (CVE-2026-7246)."""
    sources = [path for path in Path(installer.__file__).parent.rglob("*.py")]
    assert len(sources) > 50
    for path in sources:
        for node in ast.walk(ast.parse(path.read_bytes())):
            name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
            imported = {alias.name for alias in node.names} if isinstance(node, ast.ImportFrom) else set()
            assert not {name, *imported} & {"edit", "echo_via_pager", "pager"}, f"{path}:{getattr(node, 'lineno', 0)}"
