"""checkpoint-DATE.txt: each day's last signed checkpoint as a file of its own, to be copied to media or printed.

A file is only ever replaced by a checkpoint of the same chain that is not smaller. After an acknowledged finding the
names carry the finding, so that what was signed before it stays as it was.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from appliance.audit.keys import sync_directory
from appliance.audit.note import CheckpointError, SignedCheckpoint, Verifier, verify_checkpoint
from appliance.database.transactions import as_datetime
from appliance.plain_file import read_plain


def daily_notes(audit_dir: Path) -> dict[str, str]:
    """Every file by its name, newest day last.

    Raises:
        CheckpointError: one cannot be read.
    """
    try:
        paths = sorted(audit_dir.glob("checkpoint-*.txt"))
        return {path.name: read_plain(path).decode(errors="replace") for path in paths}
    except OSError as exc:
        raise CheckpointError(f"{audit_dir}: cannot be read: {exc.strerror}") from exc


def daily_path(audit_dir: Path, checkpoint: SignedCheckpoint, chain: str) -> Path:
    """Where the checkpoint belongs."""
    after = f"-after-finding-{chain}" if chain else ""
    return audit_dir / f"checkpoint-{as_datetime(checkpoint.time_us):%Y-%m-%d}{after}.txt"


def present_checkpoint(path: Path, verifiers: list[Verifier]) -> SignedCheckpoint | None:
    """The checkpoint that the file holds now; None when there is no file.

    Raises:
        CheckpointError: none of the keys signed it.
    """
    try:
        note = read_plain(path).decode(errors="replace")
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise CheckpointError(f"{path}: cannot be read: {exc.strerror}") from exc
    for verifier in verifiers:
        try:
            return verify_checkpoint(note, verifier)
        except CheckpointError:
            continue
    raise CheckpointError(f"state/audit/{path.name} is not a checkpoint that this appliance signed")


def write_daily(path: Path, note: str) -> None:
    """Replace the file in one step, durably.

    Raises:
        CheckpointError: it cannot be written.
    """
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".checkpoint-")
        with os.fdopen(descriptor, "wb") as file:
            file.write(note.encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
        sync_directory(path.parent)
    except OSError as exc:
        raise CheckpointError(f"{path}: cannot be written: {exc.strerror}") from exc
