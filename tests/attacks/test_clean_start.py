"""Somebody who can write into an installed release waits for the next start. Nothing that was planted runs, and each
planted file is named.

The release is small but its command is the real one: our packages, click and pydantic, unpacked by the real installer.
A planted program would write a marker file. Each attack is also tried against `installer verify --prefix`.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import py_compile
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from installer.cli import main
from installer.formats.manifest import MANIFEST, RECEIPT, Entry, encode_manifest, is_bulk
from installer.install import install
from installer.wheels import compiled
from tests.installer.archives import PYTHON, Sender, installed_wheel, listing, our_wheel, small_files
from tests.unprivileged import SERVICE_UID, SERVICE_USER, give_to_user, let_through

PACKAGES = f"venv/lib/python{PYTHON}/site-packages"
# What the commands import before they compare the data of a release.
PACKED = ("click", "pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection")
COMMANDS = [["serve", "--port", "0", "--home"], ["doctor", "--home"], ["users", "list", "--home"]]
GRAPH, WEIGHTS = "model/cpu/model.onnx", "model/cpu/weights-00001.bin"
MODULE = f"{PACKAGES}/click/core.py"


@dataclass(frozen=True)
class Scene:
    """An installed site, and the place where a planted program leaves its mark."""

    site: Path
    root: Path
    marker: Path

    @property
    def release(self) -> Path:
        return self.site / "releases" / "1.0"

    def program(self) -> str:
        """A program that the attacker wants to run."""
        return f"open({str(self.marker)!r}, 'w').close()\n"

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run the installed command as the README calls it."""
        appliance = self.site / "current/venv/bin/appliance"
        return subprocess.run([appliance, *command], capture_output=True, text=True, check=False, timeout=60)

    def verify(self) -> tuple[int, dict[str, str], list[str]]:
        """Run `installer verify --prefix`. Returns the exit code, path -> fault, and the sentences."""
        done = CliRunner().invoke(main, ["verify", "--prefix", str(self.site), "--root", str(self.root), "--json"])
        body = json.loads(done.stdout)
        (found,) = body["releases"]
        differences = {difference["path"]: difference["fault"] for difference in found["differences"]}
        return done.exit_code, differences, [*body["faults"], *found["faults"]]


@pytest.fixture(scope="module", autouse=True)
def compiled_once() -> Iterator[None]:
    """Every comparison with the signatures compiles all sources. The same source compiles to the same bytes."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("installer.environment.compiled", functools.cache(compiled))
        yield


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Installed once; each test takes a copy."""
    here = tmp_path_factory.mktemp("clean")
    sender = Sender.make(here / "sender")
    wheels = dict([our_wheel(), *map(installed_wheel, PACKED)])
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in wheels.items()}
    lock = [f"{'=='.join(name.replace('_', '-').split('-py3')[0].rsplit('-', 1))} --hash=sha256:{digest}\n"
            for name, digest in hashes.items()]  # fmt: skip
    files = {
        **small_files("1.0"),
        **{f"wheels/{name}": data for name, data in wheels.items()},
        "wheels/requirements.lock": "".join(lock).encode(),
        GRAPH: b"a graph",
        WEIGHTS: bytes(100_000),
    }
    archive = sender.archive(files, version=1)
    let_through(here)
    with archive.open("rb") as stream:
        install(
            stream, sender.root, here / "site", now=datetime.now(UTC), environ=dict(os.environ),
            user=SERVICE_USER,
        )  # fmt: skip
    return Scene(here / "site", sender.root_path, here / "marker")


@pytest.fixture
def scene(installed: Scene, tmp_path: Path) -> Scene:
    shutil.copytree(installed.site, tmp_path / "site", symlinks=True)
    give_to_user(tmp_path / "site")
    return Scene(tmp_path / "site", installed.root, tmp_path / "marker")


