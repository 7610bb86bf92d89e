"""Installing, rolling back, and what may go wrong on the host: kills, full disks, wrong hosts, two installers."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from installer.archive import END_OF_ARCHIVE, Sha256Hex
from installer.cli import main
from installer.errors import (
    BusyError,
    DigestMismatchError,
    NoReleaseError,
    OlderVersionError,
    PlatformError,
    PrefixError,
    ReleaseConflictError,
    ReleaseDescriptorError,
    SelfTestError,
    SpaceError,
    StorageFullError,
    WheelInstallError,
)
from installer.inspection import differences_of
from installer.install import Outcome, install
from installer.preflight import Host, check_libraries, check_modules, check_platform, check_proc, check_space
from installer.progress import SILENT, Progress, Silent
from installer.release import parse_release
from installer.site import Site, open_site
from installer.store import blob_path
from tests.installer.archives import PYTHON, Sender, appliance_wheel, listing, release_files
from tests.installer.recorded_progress import RecordedProgress
from tests.unprivileged import SERVICE_UID, SERVICE_USER, USER_OPTION, let_through

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def run_install(archive: Path, sender: Sender, prefix: Path, progress: Progress = SILENT) -> Outcome:
    let_through(prefix)
    with archive.open("rb") as stream:
        return install(
            stream, sender.root, prefix, now=NOW, environ=dict(os.environ), progress=progress, user=SERVICE_USER
        )


@pytest.fixture(scope="module")
def installed(release_1: Path, sender: Sender, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site whose current release is 1.0. Tests must not change it."""
    prefix = tmp_path_factory.mktemp("installed") / "site"
    run_install(release_1, sender, prefix)
    return prefix


