"""Where the tests of a run by root keep their files: a directory of the run's own, in memory where there is room.

Tests make and remove some hundred thousand small files and wait for the disk after many of them. A disk that is told of
each freed block takes 3 ms to remove a file, and removing those of tests/scenarios took two minutes.

The memory is mounted for this process and its descendants alone, so it is free again when they end, however they end.
If a test failed, the files are copied to the disk, to the same path.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from appliance.isolation.kernel import syscall

_CLONE_NEWNS = 0x00020000
_LEAST_AVAILABLE_KIB = 14 << 20  # tests/scenarios keep 3.1 GB of files, and each worker takes about a gigabyte
_VARIABLE = "PYTEST_DEBUG_TEMPROOT"


@dataclass(frozen=True)
class RunDirectory:
    """The directory of a run."""

    path: Path
    is_in_memory: bool

    def end(self, *, keep: bool) -> None:
        """Remove it, or keep it to be looked at."""
        files = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        if self.is_in_memory:
            subprocess.run(["umount", "--lazy", self.path], check=True)
            if keep:
                subprocess.run(["cp", "-a", f"/proc/{os.getpid()}/fd/{files}/.", self.path], check=True)
        os.close(files)
        if not keep:
            shutil.rmtree(self.path, ignore_errors=True)


def own_temporary_directory() -> RunDirectory | None:
    """Have pytest make its directories below a directory of this run's own. All runs of root share pytest's usual one,
    and each run that begins shuts it for everybody else. None where nothing needs to be done.

    It must be called before any thread or program is started.
    """
    if os.geteuid() != 0 or _VARIABLE in os.environ:
        return None
    directory = Path(tempfile.mkdtemp(prefix="tests-"))
    is_in_memory = _available_kib() >= _LEAST_AVAILABLE_KIB and _mount_memory(directory)
    directory.chmod(0o755)
    os.environ[_VARIABLE] = str(directory)
    return RunDirectory(directory, is_in_memory)


def _mount_memory(directory: Path) -> bool:
    """False where this host forbids it."""
    try:
        syscall("unshare", _CLONE_NEWNS)
        for command in (["--make-rprivate", "/"], ["-t", "tmpfs", "tests", directory]):
            subprocess.run(["mount", *command], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def _available_kib() -> int:
    found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0
