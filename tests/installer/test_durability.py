"""Everything is on the disk before the receipt says so: the order of writes, flushes and renames is recorded."""

from __future__ import annotations

import ctypes
import errno
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import installer.install
import installer.repair
from installer.durable import write_durably
from installer.errors import InstallerError
from installer.site import Site
from tests.installer.archives import Sender, listing
from tests.installer.sites import exchange, install_archive
from tests.installer.test_repair import CODE, rewrite, run_repair

Event = tuple[str, ...]
_WRITES = os.O_WRONLY | os.O_RDWR


def recorded(prefix: Path, work: Callable[[], object]) -> list[Event]:
    """What `work` does below the prefix, in a child process: an audit hook cannot be removed."""
    out = prefix.parent / "events.json"
    child = os.fork()
    if child == 0:
        try:
            events: list[Event] = []
            _record(str(prefix), events)
            work()
            out.write_text(json.dumps(events))
            os._exit(0)
        finally:
            os._exit(99)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    return [tuple(event) for event in json.loads(out.read_text())]


def _record(prefix: str, events: list[Event]) -> None:
    def note(kind: str, *paths: object) -> None:
        names = [os.path.abspath(os.fsdecode(path)) for path in paths if isinstance(path, str | bytes | os.PathLike)]
        if len(names) == len(paths) and any(name.startswith(prefix) for name in names):
            events.append((kind, *names))

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES:
            note("write", arguments[0])
        elif event in ("os.rename", "os.link"):
            note(event, arguments[0], arguments[1])
        elif event in ("os.mkdir", "os.remove", "os.rmdir"):
            note(event, arguments[0])

    fsync, library = os.fsync, ctypes.CDLL(None, use_errno=True)

    def recorded_fsync(descriptor: int) -> None:
        fsync(descriptor)
        note("fsync", os.readlink(f"/proc/self/fd/{descriptor}"))

    class Library:
        @staticmethod
        def syncfs(descriptor: int) -> int:
            note("syncfs", os.readlink(f"/proc/self/fd/{descriptor}"))
            return int(library.syncfs(descriptor))

    exchange(os, "fsync", recorded_fsync)
    exchange(ctypes, "CDLL", lambda *_, **__: Library)
    sys.addaudithook(hook)


def not_on_disk(events: list[Event], release: str) -> Iterator[str]:
    """Paths that a power cut could lose after the receipt of this release got its name, or that are written later."""
    dirty: set[str] = set()
    has_receipt = False
    for kind, *paths in events:
        if kind == "syncfs":
            dirty.clear()
        elif kind == "fsync":
            dirty.discard(paths[0])
        elif kind == "os.rename":
            if paths[0] in dirty:
                dirty.remove(paths[0])
                dirty.add(paths[1])
            dirty |= {os.path.dirname(paths[1])}
            if paths[1].endswith("/receipt.json"):
                has_receipt = True
                dirty.discard(os.path.dirname(paths[1]))  # flushed next, with the receipt's name
                yield from sorted(dirty)
        elif kind == "os.link":
            dirty.add(os.path.dirname(paths[1]))
        elif kind == "os.mkdir":
            dirty |= {paths[0], os.path.dirname(paths[0])}
        elif kind == "write":
            dirty |= {paths[0], os.path.dirname(paths[0])}
            if has_receipt and f"/{release}/" in paths[0] and "receipt.json" not in paths[0]:
                yield f"{paths[0]} after the receipt"
    if not has_receipt:
        yield "no receipt was written"


def test_an_installation_is_on_disk_before_its_receipt(release_1: Path, sender: Sender, tmp_path: Path) -> None:
    prefix = tmp_path / "site"
    events = recorded(prefix, functools.partial(install_archive, release_1, sender, prefix))
    assert list(not_on_disk(events, ".1.0.new")) == []
    assert ("fsync", str(prefix)) in events[-20:], "so is `current`"
    assert len([event for event in events if event[0] == "write" and "/venv/" in event[1]]) > 10


def test_a_repair_is_on_disk_before_its_receipt(site: Path, release_2: Path, sender: Sender) -> None:
    rewrite(site / "releases" / "2.0" / CODE, b"damaged")
    (site / "releases" / "2.0" / "receipt.json").unlink()
    events = recorded(site, functools.partial(run_repair, release_2, sender, site))
    assert list(not_on_disk(events, "2.0")) == []


def test_what_is_not_flushed_is_found(release_1: Path, sender: Sender, tmp_path: Path) -> None:
    """The attack: an installer that writes the packages and never flushes them."""

    def careless() -> None:
        exchange(installer.install, "sync_file_system", lambda directory: None)
        install_archive(release_1, sender, tmp_path / "site")

    lost = list(not_on_disk(recorded(tmp_path / "site", careless), ".1.0.new"))
    assert [path for path in lost if path.endswith("/venv/bin/appliance")] != []


def test_a_file_that_is_written_after_the_receipt_is_found(release_1: Path, sender: Sender, tmp_path: Path) -> None:
    def late() -> None:
        put_in_place = Site.put_in_place

        def writes_first(site: Site, version: str) -> None:
            (site.unfinished(version) / "late").write_text("")
            put_in_place(site, version)

        exchange(Site, "put_in_place", writes_first)
        install_archive(release_1, sender, tmp_path / "site")

    lost = list(not_on_disk(recorded(tmp_path / "site", late), ".1.0.new"))
    assert lost == [f"{tmp_path}/site/releases/.1.0.new/late after the receipt"]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC], ids=errno.errorcode.get)
def test_a_disk_that_cannot_flush_leaves_no_release(
    number: int, release_1: Path, sender: Sender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(directory: Path) -> None:
        raise OSError(number, os.strerror(number), str(directory))

    monkeypatch.setattr(installer.install, "sync_file_system", failing)
    with pytest.raises(InstallerError):
        install_archive(release_1, sender, tmp_path / "site")
    assert not [name for name in listing(tmp_path) if name.endswith("receipt.json") or "current" in name]


def test_a_link_under_the_name_of_the_fresh_file_is_not_written_through(tmp_path: Path) -> None:
    """Somebody who may write into the directory cannot make root write elsewhere, nor keep the file his own."""
    victim, path = tmp_path / "victim", tmp_path / "keeper"
    victim.write_bytes(b"precious")
    (tmp_path / ".keeper.new").symlink_to(victim)
    write_durably(path, b"new", mode=0o555)
    assert victim.read_bytes() == b"precious"
    assert (path.read_bytes(), path.is_symlink(), path.stat().st_mode & 0o777) == (b"new", False, 0o555)
    write_durably(path, b"newer")
    assert path.read_bytes() == b"newer"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["keeper", "victim"]
