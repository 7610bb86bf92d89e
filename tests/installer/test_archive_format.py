"""The reader makes one bounded pass over any stream and returns an archive or refuses by name."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from installer import archive
from installer.archive import (
    CHUNK_BYTES,
    END_OF_ARCHIVE,
    ArchiveReader,
    member_header,
    padding_bytes,
    root_name,
)
from installer.errors import ArchiveError, InstallerError, LimitError, UnexpectedMemberError
from installer.formats.release import Release
from installer.trust import VerifiedMetadata
from installer.verify import DiscardingSink, blob_order, verify_archive
from tests.installer.archives import Sender, member_bytes, members, pack


def test_a_header_is_what_stock_tar_understands_as_a_plain_file() -> None:
    info = tarfile.TarInfo.frombuf(member_header("targets/" + "a" * 64, 123), "ascii", "strict")
    assert (info.name, info.size, info.mode, info.uid, info.mtime) == ("targets/" + "a" * 64, 123, 0o644, 0, 0)
    assert info.isreg()
    assert [padding_bytes(n) for n in (0, 1, 511, 512, 513)] == [0, 511, 1, 0, 511]


def test_members_come_in_the_order_of_the_format(small: bytes, sender: Sender) -> None:
    verified = verify_archive(io.BytesIO(small), sender.root, sink=DiscardingSink())
    order = [f"targets/{digest}" for digest in blob_order(verified.metadata.targets)]
    release = next(t for t in verified.metadata.targets if t.path == "release.json")
    assert list(members(small)) == [
        "metadata/1.root.json", "metadata/timestamp.json", "metadata/snapshot.json", "metadata/targets.json", *order
    ]  # fmt: skip
    assert order[0] == f"targets/{release.sha256}"
    assert order[1:] == sorted(order[1:])


def test_an_archive_can_come_through_a_pipe(small: bytes, sender: Sender, tmp_path: Path) -> None:
    (tmp_path / "a.airgap").write_bytes(small)
    with subprocess.Popen(["cat", tmp_path / "a.airgap"], stdout=subprocess.PIPE) as source:
        assert source.stdout is not None
        verified = verify_archive(source.stdout, sender.root, sink=DiscardingSink())
    assert verified.release.version == "9.9"


def test_a_sink_gets_every_blob_once_and_no_acceptance_before_its_last_byte(small: bytes, sender: Sender) -> None:
    seen: list[str] = []

    class Recorder(DiscardingSink):
        def prepare(self, release: Release, metadata: VerifiedMetadata) -> None:
            seen.append(f"prepare {release.version}")

        def begin(self, digest: str) -> None:
            seen.append("begin")

        def write(self, chunk: bytes) -> None:
            seen.append("write")

        def accept(self) -> None:
            seen.append("accept")

    verify_archive(io.BytesIO(small), sender.root, sink=Recorder())
    once, repeated = ["begin", "write", "accept"], ["begin", "accept"]
    assert seen in (["prepare 9.9", *once, *once, *repeated], ["prepare 9.9", *once, *repeated, *once])


def test_more_roots_than_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_ROOTS", 3)
    data = pack((root_name(n), b"{}") for n in range(1, 6))
    with pytest.raises(LimitError, match="number of root"):
        ArchiveReader(io.BytesIO(data)).read_metadata()


def test_an_unlisted_member_is_named(small: bytes, sender: Sender) -> None:
    with pytest.raises(UnexpectedMemberError) as refused:
        verify_archive(
            io.BytesIO(small[: -len(END_OF_ARCHIVE)] + member_bytes("targets/evil", b"") + END_OF_ARCHIVE),
            sender.root, sink=DiscardingSink(),
        )  # fmt: skip
    assert refused.value.name == "targets/evil"


def test_media_that_cannot_be_read_is_a_refusal_that_says_where(small: bytes, sender: Sender) -> None:
    class BadDisc(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > len(small) // 2:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().read(size)

    with pytest.raises(ArchiveError, match="cannot be read from the media"):
        verify_archive(BadDisc(small), sender.root, sink=DiscardingSink())


def test_no_read_is_larger_than_a_chunk_or_a_metadata_file(small: bytes, sender: Sender) -> None:
    class Measured(io.BytesIO):
        largest = 0

        def read(self, size: int | None = -1, /) -> bytes:
            assert size is not None
            assert size >= 0
            self.largest = max(self.largest, size)
            return super().read(size)

    stream = Measured(small)
    verify_archive(stream, sender.root, sink=DiscardingSink())
    assert stream.largest <= max(CHUNK_BYTES, max(len(d) for n, d in members(small).items() if "metadata" in n))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_spliced_into_an_archive_it_is_refused_by_name(
    data: st.DataObject, small: bytes, sender: Sender
) -> None:
    start = data.draw(st.integers(0, len(small)))
    end = data.draw(st.integers(start, min(len(small), start + 1500)))
    spliced = small[:start] + data.draw(st.binary(max_size=1500)) + small[end:]
    if spliced == small:
        return
    with pytest.raises(InstallerError):
        verify_archive(io.BytesIO(spliced), sender.root, sink=DiscardingSink())


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.binary(max_size=3000))
def test_noise_is_refused_by_name(noise: bytes, sender: Sender) -> None:
    with pytest.raises(InstallerError):
        verify_archive(io.BytesIO(noise), sender.root, sink=DiscardingSink())
