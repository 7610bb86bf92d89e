"""The units of a site: hardened, correct in systemd's own judgement, idempotent, and refused where they cannot work.

tests/scenarios/test_service.py has a real systemd start them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from installer.cli import main
from installer.errors import ServiceError
from installer.formats.manifest import Entry, encode_manifest
from installer.service import ServicePlan, find_service, plan_service, remove, write_service
from installer.service.files import units_directory
from installer.service.units import service_unit, socket_unit
from tests.conftest import require
from tests.unprivileged import SERVICE_UID, SERVICE_USER, let_through

PYTHON = Path("/usr/bin/python3")
PACKAGES = Path("/usr/lib/python3")


def plan(prefix: Path, *, name: str = "gpt-oss", listen: str = "127.0.0.1:8080", gpu: bool = False) -> ServicePlan:
    return plan_service(
        prefix,
        user="gpt-oss",
        group="gpt-oss",
        gpu=gpu,
        interpreter=PYTHON,
        packages=PACKAGES,
        name=name,
        listen=listen,
    )


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site with one release, as the installer leaves it, whose programs are empty."""
    prefix = tmp_path / "site"
    release = prefix / "releases" / "1.0"
    (release / "venv" / "bin").mkdir(parents=True)
    program = release / "venv" / "bin" / "appliance"
    program.write_text("#!/bin/true\n")
    program.chmod(0o755)
    digest = hashlib.sha256(program.read_bytes()).hexdigest()
    manifest = encode_manifest({"venv/bin/appliance": Entry(program.stat().st_size, digest)})
    (release / "manifest.json").write_bytes(manifest)
    receipt = {
        "name": "test", "version": "1.0", "model": "Test", "metadata_version": 1, "contents_sha256": "", "expires": "",
        "files": 1, "size_bytes": 1, "python": "3.11", "self_test": "passed", "installed_at": "",
        "manifest_sha256": hashlib.sha256(manifest).hexdigest(),
    }  # fmt: skip
    (release / "receipt.json").write_text(json.dumps(receipt))
    described = {
        "format": 1, "name": "test", "version": "1.0", "accelerators": ["cpu"],
        "graphs": {"cpu": "model/cpu/model.onnx"},
        "dense": "int8", "config": "model/config.json", "vocabulary": "tokenizer/o200k_base.tiktoken",
        "known_answers": None, "target": {"python": "3.11", "platform": "manylinux_2_28_x86_64"},
        "model": {"id": "test", "title": "Test", "description": "Test.", "context_tokens": 16, "example_prompts": [],
                  "notice": None},
    }  # fmt: skip
    (release / "release.json").write_text(json.dumps(described))
    (prefix / "state").mkdir()
    if os.geteuid() == 0:
        os.chown(prefix / "state", SERVICE_UID, SERVICE_UID)
    (prefix / "current").symlink_to("releases/1.0")
    let_through(prefix)
    return prefix


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


# Nothing here may touch the units of the host that runs the tests.
def service(verb: str, site: Path, image: Path, *arguments: str) -> Result:
    return run("service", verb, "--prefix", site, "--destdir", image, *arguments)


@pytest.mark.parametrize("gpu", [False, True], ids=["cpu", "gpu"])
@pytest.mark.parametrize("prefix", ["/srv/gpt-oss", "/home/ada/site"], ids=["srv", "home"])
def test_systemd_rates_the_service_at_most_1_0(tmp_path: Path, prefix: str, *, gpu: bool) -> None:
    require(shutil.which("systemd-analyze") is not None, "systemd-analyze")
    unit = tmp_path / "gpt-oss.service"
    unit.write_text(service_unit(plan(Path(prefix), gpu=gpu)))
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=10", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"Overall exposure level for gpt-oss.service: ([0-9.]+)", done.stdout)
    assert found is not None, done.stderr
    assert float(found[1]) <= 1.0, done.stdout
    assert done.returncode == 0, "the exact level is above 1.0"


