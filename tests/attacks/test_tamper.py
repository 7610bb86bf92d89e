"""Every way we know to tamper with an archive, the error that it meets, and a site that stays untouched.

Each attack is tried on `install` against a site with a working release; afterwards the site is compared file by file.
docs/tampering.md says of each how it is refused; tests/attacks/test_tampering_page.py compares them.
"""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bundler.ledger import Signing
from bundler.sign import sign_targets
from installer.archive import (
    END_OF_ARCHIVE,
    MAX_METADATA_BYTES,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    member_header,
    root_name,
    target_name,
)
from installer.errors import (
    DigestMismatchError,
    DuplicateMemberError,
    EscapingPathError,
    ExpiredError,
    ForbiddenMemberError,
    HeaderError,
    InstallerError,
    LimitError,
    MalformedMetadataError,
    MissingMemberError,
    MixedMetadataError,
    OlderVersionError,
    SignatureError,
    TrailingBytesError,
    TruncatedArchiveError,
    UnexpectedMemberError,
    UnknownKeyError,
    VersionConflictError,
)
from installer.install import install
from installer.site import Site
from installer.targets import Target
from installer.verify import DiscardingSink, verify_archive
from tests.attacks.tampering_page import without_digests
from tests.installer.archives import NOW, Sender, listing, member_bytes, members, pack, release_files, small_files
from tests.unprivileged import SERVICE_USER, let_through

WORDS = Path(__file__).with_name("tamper_words.txt")  # `attack: words`, of the first variant of each attack
FULL_ATTEMPTS = 6  # how many variants of an attack go through a complete `install`
STRIDE = 5  # every fifth byte of a region is tried with one flipped bit, each time the next of its eight


@dataclass(frozen=True)
class Scene:
    """What an attacker has: a genuine archive, an older one, and a sender of his own. And the victim."""

    sender: Sender
    stranger: Sender
    genuine: bytes
    older: bytes
    site: Path

    @property
    def parts(self) -> list[tuple[str, bytes]]:
        return list(members(self.genuine).items())

    def without(self, name: str) -> bytes:
        return pack((n, d) for n, d in self.parts if n != name)

    def replaced(self, name: str, data: bytes) -> bytes:
        return pack((n, data if n == name else d) for n, d in self.parts)

    @property
    def blobs(self) -> list[str]:
        return [name for name, _ in self.parts if name.startswith("targets/")]

    def signed(
        self, *, sender: Sender | None = None, version: int = 50, expires: datetime = NOW + timedelta(days=9),
        path: str = "release.json",
    ) -> bytes:  # fmt: skip
        """The genuine blobs under metadata of this sender's choice."""
        blobs = [(n, d) for n, d in self.parts if n.startswith("targets/")]
        targets = [Target(p, n.split("/")[1], len(d)) for p, (n, d) in zip(_PATHS, blobs, strict=True)]  # type: ignore[arg-type]
        targets[0] = replace(targets[0], path=path)
        metadata = sign_targets((sender or self.sender).keys, targets, Signing(version, expires))
        return pack([*metadata.items(), *blobs])


_PATHS = ["release.json", "model/a", "wheels/requirements.lock"]


