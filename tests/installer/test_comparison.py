"""`diff`: what an operator must know before an upgrade, read from signed lists without reading weights."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from appliance.config import settings_by_section
from appliance.database.tables import SCHEMA
from bundler.cli import main as bundler_main
from bundler.volumes import split_archive
from installer.archive import DELTA, target_name
from installer.cli import main as installer_main
from installer.formats.about import FILE as ABOUT
from installer.formats.about import About, encode_about, parse_about
from installer.formats.advisories import FILE as ADVISORIES
from installer.formats.advisories import Advisories, Affected, Export, encode_advisories
from installer.formats.release import DESCRIPTOR, encode_release, parse_release
from installer.install import install
from installer.media.comparison import Change
from installer.media.delta import Base, Delta, encode_delta
from tests.installer.archives import NOW, Sender, listing, make_wheel, members, pack, release_files
from tests.unprivileged import SERVICE_USER, let_through

WEIGHTS = "model/cpu/weights-00001.bin"
TOTAL = 3000 + len(release_files()["model/weights-00001.bin"])
OLD_ABOUT = About("0003", {"listen.port": "8080", "engine.gone": "1", "web.workers": "1"})
NEW_ABOUT = About("0004", {"listen.port": "8443", "engine.new": "true", "web.workers": "1"})


def wheel(version: str, text: bytes = b"") -> bytes:
    info = f"thing-{version}.dist-info"
    return make_wheel({"thing.py": text, f"{info}/METADATA": b"Name: thing\n"}, info)


def old_files() -> dict[str, bytes]:
    more = {
        ABOUT: encode_about(OLD_ABOUT), WEIGHTS: b"w" * 3000, "licences/x": b"old",
        "wheels/thing-1.0-py3-none-any.whl": wheel("1.0"), "wheels/gone_thing-2.0-py3-none-any.whl": wheel("2.0"),
        "wheels/same.thing-1-py3-none-any.whl": wheel("1", b"1"),
    }  # fmt: skip
    return release_files("1.0", extra=more)


def new_files(*, title: str = "Test model") -> dict[str, bytes]:
    files = {
        name: data for name, data in old_files().items() if "gone_thing" not in name and "thing-1.0" not in name
    }  # fmt: skip
    described = parse_release(release_files("2.0")[DESCRIPTOR])
    card = replace(described.model, context_tokens=32, title=title)
    return files | {
        DESCRIPTOR: encode_release(replace(described, model=card)), ABOUT: encode_about(NEW_ABOUT),
        "licences/x": b"new", "wheels/thing-1.1-py3-none-any.whl": wheel("1.1"),
        "wheels/new_thing-3-py3-none-any.whl": wheel("3"), "wheels/same.thing-1-py3-none-any.whl": wheel("1", b"2"),
    }  # fmt: skip


@pytest.fixture(scope="module")
def sender(tmp_path_factory: pytest.TempPathFactory) -> Sender:
    return Sender.make(tmp_path_factory.mktemp("diff") / "sender")


@pytest.fixture(scope="module")
def old(sender: Sender) -> Path:
    return sender.archive(old_files(), "old", version=1)


@pytest.fixture(scope="module")
def new(sender: Sender) -> Path:
    return sender.archive(new_files(), "new", version=2)


@pytest.fixture(scope="module")
def site(old: Path, sender: Sender, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site with the old release. Tests must not change it."""
    prefix = tmp_path_factory.mktemp("diff-site") / "site"
    let_through(prefix)
    with old.open("rb") as stream:
        install(stream, sender.root, prefix, now=NOW, environ=dict(os.environ), user=SERVICE_USER)
    return prefix


