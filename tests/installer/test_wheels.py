"""Wheels become an environment: exactly the locked ones, nothing outside their packages, the same every time."""

from __future__ import annotations

import base64
import hashlib
import io
import marshal
import os
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import pytest

from installer.environment import environment_files
from installer.errors import WheelInstallError
from installer.wheels import compiled, environment_members
from tests.installer.archives import PROJECT, PYTHON, make_wheel, our_wheel

PACKAGES = f"venv/lib/python{PYTHON}/site-packages"


def wheel(directory: Path, name: str, files: dict[str, bytes]) -> tuple[str, Path, str]:
    """Digest, file and lock line of a wheel `NAME-1.0`."""
    data = make_wheel(files, f"{name}-1.0.dist-info")
    path = directory / f"{name}-1.0-py3-none-any.whl"
    path.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    return digest, path, f"{name}==1.0 --hash=sha256:{digest}\n"


def unpacked(directory: Path, *files: dict[str, bytes]) -> set[str]:
    """The paths that wheels with these files are unpacked to, below the packages."""
    wheels = [wheel(directory, f"w{number}", given) for number, given in enumerate(files)]
    lock = "".join(line for *_, line in wheels)
    members = environment_members({digest: path for digest, path, _ in wheels}, lock, PYTHON)
    return {place.removeprefix(f"{PACKAGES}/") for place in members}


def test_packages_are_unpacked_and_scripts_headers_and_data_left_out(tmp_path: Path) -> None:
    files = {
        "a/__init__.py": b"", "a/__pycache__/__init__.cpython-311.pyc": b"made elsewhere", "b.pyc": b"",
        "w0-1.0.data/purelib/pure.py": b"", "w0-1.0.data/platlib/plat.so": b"",
        "w0-1.0.data/scripts/python": b"", "w0-1.0.data/data/pyvenv.cfg": b"", "w0-1.0.data/headers/a.h": b"",
    }  # fmt: skip
    assert unpacked(tmp_path, files) == {"a/__init__.py", "pure.py", "plat.so", "w0-1.0.dist-info/RECORD"}


@pytest.mark.parametrize(
    "name",
    ["../up.py", "a/../../up.py", "/etc/x.py", "a//b.py", "./a.py", "a\\b.py", "a\nb.py",
     "w0-1.0.data/purelib/../../x.py"],
)  # fmt: skip
def test_a_member_outside_its_packages_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(WheelInstallError, match="is not a plain file inside its packages"):
        unpacked(tmp_path, {name: b""})


def test_a_link_in_a_wheel_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        link = zipfile.ZipInfo("a.py")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("w-1.0.dist-info/RECORD", f"a.py,{recorded(b'/etc/passwd')},11\n")
    path = tmp_path / "w-1.0-py3-none-any.whl"
    path.write_bytes(buffer.getvalue())
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    with pytest.raises(WheelInstallError, match="is not a plain file"):
        environment_members({digest: path}, f"w==1.0 --hash=sha256:{digest}\n", PYTHON)


def test_two_wheels_may_share_a_file_only_if_it_is_the_same(tmp_path: Path) -> None:
    assert "ns/data" in unpacked(
        tmp_path, {"ns/__init__.py": b"", "ns/data": b"x"}, {"ns/__init__.py": b"", "ns/data": b"x"}
    )
    with pytest.raises(WheelInstallError, match="hold different files"):
        unpacked(tmp_path, {"ns/data": b"x"}, {"ns/data": b"y"})
    with pytest.raises(WheelInstallError, match="is a file in one wheel and a directory in another"):
        unpacked(tmp_path, {"ns": b""}, {"ns/a.py": b""})


