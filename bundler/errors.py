"""The one root of the bundler's errors and the subclasses a caller acts on.

The message is one plain sentence for an operator; the command line prints it as one line and exits with 1.
"""

from __future__ import annotations

import errno
from pathlib import Path

from installer.site import FULL


class BundlerError(Exception):
    """Something the person building an archive can act on."""


class CheckpointError(BundlerError):
    """A file of the checkpoint is missing, unreadable or not what the gpt-oss layout says."""

    def __init__(self, path: Path, fault: str, expected: str) -> None:
        super().__init__(f"{path}: {fault}; expected {expected}")
        self.path = path
        self.fault = fault
        self.expected = expected


class ExportError(BundlerError):
    """A graph or a checkpoint could not be written; nothing of it is left behind."""


class VocabularyError(BundlerError):
    """The vocabulary cannot be obtained, or is not the published o200k_base."""


class KeysError(BundlerError):
    """The signing keys cannot be made, read or used."""


class WheelError(BundlerError):
    """A wheel is not the locked one, cannot be obtained, or cannot be built."""


class KnownAnswersError(BundlerError):
    """The model's known answers could not be recorded."""


def why_unwritten(exc: OSError) -> str:
    """Why a large file was not written, for the middle of a sentence."""
    if exc.errno == errno.EFBIG:
        return "the disk is full, or takes no file of this size (FAT32 takes none of 4 GiB: use --volume-size 4G)"
    if exc.errno in FULL:
        return "the disk is full"
    return f"{exc.strerror} ({exc.filename})" if exc.filename else f"{exc.strerror}"


class BuildError(BundlerError):
    """The release or its archive could not be written; nothing of it is left behind."""


class SigningError(BundlerError):
    """Signatures cannot be added to this file."""