def write(path: Path, text: str) -> None:
    """What an attacker with the owner's rights does: make the file, or exchange it whatever its mode is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(text)


def change_keeping_size_and_time(path: Path, change: Callable[[bytes], bytes]) -> None:
    before = path.stat()
    data = change(path.read_bytes())
    assert len(data) == before.st_size
    path.unlink()
    path.write_bytes(data)
    path.chmod(0o444)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def plant(name: str) -> Callable[[Scene], str]:
    """Add a file that the release does not have."""

    def attack(scene: Scene) -> str:
        text = f"import os; {scene.program()}" if name.endswith(".pth") else scene.program()
        write(scene.release / name, text)
        return name

    return attack


def change_source(scene: Scene) -> str:
    """Keep size and time. Python would run this source if the compiled file beside it were gone."""
    program = scene.program().encode()
    change_keeping_size_and_time(scene.release / MODULE, lambda data: program + b"#" * (len(data) - len(program)))
    return MODULE


def change_compiled(scene: Scene) -> str:
    """Exchange the file that Python really runs; it is compiled correctly, from another program."""
    source = scene.marker.with_suffix(".py")
    source.write_text(scene.program())
    tag = sys.implementation.cache_tag
    name = f"{PACKAGES}/click/__pycache__/__init__.{tag}.pyc"
    (scene.release / name).unlink()
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(source), str(scene.release / name), invalidation_mode=mode)
    (scene.release / name).chmod(0o444)
    return name


def change_checker(scene: Scene) -> str:
    """Change the module that compares."""
    path = scene.release / PACKAGES / "installer/formats/manifest.py"
    write(path, path.read_text() + scene.program())
    return f"{PACKAGES}/installer/formats/manifest.py"


def remove(name: str) -> Callable[[Scene], str]:
    def attack(scene: Scene) -> str:
        (scene.release / name).unlink()
        return name

    return attack


def link_out(scene: Scene) -> str:
    """Make a package's directory a link to another one outside the release."""
    outside = scene.marker.parent / "outside"
    write(outside / "__init__.py", scene.program())
    shutil.rmtree(scene.release / PACKAGES / "click")
    (scene.release / PACKAGES / "click").symlink_to(outside)
    return f"{PACKAGES}/click"


def set_mode(name: str, mode: int) -> Callable[[Scene], str]:
    def attack(scene: Scene) -> str:
        (scene.release / name).chmod(mode)
        return name

    return attack


def give_away(name: str) -> Callable[[Scene], str]:
    """Give the file to the appliance's user, who could then open it for writing."""

    def attack(scene: Scene) -> str:
        os.chown(scene.release / name, SERVICE_UID, SERVICE_UID)
        return name

    return attack


def exchange(name: str, other: Callable[[Path], object]) -> Callable[[Scene], str]:
    """Put something other than a file in its place."""

    def attack(scene: Scene) -> str:
        (scene.release / name).rename(scene.marker.with_suffix(".bin"))
        other(scene.release / name)
        return name

    return attack


def link_to_the_same_bytes(scene: Scene) -> str:
    outside = scene.marker.with_suffix(".bin")
    return exchange(WEIGHTS, lambda path: path.symlink_to(outside))(scene)


def resize(name: str, size_bytes: int) -> Callable[[Scene], str]:
    def attack(scene: Scene) -> str:
        os.truncate(scene.release / name, size_bytes)
        return name

    return attack


def make_directory(name: str) -> Callable[[Scene], str]:
    def attack(scene: Scene) -> str:
        (scene.release / name).mkdir()
        return name

    return attack


CODE: dict[str, Callable[[Scene], str]] = {
    "a .pth file": plant(f"{PACKAGES}/evil.pth"),
    "sitecustomize": plant(f"{PACKAGES}/sitecustomize.py"),
    "usercustomize": plant(f"{PACKAGES}/usercustomize.py"),
    "a module before the standard library's": plant(f"{PACKAGES}/json.py"),
    "a stray package": plant(f"{PACKAGES}/stray/__init__.py"),
    "compiled code without a source": plant(f"{PACKAGES}/click/__pycache__/evil.{sys.implementation.cache_tag}.pyc"),
    "a shared library": plant(f"{PACKAGES}/appliance/kernels/libevil.so"),
    "an interpreter in the environment": plant("venv/bin/python"),
    "pyvenv.cfg": plant("venv/pyvenv.cfg"),
    "a ._pth file": plant("venv/bin/appliance._pth"),
    "a second command": plant("venv/bin/gunicorn"),
    "a changed source": change_source,
    "changed compiled code": change_compiled,
    "the comparison itself changed": change_checker,
    "a missing module": remove(MODULE),
    "a package led elsewhere": link_out,
    "a module that others can write": set_mode(MODULE, 0o666),
    "a set-user-ID module": set_mode(MODULE, 0o4444),
    "a module that nobody may read": set_mode(MODULE, 0),
    "an empty directory": make_directory(f"{PACKAGES}/namespace"),
}  # fmt: skip


