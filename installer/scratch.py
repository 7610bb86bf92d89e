"""Collects what killed commands of this project left among the temporary files of the host."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from installer.durable import remove_tree

_PREFIX = "airgap-trust-"  # made by installers before 0.2.0 while they verified metadata
OLD_S = 24 * 3600  # no command verified metadata for longer than a minute


def collect_scratch(directory: Path, now_s: float) -> tuple[Path, ...]:
    """Remove our own old directories from `directory`, and return them.

    Everybody may write there. So only a directory of this user's is taken, never a link, and only an old one: a
    younger one may belong to a command that still works. What cannot be removed stays.
    """
    removed = []
    try:
        names = sorted(name for name in os.listdir(directory) if name.startswith(_PREFIX))
    except OSError:
        return ()
    for name in names:
        path = directory / name
        try:
            status = path.lstat()
            is_ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
            if is_ours and now_s - status.st_mtime > OLD_S:
                remove_tree(path)
                removed.append(path)
        except OSError:  # it was exchanged meanwhile, or is another's after all
            continue
    return tuple(removed)
