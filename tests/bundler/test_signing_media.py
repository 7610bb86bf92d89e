"""Several people sign a delta like any archive; volumes are cut when all have signed."""

from __future__ import annotations

from pathlib import Path

import pytest

from bundler.archive import digest_tree, write_archive
from bundler.build import delta_against, read_base
from bundler.errors import BuildError
from bundler.keys import load_keys
from bundler.ledger import decide_signing
from bundler.signing import signing_file
from bundler.volumes import split_archive
from installer.errors import SignatureError, UnknownKeyError
from installer.media.source import open_media
from installer.verify import DiscardingSink, VerifiedArchive, verify_archive
from tests.bundler.test_signing import Place, bundler, group, place
from tests.installer.archives import NOW, small_files, write_tree

__all__ = ["group", "place"]  # fixtures


def build_delta(place: Place, base: Path) -> Path:
    """What `bundler build --base` does with a release that is assembled."""
    tree, out = place.directory / "tree-delta", place.directory / "delta.airgap"
    write_tree(tree, small_files("10.0"))
    digested, keys = digest_tree(tree), load_keys(place.keys)
    signing = decide_signing(keys, digested.targets, lifetime_end=NOW.replace(year=2099), version=None, now=NOW)
    delta = delta_against(read_base(base, place.root), digested)
    write_archive(out, digested, keys, signing, delta=delta)
    return out


def verify(volume: Path, place: Place) -> VerifiedArchive:
    with volume.open("rb") as pipe, open_media([volume], [], pipe=pipe, ask=None) as media:
        return verify_archive(media.stream, place.root, sink=DiscardingSink())


def test_people_sign_a_delta_here_and_elsewhere_and_then_it_is_cut(place: Place, tmp_path: Path) -> None:
    base = place.build()
    with pytest.raises((UnknownKeyError, SignatureError)):
        read_base(base, place.root)
    for name in ("alice", "bob"):
        bundler("sign", base, "--keys", place.person(name), "--yes")
    delta = build_delta(place, base)
    with pytest.raises(BuildError, match="lacks signatures"):
        split_archive(delta, tmp_path, 4096)
    elsewhere = tmp_path / signing_file(delta).name
    elsewhere.write_bytes(signing_file(delta).read_bytes())
    bundler("sign", elsewhere, "--keys", place.person("carol"), "--yes")
    bundler("sign", delta, "--signatures", elsewhere, "--keys", place.person("alice"), "--yes")
    verified = verify(split_archive(delta, tmp_path / "stick", 4096)[-1], place)
    assert verified.delta is not None
    assert (verified.delta.base.version, verified.release.version) == ("9.9", "10.0")
    assert len(verified.delta.absent) == 2
