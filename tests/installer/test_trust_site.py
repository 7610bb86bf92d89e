"""What a site remembers when somebody takes its memory away: real installations, and the second copies."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from securesystemslib.signer import SSlibKey

from bundler.cli import main as bundler_main
from bundler.keys import load_signers
from bundler.roots import parse_draft, root_bytes, sign_root
from installer.cli import main as installer_main
from installer.errors import OlderVersionError, RevokedKeyError, TrustLostError
from installer.install import Outcome, install
from installer.site import Site
from installer.unfollowed import prepared_below, write_below
from tests.installer.archives import Sender, listing, release_files
from tests.unprivileged import SERVICE_USER, let_through


def attempt(archive: Path, sender: Sender, prefix: Path) -> Outcome:
    let_through(prefix)
    return install(
        io.BytesIO(archive.read_bytes()), sender.root, prefix, now=datetime.now(UTC), environ=dict(os.environ),
        user=SERVICE_USER,
    )  # fmt: skip


@pytest.fixture(scope="module")
def newest(sender: Sender, release_2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site with release 2.0. Do not write to it."""
    prefix = tmp_path_factory.mktemp("trust") / "site"
    attempt(release_2, sender, prefix)
    return prefix


@pytest.fixture
def site(newest: Path, tmp_path: Path) -> Site:
    shutil.copytree(newest, tmp_path / "site", symlinks=True)
    return Site(tmp_path / "site")


def remove_copy(site: Site) -> None:
    shutil.rmtree(site.trust_copy)


def remove_kept(site: Site) -> None:
    shutil.rmtree(site.release("2.0") / "metadata")


def move_aside(site: Site) -> None:
    """What the appliance's user can do to a directory of root's: `state/` is theirs."""
    site.trust.rename(site.state / "elsewhere")
    site.trust.mkdir()


@pytest.mark.parametrize("also", [lambda s: None, remove_copy, remove_kept], ids=["state", "and trust", "and release"])
def test_an_older_archive_is_refused_although_state_trust_is_lost(
    also: Callable[[Site], None], site: Site, sender: Sender, release_1: Path, release_2: Path
) -> None:
    move_aside(site)
    also(site)
    before = listing(site.prefix)
    with pytest.raises(OlderVersionError):
        attempt(release_1, sender, site.prefix)
    assert listing(site.prefix) == before
    outcome = attempt(release_2, sender, site.prefix)
    assert "state/trust was lost or damaged" in outcome.notes[0]
    assert (site.trust / "timestamp.json").read_bytes() == (site.trust_copy / "timestamp.json").read_bytes()
    assert attempt(release_2, sender, site.prefix).notes == ()


def test_a_site_that_remembers_nothing_is_refused(site: Site, sender: Sender, release_2: Path) -> None:
    move_aside(site)
    remove_copy(site)
    remove_kept(site)
    with pytest.raises(TrustLostError):
        attempt(release_2, sender, site.prefix)


def test_an_empty_copy_of_a_new_site_is_no_loss(sender: Sender, release_2: Path, tmp_path: Path) -> None:
    """A kill while the first installation begins to remember."""
    (tmp_path / "site" / "trust" / "root_history").mkdir(parents=True)
    assert attempt(release_2, sender, tmp_path / "site").notes == ()


def test_the_copy_belongs_to_who_installs(site: Site) -> None:
    assert {path.stat().st_uid for path in site.trust_copy.rglob("*")} == {os.geteuid()}
    assert not any(path.stat().st_mode & 0o022 for path in site.trust_copy.rglob("*"))


# --- roots that travel alone ------------------------------------------------------------------------------------------


@pytest.fixture
def rotated(sender: Sender, tmp_path: Path) -> Sender:
    """The sender after a change of the targets key."""
    shutil.copytree(sender.directory / "keys", tmp_path / "sender" / "keys")
    command(bundler_main, "trust", "rotate", "--keys", tmp_path / "sender" / "keys", "--role", "targets")
    return Sender(tmp_path / "sender")


