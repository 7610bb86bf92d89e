"""Leaves a site, or parts of it: one release, all but a few, or everything.

A kill at any step leaves what the next command finishes: a release first gets a name that counts as unfinished, then it
is removed, then the blobs that only it used. `current` never loses its release, unless the whole site is removed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from installer.durable import remove_at, remove_tree, sync_directory
from installer.errors import NoReleaseError, PrefixError, ServedError
from installer.formats.release import VERSION_PATTERN
from installer.formats.serving import is_served, served_release
from installer.site import LINKS, Site
from installer.store import collect_garbage
from installer.survey import disk_bytes


@dataclass(frozen=True)
class Removal:
    """What was removed and what stays."""

    versions: tuple[str, ...]
    freed_bytes: int
    left: tuple[str, ...] = ()  # names in the prefix that stay, for `uninstall`


def remove_release(site: Site, version: str) -> Removal:
    """Remove one release, whatever its state, that is neither current nor served.

    Raises:
        NoReleaseError: there is none of this version, or it is the current one.
        ServedError: the appliance serves it now.
    """
    collect_garbage(site)  # what a killed removal left
    if not VERSION_PATTERN.fullmatch(version) or not os.path.lexists(site.release(version)):
        raise NoReleaseError(f"release {version} does not lie here; `installer status` shows what does")
    if version == site.named("current"):
        raise NoReleaseError(
            f"release {version} is the current one: make another one current first (`installer rollback`), or use "
            "`installer uninstall`"
        )
    _require_not_served(site, version)
    before = disk_bytes(site.prefix)
    _remove(site, version)
    return Removal((version,), before - disk_bytes(site.prefix))


def prune(site: Site, keep: int) -> Removal:
    """Remove all releases but `keep`: the current one, the previous one, then those that were installed last.

    A release without a usable receipt stays: nobody can tell when it was installed.

    Raises:
        NoReleaseError: releases lie here, and `current` leads to none of them.
        ServedError: the appliance serves one that would go.
    """
    if site.installed() and site.pointed("current") is None:
        raise NoReleaseError(
            f"{site.prefix}/current leads to no complete release, so nothing says which one to keep: make one current "
            "with `installer rollback --to VERSION`, or install its archive again"
        )
    first = [version for link in LINKS if (version := site.pointed(link)) is not None]
    others = sorted(site.installed(), key=lambda receipt: receipt.installed_at, reverse=True)
    order = list(dict.fromkeys([*first, *(receipt.version for receipt in others)]))
    going = order[max(keep, 1) :]
    for version in going:
        _require_not_served(site, version)
    before = disk_bytes(site.prefix)
    collect_garbage(site)  # what a killed removal left
    for version in going:
        _remove(site, version)
    return Removal(tuple(going), before - disk_bytes(site.prefix))


def uninstall(site: Site, *, purge: bool, before: Callable[[], None] = lambda: None) -> Removal:
    """Remove every release, the store and the links. What is not ours stays.

    Args:
        purge: remove `state/`, too, and what the site has accepted.
        before: is called when nothing stands in the way and nothing has been removed; raises to stop.
    Raises:
        ServedError: the appliance serves the site now.
        PrefixError: `state/` is mounted by itself.
    """
    if is_served(site.state):
        raise ServedError(f"the appliance serves {site.prefix} now: stop it, then run this again")
    if purge and os.path.ismount(site.state):
        raise PrefixError(f"{site.state} is a file system of its own: empty it by hand, and leave --purge out")
    before()
    taken = disk_bytes(site.prefix)
    versions = [receipt.version for receipt in site.installed()]
    if purge:  # first, so that a second run after a kill has nothing to export
        _put_aside_and_remove(site.state, site.prefix / ".state.removed")
        remove_tree(site.trust_copy)
    for link in reversed(LINKS):
        remove_tree(site.prefix / link)
    sync_directory(site.prefix)
    for name in ("releases", "store", "service", ".incoming"):
        remove_tree(site.prefix / name)
    left = tuple(sorted(os.listdir(site.prefix)))
    removed = Removal(tuple(versions), taken - disk_bytes(site.prefix), left)
    with suppress(OSError):  # something of somebody else's is in it, or the directory above is not ours
        site.prefix.rmdir()
    return removed


def _remove(site: Site, version: str) -> None:
    if site.named("previous") == version:
        remove_tree(site.prefix / "previous")
        sync_directory(site.prefix)
    _remove_packed(site, version)  # while the release is still there to be removed again after a kill
    _put_aside_and_remove(site.release(version), site.prefix / "releases" / f".{version}.removed")
    collect_garbage(site)


def _put_aside_and_remove(path: Path, aside: Path) -> None:
    remove_tree(aside)
    if os.path.lexists(path):
        path.rename(aside)
        sync_directory(path.parent)
        remove_tree(aside)


def _remove_packed(site: Site, version: str) -> None:
    """Remove the release's packed weights. The appliance's user owns `state/`, so no link in it is followed."""
    try:
        state = os.open(site.state, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        packed = os.open("packed", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=state)
    except (FileNotFoundError, NotADirectoryError):
        return
    finally:
        os.close(state)
    try:
        remove_at(packed, version)
    finally:
        os.close(packed)


def _require_not_served(site: Site, version: str) -> None:
    """A running appliance may serve another release than the current one, if it was not restarted since."""
    if not is_served(site.state):
        return
    served = served_release(site.state)
    if served == version or (served is None and version in {site.named(link) for link in LINKS}):
        raise ServedError(f"the appliance serves release {version} now: restart or stop it, then run this again")
