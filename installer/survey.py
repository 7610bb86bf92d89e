"""What lies in a site, and what each part of it costs on the disk. Nothing here stops at damage: it is named.

A blob that several releases share is counted once. The own size of a release is what its removal would free.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from installer.errors import ReceiptError
from installer.prefix import kind_of
from installer.receipt import Receipt, load_receipt
from installer.site import LINKS, OURS, PASSING, Site, is_passing

_BLOCK_BYTES = 512  # the unit of st_blocks, whatever the file system
LEFT_BY_A_KILL = "left by a command that was killed; the next installer command that changes the site removes it"
NOT_OURS = "not part of the site"
_Inode = tuple[int, int]


@dataclass(frozen=True)
class ReleaseCost:
    """A directory in `releases`. ``receipt`` is None if ``fault`` says why."""

    version: str
    receipt: Receipt | None
    fault: str | None
    size_bytes: int
    own_bytes: int


@dataclass(frozen=True)
class Other:
    """Anything else that needs a word: its path in the prefix, and what it is."""

    path: str
    what: str
    size_bytes: int


@dataclass(frozen=True)
class Survey:
    """Everything that lies in a prefix."""

    releases: tuple[ReleaseCost, ...]
    others: tuple[Other, ...]
    links: tuple[str, ...]  # sentences about `current` and `previous`
    store_bytes: int
    state_bytes: int | None  # None: this user may not read all of it
    total_bytes: int


def survey_site(site: Site) -> Survey:
    """Look at everything in the prefix.

    Raises:
        OSError: the prefix or `releases` cannot be read.
    """
    releases = site.prefix / "releases"
    names = sorted(os.listdir(releases)) if releases.is_dir() else []
    trees = {name: _inodes(releases / name)[0] for name in names}
    store, _ = _inodes(site.prefix / "store")
    state, is_complete = _inodes(site.state)
    found: list[ReleaseCost] = []
    others = list(_others(site))
    for name in names:
        cost = _release(site, name, trees)
        if isinstance(cost, Other):
            others.append(cost)
        else:
            found.append(cost)
    return Survey(
        releases=tuple(found),
        others=tuple(others),
        links=tuple(_links(site)),
        store_bytes=sum(store.values()),
        state_bytes=sum(state.values()) if is_complete else None,
        total_bytes=disk_bytes(site.prefix),
    )


def disk_bytes(top: Path) -> int:
    """What everything at and below `top` takes on the disk, files with several names once."""
    return sum(_inodes(top)[0].values())


def _release(site: Site, name: str, trees: dict[str, dict[_Inode, int]]) -> ReleaseCost | Other:
    path = site.prefix / "releases" / name
    size = sum(trees[name].values())
    if is_passing(name):
        return Other(f"releases/{name}", LEFT_BY_A_KILL, size)
    try:
        receipt, fault = load_receipt(path), None
    except ReceiptError as exc:
        receipt, fault = None, str(exc)
    if receipt is None and fault is None:
        return Other(f"releases/{name}", "no installed release, because it has no receipt", size)
    elsewhere = {inode for other, tree in trees.items() if other != name for inode in tree}
    own = sum(count for inode, count in trees[name].items() if inode not in elsewhere)
    return ReleaseCost(name, receipt, fault, size, own)


def _others(site: Site) -> Iterator[Other]:
    for name in sorted(set(os.listdir(site.prefix)) - OURS - {"lost+found"}):
        size = disk_bytes(site.prefix / name)
        yield Other(name, LEFT_BY_A_KILL if name in PASSING else NOT_OURS, size)
    if site.incoming.is_dir():
        size = disk_bytes(site.incoming)
        yield Other(".incoming", "copied by an installation that was interrupted; the next one uses it", size)
    for name in ("store", "releases", "state"):
        path = site.prefix / name
        if os.path.lexists(path) and not stat.S_ISDIR(path.lstat().st_mode):
            yield Other(name, f"{kind_of(path.lstat())} in the place of a directory", 0)


def _links(site: Site) -> Iterator[str]:
    for link in LINKS:
        path = site.prefix / link
        if not os.path.lexists(path):
            continue
        version = site.named(link)
        if version is None:
            goal = f" to {os.readlink(path)}" if path.is_symlink() else ""
            yield f"{link} is {kind_of(path.lstat())}{goal} and leads to no release of this site"
        elif not os.path.lexists(site.release(version)):
            yield f"{link} leads to release {version}, which does not lie here"
        elif site.receipt(version) is None:
            yield f"{link} leads to release {version}, whose receipt cannot be used"


def _inodes(top: Path) -> tuple[dict[_Inode, int], bool]:
    """Bytes on the disk of everything at and below `top`, by inode; False if something could not be read.

    It does not recurse, because the appliance's user may nest directories in `state/` as deeply as they like.
    """
    found: dict[_Inode, int] = {}
    is_complete, waiting = True, [os.fspath(top)]
    while waiting:
        path = waiting.pop()
        try:
            status = os.lstat(path)
            found[status.st_dev, status.st_ino] = status.st_blocks * _BLOCK_BYTES
            if stat.S_ISDIR(status.st_mode):
                waiting += [os.path.join(path, name) for name in os.listdir(path)]
        except FileNotFoundError:  # it is gone since, or `top` does not exist
            continue
        except OSError:
            is_complete = False
    return found, is_complete