def command(main: click.Command, *words: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result


def update(site: Site, *files: Path, code: int = 0) -> Result:
    return command(installer_main, "trust", "update", *files, "--prefix", site.prefix, code=code)


@pytest.mark.parametrize("mail", [lambda d: d, lambda d: b"\xef\xbb\xbf" + d + b"\r\n"], ids=["plain", "mailed"])
def test_a_root_alone_revokes_a_key(
    mail: Callable[[bytes], bytes], site: Site, sender: Sender, rotated: Sender, release_2: Path, tmp_path: Path
) -> None:
    file = tmp_path / "root.json"
    file.write_bytes(mail(rotated.root))
    said = update(site, file).stdout
    assert "This site now has root 2." in said
    assert "release 2.0 stays installed, and is signed by key" in said
    with pytest.raises(RevokedKeyError, match="revoked by root 2"):
        attempt(release_2, sender, site.prefix)
    move_aside(site)  # the appliance's user cannot undo it
    with pytest.raises(RevokedKeyError, match="revoked by root 2"):
        attempt(release_2, sender, site.prefix)
    assert "already had root 2" in update(site, file).stdout
    shown = json.loads(command(installer_main, "trust", "show", "--prefix", site.prefix, "--json").stdout)
    assert (shown["root"], shown["roles"]["targets"]["threshold"]) == (2, 1)
    assert "Root 2, valid until" in command(installer_main, "trust", "show", "--prefix", site.prefix).stdout


def test_a_site_is_compared_with_the_revocations_that_it_has_accepted(
    site: Site, sender: Sender, rotated: Sender
) -> None:
    """The operator's root file may be older than what the site knows; it cannot make a revoked key count again."""
    verify = ("verify", "--prefix", site.prefix, "--root", sender.root_path)
    assert "as it was installed" in command(installer_main, *verify).stdout
    update(site, rotated.root_path)
    said = command(installer_main, *verify, code=1).stdout
    assert "2.0: FAIL  metadata/targets.json is signed by key" in said
    assert "and this key was revoked by root 2" in said
    remove_copy(site)
    shutil.rmtree(site.trust)
    assert command(installer_main, *verify).exit_code == 0, "nothing here says so any more"


def test_a_root_of_another_that_lies_in_the_site_takes_nothing_away(site: Site, sender: Sender, tmp_path: Path) -> None:
    """The appliance's user can write state/trust, but cannot sign a root."""
    stranger = tmp_path / "stranger.json"
    stranger.write_bytes(stranger_s(sender, tmp_path))
    shutil.copy(stranger, site.trust / "root_history" / "2.root.json")
    assert command(installer_main, "verify", "--prefix", site.prefix, "--root", sender.root_path).exit_code == 0


def test_several_roots_come_in_any_order(site: Site, rotated: Sender) -> None:
    keys = rotated.directory / "keys"
    command(bundler_main, "trust", "rotate", "--keys", keys, "--role", "root")
    update(site, keys / "root.json", keys / "1.root.json", keys / "2.root.json")
    assert (site.trust / "root_history" / "3.root.json").read_bytes() == (keys / "root.json").read_bytes()
    assert (site.trust_copy / "root_history" / "3.root.json").read_bytes() == (keys / "root.json").read_bytes()


def gap(rotated: Sender, tmp_path: Path) -> bytes:
    command(bundler_main, "trust", "expire", "--keys", rotated.directory / "keys", "--days", "9")
    return rotated.root


def stranger_s(rotated: Sender, tmp_path: Path) -> bytes:
    other = Sender.make(tmp_path / "other")
    command(bundler_main, "trust", "rotate", "--keys", other.directory / "keys", "--role", "targets")
    return other.root


def expired(rotated: Sender, tmp_path: Path) -> bytes:
    """The rotated root again, with a date in the past."""
    root = parse_draft(rotated.root)
    root.signed.expires = root.signed.expires.replace(year=2026, month=1, day=1)
    root.signatures.clear()
    sign_root(root, None, load_signers(rotated.directory / "keys"))
    return root_bytes(root)


def unsigned(rotated: Sender, tmp_path: Path) -> bytes:
    root = parse_draft(rotated.root)
    root.signatures.clear()
    return root_bytes(root)


def one_key_twice(rotated: Sender, tmp_path: Path) -> bytes:
    root = parse_draft(rotated.root)
    key = next(iter(root.signed.keys.values()))
    root.signed.keys["e" * 64] = SSlibKey("e" * 64, key.keytype, key.scheme, key.keyval)
    root.signed.roles["targets"].keyids.append("e" * 64)
    root.signatures.clear()
    sign_root(root, None, load_signers(rotated.directory / "keys"))
    return root_bytes(root)


ROOTS: dict[str, tuple[Callable[[Sender, Path], bytes], str]] = {
    "a gap": (gap, "RootUpdateError: this is root 3, and this site has root 1: give every root from 2 on"),
    "another sender's": (stranger_s, "RootUpdateError: metadata/2.root.json is not signed by enough keys of root 1"),
    "another root 1": (lambda r, t: Sender.make(t / "new").root, "RootUpdateError: this is another root 1"),
    "not signed": (unsigned, "SignatureError: the given root file is not signed by enough of its own keys"),
    "one key twice": (one_key_twice, "UnsoundRootError: the given root lists one key under two ids"),
    "not a root": (lambda r, t: b"{}", "MalformedMetadataError"),
}


@pytest.mark.parametrize("case", ROOTS)
def test_a_root_that_does_not_follow_is_refused(case: str, site: Site, rotated: Sender, tmp_path: Path) -> None:
    make, words = ROOTS[case]
    file = tmp_path / "root.json"
    file.write_bytes(make(rotated, tmp_path))
    before = listing(site.prefix)
    assert f"installer: {words}" in update(site, file, code=1).stderr
    assert listing(site.prefix) == before


def test_an_expired_root_is_accepted_and_ends_trust(
    site: Site, sender: Sender, rotated: Sender, release_2: Path, tmp_path: Path
) -> None:
    """Otherwise a root that comes too late would leave a stolen key trusted."""
    file = tmp_path / "root.json"
    file.write_bytes(expired(rotated, tmp_path))
    assert "root 2 expired on 2026-01-01, so no archive is accepted until the next root" in update(site, file).stdout
    with pytest.raises(RevokedKeyError):
        attempt(release_2, sender, site.prefix)


def test_there_is_no_root_without_a_site(tmp_path: Path, rotated: Sender) -> None:
    refused = update(Site(tmp_path / "none"), rotated.root_path, code=1)
    assert "NoReleaseError: no release is installed" in refused.stderr
    assert not (tmp_path / "none").exists()


def test_the_next_archive_brings_the_roots_along(site: Site, sender: Sender, rotated: Sender) -> None:
    archive = rotated.archive(release_files("3.0"), "release-3")
    attempt(archive, sender, site.prefix)  # the operator still has root 1
    assert json.loads((site.trust_copy / "targets.json").read_bytes())["signed"]["version"] > 2
    assert (site.trust_copy / "root_history" / "2.root.json").read_bytes() == rotated.root


# --- state/ is another user's -----------------------------------------------------------------------------------------


def link_trust(site: Site, victim: Path) -> None:
    shutil.rmtree(site.trust)
    site.trust.symlink_to(victim)


def link_history(site: Site, victim: Path) -> None:
    shutil.rmtree(site.trust / "root_history")
    (site.trust / "root_history").symlink_to(victim)


def link_new_file(site: Site, victim: Path) -> None:
    """The name under which a file was written before it got its own."""
    (site.trust / ".timestamp.json.new").symlink_to(victim / "passwd")


def link_file(site: Site, victim: Path) -> None:
    (site.trust / "timestamp.json").unlink()
    (site.trust / "timestamp.json").symlink_to(victim / "passwd")


def file_in_place(site: Site, victim: Path) -> None:
    shutil.rmtree(site.trust)
    site.trust.write_text("")


LINKS = {
    "trust is a link": link_trust,
    "root_history is a link": link_history,
    "a new file is a link": link_new_file,
    "a file is a link": link_file,
    "trust is a file": file_in_place,
}


@pytest.mark.parametrize("case", LINKS)
def test_the_installer_writes_through_no_link_of_the_appliance_s_user(case: str, site: Site, tmp_path: Path) -> None:
    """`open_site` refuses most of these; the user can still make them while an installation runs."""
    accepted = {str(p.relative_to(site.trust)): p.read_bytes() for p in site.trust.rglob("*.json")}
    assert {"timestamp.json", "root_history/1.root.json"} <= accepted.keys()
    victim = tmp_path / "etc"
    victim.mkdir()
    (victim / "passwd").write_text("root:x:0:0\n")
    before = listing(victim)
    LINKS[case](site, victim)
    site.accept_metadata(accepted)
    assert listing(victim) == before
    assert not any(path.is_symlink() for path in [site.trust, *site.trust.rglob("*")])
    assert (site.trust / "timestamp.json").read_bytes() == (site.trust_copy / "timestamp.json").read_bytes()


def test_a_directory_in_the_place_of_a_file_is_replaced(tmp_path: Path) -> None:
    """Otherwise the appliance's user could make every installation fail after it has begun to remember."""
    for name in ("timestamp.json", ".timestamp.json.new"):
        (tmp_path / "trust" / name / "inner").mkdir(parents=True)
    write_below(tmp_path, "trust/timestamp.json", b"new")
    assert listing(tmp_path).keys() == {"trust", "trust/timestamp.json"}


def test_several_files_are_written_together_or_not_at_all(tmp_path: Path) -> None:
    write_below(tmp_path, "trust/a", b"old")
    with pytest.raises(KeyError), prepared_below(tmp_path, {"trust/a": b"new", "trust/more/b": b"new"}):
        raise KeyError
    assert listing(tmp_path).keys() == {"trust", "trust/a"}
    assert (tmp_path / "trust" / "a").read_bytes() == b"old"
    with prepared_below(tmp_path, {"trust/a": b"new", "trust/more/b": b"new"}) as put_in_place:
        put_in_place()
    assert {path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == {b"new"}
    assert len(listing(tmp_path)) == 4


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write_below(tmp_path, "trust/timestamp.json", b"old")
    monkeypatch.setattr("installer.unfollowed.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_below(tmp_path, "trust/timestamp.json", b"new")
    assert [path.name for path in (tmp_path / "trust").iterdir()] == ["timestamp.json"]
    assert (tmp_path / "trust" / "timestamp.json").read_bytes() == b"old"