@pytest.mark.parametrize("gpu", [False, True], ids=["cpu", "gpu"])
def test_systemd_finds_no_fault_with_the_units(site: Path, tmp_path: Path, *, gpu: bool) -> None:
    require(shutil.which("systemd-analyze") is not None, "systemd-analyze")
    assert service("install", site, tmp_path / "image", *user_option()).exit_code == 0  # makes the keeper
    units = tmp_path / "units"
    units.mkdir()
    planned = plan_service(
        site, user=None, group=None, gpu=gpu, interpreter=PYTHON, packages=PACKAGES
    )  # the user need not exist on the host of this test
    (units / "gpt-oss.socket").write_text(socket_unit(planned))
    rooted = plan(site, gpu=gpu)
    text = re.sub(r"^(User|Group)=.*\n", "", service_unit(rooted), flags=re.M)
    (units / "gpt-oss.service").write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", *map(str, units.iterdir())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    ours = [line for line in done.stderr.splitlines() if "gpt-oss" in line]
    assert (done.returncode, ours) == (0, [])


def test_a_setting_that_systemd_does_not_know_would_be_found(tmp_path: Path) -> None:
    """The check above can fail."""
    require(shutil.which("systemd-analyze") is not None, "systemd-analyze")
    unit = tmp_path / "gpt-oss-wrong.service"
    unit.write_text("[Service]\nExecStart=/bin/true\nPrivateNetwrok=yes\n")
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    assert "PrivateNetwrok" in done.stderr


def user_option() -> list[str]:
    return [] if SERVICE_USER is None else ["--user", SERVICE_USER]


def units_in(image: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(image.rglob("gpt-oss*")) if path.is_file()}