NUMPY = {"numpy/__init__.py": b"x = 1", "numpy/linalg/__init__.py": b"y = 1"}
STRANGERS = {
    "a module in another's package": {"numpy/evil.py": b""},
    "a module in another's subpackage": {"numpy/linalg/evil.py": b""},
    "a subpackage in another's package": {"numpy/evil/__init__.py": b"x"},
    "another's package": {"numpy/__init__.py": b"x = 1"},
    "data in another's package": {"numpy/linalg/data.bin": b""},
    "a module of a package's name": {"numpy.py": b""},
    "a compiled module of a package's name": {"numpy.cpython-311-x86_64-linux-gnu.so": b""},
    "by purelib": {"w1-1.0.data/purelib/numpy/evil.py": b""},
    "another's description": {"w0-1.0.dist-info/METADATA": b""},
    "sitecustomize": {"sitecustomize.py": b""},
    "usercustomize as a package": {"usercustomize/__init__.py": b""},
    "sitecustomize, compiled": {"sitecustomize.abi3.so": b""},
    "pth": {"evil.pth": b"import evil"},
    "pth by platlib": {"w1-1.0.data/platlib/evil.pth": b"import evil"},
}


@pytest.mark.parametrize("files", STRANGERS.values(), ids=STRANGERS)
def test_a_wheel_that_writes_a_name_that_is_not_its_own_is_refused(files: dict[str, bytes], tmp_path: Path) -> None:
    orders: tuple[tuple[dict[str, bytes], ...], ...] = ((NUMPY, files), (NUMPY, {}, files))
    for order in orders:
        own = {name.replace("w1-1.0", f"w{len(order) - 1}-1.0"): data for name, data in files.items()}
        with pytest.raises(WheelInstallError, match=r"^w[12]-1\.0-py3-none-any\.whl (writes|brings) "):
            unpacked(tmp_path, *order[:-1], own)


def test_no_wheel_writes_into_our_packages(tmp_path: Path) -> None:
    name, data = our_wheel()
    (tmp_path / name).write_bytes(data)
    ours = hashlib.sha256(data).hexdigest()
    for package in ("appliance", "installer", "appliance/runtime"):
        digest, path, line = wheel(tmp_path, "stranger", {f"{package}/evil.py": b""})
        wheels = {ours: tmp_path / name, digest: path}
        for lock in (
            [f"gpt-oss-appliance==0.1.0 --hash=sha256:{ours}\n", line],
            [line, f"gpt-oss-appliance==0.1.0 --hash=sha256:{ours}\n"],
        ):
            with pytest.raises(WheelInstallError, match="into a package of gpt_oss_appliance"):
                environment_members(wheels, "".join(lock), PYTHON)


def test_wheels_may_share_a_namespace(tmp_path: Path) -> None:
    """As the wheels of NVIDIA do, with an empty __init__.py or without one."""
    for top in ({}, {"nvidia/__init__.py": b""}):
        found = unpacked(tmp_path, {**top, "nvidia/cublas/lib.so": b""}, {**top, "nvidia/cudnn/lib.so": b""})
        assert {"nvidia/cublas/lib.so", "nvidia/cudnn/lib.so"} <= found


def test_tests_of_packages_are_left_out_unless_they_were_installed_once(tmp_path: Path) -> None:
    files = {"a/__init__.py": b"", "a/tests/test_a.py": b"", "tests/test_b.py": b"", "a/testing.py": b""}
    assert {"a/__init__.py", "a/testing.py"} == {name for name in unpacked(tmp_path, files) if "dist-info" not in name}
    digest, path, line = wheel(tmp_path, "w0", files)
    kept = {f"{PACKAGES}/a/tests/test_a.py", f"{PACKAGES}/a/tests/gone.py"}
    members = environment_members({digest: path}, line, PYTHON, kept=kept)
    assert {place for place in members if "/tests/" in place} == {f"{PACKAGES}/a/tests/test_a.py"}


def test_a_console_script_called_python_is_not_written(tmp_path: Path) -> None:
    files = {"a/__init__.py": b"", "w0-1.0.dist-info/entry_points.txt": b"[console_scripts]\npython = a:main\n"}
    name, data = our_wheel()
    (tmp_path / name).write_bytes(data)
    ours = hashlib.sha256(data).hexdigest()
    digest, path, line = wheel(tmp_path, "w0", {**files, "w0-1.0.data/scripts/python": b"#!python\n"})
    lock = f"gpt-oss-appliance==0.1.0 --hash=sha256:{ours}\n{line}"
    members = environment_members({ours: tmp_path / name, digest: path}, lock, PYTHON)
    environment_files(members, "/usr/bin/python3", PYTHON, write_to=tmp_path / "release")
    assert [path.name for path in (tmp_path / "release" / "venv" / "bin").iterdir()] == ["appliance"]