def test_a_name_cannot_forge_the_report(scene: Scene) -> None:
    """The name of a planted file holds line ends, terminal escapes and bytes that are not UTF-8."""
    name = os.fsencode(scene.release / PACKAGES) + b"/a\nok    release\x1b[2K\xff.pth"
    with open(name, "w") as file:
        file.write(scene.program())
    done = scene.run("doctor", "--home", str(scene.site))
    assert done.returncode == 1
    assert "a\\nok    release\\x1b[2K\\udcff.pth is not part of the release" in done.stdout
    assert [line[:4] for line in done.stdout.splitlines()] == ["FAIL", "    "]
    assert scene.verify()[0] == 1


@pytest.mark.parametrize("name", [MANIFEST, RECEIPT])
def test_a_seal_that_cannot_be_read_is_one_sentence(name: str, scene: Scene) -> None:
    write(scene.release / name, "[" * 200_000)
    done = scene.run("users", "list", "--home", str(scene.site))
    assert done.returncode == 1
    assert f"{name} " in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", CODE)
def test_planted_code_does_not_run_and_is_named(name: str, scene: Scene) -> None:
    path = CODE[name](scene)
    for command in COMMANDS:
        done = scene.run(*command, str(scene.site))
        assert done.returncode == 1
        said = done.stdout if command[0] == "doctor" else done.stderr
        assert path in said, "the file is named"
        assert "install the same archive again" in said
        assert said.startswith("FAIL  release" if command[0] == "doctor" else "Error: release 1.0 is not as")
        assert not scene.marker.exists(), "nothing of it ran"
    code, differences, _ = scene.verify()
    assert code == 1
    assert path in differences


def test_the_untouched_release_is_well(scene: Scene) -> None:
    """The control: the same commands get past the comparison."""
    assert scene.run("--version").returncode == 0
    assert scene.verify() == (0, {}, [])


def flip(name: str, *, keep_time: bool) -> Callable[[Scene], str]:
    def attack(scene: Scene) -> str:
        path = scene.release / name
        if keep_time:
            change_keeping_size_and_time(path, lambda data: bytes([data[0] ^ 1]) + data[1:])
        else:
            data = path.read_bytes()
            path.chmod(0o644)
            path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
            path.chmod(0o444)
        return name

    return attack


DATA: dict[str, Callable[[Scene], str]] = {
    "a changed graph": flip(GRAPH, keep_time=True),
    "changed weights": flip(WEIGHTS, keep_time=False),
    "a missing shard": remove(WEIGHTS),
    "a shard that is cut short": resize(WEIGHTS, 99_999),
    "an empty shard": resize(WEIGHTS, 0),
    "a shard that nobody may read": set_mode(WEIGHTS, 0),
    "a shard that others can write": set_mode(WEIGHTS, 0o666),
    "a link to the same bytes": link_to_the_same_bytes,
    "a pipe for a shard": exchange(WEIGHTS, os.mkfifo),
    "a directory for a shard": exchange(WEIGHTS, Path.mkdir),
    "a changed description": flip("release.json", keep_time=True),
    "a stray file beside the graph": plant("model/cpu/stray.bin"),
    "a changed lock": flip("wheels/requirements.lock", keep_time=True),
    "a stray file beside the release's": plant("evil.pth"),
    "changed signatures": flip("metadata/targets.json", keep_time=True),
}


ROOTS = {  # what only root can do
    "a module of another user": give_away(MODULE),
    "a shard of another user": give_away(WEIGHTS),
    "a directory of another user": give_away("model/cpu"),
}


@pytest.mark.skipif("os.geteuid() != 0", reason="only root can give away files")
@pytest.mark.parametrize("name", ROOTS)
def test_a_file_given_to_another_user_is_named_and_not_served(name: str, scene: Scene) -> None:
    path = ROOTS[name](scene)
    done = scene.run("serve", "--port", "0", "--home", str(scene.site))
    assert done.returncode == 1
    assert f"release 1.0 is not as it was installed: {path} belongs to another user" in done.stderr
    assert scene.verify() == (1, {path: "belongs to another user"}, [])


@pytest.mark.skipif("os.geteuid() != 0", reason="only root can give away files")
def test_a_whole_site_of_another_user_is_well_to_root_with_the_root(scene: Scene) -> None:
    """Another user installed it: the user who verifies need not be the one who installed."""
    for directory, names, files in os.walk(scene.site):
        for name in ("", *names, *files):
            os.chown(os.path.join(directory, name), SERVICE_UID, SERVICE_UID, follow_symlinks=False)
    assert scene.verify() == (0, {}, [])


