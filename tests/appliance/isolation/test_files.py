"""The rules for files: what they say, what the proof finds without them, and what a host without them is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from appliance.config import init_state, load_config
from appliance.isolation import SilenceError
from appliance.isolation.files import Places, administration_rules, file_rules, loader_of, places_of
from appliance.isolation.landlock import FILES_ABI, Right, Rule, landlock_abi
from appliance.isolation.policy import Kind
from tests.conftest import require

_TRY = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from appliance.config import load_config
from appliance.isolation import SilenceError
from appliance.isolation.files import places_of
from appliance.isolation.trial import try_silence
results = {}
for name in ["", "files", "landlock"]:
    try:
        places = places_of(load_config(Path(sys.argv[1])))
        results[name] = asdict(try_silence(become=None, programs=places.kinds, places=places, leave_out=[name]))
    except SilenceError as exc:
        results[name] = str(exc)
json.dump(results, sys.stdout)
"""
WRITING = Right.WRITE_FILE | Right.MAKE_REG | Right.TRUNCATE
KINDS = [kind for kind in Kind if kind is not Kind.SUPERVISOR]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    home = tmp_path_factory.mktemp("site")
    init_state(home)
    (home / "current").mkdir()
    return places_of(load_config(home))


@pytest.fixture(scope="module")
def tried(places: Places) -> dict[str, Any]:
    """The proof with the rules, without them, and on a host without Landlock."""
    require(landlock_abi() >= FILES_ABI, "Landlock")
    command = [sys.executable, "-c", _TRY, str(places.state.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def rows(silence: dict[str, Any]) -> dict[str, str]:
    """The outcome of each row on files. The filter answers its own with EPERM, or ENOSYS in the supervisor."""
    return {
        f"{attempt['kind']}: {attempt['way']}": attempt["answer"]
        for attempt in silence["attempts"]
        if attempt["answer"] not in ("EPERM", "ENOSYS")
    }


def test_every_kind_tries_and_is_refused(tried: dict[str, Any]) -> None:
    answers = rows(tried[""])
    for kind in ("recorder", "web", "packer", "engine-cpu", "reader", "administration"):
        mine = {way: answer for way, answer in answers.items() if way.startswith(f"{kind}: ")}
        assert len(mine) >= 18, mine
        assert set(mine.values()) <= {"EACCES", "ENOENT"}


@pytest.mark.skipif("os.geteuid() != 0", reason="an ordinary user is refused some by the files' modes")
def test_a_row_is_open_when_the_rules_are_left_out(tried: dict[str, Any]) -> None:
    said = tried["files"]
    assert isinstance(said, str)
    assert "files are not closed, nothing may start" in said
    for way, answer in rows(tried[""]).items():
        assert answer == "ENOENT" or f"{way} (" in said, way


def test_a_host_without_landlock_is_told_what_an_intruder_could_do(tried: dict[str, Any]) -> None:
    (layer,) = [layer for layer in tried["landlock"]["layers"] if layer["name"].startswith("files")]
    assert not layer["in_force"]
    assert "an intruder could read the signing key" in layer["detail"]
    assert layer["remedy"]
    assert tried["landlock"]["files_abi"] == 0
    assert rows(tried["landlock"]) == {}


def covers(outer: Path, inner: Path) -> bool:
    return outer == inner or outer in inner.parents


def overlapping(rules: tuple[Rule, ...], some: Right, others: Right) -> list[tuple[Path, Path]]:
    """Pairs of places, one inside the other, where one may be used in one way and the other in the other way."""
    wanted = [(rule.path.resolve(), rule.rights) for rule in rules if rule.path.exists()]
    return [
        (one, other)
        for one, rights in wanted if rights & some
        for other, other_rights in wanted if other_rights & others
        if covers(one, other) or covers(other, one)
    ]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_that_can_be_written_can_be_executed(places: Places, kind: Kind) -> None:
    rules = file_rules(kind, places)
    assert overlapping(rules, WRITING, Right.EXECUTE) == []
    executable = {rule.path.resolve() for rule in rules if rule.rights & Right.EXECUTE}
    assert executable == {Path(sys.executable).resolve(), loader_of(Path(sys.executable)).resolve()}


@pytest.mark.parametrize("kind", KINDS)
def test_release_and_interpreter_are_never_written(places: Places, kind: Kind) -> None:
    for rule in file_rules(kind, places):
        if rule.rights & WRITING:
            for path in (places.release, *places.interpreter.code, places.state / "trust", places.state / "config"):
                assert not covers(rule.path, path), rule
                assert not covers(path, rule.path), rule


def reaches(kind: Kind, places: Places, name: str, rights: Right) -> bool:
    path = places.state / name
    return any(rule.rights & rights and covers(rule.path, path) for rule in file_rules(kind, places))


def test_only_the_recorder_reads_the_signing_key_and_writes_what_is_signed(places: Places) -> None:
    for kind in KINDS:
        assert reaches(kind, places, "signer/audit.key", Right.READ_FILE) == (kind is Kind.RECORDER)
        for name in ("audit/new", "keys/audit.pub"):
            assert reaches(kind, places, name, WRITING) == (kind is Kind.RECORDER)


def test_only_who_records_reaches_the_database_and_only_the_packer_writes_weights(places: Places) -> None:
    for kind in KINDS:
        records = kind in (Kind.RECORDER, Kind.WEB, Kind.ADMINISTRATION)
        assert reaches(kind, places, "database/appliance.sqlite3", Right.READ_FILE) == records
        assert reaches(kind, places, "packed/1", WRITING) == (kind is Kind.PACKER)


def test_devices_are_those_of_every_program(places: Places) -> None:
    devices = {"/dev/null", "/dev/zero", "/dev/full", "/dev/urandom", "/dev/random"}
    for kind in KINDS:
        found = {str(rule.path) for rule in file_rules(kind, places) if covers(Path("/dev"), rule.path)}
        nvidia = {path for path in found if path.startswith("/dev/nvidia")} if kind is Kind.ENGINE_CUDA else set[str]()
        assert found == devices | nvidia


def test_a_command_that_does_not_sign_gets_no_key(places: Places) -> None:
    rules = administration_rules(places, signs=False)
    key = places.state / "signer" / "audit.key"
    assert not any(covers(rule.path, key) and rule.rights & Right.READ_FILE for rule in rules)


def test_database_among_the_keys_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state" / "config" / "appliance.toml"
    path.parent.mkdir(parents=True)
    path.write_text(f'[record]\ndatabase_url = "sqlite:///{tmp_path}/state/log.sqlite3"\n')
    places = places_of(load_config(tmp_path))
    with pytest.raises(SilenceError, match="needs a directory apart"):
        file_rules(Kind.WEB, places)


def test_loader_is_read_from_the_program() -> None:
    loader = loader_of(Path(sys.executable))
    assert loader.name.startswith("ld-")
    assert loader_of(loader) == loader  # this program needs none


def test_what_is_no_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "script").write_text("#!/bin/sh\n")
    with pytest.raises(SilenceError, match="is not a program"):
        loader_of(tmp_path / "script")


def test_a_path_that_is_missing_allows_nothing_and_stops_nothing(tmp_path: Path) -> None:
    require(landlock_abi() >= FILES_ABI, "Landlock")
    code = f"""
from pathlib import Path
from appliance.isolation.kernel import PR_SET_NO_NEW_PRIVS, prctl
from appliance.isolation.landlock import Right, Rule, landlock_abi, restrict_program
prctl(PR_SET_NO_NEW_PRIVS, 1)
restrict_program(landlock_abi(), [Rule(Path({str(tmp_path / "absent")!r}), Right.READ_FILE)])
try:
    open({os.__file__!r})
except PermissionError:
    print("refused")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "refused\n"