def flips(genuine: bytes, regions: Iterable[range]) -> Iterator[bytes]:
    """The archive with one bit flipped, for every STRIDE-th byte of the regions."""
    for region in regions:
        for position in region[::STRIDE]:
            changed = bytearray(genuine)
            changed[position] ^= 1 << (position // STRIDE % 8)
            yield bytes(changed)


def regions(archive: bytes) -> dict[str, list[range]]:
    """Byte ranges of the archive, by what they hold."""
    found: dict[str, list[range]] = {kind: [] for kind in ("metadata header", "metadata", "header", "blob", "padding")}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for info in tar:
            prefix = "metadata " if info.name.startswith("metadata/") else ""
            found[f"{prefix}header"].append(range(info.offset, info.offset_data))
            end = info.offset_data + info.size
            found["metadata" if prefix else "blob"].append(range(info.offset_data, end))
            found["padding"].append(range(end, end + -info.size % 512))
    found["end"] = [range(len(archive) - len(END_OF_ARCHIVE), len(archive))]
    return found


def odd_member(kind: bytes, name: str, link: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info.tobuf(tarfile.USTAR_FORMAT)


def in_place_of(scene: Scene, blob: int, header: bytes) -> bytes:
    """The archive with the attacker's header in place of a blob's."""
    offset = scene.genuine.index(member_header(scene.blobs[blob], len(dict(scene.parts)[scene.blobs[blob]])))
    return scene.genuine[:offset] + header + scene.genuine[offset + 512 :]


def pax(scene: Scene) -> bytes:
    body = b"30 path=../../etc/cron.d/evil\n"
    info = tarfile.TarInfo("PaxHeaders/x")
    info.type, info.size = tarfile.XHDTYPE, len(body)
    header = info.tobuf(tarfile.USTAR_FORMAT) + body + bytes(512 - len(body))
    offset = scene.genuine.index(target_name(scene.blobs[1].split("/")[1]).encode())  # type: ignore[arg-type]
    return scene.genuine[:offset] + header + scene.genuine[offset:]


def repacked(scene: Scene) -> bytes:
    """The same members as Python's tarfile writes them: right contents, other headers and padding."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in scene.parts:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def swapped(scene: Scene) -> bytes:
    *rest, one, two = scene.parts
    return pack([*rest, two, one])


def exchanged(scene: Scene) -> bytes:
    *rest, (name, data), (other_name, other_data) = scene.parts
    return pack([*rest, (name, other_data), (other_name, data)])


Attack = Callable[[Scene], bytes | Iterable[bytes]]
_METADATA_ERRORS = (MalformedMetadataError, MixedMetadataError, SignatureError, UnknownKeyError)
ATTACKS: dict[str, tuple[tuple[type[InstallerError], ...], Attack]] = {
    "one bit flipped in a metadata file's tar header": (
        (HeaderError,), lambda s: flips(s.genuine, regions(s.genuine)["metadata header"])),
    "one bit flipped in a metadata file": (
        _METADATA_ERRORS, lambda s: flips(s.genuine, regions(s.genuine)["metadata"])),
    "one bit flipped in a target's tar header": (
        (HeaderError,), lambda s: flips(s.genuine, regions(s.genuine)["header"])),
    "one bit flipped in a target": (
        (DigestMismatchError,), lambda s: flips(s.genuine, regions(s.genuine)["blob"])),
    "one bit flipped in the padding": (
        (HeaderError,), lambda s: flips(s.genuine, regions(s.genuine)["padding"])),
    "one bit flipped in the end-of-archive blocks": (
        (HeaderError,), lambda s: flips(s.genuine, regions(s.genuine)["end"])),
    "cut off, at any block and within one": (
        (TruncatedArchiveError,), lambda s: (s.genuine[:n] for n in [*range(0, len(s.genuine), 512), 1, 700, 3000])),
    "one byte after the end": ((TrailingBytesError,), lambda s: s.genuine + b"\0"),
    "padded to a tape record": ((TrailingBytesError,), lambda s: s.genuine + bytes(10240 - len(s.genuine) % 10240)),
    "a second archive appended": ((TrailingBytesError,), lambda s: s.genuine + s.genuine),
    "compressed": ((HeaderError,), lambda s: gzip.compress(s.genuine, mtime=0)),
    "repacked by another tar": ((HeaderError,), repacked),
    "a target left out": ((MissingMemberError,), lambda s: [s.without(name) for name in s.blobs]),
    "a metadata file left out": (
        (MissingMemberError,), lambda s: [s.without(n) for n in (root_name(1), TIMESTAMP, SNAPSHOT, TARGETS)]),
    "two targets in the other order": ((MissingMemberError,), swapped),
    "an extra target that is not listed": (
        (UnexpectedMemberError,), lambda s: [pack([*s.parts, ("targets/" + "0" * 64, b"x")]),
                                             pack([*s.parts[:-1], ("targets/" + "0" * 64, b"x"), s.parts[-1]])]),
    "an extra file among the metadata": (
        (UnexpectedMemberError,), lambda s: [pack([("metadata/evil.json", b"{}"), *s.parts]),
                                             pack([s.parts[0], ("metadata/evil.json", b"{}"), *s.parts[1:]])]),
    "a target twice": (
        (DuplicateMemberError,), lambda s: [pack([*s.parts, s.parts[-1]]), pack([*s.parts, s.parts[0]])]),
    "two targets with each other's contents": (
        (HeaderError,), lambda s: exchanged(s)),
    "a target of the right size with other contents": (
        (DigestMismatchError,), lambda s: s.replaced(s.blobs[0], bytes(len(dict(s.parts)[s.blobs[0]])))),
    "a target made longer": ((HeaderError,), lambda s: s.replaced(s.blobs[0], dict(s.parts)[s.blobs[0]] + b"\0")),
    "a symbolic link in place of a target": (
        (ForbiddenMemberError,), lambda s: in_place_of(s, 0, odd_member(tarfile.SYMTYPE, s.blobs[0], "/etc/passwd"))),
    "a hard link in place of a target": (
        (ForbiddenMemberError,), lambda s: in_place_of(s, 1, odd_member(tarfile.LNKTYPE, s.blobs[1], s.blobs[0]))),
    "a device, FIFO or directory in place of a target": (
        (ForbiddenMemberError,), lambda s: [in_place_of(s, 1, odd_member(kind, s.blobs[1])) for kind in
                                            (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)]),
    "a sparse file or GNU long name in place of a target": (
        (ForbiddenMemberError,), lambda s: [in_place_of(s, 1, odd_member(kind, s.blobs[1])) for kind in
                                            (tarfile.GNUTYPE_SPARSE, tarfile.GNUTYPE_LONGNAME)]),
    "a pax header that renames the next member": ((ForbiddenMemberError,), pax),
    "a member name that leaves the directory": (
        (EscapingPathError,), lambda s: [in_place_of(s, 1, member_header(name, 0)) for name in
                                         ("../../etc/cron.d/evil", "/etc/passwd", "targets/../../x")]),
    "a header claiming a metadata file of 6 GB": (
        (LimitError,), lambda s: member_header(root_name(1), 6_000_000_000) + s.genuine[512:]),
    "a metadata file just over the limit": (
        (LimitError,), lambda s: member_bytes(root_name(1), bytes(MAX_METADATA_BYTES + 1))),
    "metadata spelt differently, with valid signatures": (
        (MalformedMetadataError,), lambda s: [s.replaced(n, d.replace(b":", b": ", 1)) for n, d in s.parts[:4]]),
    "signed by a stranger's keys": ((UnknownKeyError,), lambda s: s.signed(sender=s.stranger)),
    "targets signed by a stranger, under the genuine root": (
        (MixedMetadataError, UnknownKeyError),
        lambda s: s.replaced(TARGETS, members(s.signed(sender=s.stranger))[TARGETS])),
    "rightly signed, with a path that escapes": (
        (EscapingPathError,), lambda s: [s.signed(path=p) for p in ("../../evil", "/etc/evil", "a/../../evil")]),
    "rightly signed, with a path made on the host": (
        (EscapingPathError,), lambda s: [s.signed(path=p) for p in ("venv/bin/python", "receipt.json")]),
    "rightly signed, but expired": ((ExpiredError,), lambda s: s.signed(expires=NOW - timedelta(days=1))),
    "rightly signed, but older than what the site has": ((OlderVersionError,), lambda s: s.older),
    "other contents under a version the site has": ((VersionConflictError,), lambda s: s.signed(version=5)),
    "metadata of two genuine archives mixed": (
        (MixedMetadataError, OlderVersionError),
        lambda s: [s.replaced(n, members(s.older)[n]) for n in (SNAPSHOT, TARGETS)]),
}  # fmt: skip


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    directory = tmp_path_factory.mktemp("tamper")
    sender, stranger = Sender.make(directory / "sender"), Sender.make(directory / "stranger")
    site = directory / "site"
    installed = sender.archive(release_files("1.0"), "installed", version=5)
    attempt(installed.read_bytes(), sender, site)
    genuine = sender.archive(small_files(), "genuine", version=7).read_bytes()
    older = sender.archive(small_files("0.1"), "older", version=3).read_bytes()
    return Scene(sender, stranger, genuine, older, site)


def attempt(archive: bytes, sender: Sender, site: Path) -> None:
    let_through(site)
    install(
        io.BytesIO(archive), sender.root, site, now=datetime.now(UTC), environ=dict(os.environ),
        user=SERVICE_USER,
    )  # fmt: skip


def verify_only(archive: bytes, sender: Sender, site: Path) -> None:
    """The verification that `attempt` makes, without the site around it."""
    verify_archive(io.BytesIO(archive), sender.root, sink=DiscardingSink(), trust_dir=Site(site).trust)


@pytest.mark.parametrize("attack", ATTACKS)
def test_is_refused_by_name_and_leaves_the_site_untouched(attack: str, scene: Scene, tmp_path: Path) -> None:
    errors, make = ATTACKS[attack]
    made = make(scene)
    before = listing(scene.site)
    assert {"current", "releases/1.0/receipt.json", "state/trust/timestamp.json"} <= before.keys()
    tried, first = 0, ""
    for archive in [made] if isinstance(made, bytes) else made:
        assert archive != scene.genuine
        tried += 1
        with pytest.raises(InstallerError) as refused:
            (attempt if tried <= FULL_ATTEMPTS else verify_only)(archive, scene.sender, scene.site)
        assert type(refused.value) in errors, f"{type(refused.value).__name__}: {refused.value}"
        assert "\n" not in str(refused.value)
        first = first or without_digests(str(refused.value))
    assert listing(scene.site) == before
    with pytest.raises(InstallerError):  # and a prefix that did not exist still does not
        attempt(archive, scene.sender, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    print(f"{attack}: {tried} archives refused, the first in these words:\n{attack}: {first}")
    assert first == said_of(attack)


def test_the_genuine_archive_is_not_refused_as_tampered(scene: Scene, tmp_path: Path) -> None:
    """The control: the same archive, unchanged, gets as far as asking for its wheels."""
    with pytest.raises(InstallerError, match="no wheel of the release has"):
        attempt(scene.genuine, scene.sender, tmp_path / "new")


def said_of(attack: str) -> str:
    """The words in which the first variant of an attack is refused, with ".." for digests and dates."""
    said = dict(line.split(": ", 1) for line in WORDS.read_text(encoding="utf-8").splitlines())
    return said[attack]