@pytest.mark.parametrize("name", DATA)
def test_changed_data_is_not_served_and_is_named(name: str, scene: Scene) -> None:
    path = DATA[name](scene)
    for command in (["serve", "--port", "0", "--home", str(scene.site)], ["selftest", "--release", str(scene.release)]):
        done = scene.run(*command)
        assert done.returncode == 1
        assert f"release 1.0 is not as it was installed: {path}" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    status = CliRunner().invoke(main, ["status", "--prefix", str(scene.site)])
    assert status.exit_code == 1
    assert f"FAIL  release 1.0 is not as it was installed: {path}" in status.stdout
    code, differences, faults = scene.verify()
    assert code == 1
    assert path in differences or any(path.rpartition("/")[2] in fault for fault in faults)


def test_a_flipped_byte_of_weights_under_its_old_time_is_found_by_verify(scene: Scene) -> None:
    flip(WEIGHTS, keep_time=True)(scene)
    assert scene.verify() == (1, {WEIGHTS: "differs"}, [])


def seal_anew(scene: Scene) -> None:
    """Write a manifest and a receipt that fit the present files, as somebody who can write the whole release would."""
    found = {}
    for path in scene.release.rglob("*"):
        name = str(path.relative_to(scene.release))
        if path.is_file() and name not in (MANIFEST, RECEIPT):
            data = path.read_bytes()
            mtime_ns = path.stat().st_mtime_ns if is_bulk(name) else None
            found[name] = Entry(len(data), hashlib.sha256(data).hexdigest(), mtime_ns)
    sealed = encode_manifest(found)
    write(scene.release / MANIFEST, sealed.decode())
    receipt = json.loads((scene.release / RECEIPT).read_bytes())
    receipt["manifest_sha256"] = hashlib.sha256(sealed).hexdigest()
    write(scene.release / RECEIPT, json.dumps(receipt))


@pytest.mark.parametrize("name", [*CODE, *DATA])
def test_a_manifest_exchanged_with_what_it_lists_is_found_with_the_root(name: str, scene: Scene) -> None:
    path = (CODE | DATA)[name](scene)
    seal_anew(scene)
    code, differences, faults = scene.verify()
    assert code == 1
    assert path in differences or any(path.rpartition("/")[2] in fault for fault in faults)


def test_an_exchanged_manifest_alone_is_refused_at_the_start(scene: Scene) -> None:
    plant(f"{PACKAGES}/evil.pth")(scene)
    receipt = (scene.release / RECEIPT).read_text()
    seal_anew(scene)
    write(scene.release / RECEIPT, receipt)
    done = scene.run("users", "list", "--home", str(scene.site))
    assert done.returncode == 1
    assert "manifest.json is not the one that receipt.json names" in done.stderr
    assert not scene.marker.exists()


@pytest.mark.parametrize("name", [MANIFEST, RECEIPT, f"{PACKAGES}/installer/formats/manifest.py"])
def test_a_named_pipe_in_the_place_of_what_compares_has_nobody_wait(name: str, scene: Scene) -> None:
    (scene.release / name).unlink()
    os.mkfifo(scene.release / name)
    done = scene.run("users", "list", "--home", str(scene.site))
    assert done.returncode == 1
    assert name.rpartition("/")[2] in done.stderr
    assert len(done.stderr.splitlines()) == 1


def seal_as(scene: Scene, manifest: str) -> None:
    """Write this manifest, and a receipt that names it."""
    write(scene.release / MANIFEST, manifest)
    receipt = json.loads((scene.release / RECEIPT).read_bytes())
    receipt["manifest_sha256"] = hashlib.sha256(manifest.encode()).hexdigest()
    write(scene.release / RECEIPT, json.dumps(receipt))


ODD_PATHS = {
    "up": "venv/../../outside", "absolute": "/etc/passwd", "here": "./release.json", "twice": "venv//bin/appliance",
    "directory": "venv/bin/", "twin by case": "venv/bin/Appliance", "empty": "", "NUL": "venv/bin/a\0b",
}  # fmt: skip


@pytest.mark.parametrize("name", ODD_PATHS)
def test_a_path_that_is_no_file_s_own_is_missing(name: str, scene: Scene) -> None:
    """Whatever the manifest names, the comparison looks at the files that lie in the release."""
    write(scene.site / "outside", "outside")
    body = json.loads((scene.release / MANIFEST).read_bytes())
    body["files"][ODD_PATHS[name]] = body["files"]["release.json"]
    seal_as(scene, json.dumps(body))
    done = scene.run("serve", "--port", "0", "--home", str(scene.site))
    assert done.returncode == 1
    assert "is missing" in done.stderr
    assert scene.verify()[0] == 1