def recorded(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


RECORDS = {
    "another digest": (f"a.py,{recorded(b'y')},1\n", "is not what its RECORD says"),
    "another size": (f"a.py,{recorded(b'x')},2\n", "has not the size"),
    "a file that is not listed": ("", "is not in its RECORD"),
    "a file that is not there": (f"a.py,{recorded(b'x')},1\nb.py,{recorded(b'x')},1\n", "which it does not hold"),
    "a file twice": (f"a.py,{recorded(b'x')},1\n" * 2, "names 'a.py' twice"),
    "no digest": ("a.py,,1\n", "no list of files"),
    "a weaker digest": ("a.py,md5=1B2M2Y8AsgTpgAmY7PhCfg,1\n", "no list of files"),
    "a short digest": ("a.py,sha256=AAAA,1\n", "no list of files"),
    "no base64": ("a.py,sha256=!!!!,1\n", "no list of files"),
    "no number": (f"a.py,{recorded(b'x')},x\n", "no list of files"),
    "two fields": ("a.py,\n", "no list of files"),
    "not UTF-8": ("a.py,\udcff,1\n", "no list of files"),
    "no RECORD": (None, "has no RECORD"),
}


@pytest.mark.parametrize(("record", "said"), RECORDS.values(), ids=RECORDS)
def test_a_wheel_that_differs_from_its_record_is_refused(record: str | None, said: str, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.py", b"x")
        if record is not None:
            archive.writestr("w-1.0.dist-info/RECORD", record.encode(errors="surrogateescape"))
    path = tmp_path / "w-1.0-py3-none-any.whl"
    path.write_bytes(buffer.getvalue())
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    with pytest.raises(WheelInstallError, match=said):
        environment_files(
            environment_members({digest: path}, f"w==1.0 --hash=sha256:{digest}\n", PYTHON), "/usr/bin/python3", PYTHON
        )


def test_a_wheel_with_two_files_of_one_name_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as archive:
        warnings.simplefilter("ignore")
        for data in (b"x", b"y"):
            archive.writestr("a.py", data)
        archive.writestr("w-1.0.dist-info/RECORD", f"a.py,{recorded(b'x')},1\n")
    path = tmp_path / "w-1.0-py3-none-any.whl"
    path.write_bytes(buffer.getvalue())
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    with pytest.raises(WheelInstallError, match="two files of one name"):
        environment_members({digest: path}, f"w==1.0 --hash=sha256:{digest}\n", PYTHON)


@pytest.mark.parametrize(
    "line",
    ["--index-url https://example.org", "w", "w==1.0", "w @ file:///tmp/w.whl", "-e .", "", "# comment",
     "w==1.0 --hash=md5:00", "w>=1.0 --hash=sha256:" + "0" * 64, "w==1.0 --hash=sha256:" + "0" * 64 + " --pre",
     "-r more.txt", "w[extra]==1.0 --hash=sha256:" + "0" * 64, " w==1.0 --hash=sha256:" + "0" * 64,
     "w==1.0; python_version>'3' --hash=sha256:" + "0" * 64, "w==1.* --hash=sha256:" + "0" * 64,
     "W==1.0 --hash=sha256:" + "0" * 64, "w==1.0 --hash=sha256:" + "0" * 63 + "G", "w==1.0 \\",
     "w==1.0 --hash=sha256:" + "0" * 64 + " --hash=sha256:" + "0" * 64,
     "https://example.org/w-1.0-py3-none-any.whl --hash=sha256:" + "0" * 64],
)  # fmt: skip
def test_a_line_that_is_not_a_locked_wheel_is_refused(line: str, tmp_path: Path) -> None:
    digest, path, good = wheel(tmp_path, "w", {})
    with pytest.raises(WheelInstallError, match=r"line 2: not a wheel with its version and SHA-256 hash"):
        environment_members({digest: path}, good + line + "\n", PYTHON)


def test_a_wheel_that_the_lock_names_twice_is_refused(tmp_path: Path) -> None:
    digest, path, line = wheel(tmp_path, "w", {})
    with pytest.raises(WheelInstallError, match="line 2: names w twice"):
        environment_members({digest: path}, line * 2, PYTHON)
    other = tmp_path / "w-2.0-py3-none-any.whl"
    other.write_bytes(make_wheel({}, "w-2.0.dist-info"))
    second = hashlib.sha256(other.read_bytes()).hexdigest()
    lock = f"{line}w==2.0 --hash=sha256:{second}\n"
    with pytest.raises(WheelInstallError, match="line 2: names w twice"):
        environment_members({digest: path, second: other}, lock, PYTHON)


def test_a_wheel_of_another_name_or_version_than_the_lock_s_is_refused(tmp_path: Path) -> None:
    digest, path, _ = wheel(tmp_path, "w", {})
    for named in ("other==1.0", "w==1.1"):
        with pytest.raises(WheelInstallError, match="which the lock names"):
            environment_members({digest: path}, f"{named} --hash=sha256:{digest}\n", PYTHON)
    with pytest.raises(WheelInstallError, match="no wheel with the hash"):
        environment_members({}, f"w==1.0 --hash=sha256:{digest}\n", PYTHON)


def test_a_damaged_wheel_is_refused(tmp_path: Path) -> None:
    digest, path, line = wheel(tmp_path, "w", {"a.bin": os.urandom(1000)})
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(WheelInstallError, match="is damaged"):
        environment_members({digest: path}, line, PYTHON)


def test_an_environment_is_the_same_whoever_makes_it_and_is_what_is_written(tmp_path: Path) -> None:
    """This includes compiled code, from another process with another hash seed, in another place."""
    name, data = our_wheel()
    (tmp_path / name).write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    line = f"gpt-oss-appliance==0.1.0 --hash=sha256:{digest}\n"
    members = environment_members({digest: tmp_path / name}, line, PYTHON)
    entries = environment_files(members, "/usr/bin/python3", PYTHON, write_to=tmp_path / "release")
    found = {
        str(path.relative_to(tmp_path / "release")): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (tmp_path / "release").rglob("*") if path.is_file()
    }  # fmt: skip
    assert found == {path: entry.sha256 for path, entry in entries.items()}
    assert sum(path.endswith(".pyc") for path in found) > 40
    code = f"""
from pathlib import Path
from installer.environment import environment_files
from installer.wheels import environment_members
members = environment_members({{{digest!r}: Path({str(tmp_path / name)!r})}}, {line!r}, {PYTHON!r})
for path, entry in environment_files(members, "/usr/bin/python3", {PYTHON!r}).items():
    print(entry.sha256, path)
"""
    environ = {**os.environ, "PYTHONHASHSEED": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environ, cwd=PROJECT)
    assert {line[65:]: line[:64] for line in done.stdout.splitlines()} == found


def test_compiled_code_is_what_python_runs_and_belongs_to_its_source(tmp_path: Path) -> None:
    made = compiled(f"{PACKAGES}/a.py", b"ANSWER = {'x', 'y'} and 42\n")
    assert made is not None
    path, data = made
    assert path == f"{PACKAGES}/__pycache__/a.{sys.implementation.cache_tag}.pyc"
    values: dict[str, object] = {}
    exec(marshal.loads(data[16:]), values)  # noqa: S102, S302 - made one line above
    assert values["ANSWER"] == 42
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "a.py").write_bytes(b"")
    (tmp_path / "__pycache__" / Path(path).name).write_bytes(data)
    command = [sys.executable, "-B", "-c", "import a; print(a.ANSWER)"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout == "42\n", "the source is not looked at, so both are in the manifest"
    assert compiled(f"{PACKAGES}/a/tests/test_a.py", b"") is None
    assert compiled(f"{PACKAGES}/a.so", b"") is None
    assert compiled(f"{PACKAGES}/template.py", b"print 'for Python 2'\n") is None
