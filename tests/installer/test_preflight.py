"""`installer preflight` and `install --dry-run`: what a host lacks is said before anything is copied.

Also the clock's floor, the pins of product and publisher, and that what an operator types is recorded.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from installer.archive import END_OF_ARCHIVE
from installer.cli import main
from installer.errors import ClockError, ProductError, PublisherError
from installer.examination import Check, Question, examine_host, examine_site, is_well
from installer.formats.clock import signed_at
from installer.formats.release import DESCRIPTOR, encode_release, parse_release
from installer.head import read_head
from installer.host import HostFacts, file_system_type, look_at_host
from installer.preflight import check_clock, check_product, publisher_of
from installer.site import Site
from installer.targets import Target
from tests.installer.archives import Sender, listing, release_files
from tests.installer.sites import NOW, install_archive, works
from tests.unprivileged import USER_OPTION, let_through

GOOD = HostFacts(64 << 30, None, "amx", "580.159", True, True, 6, True)
DAY = timedelta(days=1)
FOREVER = "2099-01-01T00:00:00+00:00"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def question(release_1: Path, sender: Sender) -> Question:
    with release_1.open("rb") as stream:
        release, metadata = read_head(stream, sender.root, None)
    return Question(release, metadata, GOOD, NOW, dict(os.environ), port=None)


def with_weights(question: Question, size_bytes: int, *accelerators: str) -> Question:
    targets = tuple(
        Target(f"model/{accelerator}/weights-00001.bin", question.metadata.targets[0].sha256, size_bytes)
        for accelerator in accelerators
    )
    return replace(
        question,
        release=replace(question.release, accelerators=accelerators),
        metadata=replace(question.metadata, targets=targets),
    )


def found(question: Question, subject: str, **facts: object) -> Check:
    asked = replace(question, facts=replace(question.facts, **facts))  # type: ignore[arg-type]
    (check,) = [check for check in examine_host(asked) if check.subject == subject]
    return check


def test_a_good_host_is_well(question: Question) -> None:
    assert [check.outcome for check in examine_host(question)] == ["ok"] * len(examine_host(question))


SIZE_20B = 13_760_000_000
HOSTS: dict[str, tuple[tuple[str, ...], dict[str, object], str, str, str]] = {
    "8 GB for 20b": (
        ("cpu",), {"memory_bytes": 8 << 30}, "memory", "FAIL",
        "this host has 8.6 GB, the engine needs at least 12.0 GB on a CPU",
    ),
    "13 GB for 20b": (
        ("cpu",), {"memory_bytes": 13_000_000_000}, "memory", "warn",
        "this host has 13.0 GB, the engine may need 14.7 GB on a CPU",
    ),
    "16 GB for 20b": (
        ("cpu",), {"memory_bytes": 16 << 30}, "memory", "ok",
        "this host has 17.2 GB, the engine needs 14.7 GB",
    ),
    "a control group of 8 GB": (
        ("cpu",), {"limit_bytes": 8 << 30}, "memory", "FAIL",
        "its control group allows 8.6 GB, the engine needs at least 12.0 GB on a CPU",
    ),
    "8 GB beside a GPU": (
        ("cpu", "cuda"), {"memory_bytes": 8 << 30}, "memory", "warn",
        "this host has 8.6 GB, the engine needs at least 12.0 GB on a CPU",
    ),
    "unknown memory": (
        ("cpu",), {"memory_bytes": None}, "memory", "warn",
        "this host does not tell how much memory it has",
    ),
    "no AVX2": (("cpu",), {"path": "portable"}, "processor", "warn", "it has no AVX2, so answers are slow"),
    "AVX2": (("cpu",), {"path": "avx2"}, "processor", "ok", "CPU answers will use avx2"),
    "CUDA alone without a GPU": (("cuda",), {"has_gpu": False}, "GPU", "FAIL", "there is no GPU with NVIDIA's driver"),
    "CUDA without a GPU": (
        ("cpu", "cuda"), {"has_gpu": False}, "GPU", "warn",
        "there is no GPU with NVIDIA's driver, so the release computes on the CPU",
    ),
    "an old driver": (
        ("cuda",), {"gpu_driver": "535.54.03"}, "GPU", "FAIL",
        "its driver is 535.54.03, CUDA 13 needs 580",
    ),
    "no driver": (("cuda",), {"gpu_driver": None}, "GPU", "FAIL", "there is no GPU with NVIDIA's driver"),
    "no seccomp": (("cpu",), {"has_seccomp": False}, "silence", "FAIL", "the kernel has no seccomp filters"),
    "no Landlock": (("cpu",), {"landlock_abi": 0}, "Landlock", "warn", "the kernel has none"),
    "Landlock without TCP": (("cpu",), {"landlock_abi": 3}, "Landlock", "warn", "ABI 3 confines files, not TCP"),
}  # fmt: skip


@pytest.mark.parametrize("host", HOSTS)
def test_what_a_host_lacks_is_said(host: str, question: Question) -> None:
    accelerators, facts, subject, outcome, words = HOSTS[host]
    check = found(with_weights(question, SIZE_20B, *accelerators), subject, **facts)
    assert (check.outcome, check.detail) == (outcome, words)
    assert (check.remedy is None) == (outcome == "ok" or host == "unknown memory")


def test_facts_are_read_from_the_host(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": "MemTotal:       16384 kB\nMemFree: 1 kB\n",
        "proc/cpuinfo": "processor : 0\nflags\t\t: fpu fma avx2 avx_vnni\n",
        "proc/self/cgroup": "0::/a/b\n",
        "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.03  Tue Jan\n",
        "sys/fs/cgroup/a/memory.max": "4194304\n",
        "sys/fs/cgroup/a/b/memory.max": "max\n",
        "dev/nvidia0": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    facts = look_at_host(tmp_path)
    assert (facts.memory_bytes, facts.limit_bytes, facts.path) == (16 << 20, 4 << 20, "avxvnni")
    assert (facts.gpu_driver, facts.has_gpu) == ("580.159.03", True)
    (tmp_path / "proc/self/cgroup").write_text("5:cpu,memory:/x\n0::/\n")
    (tmp_path / "sys/fs/cgroup/memory/x").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/memory/memory.limit_in_bytes").write_text("1048576")
    (tmp_path / "sys/fs/cgroup/memory/x/memory.limit_in_bytes").write_text("9223372036854771712")
    assert look_at_host(tmp_path).limit_bytes == 1 << 20
    here = look_at_host()
    assert here.has_seccomp
    assert here.memory_bytes is not None


def test_the_path_is_the_one_that_the_operators_choose() -> None:
    from appliance.engine.operators import load_operators

    assert look_at_host().path == load_operators().paths()[0]


def test_the_type_of_a_file_system_is_read() -> None:
    device = os.stat("/proc").st_dev
    line = f"22 27 {os.major(device)}:{os.minor(device)} / /x rw - exfat none rw\n"
    assert file_system_type(Path("/proc"), "junk\n" + line) == "exfat"
    assert file_system_type(Path("/proc")) == "proc"


def test_a_port_in_use_is_a_warning(question: Question) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        asked = replace(question, port=taken.getsockname()[1])
        (check,) = [check for check in examine_host(asked) if check.subject == "port"]
    assert (check.outcome, "Address already in use" in check.detail) == ("warn", True)


PREFIXES = {
    "a colon": ("a:b", "has the character ':'"),
    "somebody's files": ("full", "neither empty nor a site"),
    "open to all": ("open", "others may write"),
}


@pytest.mark.parametrize("name", PREFIXES)
def test_preflight_refuses_what_an_installation_would(
    name: str, release_1: Path, sender: Sender, tmp_path: Path
) -> None:
    let_through(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter").touch()
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    before = listing(tmp_path)
    place, words = PREFIXES[name]
    for command in (["preflight"], ["install", "--dry-run"]):
        done = run(*command, release_1, "--root", sender.root_path, "--prefix", tmp_path / place)
        assert done.exit_code == 1, done.output
        assert [line for line in done.stdout.splitlines() if line.startswith("FAIL  prefix") and words in line] != []
    assert listing(tmp_path) == before


def test_a_rehearsal_writes_nothing_and_says_a_line_for_each_thing(
    release_1: Path, sender: Sender, tmp_path: Path
) -> None:
    let_through(tmp_path)
    for command in (["preflight"], ["install", "--dry-run"]):
        done = run(*command, release_1, "--root", sender.root_path, "--prefix", tmp_path / "site")
        assert done.exit_code == 0, done.output
        subjects = [line[6:].partition(":")[0] for line in done.stdout.splitlines() if line[:2] in ("ok", "wa")]
        assert subjects == [
            "platform", "/proc", "libraries", "processor", "memory", "silence", "Landlock", "network namespace", "port",
            "prefix", "space", "product", "clock",
        ]  # fmt: skip
        told = json.loads(
            run(*command, release_1, "--root", sender.root_path, "--prefix", tmp_path / "s", "--json").stdout
        )
        assert (told["name"], told["version"], told["is_well"]) == ("test", "1.0", True)
        assert {check["outcome"] for check in told["checks"]} <= {"ok", "warn"}
    assert list(tmp_path.iterdir()) == []
    done = run("preflight", release_1, "--root", sender.root_path)
    assert (done.exit_code, "prefix" in done.stdout) == (0, False)


def test_a_dry_run_reads_every_byte_and_preflight_the_head_alone(
    release_1: Path, sender: Sender, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.airgap"
    data = bytearray(release_1.read_bytes())
    data[-len(END_OF_ARCHIVE) - 512] ^= 1  # the first byte of the last block with contents
    damaged.write_bytes(data)
    prefix = tmp_path / "site"
    assert run("preflight", damaged, "--root", sender.root_path, "--prefix", prefix).exit_code == 0
    done = run("install", "--dry-run", damaged, "--root", sender.root_path, "--prefix", prefix)
    assert done.exit_code == 1
    assert "installer: DigestMismatchError: " in done.stderr


def test_a_rehearsal_refuses_what_the_site_has_outgrown(site: Path, release_1: Path, sender: Sender) -> None:
    done = run("preflight", release_1, "--root", sender.root_path, "--prefix", site)
    assert done.exit_code == 1
    assert "installer: OlderVersionError: " in done.stderr


def test_space_is_counted_for_each_file_system(question: Question, tmp_path: Path) -> None:
    huge = with_weights(question, 1 << 60, "cpu")
    (check,) = [check for check in examine_site(huge, tmp_path / "site") if check.subject == "space"]
    assert (check.outcome, check.remedy is None) == ("FAIL", False)
    assert f"{tmp_path} has " in check.detail
    assert is_well(examine_site(question, tmp_path / "site"))


def test_verify_says_what_this_host_could_not_take(sender: Sender, tmp_path: Path) -> None:
    files = release_files("6.0")
    described = parse_release(files[DESCRIPTOR])
    other = replace(described, target=replace(described.target, platform="manylinux_2_99_riscv64"))
    archive = sender.archive({**files, DESCRIPTOR: encode_release(other)}, "riscv", version=806)
    done = run("verify", archive, "--root", sender.root_path)
    assert done.exit_code == 0, "the archive is right"
    assert "this host: platform: the release is for riscv64 machines" in done.stdout
    told = json.loads(run("verify", archive, "--root", sender.root_path, "--json").stdout)
    assert told["host"][0]["outcome"] == "FAIL"


SIGNED = 20261130120000  # a version that tells when it was signed
MOMENTS: dict[str, tuple[datetime, int, str, tuple[str, ...], str | None]] = {
    "after all": (datetime(2026, 12, 1, tzinfo=UTC), SIGNED, FOREVER, ("2026-11-30T13:00:00+00:00",), None),
    "an hour before the signing": (datetime(2026, 11, 30, 11, tzinfo=UTC), SIGNED, FOREVER, (), None),
    "a week before the signing": (datetime(2026, 11, 23, tzinfo=UTC), SIGNED, FOREVER, (), "was signed on"),
    "1970": (datetime(1970, 1, 2, tzinfo=UTC), SIGNED, FOREVER, (), "clock says 1970-01-02"),
    "before a receipt": (
        datetime(2026, 12, 1, tzinfo=UTC), SIGNED, FOREVER, ("2027-02-01T00:00:00+00:00",), "was installed here",
    ),
    "a version that is no time": (datetime(2026, 11, 23, tzinfo=UTC), 7, FOREVER, (), None),
    "a time after its own end": (
        datetime(2026, 11, 23, tzinfo=UTC), 20991231000000, "2027-01-01T00:00:00+00:00", (), None
    ),
    "a receipt without a time": (datetime(2026, 11, 23, tzinfo=UTC), 7, FOREVER, ("soon", "2030-01-01"), None),
}  # fmt: skip


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_clock_before_what_is_known_is_refused(moment: str) -> None:
    now, version, expires, installed_at, words = MOMENTS[moment]
    if words is None:
        check_clock(now, version, expires, installed_at)
        return
    with pytest.raises(ClockError, match=words) as refusal:
        check_clock(now, version, expires, installed_at)
    assert "set the clock, for example with `date -u -s" in str(refusal.value)


def test_a_site_whose_clock_was_once_in_the_future_can_be_left_and_made_again(
    release_2: Path, sender: Sender, tmp_path: Path
) -> None:
    prefix = tmp_path / "site"
    install_archive(release_2, sender, prefix, now=NOW + 3650 * DAY)
    with pytest.raises(ClockError, match="if the clock was wrong on that day, `installer uninstall` keeps state/"):
        install_archive(release_2, sender, prefix)
    assert run("uninstall", "--prefix", prefix).exit_code == 0
    install_archive(release_2, sender, prefix)
    assert works(prefix)


def test_versions_of_the_bundler_are_times() -> None:
    assert signed_at(SIGNED) == datetime(2026, 11, 30, 12, tzinfo=UTC)
    for version in (1, 20261399000000, 2**40, -5):
        assert signed_at(version) is None


def test_an_installation_compares_its_clock_with_the_receipts(site: Path, release_2: Path, sender: Sender) -> None:
    before = listing(site)
    with pytest.raises(ClockError, match="a release was installed here"):
        install_archive(release_2, sender, site, now=NOW - 2 * DAY)
    assert listing(site) == before


def test_an_installation_compares_its_clock_with_the_signing(sender: Sender, tmp_path: Path) -> None:
    archive = sender.archive(release_files("8.0"), "dated", version=int(f"{NOW:%Y%m%d%H%M%S}"))
    with pytest.raises(ClockError, match="the archive was signed"):
        install_archive(archive, sender, tmp_path / "site", now=NOW - 2 * DAY)
    assert not (tmp_path / "site").exists()
    install_archive(archive, sender, tmp_path / "site")


def renamed(files: dict[str, bytes], name: str) -> dict[str, bytes]:
    return {**files, DESCRIPTOR: encode_release(replace(parse_release(files[DESCRIPTOR]), name=name))}


def test_another_product_replaces_the_one_that_is_served_only_if_that_is_typed(site: Path, sender: Sender) -> None:
    other = sender.archive(renamed(release_files("3.0"), "gpt-oss-120b"), "product", version=801)
    before = listing(site)
    with pytest.raises(ProductError, match="this site serves test, the archive holds gpt-oss-120b"):
        install_archive(other, sender, site)
    assert listing(site) == before
    command = ["install", other, "--root", sender.root_path, "--prefix", site, *USER_OPTION]
    assert "--switch-product" in run(*command, "--dry-run").stdout
    assert run(*command, "--switch-prod").exit_code == 2, "it must be typed in full"
    assert run(*command, "--switch-product").exit_code == 0
    receipt = Site(site).receipt("3.0")
    assert receipt is not None
    assert receipt.allowed == ("switch-product",)
    assert "it was installed with --switch-product" in run("status", "--prefix", site).stdout
    again = sender.archive(release_files("3.1"), "product-back", version=802)
    with pytest.raises(ProductError, match="this site serves gpt-oss-120b"):
        install_archive(again, sender, site)


def test_the_publisher_is_pinned_though_nothing_else_remembers_it(site: Path, sender: Sender, tmp_path: Path) -> None:
    """Without any accepted metadata, the receipts still say whose site it is."""
    stranger = Sender.make(tmp_path / "stranger")
    theirs = stranger.archive(release_files("9.0"), "theirs", version=90)
    receipt = Site(site).receipt("2.0")
    assert receipt is not None
    assert len(receipt.publisher) == 64
    with theirs.open("rb") as stream:
        _, metadata = read_head(stream, stranger.root, None)
    with pytest.raises(PublisherError, match="another publisher"):
        check_product(Site(site), "test", publisher_of(metadata.members), switch_product=True)


def test_a_downgrade_must_be_typed_and_is_recorded(site: Path, sender: Sender) -> None:
    newer = sender.archive(release_files("0.9.1"), "newer", version=804)
    older = sender.archive(release_files("0.9"), "older", version=803)
    install_archive(newer, sender, site)
    command = ["install", older, "--root", sender.root_path, "--prefix", site, *USER_OPTION]
    assert "OlderVersionError" in run(*command).stderr
    assert run(*command, "--allow-down").exit_code == 2
    done = run(*command, "--allow-downgrade", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["receipt"]["allowed"] == ["downgrade"]
    assert "it was installed with --allow-downgrade" in run("status", "--prefix", site).stdout
    assert works(site)


def test_an_expired_archive_must_be_allowed_and_that_is_recorded(
    sender: Sender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = NOW + 20 * DAY
    archive = sender.archive(release_files("0.8"), "expired", version=805)
    let_through(tmp_path)
    command = ["install", archive, "--root", sender.root_path, "--prefix", tmp_path / "site", *USER_OPTION]

    class Later(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return late

    monkeypatch.setattr("installer.trust.datetime", Later)
    assert "ExpiredError" in run(*command).stderr
    done = run(*command, "--allow-expired")
    assert done.exit_code == 0, done.output
    receipt = Site(tmp_path / "site").receipt("0.8")
    assert receipt is not None
    assert receipt.allowed == ("expired",)