@pytest.mark.parametrize("true_one", ["first", "last"])
def test_of_two_entries_for_one_file_both_readers_take_the_last(true_one: str, scene: Scene) -> None:
    """The launcher reads the manifest for the module that compares, and that module reads it again."""
    checker = f"{PACKAGES}/installer/formats/manifest.py"
    entries = json.loads((scene.release / MANIFEST).read_bytes())["files"]
    lines = [f"{json.dumps(path)}: {json.dumps(entry)}" for path, entry in entries.items()]
    forged = f"{json.dumps(checker)}: {json.dumps([1, '0' * 64])}"
    lines = [*lines, forged] if true_one == "first" else [forged, *lines]
    seal_as(scene, f'{{"format": 1, "files": {{{", ".join(lines)}}}}}')
    done = scene.run("--version")
    assert (done.returncode == 0) == (true_one == "last")
    assert ("differs" in done.stderr) == (true_one == "first")


@pytest.mark.parametrize("name", [MANIFEST, RECEIPT])
def test_a_release_without_its_seal_is_not_run(name: str, scene: Scene) -> None:
    (scene.release / name).unlink()
    done = scene.run("users", "list", "--home", str(scene.site))
    assert done.returncode == 1
    assert f"{name} " in done.stderr
    assert "Traceback" not in done.stderr


def test_an_exchanged_launcher_is_found_with_the_root(scene: Scene) -> None:
    """The start cannot judge this one file, because it is what starts."""
    launcher = scene.release / "venv/bin/appliance"
    write(launcher, f"#!{sys.executable}\n{scene.program()}")
    seal_anew(scene)
    assert scene.verify()[:2] == (1, {MANIFEST: "differs", "venv/bin/appliance": "differs"})


def test_an_interpreter_of_the_attacker_is_named(scene: Scene) -> None:
    receipt = json.loads((scene.release / RECEIPT).read_bytes()) | {"interpreter": "/tmp/evil/python3"}
    write(scene.release / RECEIPT, json.dumps(receipt))
    launcher = scene.release / "venv/bin/appliance"
    write(launcher, "#!/tmp/evil/python3 -IS\n" + launcher.read_text().partition("\n")[2])
    seal_anew(scene)
    code, _, faults = scene.verify()
    assert code == 1
    assert "the release is run by /tmp/evil/python3" in " ".join(faults)


def test_current_led_out_of_the_site_is_named(scene: Scene) -> None:
    (scene.site / "current").unlink()
    (scene.site / "current").symlink_to(scene.marker.parent)
    goal = scene.marker.parent
    assert scene.verify() == (1, {}, [f"current is a link to {goal} and leads to no release of this site"])


def test_what_lies_beside_the_releases_is_named(scene: Scene) -> None:
    write(scene.site / "flask.py", scene.program())
    assert scene.verify() == (1, {}, ["flask.py is not part of the site"])


def test_a_release_beside_the_installed_ones_is_named(scene: Scene) -> None:
    shutil.copytree(scene.release, scene.site / "releases" / "9.9", symlinks=True)
    (scene.site / "releases" / "9.9" / RECEIPT).unlink()
    assert scene.verify()[2] == ["releases/9.9 is no installed release, because it has no receipt"]


def test_another_sender_s_root_vouches_for_nothing(scene: Scene, tmp_path: Path) -> None:
    stranger = Sender.make(tmp_path / "stranger")
    code, _, faults = Scene(scene.site, stranger.root_path, scene.marker).verify()
    assert code == 1
    assert any("keys that the given root does not know" in fault for fault in faults)


def test_the_environment_cannot_add_code(scene: Scene, tmp_path: Path) -> None:
    """PYTHON* variables, the working directory and the user's own packages."""
    user = tmp_path / "home" / ".local" / "lib" / f"python{PYTHON}" / "site-packages"
    write(user / "usercustomize.py", scene.program())
    write(user / "evil.pth", f"import os; {scene.program()}")
    write(tmp_path / "click.py", scene.program())
    environ = {**os.environ, "HOME": str(tmp_path / "home"), "PYTHONPATH": str(tmp_path)}
    command = [str(scene.site / "current/venv/bin/appliance"), "--version"]
    done = subprocess.run(command, capture_output=True, check=False, env=environ, cwd=tmp_path)
    assert done.returncode == 0
    assert not scene.marker.exists()


def test_serving_writes_nothing_into_the_release(scene: Scene) -> None:
    before = listing(scene.release)
    assert scene.run("users", "--help").returncode == 0
    assert listing(scene.release) == before
