"""Locked wheels: only the named bytes are taken, the lock covers what the project needs, our own wheel repeats."""

from __future__ import annotations

import hashlib
import os
import sys
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from appliance.database.schema import MIGRATIONS
from bundler.commands.options import PYTHONS
from bundler.errors import WheelError
from bundler.lock import LOCKS, LockedWheel, WheelTarget, check_coverage, load_lock, parse_lock, resolve_lock
from bundler.own_wheel import build_own_wheel, project_requirements, project_root
from bundler.wheel_facts import read_wheel
from bundler.wheelhouse import collect_wheelhouse, fetch_wheels, sha256_file
from tests.installer.archives import appliance_wheel, make_wheel

TARGET = WheelTarget("3.11", "manylinux_2_28_x86_64", "cpu")
NAME, DATA = appliance_wheel()
LOCKED = LockedWheel("appliance-fixture", "1.0", hashlib.sha256(DATA).hexdigest())


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is pip's only source of wheels."""
    directory = tmp_path / "index"
    directory.mkdir()
    (directory / NAME).write_bytes(DATA)
    for name in list(os.environ):
        if name.startswith("PIP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(directory))
    return directory


def test_a_locked_wheel_is_fetched_once_and_then_taken_from_the_cache(index: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (path,) = fetch_wheels([LOCKED], TARGET, cache)
    assert path.read_bytes() == DATA
    (index / NAME).unlink()
    assert fetch_wheels([LOCKED], TARGET, cache) == [path]
    assert [p for p in cache.iterdir() if p.name.startswith(".")] == []


def test_a_wheel_with_another_hash_is_not_fetched(index: Path, tmp_path: Path) -> None:
    (index / NAME).write_bytes(DATA + b"x")
    with pytest.raises(WheelError, match="pip download failed"):
        fetch_wheels([LOCKED], TARGET, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_wheel_tampered_with_in_the_cache_is_refused(index: Path, tmp_path: Path) -> None:
    (path,) = fetch_wheels([LOCKED], TARGET, tmp_path / "cache")
    path.write_bytes(DATA + b"x")
    with pytest.raises(WheelError, match="is not the locked wheel"):
        fetch_wheels([LOCKED], TARGET, tmp_path / "cache")


def test_a_wheel_that_is_not_locked_does_not_enter_the_wheelhouse(tmp_path: Path) -> None:
    stranger = tmp_path / "stranger-1.0-py3-none-any.whl"
    stranger.write_bytes(DATA + b"x")
    own = tmp_path / NAME
    own.write_bytes(DATA)
    with pytest.raises(WheelError, match="not in the lock"):
        collect_wheelhouse(tmp_path / "wheels", [stranger], own, [LOCKED])


def test_the_wheelhouse_locks_every_wheel_by_hash(own_wheel: Path, tmp_path: Path) -> None:
    fixture = tmp_path / NAME
    fixture.write_bytes(DATA)
    wheels = tmp_path / "wheels"
    collect_wheelhouse(wheels, [fixture], own_wheel, [LOCKED])
    assert {path.name for path in wheels.iterdir()} == {NAME, own_wheel.name, "requirements.lock"}
    lines = (wheels / "requirements.lock").read_text().splitlines()
    version = own_wheel.name.split("-")[1]
    assert lines == [str(LOCKED), f"gpt-oss-appliance=={version} --hash=sha256:{sha256_file(own_wheel)}"]


def test_two_pythons_share_the_wheels_that_fit_both(tmp_path: Path) -> None:
    own, fixture = tmp_path / "ours-1.0-py3-none-any.whl", tmp_path / NAME
    own.write_bytes(b"ours")
    fixture.write_bytes(DATA)
    wheels, locks = tmp_path / "wheels", {}
    for python in ("311", "312"):
        compiled = tmp_path / python / f"fast-1.0-cp{python}-cp{python}-manylinux_2_28_x86_64.whl"
        compiled.parent.mkdir()
        compiled.write_bytes(python.encode())
        lock = [LOCKED, LockedWheel("fast", "1.0", hashlib.sha256(python.encode()).hexdigest())]
        collect_wheelhouse(wheels, [fixture, compiled], own, lock, name=f"{python}.lock")
        locks[python] = (wheels / f"{python}.lock").read_text().splitlines()
    assert len(list(wheels.glob("*.whl"))) == 4
    assert len(set(locks["311"]) & set(locks["312"])) == 2
    other = tmp_path / "other" / own.name
    other.parent.mkdir()
    other.write_bytes(b"another build of ours")
    with pytest.raises(WheelError, match="two different wheels are called ours-1"):
        collect_wheelhouse(wheels, [fixture], other, [LOCKED], name="313.lock")


def visible(directory: Path) -> list[str]:
    """What lies there, without the caches of tools that run at the same time."""
    return sorted(path.name for path in directory.iterdir() if not path.name.startswith("."))


# What a builder's environment may hold for other projects. Each of them would change the operators or the wheel.
HOSTILE = {
    "CXXFLAGS": "-O0 -DATTACK_BY_CXXFLAGS", "CFLAGS": "-O0", "CPPFLAGS": "-DATTACK", "LDFLAGS": "-Wl,-z,execstack",
    "CXX": "c++ -DATTACK_BY_CXX -O1", "CPATH": "/nonexistent", "CMAKE_ARGS": "-DCMAKE_BUILD_TYPE=Debug",
    "CMAKE_BUILD_TYPE": "Debug", "CMAKE_CXX_FLAGS": "-O0", "SKBUILD_CMAKE_ARGS": "-DCMAKE_CXX_FLAGS=-O0",
    "SKBUILD_CMAKE_BUILD_TYPE": "Debug", "SKBUILD_WHEEL_PACKAGES": "appliance", "SKBUILD_WHEEL_PY_API": "cp311",
    "PIP_CONFIG_SETTINGS": "cmake.build-type=Debug", "SOURCE_DATE_EPOCH": "1700000000", "PYTHONPATH": "/nonexistent",
}  # fmt: skip


def pip_settings(directory: Path) -> Path:
    """A pip.conf that a host may have."""
    path = directory / "pip.conf"
    path.write_text("[wheel]\nconfig-settings = cmake.build-type=Debug\n")
    return path


def test_our_own_wheel_is_the_same_bytes_whatever_the_environment_says_and_leaves_the_sources_alone(
    own_wheel: Path, tmp_path: Path
) -> None:
    before = visible(project_root())
    again = build_own_wheel(tmp_path, {**os.environ, **HOSTILE, "PIP_CONFIG_FILE": str(pip_settings(tmp_path))})
    assert again.read_bytes() == own_wheel.read_bytes()
    assert visible(project_root()) == before


def test_our_own_wheel_carries_what_the_isolated_side_runs_and_its_licence(own_wheel: Path) -> None:
    names = zipfile.ZipFile(own_wheel).namelist()
    for name in (
        "appliance/cli.py",
        "installer/cli.py",
        "webui/__init__.py",
        "appliance/kernels/libgpt_oss_kernels.so",
    ):
        assert name in names
    assert not any(name.startswith("bundler/") for name in names)
    migrations = [path.name for path in MIGRATIONS.glob("versions/*.py")]
    assert migrations
    assert all(f"appliance/database/migrations/versions/{name}" in names for name in migrations)
    assert not any(name.startswith("tests/") or "__pycache__" in name for name in names)
    assert "LICENSE" in read_wheel(own_wheel).licences


@pytest.mark.parametrize("accelerator", ["cpu", "cuda"])
@pytest.mark.parametrize("python", PYTHONS)
def test_the_committed_lock_covers_what_pyproject_demands(python: str, accelerator: str) -> None:
    target = WheelTarget(python, "manylinux_2_28_x86_64", accelerator)  # type: ignore[arg-type]
    check_coverage(load_lock(target), project_requirements(target))


@pytest.mark.parametrize("accelerator", ["cpu", "cuda"])
def test_the_committed_locks_of_all_pythons_name_the_same_versions(accelerator: str) -> None:
    first, *others = (
        [(wheel.name, wheel.version) for wheel in load_lock(WheelTarget(python, TARGET.platform, accelerator))]  # type: ignore[arg-type]
        for python in PYTHONS
    )
    assert all(other == first for other in others)


def test_a_new_lock_names_the_wheels_that_pip_chose_by_hash(index: Path) -> None:
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    text = resolve_lock(WheelTarget(running, TARGET.platform, "cpu"), ["appliance-fixture>=1"])
    assert parse_lock(text, "lock") == (LOCKED,)
    other = LockedWheel("appliance-fixture", "0.9", "0" * 64)
    with pytest.raises(WheelError, match="appliance-fixture"):
        resolve_lock(WheelTarget(running, TARGET.platform, "cpu"), ["appliance-fixture"], like=[other])


def test_a_lock_is_made_with_the_target_s_own_python() -> None:
    with pytest.raises(WheelError, match=r"must be made with Python 3\.99"):
        resolve_lock(WheelTarget("3.99", TARGET.platform, "cpu"), [])


def test_requirements_that_cannot_be_met_are_one_line(index: Path) -> None:
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    with pytest.raises(WheelError, match="appliance-fixture") as refused:
        resolve_lock(WheelTarget(running, TARGET.platform, "cpu"), ["appliance-fixture>=2"])
    assert "\n" not in str(refused.value)


def test_every_dependency_of_a_locked_version_is_locked() -> None:
    """This checks the locked versions that are also installed here."""
    lock = {wheel.name: wheel.version for wheel in load_lock(TARGET)}
    checked = 0
    for distribution in distributions():
        name = canonicalize_name(distribution.name)
        if lock.get(name) != distribution.version:
            continue
        for text in distribution.requires or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                assert canonicalize_name(requirement.name) in lock, f"{name} needs {text}"
                checked += 1
    assert checked > 0


def test_a_lock_that_misses_a_dependency_is_stale() -> None:
    lock = load_lock(TARGET)
    with pytest.raises(WheelError, match="bundler lock"):
        check_coverage(lock, [*project_requirements(TARGET), "left-pad>=1"])
    with pytest.raises(WheelError, match="bundler lock"):
        check_coverage(lock, ["flask>=999"])
    assert "pip" not in {wheel.name for wheel in lock}, "a release carries no installer of packages"


@pytest.mark.parametrize(
    "line",
    ["flask==3.1.3", "flask>=3 --hash=sha256:" + "0" * 64, "flask==3.1.3 --hash=md5:00", "-r other.txt",
     "--index-url https://example.invalid", str(LOCKED) + "\n" + str(LOCKED)],
)  # fmt: skip
def test_a_lock_line_without_version_and_sha256_is_refused(line: str) -> None:
    with pytest.raises(WheelError, match="line"):
        parse_lock(line, "lock")


def test_committed_locks_name_no_index() -> None:
    for path in LOCKS.glob("*.txt"):
        assert "://" not in path.read_text()
        assert parse_lock(path.read_text(), path.name)


def test_a_target_without_a_lock_says_how_to_make_one() -> None:
    with pytest.raises(WheelError, match="bundler lock"):
        load_lock(WheelTarget("3.13", "manylinux_2_28_aarch64", "cpu"))


def test_a_wheel_s_licences_and_facts_are_read(tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_bytes(DATA)
    facts = read_wheel(path)
    assert facts.licences == {"LICENSE": b"Apache-2.0\n"}
    assert (facts.name, facts.version) == ("appliance-fixture", "1.0")
    assert (facts.licence, facts.sha256) == ("Apache-2.0", LOCKED.sha256)
    path.write_bytes(b"PK not a wheel")
    with pytest.raises(WheelError, match="not a wheel"):
        read_wheel(path)
    path.write_bytes(make_wheel({"x.py": b""}, "x-1.dist-info"))
    with pytest.raises(WheelError, match="not a wheel"):
        read_wheel(path)