def works(prefix: Path) -> bool:
    """Whether the current release's own command runs and gives its known answers."""
    current = prefix / "current"
    command = [str(current / "venv" / "bin" / "appliance"), "selftest", "--release", str(current)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_installs_every_target_with_its_signed_bytes_and_switches_current(installed: Path) -> None:
    current = installed / "current"
    assert os.readlink(current) == "releases/1.0"
    for name, data in release_files("1.0").items():
        assert (current / name).read_bytes() == data
        blob = installed / "store" / "sha256" / hashlib.sha256(data).hexdigest()[:2] / hashlib.sha256(data).hexdigest()
        assert blob.samefile(current / name)
        assert blob.stat().st_mode & 0o777 == 0o444
    assert works(installed)
    receipt = json.loads((current / "receipt.json").read_bytes())
    assert (receipt["version"], receipt["self_test"]) == ("1.0", "passed")
    assert (installed / "state").stat().st_mode & 0o777 == 0o700
    assert not (installed / ".incoming").exists()


def test_progress_names_each_stage_and_counts_every_byte(release_1: Path, sender: Sender, tmp_path: Path) -> None:
    progress = RecordedProgress()
    run_install(release_1, sender, tmp_path / "site", progress)
    size_bytes = sum(len(data) for data in set(release_files("1.0").values()))
    unpacked = sum(info.file_size for info in zipfile.ZipFile(io.BytesIO(appliance_wheel()[1])).infolist())
    assert progress.stages == [
        ("Verifying and copying", size_bytes, size_bytes),
        ("Assembling the release", None, 0),
        ("Installing its Python packages", unpacked, unpacked),
        ("Testing it with its known answers", None, 0),
    ]


def test_installing_the_current_release_again_changes_nothing(installed: Path, release_1: Path, sender: Sender) -> None:
    before = listing(installed)
    outcome = run_install(release_1, sender, installed)
    assert not outcome.switched
    assert not outcome.assembled
    assert listing(installed) == before


def test_upgrade_keeps_the_release_before_and_rollback_returns_to_it(
    release_1: Path, release_2: Path, sender: Sender, tmp_path: Path
) -> None:
    prefix = tmp_path / "site"
    run_install(release_1, sender, prefix)
    (prefix / "state" / "database").mkdir()
    (prefix / "state" / "database" / "kept").write_text("records")
    outcome = run_install(release_2, sender, prefix)
    assert outcome.reused_blobs >= 2, "the wheels are shared by both releases"
    assert (os.readlink(prefix / "current"), os.readlink(prefix / "previous")) == ("releases/2.0", "releases/1.0")
    done = CliRunner().invoke(main, ["rollback", "--prefix", str(prefix), "--json"])
    assert json.loads(done.stdout) == {"current": "1.0", "previous": "2.0", "note": None}
    assert os.readlink(prefix / "current") == "releases/1.0"
    assert works(prefix)
    with open_site(prefix) as site:
        assert site.roll_back() == ("1.0", "2.0")
        assert site.roll_back("1.0") == ("2.0", "1.0")
        with pytest.raises(NoReleaseError, match="not installed"):
            site.roll_back("7.0")
    assert (prefix / "state" / "database" / "kept").read_text() == "records"


def test_rollback_without_a_previous_release_is_refused(installed: Path) -> None:
    before = listing(installed)
    with pytest.raises(NoReleaseError), open_site(installed) as site:
        site.roll_back()
    assert listing(installed) == before


def test_a_release_that_fails_its_self_test_leaves_the_site_as_it_was(sender: Sender, installed: Path) -> None:
    bad = sender.archive(release_files("1.1", passes=False), "fails", version=3)
    before = listing(installed)
    with pytest.raises(SelfTestError, match="expected"):
        run_install(bad, sender, installed)
    assert listing(installed) == before
    assert works(installed)


def test_a_first_install_that_fails_leaves_no_prefix(sender: Sender, tmp_path: Path) -> None:
    bad = sender.archive(release_files("1.2", passes=False), "fails-first", version=4)
    with pytest.raises(SelfTestError):
        run_install(bad, sender, tmp_path / "new" / "site")
    assert not (tmp_path / "new").exists()


def test_a_wheel_that_the_lock_does_not_name_by_hash_is_not_installed(sender: Sender, installed: Path) -> None:
    wrong = b"appliance-fixture==1.0 --hash=sha256:" + b"0" * 64 + b"\n"
    bad = sender.archive(release_files("1.3", extra={"wheels/requirements.lock": wrong}), "hash", version=5)
    before = listing(installed)
    with pytest.raises(WheelInstallError, match=r"(?i)hash"):
        run_install(bad, sender, installed)
    assert listing(installed) == before


def test_other_contents_under_an_installed_version_are_refused(sender: Sender, installed: Path) -> None:
    other = sender.archive(release_files("1.0", extra={"licences/x": b"x"}), "conflict", version=6)
    before = listing(installed)
    with pytest.raises(ReleaseConflictError):
        run_install(other, sender, installed)
    assert listing(installed) == before


def test_the_same_contents_signed_anew_are_the_release_that_is_installed(
    release_1: Path, sender: Sender, tmp_path: Path
) -> None:
    prefix = tmp_path / "site"
    run_install(release_1, sender, prefix)
    resigned = sender.archive(release_files("1.0"), "resigned", version=30)
    assert resigned.read_bytes() != release_1.read_bytes()
    outcome = run_install(resigned, sender, prefix)
    assert (outcome.assembled, outcome.switched) == (False, False)
    assert b'"version":30' in (prefix / "state" / "trust" / "timestamp.json").read_bytes()
    with pytest.raises(OlderVersionError):
        run_install(release_1, sender, prefix)


def test_two_installers_do_not_work_on_one_site(release_2: Path, sender: Sender, installed: Path) -> None:
    before = listing(installed)
    with open_site(installed), pytest.raises(BusyError):
        run_install(release_2, sender, installed)
    assert listing(installed) == before


def test_a_directory_of_somebody_else_is_not_a_prefix(release_1: Path, sender: Sender, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(PrefixError):
        run_install(release_1, sender, tmp_path)
    assert listing(tmp_path).keys() == {"letter.txt"}


def test_an_unwritable_prefix_is_refused(release_1: Path, sender: Sender, tmp_path: Path) -> None:
    prefix = tmp_path / "site"
    prefix.mkdir(mode=0o555)
    was_root = os.geteuid() == 0
    tmp_path.chmod(0o755)
    try:
        if was_root:
            os.seteuid(65534)
        with pytest.raises(PrefixError), open_site(prefix):
            pass
    finally:
        if was_root:
            os.seteuid(0)
    assert listing(prefix) == {}


KILL_POINTS = [
    "blob", "Assembling the release", "Installing its Python packages", "receipt", "switch",
]  # fmt: skip


@pytest.mark.parametrize("point", KILL_POINTS)
def test_a_kill_leaves_the_old_release_working_and_the_next_run_resumes(
    point: str, release_1: Path, release_2: Path, sender: Sender, tmp_path: Path, installed: Path
) -> None:
    prefix = tmp_path / "site"
    prefix.mkdir()  # a copy of the installed site: its environment still names the first place, which exists
    subprocess.run(["cp", "-a", f"{installed}/.", str(prefix)], check=True)
    child = os.fork()
    if child == 0:
        _install_until(point, release_2, sender, prefix)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the child was killed where it should be"
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert os.readlink(prefix / "current") == "releases/1.0"
    assert Site(prefix).pointed("current") == "1.0"
    assert (prefix / "current" / "model" / "weights-00001.bin").read_bytes().endswith(b"1.0")

    outcome = run_install(release_2, sender, prefix)

    assert outcome.switched
    assert Site(prefix).pointed("current") == "2.0"
    assert Site(prefix).pointed("previous") == "1.0"
    assert works(prefix)
    assert not list(prefix.rglob("*.part"))
    assert not list(prefix.rglob(".*.new"))
    if point in ("Assembling the release", "Installing its Python packages", "receipt"):
        assert outcome.reused_blobs >= len(set(release_files("2.0").values())) - 1, "verified blobs are reused"


def _install_until(point: str, archive: Path, sender: Sender, prefix: Path) -> None:
    """In a child process: install, and die by SIGKILL at the named point. Never returns."""

    def die(name: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    class Mortal(Silent):
        blobs = 0

        def stage(self, name: str, total_bytes: int | None = None) -> None:
            if name == point:
                die(name)

        def bytes_done(self, count: int) -> None:
            self.blobs += 1
            if point == "blob" and self.blobs > 3:
                die(count)

    try:
        if point == "receipt":
            setattr(Site, "write_receipt", lambda site, receipt: die(receipt))  # noqa: B010 - as a child may
        if point == "switch":
            setattr(Site, "switch", lambda site, version: die(version))  # noqa: B010
        run_install(archive, sender, prefix, Mortal())
    finally:
        os._exit(99)


@pytest.mark.parametrize(("limit", "bulk"), [(500_000, 0), (4_000_000, 16_000_000)])
def test_a_full_disk_is_a_clear_error_and_the_old_release_still_works(
    limit: int, bulk: int, sender: Sender, installed: Path
) -> None:
    """The kernel refuses to write past `limit`: one limit meets a blob in quarantine, the other a file of a wheel."""
    shard = {"model/weights-00002.bin": os.urandom(600_000)}
    archive = sender.archive(
        release_files(f"3.{bulk}", bulk_bytes=bulk, extra=shard), f"full-{bulk}", version=20 + bool(bulk)
    )
    before = listing(installed)
    environ = {**os.environ, "COLUMNS": "400"}
    done = subprocess.run(
        [sys.executable, "-m", "installer.cli", "install", str(archive), "--root", str(sender.root_path),
         "--prefix", str(installed), *USER_OPTION],
        capture_output=True, text=True, check=False, env=environ,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert done.returncode == 1
    *stages, said = done.stderr.splitlines()
    assert said.startswith(f"installer: {StorageFullError.__name__}: ")
    assert not [line for line in stages if "Error" in line]
    assert listing(installed) == before
    assert works(installed)


def test_a_host_without_ensurepip_can_install(release_1: Path, sender: Sender, tmp_path: Path) -> None:
    let_through(tmp_path)
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    (stubs / "ensurepip.py").write_text("raise ImportError('this host has no ensurepip')\n")
    environ = {**os.environ, "PYTHONPATH": str(stubs)}
    probe = subprocess.run([sys.executable, "-c", "import ensurepip"], env=environ, capture_output=True, check=False)
    assert probe.returncode != 0, "the stub must hide ensurepip"
    done = subprocess.run(
        [sys.executable, "-m", "installer.cli", "install", str(release_1), "--root", str(sender.root_path),
         "--prefix", str(tmp_path / "site"), "--json", *USER_OPTION],
        capture_output=True, text=True, check=False, env=environ,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["current"] == "1.0"
    assert "Installing its Python packages (" in done.stderr, "plain lines where there is no terminal"
    assert "\x1b" not in done.stderr
    assert works(tmp_path / "site")


def test_a_file_system_without_hard_links_is_refused_by_name(
    release_1: Path, sender: Sender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), str(source))  # vfat's answer

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(PrefixError, match="hard links"):
        run_install(release_1, sender, tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_a_damaged_blob_in_the_store_is_replaced(
    release_1: Path, release_2: Path, sender: Sender, tmp_path: Path
) -> None:
    prefix = tmp_path / "site"
    run_install(release_1, sender, prefix)
    digest = hashlib.sha256(appliance_wheel()[1]).hexdigest()
    blob = prefix / "store" / "sha256" / digest[:2] / digest
    blob.chmod(0o644)
    blob.write_bytes(b"damaged")
    run_install(release_2, sender, prefix)
    assert hashlib.sha256(blob.read_bytes()).hexdigest() == digest
    assert works(prefix)


def _exchange_for_link(path: Path) -> None:
    aside = path.with_name("aside")
    path.rename(aside)
    path.symlink_to(aside)


def _exchange_for(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def exchange(path: Path) -> None:
        path.unlink()
        make(path)

    return exchange


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut short": lambda path: os.truncate(path, 100),
    "emptied": lambda path: os.truncate(path, 0),
    "missing": Path.unlink,
    "closed to everybody": lambda path: path.chmod(0),
    "open to everybody": lambda path: path.chmod(0o666),
    "with its owner's rights": lambda path: path.chmod(0o4555),
    "a link": _exchange_for_link,
    "a pipe": _exchange_for(os.mkfifo),
    "a directory": _exchange_for(Path.mkdir),
    "another user's": lambda path: os.chown(path, SERVICE_UID, SERVICE_UID) if os.geteuid() == 0 else path.chmod(0o666),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_installing_again_repairs_whatever_was_done_to_a_file_and_its_blob(
    damage: str, release_1: Path, sender: Sender, tmp_path: Path
) -> None:
    prefix = tmp_path / "site"
    run_install(release_1, sender, prefix)
    site, whole = Site(prefix), listing(prefix / "releases")
    path = site.release("1.0") / "model" / "weights-00001.bin"
    digest = Sha256Hex(hashlib.sha256(path.read_bytes()).hexdigest())
    for place in (path, blob_path(site, digest)):
        DAMAGES[damage](place)
    assert differences_of(site, "1.0", hash_all=False) != ()
    assert run_install(release_1, sender, prefix).repaired
    assert differences_of(site, "1.0", hash_all=True) == ()
    repaired = listing(prefix / "releases")
    made_anew = {f"1.0/{name}" for name in ("manifest.json", "receipt.json")}  # they hold times
    assert {name: told for name, told in repaired.items() if name not in made_anew} == {
        name: told for name, told in whole.items() if name not in made_anew
    }
    assert works(prefix)


def test_a_damaged_archive_on_top_of_an_installed_site_changes_nothing(
    release_2: Path, sender: Sender, installed: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "cut.airgap"
    data = bytearray(release_2.read_bytes())
    data[-len(END_OF_ARCHIVE) - 512] ^= 1  # the first byte of the last block with contents
    cut.write_bytes(data)
    before = listing(installed)
    with pytest.raises(DigestMismatchError):
        run_install(cut, sender, installed)
    assert listing(installed) == before


RELEASE = parse_release(release_files()["release.json"], ["wheels/requirements.lock", "known_answers.json"])
GOOD = Host(PYTHON, "CPython", RELEASE.target.platform.split("_", 3)[3], (2, 36))


@pytest.mark.parametrize(
    ("host", "sentence"),
    [
        (Host("3.9", GOOD.implementation, GOOD.machine, GOOD.glibc), "install one of these Pythons"),
        (Host(GOOD.python, "PyPy", GOOD.machine, GOOD.glibc), "this is PyPy"),
        (Host(GOOD.python, "CPython", "riscv64", GOOD.glibc), "this is riscv64"),
        (Host(GOOD.python, "CPython", GOOD.machine, (2, 16)), "this host has glibc 2.16"),
        (Host(GOOD.python, "CPython", GOOD.machine, None), "another C library"),
    ],
)
def test_another_host_than_the_release_was_built_for_is_refused(host: Host, sentence: str) -> None:
    check_platform(RELEASE, GOOD)
    with pytest.raises(PlatformError, match=sentence):
        check_platform(RELEASE, host)


LACKING: dict[str, tuple[Callable[[], None], str]] = {
    "no /proc": (lambda: check_proc(Path("/nonexistent")), "mount -t proc proc /proc"),
    "no libstdc++": (
        lambda: check_libraries(["libabsent.so.6"]), r"lacks the library libabsent\.so\.6, .*: install the package"),
    "a Python in parts": (
        lambda: check_modules(["absent_module"]), "lacks the module absent_module .*: install the whole package"),
}  # fmt: skip


@pytest.mark.parametrize("host", LACKING)
def test_a_host_that_lacks_a_part_is_refused_with_what_to_do(host: str) -> None:
    check, words = LACKING[host]
    for whole in (check_proc, check_libraries, check_modules):
        whole()
    with pytest.raises(PlatformError, match=words):
        check()


@pytest.mark.skipif("os.geteuid() != 0", reason="only root mounts file systems")
def test_a_file_system_from_which_nothing_may_be_run_is_refused_before_anything_is_copied(
    release_1: Path, sender: Sender, tmp_path: Path
) -> None:
    let_through(tmp_path)
    script = 'mount -t tmpfs -o noexec,mode=755 tmpfs "$1" && shift && "$@"; status=$?; ls -A "$0"; exit $status'
    command = [sys.executable, "-m", "installer.cli", "install", release_1, "--root", sender.root_path, *USER_OPTION]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, tmp_path, tmp_path, *command, "--prefix", tmp_path / "site"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "because it is mounted noexec: choose another prefix" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == "", "nothing is left there"


def test_too_little_space_is_refused_with_the_missing_amount(tmp_path: Path) -> None:
    check_space(tmp_path, 0)
    with pytest.raises(SpaceError, match=r"free \d+ MiB"):
        check_space(tmp_path, 1 << 60)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2}, {"version": "../up"}, {"version": ".hidden"}, {"version": ""}, {"name": 3}, {"target": None},
        {"known_answers": "absent.json"}, {"target": {"python": "3.x", "platform": "p"}}, {"model": {}},
        {"vocabulary": "../outside"}, {"graphs": {"cpu": "/etc/passwd"}}, {"config": None}, {"accelerators": "cpu"},
    ],
)  # fmt: skip
def test_a_signed_release_json_that_makes_no_sense_is_refused(change: dict[str, object]) -> None:
    body = json.loads(release_files()["release.json"]) | change
    with pytest.raises(ReleaseDescriptorError):
        parse_release(json.dumps(body).encode(), ["wheels/requirements.lock", "known_answers.json"])