def run(command: Any, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def diff_json(command: Any, *arguments: object) -> dict[str, Any]:
    done = run(command, "diff", *arguments, "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    found.pop("trusted", None)
    return found


EXPECTED = {
    "old": "test 1.0",
    "new": "test 2.0",
    "release": [Change("model.context_tokens", "16", "32"), Change("version", "1.0", "2.0")],
    "packages": [
        Change("gone-thing", "2.0", None), Change("new-thing", None, "3"),
        Change("same-thing", "1", "1"), Change("thing", "1.0", "1.1"),
    ],
    "weights": {"is_same": True, "total_bytes": TOTAL, "new_bytes": 0},
    "settings": [
        Change("engine.gone", "1", None), Change("engine.new", None, "true"), Change("listen.port", "8080", "8443"),
    ],
    "schema": Change("schema", "0003", "0004"),
}  # fmt: skip


def as_json(value: Any) -> Any:
    return json.loads(json.dumps(value, default=lambda change: vars(change)))


MENDED = Affected("pypi", "gone-thing", "2.0", None, "GHSA-1", (), "HIGH", "3.0", "Reads too much.")
STAYS = Affected("cargo", "openssl", "0.10", "thing", "GHSA-2", (), None, None, "Leaks.")
FOUND = replace(STAYS, id="GHSA-3", summary="a\nforged line\x1b[2J")


def advisories(newest: str, *affected: Affected) -> dict[str, bytes]:
    return {ADVISORIES: encode_advisories(Advisories(4, 3, (Export("osv", "0" * 64, newest),), affected))}


def test_what_changes_in_known_vulnerabilities(sender: Sender, old: Path) -> None:
    before = advisories("2026-09-01T00:00:00Z", MENDED, STAYS)
    after = advisories("2026-11-20T00:00:00Z", STAYS, FOUND)
    first = sender.archive(old_files() | before, "flaws-1", version=21)
    second = sender.archive(new_files() | after, "flaws-2", version=22)
    said = run(bundler_main, "diff", first, second, "--root", sender.root_path).stdout
    told = said[said.index("vulnerabilities: ") : said.index("other files: ")].splitlines()
    assert told[0].startswith("vulnerabilities: 3 of 4 parts compared with data of 2026-11-20 (")
    assert told[0].endswith("old); 1 with known vulnerabilities")
    assert told[1:] == [
        "  openssl 0.10 (in thing): GHSA-2, no fixed version is known: Leaks. (was known of the old release)",
        r"  openssl 0.10 (in thing): GHSA-3, no fixed version is known: a forged line\x1b[2J"
        " (not in the old release's data)",
        "  no longer: gone-thing 2.0: GHSA-1, high, fixed in 3.0: Reads too much.",
    ]
    found = diff_json(bundler_main, first, second, "--root", sender.root_path)["vulnerabilities"]
    assert [one["id"] for one in found["new"]["affected"]] == ["GHSA-2", "GHSA-3"]
    without = run(bundler_main, "diff", first, old, "--root", sender.root_path).stdout
    assert "\nvulnerabilities: the new release carries no data about them\n" in without


def test_what_changes_between_two_archives(old: Path, new: Path, sender: Sender) -> None:
    found = diff_json(bundler_main, old, new, "--root", sender.root_path)
    assert {name: found[name] for name in EXPECTED} == as_json(EXPECTED)
    assert [change["name"] for change in found["files"]] == ["licences/x"]
    said = run(bundler_main, "diff", old, new, "--root", sender.root_path).stdout
    assert "\ndatabase: schema 0003 -> 0004\n" in said
    assert "\n  thing: 1.0 -> 1.1\n" in said
    fresh = {digest for digest in map(_digest, new_files().values())} - set(map(_digest, old_files().values()))
    assert found["new_bytes"] == sum(len(d) for d in {_digest(d): d for d in new_files().values()}.values()
                                     if _digest(d) in fresh)  # fmt: skip


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_site_is_compared_like_an_archive_and_nothing_is_written(
    old: Path, new: Path, site: Path, sender: Sender, tmp_path: Path
) -> None:
    before = listing(site)
    expected = diff_json(bundler_main, old, new, "--root", sender.root_path)
    more = ["--root", sender.root_path, "--prefix", site]
    assert diff_json(installer_main, new, *more) == expected
    volumes = split_archive(new, tmp_path, 4096)
    assert diff_json(installer_main, volumes[-1], *more) == expected
    assert diff_json(bundler_main, old, volumes[0], "--root", sender.root_path) == expected
    assert listing(site) == before


def test_what_a_delta_leaves_out_is_read_from_the_other_side(
    old: Path, site: Path, sender: Sender, tmp_path: Path
) -> None:
    same = {**new_files(), ABOUT: encode_about(OLD_ABOUT)}
    whole = sender.archive(same, "same-about", version=3)
    about = _digest(same[ABOUT])
    parts = [(n, d) for n, d in members(whole.read_bytes()).items() if n != target_name(about)]  # type: ignore[arg-type]
    said = encode_delta(Delta(Base("test", "1.0", "0" * 64), (about,)))  # type: ignore[arg-type]
    (tmp_path / "delta.airgap").write_bytes(pack([*parts[:4], (DELTA, said), *parts[4:]]))
    more = ["--root", sender.root_path, "--prefix", site]
    found = diff_json(installer_main, tmp_path / "delta.airgap", *more)
    assert found == diff_json(installer_main, whole, *more)
    assert (found["settings"], found["schema"]["new"]) == ([], "0003")


def test_changed_weights_are_told_by_their_bytes(old: Path, sender: Sender) -> None:
    other = sender.archive({**new_files(), WEIGHTS: b"v" * 3000}, "weights", version=4)
    assert diff_json(bundler_main, old, other)["weights"] == {
        "is_same": False, "total_bytes": TOTAL, "new_bytes": 3000
    }  # fmt: skip
    assert f"weights: changed, 3,000 of {TOTAL:,} bytes are new" in run(bundler_main, "diff", old, other).stdout


def test_a_release_that_does_not_say_is_no_error(new: Path, sender: Sender) -> None:
    silent = sender.archive({n: d for n, d in old_files().items() if n != ABOUT}, "silent", version=5)
    found = diff_json(bundler_main, silent, new)
    assert (found["settings"], found["schema"]) == (None, None)
    assert "one of the releases does not say" in run(bundler_main, "diff", silent, new).stdout


def test_a_release_compared_with_itself_has_no_changes(old: Path) -> None:
    lines = run(bundler_main, "diff", old, old).stdout.splitlines()
    assert lines[0].startswith("not checked against a root")
    assert lines[2:] == [
        "release: no changes", "packages: no changes", f"weights: the same, {TOTAL:,} bytes", "settings: no changes",
        "database: schema 0003 in both", "vulnerabilities: the new release carries no data about them",
        "other files: no changes", "new bytes: 0",
    ]  # fmt: skip


def test_signed_text_cannot_forge_lines(old: Path, sender: Sender) -> None:
    hostile = sender.archive(new_files(title="x\nweights: the same\x1b[2J\u202e"), "hostile", version=6)
    said = run(bundler_main, "diff", old, hostile).stdout
    assert r"Test model -> x\nweights: the same\x1b[2J\u202e" in said
    assert said.count("\nweights: ") == 1


WRONG = ["a stranger's root", "a damaged file", "no release", "a pipe", "a changed release.json of the site"]


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_compared_is_one_sentence(
    case: str, new: Path, site: Path, sender: Sender, tmp_path: Path
) -> None:
    file, root, prefix = new, sender.root_path, site
    if case == "a stranger's root":
        root = Sender.make(tmp_path / "stranger").root_path
    elif case == "a damaged file":
        file = tmp_path / "damaged.airgap"
        file.write_bytes(new.read_bytes().replace(b'"engine.new"', b'"engine.mew"'))
    elif case == "no release":
        prefix = tmp_path / "none"
    elif case == "a pipe":
        file = Path("-")
    else:
        prefix = tmp_path / "site"
        subprocess.run(["cp", "-a", site, prefix], check=True)
        descriptor = prefix / "releases" / "1.0" / DESCRIPTOR
        descriptor.chmod(0o644)
        descriptor.write_bytes(descriptor.read_bytes().replace(b"Test model", b"Evil model"))
    done = run(installer_main, "diff", file, "--root", root, "--prefix", prefix)
    assert done.exit_code == 1
    assert done.stderr.startswith("installer: ")
    assert len(done.stderr.splitlines()) == 1


def test_the_appliance_says_what_it_is() -> None:
    command = [str(Path(sys.executable).with_name("appliance")), "about"]
    about = parse_about(subprocess.run([*command, "--json"], capture_output=True, check=True).stdout)
    names = {f"{section}.{key}" for section, keys in settings_by_section().items() for key in keys}
    assert about.settings.keys() == names
    assert about.schema == SCHEMA
    assert (about.settings["listen.port"], about.settings["listen.host"]) == ("8080", '"127.0.0.1"')
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"database schema {SCHEMA}\n" in said
    assert "  listen.port = 8080\n" in said


def test_reading_no_more_than_the_head_and_small_files(new: Path, sender: Sender) -> None:
    """A comparison of 13 GB reads kilobytes: the weights are never read."""
    from installer.media.contents import open_contents

    data, read = new.read_bytes(), []

    class Watched(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            read.append(range(self.tell(), self.tell() + (size or 0)))
            return super().read(size)

    contents = open_contents(Watched(data), sender.root)
    assert contents.read(ABOUT) == encode_about(NEW_ABOUT)
    place = data.index(b"w" * 3000)
    assert not any(place + 1500 in part for part in read)