def test_the_same_command_again_changes_nothing(site: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"
    first = service("install", site, image, "--json", *user_option())
    assert first.exit_code == 0, first.output
    assert len(json.loads(first.stdout)["changed"]) == 2
    before = units_in(image)
    assert set(before) == {"gpt-oss.service", "gpt-oss.socket"}
    again = json.loads(service("install", site, image, "--json").stdout)
    assert again["changed"] == []
    assert units_in(image) == before


def test_the_address_is_kept_until_another_is_given(site: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"
    service("install", site, image, "--listen", "[::]:443", *user_option())
    assert "ListenStream=[::]:443\n" in units_in(image)["gpt-oss.socket"]
    assert json.loads(service("install", site, image, "--json").stdout)["listen"] == "[::]:443"
    assert json.loads(service("show", site, image, "--json").stdout)["listen"] == "[::]:443"
    changed = json.loads(service("install", site, image, "--listen", "10.0.0.1:8443", "--json").stdout)["changed"]
    assert [Path(path).name for path in changed] == ["gpt-oss.socket"]


def test_another_name_takes_the_place_of_the_first(site: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"
    service("install", site, image, *user_option())
    service("install", site, image, "--name", "assistant")
    assert [path.name for path in sorted(image.rglob("*.s*")) if path.is_file()] == [
        "assistant.service",
        "assistant.socket",
    ]
    assert "Requires=assistant.socket\n" in next(image.rglob("assistant.service")).read_text()


def test_what_is_removed_is_gone_and_may_be_gone_already(site: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"
    service("install", site, image, *user_option())
    assert remove(site, image) is not None
    assert units_in(image) == {}
    assert remove(site, image) is None
    said = service("remove", site, image)
    assert (said.exit_code, said.stdout) == (0, f"No service serves {site}; nothing was changed.\n")
    shown = service("show", site, image)
    assert shown.exit_code == 1
    assert "no service serves" in shown.stderr
    assert remove(tmp_path / "never", tmp_path / "nowhere") is None


def test_a_damaged_unit_is_written_again(site: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"
    service("install", site, image, *user_option())
    found = find_service(site, image)
    assert found is not None
    whole = found.service.read_text()
    found.service.write_text("\n".join(whole.splitlines()[:6]))
    found.socket.unlink()
    assert service("install", site, image).exit_code == 0
    assert found.service.read_text() == whole
    assert "ListenStream=127.0.0.1:8080" in found.socket.read_text()


REFUSED: dict[str, tuple[Path, dict[str, str], str]] = {
    "space": (Path("/srv/my site"), {}, "cannot stand in a systemd unit"),
    "newline": (Path("/srv/a\nUser=root"), {}, "cannot stand in a systemd unit"),
    "percent": (Path("/srv/%h"), {}, "cannot stand in a systemd unit"),
    "dollar": (Path("/srv/$HOME"), {}, "cannot stand in a systemd unit"),
    "quote": (Path('/srv/"a"'), {}, "cannot stand in a systemd unit"),
    "colon": (Path("/srv/a:b"), {}, "cannot stand in a systemd unit"),
    "not-utf-8": (Path(os.fsdecode(b"/srv/\xff")), {}, "cannot stand in a systemd unit"),
    "name-slash": (Path("/srv/a"), {"name": "../evil"}, "is no name for a service"),
    "name-newline": (Path("/srv/a"), {"name": "a\n"}, "is no name for a service"),
    "name-template": (Path("/srv/a"), {"name": "a@b"}, "is no name for a service"),
    "port-0": (Path("/srv/a"), {"listen": "127.0.0.1:0"}, "is no address to listen on"),
    "port-big": (Path("/srv/a"), {"listen": "127.0.0.1:65536"}, "is no address to listen on"),
    "port-alone": (Path("/srv/a"), {"listen": "8080"}, "is no address to listen on"),
    "host-name": (Path("/srv/a"), {"listen": "box.example:443"}, "is no address to listen on"),
    "listen-newline": (Path("/srv/a"), {"listen": "127.0.0.1:80\nExecStartPre=/bin/sh"}, "is no address to listen on"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    prefix, options, words = REFUSED[case]
    with pytest.raises(ServiceError) as caught:
        plan(prefix, name=options.get("name", "gpt-oss"), listen=options.get("listen", "127.0.0.1:8080"))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "words"), [
    ("[Service]\nExecStart=/bin/true\n", "was not written by this installer"),
    ("# Site: /srv/other\n[Service]\n", "serves the site /srv/other"),
], ids=["foreign", "other-site"])  # fmt: skip
def test_a_unit_of_that_name_that_is_not_ours_stays(site: Path, tmp_path: Path, text: str, words: str) -> None:
    image = tmp_path / "image"
    directory = (
        image / "etc/systemd/system"
        if os.geteuid() == 0
        else image / Path.home().relative_to("/") / ".config/systemd/user"
    )
    directory.mkdir(parents=True)
    (directory / "gpt-oss.service").write_text(text)
    refused = service("install", site, image, *user_option())
    assert refused.exit_code == 1
    assert words in refused.stderr
    assert "give this service another name with --name" in refused.stderr
    assert (directory / "gpt-oss.service").read_text() == text
    assert not (directory / "gpt-oss.socket").exists()
    assert service("install", site, image, "--name", "second", *user_option()).exit_code == 0


def test_a_user_s_own_service_needs_no_root(site: Path) -> None:
    planned = plan_service(site, user=None, group=None, gpu=False, interpreter=PYTHON, packages=PACKAGES)
    text = service_unit(planned)
    assert "User=" not in text
    assert f"ExecStartPre={site}/service/keeper before\n" in text, "no `+`: nobody but the user runs it"
    assert "WantedBy=default.target" in text


def test_writing_leaves_no_half_of_a_service(site: Path, tmp_path: Path) -> None:
    """The name is refused before anything is written, for both units."""
    write_service(plan(Path("/srv/first")), tmp_path)
    before = units_in(tmp_path)
    with pytest.raises(ServiceError):
        write_service(plan(site), tmp_path)
    assert units_in(tmp_path) == before


def test_a_site_without_a_release_has_no_service(tmp_path: Path) -> None:
    refused = service("install", tmp_path, tmp_path / "image")
    assert refused.exit_code == 1
    assert "no release is installed" in refused.stderr
    assert not (tmp_path / "image").exists()


def test_fapolicyd_gets_a_line_for_each_file_that_can_run(site: Path, tmp_path: Path) -> None:
    service("install", site, tmp_path / "image", *user_option())
    done = run("service", "fapolicyd", "--prefix", site)
    assert done.exit_code == 0, done.output
    lines = [line.split(" ") for line in done.stdout.splitlines()]
    assert [Path(path).name for path, _, _ in lines] == ["appliance", "keeper"]
    for path, size, digest in lines:
        data = Path(path).read_bytes()
        assert (size, digest) == (str(len(data)), hashlib.sha256(data).hexdigest())


def test_the_keeper_needs_nothing_but_the_standard_library(site: Path, tmp_path: Path) -> None:
    service("install", site, tmp_path / "image", *user_option())
    names = subprocess.run(
        [sys.executable, "-IS", "-c", "import sys, zipfile; print(*zipfile.ZipFile(sys.argv[1]).namelist())",
         site / "service" / "keeper"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert sorted(names) == [
        "__main__.py", "installer/__init__.py", "installer/formats/__init__.py", "installer/formats/serving.py",
        "installer/formats/trial.py", "installer/service/__init__.py", "installer/service/keeper.py",
    ]  # fmt: skip


as_root = pytest.mark.skipif("os.geteuid() != 0", reason="only root gives files away")


@as_root
@pytest.mark.parametrize("what", ["prefix-of-another", "prefix-for-all", "service-a-link", "service-a-file"])
def test_root_runs_nothing_that_another_user_could_exchange(site: Path, tmp_path: Path, what: str) -> None:
    """The unit starts the keeper as root."""
    if what == "prefix-of-another":
        os.chown(site, SERVICE_UID, SERVICE_UID)
    elif what == "prefix-for-all":
        site.chmod(0o777)
    elif what == "service-a-link":
        (tmp_path / "elsewhere").mkdir()
        (site / "service").symlink_to(tmp_path / "elsewhere")
    else:
        (site / "service").touch()
    refused = service("install", site, tmp_path / "image")
    assert refused.exit_code == 1
    assert "PrefixError" in refused.stderr
    assert not (tmp_path / "image").exists()
    assert not list((tmp_path / "elsewhere").glob("*"))


@as_root
@pytest.mark.parametrize("what", ["owner", "mode", "contents", "link", "directory"])
def test_a_keeper_that_another_user_left_is_replaced(site: Path, tmp_path: Path, what: str) -> None:
    service("install", site, tmp_path / "image")
    keeper = site / "service" / "keeper"
    right = keeper.read_bytes()
    if what == "owner":
        os.chown(keeper, SERVICE_UID, SERVICE_UID)
    elif what == "mode":
        keeper.chmod(0o777)
    elif what == "contents":
        keeper.write_bytes(b"#!/bin/sh\n")
    elif what == "link":
        keeper.unlink()
        keeper.symlink_to(tmp_path / "theirs")
        (tmp_path / "theirs").write_bytes(right)
    else:
        os.chown(keeper.parent, SERVICE_UID, SERVICE_UID)
        keeper.parent.chmod(0o777)
    assert service("install", site, tmp_path / "image").exit_code == 0
    status, above = keeper.lstat(), keeper.parent.stat()
    assert (status.st_uid, status.st_mode & 0o7777, keeper.read_bytes()) == (0, 0o555, right)
    assert (above.st_uid, above.st_mode & 0o7777) == (0, 0o755)


def test_a_user_whom_the_host_does_not_know_has_no_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in containers, and on a host whose users were not set up."""
    monkeypatch.setattr("os.geteuid", lambda: 54_321)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    assert find_service(Path("/srv/site")) is None
    with pytest.raises(ServiceError, match="uid 54321 is no user of this host"):
        units_directory()
